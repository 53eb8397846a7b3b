"""Runs of an experiment: a sweep, one process per command line, and none repeated."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from gen_jax import methods, stages, sweep

ROOT = pathlib.Path(__file__).parents[1]


def resolve(line: Sequence[str]) -> Any:
    """Returns the config of a command line, whose first word is --config=<file>[:<variant>]."""
    return methods.override(methods.load(line[0].removeprefix("--config="))[2], line[1:])


def train(folder: pathlib.Path, lines: Mapping[str, Sequence[str]], command: str, parallel: int = 1) -> None:
    """Trains and judges the runs that have not finished.

    Args:
      folder: of the runs' folders, and of the ledger.
      lines: the command line of each run without --workdir, by the name of its folder.
      command: of the experiment, which continues after an interruption.
      parallel: number of runs side by side.

    Raises:
      UserError: a mistake in any of the lines, before any run; or runs failed, after all others.
      SystemExit: after a stop signal, when all runs have stopped.
    """
    trials = [sweep.Trial(name, tuple(line), stages.with_absolute_paths(resolve(line))) for name, line in lines.items()]
    for trial in trials:
        methods.check(trial.config)
    sweep.check(trials, folder)
    sweep.train_in(folder, trials, command, sweep.places(parallel))

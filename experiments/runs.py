"""Runs of an experiment: one per command line, each in a separate process, and none repeated."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from gen_jax import config as configs
from gen_jax import methods, stages
from gen_jax.method import UserError
from gen_jax.run import Run

ROOT = pathlib.Path(__file__).parents[1]


def resolve(line: Sequence[str]) -> Any:
    """Returns the config of a command line, whose first word is --config=<file>[:<variant>]."""
    return methods.override(methods.load(line[0].removeprefix("--config="))[2], line[1:])


def train(workdir: pathlib.Path, line: Sequence[str]) -> None:
    """Trains and judges one run, unless it has finished.

    Args:
      workdir: of the run.
      line: its command line without --workdir.

    Raises:
      UserError: the run failed, after printing its own message; or it has been trained for more steps.
    """
    run, resolved = Run(workdir), resolve(line)
    finished = run.finished_step or 0
    if finished > resolved.num_steps:
        raise UserError(
            f"{workdir} was trained for {finished:,} steps, but this experiment needs {resolved.num_steps:,}: delete "
            "it, or keep the runs elsewhere (--runs)"
        )
    if finished == resolved.num_steps:
        before, now = (
            stages.with_absolute_paths(each).to_dict() for each in (methods.stored(run.read_config()), resolved)
        )
        if not configs.changes(before, now):
            return
    full = [sys.executable, "-m", "gen_jax.main", *line, f"--workdir={workdir}"]
    ended = subprocess.run(full, cwd=ROOT)
    if ended.returncode:
        raise UserError(f"the run in {workdir} ended with code {ended.returncode}; the same command resumes it")

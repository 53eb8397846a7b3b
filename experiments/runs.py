"""Runs of an experiment: one per command line, each in a separate process, and none repeated."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from gen_jax import methods, sweep
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
    if sweep.is_finished(Run(workdir), resolve(line)):
        return
    full = [sys.executable, "-m", "gen_jax.main", *line, f"--workdir={workdir}"]
    ended = subprocess.run(full, cwd=ROOT)
    if ended.returncode:
        raise UserError(f"the run in {workdir} ended with code {ended.returncode}; the same command resumes it")

"""Trackers: programs that show the runs of a group in one place, such as W&B and MLflow.

A tracker gets copies: the config, the scalars, the pictures and, at the end, the page. The record of a run stays in its
directory. Calls are made by a thread of their own, so that a slow server does not hold up training; and a tracker that
fails is off from then on, with one warning, while the run goes on. The packages are extras, imported when asked for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import math
import os
import pathlib
import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from gen_jax.config import require_choice
from gen_jax.method import UserError
from gen_jax.run import Run, write_json

MOST_WAITING = 10_000  # calls that a tracker may be behind
PATIENCE = 300  # seconds that the end of a run waits for a tracker

_logger = logging.getLogger(__name__)


class Tracker(NamedTuple):
    """A run as a tracking program keeps it. Each function may take its time, and raise anything.

    Attributes:
      id: of the run there, with which a resumed run continues it.
      scalars: (step, values by name, seconds since 1970) -> None.
      picture: (step, name, PNG file) -> None.
      files: (paths) -> None, which keeps copies of these files.
      end: (finished) -> None; the run is complete, or it was stopped or has failed.
    """

    id: str
    scalars: Callable[[int, Mapping[str, float], float], None]
    picture: Callable[[int, str, pathlib.Path], None]
    files: Callable[[Iterable[pathlib.Path]], None]
    end: Callable[[bool], None]


class Kind(NamedTuple):
    """A tracking program.

    Attributes:
      package: that must be installed.
      start: (the run's directory, the id to continue or "", {dotted key: value}) -> Tracker.
    """

    package: str
    start: Callable[[pathlib.Path, str, Mapping[str, Any]], Tracker]


def _wandb(workdir: pathlib.Path, id: str, settings: Mapping[str, Any]) -> Tracker:
    import wandb  # pyright: ignore[reportMissingImports]  an extra

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "gen_jax"),
        name=workdir.name,
        dir=workdir,
        id=id or None,
        resume="allow",
        config=dict(settings),
        allow_val_change=True,  # of the keys that a resumed run may change
        settings=wandb.Settings(console="off"),  # our progress bar is no log
    )

    def files(paths: Iterable[pathlib.Path]) -> None:
        artifact = wandb.Artifact(f"run-{run.id}-report", type="report")
        for path in paths:
            artifact.add_file(str(path))
        run.log_artifact(artifact)

    return Tracker(
        run.id,
        lambda step, values, seconds: run.log(dict(values), step=step),  # a step that is repeated is left out
        lambda step, name, path: run.log({name: wandb.Image(str(path))}, step=step),
        files,
        lambda finished: run.finish(exit_code=0 if finished else 1),
    )


def _mlflow(workdir: pathlib.Path, id: str, settings: Mapping[str, Any]) -> Tracker:
    from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]  an extra
    from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]

    client = MlflowClient()
    if id:
        client.update_run(id, status="RUNNING")
    else:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "gen_jax")
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        id = client.create_run(experiment, run_name=workdir.name).info.run_id
        params = [Param(key, str(value)) for key, value in settings.items()]  # they can be written only once
        for start in range(0, len(params), 100):  # the most that a call takes
            client.log_batch(id, params=params[start : start + 100])

    def scalars(step: int, values: Mapping[str, float], seconds: float) -> None:
        names = {re.sub(r"[^\w. /:-]", "_", name): value for name, value in values.items()}  # what MLflow allows
        client.log_batch(id, [Metric(name, value, int(1000 * seconds), step) for name, value in names.items()])

    def files(paths: Iterable[pathlib.Path]) -> None:
        for path in paths:
            client.log_artifact(id, str(path))

    return Tracker(
        id,
        scalars,
        lambda step, name, path: client.log_artifact(id, str(path), f"pictures/{name}"),
        files,
        lambda finished: client.set_terminated(id, "FINISHED" if finished else "KILLED"),
    )


TRACKERS = {"wandb": Kind("wandb", _wandb), "mlflow": Kind("mlflow", _mlflow)}
"""By the names that `config.trackers` has, with commas. Where they write is up to their own environment variables, such
as WANDB_MODE and MLFLOW_TRACKING_URI."""


def names_in(value: str) -> list[str]:
    """Returns the names in `config.trackers`.

    Example:
      >>> names_in("wandb, mlflow"), names_in("")
      (['wandb', 'mlflow'], [])
    """
    return [name.strip() for name in value.split(",") if name.strip()]


def check(value: str) -> None:
    """Refuses a value of `config.trackers` before training.

    Raises:
      UserError: an unknown name, one that stands twice, or one whose package is not installed.
    """
    names = names_in(value)
    for name in names:
        require_choice("trackers", name, TRACKERS)
        if names.count(name) > 1:
            raise UserError(f"config.trackers has {name!r} more than once: leave one out")
        if importlib.util.find_spec(TRACKERS[name].package) is None:
            raise UserError(f"config.trackers names {name}, which is not installed: pip install 'gen_jax[{name}]'")


class _Thread:
    """Calls the functions of one tracker in order, until one fails."""

    def __init__(self, name: str, tracker: Tracker):
        self._name, self._tracker, self._on = name, tracker, True
        self._calls: queue.Queue[tuple[str, tuple[Any, ...]] | None] = queue.Queue(MOST_WAITING)
        # A daemon: Python can end even if a call never returns.
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def call(self, function: str, *values: Any) -> None:
        if self._on:
            try:
                self._calls.put_nowait((function, values))
            except queue.Full:
                self._fail(f"it is {MOST_WAITING:,} reports behind")

    def end(self, finished: bool) -> None:
        self.call("end", finished)
        if self._on:
            self._calls.put(None)
            self._thread.join(PATIENCE)
            if self._thread.is_alive():
                self._fail(f"it has not taken everything after {PATIENCE} seconds")

    def _work(self) -> None:
        while self._on and (call := self._calls.get()) is not None:
            function, values = call
            try:
                getattr(self._tracker, function)(*values)
            except Exception as error:
                self._fail(_reason(error))

    def _fail(self, reason: str) -> None:
        if self._on:
            self._on = False
            _warn(self._name, reason)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _warn(name: str, reason: str) -> None:
    _logger.warning("tracker %s is off from here on, while the run goes on: %s", name, reason)


class Trackers:
    """The trackers of a run, which none of these functions waits for."""

    def __init__(self, threads: Iterable[_Thread] = ()):
        self._threads = list(threads)

    def write(self, record: Mapping[str, Any]) -> None:
        """Reports a line of metrics.jsonl; values that are not finite are left out, as in TensorBoard."""
        values = {
            name: value
            for name, value in record.items()
            if name not in ("step", "time") and isinstance(value, int | float) and math.isfinite(value)
        }
        self._call("scalars", record["step"], values, record["time"])

    def pictures(self, step: int, paths: Mapping[str, pathlib.Path]) -> None:
        """Reports PNG files by name."""
        for name, path in paths.items():
            self._call("picture", step, name, path)

    def files(self, paths: Iterable[pathlib.Path]) -> None:
        """Reports files to be kept with the run."""
        self._call("files", list(paths))

    def _call(self, function: str, *values: Any) -> None:
        for thread in self._threads:
            thread.call(function, *values)


@contextlib.contextmanager
def tracking(value: str, run: Run, settings: Mapping[str, Any]) -> Iterator[Trackers]:
    """Yields the trackers of a run, and ends them with the block: as finished, unless it is left by an exception.

    Their ids are kept in the run's directory, so that a resumed run continues the same ones.

    Args:
      value: of `config.trackers`, checked.
      run: its directory.
      settings: what they show as the config, {dotted key: value}.
    """
    ids = _ids(run)
    threads = []
    for name in names_in(value):
        try:
            tracker = TRACKERS[name].start(run.workdir.absolute(), ids.get(name, ""), settings)
        except Exception as error:
            _warn(name, _reason(error))
            continue
        ids[name] = tracker.id
        write_json(run.trackers, ids)
        threads.append(_Thread(name, tracker))
    finished = False
    try:
        yield Trackers(threads)
        finished = True
    finally:
        for thread in threads:
            thread.end(finished)


def _ids(run: Run) -> dict[str, str]:
    try:
        found = json.loads(run.trackers.read_text())
        return {name: id for name, id in found.items() if isinstance(id, str)}
    except (OSError, ValueError, AttributeError):
        return {}

"""Validation during training, every `eval_every` steps.

It covers losses on held-out examples, the Frechet distance of samples (if `eval.track` is set), the frames of the
page's animations, and the best checkpoints. evaluate.py judges the trained model.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from gen_jax import best, evaluate, judges, parallel, sample
from gen_jax.checkpoint import Checkpoints
from gen_jax.config import DISTANCE
from gen_jax.data import dataset
from gen_jax.figures import samples as figures
from gen_jax.figures.grid import save_png
from gen_jax.figures.pictures import save_picture
from gen_jax.method import NUM_EXAMPLES, Figure, Method, State, stream
from gen_jax.run import Run, writing
from gen_jax.text.texts import Texts


def make(
    config: Any, method: Method, data: dataset.Dataset, mesh: jax.sharding.Mesh, texts: Texts | None = None
) -> Callable[[State], tuple[dict[str, float], Mapping[str, Figure]]]:
    """Returns state -> its scores, {"eval/loss": value, ...}, and its figures by name.

    Every process must call it; all get the same result.
    """
    losses, track = evaluate.make_losses(config, method, data, mesh), judges.make_tracker(config, data)
    gauges = None if method.gauges is None else jax.jit(method.gauges)
    generate = sample.make_generator(method, config, data.spec, mesh, texts)
    snapshots = make_snapshots(method, data)
    # Not the samples of the final evaluation: the best of many checkpoints is partly lucky with the samples it had.
    seed, asked = 2**32 - 1 - config.sample.seed, evaluate.asked(method, data.spec, config.eval.track)
    num = figures.num_shown(data.spec)
    given = evaluate.given(method, data, min(num, config.sample.num))
    num = min([num, *map(len, given.values())])

    def validate(state: State) -> tuple[dict[str, float], Mapping[str, Figure]]:
        scores = {name: value for name, (value, _) in losses(state).items()}
        if track:
            scores |= track(generate(state, config.eval.track, asked, seed)[0])
        if gauges:
            scores |= {name: float(parallel.fetch(value)) for name, value in gauges(state).items()}
        images, _ = generate(state, num, given)
        return {f"eval/{name}": value for name, value in scores.items()}, snapshots(state, images)

    return validate


def make_snapshots(method: Method, data: dataset.Dataset) -> Callable[[State, np.ndarray], Mapping[str, Figure]]:
    """Returns (state, samples) -> the figures during training by name: the first samples, and the method's own figures.

    Samples are [N, H, W, C] as `to_data` returns them; `figures.num_shown` of them are shown.
    """
    own = None if method.snapshots is None else jax.jit(method.snapshots)

    def snapshots(state: State, images: np.ndarray) -> Mapping[str, Figure]:
        num = figures.num_shown(data.spec)
        caption = f"The first {min(num, len(images)):,} samples, from the same random numbers every time."
        shown = figures.still(images[:num], data.spec, "Samples during training", caption, data.train["image"])
        return {"samples": shown, **(own(state, stream(state.key, "pictures")) if own else {})}

    return snapshots


def save_snapshots(run: Run, step: int, frames: Mapping[str, Figure], data: str) -> dict[str, pathlib.Path]:
    """Writes the figures of a step as arrays and as PNG files, and returns the latter; each names `data`, the set."""
    files = {}
    with writing(run.training):
        for name, picture in frames.items():
            path = run.training / name / f"{step:08d}.npz"
            save_picture(path, picture, data)
            # PNG files can be viewed during training.
            description = f"{name.capitalize()} at step {step} of a model trained on {data}"
            files[name] = path.with_suffix(".png")
            save_png(files[name], figures.pixels(picture), description)
    return files


def forget_snapshots(run: Run, step: int) -> None:
    """Deletes the snapshots after `step`: training repeats these steps."""
    with writing(run.training):
        for path in run.training.glob("*/*"):
            # Only names that `save_snapshots` gives: another number is a file of the user's.
            if path.stem.isdecimal() and path.stem == f"{int(path.stem):08d}" and int(path.stem) > step:
                path.unlink()


def check_best(config: Any, method: Method, abstract: State, data: dataset.Dataset) -> None:
    """Refuses to rank checkpoints by what this run does not measure: see `best.check`."""
    measured = [DISTANCE] if config.eval.track and not judges.untracked(config, data.spec) else []
    unused = config.eval.keep_best == 1 and not config.eval.patience
    if config.eval.best == DISTANCE and (measured or unused):
        return
    if method.evaluate is not None:
        rows = data.spec.abstract_batch(min(NUM_EXAMPLES, config.batch_size))
        measured += jax.eval_shape(method.evaluate, abstract, rows, abstract.key)
    best.check(config, measured)


class BestCheckpoints(contextlib.AbstractContextManager):
    """Keeps the `eval.keep_best` checkpoints that are best by `eval.best`, in addition to the last ones.

    Args:
      run: its record holds the scores up to `start`.
      start: the step from which training continues.
      about: metadata of the checkpoints; see `Checkpoints`.
      config: of the run.
    """

    def __init__(self, run: Run, start: int, about: Mapping[str, Any], config: Any):
        self._config, self._scores = config, best.scores_of(run, config, start)
        self._kept = Checkpoints(run.best, keep=sys.maxsize, about=about)
        self._kept.clean()
        self._kept.forget(after=start)
        self._keep_the_best()

    def takes(self, step: int, scores: Mapping[str, Any]) -> bool:
        """Whether `scores` are among the best so far; the same in every process."""
        rank = self._scores.add(step, scores)
        return parallel.in_any_process(rank is not None and rank < self._config.eval.keep_best)

    def save(self, state: State) -> None:
        """Returns once it is written: a run must not resume from a later step than that of an incomplete best one."""
        self._kept.save(state)
        self._kept.wait()
        self._keep_the_best()

    def stopped_early(self, step: int) -> str:
        """Returns why training ends at this step, or "": see `best.stopped_early`; the same in every process."""
        reason = best.stopped_early(self._config, self._scores, step)
        return reason if parallel.in_any_process(bool(reason)) else ""

    def _keep_the_best(self) -> None:
        place = {step: rank for rank, step in enumerate(self._scores.ranked)}
        steps = sorted(self._kept.written(), key=lambda step: (place.get(step, len(place)), -step))
        for step in steps[self._config.eval.keep_best :]:
            self._kept.remove(step)

    def __exit__(self, *_: object) -> None:
        self._kept.close()

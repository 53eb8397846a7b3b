"""Validation during training, every `eval_every` steps.

It covers losses on held-out examples, the Frechet distance of samples (if `eval.track` is set), the frames of the
page's animations, and the best checkpoint. evaluate.py judges the trained model.
"""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from gen_jax import evaluate, judges, parallel, sample
from gen_jax.checkpoint import Checkpoints
from gen_jax.data import dataset
from gen_jax.figures import samples as figures
from gen_jax.figures.grid import save_png
from gen_jax.figures.pictures import save_picture
from gen_jax.method import Figure, Method, State, stream
from gen_jax.run import Run, writing
from gen_jax.text.texts import Texts
from gen_jax.writers import read_metrics


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


class BestCheckpoint(contextlib.AbstractContextManager):
    """Keeps the checkpoint whose samples had the smallest Frechet distance, in addition to the last ones.

    Args:
      run: its record holds the scores up to `start`.
      start: the step from which training continues.
      about: metadata of the checkpoint; see `Checkpoints`.
    """

    def __init__(self, run: Run, start: int, about: Mapping[str, Any]):
        self._kept = Checkpoints(run.best, keep=1, about=about)
        self._kept.clean()
        self._kept.forget(after=start)
        self._smallest: dict[str, float] = {}
        for record in read_metrics(run.workdir):
            if record["step"] <= start:
                self._is_smallest(record)

    def takes(self, scores: Mapping[str, Any]) -> bool:
        """Whether `scores` contains a distance that is the smallest so far; the same in every process."""
        return parallel.in_any_process(self._is_smallest(scores))

    def _is_smallest(self, scores: Mapping[str, Any]) -> bool:
        better = False
        for name, value in scores.items():
            if not name.startswith("eval/frechet_distance/") or value is None:  # the file stores NaN as null
                continue
            if value < self._smallest.get(name, math.inf):
                self._smallest[name], better = value, True
        return better

    def save(self, state: State) -> None:
        """Returns once it is written: a run must not resume from a later step than that of an incomplete best one."""
        self._kept.save(state)
        self._kept.wait()

    def __exit__(self, *_: object) -> None:
        self._kept.close()

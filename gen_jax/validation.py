"""What is measured, drawn and kept of a model while it is trained, every `eval_every` steps.

Losses over held-out examples, the Frechet distance of samples where `eval.track` asks for it, the figures that the
page moves through, and the best checkpoint. How a trained model is judged stands in evaluate.py.
"""

from __future__ import annotations

import contextlib
import math
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
from gen_jax.writers import read_metrics


def make(
    config: Any, method: Method, data: dataset.Dataset, mesh: jax.sharding.Mesh
) -> Callable[[State], tuple[dict[str, float], Mapping[str, Figure]]]:
    """Returns state -> what is measured of it, {"eval/loss": value, ...}, and what is drawn of it, by name.

    Every process calls it; all get the same.
    """
    losses, track = evaluate.make_losses(config, method, data, mesh), judges.make_tracker(config, data)
    generate, snapshots = sample.make_generator(method, config, data.spec, mesh), make_snapshots(method, data)
    # Other samples than those that the run is judged by at its end: the best of many looks has had some luck with its.
    seed, given = 2**32 - 1 - config.sample.seed, evaluate.asked(method, data.spec, config.eval.track)

    def validate(state: State) -> tuple[dict[str, float], Mapping[str, Figure]]:
        scores = {name: value for name, (value, _) in losses(state).items()}
        if track:
            scores |= track(generate(state, config.eval.track, given, seed)[0])
        images, _ = generate(state, figures.num_shown(data.spec))
        return {f"eval/{name}": value for name, value in scores.items()}, snapshots(state, images)

    return validate


def make_snapshots(method: Method, data: dataset.Dataset) -> Callable[[State, np.ndarray], Mapping[str, Figure]]:
    """Returns (state, samples) -> what is drawn during training, by name: the first samples, and the method's own.

    Samples are [N, H, W, C] as `to_data` gives them, with N at least `figures.num_shown`.
    """
    own = None if method.snapshots is None else jax.jit(method.snapshots)

    def snapshots(state: State, images: np.ndarray) -> Mapping[str, Figure]:
        num = figures.num_shown(data.spec)
        caption = f"The first {num:,} samples, made of the same random numbers each time."
        shown = figures.still(images[:num], data.spec, "Samples during training", caption, data.train["image"])
        return {"samples": shown, **(own(state, stream(state.key, "pictures")) if own else {})}

    return snapshots


def save_snapshots(run: Run, step: int, frames: Mapping[str, Figure], data: str) -> None:
    """Writes what is drawn at a step, and pictures of it; each names `data`, the set that is trained on."""
    with writing(run.training):
        for name, picture in frames.items():
            path = run.training / name / f"{step:08d}.npz"
            save_picture(path, picture, data)
            # To be looked at while the run goes on.
            description = f"{name.capitalize()} at step {step} of a model trained on {data}"
            save_png(path.with_suffix(".png"), figures.pixels(picture), description)


def forget_snapshots(run: Run, step: int) -> None:
    """Deletes those of steps after `step`, which training takes again."""
    with writing(run.training):
        for path in run.training.glob("*/*"):
            if path.stem.isdecimal() and int(path.stem) > step:
                path.unlink()


class BestCheckpoint(contextlib.AbstractContextManager):
    """Keeps the checkpoint whose samples had the smallest Frechet distance, beside the last ones.

    Args:
      run: what was measured before `start` stands in its record.
      start: the step that training goes on from.
      about: what the checkpoint says of itself; see `Checkpoints`.
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
        """Whether the distance among `scores`, if there is any, is the smallest so far; the same in every process."""
        return parallel.in_any_process(self._is_smallest(scores))

    def _is_smallest(self, scores: Mapping[str, Any]) -> bool:
        better = False
        for name, value in scores.items():
            if not name.startswith("eval/frechet_distance/") or value is None:  # as a NaN is in the file
                continue
            if value < self._smallest.get(name, math.inf):
                self._smallest[name], better = value, True
        return better

    def save(self, state: State) -> None:
        """Returns when it is written: a run must not go on from a later step than that of a best that was cut short."""
        self._kept.save(state)
        self._kept.wait()

    def __exit__(self, *_: object) -> None:
        self._kept.close()

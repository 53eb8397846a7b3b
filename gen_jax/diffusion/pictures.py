"""Pictures of a diffusion model for the report: its forward and reverse process, and guidance."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion import sampler as samplers
from gen_jax.diffusion.schedule import Path, Schedule, add_noise
from gen_jax.method import Array, Picture, Scatter, to_pixels

NUM_STRIP = 9  # pictures along a process
NUM_FRAMES = 41  # of an animation
NUM_POINTS = 1000  # in the animation of points


def forward(x0: Array, eps: Array, path: Path, described: str, shown: Callable[[Array], Array]) -> Picture:
    """Returns one image and its noisy versions.

    Args:
      x0: f32 [H, W, C], the clean image.
      eps: f32 [H, W, C], the noise, the same for all versions.
      path: the path that the model was trained on.
      described: the name of the path in words.
      shown: from [N, H, W, C] to images in [-1, 1].
    """
    times = _times(path)
    shape = (len(times), *x0.shape)
    x_t = add_noise(jnp.broadcast_to(x0, shape), jnp.broadcast_to(eps, shape), path.level(jnp.asarray(times)))
    return Picture(
        to_pixels(shown(jnp.concatenate([x0[None], x_t]))),
        title="Forward process",
        caption="One image of the data and its noisy versions x_t = alpha_t x0 + sigma_t eps, all with the same eps, "
        f"for the {described}.",
        kind="strip",
        labels=("x0", *(f"t = {t:.4g}" for t in times)),
    )


def _times(path: Path) -> np.ndarray:
    """The times of a strip, from the first to the last."""
    if isinstance(path, Schedule):
        return _spread(path.num_steps, NUM_STRIP - 1)
    return np.linspace(1, NUM_STRIP - 1, NUM_STRIP - 1, dtype=np.float32) / (NUM_STRIP - 1)


def reverse(
    denoise: samplers.Denoiser,
    path: Path,
    sampler: samplers.Sampler,
    steps: np.ndarray,
    keys: Array,
    shape: tuple[int, ...],
    described: str,
    shown: Callable[[Array], Array],
) -> dict[str, Picture]:
    """Returns the reverse process from noise to samples: strips of x_t and x0_hat of the first image, and an animation.

    Args:
      denoise, path, sampler, steps, shape: as for `sampler.sample`.
      keys: one per image.
      described: the sampler in words.
      shown: from [N, H, W, C] to images in [-1, 1].
    """
    kept = _spread(len(steps), NUM_FRAMES - 1)
    way = samplers.trajectory(denoise, path, sampler, steps, keys, shape, keep=kept)
    x_t = jnp.concatenate([way.x_t, way.x0[None]])  # [F, N, H, W, C]: from pure noise to the samples
    image = shown(way.x0[:1])
    names = (*(f"t = {steps[i]:.4g}" for i in kept), "sample")
    strip, believed = _spread(len(names), NUM_STRIP), _spread(len(kept), NUM_STRIP)
    return {
        "reverse": Picture(
            to_pixels(shown(x_t[strip, 0])),
            title="Reverse process",
            caption=f"From pure noise to a sample in {described}.",
            kind="strip",
            labels=tuple(names[i] for i in strip),
        ),
        "reverse_animation": Picture(
            to_pixels(shown(x_t.reshape(-1, *shape)).reshape(*x_t.shape[:2], *image.shape[1:])),
            title="Reverse process, step by step",
            caption=f"{len(keys)} images at once, {described}.",
            kind="animation",
            labels=names,
        ),
        "x0_hat": Picture(
            to_pixels(shown(way.x0_hat[believed, 0])),
            title="Estimates of the clean image",
            caption="The network's estimates x0_hat of the same clean image along the way: close to the mean of all "
            "data at first, then increasingly detailed.",
            kind="strip",
            labels=tuple(names[i] for i in believed),
        ),
    }


def reverse_of_points(x: Array, data: Array, steps: np.ndarray, described: str) -> Scatter:
    """Returns the reverse process of points in the plane as an animation, before those of the data.

    Args:
      x: f32 [S + 1, N, 1, 1, 2], the points at each step, and the samples.
      data: f32 [M, 1, 1, 2].
      steps: the S times.
      described: the sampler in words.
    """
    frames = _spread(len(x), NUM_FRAMES)
    names = (*(f"t = {t:.4g}" for t in steps), "sample")
    return Scatter(
        x[frames].reshape(len(frames), -1, 2),
        None,
        data.reshape(-1, 2),
        title="Reverse process",
        caption=f"{x.shape[1]:,} points from noise to samples in {described}.",
        names=("sample",),
        axes=("x", "y"),
        background_name="data",
        labels=tuple(names[i] for i in frames),
    )


def guidance(image_of: Callable[[float], Array], scales: tuple[float, ...], classes: tuple[str, ...]) -> Picture:
    """Returns samples from the same noise with several guidance scales, one row per scale.

    Args:
      image_of: from a scale to images f32 [N, H, W, C] in [-1, 1], one per class.
      scales: of the rows.
      classes: names of the columns.
    """
    rows = [to_pixels(image_of(scale)) for scale in scales]
    told = ", ".join(f"{scale:g}" for scale in scales)
    return Picture(
        jnp.concatenate(rows),
        title="Guidance",
        caption=f"One class per column ({', '.join(classes)}), the same noise in all rows; guidance scales from top to "
        f"bottom: {told}. Scale 0 ignores the class, 1 is the conditional model, and larger scales exaggerate what "
        "distinguishes a class.",
        columns=len(classes),
    )


def _spread(count: int, most: int) -> np.ndarray:
    """At most `most` evenly spaced positions of 0..count-1, including both ends."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int32)

"""What a report shows of a diffusion model: pictures along its two processes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion import sampler as samplers
from gen_jax.diffusion.schedule import Schedule, add_noise
from gen_jax.method import Array, Picture, to_pixels

NUM_STRIP = 9  # pictures along a process
NUM_FRAMES = 41  # of an animation


def forward(x0: Array, eps: Array, schedule: Schedule, described: str) -> Picture:
    """Returns one image and its noisy versions.

    Args:
      x0: f32 [H, W, C] in [-1, 1].
      eps: f32 [H, W, C], the noise of all of them.
      schedule: that the model was trained under.
      described: its name in words.
    """
    times = _spread(schedule.num_steps, NUM_STRIP - 1)
    shape = (len(times), *x0.shape)
    x_t = add_noise(jnp.broadcast_to(x0, shape), jnp.broadcast_to(eps, shape), schedule.level(jnp.asarray(times)))
    return Picture(
        to_pixels(jnp.concatenate([x0[None], x_t])),
        title="Forward process",
        caption="One image of the data and its noisy versions x_t = alpha_t x0 + sigma_t eps, with the same eps "
        f"throughout, under the {described}.",
        kind="strip",
        labels=("x0", *(f"t = {t}" for t in times)),
    )


def reverse(
    denoise: samplers.Denoiser,
    schedule: Schedule,
    sampler: samplers.Sampler,
    steps: np.ndarray,
    keys: Array,
    shape: tuple[int, ...],
    described: str,
) -> dict[str, Picture]:
    """Returns the way from noise to samples: a strip of x_t and one of x0_hat for the first image, and an animation.

    Args:
      denoise, schedule, sampler, steps, shape: as `sampler.sample` takes them.
      keys: one an image.
      described: the sampler in words.
    """
    kept = _spread(len(steps), NUM_FRAMES - 1)
    way = samplers.trajectory(denoise, schedule, sampler, steps, keys, shape, keep=kept)
    x_t = jnp.concatenate([way.x_t, way.x0[None]])  # [F, N, H, W, C]: from pure noise to the samples
    names = (*(f"t = {steps[i]}" for i in kept), "sample")
    strip, believed = _spread(len(names), NUM_STRIP), _spread(len(kept), NUM_STRIP)
    return {
        "reverse": Picture(
            to_pixels(x_t[strip, 0]),
            title="Reverse process",
            caption=f"From pure noise to a sample in {described}.",
            kind="strip",
            labels=tuple(names[i] for i in strip),
        ),
        "reverse_animation": Picture(
            to_pixels(x_t),
            title="Reverse process, step by step",
            caption=f"{len(keys)} images at once, {described}.",
            kind="animation",
            labels=names,
        ),
        "x0_hat": Picture(
            to_pixels(way.x0_hat[believed, 0]),
            title="What the network believes",
            caption="The estimate x0_hat of the same clean image on the way: first the mean of all data, then ever "
            "more certain.",
            kind="strip",
            labels=tuple(names[i] for i in believed),
        ),
    }


def _spread(count: int, most: int) -> np.ndarray:
    """At most `most` of the positions 0..count-1, both ends among them, evenly spaced."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int32)

"""Steps of models that reach clean data in one to a few network calls; they need such a model.

`average` is for MeanFlow, whose network is told where a step ends. `renoise` is for consistency models, whose x0_hat is
a sample rather than a mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion import guidance
from gen_jax.diffusion.sampler import Denoiser, Row, Sampler, pairs
from gen_jax.diffusion.schedule import Level, Path
from gen_jax.diffusion.solvers import Transition, ddim
from gen_jax.method import Array, PyTree, broadcast_to_images


def average() -> Sampler:
    """Returns the sampler of MeanFlow (Geng et al. 2025, eq. 12): x_s = x_t - (t - s) w(x_t, s, t), one call per step.

    w is the average velocity from t to s. It is DDIM's step with the x0_hat of that velocity, which leads to clean data
    in a straight line. One step gives a sample, as do more.
    """

    def step(carry: PyTree, x_t: Array, denoise: Denoiser, row: Row, noise: Array | None):
        x0_hat, plan = denoise(x_t, row.t, row.s), row.plan
        return carry, plan.of_x_t * x_t + plan.of_x0 * x0_hat, x0_hat

    return Sampler(ddim().plan, lambda x_T: (), step, noisy=False, jumps=True)


def renoise() -> Sampler:
    """Returns the sampler of consistency models (Song et al. 2023, algorithm 1): x_s = alpha_s x0_hat + sigma_s noise.

    One step is x0_hat of pure noise. Each further step adds fresh noise to a sample and maps it back to the data.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> path = schedule.straight()
      >>> plan = renoise().plan(path.path([1.0, 0.25]), path)
      >>> plan.of_x0.tolist(), plan.of_noise.tolist()
      ([0.75, 1.0], [0.25, 0.0])
    """

    def plan(levels: Level, path: Path) -> Transition:
        _, s = pairs(levels)
        return Transition(np.zeros_like(s.alpha), s.alpha, s.sigma)

    def step(carry: PyTree, x_t: Array, denoise: Denoiser, row: Row, noise: Array | None):
        x0_hat, plan = denoise(x_t, row.t), row.plan
        return carry, plan.of_x0 * x0_hat + plan.of_noise * noise, x0_hat

    return Sampler(plan, lambda x_T: (), step, noisy=True)


SAMPLERS: dict[str, Callable[..., Sampler]] = {"average": average, "renoise": renoise}


def in_range_at_the_end(denoise: Denoiser, c: Any) -> Denoiser:
    """Returns a denoiser of steps with an end, kept in the range of the data as `config.sample` says.

    Only where a step ends in clean data: elsewhere x0_hat only gives the direction of the step, and may lie outside.
    """
    limit = guidance.kept_in_range(lambda x0_hat, level: x0_hat, c)

    def denoise_kept(x_t: Array, level: Level, end: Level) -> Array:
        x0_hat = denoise(x_t, level, end)
        return jnp.where(broadcast_to_images(end.sigma == 0, x0_hat), limit(x0_hat, level), x0_hat)

    return denoise_kept

"""The chain of a denoising diffusion GAN (Xiao et al. 2022): few large steps of noise, and the way back of each.

Times t are 0..T-1; s is the next, cleaner level, and clean data below t = 0, as in `diffusion.sampler`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion import solvers
from gen_jax.diffusion.sampler import pairs
from gen_jax.diffusion.schedule import Schedule, from_betas, variance_preserving
from gen_jax.method import Array, UserError, broadcast_to_images

EARLIEST = 1e-3  # time at which the first step starts: the released code, which calls this level clean data
MOST_STEPS = 1000


def denoising_schedule(num_steps: int = 4, beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """Returns the variance-preserving path in `num_steps` equal parts of its time, as a table.

    alpha_bar at u = 1/T .. 1, each moved to u (1 - 0.001) + 0.001, relative to that at 0.001 (the released code).

    Args:
      num_steps: T, 4 in the paper.
      beta_min: rate at which noise is added at time 0.
      beta_max: that at time 1.

    Raises:
      UserError: no steps, too many, or rates that are not 0 < beta_min <= beta_max.

    Example:
      >>> denoising_schedule().alpha_bar.round(5).tolist()
      [0.52174, 0.07868, 0.00343, 4e-05]
    """
    if not 1 <= num_steps <= MOST_STEPS:
        raise UserError(f"config.gan.denoising_steps is {num_steps}; it must be in 1..{MOST_STEPS}")
    if not 0 < beta_min <= beta_max:
        raise UserError(
            f"config.gan.beta_min is {beta_min} and beta_max is {beta_max}; they must satisfy 0 < beta_min <= beta_max"
        )
    u = np.arange(num_steps + 1) / num_steps * (1 - EARLIEST) + EARLIEST
    alpha = variance_preserving(beta_min, beta_max).alpha(u)
    return from_betas("denoising", 1 - (alpha[1:] / alpha[:-1]) ** 2)


class Chain(NamedTuple):
    """The coefficients of all steps between x_s and x_t: leaves f32 [T], by t.

    Attributes:
      alpha_s, sigma_s: x_s = alpha_s x0 + sigma_s eps.
      kept, added: x_t = kept x_s + added eps.
      of_x0: the weight of x0 in the mean of q(x_s | x_t, x0).
    """

    alpha_s: Array
    sigma_s: Array
    kept: Array
    added: Array
    of_x0: Array

    def pair(self, x0: Array, t: Array, eps_s: Array, eps_t: Array) -> tuple[Array, Array]:
        """Returns x_s and x_t of data x0 [B, ...], at times t i32 [B], from noise of its shape."""
        c = self._at(t, x0)
        x_s = c.alpha_s * x0 + c.sigma_s * eps_s
        return x_s, c.kept * x_s + c.added * eps_t

    def instead(self, x_s: Array, x0: Array, x0_hat: Array, t: Array) -> Array:
        """Returns x_s from q(x_s | x_t, x0_hat), with the noise that `x_s` of x0 has; x0_hat itself at t = 0.

        Given x_t, the noise of x_s is independent of x0, and the posterior's mean is linear in x0: so only that mean
        moves. A real and a generated x_s then differ by nothing but what the generator got wrong.
        """
        return x_s + self._at(t, x_s).of_x0 * (x0_hat - x0)

    def _at(self, t: Array, images: Array) -> Chain:
        return Chain(*(broadcast_to_images(values[t], images) for values in self))


def chain_of(schedule: Schedule) -> Chain:
    """Returns the steps of a table, computed in float64.

    Example:
      >>> chain = chain_of(denoising_schedule())
      >>> x0, x0_hat = jnp.full((1, 1), 0.25), jnp.full((1, 1), 0.5)
      >>> chain.instead(x0, x0, x0_hat, jnp.array([0])).tolist()  # the step to clean data
      [[0.5]]
    """
    levels = schedule.path(schedule.steps(schedule.num_steps))
    t, s = pairs(levels)
    way = solvers.ancestral("small").plan(levels, schedule)
    kept = t.alpha / s.alpha
    added = np.sqrt(t.sigma**2 - (kept * s.sigma) ** 2)
    columns = (s.alpha, s.sigma, kept, added, way.of_x0)
    return Chain(*(jnp.asarray(values[::-1], jnp.float32) for values in columns))

"""The exact likelihood of the probability-flow ODE (Song et al. 2021, section 4.3), along any path.

A point moves from the first level to the last by dx = x0_hat d(alpha) + eps_hat d(sigma), and the log density changes
by minus the divergence. Written so, nothing is divided by alpha: pure noise (zero terminal SNR) is a level like any
other, where eps_hat is x / sigma. Between two levels of a list, alpha and sigma move along a straight line. That is no
approximation: the flow between two levels is the same along every line between them. The only error is that of Heun's
method.

At the end the density is that of the noise from which samples start, N(0, path.start^2), as for the sampler; if the
last level keeps some data, the model is wrong by that much there, and the figure includes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion.sampler import Denoiser
from gen_jax.diffusion.schedule import Level, Path, Schedule
from gen_jax.method import Array, UserError
from gen_jax.metrics.likelihood import BYTE

FIRST = 1e-3  # first time of a continuous path: earlier ones hardly occur in training, and float32 loses eps_hat there


class Directions(NamedTuple):
    """Directions v whose mean or sum of v . J v is the trace of a Jacobian J, or estimates it.

    Attributes:
      num: of the directions.
      make: (j, x [B, ...], keys [B]) -> the direction j of each point, of x's shape.
      factor: of the sum.
    """

    num: int
    make: Callable[[Array, Array, Array], Array]
    factor: float


def exact(dimensions: int) -> Directions:
    """Returns all axes: the trace itself, at one derivative per dimension."""

    def axis(j: Array, x: Array, keys: Array) -> Array:
        one = jax.nn.one_hot(j, dimensions, dtype=x.dtype).reshape(x.shape[1:])
        return jnp.broadcast_to(one, x.shape)

    return Directions(dimensions, axis, 1.0)


def hutchinson(probes: int) -> Directions:
    """Returns random signs (Hutchinson 1990, Rademacher): an unbiased estimate. Each point keeps its own all the way.

    Args:
      probes: their number; the variance of the estimate falls as 1 / probes.
    """

    def signs(j: Array, x: Array, keys: Array) -> Array:
        return jax.vmap(lambda key: jax.random.rademacher(jax.random.fold_in(key, j), x.shape[1:], x.dtype))(keys)

    return Directions(probes, signs, 1 / probes)


def times(path: Path, num_steps: int) -> np.ndarray:
    """Returns the times of an integration, from noisy to clean, evenly spaced with both ends: [num_steps + 1].

    Tables start at 0, continuous paths at `FIRST`.

    Raises:
      UserError: there are too few or too many steps.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> times(schedule.linear(), 3).tolist(), times(schedule.straight(), 2).tolist()
      ([999, 666, 333, 0], [1.0, 0.5005, 0.001])
    """
    most = path.num_steps - 1 if isinstance(path, Schedule) else 100_000
    if not 1 <= num_steps <= most:
        raise UserError(f"config.eval.likelihood.num_steps is {num_steps}; use 1 to {most:,} along {path.name}")
    if isinstance(path, Schedule):
        return path.steps(num_steps + 1, "linspace")
    return np.linspace(1.0, FIRST, num_steps + 1)


def log_density(
    denoise: Denoiser, path: Path, steps: Sequence[float] | np.ndarray, x: Array, directions: Directions, keys: Array
) -> Array:
    """Returns the log density at x of the model's distribution at the first level, in nats: [B].

    The first level is the last of `steps`. It holds some noise, so this is the density of alpha x0 + sigma eps there,
    not of the data x0. Two network calls per step.

    Args:
      denoise: (x_t [B, ...], level with leaves [B]) -> x0_hat, without clipping (a clipped estimate has no derivative).
      path: provides the levels, and the distribution at the last one.
      steps: strictly decreasing times, as for a sampler.
      x: points [B, ...], at the first level.
      directions: `exact` or `hutchinson`.
      keys: of the directions, one per point [B].

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> path, keys = schedule.linear(), jax.random.split(jax.random.key(0), 1)
      >>> standard_normal = lambda x_t, level: level.alpha[:, None] * x_t  # its exact denoiser: every level is N(0, 1)
      >>> value = log_density(standard_normal, path, times(path, 500), jnp.ones((1, 1)), exact(1), keys)
      >>> round(float(value[0]), 3), round(-0.5 * math.log(2 * math.pi) - 0.5, 3)
      (-1.419, -1.419)
    """
    levels = Level(*(jnp.asarray(values[-2::-1], x.dtype) for values in path.path(steps)))  # from clean to noisy
    here, there = (Level(*(values[part] for values in levels)) for part in (slice(None, -1), slice(1, None)))

    def move(x: Array, at: Level, d_alpha: Array, d_sigma: Array) -> tuple[Array, Array]:
        """The change of x, and its divergence."""
        told = Level(*(jnp.full(len(x), value) for value in at))
        x0_hat, derivative = jax.linearize(lambda x: denoise(x, told), x)

        def add(trace: Array, j: Array) -> tuple[Array, None]:
            v = directions.make(j, x, keys)
            return trace + _sum(v * derivative(v)), None

        trace, _ = jax.lax.scan(add, jnp.zeros(len(x), x.dtype), jnp.arange(directions.num))
        trace *= directions.factor
        eps_hat, of_eps = (x - at.alpha * x0_hat) / at.sigma, (x[0].size - at.alpha * trace) / at.sigma
        return d_alpha * x0_hat + d_sigma * eps_hat, d_alpha * trace + d_sigma * of_eps

    def step(state: tuple[Array, Array], row: tuple[Level, Level]) -> tuple[tuple[Array, Array], None]:
        (x, change), (t, s) = state, row
        by = (s.alpha - t.alpha, s.sigma - t.sigma)
        first, first_divergence = move(x, t, *by)
        second, second_divergence = move(x + first, s, *by)
        return (x + (first + second) / 2, change + (first_divergence + second_divergence) / 2), None

    (end, change), _ = jax.lax.scan(step, (x, jnp.zeros(len(x), x.dtype)), (here, there))
    constant = x[0].size * (math.log(path.start) + 0.5 * math.log(2 * math.pi))
    return change - _sum((end / path.start) ** 2) / 2 - constant


def log_density_of_data(
    denoise: Denoiser, path: Path, steps: Sequence[float] | np.ndarray, x0: Array, directions: Directions, keys: Array
) -> Array:
    """Returns the log density at x0 of data blurred by the first level's noise, x0 + (sigma / alpha) eps: nats [B].

    It is `log_density` at alpha x0, with the volume of that scaling; arguments as there.
    """
    alpha = float(path.path(steps).alpha[-2])
    return log_density(denoise, path, steps, alpha * x0, directions, keys) + x0[0].size * math.log(alpha)


def bits_per_dim(nats: Array, dimensions: int) -> Array:
    """Returns bits per dimension of a log density of dequantised images: [B].

    In expectation over the noise it is not below -log2 of the probability of the grey values (Theis et al. 2016).

    Example:
      >>> round(float(bits_per_dim(math.log(0.5), 1)), 6)  # uniform over [-1, 1]: almost 8 bits, log2(255)
      7.994353
    """
    return -(nats / dimensions + math.log(BYTE)) / math.log(2)


def _sum(values: Array) -> Array:
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))

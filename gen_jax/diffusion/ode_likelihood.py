"""The exact likelihood of the probability-flow ODE (Song et al. 2021, section 4.3), along any path.

A point moves from the first level to the last by dx = x0_hat d(alpha) + eps_hat d(sigma), and the log density changes
by minus the divergence. Written so, nothing is divided by alpha: pure noise (zero terminal SNR) is a level like any
other, where eps_hat is x / sigma. The flow between two levels of a list is the same along every line between them, so
each part takes the line along which Heun's method has a small error, and no other error is made. The point moves along
a straight line: exact if x0_hat and eps_hat stay. With J = dx0_hat / dx in D dimensions, the divergence is D d(log
sigma), known exactly, plus alpha tr(J) d(log(alpha / sigma)). alpha tr(J) counts the directions that the noise at this
level leaves open: near the data it changes slowly with the log SNR, so alpha and sigma move evenly in their logarithms.
Near pure noise tr(J) itself is small and in proportion to alpha: there a straight line serves again.

At the end the density is that of the noise from which samples start (`schedule.start_std`), as for the sampler; if the
last level keeps some data, the model is wrong by that much there, and the figure includes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion.sampler import Denoiser
from gen_jax.diffusion.schedule import Level, Path, Schedule, start_std
from gen_jax.method import Array, UserError
from gen_jax.metrics.likelihood import BYTE

FIRST = 1e-3  # first time of a continuous path: earlier ones hardly occur in training, and float32 loses eps_hat there
REACH = 10.0  # steps are even in log SNR while the noise is narrower than this, as wide as any direction of the data
NOISY = 0.1  # alpha / sigma below which a step is taken along a straight line


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
    """Returns the times of an integration, from noisy to clean, both ends included: [num_steps + 1].

    They are even in log(1 + (REACH alpha / sigma)^(2/3)), which is 0 at pure noise: even in log SNR where there is
    less noise, and ever sparser beyond, where the flow hardly bends. So they depend on the levels and not on the
    clock of a path. Tables start at 0, continuous paths at `FIRST`. Times of a table are whole: near its clean end,
    where neighbouring times may be further apart than that, the steps are those of the table.

    Raises:
      UserError: there are too few or too many steps.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> times(schedule.linear(), 5).tolist(), times(schedule.straight(), 2).round(4).tolist()
      ([999, 530, 195, 45, 8, 0], [1.0, 0.0969, 0.001])
    """
    most = path.num_steps - 1 if isinstance(path, Schedule) else 100_000
    if not 1 <= num_steps <= most:
        raise UserError(f"config.eval.likelihood.num_steps is {num_steps}; use 1 to {most:,} along {path.name}")
    if isinstance(path, Schedule):
        return _whole_times(_place(path.alpha, path.sigma), num_steps)
    fine = np.geomspace(FIRST, 1.0, 100_000)
    place = _place(path.alpha(fine) * np.ones_like(fine), path.sigma(fine))
    return np.interp(np.linspace(place[-1], place[0], num_steps + 1), place[::-1], fine[::-1])


def _place(alpha: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    return np.log1p((REACH * alpha / sigma) ** (2 / 3))


def _whole_times(place: np.ndarray, num_steps: int) -> np.ndarray:
    """The times of a table whose places [T], falling with time, are about even; each step is at least one time."""
    found = [0]
    for left in range(num_steps, 0, -1):
        here = found[-1]
        wanted = place[here] + (place[-1] - place[here]) / left
        above = min(int(np.searchsorted(-place, -wanted)), len(place) - 1)  # never 0: place[here] > wanted
        nearest = above if place[above - 1] - wanted > wanted - place[above] else above - 1
        found.append(min(max(nearest, here + 1), len(place) - left))
    return np.array(found[::-1], np.int64)


class Row(NamedTuple):
    """One step towards the noise: leaves [S]. In it the log density at its start gains D `volume` and both traces."""

    t: Level
    s: Level
    volume: Any  # log(sigma_s / sigma_t)
    of_t: Any  # weight of the trace of dx0_hat / dx at t
    of_s: Any


def rows_of(levels: Level) -> Row:
    """Returns the steps between levels from clean to noisy, with their weights in float64: [S + 1] to leaves [S].

    Example:
      >>> levels = Level(time=np.zeros(3), alpha=np.array([1.0, 0.5, 0.0]), sigma=np.array([1.0, 1.0, 2.0]))
      >>> rows = rows_of(levels)
      >>> rows.of_t.round(4).tolist(), rows.of_s.round(4).tolist()  # log(1 / 2) / 2 times alpha; a straight line
      ([-0.3466, -0.5], [-0.1733, -0.25])
    """
    t, s = (Level(*(values[part] for values in levels)) for part in (slice(None, -1), slice(1, None)))
    volume = np.log(s.sigma / t.sigma)
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.log(s.alpha / t.alpha) - volume  # of log(alpha / sigma)
        even = [level.alpha * change for level in (t, s)]
    line = [s.alpha - t.alpha * s.sigma / t.sigma, s.alpha * t.sigma / s.sigma - t.alpha]
    noisy = s.alpha < NOISY * s.sigma
    return Row(t, s, volume, *(np.where(noisy, a, b) / 2 for a, b in zip(line, even, strict=True)))


def log_density(
    denoise: Denoiser, path: Path, steps: Sequence[float] | np.ndarray, x: Array, directions: Directions, keys: Array
) -> Array:
    """Returns the log density at x of the model's distribution at the first level, in nats: [B].

    The first level is the last of `steps`. It holds some noise, so this is the density of alpha x0 + sigma eps there,
    not of the data x0. Two network calls per step.

    Args:
      denoise: (x_t [B, ...], level with leaves [B]) -> x0_hat, without clipping (a clipped estimate has no derivative).
      path: provides the levels, and the distribution at the last one.
      steps: strictly decreasing times, as for a sampler; `times` has those with small errors.
      x: points [B, ...], at the first level.
      directions: `exact` or `hutchinson`.
      keys: of the directions, one per point [B].

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> path, keys = schedule.linear(), jax.random.split(jax.random.key(0), 1)
      >>> standard_normal = lambda x_t, level: level.alpha[:, None] * x_t  # its exact denoiser: every level is N(0, 1)
      >>> value = log_density(standard_normal, path, times(path, 200), jnp.ones((1, 1)), exact(1), keys)
      >>> round(float(value[0]), 3), round(-0.5 * math.log(2 * math.pi) - 0.5, 3)
      (-1.419, -1.419)
    """
    visited = path.path(steps)
    std = start_std(path, visited)
    levels = Level(*(values[-2::-1] for values in visited))  # from clean to noisy
    rows = jax.tree.map(lambda values: jnp.asarray(values, x.dtype), rows_of(levels))

    def estimate(x: Array, at: Level) -> tuple[Array, Array, Array]:
        """x0_hat, eps_hat, and the trace of dx0_hat / dx."""
        told = Level(*(jnp.full(len(x), value) for value in at))
        x0_hat, derivative = jax.linearize(lambda x: denoise(x, told), x)

        def add(trace: Array, j: Array) -> tuple[Array, None]:
            v = directions.make(j, x, keys)
            return trace + _sum(v * derivative(v)), None

        trace, _ = jax.lax.scan(add, jnp.zeros(len(x), x.dtype), jnp.arange(directions.num))
        return x0_hat, (x - at.alpha * x0_hat) / at.sigma, directions.factor * trace

    def step(state: tuple[Array, Array], row: Row) -> tuple[tuple[Array, Array], None]:
        (x, gain), (t, s) = state, (row.t, row.s)
        d_alpha, d_sigma = s.alpha - t.alpha, s.sigma - t.sigma
        x0_hat, eps_hat, trace = estimate(x, t)
        x0_there, eps_there, trace_there = estimate(x + d_alpha * x0_hat + d_sigma * eps_hat, s)
        x += (d_alpha * (x0_hat + x0_there) + d_sigma * (eps_hat + eps_there)) / 2
        return (x, gain + x[0].size * row.volume + row.of_t * trace + row.of_s * trace_there), None

    (end, gain), _ = jax.lax.scan(step, (x, jnp.zeros(len(x), x.dtype)), rows)
    constant = x[0].size * (math.log(std) + 0.5 * math.log(2 * math.pi))
    return gain - _sum((end / std) ** 2) / 2 - constant


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

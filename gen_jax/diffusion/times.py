"""Densities of training times, as maps from a uniform number to a time of a path."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen_jax.diffusion.schedule import Path
from gen_jax.method import Array, UserError

Times = Callable[[Array], Array]
"""From u, uniform in [0, 1), to a training time of a path, increasing: the quantile function of the times."""

Density = Callable[[Path], Times]

LEAST_SHARE = 0.01  # of a density of noise levels that must lie on the path


def uniform() -> Density:
    """Returns the density that is 1 everywhere on the path."""
    return lambda path: path.times


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Density:
    """Returns the density of sigmoid(mean + std z) for standard normal z: most times in the middle (Esser et al. 2024).

    Args:
      mean: values above 0 favour more noise.
      std: the smaller, the closer to the middle.

    Raises:
      UserError: `std` is not positive.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> drawn = logit_normal()(schedule.straight())
      >>> drawn(jnp.array([0.5, 0.8413447])).round(4).tolist()  # sigmoid(0), sigmoid(1)
      [0.5, 0.7310999631881714]
    """
    _require_width(std)
    return lambda path: lambda u: path.times(jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(u)))


def log_normal(mean: float = -1.2, std: float = 1.2) -> Density:
    """Returns the density of noise levels q = sigma / alpha with ln q = mean + std z, z standard normal: EDM.

    The defaults are those of Karras et al. 2022, table 1. Where a path ends, the density is cut off, and what is left
    takes its share: no level is drawn more often for being the last. A table is trained at the nearest of its times, by
    the angle atan2(sigma, alpha), so the first and the last stand for half a step each.

    Args:
      mean: of ln q; larger values favour more noise.
      std: of ln q.

    Raises:
      UserError: `std` is not positive; or, given a path, less than a hundredth of the density lies on it.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> path = schedule.variance_exploding()
      >>> level = path.level(log_normal()(path)(jnp.array([0.5, 0.8413447])))
      >>> [round(q, 3) for q in level.sigma.tolist()]  # exp(-1.2), exp(0)
      [0.301, 1.0]
    """
    _require_width(std)

    def of(path: Path) -> Times:
        low, high = (_share_below(q, mean, std) for q in path.noise_range)
        if high - low < LEAST_SHARE:
            least, most = path.noise_range
            raise UserError(
                f"config.diffusion.times has mean {mean:g} and std {std:g}, and less than {LEAST_SHARE:.0%} of that is "
                f"within the noise levels of the {path.name} path, {least:.3g} to {most:.3g}"
            )
        return lambda u: path.trained_at(jnp.exp(mean + std * jax.scipy.special.ndtri(low + u * (high - low))))

    return of


def _share_below(q: float, mean: float, std: float) -> float:
    """The share of a log-normal density below q, 0..inf."""
    if q <= 0:
        return 0.0
    return 0.5 * math.erfc((mean - math.log(q)) / (std * math.sqrt(2)))


def _require_width(std: float) -> None:
    if not std > 0:
        raise UserError(f"config.diffusion.times.std is {std}; a standard deviation is positive")


DENSITIES: dict[str, Callable[..., Density]] = {
    "uniform": uniform,
    "logit_normal": logit_normal,
    "log_normal": log_normal,
}

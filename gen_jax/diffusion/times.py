"""Densities of training times, as maps from a uniform number to a fraction of the path, 0 to 1."""

from __future__ import annotations

from collections.abc import Callable

import jax

from gen_jax.method import Array, UserError

Density = Callable[[Array], Array]
"""From u, uniform in [0, 1), to a fraction of the path in [0, 1], increasing: the density's quantile function."""


def uniform() -> Density:
    """Returns the density that is 1 everywhere."""
    return lambda u: u


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Density:
    """Returns the density of sigmoid(mean + std z) for standard normal z: most times in the middle (Esser et al. 2024).

    Args:
      mean: values above 0 favour more noise.
      std: the smaller, the closer to the middle.

    Raises:
      UserError: `std` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> logit_normal()(jnp.array([0.5, 0.8413447])).round(4).tolist()  # sigmoid(0), sigmoid(1)
      [0.5, 0.7310999631881714]
    """
    if not std > 0:
        raise UserError(f"config.diffusion.times.std is {std}; a standard deviation is positive")
    return lambda u: jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(u))


DENSITIES: dict[str, Callable[..., Density]] = {"uniform": uniform, "logit_normal": logit_normal}

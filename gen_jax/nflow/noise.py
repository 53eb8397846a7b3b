"""Noise that a flow is trained with: without it, a density of grey values would grow without bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.method import Array, UserError
from gen_jax.metrics.likelihood import dequantised


class Noise(NamedTuple):
    """Noise on pictures.

    Attributes:
      add: (x0 f32 [B, H, W, C], keys [B], width of a grey value) -> noisy pictures.
      remove: (log density of noisy pictures [B, H, W, C] -> [B], x) -> pictures, from noisy samples x.
      words: what it is, for captions and reports.
    """

    add: Callable[[Array, Array, float], Array]
    remove: Callable[[Callable[[Array], Array], Array], Array]
    words: str


def uniform() -> Noise:
    """Returns noise of the width of a grey value, which makes the density's bits a bound of those of grey values."""
    return Noise(dequantised, lambda log_density, x: x, "uniform dequantisation")


def gaussian(sigma: float = 0.05) -> Noise:
    """Returns normal noise, and the best guess of the picture without it (Zhai et al. 2024, section 2.4).

    By Tweedie's formula E[x0 | x] = x + sigma^2 grad log p(x), with the density p of noisy pictures, the flow's own.

    Args:
      sigma: on the scale of [-1, 1].

    Raises:
      UserError: sigma is not positive.

    Example:
      >>> tight = lambda x: -jnp.sum(x**2, axis=(1, 2, 3)) / (2 * (0.3**2 + 0.4**2))  # N(0, 0.3^2) with noise of 0.4
      >>> round(float(gaussian(0.4).remove(tight, jnp.ones((1, 1, 1, 1)))[0, 0, 0, 0]), 6)  # 0.3^2 / (0.3^2 + 0.4^2)
      0.36
    """
    if sigma <= 0:
        raise UserError(f"config.tarflow.noise.sigma is {sigma}: a standard deviation is positive; or use uniform")

    def add(x0: Array, keys: Array, width: float) -> Array:
        return x0 + sigma * jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:]))(keys)

    def remove(log_density: Callable[[Array], Array], x: Array) -> Array:
        return x + sigma**2 * jax.grad(lambda x: jnp.sum(log_density(x)))(x)

    return Noise(add, remove, f"normal noise of {sigma:g}")


NOISES: dict[str, Callable[..., Noise]] = {"uniform": uniform, "gaussian": gaussian}

"""Embeddings of scalars, as network inputs of several model families."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from gen_jax.method import Array


def sinusoidal(values: Array, dim: int, max_period: float = 10_000.0) -> Array:
    """Returns sines, then cosines, of `values` at dim / 2 frequencies from 1 down to 1 / max_period (Ho et al. 2020).

    The frequencies are max_period^(-i / (dim/2 - 1)), including both ends, as in the released DDPM code
    (Vaswani et al. 2017 interleave sine and cosine and divide by dim/2).

    Args:
      values: f32 [B], in units of steps for a diffusion time (0..1000).
      dim: even, at least 4.
      max_period: ratio of the largest to the smallest frequency.

    Returns:
      f32 [B, dim].

    Example:
      >>> sinusoidal(jnp.array([0.0]), 4).tolist()
      [[0.0, 0.0, 1.0, 1.0]]
    """
    if dim < 4 or dim % 2:
        raise ValueError(f"dim must be an even number of at least 4, not {dim}")
    half = dim // 2
    frequencies = np.exp(-np.log(max_period) / (half - 1) * np.arange(half))  # float64, a constant of the graph
    angles = values.astype(jnp.float32)[:, None] * jnp.asarray(frequencies, jnp.float32)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)

"""Embeddings of scalars and of places, as network inputs of several model families."""

from __future__ import annotations

import jax
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


def positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Returns the embedding of the places of a grid, row by row: float64 [rows * columns, width].

    A quarter of the channels each: sines and cosines of the row, sines and cosines of the column, at frequencies from 1
    down to almost 1 / 10,000 (Dosovitskiy et al. 2021, Peebles & Xie 2023).

    Example:
      >>> positions(1, 2, 4).round(3).tolist()
      [[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.841, 0.54]]
    """
    frequencies = 10_000.0 ** (-np.arange(width // 4) / (width // 4))
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)
    angles = places[..., None] * frequencies  # [N, 2, width / 4]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(places), width)


def condition_vector(told: Array | None, size: int, num: int) -> Array:
    """Returns what a network is told as vectors, f32 [B, size], which are zero where it is told nothing.

    Args:
      told: labels i32 [B], of which those outside 0..size-1 mean nothing; or embeddings f32 [B, size]; or None.
      size: number of classes, or of an embedding.
      num: B.

    Example:
      >>> condition_vector(jnp.array([1, -1]), 2, 2).tolist(), condition_vector(None, 2, 1).tolist()
      ([[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0]])
    """
    if told is None:
        return jnp.zeros((num, size))
    return told if told.ndim == 2 else jax.nn.one_hot(told, size)

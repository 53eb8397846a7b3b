"""The peak signal-to-noise ratio of reconstructed pictures."""

from __future__ import annotations

import jax.numpy as jnp

from gen_jax.method import Array

SMALLEST_ERROR = 1e-10  # of values in [0, 1], squared, which limits the ratio to 100 dB


def psnr(x: Array, x_hat: Array, span: float = 2.0) -> Array:
    """Returns 10 log10(span^2 / mean squared error) of each picture, in dB: f32 [B].

    Args:
      x: [B, H, W, C].
      x_hat: what was made of it.
      span: largest value minus smallest: 2 in a model's range, 255 of bytes.

    Example:
      >>> x = jnp.zeros((1, 2, 2, 1))
      >>> round(float(psnr(x, x + 0.1, span=1.0)[0]), 3), round(float(psnr(x, x + 10, span=255.0)[0]), 3)
      (20.0, 28.131)
    """
    error = jnp.mean(((x.astype(jnp.float32) - x_hat) / span) ** 2, axis=(1, 2, 3))
    return -10 * jnp.log10(jnp.maximum(error, SMALLEST_ERROR))

"""Log-likelihoods of images in bits per dimension, the usual unit for comparisons, and noise in place of rounding."""

from __future__ import annotations

import math
from typing import TypeVar

import jax

from gen_jax.method import Array

Nats = TypeVar("Nats", float, Array)

BYTE = 2 / 255  # width of one of 256 grey values, on the scale of [-1, 1]


def bits_per_dim(nats: Nats, num_dims: int, grey_values: float = 1.0) -> Nats:
    """Returns a negative log-likelihood in bits per dimension, on the scale of grey values 0..255.

    Args:
      nats: of an image: -log of a probability, or of a density.
      num_dims: number of values of an image, H W C.
      grey_values: number of grey values per unit of the density's scale: 255 for values in [0, 1], 127.5 for values in
        [-1, 1]. 1 for the probability of bytes.

    Example:
      >>> round(bits_per_dim(1.5 * 784, 784), 6), round(bits_per_dim(1.5 * 784, 784, 127.5), 6)
      (2.164043, 9.158396)
    """
    return nats / (num_dims * math.log(2)) + math.log2(grey_values)


def dequantised(x0: Array, keys: Array, width: float = BYTE) -> Array:
    """Returns grey values with uniform noise of the width of one of them, centred: x0 +- width / 2.

    Args:
      x0: the grey values, k / 127.5 - 1 for k in 0..255, [B, ...].
      keys: one per image [B].
      width: of a grey value, on the scale of `x0`.
    """
    return x0 + width * jax.vmap(lambda key: jax.random.uniform(key, x0.shape[1:], x0.dtype, -0.5, 0.5))(keys)

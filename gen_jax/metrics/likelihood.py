"""Log-likelihoods of images in bits per dimension, the usual unit for comparisons."""

from __future__ import annotations

import math
from typing import TypeVar

from gen_jax.method import Array

Nats = TypeVar("Nats", float, Array)


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

"""Bicubic resizing of pictures, as the published numbers of super-resolution use it.

The cubic is that of Keys 1981 (a = -1/2), widened by the factor of a reduction so that fine detail does not alias, and
the picture is mirrored at its edges (the edge pixel twice): MATLAB's `imresize`. Other programs differ. OpenCV's
bicubic does not widen; Pillow's and JAX's widen, but leave out what lies beyond the edge.

Both axes are linear maps, so a resize is two matrix products, for numpy and JAX alike.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np


@functools.lru_cache(maxsize=64)
def matrix(size: int, new_size: int) -> np.ndarray:
    """Returns the linear map of one axis: f32 [new_size, size], whose rows sum to 1.

    Args:
      size: number of pixels.
      new_size: larger or smaller.

    Example:
      >>> matrix(1, 2).tolist(), (256 * matrix(16, 8)[3, 3:11]).tolist()
      ([[1.0], [1.0]], [-3.0, -9.0, 29.0, 111.0, 111.0, 29.0, -9.0, -3.0])
    """
    scale = new_size / size
    widened = max(1.0, 1 / scale)
    centre = (np.arange(new_size) + 0.5) / scale - 0.5  # of each new pixel, among the old ones
    first = np.floor(centre - 2 * widened).astype(np.int64)
    taps = first[:, None] + np.arange(int(np.ceil(4 * widened)) + 2)
    weights = _cubic((centre[:, None] - taps) / widened)
    weights /= weights.sum(axis=1, keepdims=True)
    within = taps % (2 * size)  # mirrored, again and again for pictures narrower than the kernel
    found = np.zeros((new_size, size))
    np.add.at(found, (np.arange(new_size)[:, None], np.minimum(within, 2 * size - 1 - within)), weights)
    return found.astype(np.float32)


def resized(x: Any, height: int, width: int) -> Any:
    """Returns pictures of another size, f32 [..., height, width, C]; neither rounded nor clipped.

    Args:
      x: [..., H, W, C], an array of numpy or of JAX, which decides what comes back.
      height: of the result.
      width: of the result.

    Example:
      >>> x = np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)  # on a line, but for the edges
      >>> resized(x, 1, 8)[0, 0, 3:5, 0].tolist()
      [1.25, 1.75]
    """
    by_row = np.moveaxis if isinstance(x, np.ndarray) else _moved
    x = x.astype(np.float32)
    x = by_row(matrix(x.shape[-3], height) @ by_row(x, -1, -3), -3, -1)  # [..., C, H, W] in between
    return matrix(x.shape[-2], width) @ x


def reduced(images: np.ndarray, factor: int) -> np.ndarray:
    """Returns smaller pictures, uint8 [..., H / factor, W / factor, C].

    Args:
      images: uint8 [..., H, W, C], with sides that are multiples of `factor`.
      factor: a whole number.

    Example:
      >>> reduced(np.full((1, 8, 8, 1), 7, np.uint8), 4).ravel().tolist()
      [7, 7, 7, 7]
    """
    return as_bytes(resized(images, images.shape[-3] // factor, images.shape[-2] // factor))


def enlarged(images: np.ndarray, factor: int) -> np.ndarray:
    """Returns larger pictures, uint8 [..., factor H, factor W, C], of uint8 [..., H, W, C]."""
    return as_bytes(resized(images, images.shape[-3] * factor, images.shape[-2] * factor))


def as_bytes(x: np.ndarray) -> np.ndarray:
    """Returns values rounded and clipped to uint8; a half is rounded up, as MATLAB does."""
    return np.clip(np.floor(x + 0.5), 0, 255).astype(np.uint8)


def _moved(x: Any, source: int, destination: int) -> Any:
    import jax.numpy as jnp

    return jnp.moveaxis(x, source, destination)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys 1981, equation 15."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

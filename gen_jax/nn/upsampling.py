"""Learned upsampling of images by a whole factor, found by name; to be called within a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.method import Array
from gen_jax.nn.blocks import depth_to_space, upsample_nearest
from gen_jax.nn.conv import Conv, ConvTranspose

Initializer = nn.initializers.Initializer


def icnr(init: Initializer, factor: int) -> Initializer:
    """Returns an initializer for a convolution before `depth_to_space`: it acts like one before nearest upsampling.

    All factor^2 values that one pixel becomes start equal, which avoids an initial checkerboard pattern (Aitken
    et al. 2017).

    Example:
      >>> import jax
      >>> kernel = icnr(nn.initializers.normal(), 2)(jax.random.key(0), (1, 1, 1, 8))
      >>> bool(jnp.all(kernel[..., :2] == kernel[..., 6:]))
      True
    """

    def start(key: Any, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        return jnp.tile(init(key, (*shape[:-1], shape[-1] // factor**2), dtype), factor**2)

    return start


def transposed(x: Array, features: int, size: int, factor: int, **options: Any) -> Array:
    """Returns the transposed convolution of x [B, H, W, C]: [B, factor H, factor W, features].

    Args:
      x: f32 or bf16.
      features: channels of the output.
      size: of the kernel.
      factor: of upsampling.
      options: of `nn.conv.Conv`, with its name and `kernel_init`.
    """
    return ConvTranspose(features, (size, size), (factor, factor), **options)(x)


def nearest(x: Array, features: int, size: int, factor: int, **options: Any) -> Array:
    """As `transposed`, but repeats pixels, and convolves them (Odena et al. 2016)."""
    return Conv(features, (size, size), **options)(upsample_nearest(x, factor))


def shuffle(x: Array, features: int, size: int, factor: int, kernel_init: Initializer, **options: Any) -> Array:
    """As `transposed`, but convolves to factor^2 times as many channels, which become pixels (Shi et al. 2016).

    `kernel_init` is that of one of these pixels: see `icnr`.
    """
    conv = Conv(features * factor**2, (size, size), kernel_init=icnr(kernel_init, factor), **options)
    return depth_to_space(conv(x), factor)


UPSAMPLINGS: dict[str, Callable[..., Array]] = {"transposed": transposed, "nearest": nearest, "shuffle": shuffle}
"""From a name to (x, features, size, factor, kernel_init=, further options of the convolution) -> larger images."""

"""The patch discriminator (Isola et al. 2017): a logit for every patch of an image, from convolutions alone."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.gan.layers import ACTIVATIONS, dcgan_init
from gen_jax.method import Array
from gen_jax.nn.conv import Conv
from gen_jax.nn.norm import RMSNorm

KERNEL = 4


class PatchDiscriminator(nn.Module):
    """Convolutions that each halve the size, and one to the logits, with RMS normalisation between them.

    Isola et al. normalise over the batch. With two levels a logit sees 22x22 pixels, with three 46x46.

    Attributes:
      channels: of the convolutions.
      dtype: of the computation.

    Example:
      >>> import jax
      >>> x = jnp.ones((2, 9, 12, 3))
      >>> jax.eval_shape(PatchDiscriminator((4, 8)).init_with_output, jax.random.key(0), x)[0].shape
      (2, 3, 3)
    """

    channels: tuple[int, ...] = (32, 64)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns logits f32 [B, h, w] for images [B, H, W, C]."""
        h, size = x.astype(self.dtype), (KERNEL, KERNEL)
        for number, features in enumerate(self.channels):
            conv = Conv(features, size, (2, 2), kernel_init=dcgan_init, dtype=self.dtype, name=f"conv_{number}")
            h = conv(h)
            h = ACTIVATIONS["leaky_relu"](RMSNorm(name=f"norm_{number}")(h) if number else h)
        out = Conv(1, size, kernel_init=dcgan_init, dtype=self.dtype, name="out")
        return out(h).astype(jnp.float32)[..., 0]

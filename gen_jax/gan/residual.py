"""The residual pair of SNGAN with projection (Miyato et al. 2018; Miyato & Koyama 2018).

In the generator, labels scale and shift the normalised features; in the discriminator, they enter by a product with
its features. Spectral normalisation is a constraint on the weights (`constraints`), outside the networks.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.gan.convolutional import head, strides_of
from gen_jax.gan.layers import NORMS, LabelVector, Upsample, start_size
from gen_jax.method import Array
from gen_jax.nn.blocks import upsample_nearest
from gen_jax.nn.conv import Conv
from gen_jax.nn.dense import Dense

branch_init = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")  # Glorot, gain sqrt(2), as in the release
shortcut_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def average_pool(x: Array, factor: int) -> Array:
    """Returns means over squares with a side of `factor` pixels: [B, H / factor, W / factor, C].

    Example:
      >>> average_pool(jnp.arange(4.0).reshape(1, 2, 2, 1), 2).ravel().tolist()
      [1.5]
    """
    return nn.avg_pool(x, (factor, factor), (factor, factor)) if factor > 1 else x


class UpBlock(nn.Module):
    """Norm, activation, upsampling convolution, norm, activation, convolution; with a 1x1 shortcut.

    Example:
      >>> import jax
      >>> x = jnp.ones((1, 4, 4, 8))
      >>> jax.eval_shape(UpBlock(4).init_with_output, jax.random.key(0), x)[0].shape
      (1, 8, 8, 4)
    """

    features: int
    kernel: int = 3
    norm: str = "batch"
    upsampling: str = "nearest"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, vector: Array | None = None, *, train: bool = False) -> Array:
        """Returns [B, 2 H, 2 W, features] for `x` [B, H, W, C] and a label's `vector` [B, D]."""

        def normalise(number: int, h: Array) -> Array:
            scale = shift = None
            if vector is not None:
                film = nn.Dense(2 * h.shape[-1], False, kernel_init=nn.initializers.normal(0.02), dtype=self.dtype,
                                name=f"condition_{number}")  # fmt: skip
                scale, shift = jnp.split(film(vector), 2, axis=-1)
            return nn.relu(NORMS[self.norm](f"norm_{number}", h, scale, shift, train))

        size, bias = (self.kernel, self.kernel), self.norm == "none"
        grow = Upsample(
            self.features, self.kernel, 2, self.upsampling, bias, branch_init, dtype=self.dtype, name="conv_0"
        )
        h = grow(normalise(0, x))
        h = Conv(self.features, size, kernel_init=branch_init, dtype=self.dtype, name="conv_1")(normalise(1, h))
        shortcut = Dense(self.features, kernel_init=shortcut_init, dtype=self.dtype, name="shortcut")
        return h + upsample_nearest(shortcut(x), 2)


class DownBlock(nn.Module):
    """Activation, convolution, activation, convolution, mean over `stride`^2 pixels; with a 1x1 shortcut.

    Example:
      >>> import jax
      >>> x = jnp.ones((1, 8, 8, 3))
      >>> jax.eval_shape(DownBlock(4).init_with_output, jax.random.key(0), x)[0].shape
      (1, 4, 4, 4)
    """

    features: int
    kernel: int = 3
    stride: int = 2
    first: bool = False  # the input is pixels, so it omits the first activation
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B, H / stride, W / stride, features]."""
        size = (self.kernel, self.kernel)
        h = x if self.first else nn.relu(x)
        h = nn.relu(Conv(self.features, size, kernel_init=branch_init, dtype=self.dtype, name="conv_0")(h))
        h = Conv(self.features, size, kernel_init=branch_init, dtype=self.dtype, name="conv_1")(h)
        h = average_pool(h, self.stride)
        if x.shape == h.shape:
            return x + h
        # A 1x1 layer and a mean over pixels commute; this order is cheaper.
        shortcut = Dense(self.features, kernel_init=shortcut_init, dtype=self.dtype, name="shortcut")
        return h + shortcut(average_pool(x, self.stride))


class ResidualGenerator(nn.Module):
    """Maps z and a label to an image in [-1, 1].

    Attributes:
      image_shape: (H, W, C).
      num_classes: 0 for no labels.
      generator_channels: of the blocks, each of which doubles the size; the first feature map has as many as the first.
      generator_kernel: of the convolutions.
      generator_norm: a key of NORMS.
      upsampling: a key of UPSAMPLINGS, in the blocks.
      embedding_dim: of the label vector; 0: one-hot, so that each class has separate scales and shifts.
      dtype: of the computation.

    Example:
      >>> import jax
      >>> generator = ResidualGenerator((8, 8, 1), generator_channels=(8, 4))
      >>> jax.eval_shape(generator.init_with_output, jax.random.key(0), jnp.ones((2, 3)))[0].shape
      (2, 8, 8, 1)
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    generator_channels: tuple[int, ...] = (256, 256, 256)
    generator_kernel: int = 3
    generator_norm: str = "batch"
    upsampling: str = "nearest"
    embedding_dim: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Returns f32 [B, H, W, C] for `z` [B, Z] and `label` i32 [B]."""
        first, vector = self.generator_channels[0], None
        height, width = start_size(self.image_shape, 2 ** len(self.generator_channels))
        if label is not None and self.num_classes:
            vector = LabelVector(self.num_classes, self.embedding_dim, dtype=self.dtype, name="label")(label)
        start = nn.Dense(height * width * first, kernel_init=shortcut_init, dtype=self.dtype, name="in")
        h = start(z).reshape(-1, height, width, first)
        for number, features in enumerate(self.generator_channels):
            block = UpBlock(
                features, self.generator_kernel, self.generator_norm, self.upsampling, self.dtype, name=f"up_{number}"
            )
            h = block(h, vector, train=train)
        h = nn.relu(NORMS[self.generator_norm]("norm", h, None, None, train))
        size = (self.generator_kernel, self.generator_kernel)
        h = Conv(self.image_shape[-1], size, kernel_init=shortcut_init, dtype=self.dtype, name="out")(h)
        return jnp.tanh(h.astype(jnp.float32))


class ResidualDiscriminator(nn.Module):
    """Maps an image and a label to logits; features are summed over positions.

    Attributes:
      num_classes: 0 for no labels.
      num_outputs: logits per image.
      condition: how the label is used, one of CONDITIONS.
      channels: of the blocks.
      kernel: of the convolutions.
      strides: one per block; () for 2 everywhere.
      hidden: widths of dense layers after the blocks.
      embedding_dim: of a label that is concatenated with the features; 0: one-hot.
      dtype: of the computation.

    Example:
      >>> import jax
      >>> x = jnp.ones((2, 8, 8, 1))
      >>> discriminator = ResidualDiscriminator(channels=(4, 8), strides=(2, 1))
      >>> jax.eval_shape(discriminator.init_with_output, jax.random.key(0), x)[0].shape
      (2,)
    """

    num_classes: int = 0
    num_outputs: int = 1
    condition: str = "projection"
    channels: tuple[int, ...] = (128, 128, 128, 128)
    kernel: int = 3
    strides: tuple[int, ...] = (2, 2, 1, 1)
    hidden: tuple[int, ...] = ()
    embedding_dim: int = 0
    end_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, index: Array | None = None, *, train: bool = False
    ) -> Array:
        """Returns logits f32 [B], or [B, num_outputs]; nothing is random or different in training."""
        h = x.astype(self.dtype)
        for number, (features, stride) in enumerate(zip(self.channels, strides_of(self), strict=True)):
            h = DownBlock(features, self.kernel, stride, number == 0, self.dtype, name=f"down_{number}")(h)
        return head(self, jnp.sum(nn.relu(h), axis=(1, 2)), label)

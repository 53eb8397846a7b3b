"""The convolutional pair: DCGAN (Radford et al. 2016), its conditional forms, and the networks of AC-GAN.

The generator is a dense layer to a small feature map, then layers that double its size. The discriminator is
convolutions that halve the size, then dense layers. Fields cover the differences between published networks;
`generator_*` belong to the generator.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.gan.layers import (
    ACTIVATIONS,
    NORMS,
    GaussianNoise,
    Initializer,
    LabelVector,
    MinibatchStd,
    Upsample,
    dcgan_init,
    start_size,
)
from gen_jax.method import Array, UserError
from gen_jax.nn.conv import Conv
from gen_jax.nn.dropout import Dropout


class ConvGenerator(nn.Module):
    """Maps z and a label to an image in [-1, 1].

    Attributes:
      image_shape: (H, W, C).
      num_classes: 0 for no labels.
      generator_channels: of the first feature map, then of each one twice as large; the last layer outputs the image.
      generator_kernel: of the layers that double the size.
      generator_norm: a key of NORMS, after every layer but the last.
      generator_norm_first: whether the first feature map is normalised too.
      generator_activation: a key of ACTIVATIONS.
      last_stride: upsampling factor of the last layer; its kernel grows in proportion.
      upsampling: a key of UPSAMPLINGS.
      embedding_dim: of the label, concatenated with z; 0: one-hot.
      conv_bias: whether convolutions before a normalisation have biases, as in some published networks, although these
        have no effect.
      end_bias: whether the first and the last layer have biases.
      dtype: of the computation.

    Example:
      >>> import jax
      >>> generator = ConvGenerator((8, 8, 1), generator_channels=(8, 4))
      >>> jax.eval_shape(generator.init_with_output, jax.random.key(0), jnp.ones((2, 3)))[0].shape
      (2, 8, 8, 1)
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    generator_channels: tuple[int, ...] = (512, 256, 128, 64)
    generator_kernel: int = 4
    generator_norm: str = "batch"
    generator_norm_first: bool = True
    generator_activation: str = "relu"
    last_stride: int = 2
    upsampling: str = "transposed"
    embedding_dim: int = 0
    conv_bias: bool = False
    end_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Returns f32 [B, H, W, C] for `z` [B, Z] and `label` i32 [B]."""
        normalise, activate = NORMS[self.generator_norm], ACTIVATIONS[self.generator_activation]
        first, *growing = self.generator_channels
        height, width = start_size(self.image_shape, 2 ** len(growing) * self.last_stride)
        if label is not None and self.num_classes:
            vector = LabelVector(self.num_classes, self.embedding_dim, dtype=self.dtype, name="label")(label)
            z = jnp.concatenate([z, vector], axis=-1)
        start = nn.Dense(height * width * first, self.end_bias, kernel_init=dcgan_init, dtype=self.dtype, name="in")
        h = start(z).reshape(-1, height, width, first)
        if self.generator_norm_first:
            h = normalise("norm_in", h, None, None, train)
        h = activate(h)
        bias = self.conv_bias or self.generator_norm == "none"
        for number, features in enumerate(growing):
            grow = Upsample(
                features, self.generator_kernel, 2, self.upsampling, bias, dtype=self.dtype, name=f"up_{number}"
            )
            h = activate(normalise(f"norm_{number}", grow(h), None, None, train))
        kernel = max(1, self.generator_kernel * self.last_stride // 2)
        last = Upsample(
            self.image_shape[-1], kernel, self.last_stride, self.upsampling, self.end_bias, dtype=self.dtype, name="out"
        )
        return jnp.tanh(last(h).astype(jnp.float32))


class ConvDiscriminator(nn.Module):
    """Maps an image and a label to logits.

    Attributes:
      num_classes: 0 for no labels.
      num_outputs: logits per image; AC-GAN has one more per class.
      condition: how the label is used, one of CONDITIONS.
      channels: of the convolutions.
      kernel: of the convolutions.
      strides: one per convolution; () for 2 everywhere.
      norm: a key of NORMS, after the convolutions.
      norm_first: whether the first convolution is normalised too.
      hidden: widths of dense layers after the convolutions.
      dropout: after each convolution.
      activation_noise: standard deviation of noise after each convolution (Odena et al. 2017, appendix A).
      minibatch_std: whether the features include how much the batch varies.
      embedding_dim: of a label that is concatenated with the features; 0: one-hot.
      conv_bias: whether convolutions before a normalisation have biases; the others always do.
      end_bias: whether the last layer has a bias.
      dtype: of the computation.

    Example:
      >>> import jax
      >>> x = jnp.ones((2, 8, 8, 1))
      >>> jax.eval_shape(ConvDiscriminator(channels=(4, 8)).init_with_output, jax.random.key(0), x)[0].shape
      (2,)
    """

    num_classes: int = 0
    num_outputs: int = 1
    condition: str = "projection"
    channels: tuple[int, ...] = (64, 128, 256, 512)
    kernel: int = 4
    strides: tuple[int, ...] = ()
    norm: str = "batch"
    norm_first: bool = False
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    activation_noise: float = 0.0
    minibatch_std: bool = False
    embedding_dim: int = 0
    conv_bias: bool = False
    end_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, index: Array | None = None, *, train: bool = False
    ) -> Array:
        """Returns logits f32 [B], or [B, num_outputs]; `index` i32 [B] are positions in the global batch."""
        normalise, activate = NORMS[self.norm], ACTIVATIONS["leaky_relu"]
        h, size = x.astype(self.dtype), (self.kernel, self.kernel)
        for number, (features, stride) in enumerate(zip(self.channels, strides_of(self), strict=True)):
            normed = self.norm != "none" and (number > 0 or self.norm_first)
            conv = Conv(
                features, size, (stride, stride), use_bias=self.conv_bias or not normed, kernel_init=dcgan_init,
                dtype=self.dtype, name=f"conv_{number}",
            )  # fmt: skip
            h = conv(h)
            if normed:
                h = normalise(f"norm_{number}", h, None, None, train)
            h = GaussianNoise(self.activation_noise)(activate(h), index, train=train)
            h = Dropout(self.dropout)(h, index, train=train)
        h = h.reshape(len(h), -1)
        if self.minibatch_std:
            h = MinibatchStd(name="minibatch_std")(h, train=train)
        return head(self, h, label)


def head(network: Any, h: Array, label: Array | None, init: Initializer = dcgan_init) -> Array:
    """Returns the logits of features [B, D] and labels. Call it within a discriminator module, whose fields it reads.

    "concat" concatenates the label's vector with the features. "projection" adds its product with the features, so
    that the logit is the sum of log p(x) / q(x) and log p(y | x) / q(y | x) (Miyato & Koyama 2018).
    """
    told = label if network.num_classes else None
    if told is not None and network.condition == "concat":
        vector = LabelVector(network.num_classes, network.embedding_dim, dtype=network.dtype, name="label")(told)
        h = jnp.concatenate([h, vector], axis=-1)
    for number, width in enumerate(network.hidden):
        dense = nn.Dense(width, kernel_init=init, dtype=network.dtype, name=f"dense_{number}")
        h = ACTIVATIONS["leaky_relu"](dense(h))
    out = nn.Dense(network.num_outputs, network.end_bias, kernel_init=init, dtype=network.dtype, name="out")
    logits = out(h)
    if told is not None and network.condition == "projection":
        vector = LabelVector(network.num_classes, h.shape[-1], dcgan_init, dtype=network.dtype, name="label")(told)
        logits = logits + jnp.sum(vector * h, axis=-1, keepdims=True)
    logits = logits.astype(jnp.float32)
    return logits[:, 0] if network.num_outputs == 1 else logits


CONDITIONS = ("projection", "concat")


def strides_of(network: Any) -> tuple[int, ...]:
    """Returns the strides of a discriminator, one per value of `channels`.

    Raises:
      UserError: `strides` has another length than `channels`.
    """
    if network.strides and len(network.strides) != len(network.channels):
        raise UserError(f"config.network.strides {network.strides} needs as many values as channels {network.channels}")
    return network.strides or (2,) * len(network.channels)

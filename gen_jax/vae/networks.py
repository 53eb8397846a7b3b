"""Encoders and decoders: dense, convolutional and residual, found by name; those around quantizers are in `grids`.

An encoder maps images [B, H, W, C] in [0, 1] to 2 Z numbers, the mean and the log variance of the posterior; a
decoder maps z [B, Z] to the inputs of a likelihood, [B, H, W, num_outputs C]. With `num_classes`, both also take labels
as further inputs of their first layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.config import modules_of, require_choice
from gen_jax.method import Array, UserError
from gen_jax.nn.blocks import ResidualBlock, depth_to_space, space_to_depth
from gen_jax.nn.conv import Conv
from gen_jax.nn.dense import Dense
from gen_jax.nn.norm import RMSNorm
from gen_jax.nn.upsampling import UPSAMPLINGS


class Activation(NamedTuple):
    """A non-linearity, its number of inputs per output, and the initializer of the kernel before it."""

    inputs: int
    function: Callable[[Array], Array]
    kernel_init: nn.initializers.Initializer


ACTIVATIONS = {
    "relu": Activation(1, nn.relu, nn.initializers.he_normal()),
    "tanh": Activation(1, jnp.tanh, nn.initializers.lecun_normal()),
    "gated": Activation(2, nn.glu, nn.initializers.he_normal()),  # (A x + b) sigmoid(C x + d): Tomczak & Welling 2018
}


class Hidden(nn.Module):
    """Dense layers, each with its activation.

    Example:
      >>> import jax
      >>> jax.eval_shape(Hidden((3, 5), "gated").init_with_output, jax.random.key(0), jnp.ones((2, 4)))[0].shape
      (2, 5)
    """

    widths: tuple[int, ...]
    activation: str = "relu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B, widths[-1]] for `x` [B, D]; `x` itself if there are no widths."""
        require_choice("network.activation", self.activation, ACTIVATIONS)
        inputs, function, kernel_init = ACTIVATIONS[self.activation]
        for number, width in enumerate(self.widths):
            layer = nn.Dense(inputs * width, kernel_init=kernel_init, dtype=self.dtype, name=f"dense_{number}")
            x = function(layer(x))
        return x


def with_label(x: Array, label: Array | None, num_classes: int) -> Array:
    """Returns `x` with the one-hot label as further values of its last axis, the same in all places; or `x` itself.

    Args:
      x: [B, ..., C].
      label: i32 [B].
      num_classes: 0 if the network takes no labels.

    Example:
      >>> with_label(jnp.array([[0.5]]), jnp.array([1]), 3).tolist()
      [[0.5, 0.0, 1.0, 0.0]]
      >>> with_label(jnp.ones((2, 4, 4, 1)), jnp.array([0, 1]), 2).shape
      (2, 4, 4, 3)
    """
    if not num_classes:
        return x
    # One-hot labels, because the gradient of a look-up is a scatter, which could gather a sharded batch.
    one_hot = jax.nn.one_hot(label, num_classes, dtype=x.dtype)
    places = one_hot.reshape(len(x), *(1,) * (x.ndim - 2), num_classes)
    return jnp.concatenate([x, jnp.broadcast_to(places, (*x.shape[:-1], num_classes))], axis=-1)


class DenseEncoder(nn.Module):
    """Dense layers over all pixels (Kingma & Welling 2014, appendix C; gated: Tomczak & Welling 2018).

    Example:
      >>> import jax
      >>> x = jnp.ones((2, 8, 8, 1))
      >>> jax.eval_shape(DenseEncoder(latents=3, hidden=(16,)).init_with_output, jax.random.key(0), x)[0].shape
      (2, 6)
    """

    latents: int
    hidden: tuple[int, ...] = (300, 300)
    activation: str = "gated"
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None) -> Array:
        """Returns [B, 2 latents]."""
        x = with_label(x.reshape(len(x), -1), label, self.num_classes)
        h = Hidden(self.hidden, self.activation, self.dtype, name="hidden")(x)
        return nn.Dense(2 * self.latents, dtype=self.dtype, name="posterior")(h)


class DenseDecoder(nn.Module):
    """The encoder's dense layers in reverse order.

    Example:
      >>> import jax
      >>> decoder = DenseDecoder(image_shape=(8, 8, 1), hidden=(16,))
      >>> jax.eval_shape(decoder.init_with_output, jax.random.key(0), jnp.ones((2, 3)))[0].shape
      (2, 8, 8, 1)
    """

    image_shape: tuple[int, int, int]
    num_outputs: int = 1
    hidden: tuple[int, ...] = (300, 300)
    activation: str = "gated"
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None) -> Array:
        """Returns [B, H, W, num_outputs C]."""
        height, width, channels = self.image_shape
        z = with_label(z, label, self.num_classes)
        h = Hidden(self.hidden[::-1], self.activation, self.dtype, name="hidden")(z)
        h = nn.Dense(height * width * channels * self.num_outputs, dtype=self.dtype, name="out")(h)
        return h.reshape(-1, height, width, channels * self.num_outputs)


class ConvEncoder(nn.Module):
    """Convolutions of stride 2 with ReLU, then dense layers.

    Burgess et al. 2018: channels (32, 32, 32, 32), kernels (4, 4, 4, 4), hidden (256, 256). Locatello et al. 2019:
    (32, 32, 64, 64), (4, 4, 2, 2), (256,). Both with the decoder's `last_stride` 2.

    Example:
      >>> import jax
      >>> x = jnp.ones((2, 8, 8, 1))
      >>> jax.eval_shape(ConvEncoder(latents=3, channels=(4, 8)).init_with_output, jax.random.key(0), x)[0].shape
      (2, 6)
    """

    latents: int
    channels: tuple[int, ...] = (32, 64)
    kernels: tuple[int, ...] = (3, 3)
    hidden: tuple[int, ...] = (16,)
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None) -> Array:
        """Returns [B, 2 latents]."""
        if len(self.kernels) != len(self.channels):
            raise UserError(f"config.network.kernels {self.kernels} needs as many values as channels {self.channels}")
        init, x = ACTIVATIONS["relu"].kernel_init, with_label(x, label, self.num_classes)
        for number, (features, size) in enumerate(zip(self.channels, self.kernels, strict=True)):
            layer = Conv(features, (size, size), (2, 2), kernel_init=init, dtype=self.dtype, name=f"conv_{number}")
            x = nn.relu(layer(x))
        h = Hidden(self.hidden, dtype=self.dtype, name="hidden")(x.reshape(len(x), -1))
        return nn.Dense(2 * self.latents, dtype=self.dtype, name="posterior")(h)


class ConvDecoder(nn.Module):
    """Dense layers, then layers that double the size with ReLU, and a final one for the outputs.

    `upsampling` is a key of UPSAMPLINGS: transposed convolutions, or a convolution of repeated pixels (`nearest`) or to
    sub-pixels (`shuffle`), which start without a checkerboard pattern. Sizes that do not halve evenly are cropped.

    Example:
      >>> import jax
      >>> decoder = ConvDecoder(image_shape=(9, 9, 1), channels=(4, 8), decoder_channels=(8, 4))
      >>> jax.eval_shape(decoder.init_with_output, jax.random.key(0), jnp.ones((2, 3)))[0].shape
      (2, 9, 9, 1)
    """

    image_shape: tuple[int, int, int]
    num_outputs: int = 1
    channels: tuple[int, ...] = (32, 64)
    decoder_hidden: tuple[int, ...] = ()
    decoder_channels: tuple[int, ...] = (64, 32)
    decoder_kernel: int = 3
    last_stride: int = 1
    upsampling: str = "transposed"
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None) -> Array:
        """Returns [B, H, W, num_outputs C]; the first feature map has as many channels as the encoder's last."""
        require_choice("network.upsampling", self.upsampling, UPSAMPLINGS)
        grow, size = UPSAMPLINGS[self.upsampling], self.decoder_kernel
        height, width, start = _start(self.image_shape, 2 ** len(self.decoder_channels) * self.last_stride)
        widths = (*self.decoder_hidden, start[0] * start[1] * self.channels[-1])
        z = with_label(z, label, self.num_classes)
        h = Hidden(widths, dtype=self.dtype, name="hidden")(z).reshape(-1, *start, self.channels[-1])
        init = ACTIVATIONS["relu"].kernel_init
        for number, features in enumerate(self.decoder_channels):
            h = nn.relu(grow(h, features, size, 2, kernel_init=init, dtype=self.dtype, name=f"conv_{number}"))
        outputs, init = self.num_outputs * self.image_shape[-1], nn.initializers.lecun_normal()
        h = grow(h, outputs, size, self.last_stride, kernel_init=init, dtype=self.dtype, name="out")
        return h[:, :height, :width]


class ResidualEncoder(nn.Module):
    """Levels that each halve the size, with residual blocks of RMS normalisation and swish.

    Example:
      >>> import jax
      >>> x = jnp.ones((2, 9, 9, 1))
      >>> jax.eval_shape(ResidualEncoder(latents=3, channels=(4, 8)).init_with_output, jax.random.key(0), x)[0].shape
      (2, 6)
    """

    latents: int
    channels: tuple[int, ...] = (32, 64)
    num_blocks: int = 1
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None) -> Array:
        """Returns [B, 2 latents]. Sizes that do not halve evenly are padded with zeros."""
        h = downwards(with_label(x, label, self.num_classes), self.channels, self.num_blocks, self.dtype)
        return nn.Dense(2 * self.latents, dtype=self.dtype, name="posterior")(h.reshape(len(h), -1))


class ResidualDecoder(nn.Module):
    """The encoder's levels in reverse order, with sub-pixel convolutions for upsampling.

    Example:
      >>> import jax
      >>> decoder = ResidualDecoder(image_shape=(9, 9, 1), channels=(4, 8))
      >>> jax.eval_shape(decoder.init_with_output, jax.random.key(0), jnp.ones((2, 3)))[0].shape
      (2, 9, 9, 1)
    """

    image_shape: tuple[int, int, int]
    num_outputs: int = 1
    channels: tuple[int, ...] = (32, 64)
    num_blocks: int = 1
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None) -> Array:
        """Returns [B, H, W, num_outputs C]."""
        _, _, start = _start(self.image_shape, 2 ** len(self.channels))
        z = with_label(z, label, self.num_classes)
        h = nn.Dense(start[0] * start[1] * self.channels[-1], dtype=self.dtype, name="in")(z)
        return _upwards(self, h.reshape(-1, *start, self.channels[-1]))


def downwards(x: Array, channels: tuple[int, ...], num_blocks: int, dtype: Any) -> Array:
    """Returns the features [B, h, w, channels[-1]] after the levels of a residual encoder, for a module's `__call__`.

    Sizes that do not halve evenly are padded with zeros.
    """
    multiple = 2 ** len(channels)
    h = jnp.pad(x, ((0, 0), *((0, -size % multiple) for size in x.shape[1:3]), (0, 0)))
    for level, features in enumerate(channels):
        h = Dense(features, dtype=dtype, name=f"down_{level}")(space_to_depth(h, 2))
        for number in range(num_blocks):
            h = ResidualBlock(features, RMSNorm, dtype=dtype, name=f"block_{level}_{number}")(h)
    return nn.silu(RMSNorm(name="norm")(h))


def _upwards(network: ResidualDecoder | SpatialDecoder, h: Array) -> Array:
    """The levels of a decoder, from the smallest picture to the outputs."""
    height, width, channels = network.image_shape
    for level, features in reversed(list(enumerate(network.channels))):
        if level + 1 < len(network.channels):
            h = depth_to_space(Dense(4 * features, dtype=network.dtype, name=f"up_{level}")(h), 2)
        for number in range(network.num_blocks):
            h = ResidualBlock(features, RMSNorm, dtype=network.dtype, name=f"block_{level}_{number}")(h)
    h = nn.silu(RMSNorm(name="norm")(h))
    h = Conv(4 * network.num_outputs * channels, (3, 3), dtype=network.dtype, name="out")(h)
    return depth_to_space(h, 2)[:, :height, :width]


class SpatialEncoder(nn.Module):
    """Like `ResidualEncoder`, but the code is a small picture: Z / (h w) numbers at each position of the last level.

    Example:
      >>> import jax
      >>> x = jnp.ones((2, 9, 9, 1))
      >>> jax.eval_shape(SpatialEncoder(latents=18, channels=(4, 8)).init_with_output, jax.random.key(0), x)[0].shape
      (2, 36)
    """

    latents: int
    channels: tuple[int, ...] = (32, 64)
    num_blocks: int = 1
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None) -> Array:
        """Returns [B, 2 latents]: all means, then all log variances."""
        _, _, features = places(x.shape[1:], len(self.channels), self.latents)
        h = downwards(with_label(x, label, self.num_classes), self.channels, self.num_blocks, self.dtype)
        mean, log_var = jnp.split(Conv(2 * features, (3, 3), dtype=self.dtype, name="posterior")(h), 2, axis=-1)
        return jnp.concatenate([mean.reshape(len(x), -1), log_var.reshape(len(x), -1)], axis=-1)


class SpatialDecoder(nn.Module):
    """The levels of `SpatialEncoder` in reverse order.

    Example:
      >>> import jax
      >>> decoder = SpatialDecoder(image_shape=(9, 9, 1), channels=(4, 8))
      >>> jax.eval_shape(decoder.init_with_output, jax.random.key(0), jnp.ones((2, 18)))[0].shape
      (2, 9, 9, 1)
    """

    image_shape: tuple[int, int, int]
    num_outputs: int = 1
    channels: tuple[int, ...] = (32, 64)
    num_blocks: int = 1
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None) -> Array:
        """Returns [B, H, W, num_outputs C] for z [B, Z]."""
        h = z.reshape(len(z), *places(self.image_shape, len(self.channels), z.shape[-1]))
        h = Conv(self.channels[-1], (3, 3), dtype=self.dtype, name="in")(with_label(h, label, self.num_classes))
        return _upwards(self, h)


NETWORKS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "dense": (DenseEncoder, DenseDecoder),
    "conv": (ConvEncoder, ConvDecoder),
    "residual": (ResidualEncoder, ResidualDecoder),
    "spatial": (SpatialEncoder, SpatialDecoder),
}
"""From a name to an encoder and a decoder; `config.network` holds their fields."""

GIVEN = ("latents", "image_shape", "num_outputs", "num_classes", "dtype")


def make(
    config: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    latents: int,
    num_outputs: int,
    dtype: Any,
    num_classes: int = 0,
) -> tuple[nn.Module, nn.Module]:
    """Returns the encoder and the decoder of `config.network`.

    Args:
      config: `name`, a key of NETWORKS, and fields of its encoder and its decoder.
      image_shape: (H, W, C).
      latents: Z.
      num_outputs: of the likelihood, per pixel value.
      dtype: of the computation.
      num_classes: of the labels that both take; 0 for none.

    Raises:
      UserError: an unknown network, or an unknown field.

    Example:
      >>> encoder, decoder = make({"name": "dense", "hidden": (16,)}, (8, 8, 1), 2, 1, jnp.float32)
      >>> encoder.hidden, decoder.hidden
      ((16,), (16,))
    """
    given = {"latents": latents, "image_shape": image_shape, "num_outputs": num_outputs}
    given |= {"num_classes": num_classes, "dtype": dtype}
    encoder, decoder = modules_of(config, NETWORKS, given)
    return encoder, decoder


def code_shape(config: Mapping[str, Any], image_shape: tuple[int, int, int], latents: int) -> tuple[int, ...]:
    """Returns the shape of a code of `latents` numbers: (latents,), or (h, w, c) if the code is a small picture.

    Raises:
      UserError: `latents` is not a multiple of the number of positions.

    Example:
      >>> code_shape({"name": "spatial", "channels": (8, 8)}, (28, 28, 1), 196)
      (7, 7, 4)
    """
    if config["name"] != "spatial":
        return (latents,)
    return places(image_shape, len(config["channels"]), latents)


def places(image_shape: tuple[int, ...], levels: int, latents: int) -> tuple[int, int, int]:
    """Returns height, width and channels of a code of `latents` numbers, where each level halves the image.

    Raises:
      UserError: `latents` is not a multiple of the number of positions.

    Example:
      >>> places((9, 9, 1), levels=2, latents=18)
      (3, 3, 2)
    """
    height, width = halved(image_shape, levels)
    if latents % (height * width):
        near = max(1, round(latents / (height * width))) * height * width
        raise UserError(
            f"config.vae.latents is {latents}, but the code is a picture of {height}x{width} positions with equally "
            f"many numbers each: use {near}"
        )
    return height, width, latents // (height * width)


def halved(image_shape: tuple[int, ...], levels: int) -> tuple[int, int]:
    """Returns height and width, rounded up, of images (H, W, C) that `levels` levels halve.

    Example:
      >>> halved((28, 9, 1), levels=2)
      (7, 3)
    """
    height, width = (-(-size // 2**levels) for size in image_shape[:2])
    return height, width


def _start(image_shape: tuple[int, int, int], factor: int) -> tuple[int, int, tuple[int, int]]:
    """Height, width, and the size (rounded up) of the feature map that is upsampled to them by `factor`."""
    height, width, _ = image_shape
    if min(height, width) < factor:
        raise UserError(
            f"images of {height}x{width} are smaller than the network's stride of {factor} pixels: shorten "
            "config.network.channels, or decoder_channels"
        )
    return height, width, (-(-height // factor), -(-width // factor))

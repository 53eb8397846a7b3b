"""Encoders and decoders of codes on a grid: a vector at each place, for quantizers and sparse codes.

An encoder maps images [B, H, W, C] to [B, h, w, features]; a decoder maps these numbers, as z [B, Z], to images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.config import modules_of
from gen_jax.method import Array, UserError
from gen_jax.nn.conv import Conv, ConvTranspose
from gen_jax.nn.dense import Dense
from gen_jax.vae.networks import SpatialDecoder, downwards, halved, places


class GridEncoder(nn.Module):
    """The levels of `SpatialEncoder` with one vector for each position.

    Example:
      >>> import jax
      >>> x = jnp.ones((2, 9, 9, 1))
      >>> jax.eval_shape(GridEncoder(features=5, channels=(4, 8)).init_with_output, jax.random.key(0), x)[0].shape
      (2, 3, 3, 5)
    """

    features: int
    channels: tuple[int, ...] = (32, 64)
    num_blocks: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B, h, w, features]. Sizes that do not halve evenly are padded with zeros."""
        h = downwards(x, self.channels, self.num_blocks, self.dtype)
        return Conv(self.features, (3, 3), dtype=self.dtype, name="code")(h)


class StridedEncoder(nn.Module):
    """Convolutions of stride 2, then residual blocks (van den Oord et al. 2017, with the sizes of their example code).

    Example:
      >>> import jax
      >>> x = jnp.ones((2, 9, 9, 1))
      >>> jax.eval_shape(StridedEncoder(features=5, channels=(4, 8)).init_with_output, jax.random.key(0), x)[0].shape
      (2, 3, 3, 5)
    """

    features: int
    channels: tuple[int, ...] = (64, 128)
    num_blocks: int = 2
    block_channels: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B, h, w, features]."""
        for number, features in enumerate(self.channels):
            x = nn.relu(Conv(features, (4, 4), (2, 2), dtype=self.dtype, name=f"conv_{number}")(x))
        x = Conv(self.channels[-1], (3, 3), dtype=self.dtype, name="mix")(x)
        return Dense(self.features, dtype=self.dtype, name="code")(_residual_stack(self, x))


class StridedDecoder(nn.Module):
    """The layers of `StridedEncoder` in reverse order, with transposed convolutions.

    Example:
      >>> import jax
      >>> decoder = StridedDecoder(image_shape=(9, 9, 1), channels=(4, 8))
      >>> jax.eval_shape(decoder.init_with_output, jax.random.key(0), jnp.ones((2, 45)))[0].shape
      (2, 9, 9, 1)
    """

    image_shape: tuple[int, int, int]
    num_outputs: int = 1
    channels: tuple[int, ...] = (64, 128)
    num_blocks: int = 2
    block_channels: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """Returns [B, H, W, num_outputs C] for z [B, Z]."""
        height, width, outputs = self.image_shape
        h = z.reshape(len(z), *places(self.image_shape, len(self.channels), z.shape[-1]))
        h = _residual_stack(self, Conv(self.channels[-1], (3, 3), dtype=self.dtype, name="mix")(h))
        for number, features in reversed(list(enumerate(self.channels[:-1]))):
            h = nn.relu(ConvTranspose(features, (4, 4), (2, 2), dtype=self.dtype, name=f"conv_{number}")(h))
        h = ConvTranspose(self.num_outputs * outputs, (4, 4), (2, 2), dtype=self.dtype, name="out")(h)
        return h[:, :height, :width]


def _residual_stack(network: StridedEncoder | StridedDecoder, h: Array) -> Array:
    for number in range(network.num_blocks):
        inner = Conv(network.block_channels, (3, 3), dtype=network.dtype, name=f"block_{number}")(nn.relu(h))
        h = h + Dense(h.shape[-1], dtype=network.dtype, name=f"block_{number}_out")(nn.relu(inner))
    return nn.relu(h)


NETWORKS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "spatial": (GridEncoder, SpatialDecoder),
    "conv": (StridedEncoder, StridedDecoder),
}
"""From a name to an encoder and a decoder of vectors at each position: z is [B, h, w, features]."""

GIVEN = ("features", "image_shape", "num_outputs", "num_classes", "dtype")


def make(
    config: Mapping[str, Any], image_shape: tuple[int, int, int], features: int, dtype: Any
) -> tuple[nn.Module, nn.Module]:
    """Returns the encoder and the decoder of `config.network` with a vector of `features` numbers at each position.

    Raises:
      UserError: an unknown network, or an unknown field.

    Example:
      >>> encoder, decoder = make({"name": "spatial", "channels": (8,)}, (8, 8, 1), 5, jnp.float32)
      >>> encoder.features, decoder.channels
      (5, (8,))
    """
    given = {"features": features, "image_shape": image_shape, "num_outputs": 1, "dtype": dtype}
    encoder, decoder = modules_of(config, NETWORKS, given)
    return encoder, decoder


def size(config: Mapping[str, Any], image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Returns height and width of the code of an image, where each level of `config.network` halves it.

    Raises:
      UserError: the image is smaller than what one position of the code stands for.

    Example:
      >>> size({"name": "spatial", "channels": (8, 8)}, (28, 28, 1))
      (7, 7)
    """
    height, width, _ = image_shape
    stride = 2 ** len(config["channels"])
    if min(height, width) < stride:
        raise UserError(
            f"images of {height}x{width} are smaller than the {stride}x{stride} pixels of one code: shorten "
            "config.network.channels"
        )
    return halved(image_shape, len(config["channels"]))

"""NETWORKS: the generator (x_t, z, t) -> x0 of a denoising diffusion GAN and its discriminator D(x_s, x_t, t), by name.

Neither has batch normalisation: a logit depends on its own example alone, as gradient penalties require.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.diffusion.unet import UNet
from gen_jax.method import Array, UserError
from gen_jax.nn.blocks import ResidualBlock, even_padding, kernel_init, space_to_depth
from gen_jax.nn.conv import Conv
from gen_jax.nn.dense import Dense
from gen_jax.nn.embedding import sinusoidal
from gen_jax.nn.norm import RMSNorm


class UNetGenerator(nn.Module):
    """A U-Net of x_t whose norms are scaled and shifted by the time, the label and a mapping of z.

    z is scaled to length sqrt(Z), then mapped by dense layers (Xiao et al. 2022, appendix C).

    Attributes:
      out_channels: of the image.
      num_classes: 0 for no labels.
      channels: width of the first level.
      multipliers: width of each level, in units of `channels`; between two levels the size is halved.
      num_blocks: residual blocks per level on the way down; one more on the way up.
      attention_sizes: heights of the levels (after patch and padding) with attention, in addition to the middle.
      patch: side of the pixel patches that become channels of one position; the discriminator has the same.
      mapping_width: of the dense layers that z goes through.
      mapping_depth: their number.
      dtype: of the computation.

    Example:
      >>> generator = UNetGenerator(out_channels=1, channels=8)
      >>> x_t, z, time = jnp.ones((2, 8, 8, 1)), jnp.ones((2, 5)), jnp.array([0.0, 750.0])
      >>> jax.eval_shape(generator.init_with_output, jax.random.key(0), x_t, z, time)[0].shape
      (2, 8, 8, 1)
    """

    out_channels: int
    num_classes: int = 0
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    num_blocks: int = 1
    attention_sizes: tuple[int, ...] = ()
    patch: int = 2
    mapping_width: int = 256
    mapping_depth: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_t: Array, z: Array, time: Array, label: Array | None = None) -> Array:
        """Returns f32 [B, H, W, out_channels], unbounded, for `x_t` [B, H, W, C], `z` [B, Z], `time` [B] in 0..1000."""
        h = z * jax.lax.rsqrt(jnp.mean(jnp.square(z), axis=-1, keepdims=True) + 1e-8)
        for number in range(self.mapping_depth):
            layer = Dense(self.mapping_width, kernel_init=kernel_init, dtype=self.dtype, name=f"mapping_{number}")
            h = nn.silu(layer(h))
        style = Dense(4 * self.channels, kernel_init=kernel_init, dtype=self.dtype, name="style")(h)
        unet = UNet(
            self.out_channels, self.channels, self.multipliers, self.num_blocks, self.attention_sizes,
            patch=self.patch, norm="rms", film=True, shuffle=True, use_bias=False, num_classes=self.num_classes,
            dtype=self.dtype, name="unet",
        )  # fmt: skip
        return unet(x_t, time, label=label, extra=style)


class PairDiscriminator(nn.Module):
    """Residual blocks over x_s and x_t side by side, each level of half the size, told the time and the label.

    Attributes:
      num_classes: 0 for no labels.
      patch: side of the pixel patches that become channels of one position.
      discriminator_channels: of the levels.
      dtype: of the computation.

    Example:
      >>> x, time = jnp.ones((2, 9, 8, 1)), jnp.array([0.0, 750.0])
      >>> network = PairDiscriminator(discriminator_channels=(4, 8))
      >>> jax.eval_shape(network.init_with_output, jax.random.key(0), x, x, time)[0].shape
      (2,)
    """

    num_classes: int = 0
    patch: int = 2
    discriminator_channels: tuple[int, ...] = (32, 64)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_s: Array, x_t: Array, time: Array, label: Array | None = None) -> Array:
        """Returns logits f32 [B] for `x_s` and `x_t` [B, H, W, C] and `time` [B], 0..1000."""
        widths = self.discriminator_channels
        if not widths or self.patch < 1:
            raise UserError(
                f"config.network.discriminator_channels is {widths} and patch is {self.patch}: at least one level, and "
                "patches of one pixel or more"
            )
        condition = self._condition(time, label, widths[0])
        pads = [even_padding(size, self.patch * 2 ** len(widths)) for size in x_s.shape[1:3]]
        pair = jnp.pad(jnp.concatenate([x_s, x_t], axis=-1), ((0, 0), *pads, (0, 0))).astype(self.dtype)
        conv = Conv(widths[0], (3, 3), kernel_init=kernel_init, dtype=self.dtype, name="in")
        h = conv(space_to_depth(pair, self.patch))
        for level, features in enumerate(widths):
            h = ResidualBlock(features, RMSNorm, dtype=self.dtype, name=f"block_{level}")(h, condition)
            down = Dense(features, kernel_init=kernel_init, dtype=self.dtype, name=f"down_{level}")
            h = down(space_to_depth(h, 2))
        h = nn.silu(RMSNorm(name="norm")(h)).mean(axis=(1, 2))
        return Dense(1, kernel_init=kernel_init, dtype=self.dtype, name="out")(h).astype(jnp.float32)[:, 0]

    def _condition(self, time: Array, label: Array | None, width: int) -> Array:
        dense = {"kernel_init": kernel_init, "dtype": self.dtype}
        condition = Dense(4 * width, name="time_0", **dense)(sinusoidal(time, max(4, width + width % 2)))
        condition = Dense(4 * width, name="time_1", **dense)(nn.silu(condition))
        if self.num_classes:
            one_hot = jax.nn.one_hot(label, self.num_classes)
            condition += Dense(4 * width, use_bias=False, name="label", **dense)(one_hot)
        return condition


NETWORKS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {"unet": (UNetGenerator, PairDiscriminator)}
"""From a name to a generator and a discriminator; `config.network` holds their fields."""

GIVEN = ("out_channels", "num_classes", "dtype")

"""NETWORKS: the generator (x_t, z, t) -> x0 of a denoising diffusion GAN and its discriminator D(x_s, x_t, t), by name.

Neither has batch normalisation: a logit depends on its own example alone, as gradient penalties require.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.diffusion.unet import UNet
from gen_jax.gan.convolutional import ConvDiscriminator
from gen_jax.method import Array, UserError
from gen_jax.nn.blocks import kernel_init
from gen_jax.nn.dense import Dense


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
      patch: side of the pixel patches that become channels of one position.
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
    """A convolutional discriminator of x_s and x_t side by side, with a projection for each pair of time and label.

    Its features keep their places until the dense layer: one that averaged them lost the game (docs/results.md).

    Attributes:
      num_classes: 0 for no labels.
      num_times: of the times t.
      discriminator_channels: of the convolutions, each of which halves the size.
      hidden: widths of dense layers after the convolutions.
      dtype: of the computation.

    Example:
      >>> x, t = jnp.ones((2, 9, 8, 1)), jnp.array([0, 3])
      >>> network = PairDiscriminator(discriminator_channels=(4, 8), hidden=(16,))
      >>> jax.eval_shape(network.init_with_output, jax.random.key(0), x, x, t)[0].shape
      (2,)
    """

    num_classes: int = 0
    num_times: int = 4
    discriminator_channels: tuple[int, ...] = (64, 128)
    hidden: tuple[int, ...] = (256,)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_s: Array, x_t: Array, t: Array, label: Array | None = None) -> Array:
        """Returns logits f32 [B] for `x_s` and `x_t` [B, H, W, C], `t` i32 [B] and `label` i32 [B]."""
        if not self.discriminator_channels:
            raise UserError("config.network.discriminator_channels is (); it must have at least one level")
        labels = max(self.num_classes, 1)
        judge = ConvDiscriminator(
            self.num_times * labels, channels=self.discriminator_channels, norm="none", hidden=self.hidden,
            dtype=self.dtype, name="pair",
        )  # fmt: skip
        return judge(jnp.concatenate([x_s, x_t], axis=-1), t * labels + (0 if label is None else label))


NETWORKS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {"unet": (UNetGenerator, PairDiscriminator)}
"""From a name to a generator and a discriminator; `config.network` holds their fields."""

GIVEN = ("out_channels", "num_classes", "num_times", "dtype")

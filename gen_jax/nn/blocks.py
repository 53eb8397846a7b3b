"""Residual and attention blocks, and resampling without convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.method import Array
from gen_jax.nn.attention import SelfAttention
from gen_jax.nn.conv import Conv
from gen_jax.nn.dense import Dense
from gen_jax.nn.dropout import Dropout

# Ho et al. 2020 (released code): uniform, fan-avg; scale 1e-10 at the end of a residual branch: it starts as identity.
kernel_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
zero_init = nn.initializers.variance_scaling(1e-10, "fan_avg", "uniform")


def space_to_depth(x: Array, factor: int) -> Array:
    """Returns [B, H, W, C] as [B, H/factor, W/factor, factor^2 C]; `depth_to_space` inverts it.

    Example:
      >>> space_to_depth(jnp.arange(4.0).reshape(1, 2, 2, 1), 2).ravel().tolist()
      [0.0, 1.0, 2.0, 3.0]
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return x.swapaxes(2, 3).reshape(batch, height // factor, width // factor, -1)


def depth_to_space(x: Array, factor: int) -> Array:
    """Returns [B, H, W, factor^2 C] as [B, factor H, factor W, C] (sub-pixel convolution: Shi et al. 2016).

    Example:
      >>> depth_to_space(jnp.arange(4.0).reshape(1, 1, 1, 4), 2)[0, ..., 0].tolist()
      [[0.0, 1.0], [2.0, 3.0]]
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, factor, factor, channels // factor**2)
    return x.swapaxes(2, 3).reshape(batch, height * factor, width * factor, -1)


def even_padding(size: int, multiple: int) -> tuple[int, int]:
    """Returns how much to add before and after `size` so that it becomes a multiple.

    Example:
      >>> even_padding(9, 4)
      (1, 2)
    """
    total = -size % multiple
    return total // 2, total - total // 2


def upsample_nearest(x: Array, factor: int = 2) -> Array:
    """Returns [B, H, W, C] as [B, factor H, factor W, C], every pixel repeated.

    Example:
      >>> upsample_nearest(jnp.array([[[[7.0]]]])).ravel().tolist()
      [7.0, 7.0, 7.0, 7.0]
    """
    return x.repeat(factor, axis=1).repeat(factor, axis=2)


def recomputed(layer: nn.Module, *args: Any, **settings: Any) -> Any:
    """Returns `layer(*args, **settings)`, whose inner values are computed again for the gradient instead of being kept.

    Results and gradients are the same: it saves memory, at the cost of a second forward pass.
    """
    return nn.remat(lambda layer, *args: layer(*args, **settings))(layer, *args)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after norm and swish, with a condition between them (Ho et al. 2020, appendix B).

    Attributes:
      features: channels of the output; the shortcut has a 1x1 projection if the input has another number.
      norm: factory of a normalisation layer, called as norm(x) or norm(x, scale, shift).
      film: whether the condition scales and shifts the second norm (Dhariwal & Nichol 2021), or is added before it.
      dropout: before the last convolution.
      use_bias: whether the first convolution, before a norm, has a bias.
      dtype: of the computation.

    Example:
      >>> import jax
      >>> from gen_jax.nn.norm import RMSNorm
      >>> x, condition = jnp.ones((1, 4, 4, 8)), jnp.ones((1, 16))
      >>> y, _ = ResidualBlock(8, norm=RMSNorm).init_with_output(jax.random.key(0), x, condition)
      >>> bool(jnp.allclose(y, x, atol=1e-3))  # starts as identity
      True
    """

    features: int
    norm: Callable[..., nn.Module]
    film: bool = True
    dropout: float = 0.0
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, condition: Array | None = None, index: Array | None = None, *, train: bool = False
    ) -> Array:
        """Returns [B, H, W, features] for `x` [B, H, W, C] and `condition` [B, D]; `index` as in Dropout."""
        h = nn.silu(self.norm(name="norm_0")(x))
        h = Conv(
            self.features, (3, 3), use_bias=self.use_bias, kernel_init=kernel_init, dtype=self.dtype, name="conv_0"
        )(h)
        scale = shift = None
        if condition is not None:
            width = self.features * (2 if self.film else 1)
            shift = Dense(width, kernel_init=kernel_init, dtype=self.dtype, name="condition")(nn.silu(condition))
            if self.film:
                scale, shift = jnp.split(shift, 2, axis=-1)
            else:
                h, shift = h + shift[:, None, None], None
        h = nn.silu(self.norm(name="norm_1")(h, scale, shift))
        h = Dropout(self.dropout)(h, index, train=train)
        h = Conv(self.features, (3, 3), kernel_init=zero_init, dtype=self.dtype, name="conv_1")(h)
        if x.shape[-1] != self.features:
            x = Dense(self.features, kernel_init=kernel_init, dtype=self.dtype, name="shortcut")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Norm, self-attention over all positions, residual (Ho et al. 2020, appendix B).

    Attributes:
      norm: factory of a normalisation layer.
      num_heads, use_bias, dtype, qk_norm: as in `SelfAttention`, `use_bias` as `qkv_bias`.

    Example:
      >>> import jax
      >>> from gen_jax.nn.norm import RMSNorm
      >>> x = jnp.ones((1, 4, 4, 8))
      >>> y, _ = AttentionBlock(norm=RMSNorm).init_with_output(jax.random.key(0), x)
      >>> bool(jnp.allclose(y, x, atol=1e-3))  # starts as identity
      True
    """

    norm: Callable[..., nn.Module]
    num_heads: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32
    qk_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B, H, W, C] like `x`."""
        h = self.norm(name="norm")(x)
        attention = SelfAttention(
            self.num_heads,
            self.use_bias,
            self.qk_norm,
            kernel_init=kernel_init,
            out_kernel_init=zero_init,
            dtype=self.dtype,
            name="attention",
        )
        return x + attention(h)

"""The diffusion transformer (DiT, Peebles & Xie 2023): patches as tokens, and a condition that modulates every block.

Our additions: normalised queries and keys, no biases of query, key and value, images of any size.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.method import Array, UserError
from gen_jax.nn.attention import SelfAttention
from gen_jax.nn.blocks import depth_to_space, even_padding, kernel_init, recomputed, space_to_depth
from gen_jax.nn.dense import Dense
from gen_jax.nn.embedding import condition_vector, positions, sinusoidal
from gen_jax.nn.norm import LayerNorm

NUM_FREQUENCIES = 256  # of the time embedding, sines and cosines together

SIZES = {
    "S": {"width": 384, "depth": 12, "num_heads": 6},
    "B": {"width": 768, "depth": 12, "num_heads": 12},
    "L": {"width": 1024, "depth": 24, "num_heads": 16},
    "XL": {"width": 1152, "depth": 28, "num_heads": 16},
}
"""The published sizes; "XL/2" is XL with patches of 2x2."""

_condition_init = nn.initializers.normal(0.02)
_zero_init = nn.initializers.zeros


class DiT(nn.Module):
    """Blocks of attention and MLP whose scale, shift and gate come from time and label (adaLN-Zero).

    Gates and the output layer start at zero: every block starts as the identity, and the prediction as 0. The defaults
    are S/2.

    Attributes:
      out_channels: number of channels of the prediction, as of the image.
      patch: side of the pixel patches that become tokens.
      width: channels of a token; divisible by 4.
      depth: number of blocks.
      num_heads: of attention; must divide `width`.
      mlp_ratio: channels inside an MLP, in units of `width`.
      qk_norm: whether queries and keys are normalised.
      qkv_bias: whether query, key and value have biases, as in the paper.
      num_classes: number of classes, or of values of an embedding; 0 for none.
      dtype: of the computation (jnp.bfloat16 where that is fast); parameters and output are f32.
      remat: whether the gradient computes the inner values of a block again instead of keeping them.

    Example:
      >>> import jax
      >>> dit = DiT(out_channels=1, patch=4, width=8, depth=1, num_heads=2)
      >>> x_t, time = jnp.ones((2, 8, 8, 1)), jnp.array([0.0, 999.0])
      >>> jax.eval_shape(dit.init_with_output, jax.random.key(0), x_t, time)[0].shape
      (2, 8, 8, 1)
    """

    out_channels: int = 3
    patch: int = 2
    width: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: int = 4
    qk_norm: bool = True
    qkv_bias: bool = False
    num_classes: int = 0
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x_t: Array,
        time: Array,
        span: Array | None = None,
        *,
        label: Array | None = None,
        index: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Returns the prediction, f32 [B, H, W, out_channels].

        Args:
          x_t: f32 [B, H, W, C]. Sizes that the patch does not divide are padded with zeros, and the output is cropped.
          time: f32 [B], noise conditioning (0..1000).
          span: f32 [B], how far the step to take leads on the scale of `time`, or None.
          label: i32 [B], or None for none; a label outside 0..num_classes-1 (such as -1) also means "none". Or
            embeddings f32 [B, num_classes], where zeros mean "none".
          index, train: unused: there is no dropout.
        """
        self._check(label)
        height, width = x_t.shape[1:3]
        pads = [even_padding(size, self.patch) for size in (height, width)]
        patches = space_to_depth(jnp.pad(x_t, ((0, 0), *pads, (0, 0))).astype(self.dtype), self.patch)
        batch, rows, columns, _ = patches.shape
        tokens = self._dense(self.width, name="in")(patches.reshape(batch, rows * columns, -1))
        tokens += jnp.asarray(positions(rows, columns, self.width), self.dtype)
        condition = nn.silu(self._condition(time, span, label))
        for i in range(self.depth):
            block = Block(self.num_heads, self.mlp_ratio, self.qk_norm, self.qkv_bias, self.dtype, name=f"block_{i}")
            tokens = (recomputed if self.remat else operator.call)(block, tokens, condition)

        modulation = self._dense(2 * self.width, kernel_init=_zero_init, name="out_modulation")(condition)
        shift, scale = jnp.split(modulation, 2, axis=-1)
        out = self._dense(self.out_channels * self.patch**2, kernel_init=_zero_init, name="out")(
            LayerNorm()(tokens, scale, shift)
        )
        out = depth_to_space(out.reshape(batch, rows, columns, -1), self.patch)
        top, left = (before for before, _ in pads)
        return out[:, top : top + height, left : left + width].astype(jnp.float32)

    def _dense(self, features: int, kernel_init: Any = kernel_init, **fields: Any) -> Dense:
        return Dense(features, kernel_init=kernel_init, dtype=self.dtype, **fields)

    def _condition(self, time: Array, span: Array | None, label: Array | None) -> Array:
        """The condition of every block, from time, span and label: [B, width]."""
        dense = functools.partial(self._dense, self.width, kernel_init=_condition_init)

        def embedded(values: Array, name: str) -> Array:
            h = dense(name=f"{name}_0")(sinusoidal(values, NUM_FREQUENCIES))
            return dense(name=f"{name}_1")(nn.silu(h))

        condition = embedded(time, "time")
        if span is not None:
            condition += embedded(span, "span")
        if self.num_classes:
            told = condition_vector(label, self.num_classes, len(time))
            condition += dense(use_bias=False, name="label")(told)
        return condition

    def _check(self, label: Array | None) -> None:
        for name in ("patch", "width", "depth", "num_heads", "mlp_ratio"):
            if getattr(self, name) < 1:
                raise UserError(f"config.network.{name} is {getattr(self, name)}; use 1 or more")
        if self.width % 4 or self.width % self.num_heads:
            raise UserError(
                f"config.network.width is {self.width}; use a multiple of 4 (for the sines and cosines of the "
                f"positions) and of config.network.num_heads, {self.num_heads}"
            )
        if label is not None and not self.num_classes:
            raise UserError("a label was given to a network without num_classes")


class Block(nn.Module):
    """Attention and MLP, each modulated before and gated after (adaLN-Zero); fields as in `DiT`."""

    num_heads: int
    mlp_ratio: int
    qk_norm: bool
    qkv_bias: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, condition: Array) -> Array:
        """Returns [B, N, C] like `x` for `condition` [B, C]."""
        width = x.shape[-1]
        modulation = Dense(6 * width, kernel_init=_zero_init, dtype=self.dtype, name="modulation")(condition)
        shift_0, scale_0, gate_0, shift_1, scale_1, gate_1 = jnp.split(modulation, 6, axis=-1)
        h = LayerNorm()(x, scale_0, shift_0)
        attention = SelfAttention(
            self.num_heads,
            self.qkv_bias,
            self.qk_norm,
            kernel_init=kernel_init,
            out_kernel_init=kernel_init,
            dtype=self.dtype,
            name="attention",
        )
        x += gate_0[:, None] * attention(h)
        h = LayerNorm()(x, scale_1, shift_1)
        h = Dense(self.mlp_ratio * width, kernel_init=kernel_init, dtype=self.dtype, name="mlp_0")(h)
        h = nn.gelu(h, approximate=True)
        return x + gate_1[:, None] * Dense(width, kernel_init=kernel_init, dtype=self.dtype, name="mlp_1")(h)

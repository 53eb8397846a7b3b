"""Self-attention over the positions of an image, or of any sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.method import Array
from gen_jax.nn.dense import Dense
from gen_jax.nn.norm import RMSNorm

Initializer = nn.initializers.Initializer


class SelfAttention(nn.Module):
    """Scaled dot-product attention (Vaswani et al. 2017) over all positions; query, key and value are one matmul.

    Attributes:
      num_heads: must divide the number of channels.
      qkv_bias: used by the DDPM paper. A bias of the keys has no effect (softmax cancels it), and Adam would
        turn its rounding noise into updates, so our own networks omit it.
      qk_norm: whether queries and keys are divided by their root mean square over a head's channels, with learned
        gains (Henry et al. 2020, Esser et al. 2024): logits stay bounded, however large the kernels grow.
      kernel_init, out_kernel_init: of the projections into and out of the heads; `kernel_init` draws the kernels of
        query, key and value one by one, each with its own fan.
      dtype: of the computation; softmax is f32, parameters are f32.

    Example:
      >>> x = jnp.ones((2, 4, 4, 8))
      >>> y, _ = SelfAttention(num_heads=2).init_with_output(jax.random.key(0), x)
      >>> y.shape
      (2, 4, 4, 8)
    """

    num_heads: int = 1
    qkv_bias: bool = False
    qk_norm: bool = False
    kernel_init: Initializer = nn.initializers.lecun_normal()
    out_kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B, ..., C] like `x`; the middle axes are the positions."""
        batch, channels = x.shape[0], x.shape[-1]
        if channels % self.num_heads:
            raise ValueError(f"{channels} channels do not divide into {self.num_heads} heads")
        width = channels // self.num_heads
        tokens = x.reshape(batch, -1, channels)
        qkv = Dense(3 * channels, self.qkv_bias, kernel_init=_thirds(self.kernel_init), dtype=self.dtype, name="qkv")(
            tokens
        )
        heads = (batch, -1, self.num_heads, width)
        q, k, v = (each.reshape(heads) for each in jnp.split(qkv, 3, axis=-1))  # [B, N, heads, width]
        if self.qk_norm:
            q, k = RMSNorm(name="query_norm")(q), RMSNorm(name="key_norm")(k)
        logits = jnp.einsum("bnhd,bmhd->bhnm", q * width**-0.5, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        mixed = jnp.einsum("bhnm,bmhd->bnhd", weights, v).reshape(x.shape)
        return Dense(channels, kernel_init=self.out_kernel_init, dtype=self.dtype, name="out")(mixed)


class Cache(NamedTuple):
    """Keys and values of a sequence of N tokens, [B, N, heads, width]; those of tokens to come are not read."""

    keys: Array
    values: Array


class CausalAttention(nn.Module):
    """Scaled dot-product attention in which a token sees itself and those before it, with normalised queries and keys.

    A sequence is taken at once, or piece by piece: a piece is given the cache that its predecessor returned.

    Attributes:
      num_heads: must divide the number of channels.
      kernel_init, out_kernel_init, dtype: as in `SelfAttention`.

    Example:
      >>> x = jnp.ones((2, 5, 8))
      >>> y, cache = jax.eval_shape(CausalAttention(num_heads=2).init_with_output, jax.random.key(0), x)[0]
      >>> y.shape, cache.keys.shape
      ((2, 5, 8), (2, 5, 2, 4))
    """

    num_heads: int = 1
    kernel_init: Initializer = nn.initializers.lecun_normal()
    out_kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, cache: Cache | None = None, place: Array | int = 0) -> tuple[Array, Cache]:
        """Returns [B, M, C] like `x`, and the cache with these M tokens.

        Args:
          x: [B, M, C], the tokens at `place` and after it.
          cache: of the whole sequence, with the tokens before `place`; None if `x` is the whole sequence.
          place: of the first token of `x`.
        """
        batch, num, channels = x.shape
        if channels % self.num_heads:
            raise ValueError(f"{channels} channels do not divide into {self.num_heads} heads")
        width = channels // self.num_heads
        qkv = Dense(3 * channels, False, kernel_init=_thirds(self.kernel_init), dtype=self.dtype, name="qkv")(x)
        q, k, v = (y.reshape(batch, num, self.num_heads, width) for y in jnp.split(qkv, 3, axis=-1))
        q, k = RMSNorm(name="query_norm")(q), RMSNorm(name="key_norm")(k)
        if cache is not None:
            k = jax.lax.dynamic_update_slice_in_dim(cache.keys, k, place, 1)
            v = jax.lax.dynamic_update_slice_in_dim(cache.values, v, place, 1)
        logits = jnp.einsum("bnhd,bmhd->bhnm", q * width**-0.5, k, preferred_element_type=jnp.float32)
        seen = jnp.arange(k.shape[1]) <= place + jnp.arange(num)[:, None]
        weights = jax.nn.softmax(logits, axis=-1, where=seen).astype(v.dtype)
        mixed = jnp.einsum("bhnm,bmhd->bnhd", weights, v).reshape(x.shape)
        y = Dense(channels, kernel_init=self.out_kernel_init, dtype=self.dtype, name="out")(mixed)
        return y, Cache(k, v)


def _thirds(init: Initializer) -> Initializer:
    """Returns an initializer of a joint [in, 3 * out] kernel that gives each third the scale of `init` on its own."""

    def initialize(key: Array, shape: Sequence[int], *rest: Any) -> Array:
        third = (*shape[:-1], shape[-1] // 3)
        return jnp.concatenate([init(k, third, *rest) for k in jax.random.split(key, 3)], axis=-1)

    return initialize

"""The layers of a causal transformer, and their caches."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.method import Array, UserError
from gen_jax.nn.attention import Cache, CausalAttention
from gen_jax.nn.blocks import kernel_init
from gen_jax.nn.dense import Dense
from gen_jax.nn.norm import LayerNorm


def causal_layers(
    h: Array,
    depth: int,
    num_heads: int,
    mlp_ratio: int,
    dtype: Any,
    caches: tuple[Cache, ...] | None = None,
    place: Array | int = 0,
) -> tuple[Array, tuple[Cache, ...]]:
    """Returns tokens [B, M, width] after layers of causal attention and MLP, normalised, and the cache of each layer.

    It is called inside a compact method of a Flax module, whose parameters `attention_<i>` and `mlp_<i>_<0 or 1>` are.

    Args:
      h: [B, M, width], tokens with their places.
      depth: number of layers.
      num_heads: of attention; must divide the width.
      mlp_ratio: channels inside an MLP, in units of the width.
      dtype: of the computation.
      caches, place: as in `CausalAttention`, of each layer.
    """
    width, filled = h.shape[-1], []

    def dense(features: int, name: str) -> Dense:
        return Dense(features, kernel_init=kernel_init, dtype=dtype, name=name)

    for i in range(depth):
        attention = CausalAttention(num_heads, kernel_init, kernel_init, dtype, name=f"attention_{i}")
        y, cache = attention(LayerNorm()(h), caches[i] if caches else None, place)
        filled.append(cache)
        h += y
        y = nn.gelu(dense(mlp_ratio * width, f"mlp_{i}_0")(LayerNorm()(h)), approximate=True)
        h += dense(width, f"mlp_{i}_1")(y)
    return LayerNorm()(h), tuple(filled)


def no_caches(batch: int, num: int, width: int, depth: int, num_heads: int, dtype: Any) -> tuple[Cache, ...]:
    """Returns the caches of sequences of `num` tokens of which none is known yet; other arguments as above."""
    shape = (batch, num, num_heads, width // num_heads)
    return tuple(Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(depth))


def refuse_empty(**sizes: int) -> None:
    """Raises a UserError for the first field of config.network that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"config.network.{name} is {size}; use 1 or more")

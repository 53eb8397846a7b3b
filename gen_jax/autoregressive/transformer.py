"""A causal transformer over the places of a grid, row by row, with learned positions."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.autoregressive.domain import Choose
from gen_jax.method import Array, PyTree, UserError
from gen_jax.nn import causal
from gen_jax.nn.attention import Cache
from gen_jax.nn.blocks import kernel_init
from gen_jax.nn.dense import Dense


class Transformer(nn.Module):
    """Layers of causal attention and MLP, of which the last layer starts at zero: every value is equally likely.

    Attributes:
      num_values: K, of a place.
      grid: rows and columns.
      width: channels of a token.
      depth: number of layers.
      num_heads: of attention; must divide `width`.
      mlp_ratio: channels inside an MLP, in units of `width`.
      num_classes: of the labels; 0 for none.
      dtype: of the computation; parameters and output are f32.

    Example:
      >>> network = Transformer(num_values=5, grid=(3, 4), width=8, depth=1, num_heads=2)
      >>> y, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), jnp.ones((2, 3, 4, 6)))
      >>> y.shape
      (2, 3, 4, 5)
    """

    num_values: int
    grid: tuple[int, int]
    width: int = 128
    depth: int = 4
    num_heads: int = 4
    mlp_ratio: int = 4
    num_classes: int = 0
    dtype: Any = jnp.float32

    def __call__(self, x: Array, label: Array | None = None) -> Array:
        """Returns logits f32 [B, H, W, K] of each place, given all places before it, row by row.

        Args:
          x: f32 [B, H, W, F], tokens.
          label: i32 [B], or None.
        """
        tokens = x.reshape(len(x), math.prod(self.grid), -1)
        before = jnp.pad(tokens, ((0, 0), (1, 0), (0, 0)))[:, :-1]  # a token of zeros stands before the first one
        return self.behind(before, label)[0].reshape(len(x), *self.grid, self.num_values)

    @nn.compact
    def behind(
        self,
        before: Array,
        label: Array | None = None,
        caches: tuple[Cache, ...] | None = None,
        place: Array | int = 0,
    ) -> tuple[Array, tuple[Cache, ...]]:
        """Returns logits f32 [B, M, K] of the places behind M tokens, and the cache of each layer.

        Args:
          before: f32 [B, M, F], tokens.
          label: i32 [B], or None.
          caches, place: as in `CausalAttention`, of each layer.
        """
        self._check()
        table = self.param("positions", nn.initializers.normal(0.02), (math.prod(self.grid), self.width))
        h = Dense(self.width, kernel_init=kernel_init, dtype=self.dtype, name="in")(before)
        h += jax.lax.dynamic_slice_in_dim(table.astype(self.dtype), place, before.shape[1])
        if self.num_classes and label is not None:
            one_hot = jax.nn.one_hot(label, self.num_classes)
            h += Dense(self.width, False, kernel_init=kernel_init, dtype=self.dtype, name="label")(one_hot)[:, None]
        h, filled = causal.causal_layers(h, self.depth, self.num_heads, self.mlp_ratio, self.dtype, caches, place)
        logits = Dense(self.num_values, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="out")(h)
        return logits.astype(jnp.float32), filled

    def generate(self, params: PyTree, start: Array, choose: Choose, label: Array | None = None) -> Any:
        """Returns what `choose` keeps of each place, [N, H, W, ...]: one compiled loop with cached keys and values.

        Args:
          params: of this network.
          start: zeros f32 [N, F], tokens.
          choose: of a place.
          label: i32 [N], or None.
        """

        def one(carry: Any, place: Array) -> Any:
            token, caches = carry
            logits: Any
            logits, caches = self.apply({"params": params}, token[:, None], label, caches, place, method="behind")
            token, kept = choose(logits[:, 0], place)
            return (token, caches), kept

        num = math.prod(self.grid)
        caches = causal.no_caches(len(start), num, self.width, self.depth, self.num_heads, self.dtype)
        _, kept = jax.lax.scan(one, (start, caches), jnp.arange(num))
        return jax.tree.map(lambda each: each.swapaxes(0, 1).reshape(-1, *self.grid, *each.shape[2:]), kept)

    def _check(self) -> None:
        causal.refuse_empty(width=self.width, depth=self.depth, num_heads=self.num_heads, mlp_ratio=self.mlp_ratio)
        if self.width % self.num_heads:
            raise UserError(
                f"config.network.width is {self.width}; use a multiple of config.network.num_heads, {self.num_heads}"
            )

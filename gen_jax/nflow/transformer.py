"""Blocks of TarFlow (Zhai et al. 2024): a causal transformer over patches, and the bijection that it defines."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.method import Array, Key, PyTree, UserError
from gen_jax.nflow.bijection import Bijection, bounded, fixed, sum_of
from gen_jax.nn import causal
from gen_jax.nn.attention import Cache
from gen_jax.nn.blocks import depth_to_space, kernel_init, space_to_depth
from gen_jax.nn.dense import Dense
from gen_jax.nn.embedding import positions

LOG_SCALE_LIMIT = 6.0  # of one block: a patch of one grey value, and there are several blocks


class CausalTransformer(nn.Module):
    """Layers of causal attention and MLP over a sequence of patches, of which the last layer starts at zero.

    Attributes:
      out_channels: numbers per token of the output.
      grid: rows and columns of patches, whose product is the length of the sequence.
      width: channels of a token; divisible by 4.
      depth: number of layers.
      num_heads: of attention; must divide `width`.
      mlp_ratio: channels inside an MLP, in units of `width`.
      num_classes: of the labels; 0 for none.
      dtype: of the computation; parameters and output are f32.

    Example:
      >>> network = CausalTransformer(out_channels=6, grid=(2, 2), width=8, depth=1, num_heads=2)
      >>> (y, _), _ = jax.eval_shape(network.init_with_output, jax.random.key(0), jnp.ones((5, 4, 3)))
      >>> y.shape
      (5, 4, 6)
    """

    out_channels: int
    grid: tuple[int, int]
    width: int = 128
    depth: int = 2
    num_heads: int = 4
    mlp_ratio: int = 4
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        label: Array | None = None,
        caches: tuple[Cache, ...] | None = None,
        place: Array | int = 0,
    ) -> tuple[Array, tuple[Cache, ...]]:
        """Returns what is said of each token, f32 [B, M, out_channels], and the cache of each layer.

        Args:
          x: f32 [B, M, C], tokens.
          label: i32 [B], or None.
          caches, place: as in `CausalAttention`, of each layer.
        """
        self._check()
        table = jnp.asarray(positions(*self.grid, self.width), self.dtype)
        h = self._dense(self.width, name="in")(x)
        h += jax.lax.dynamic_slice_in_dim(table, place, x.shape[1])
        if self.num_classes and label is not None:
            one_hot = jax.nn.one_hot(label, self.num_classes)
            h += self._dense(self.width, False, name="label")(one_hot)[:, None]
        h, filled = causal.causal_layers(h, self.depth, self.num_heads, self.mlp_ratio, self.dtype, caches, place)
        out = Dense(self.out_channels, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="out")(h)
        return out.astype(jnp.float32), filled

    def _dense(self, features: int, use_bias: bool = True, **fields: Any) -> Dense:
        return Dense(features, use_bias, kernel_init=kernel_init, dtype=self.dtype, **fields)

    def no_caches(self, batch: int) -> tuple[Cache, ...]:
        """Returns the caches of sequences of which no token is known yet."""
        num = self.grid[0] * self.grid[1]
        return causal.no_caches(batch, num, self.width, self.depth, self.num_heads, self.dtype)

    def _check(self) -> None:
        causal.refuse_empty(width=self.width, depth=self.depth, num_heads=self.num_heads, mlp_ratio=self.mlp_ratio)
        if self.width % 4 or self.width % self.num_heads:
            raise UserError(
                f"config.network.width is {self.width}; use a multiple of 4 (for the sines and cosines of the "
                f"positions) and of config.network.num_heads, {self.num_heads}"
            )


def patches(size: int, image_shape: tuple[int, int, int]) -> Bijection:
    """Returns the bijection from pictures [B, H, W, C] to sequences of patches [B, N, size^2 C], row by row."""
    rows, columns = image_shape[0] // size, image_shape[1] // size
    return fixed(
        lambda x: space_to_depth(x, size).reshape(len(x), rows * columns, -1),
        lambda z: depth_to_space(z.reshape(len(z), rows, columns, -1), size),
    )


def turn() -> Bijection:
    """Returns the bijection that turns a sequence round."""
    return fixed(lambda x: x[:, ::-1], lambda z: z[:, ::-1])


def autoregressive(network: CausalTransformer) -> Bijection:
    """Returns z_i = (x_i - mean_i) exp(-log_scale_i), where a network says both from the tokens before x_i.

    A token of zeros stands before the first one, so that this one is scaled and shifted too (in the released code it
    stays as it is). `forward` takes all tokens at once; `inverse` takes them one by one, in one loop with cached keys
    and values. The logarithm of the scale is between -6 and 6.

    Args:
      network: of 2 D outputs for tokens of D numbers: means, then logarithms of scales.
    """

    def init(key: Key, x: Array, label: Array | None) -> PyTree:
        return network.init(key, x[:1], None if label is None else label[:1])["params"]

    def split(outputs: Array) -> tuple[Array, Array]:
        mean, raw = jnp.split(outputs, 2, axis=-1)
        return mean, bounded(raw, LOG_SCALE_LIMIT)

    def forward(params: PyTree, x: Array, label: Array | None) -> tuple[Array, Array]:
        before = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        outputs: Any = network.apply({"params": params}, before, label)[0]
        mean, log_scale = split(outputs)
        return (x - mean) * jnp.exp(-log_scale), -sum_of(log_scale)

    def inverse(params: PyTree, z: Array, label: Array | None) -> Array:
        def one(carry: Any, row: tuple[Array, Array]) -> tuple[Any, Array]:
            (before, caches), (z_i, place) = carry, row
            outputs: Any
            outputs, caches = network.apply({"params": params}, before[:, None], label, caches, place)
            mean, log_scale = split(outputs[:, 0])
            x_i = z_i * jnp.exp(log_scale) + mean
            return (x_i, caches), x_i

        start = (jnp.zeros_like(z[:, 0]), network.no_caches(len(z)))
        _, x = jax.lax.scan(one, start, (z.swapaxes(0, 1), jnp.arange(z.shape[1])))
        return x.swapaxes(0, 1)

    return Bijection(init, forward, inverse)

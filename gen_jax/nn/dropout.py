"""Dropout with one mask per example; flax.linen.Dropout draws one mask from one key for a whole batch."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.method import Array, draw


class Dropout(nn.Module):
    """Sets activations to zero with probability `rate` in training, and scales the rest by 1 / (1 - rate).

    The mask of an example depends only on the key of collection "dropout" and on the example's position in the
    global batch, so that one device and eight devices drop the same units.

    Example:
      >>> layer = Dropout(rate=0.5)
      >>> y = layer.apply({}, jnp.ones((1, 1000)), jnp.arange(1), train=True, rngs={"dropout": jax.random.key(0)})
      >>> sorted(set(y.ravel().tolist()))
      [0.0, 2.0]
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, index: Array | None, *, train: bool) -> Array:
        """Returns `x` [B, ...] with dropped units; `index` i32 [B] are positions in the global batch."""
        if not train or self.rate == 0:
            return x
        if index is None:
            raise ValueError("dropout in training needs `index`, the examples' positions in the global batch")
        keep = draw(self.make_rng("dropout"), index, lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))
        return jnp.where(keep, x / (1 - self.rate), 0)

"""The gated PixelCNN (van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders").

Two stacks of convolutions: a vertical one, which sees the rows above a place, and a horizontal one, which sees the
places left of it in its row and is told what the vertical stack found. So nothing before a place is out of sight.
Masks are shapes here: both inputs are moved by one (down; to the right), which is mask A of the first layer, and a
kernel ends at its own row or place, which is mask B of all layers.

Every function takes a whole picture, or the next piece of it with a cache of what stands before: so a sample computes
the vertical stack once a row, and the horizontal stack once a place.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.autoregressive.domain import Choose
from gen_jax.method import Array, PyTree, UserError
from gen_jax.nn.causal import refuse_empty
from gen_jax.nn.conv import Conv
from gen_jax.nn.dense import Dense

Caches: TypeAlias = tuple[Array, ...]  # of each layer: [B, rows before, W, C], or [B, R, places before, C]


def _gate(x: Array) -> Array:
    """Returns [..., C] for [..., 2 C]."""
    value, gate = jnp.split(x, 2, axis=-1)
    return jnp.tanh(value) * nn.sigmoid(gate)


class Layer(nn.Module):
    """A layer of both stacks.

    Attributes:
      width: channels of each stack.
      reach: places that a kernel of the vertical stack sees to each side.
      before: rows, or places, that a kernel sees besides the one at its end.
      dtype: of the computation.
    """

    width: int
    reach: int
    before: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        sides = ((0, 0), (self.reach, self.reach))
        size = self.before + 1
        self.vertical = Conv(2 * self.width, (size, 2 * self.reach + 1), padding=sides, dtype=self.dtype)
        self.horizontal = Conv(2 * self.width, (1, size), padding="VALID", dtype=self.dtype)
        self.across = Dense(2 * self.width, False, dtype=self.dtype)
        self.out = Dense(self.width, dtype=self.dtype)
        self.label = Dense(4 * self.width, False, dtype=self.dtype)

    def _told(self, one_hot: Array | None, stack: int) -> Array | float:
        return 0.0 if one_hot is None else jnp.split(self.label(one_hot)[:, None, None], 2, axis=-1)[stack]

    def above(self, rows: Array, one_hot: Array | None) -> Array:
        """Returns [B, R, W, 2 width], what is found above each place; `rows` [B, before + R, W, C]."""
        return self.vertical(rows) + self._told(one_hot, 0)

    def beside(self, places: Array, above: Array, one_hot: Array | None) -> Array:
        """Returns [B, R, S, width]; `places` [B, R, before + S, C], `above` [B, R, S, 2 width]."""
        y = self.horizontal(places) + self.across(above) + self._told(one_hot, 1)
        return self.out(_gate(y))


class PixelCNN(nn.Module):
    """A gated PixelCNN, of which the last layer starts at zero: every value is equally likely.

    Attributes:
      num_values: K, of a place.
      grid: rows and columns.
      width: channels of each stack.
      depth: number of layers.
      first_kernel: of the first layer, odd; it sees (first_kernel - 1) / 2 places to each side, and up.
      kernel: of the other layers, odd.
      num_classes: of the labels; 0 for none.
      dtype: of the computation; parameters and output are f32.

    Example:
      >>> network = PixelCNN(num_values=5, grid=(3, 4), width=8, depth=2)
      >>> y, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), jnp.ones((2, 3, 4, 6)))
      >>> y.shape
      (2, 3, 4, 5)
    """

    num_values: int
    grid: tuple[int, int]
    width: int = 64
    depth: int = 6
    first_kernel: int = 7
    kernel: int = 3
    num_classes: int = 0
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self._check()
        self.embed = Dense(self.width, False, dtype=self.dtype)
        self.layers = [Layer(self.width, *sizes, self.dtype) for sizes in self._sizes()]
        self.hidden = Dense(self.width, dtype=self.dtype)
        self.out = Dense(self.num_values, kernel_init=nn.initializers.zeros, dtype=self.dtype)

    def __call__(self, x: Array, label: Array | None = None) -> Array:
        """Returns logits f32 [B, H, W, K] of each place, given all places before it, row by row.

        Args:
          x: f32 [B, H, W, F], tokens.
          label: i32 [B], or None.
        """
        up, left = self.no_caches(x)
        above, _ = self.above(jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1], up, label)
        return self.beside(jnp.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1], above, left, label)[0]

    def above(self, rows: Array, caches: Caches, label: Array | None) -> tuple[tuple[Array, ...], Caches]:
        """Returns what the vertical stack finds, of each layer [B, R, W, 2 width], and the caches for the next rows.

        Args:
          rows: f32 [B, R, W, F], tokens of the rows one above those that are asked for.
          caches: of the rows before.
          label: i32 [B], or None.
        """
        v, one_hot, found, filled = self.embed(rows), self._one_hot(label), [], []
        for layer, cache in zip(self.layers, caches, strict=True):
            seen = jnp.concatenate([cache, v], axis=1)
            found.append(layer.above(seen, one_hot))
            filled.append(seen[:, rows.shape[1] :])
            v = _gate(found[-1])
        return tuple(found), tuple(filled)

    def beside(
        self, places: Array, above: tuple[Array, ...], caches: Caches, label: Array | None
    ) -> tuple[Array, Caches]:
        """Returns logits f32 [B, R, S, K], and the caches for the next places.

        Args:
          places: f32 [B, R, S, F], tokens of the places one left of those that are asked for.
          above: what the vertical stack found there.
          caches: of the places before.
          label: i32 [B], or None.
        """
        h, one_hot, filled = self.embed(places), self._one_hot(label), []
        for i, (layer, found, cache) in enumerate(zip(self.layers, above, caches, strict=True)):
            seen = jnp.concatenate([cache, h], axis=2)
            filled.append(seen[:, :, places.shape[2] :])
            y = layer.beside(seen, found, one_hot)
            h = h + y if i else y  # h is of the place before where the first layer begins
        logits = self.out(nn.relu(self.hidden(nn.relu(h))))
        return logits.astype(jnp.float32), tuple(filled)

    def no_caches(self, x: Array) -> tuple[Caches, Caches]:
        """Returns the caches of both stacks in front of the first row, and of the first place in each row of `x`."""
        num, rows, columns, _ = x.shape
        befores = [before for _, before in self._sizes()]
        up = (jnp.zeros((num, before, columns, self.width), self.dtype) for before in befores)
        left = (jnp.zeros((num, rows, before, self.width), self.dtype) for before in befores)
        return tuple(up), tuple(left)

    def generate(self, params: PyTree, start: Array, choose: Choose, label: Array | None = None) -> Any:
        """Returns what `choose` keeps of each place, [N, H, W, ...]: one compiled loop over rows, one within a row.

        Args:
          params: of this network.
          start: zeros f32 [N, F], tokens.
          choose: of a place.
          label: i32 [N], or None.
        """
        height, width = self.grid
        empty = jnp.zeros((len(start), 1, width, start.shape[-1]))
        up, left = self.no_caches(empty)

        def call(method: str, *args: Any) -> Any:
            return self.apply({"params": params}, *args, label, method=method)

        def one_place(carry: Any, row: Any) -> Any:
            (token, caches), (place, above) = carry, row
            logits, caches = call("beside", token[:, None, None], above, caches)
            token, kept = choose(logits[:, 0, 0], place)
            return (token, caches), (token, kept)

        def one_row(carry: Any, places: Array) -> Any:
            rows, caches = carry
            above, caches = call("above", rows, caches)
            of_places = tuple(jnp.moveaxis(each, 2, 0)[:, :, :, None] for each in above)
            _, (tokens, kept) = jax.lax.scan(one_place, (start, left), (places, of_places))
            return (tokens.swapaxes(0, 1)[:, None], caches), kept

        _, kept = jax.lax.scan(one_row, (empty, up), jnp.arange(height * width).reshape(height, width))
        return jax.tree.map(lambda each: jnp.moveaxis(each, 2, 0), kept)

    def _sizes(self) -> list[tuple[int, int]]:
        """Of each layer: `reach` and `before`. Inputs are moved by one, which is part of the first kernel."""
        first, other = self.first_kernel // 2, self.kernel // 2
        return [(first, first - 1), *[(other, other)] * (self.depth - 1)]

    def _one_hot(self, label: Array | None) -> Array | None:
        return jax.nn.one_hot(label, self.num_classes) if self.num_classes and label is not None else None

    def _check(self) -> None:
        refuse_empty(width=self.width, depth=self.depth)
        for name, size in (("first_kernel", self.first_kernel), ("kernel", self.kernel)):
            if size < 3 or size % 2 == 0:
                raise UserError(f"config.network.{name} is {size}; use an odd number of 3 or more")

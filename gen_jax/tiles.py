"""Pictures of any size made larger in overlapping tiles, whose seams cannot be seen.

What a network makes of a pixel depends only on the pixels within its reach. Tiles overlap by twice the reach, and what
is made near the cut edges of a tile is left out, so the result is that of the whole picture. Edges of the picture are
edges of tiles, too: there the network sees what it saw in training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from gen_jax import parallel
from gen_jax.method import DataSpec, Method, State, Upscale, UserError, to_pixels

SIDE = 128  # pixels of a small picture that a tile adds, in both directions; memory grows with its square


class Span(NamedTuple):
    """One tile along an axis, in pixels of the small picture.

    Attributes:
      start: where it begins.
      kept_from: the first pixel whose result is kept.
      kept_to: the pixel after the last one.
    """

    start: int
    kept_from: int
    kept_to: int


def spans(size: int, window: int, reach: int) -> list[Span]:
    """Returns the tiles along an axis: all of one size, `window` or the whole axis.

    Example:
      >>> spans(size=20, window=10, reach=2)
      [Span(start=0, kept_from=0, kept_to=8), Span(start=6, kept_from=8, kept_to=14), Span(start=10, kept_from=14,
      kept_to=20)]
    """
    if size <= window:
        return [Span(0, 0, size)]
    starts = [*range(0, size - window, window - 2 * reach), size - window]
    ends = [start + window - reach for start in starts[:-1]] + [size]
    return [Span(*each) for each in zip(starts, [0, *ends[:-1]], ends, strict=True)]


Upscaler = Callable[..., np.ndarray]


def make_upscaler(method: Method, config: Any, spec: DataSpec, mesh: Mesh, side: int = SIDE) -> Upscaler:
    """Returns (state, picture uint8 [h, w, C], progress=None) -> uint8 [factor h, factor w, C].

    Each size of a tile is compiled once, so only pictures smaller than a tile have a size of their own. After each
    batch of tiles, `progress` is called with their number and that of all tiles.

    Args:
      method: with `upscale`.
      config: of the run.
      spec: of the data.
      mesh: whose devices share the tiles.
      side: of a tile, without the overlap.

    Raises:
      UserError: the method cannot make pictures larger.
    """
    how = require(method, config)
    window, options = side + 2 * how.reach, parallel.compiler_options(config.fast_compile_options)
    call = jax.jit(
        lambda state, small: to_pixels(how.apply(state, small)),
        out_shardings=parallel.sharded(mesh),
        compiler_options=options,
    )

    def upscaled(state: State, picture: np.ndarray, progress: Callable[[int, int], Any] | None = None) -> np.ndarray:
        height, width, channels = picture.shape
        down, across = (spans(length, window, how.reach) for length in (height, width))
        places = list(itertools.product(down, across))
        rows, columns = (min(length, window) for length in (height, width))
        large = np.empty((how.factor * height, how.factor * width, channels), np.uint8)
        for first, index in parallel.padded_batches(0, len(places), parallel.rows_at_a_time(1, len(places), mesh)):
            corners = [(places[number][0].start, places[number][1].start) for number in index]
            cut = [picture[top : top + rows, left : left + columns] for top, left in corners]
            made = parallel.fetch(call(state, parallel.put_rows({"small": np.stack(cut)}, mesh)["small"]))
            for tile, place in zip(made, places[first:], strict=False):
                _paste(large, tile, place, how.factor)
            if progress is not None:
                progress(min(len(made), len(places) - first), len(places))
        return large

    return upscaled


def require(method: Method, config: Any) -> Upscale:
    """Returns how a run's method makes pictures larger.

    Raises:
      UserError: it does not.
    """
    if method.upscale is None:
        raise UserError(
            f"this run is a {config.method}, which cannot make pictures larger: use a run of srresnet or srgan"
        )
    return method.upscale


def _paste(large: np.ndarray, tile: np.ndarray, place: tuple[Span, Span], factor: int) -> None:
    """Writes the part of a tile that is kept."""
    of_large = tuple(slice(factor * span.kept_from, factor * span.kept_to) for span in place)
    of_tile = tuple(slice(factor * (s.kept_from - s.start), factor * (s.kept_to - s.start)) for s in place)
    large[of_large] = tile[of_tile]

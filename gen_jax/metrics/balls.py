"""Which points lie in balls around other points: the common part of precision, recall, density and coverage.

A closed ball reaches from a point to its k-th nearest neighbour in the same set, not counting the point itself. The
distances of all pairs take nearly all the time. They come from products in float32, twice as fast as in float64, and
each pair of sets is multiplied once. Where a float32 distance is too close to a ball's edge to decide, the distance and
the radius are computed again in float64, so the answer is that of float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gen_jax.method import UserError

_BLOCK_ENTRIES = 2**23  # distances held at a time: 32 MiB, or 64 MiB in float64
# Squared distances come from |a|^2 + |b|^2 - 2ab. On features centred in float64 their error is near 1e-15 of the
# largest; with this margin, "on the edge" does not depend on how a product is split.
_MARGIN = 1e-12
_ROUNDING = 2.0**-24  # of float32


class Points(NamedTuple):
    """A set of points, moved and scaled.

    Attributes:
      exact: f64 [N, D], values in [-1, 1].
      rough: the same as f32.
      square: squared lengths, f64 [N].
      longest: the largest squared length of a point of this set, or of the one that it is compared with.
    """

    exact: np.ndarray
    rough: np.ndarray
    square: np.ndarray
    longest: float


def points(real: np.ndarray, fake: np.ndarray) -> tuple[Points, Points]:
    """Returns two sets of points [N, D] and [M, D], moved so that the mean of `real` is 0, and scaled alike.

    The scale is a power of two: it keeps float32 from overflowing, and changes no digit.

    Raises:
      UserError: a value is not finite.

    Example:
      >>> real, fake = points(np.array([[2.0], [4.0]]), np.array([[7.0]]))
      >>> real.exact.tolist(), fake.exact.tolist()
      ([[-0.125], [0.125]], [[0.5]])
    """
    sets = [np.array(each, np.float64) for each in (real, fake)]  # copies, changed in place: they are large
    num_bad = sum(int((~np.isfinite(each).all(axis=1)).sum()) for each in sets)
    if num_bad:
        raise UserError(f"{num_bad} of {len(real) + len(fake)} images have features that are not finite")
    centre = sets[0].mean(axis=0)
    for each in sets:
        each -= centre
    scale = 2.0 ** -np.frexp(max(max(each.max(initial=0), -each.min(initial=0)) for each in sets))[1]
    for each in sets:
        each *= scale
    square = [_squared_lengths(each) for each in sets]
    longest = float(max(each.max(initial=0) for each in square))
    first, second = (Points(x, x.astype(np.float32), s, longest) for x, s in zip(sets, square, strict=True))
    return first, second


def _squared_lengths(x: np.ndarray) -> np.ndarray:
    """Of points [N, D], in pieces: their squares would take as much memory as they do."""
    step = max(1, _BLOCK_ENTRIES // max(1, x.shape[1]))
    return np.concatenate([np.square(x[i : i + step]).sum(axis=1) for i in range(0, max(1, len(x)), step)])


def squares(a: np.ndarray, b: np.ndarray, square_b: np.ndarray | None = None) -> np.ndarray:
    """Returns the squared distances f64 [N, M] of points f64 [N, D] and [M, D]; `square_b` [M]: of `b`, if known.

    Example:
      >>> squares(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 1.0]])).tolist()
      [[25.0, 1.0]]
    """
    square_b = np.square(b).sum(axis=1) if square_b is None else square_b
    return np.clip(np.square(a).sum(axis=1)[:, None] + square_b - 2 * (a @ b.T), 0, None)


def blocks(a: Points, b: Points, upper: bool = False) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Yields rows of `a`, rows of `b`, and their squared distances in float32; a square of pairs at a time.

    Args:
      a: the first set.
      b: the second.
      upper: leave out blocks below the diagonal: for distances within one set, of which they are the mirror image.
    """
    side = max(1, math.isqrt(_BLOCK_ENTRIES))
    for i in range(0, len(a.rough), side):
        rows = slice(i, min(i + side, len(a.rough)))
        for j in range(i if upper else 0, len(b.rough), side):
            columns = slice(j, min(j + side, len(b.rough)))
            squared = a.rough[rows] @ b.rough[columns].T
            squared *= -2
            squared += a.square[rows, None].astype(np.float32)
            squared += b.square[columns].astype(np.float32)
            yield rows, columns, squared


class Balls:
    """Closed balls around each of a set of points: one family of balls for each k.

    Radii are known roughly at first, and in float64 once a decision depends on them.
    """

    def __init__(self, centres: Points, ks: Sequence[int]):
        """Args: the centres of the balls, and the neighbours that define the radii of each family.

        Raises:
          ValueError: there are no more points than a k.
        """
        self._centres, self._ks = centres, list(ks)
        if len(centres.exact) <= max(ks):
            raise ValueError(f"{len(centres.exact)} points have no {max(ks)}-th neighbour: use more than {max(ks)}")
        self._margin = _MARGIN * centres.square.max()
        self._exact = np.full((len(ks), len(centres.exact)), np.nan)
        radii = _rough_radii(centres, self._ks)
        error = 2 * _error(centres, radii)  # that of the radius, and that of the distance compared with it
        # float32, as what they are compared with; what this rounding costs is far below the error.
        self._low, self._high = (radii - error).astype(np.float32), (radii + self._margin + error).astype(np.float32)

    def hold(self, family: int, rows: slice, squared: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Returns which of the balls `rows` of a family hold which other points: bool [R, M].

        Args:
          family: index into `ks`.
          rows: of the centres.
          squared: squared distances of these to other points in float32, from `blocks`: [R, M].
          others: those points in float64, [M, D].
        """
        held = squared <= self._low[family, rows, None]
        unsure = squared <= self._high[family, rows, None]
        unsure ^= held
        if unsure.any():
            # The rows and columns with such a pair, and so a few more pairs than need be.
            some, columns = np.flatnonzero(unsure.any(axis=1)), np.flatnonzero(unsure.any(axis=0))
            exact = squares(self._centres.exact[rows][some], others[columns])
            held[np.ix_(some, columns)] = exact <= self._radii(family, rows.start + some)[:, None]
        return held

    def _radii(self, family: int, rows: np.ndarray) -> np.ndarray:
        """Squared radii of a family's balls in float64, [R], widened by the margin."""
        missing = rows[np.isnan(self._exact[family, rows])]
        step = max(1, _BLOCK_ENTRIES // len(self._centres.exact))
        for start in range(0, len(missing), step):
            some = missing[start : start + step]
            squared = squares(self._centres.exact[some], self._centres.exact, self._centres.square)
            smallest = np.partition(squared, self._ks, axis=1)[:, self._ks]  # number 0 is the point itself
            self._exact[:, some] = smallest.T + self._margin
        return self._exact[family, rows]


def _rough_radii(centres: Points, ks: list[int]) -> np.ndarray:
    """Squared radii [len(ks), N] from float32 distances."""
    most = max(ks)
    best = np.full((len(centres.rough), most + 1), np.inf, np.float32)
    for rows, columns, squared in blocks(centres, centres, upper=True):
        best[rows] = np.partition(np.concatenate([best[rows], squared], axis=1), most, axis=1)[:, : most + 1]
        if columns.start > rows.start:
            both = np.concatenate([best[columns], squared.T], axis=1)
            best[columns] = np.partition(both, most, axis=1)[:, : most + 1]
    return np.sort(best, axis=1)[:, ks].T.astype(np.float64)


def _error(centres: Points, radii: np.ndarray) -> np.ndarray:
    """The largest error of a squared distance in float32 near the edge of each ball, [len(ks), N].

    It is proportional to |a|^2 + |b|^2. A point b at the edge of a ball around a is no longer than |a| + r, so its
    square is at most 2 |a|^2 + 2 r^2, and it is no longer than the longest: points far off widen no ball's error.
    """
    other = np.minimum(2 * (centres.square + np.maximum(radii, 0)), centres.longest)
    # The rounding errors of a sum of n terms grow as sqrt(n) (Higham and Mary 2019): six standard deviations of terms
    # added one by one. Actual products add in blocks, and their errors are some 50 times smaller.
    relative = _ROUNDING * (2 * math.sqrt(centres.exact.shape[1]) + 16)
    return relative * (centres.square + other) + 1e-30  # float32 rounds products below 1e-38 to 0

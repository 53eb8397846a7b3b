"""Intervals for measures: how far one would move with other samples and other real images of the same sources.

Two ways to draw from each set, `num_resamples` times:

- Rows with repetition, as many as there are: the bootstrap (Efron and Tibshirani 1993, chapter 13). It can be written
  as counts of rows, so moments of draws need no copies.
- Half of the rows, each once: the delete-half jackknife (Shao and Wu 1989). A half without repetition varies as much as
  a whole set drawn anew. Measures of nearest neighbours need it: with repetition a row is its own neighbour, and the
  bootstrap fails (Abadie and Imbens 2008). Its error of precision is then twice too large, that of coverage up to three
  times.

Draws also shift a measure: a Frechet distance grows, precision falls. That shift tells nothing about other samples. It
is taken off, so the interval surrounds the measured value, and covers the mean of that measure at these numbers of
images, not at infinitely many: compare only equal numbers.

Near a distance of 0, intervals are too wide, by up to sqrt(3): the measure is a square there, and draws of a square
also vary by its slope at the sample, which is 0 only at the truth. Such intervals cover more often than they claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gen_jax.metrics.frechet import Gaussian, distance
from gen_jax.metrics.moments import Moments

_PIECE_ROWS = 1_024  # of features in float64 at a time

Draw = Callable[[int, tuple[int, ...]], np.ndarray]
"""From a number of rows and a seed to how often each row is drawn, i64 [N]."""


class Interval(NamedTuple):
    """A measure and its uncertainty.

    Attributes:
      value: of the sets as they are.
      low: lower end of the interval.
      high: upper end. Neither is clipped to the values that the measure can have.
      standard_error: standard deviation of the resamples.
    """

    value: float
    low: float
    high: float
    standard_error: float


def halves(num: int, seed: tuple[int, ...]) -> np.ndarray:
    """Returns 1 for a random half of `num` rows and 0 for the others, i64 [num].

    Example:
      >>> sorted(halves(5, (0, 1)).tolist())
      [0, 0, 0, 1, 1]
    """
    ranks = np.argsort(_random(num, seed), kind="stable")
    return (ranks < num // 2).astype(np.int64)


def with_repetition(num: int, seed: tuple[int, ...]) -> np.ndarray:
    """Returns how often each of `num` rows occurs among `num` drawn with repetition, i64 [num].

    Example:
      >>> int(with_repetition(5, (0, 1)).sum())
      5
    """
    return np.bincount((_random(num, seed) % num).astype(np.int64), minlength=num)


def interval(
    measure: Callable[..., float],
    sets: Sequence[np.ndarray],
    num_resamples: int = 100,
    level: float = 0.95,
    seed: int = 0,
    draw: Draw = halves,
) -> Interval:
    """Returns an interval for any measure of one or more sets of features.

    For the difference of two models, let the measure return it: then both are compared with the same draws of the real
    images, and the interval is far shorter than two intervals suggest.

    Args:
      measure: takes as many arrays as there are sets.
      sets: [N, ...] each; drawn by rows, independently.
      num_resamples: draws of all sets. At least 39 for a level of 95%.
      level: probability that the interval covers.
      seed: of the draws.
      draw: `halves` or `with_repetition`; see above.

    Raises:
      ValueError: there are too few resamples for the level.

    Example:
      >>> found = interval(np.mean, [np.arange(100.0)])
      >>> found.value, round(found.standard_error)  # sqrt((100^2 - 1) / 12) / sqrt(100) = 2.9
      (49.5, 3)
    """

    def statistic(*counts: np.ndarray) -> float:
        return measure(*(np.repeat(rows, count, axis=0) for rows, count in zip(sets, counts, strict=True)))

    return weighted_interval(statistic, [len(rows) for rows in sets], num_resamples, level, seed, draw)


def weighted_interval(
    statistic: Callable[..., float],
    sizes: Sequence[int],
    num_resamples: int = 100,
    level: float = 0.95,
    seed: int = 0,
    draw: Draw = with_repetition,
) -> Interval:
    """Returns an interval for a function of how often each row occurs, which needs no copies of rows.

    Args:
      statistic: takes counts i64 [N] for each set.
      sizes: N of each set.
      num_resamples: as in `interval`, and the rest too.
      level: see there.
      seed: see there.
      draw: see there.

    Example:
      >>> x = np.arange(100.0)
      >>> found = weighted_interval(lambda counts: counts @ x / 100, [100])
      >>> found == interval(np.mean, [x], draw=with_repetition)
      True
    """
    tail = (1 - level) / 2
    if tail * (num_resamples + 1) < 1 - 1e-9:
        raise ValueError(f"{num_resamples} resamples are too few for {level:.0%}: use {round(1 / tail) - 1} or more")
    value = float(statistic(*(np.ones(size, np.int64) for size in sizes)))
    draws = [
        float(statistic(*(draw(size, (seed, number, i)) for i, size in enumerate(sizes))))
        for number in range(num_resamples)
    ]
    # The p-quantile is number p (B + 1) in order, between two if need be: unbiased also for few draws.
    low, high = np.quantile(draws, [tail, 1 - tail], method="weibull") - np.mean(draws) + value
    return Interval(value, float(low), float(high), float(np.std(draws, ddof=1)))


def frechet_interval(
    features: np.ndarray,
    real: np.ndarray,
    other: np.ndarray | None = None,
    num_resamples: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Returns a bootstrap interval for a Frechet distance, or for the difference of two: negative if the first is less.

    Rows are drawn with repetition, and moments come from counts, without copies. With many features the eigenvalues of
    each draw take longest, and `linear_frechet_interval` needs them once.

    Args:
      features: of samples, [N, D].
      real: of real images, [M, D].
      other: of samples of another model, [L, D]. With it, the measure is the distance of `features` minus that of
        `other`, both to the same draws of `real`.
      num_resamples: as in `interval`, and the rest too.
      level: see there.
      seed: see there.

    Raises:
      UserError: a set has no more rows than features.

    Example:
      >>> x = np.random.default_rng(0).normal(size=(2_000, 2))
      >>> found = frechet_interval(x[:1_000] + [3.0, 4.0], x[1_000:])  # 25; standard error 10 sqrt(2 / 1,000) = 0.45
      >>> found.low < 25 < found.high, 0.35 < found.standard_error < 0.55
      (True, True)
    """
    sets = [np.asarray(rows, np.float64) for rows in (features, real, other) if rows is not None]

    def statistic(*counts: np.ndarray) -> float:
        first, reference, *rest = (Moments.of(x, n).gaussian() for x, n in zip(sets, counts, strict=True))
        return distance(first, reference) - sum(distance(second, reference) for second in rest)

    return weighted_interval(statistic, [len(rows) for rows in sets], num_resamples, level, seed)


def linear_frechet_interval(
    features: np.ndarray,
    real: np.ndarray,
    other: np.ndarray | None = None,
    num_resamples: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Returns `frechet_interval` to first order in the moments, which takes as long as a few distances.

    Each row's influence on the distance is known in closed form (`influence`), and a draw adds up those of its rows:
    the infinitesimal jackknife (Jaeckel 1972; Efron 1982). Arguments and errors as in
    `frechet_interval`.

    Example:
      >>> x = np.random.default_rng(0).normal(size=(2_000, 2))
      >>> found = linear_frechet_interval(x[:1_000] + [3.0, 4.0], x[1_000:])
      >>> found.low < 25 < found.high, 0.35 < found.standard_error < 0.55
      (True, True)
    """
    reference = Moments.of(real).gaussian()
    value, of_real, slopes = 0.0, np.zeros(len(real)), []
    for sign, rows in ((1, features), (-1, other)):
        if rows is None:
            continue
        own = Moments.of(rows).gaussian()
        value += sign * distance(own, reference)
        of_real += sign * influence(real, reference, own)
        slopes.append(sign * influence(rows, own, reference))
    slopes.insert(1, of_real)

    def statistic(*counts: np.ndarray) -> float:
        return value + sum(float(count @ slope) / len(slope) for count, slope in zip(counts, slopes, strict=True))

    return weighted_interval(statistic, [len(slope) for slope in slopes], num_resamples, level, seed)


def influence(features: np.ndarray, own: Gaussian, other: Gaussian) -> np.ndarray:
    """Returns how the Frechet distance between `own` and `other` changes with the weight of each row: f64 [N], mean 0.

    The distance has the gradients 2 (m1 - m2) in the mean and I - T in the covariance, where T is the matrix of the
    optimal transport from `own` to `other` (Bhatia, Jain and Lim 2019): T C1 T = C2.

    Args:
      features: [N, D].
      own: their mean and covariance.
      other: those of the other set.

    Example:
      >>> x = np.array([[-1.0], [0.0], [1.0]])  # of variance 1, and of variance 4 the other: (1 - 2) (x^2 - 2 / 3)
      >>> influence(x, Gaussian(np.zeros(1), np.eye(1)), Gaussian(np.zeros(1), 4 * np.eye(1))).round(3).tolist()
      [-0.333, 0.667, -0.333]
    """
    values, vectors = np.linalg.eigh(other.cov)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    squared, turn = np.linalg.eigh(root @ own.cov @ root)
    # Directions in which a set does not vary have no transport, and no influence.
    kept = squared > squared.max() * 1e-14
    half = root @ turn[:, kept] / np.maximum(squared[kept], 1e-300) ** 0.25
    slope = np.empty(len(features))
    for start in range(0, len(features), _PIECE_ROWS):
        centred = np.asarray(features[start : start + _PIECE_ROWS], np.float64) - own.mean
        piece = 2 * centred @ (own.mean - other.mean)
        slope[start : start + _PIECE_ROWS] = (
            piece + np.square(centred).sum(axis=1) - np.square(centred @ half).sum(axis=1)
        )
    return slope - slope.mean()


def _random(num: int, seed: tuple[int, ...]) -> np.ndarray:
    """Raw output of Philox, u64 [num]: a stream that numpy guarantees forever."""
    return np.random.Philox(np.random.SeedSequence(seed)).random_raw(num)

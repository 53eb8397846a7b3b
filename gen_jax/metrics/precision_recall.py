"""Precision, recall, density and coverage: the overlap of two sets of features, from balls around their points.

A closed ball reaches from a point to its k-th nearest neighbour in the same set, not counting the point itself.
Kynkaanniemi et al. 2019 (precision, recall; k = 3); Naeem et al. 2020 (density, coverage; k = 5).
Also here: nearest neighbours, and the deterministic subsampling of a large reference set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

MAX_REFERENCE = 10_000  # images; the time for distances of all pairs grows quadratically

_CHUNK_ENTRIES = 2**23  # distances held at a time: 64 MiB
# Squared distances come from |a|^2 + |b|^2 - 2ab. On features centred in float64 their error is near 1e-15 of the
# largest; with this margin, "on the edge" does not depend on how a product is split into chunks.
_MARGIN = 1e-12


def thin(features: np.ndarray, num: int = MAX_REFERENCE) -> np.ndarray:
    """Returns at most `num` evenly spaced rows of `features` [N, ...]; always the same ones.

    Example:
      >>> thin(np.arange(10), 4).tolist()
      [0, 3, 6, 9]
    """
    return features if len(features) <= num else features[np.linspace(0, len(features) - 1, num).astype(np.int64)]


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Returns precision (share of fakes within a ball of a real one) and recall (share of reals within one of a fake).

    Args:
      real: features [N, D].
      fake: features [M, D].
      k: the neighbour that defines a ball's radius; both sets need more than k points.

    Example:
      >>> real, fake = np.array([[0.0], [1.0], [2.5], [4.5]]), np.array([[0.6], [2.4], [9.0], [9.5]])
      >>> precision_recall(real, fake, k=1)
      (0.5, 0.75)
    """
    real, fake = _centred(real, fake)
    real_radii, fake_radii = _squared_radii(real, k), _squared_radii(fake, k)
    fake_is_inside, num_real_inside = np.zeros(len(fake), bool), 0
    for rows, squared in _squared_distances(real, fake):
        fake_is_inside |= (squared <= real_radii[rows, None]).any(axis=0)
        num_real_inside += int((squared <= fake_radii).any(axis=1).sum())
    return float(fake_is_inside.mean()), num_real_inside / len(real)


def density_coverage(real: np.ndarray, fake: np.ndarray, k: int = 5) -> tuple[float, float]:
    """Returns density (memberships of fakes in balls of reals / (k M)) and coverage (share of such balls with a fake).

    Density may exceed 1. Arguments as in `precision_recall`.

    Example:
      >>> real, fake = np.array([[0.0], [1.0], [2.5], [4.5]]), np.array([[0.6], [2.4], [9.0], [9.5]])
      >>> density_coverage(real, fake, k=1)
      (0.75, 0.75)
    """
    real, fake = _centred(real, fake)
    radii = _squared_radii(real, k)
    num_memberships, num_covered = 0, 0
    for rows, squared in _squared_distances(real, fake):
        inside = squared <= radii[rows, None]
        num_memberships += int(inside.sum())
        num_covered += int(inside.any(axis=1).sum())
    return num_memberships / (k * len(fake)), num_covered / len(real)


def nearest(queries: np.ndarray, reference: Any, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k nearest rows of `reference` to each query, nearest first: indices i64 and distances f64, [Q, k].

    Distances are Euclidean; all axes but the first are flattened, so images (uint8) work as well as features.
    Only the length and slices of `reference` are used: it is read in pieces.

    Example:
      >>> index, distance = nearest(np.array([[0, 0]]), np.array([[9, 9], [3, 4], [0, 1]]), k=2)
      >>> index.tolist(), distance.tolist()
      ([[2, 1]], [[1.0, 5.0]])
    """
    queries = np.asarray(queries, np.float64).reshape(len(queries), -1)
    best_index = np.empty((len(queries), 0), np.int64)
    best = np.empty((len(queries), 0))
    rows = max(1, _CHUNK_ENTRIES // max(len(queries), queries.shape[1]))
    for start in range(0, len(reference), rows):  # the reference may be large and memory-mapped: read it in pieces
        piece = np.asarray(reference[start : start + rows], np.float64).reshape(-1, queries.shape[1])
        squared = np.concatenate([best, _squares(queries, piece)], axis=1)
        index = np.concatenate(
            [best_index, np.broadcast_to(start + np.arange(len(piece)), (len(queries), len(piece)))], axis=1
        )
        order = np.argpartition(squared, min(k, squared.shape[1]) - 1, axis=1)[:, :k]
        best, best_index = np.take_along_axis(squared, order, 1), np.take_along_axis(index, order, 1)
    order = np.argsort(best, axis=1)
    best, best_index = np.take_along_axis(best, order, 1), np.take_along_axis(best_index, order, 1)
    return best_index, np.sqrt(best)


def _centred(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    centre = real.mean(axis=0)
    return real - centre, fake - centre


def _squared_radii(points: np.ndarray, k: int) -> np.ndarray:
    """Returns the squared distance [N] of each point to its k-th neighbour, widened by the margin."""
    if len(points) <= k:
        raise ValueError(f"{len(points)} points have no {k}-th neighbour: use more than {k}")
    radii = np.empty(len(points))
    for rows, squared in _squared_distances(points, points):
        radii[rows] = np.partition(squared, k, axis=1)[:, k]  # number 0 is the point itself
    return radii + _MARGIN * np.square(points).sum(axis=1).max()


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields rows of `a` [N, D] and their squared distances to `b` [M, D], a few rows at a time."""
    step = max(1, _CHUNK_ENTRIES // len(b))
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        yield rows, _squares(a[rows], b)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.clip(np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * (a @ b.T), 0, None)

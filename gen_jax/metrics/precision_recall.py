"""Precision, recall, density and coverage: the overlap of two sets of features, from balls around their points.

A closed ball reaches from a point to its k-th nearest neighbour in the same set, not counting the point itself.
Kynkaanniemi et al. 2019 (precision, recall; k = 3); Naeem et al. 2020 (density, coverage; k = 5).
Also here: nearest neighbours, and the deterministic subsampling of a large reference set.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gen_jax.metrics import balls

MAX_REFERENCE = 10_000  # images; the time for distances of all pairs grows quadratically

_CHUNK_ENTRIES = 2**23  # distances held at a time: 64 MiB


class Prdc(NamedTuple):
    """The result of `prdc`.

    Attributes:
      precision: share of fakes within a ball of a real one.
      recall: share of reals within a ball of a fake one.
      density: memberships of fakes in balls of reals / (k M); may exceed 1.
      coverage: share of the balls of reals that hold a fake.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def thin(features: np.ndarray, num: int = MAX_REFERENCE) -> np.ndarray:
    """Returns at most `num` evenly spaced rows of `features` [N, ...]; always the same ones.

    Example:
      >>> thin(np.arange(10), 4).tolist()
      [0, 3, 6, 9]
    """
    return features if len(features) <= num else features[np.linspace(0, len(features) - 1, num).astype(np.int64)]


def prdc(real: np.ndarray, fake: np.ndarray, k_pr: int = 3, k_dc: int = 5) -> Prdc:
    """Returns precision, recall, density and coverage; all of them take little longer than precision and recall.

    Args:
      real: features [N, D].
      fake: features [M, D].
      k_pr: the neighbour that defines a ball's radius, for precision and recall.
      k_dc: the same for density and coverage.

    Raises:
      ValueError: a set has no more points than a k.
      UserError: a feature is not finite.

    Example:
      >>> real, fake = np.array([[0.0], [1.0], [2.5], [4.5]]), np.array([[0.6], [2.4], [9.0], [9.5]])
      >>> prdc(real, fake, k_pr=1, k_dc=1)
      Prdc(precision=0.5, recall=0.75, density=0.75, coverage=0.75)
    """
    real_points, fake_points = balls.points(real, fake)
    of_real, of_fake = balls.Balls(real_points, (k_pr, k_dc)), balls.Balls(fake_points, (k_pr,))
    precise, recalled, covered = np.zeros(len(fake), bool), np.zeros(len(real), bool), np.zeros(len(real), bool)
    num_memberships = 0
    for rows, columns, squared in balls.blocks(real_points, fake_points):
        precise[columns] |= of_real.hold(0, rows, squared, fake_points.exact[columns]).any(axis=0)
        recalled[rows] |= of_fake.hold(0, columns, squared.T, real_points.exact[rows]).any(axis=0)
        inside = of_real.hold(1, rows, squared, fake_points.exact[columns])
        num_memberships += int(np.count_nonzero(inside))
        covered[rows] |= inside.any(axis=1)
    density = num_memberships / (k_dc * len(fake))
    return Prdc(float(precise.mean()), float(recalled.mean()), density, float(covered.mean()))


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Returns precision (share of fakes within a ball of a real one) and recall (share of reals within one of a fake).

    Arguments and errors as in `prdc`, which computes density and coverage in the same pass.

    Example:
      >>> real, fake = np.array([[0.0], [1.0], [2.5], [4.5]]), np.array([[0.6], [2.4], [9.0], [9.5]])
      >>> precision_recall(real, fake, k=1)
      (0.5, 0.75)
    """
    real_points, fake_points = balls.points(real, fake)
    of_real, of_fake = balls.Balls(real_points, (k,)), balls.Balls(fake_points, (k,))
    precise, recalled = np.zeros(len(fake), bool), np.zeros(len(real), bool)
    for rows, columns, squared in balls.blocks(real_points, fake_points):
        precise[columns] |= of_real.hold(0, rows, squared, fake_points.exact[columns]).any(axis=0)
        recalled[rows] |= of_fake.hold(0, columns, squared.T, real_points.exact[rows]).any(axis=0)
    return float(precise.mean()), float(recalled.mean())


def density_coverage(real: np.ndarray, fake: np.ndarray, k: int = 5) -> tuple[float, float]:
    """Returns density (memberships of fakes in balls of reals / (k M)) and coverage (share of such balls with a fake).

    Density may exceed 1. Arguments and errors as in `prdc`; the fakes may be fewer than k.

    Example:
      >>> real, fake = np.array([[0.0], [1.0], [2.5], [4.5]]), np.array([[0.6], [2.4], [9.0], [9.5]])
      >>> density_coverage(real, fake, k=1)
      (0.75, 0.75)
    """
    real_points, fake_points = balls.points(real, fake)
    of_real = balls.Balls(real_points, (k,))
    num_memberships, covered = 0, np.zeros(len(real), bool)
    for rows, columns, squared in balls.blocks(real_points, fake_points):
        inside = of_real.hold(0, rows, squared, fake_points.exact[columns])
        num_memberships += int(np.count_nonzero(inside))
        covered[rows] |= inside.any(axis=1)
    return num_memberships / (k * len(fake)), float(covered.mean())


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
        squared = np.concatenate([best, balls.squares(queries, piece)], axis=1)
        index = np.concatenate(
            [best_index, np.broadcast_to(start + np.arange(len(piece)), (len(queries), len(piece)))], axis=1
        )
        order = np.argpartition(squared, min(k, squared.shape[1]) - 1, axis=1)[:, :k]
        best, best_index = np.take_along_axis(squared, order, 1), np.take_along_axis(index, order, 1)
    order = np.argsort(best, axis=1)
    best, best_index = np.take_along_axis(best, order, 1), np.take_along_axis(best_index, order, 1)
    return best_index, np.sqrt(best)

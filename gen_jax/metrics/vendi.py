"""The Vendi score: the effective number of different images among samples, without any reference.

Friedman and Dieng 2023, definition 3.1: the exponential of the entropy of the eigenvalues of K / N, where K holds the
similarities of all pairs. Here the similarity is the cosine of features. It measures variety alone: noise scores high.
"""

from __future__ import annotations

import numpy as np

from gen_jax.method import UserError

_PIECE_VALUES = 2**20  # features in float64 at a time: 8 MiB


def vendi_score(features: np.ndarray) -> float:
    """Returns the effective number of different rows, from 1 (all alike) to N (all orthogonal), but at most D.

    It grows with N until the variety of the source is exhausted: compare only values with equal N.

    Args:
      features: [N, D], used as directions. Rows of zeros have none: they count as equal to each other, and as
        different from all others.

    Raises:
      UserError: there are no features, or some are not finite.

    Example:
      >>> round(vendi_score(np.eye(3)[[0, 0, 1, 1, 2, 2]]), 9)
      3.0
    """
    num, num_features = np.shape(features)
    step = max(1, _PIECE_VALUES // num_features)
    starts = range(0, num, step)
    if not num or not all(np.isfinite(features[start : start + step]).all() for start in starts):
        raise UserError(f"a Vendi score needs finite features of at least one image, and {num} rows are not that")
    if num <= num_features:
        directions = _directions(features)
        matrix = directions @ directions.T
    else:  # the matrices XX' and X'X have the same eigenvalues, up to zeros
        matrix = np.zeros((num_features + 1, num_features + 1))
        for start in starts:
            piece = _directions(features[start : start + step])
            matrix += piece.T @ piece
    share = np.linalg.eigvalsh(matrix / num)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def _directions(features: np.ndarray) -> np.ndarray:
    """Rows of length 1, f64 [n, D + 1]: the last column is 1 for rows of zeros, which have no other direction."""
    features = np.asarray(features, np.float64)
    largest = np.abs(features).max(axis=1, keepdims=True)  # first, so that no square overflows
    features = features / np.where(largest > 0, largest, 1)
    padded = np.concatenate([features, largest == 0], axis=1)
    return padded / np.linalg.norm(padded, axis=1, keepdims=True)

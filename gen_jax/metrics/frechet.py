"""The Frechet distance between two sets of features, each modelled as a Gaussian (Dowson and Landau 1982).

On the features of an Inception network this is FID (Heusel et al. 2017); on the features of another network it is
not, and must have another name. Everything is computed in float64 and centred before it is multiplied: in float32,
with E[xx'] - mm', a feature mean of 1,000 turns a distance of 0.4 into -21.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gen_jax.method import UserError


class Gaussian(NamedTuple):
    """Mean f64 [D] and covariance f64 [D, D]."""

    mean: np.ndarray
    cov: np.ndarray


def gaussian(features: np.ndarray) -> Gaussian:
    """Returns the mean and the (unbiased) covariance of `features` [N, D].

    Raises:
      UserError: N <= D: the covariance would be singular and the distance mostly noise.

    Example:
      >>> gaussian(np.array([[0.0], [1.0], [5.0]])).cov.tolist()
      [[7.0]]
    """
    features = np.asarray(features, np.float64)
    require_enough(*features.shape)
    mean = features.mean(axis=0)
    centred = features - mean
    return Gaussian(mean, centred.T @ centred / (len(features) - 1))


def require_enough(num_samples: int, num_features: int) -> None:
    """Refuses too few samples for a Frechet distance.

    Raises:
      UserError: there are no more samples than features.

    Example:
      >>> require_enough(2_048, 2_048)
      Traceback (most recent call last):
      gen_jax.method.UserError: 2048 samples are too few for a Frechet distance on 2048 features: use more than 2048
    """
    if num_samples <= num_features:
        raise UserError(
            f"{num_samples} samples are too few for a Frechet distance on {num_features} features: "
            f"use more than {num_features}"
        )


def distance(a: Gaussian, b: Gaussian) -> float:
    """Returns |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2).

    The product is written in its symmetric form, whose eigenvalues are real and, up to rounding errors that are
    clipped, at least 0. The root of C1 C2 itself becomes complex if a covariance is singular.

    Example:
      >>> round(distance(Gaussian(np.zeros(1), np.eye(1)), Gaussian(np.ones(1), 4 * np.eye(1))), 12)
      2.0
    """
    values, vectors = np.linalg.eigh(a.cov)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ b.cov @ root), 0, None)).sum()
    return float(np.sum((a.mean - b.mean) ** 2) + np.trace(a.cov) + np.trace(b.cov) - 2 * cross)


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Returns the Frechet distance between two sets of features, [N, D] and [M, D].

    It is biased upwards by about (1/N + 1/M) D (D + 5) / 4 for features of unit variance: compare only distances with
    equal N and M.

    Raises:
      UserError: a set has no more samples than features.

    Example:
      >>> a = np.random.default_rng(0).normal(size=(1_000, 2))
      >>> round(frechet_distance(a, a + [3.0, 4.0]), 9)
      25.0
    """
    return distance(gaussian(features_a), gaussian(features_b))

"""The kernel distance between two sets of features, without the bias of a Frechet distance (Binkowski et al. 2018).

On the features of an Inception network it is KID; on those of another network it needs another name. It is the
unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) with the kernel
(x.y / D + 1)^3: 0 on average for two samples of one distribution, whatever their size, and so sometimes negative.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gen_jax.method import UserError

SUBSETS, SUBSET_SIZE = 100, 1_000  # Binkowski et al. 2018, and what other programs use

_PIECE_ROWS = 2_048  # of a kernel matrix held at a time


class KernelDistance(NamedTuple):
    """The result of `kernel_distance`.

    Attributes:
      mean: over subsets.
      std: standard deviation over subsets. It shrinks as subsets grow, and is no standard error of the mean, because
        subsets share images. 0 if each subset is the whole set.
      num_subsets: how many were drawn.
      subset_size: images in each.
    """

    mean: float
    std: float
    num_subsets: int
    subset_size: int


def kernel_distance(
    features_a: np.ndarray,
    features_b: np.ndarray,
    num_subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> KernelDistance:
    """Returns the kernel distance of random subsets of two sets of features, [N, D] and [M, D].

    Args:
      features_a: of the samples.
      features_b: of the real images.
      num_subsets: pairs of subsets, each drawn without repetition.
      subset_size: images in each; all, if a set has fewer.
      seed: of the subsets.

    Raises:
      UserError: a set has fewer than two rows.

    Example:
      >>> a, b = np.array([[1.0], [0.0]]), np.array([[2.0], [1.0]])
      >>> kernel_distance(a, b)  # (0 + 1)^3 + (2 + 1)^3 - (27 + 8 + 1 + 1) / 2
      KernelDistance(mean=9.5, std=0.0, num_subsets=100, subset_size=2)
    """
    size = min(subset_size, len(features_a), len(features_b))
    if size < 2:
        raise UserError(f"a kernel distance needs at least 2 images in each set: {len(features_a)}, {len(features_b)}")
    if len(features_a) == len(features_b) == size:  # all subsets are the same
        return KernelDistance(squared_mmd(features_a, features_b), 0.0, num_subsets, size)
    values = [
        squared_mmd(*(each[_subset(len(each), size, (seed, i, j))] for j, each in enumerate((features_a, features_b))))
        for i in range(num_subsets)
    ]
    return KernelDistance(float(np.mean(values)), float(np.std(values)), num_subsets, size)


def squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the unbiased squared discrepancy of all rows of two sets, [N, D] and [M, D], with at least two each.

    Example:
      >>> squared_mmd(np.zeros((2, 3)), np.zeros((4, 3)))
      0.0
    """
    a, b = (np.asarray(each, np.float64) / np.sqrt(np.shape(each)[1]) for each in (a, b))  # so x.y / D is a product
    within = sum((_kernel_sum(x, x) - _kernel_diagonal(x)) / (len(x) * (len(x) - 1)) for x in (a, b))
    return within - 2 * _kernel_sum(a, b) / (len(a) * len(b))


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    total = 0.0
    for start in range(0, len(a), _PIECE_ROWS):
        total += _sum_of_cubes(a[start : start + _PIECE_ROWS] @ b.T)
    return total


def _kernel_diagonal(a: np.ndarray) -> float:
    return _sum_of_cubes(np.square(a).sum(axis=1))


def _sum_of_cubes(products: np.ndarray) -> float:
    """The sum of (x + 1)^3; `products` is overwritten."""
    products += 1
    return float(np.vdot(products * products, products))  # far faster than a power and a sum


def _subset(num: int, size: int, seed: tuple[int, ...]) -> np.ndarray:
    """Random different rows: i64 [size]. Ranks of Philox's raw output, a stream that numpy guarantees."""
    return np.argsort(np.random.Philox(np.random.SeedSequence(seed)).random_raw(num), kind="stable")[:size]

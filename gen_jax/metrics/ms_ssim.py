"""Multi-scale structural similarity (Wang, Simoncelli & Bovik 2003), and the similarity of images within a class.

The similarity of two equal pictures is 1, whatever they show. Within a class it distinguishes a generator that varies
from one that repeats itself (Odena et al. 2017): the lower, the more diverse. It compares only pixels at the same
position, so shifts and noise count as variety: compare it with the value of real images, and consider image quality.

As in the paper: windows of 11 x 11 pixels with Gaussian weights (sigma 1.5) that lie completely inside the image,
K1 = 0.01, K2 = 0.03, means over windows at each scale, five scales with weights fitted to human perception. A scale
smaller than the window has no value, so five scales need a side of 161 pixels. Small pictures get fewer scales, with
the first weights normalised to sum to 1. This is a different metric, and the number of scales is part of its name: only
values with equal numbers of scales are comparable.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3.2
WINDOW, SIGMA = 11, 1.5  # pixels
K1, K2 = 0.01, 0.03

_MOST_PAIRS = 100  # of a class, as in Odena et al. 2017
_MOST_PAIRS_IN_ALL = 10_000
_CHUNK_PIXELS = 2**22  # of pairs compared at a time


class Similarity(NamedTuple):
    """MS-SSIM within classes.

    Attributes:
      mean: over all pairs.
      standard_error: of the mean; slightly too small, because pairs share images.
      by_class: mean over the pairs of each class, f64 [K]; NaN if a class has fewer than two images.
    """

    mean: float
    standard_error: float
    by_class: np.ndarray


def num_scales(height: int, width: int) -> int:
    """Returns the number of scales of a picture. Each needs a side of 11 pixels, and halves (rounded up) the previous.

    Raises:
      ValueError: not even one scale is possible.

    Example:
      >>> [num_scales(side, side) for side in (20, 28, 32, 64, 160, 161, 512)]
      [1, 2, 2, 3, 4, 5, 5]
    """
    side, scales = min(height, width), 0
    while side >= WINDOW and scales < len(WEIGHTS):
        side, scales = -(-side // 2), scales + 1
    if not scales:
        raise ValueError(f"pictures of {height}x{width} pixels are smaller than the window of {WINDOW}x{WINDOW}")
    return scales


def protocol(height: int, width: int, num_pairs: int) -> str:
    """Returns the protocol of `within_class`, as part of the metric's name.

    Example:
      >>> protocol(28, 28, 100)
      '2_scales_100_pairs'
    """
    return f"{num_scales(height, width)}_scales_{num_pairs}_pairs"


def ms_ssim(a: np.ndarray, b: np.ndarray, value_range: float = 255.0) -> np.ndarray:
    """Returns the similarity of pairs of pictures, f64 [N] in [0, 1]: the mean over their channels.

    It is the product over scales j of contrast_j^w_j, and of (luminance contrast)^w at the last scale, each averaged
    over windows first. Negative averages count as 0, because they have no fractional power.

    Args:
      a: [N, H, W, C].
      b: the same shape.
      value_range: the largest possible pixel value minus the smallest.

    Raises:
      ValueError: pictures smaller than the window.

    Example:
      >>> grey = np.full((1, 16, 16, 1), 100.0)
      >>> ms_ssim(grey, grey).tolist(), ms_ssim(grey, 2 * grey).round(6).tolist()  # (2 100 200 + C1) / (100^2 + ...)
      ([1.0], [0.800026])
    """
    shape = np.shape(a)
    scales = num_scales(*shape[1:3])
    weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    # From here on, each channel is a separate picture: [N C, H, W].
    x, y = (np.moveaxis(np.asarray(each, np.float64), -1, 1).reshape(-1, *shape[1:3]) for each in (a, b))
    result = np.ones(len(x))
    for scale, weight in enumerate(weights):
        luminance, contrast = _ssim_terms(x, y, value_range)
        term = contrast if scale < scales - 1 else luminance * contrast
        result *= np.clip(term.mean(axis=(1, 2)), 0, None) ** weight
        x, y = _halved(x), _halved(y)
    return result.reshape(shape[0], shape[-1]).mean(axis=1)


def pairs_per_class(num_classes: int) -> int:
    """Returns how many pairs of each class to compare: 100, and fewer if there are more than 100 classes.

    Example:
      >>> pairs_per_class(10), pairs_per_class(1000)
      (100, 10)
    """
    return max(1, min(_MOST_PAIRS, _MOST_PAIRS_IN_ALL // num_classes))


def within_class(
    images: np.ndarray, labels: np.ndarray, num_pairs: int = 100, seed: int = 0, value_range: float = 255.0
) -> Similarity:
    """Returns the similarity of random pairs of different images of one class (Odena et al. 2017, section 4.2).

    Args:
      images: [N, H, W, C].
      labels: i32 [N].
      num_pairs: per class with at least two images; a pair may occur twice.
      seed: of the pairs, which depend only on it and on `labels`.
      value_range: as in `ms_ssim`.

    Raises:
      ValueError: no class has two images.

    Example:
      >>> images = np.kron(np.eye(2), np.full((12, 12), 200.0)).reshape(2, 12, 24, 1)[[0, 0, 1, 1]]
      >>> round(within_class(images, np.array([0, 0, 1, 1])).mean, 6)
      1.0
    """
    classes = np.arange(labels.max() + 1)
    pairs = [_pairs(np.flatnonzero(labels == label), num_pairs, seed, int(label)) for label in classes]
    first, second = np.concatenate(pairs).T
    if not len(first):
        raise ValueError("no class has two images")
    step = max(1, _CHUNK_PIXELS // images[0].size)
    values = np.concatenate(
        [
            ms_ssim(images[first[i : i + step]], images[second[i : i + step]], value_range)
            for i in range(0, len(first), step)
        ]
    )
    of = labels[first]
    by_class = np.array([values[of == label].mean() if (of == label).any() else np.nan for label in classes])
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return Similarity(float(values.mean()), float(error), by_class)


def _pairs(rows: np.ndarray, num_pairs: int, seed: int, label: int) -> np.ndarray:
    """Returns random pairs of different rows, i64 [num_pairs, 2]; no pairs if there are fewer than two rows."""
    if len(rows) < 2:
        return np.empty((0, 2), np.int64)
    raw = np.random.Philox(np.random.SeedSequence([seed, label])).random_raw(2 * num_pairs).reshape(2, -1)
    first, ahead = raw[0] % len(rows), 1 + raw[1] % (len(rows) - 1)
    return rows[np.stack([first, (first + ahead) % len(rows)], axis=1).astype(np.int64)]


def _ssim_terms(x: np.ndarray, y: np.ndarray, value_range: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns luminance and contrast-structure of each window: f64 [N, H - 10, W - 10] each."""
    c1, c2 = (K1 * value_range) ** 2, (K2 * value_range) ** 2
    mean_x, mean_y = _blurred(x), _blurred(y)
    mean_xy = mean_x * mean_y
    squares = mean_x**2 + mean_y**2
    luminance = (2 * mean_xy + c1) / (squares + c1)
    covariance, variances = _blurred(x * y) - mean_xy, _blurred(x**2 + y**2) - squares
    return luminance, (2 * covariance + c2) / (variances + c2)


def window() -> np.ndarray:
    """One axis of the window: f64 [11], of sum 1."""
    weights = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    return weights / weights.sum()


def _blurred(x: np.ndarray) -> np.ndarray:
    """The weighted mean over each window inside the image: [N, H, W] -> [N, H - 10, W - 10], one axis at a time."""
    weights = window()
    for axis in (1, 2):
        length = x.shape[axis] - WINDOW + 1
        x = sum(weight * np.take(x, range(i, i + length), axis) for i, weight in enumerate(weights))  # pyright: ignore[reportAssignmentType]
    return x


def _halved(x: np.ndarray) -> np.ndarray:
    """The mean of each 2 x 2 pixels: [N, H, W] -> [N, ceil(H / 2), ceil(W / 2)]; an odd edge is repeated."""
    count, height, width = x.shape
    x = np.pad(x, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    return x.reshape(count, -(-height // 2), 2, -(-width // 2), 2).mean(axis=(2, 4))

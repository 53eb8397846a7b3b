"""Points of the plane, seen: images f32 [1, 1, 2] hold x and y, and a page shows many of them as one picture."""

from __future__ import annotations

import numpy as np

from gen_jax.method import DataSpec

SIDE = 256  # pixels of a picture
NUM_POINTS = 2_500  # of one picture that is drawn as training goes


def scatter(points: np.ndarray, low: float, high: float, side: int = SIDE) -> np.ndarray:
    """Returns one picture of points, white on black: uint8 [side, side, 1]. x grows to the right, y upwards.

    A pixel with one point is half as bright as can be, and each further point halves what is missing.

    Args:
      points: [N, 2]. What lies outside, or is not finite, is not shown.
      low: value of both axes at the left and lower edge.
      high: at the right and upper edge.
      side: pixels.

    Example:
      >>> scatter(np.array([[0.1, 0.1], [0.1, 0.2], [1.9, 0.0]]), 0.0, 2.0, side=2)[..., 0].tolist()
      [[0, 0], [191, 128]]
    """
    place = (np.asarray(points, np.float64).reshape(-1, 2) - low) / (high - low) * side
    inside = ((place >= 0) & (place < side)).all(axis=1)  # not so where it is not a number
    column, row = place[inside].astype(np.int64).T
    count = np.bincount((side - 1 - row) * side + column, minlength=side * side)
    return np.rint(255 * (1 - 0.5**count)).astype(np.uint8).reshape(side, side, 1)


def drawable(images: np.ndarray, spec: DataSpec) -> np.ndarray:
    """Returns images of a set as pictures uint8: points [..., N, 1, 1, 2] as one, [..., 1, H, W, 1]; others unchanged.

    Example:
      >>> spec = DataSpec("gaussians:grid25", (1, 1, 2), 100_000, dtype="float32", value_range=(-5.0, 5.0))
      >>> drawable(np.zeros((7, 64, 1, 1, 2), np.float32), spec).shape
      (7, 1, 256, 256, 1)
      >>> drawable(np.zeros((64, 8, 8, 3), np.uint8), DataSpec("x", (8, 8, 3), 64)).shape
      (64, 8, 8, 3)
    """
    if not spec.holds_points:
        return images
    sets = np.asarray(images)
    sets = sets.reshape(-1, sets.shape[-4], 2)
    return np.stack([scatter(each, *spec.value_range) for each in sets]).reshape(*images.shape[:-4], 1, SIDE, SIDE, 1)


def num_shown(spec: DataSpec, num_images: int) -> int:
    """Returns how many samples make a picture: `num_images`, or more where each is a point.

    Example:
      >>> num_shown(DataSpec("x", (8, 8, 3), 64), 100)
      100
    """
    return NUM_POINTS if spec.holds_points else num_images

"""Figures of samples: images as a grid, points in the plane as a scatter plot."""

from __future__ import annotations

import numpy as np

from gen_jax.figures import scatter
from gen_jax.figures.grid import Images, grid
from gen_jax.method import DataSpec, Figure, Picture, Scatter

NUM_IMAGES = 64  # in a figure that is drawn during training


def num_shown(spec: DataSpec, num_images: int = NUM_IMAGES) -> int:
    """Returns the number of samples in a figure: `num_images`, or more if they are points.

    Example:
      >>> num_shown(DataSpec("x", (8, 8, 3), 64), 100)
      100
    """
    return scatter.MAX_POINTS if spec.kind == "points" else num_images


def still(samples: np.ndarray, spec: DataSpec, title: str, caption: str = "", data: np.ndarray | None = None) -> Figure:
    """Returns samples as one figure.

    Args:
      samples: uint8 [N, H, W, C], or points f32 [N, 1, 1, 2].
      spec: of the training data.
      title: a few words.
      caption: what the figure shows.
      data: training examples; if they are points, they are drawn behind the samples.

    Example:
      >>> spec = DataSpec("gaussians:grid25", (1, 1, 2), 100_000, kind="points", value_range=(-5.0, 5.0))
      >>> still(np.zeros((7, 1, 1, 2), np.float32), spec, "Origin").points.shape
      (7, 2)
    """
    if spec.kind != "points":
        return Picture(samples, title, caption)  # pyright: ignore[reportArgumentType]  drawn from either kind of array
    behind = None if data is None else np.asarray(data[: scatter.MAX_POINTS], np.float32).reshape(-1, 2)
    return Scatter(
        samples.reshape(-1, 2),  # pyright: ignore[reportArgumentType]
        None,
        behind,  # pyright: ignore[reportArgumentType]
        title,
        caption,
        names=("sample",),
        axes=("x", "y"),
        background_name="" if data is None else "data",
    )


def pixels(one: Figure) -> Images:
    """Returns a still figure as one picture, uint8 [H, W, C].

    Example:
      >>> pixels(Picture(np.zeros((4, 8, 8, 1), np.uint8), "t")).shape
      (18, 18, 1)
    """
    if isinstance(one, Scatter):
        return scatter.rasterise(one)[-1]
    return grid(np.asarray(one.images), one.columns)

"""dSprites (Matthey et al. 2017): a white square, ellipse or heart in every size, orientation and position.

The set is the whole grid of factors, 737,280 images of 64x64 in the order of the genuine set, strictly 0 or 1. Images
are drawn on demand, neither downloaded nor stored: `DSprites` has the interface of a TFDS builder, but nothing to
prepare. The outlines were fitted to 258 genuine images; 37 of these are drawn differently, by 54 pixels in all. The
name "tfds:dsprites" reads the genuine set.

Factors are whole numbers in the order shape, scale, orientation, x, y; the colour, always white, is left out. As in
the genuine set, orientations run from 0 to 2 pi inclusive, so the first and the last look the same.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gen_jax.data import cache, streaming
from gen_jax.data.dataset import Dataset
from gen_jax.method import DataSpec, UserError, with_factors

SHAPES = ("square", "ellipse", "heart")
FACTORS = ("shape", "scale", "orientation", "x_position", "y_position")
FACTOR_SIZES = (3, 6, 40, 32, 32)
NUM_IMAGES = 737_280
SIZE = 64  # pixels of height and width

_HALF = 9.6  # pixels from the centre to the sides of the largest square: 0.15 of the image
_ELLIPSE = (12.77, 7.21)  # half axes of the largest
_WINDOW = 28  # pixels of height and width around a sprite: the diagonal of the largest square is 27.2 long
_REACH = 13.6  # pixels from the centre of a sprite to its farthest point, rounded up
_COLUMNS = 512  # per pixel, in an outline's table
_CHUNK = 64  # images drawn at once: few enough to fit a processor's cache

_FINGERPRINT_STRIDE = 181  # coprime to every factor's size: 4,074 images, with every value of every factor


def factors_of(index: np.ndarray) -> np.ndarray:
    """Returns the factors i32 [..., 5] of the images with indices [...] in the grid; the last factor changes fastest.

    Example:
      >>> factors_of(np.array([0, 1, 32, NUM_IMAGES - 1])).tolist()
      [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [2, 5, 39, 31, 31]]
    """
    return np.stack(np.unravel_index(index, FACTOR_SIZES), axis=-1).astype(np.int32)


def index_of(factors: np.ndarray) -> np.ndarray:
    """Returns the indices i64 [...] in the grid of the images with factors [..., 5].

    Example:
      >>> index_of(np.array([[0, 0, 0, 1, 0], [2, 5, 39, 31, 31]])).tolist()
      [32, 737279]
    """
    return np.asarray(np.ravel_multi_index(tuple(np.moveaxis(np.asarray(factors), -1, 0)), FACTOR_SIZES))


@functools.cache
def outlines() -> np.ndarray:
    """Returns f32 [2, 3 C]: where a sprite begins and ends, in C columns to the right of its centre for each shape.

    Sprites are symmetric, upright and of scale 1, measured in pixels from their centre of rotation; y points
    downwards. Column c is at x = c / 512. Where there is no sprite, the beginning is below the end.

    Example:
      >>> begin, end = outlines()[:, 0]  # the middle of the square
      >>> round(float(begin), 3), round(float(end), 3)
      (-9.6, 9.6)
    """
    x = np.arange(int(_REACH * _COLUMNS) + 2) / _COLUMNS
    nothing = np.ones_like(x)
    square = np.where(x <= _HALF, _HALF, -nothing)
    ellipse = np.where(x <= _ELLIPSE[0], _ELLIPSE[1] * np.sqrt(np.maximum(1 - (x / _ELLIPSE[0]) ** 2, 0)), -nothing)
    # The heart curve (sin^3 t, 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t) as a polynomial in cos t: positive above.
    cosine = np.sqrt(np.maximum(1 - np.cbrt(x / _HALF) ** 2, 0))
    begin, end = (-_HALF * (np.polyval([-8, -8, -2, 19, 4], c) / 14.5 + 0.15) for c in (cosine, -cosine))
    end = np.where(x <= _HALF, end, begin - 1)
    return np.array([np.concatenate([-square, -ellipse, begin]), np.concatenate([square, ellipse, end])], np.float32)


def draw(factors: np.ndarray) -> np.ndarray:
    """Returns images uint8 [N, 64, 64, 1] of 0 and 1.

    A pixel is 1 if its centre lies in the sprite. Positions are 32 / 31 pixels apart, scales are 0.5 to 1, and
    sprites turn counter-clockwise.

    Args:
      factors: [N, 5], whole numbers.

    Example:
      >>> image = draw(np.array([[0, 0, 0, 0, 0], [0, 5, 0, 31, 31]]))
      >>> image.sum(axis=(1, 2, 3)).tolist(), image[0, 11:21, 11:21].all()
      ([100, 400], np.True_)
    """
    factors = np.asarray(factors)
    image = np.zeros((len(factors), SIZE * SIZE), np.uint8)
    for start in range(0, len(factors), _CHUNK):
        _draw(image[start : start + _CHUNK], factors[start : start + _CHUNK])
    return image.reshape(-1, SIZE, SIZE, 1)


def _draw(image: np.ndarray, factors: np.ndarray) -> None:
    """Draws into `image` [N, 64 * 64], which is black."""
    shape, scale, orientation, *place = factors.T
    middle = 15.5 + np.stack(place) * (32 / 31)  # [2, N]: x and y
    first = np.ceil(middle - _REACH).astype(np.int64)
    pixel = first[..., None] + np.arange(_WINDOW)  # [2, N, W]
    x, y = (pixel - middle[..., None]) / (0.5 + 0.1 * scale[:, None])
    turn = orientation[:, None] % (FACTOR_SIZES[2] - 1) * (2 * np.pi / (FACTOR_SIZES[2] - 1))
    cosine, sine = np.cos(turn), np.sin(turn)
    # Coordinates of the upright sprite. Single precision is twice as fast, and no pixel's centre is that near an edge.
    across = np.abs(_table(-y * sine, x * cosine))
    down = _table(y * cosine, x * sine)
    num_columns = outlines().shape[1] // len(SHAPES)
    column = np.minimum((across * _COLUMNS + np.float32(0.5)).astype(np.int32), num_columns - 1)
    column += (shape * num_columns).astype(np.int32)[:, None, None]
    begin, end = outlines()
    inside = (down >= begin[column]) & (down <= end[column])
    target = pixel[1][:, :, None] * SIZE + pixel[0][:, None, :]
    image[np.arange(len(image))[:, None, None], target] = inside


def _table(of_row: np.ndarray, of_column: np.ndarray) -> np.ndarray:
    """Returns the sums f32 [N, W, W] of a term per row and a term per column, [N, W] each."""
    return of_row.astype(np.float32)[:, :, None] + of_column.astype(np.float32)[:, None, :]


class Grid(Sequence[dict[str, Any]]):
    """All examples by their index in the grid, with the features of TFDS's own builder; for Grain or a plain loop.

    Example:
      >>> example = Grid()[NUM_IMAGES - 1]
      >>> example["image"].shape, example["label_shape"], example["label_scale"], example["value_scale"]
      ((64, 64, 1), 2, 5, 1.0)
    """

    def __len__(self) -> int:
        return NUM_IMAGES

    def __getitem__(self, row: int) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns one example; a negative index counts from the end."""
        (example,) = self.__getitems__([range(NUM_IMAGES)[row]])
        return example

    def __getitems__(self, rows: Sequence[int], /) -> list[dict[str, Any]]:
        factors = factors_of(np.asarray(rows))
        labels, numbers = factors.tolist(), values(factors).tolist()
        return [
            {"image": image, **dict(zip(_LABELS, label, strict=True)), **dict(zip(_VALUES, value, strict=True))}
            for image, label, value in zip(draw(factors), labels, numbers, strict=True)
        ]


_LABELS = tuple(f"label_{factor}" for factor in FACTORS)
_VALUES = tuple(f"value_{factor}" for factor in FACTORS)


def values(factors: np.ndarray) -> np.ndarray:
    """Returns the values f32 [..., 5] of factors [..., 5]: shape 1 to 3, scale 0.5 to 1, angle, x and y.

    The angle is in radians, 0 to 2 pi; x and y are 0 to 1.

    Example:
      >>> [round(float(value), 3) for value in values(np.array([2, 5, 39, 31, 31]))]
      [3.0, 1.0, 6.283, 1.0, 1.0]
    """
    return (np.array([1, 0.5, 0, 0, 0]) + factors * np.array([1, 0.1, 2 * np.pi / 39, 1 / 31, 1 / 31])).astype(
        np.float32
    )


class DSprites(tfds.core.DatasetBuilder, skip_registration=True):
    """The set as a TFDS builder: `info`, and `as_data_source`, which draws the requested images.

    Drawing the 737,280 images is faster than reading them, so the builder generates no files: there is nothing to
    download or prepare, and no tf.data.
    """

    __module__ = "dsprites"  # in a package, TFDS would look for a README and citations beside this file
    name = "dsprites_drawn"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        labels = {
            name: tfds.features.ClassLabel(num_classes=size) for name, size in zip(_LABELS, FACTOR_SIZES, strict=True)
        }
        numbers = {name: tfds.features.Scalar(np.float32) for name in _VALUES}
        info = tfds.core.DatasetInfo(
            builder=self,
            description="dSprites in every shape, size, orientation and position, drawn on demand.",
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(SIZE, SIZE, 1)), **labels, **numbers}
            ),
            homepage="https://github.com/deepmind/dsprites-dataset",
        )
        split = tfds.core.SplitInfo(name="train", shard_lengths=[NUM_IMAGES], num_bytes=0, filename_template=None)
        info.set_splits(tfds.core.SplitDict([split]))
        return info

    def as_data_source(self, split: str = "train", **kwargs: Any) -> Grid:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Returns all examples; `split` must be "train". `kwargs`, which control how files are read, are ignored."""
        _require_split(split)
        return Grid()

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        raise UserError("dsprites is drawn on demand and needs no preparation: use as_data_source")

    def _as_dataset(self, *args: Any, **kwargs: Any) -> Any:
        raise UserError("dsprites is drawn on demand, without TensorFlow: use as_data_source")


def load(name: str, config: Any) -> Dataset:
    """Returns the set, named "dsprites:drawn", with `factors` i32 [N, 5] beside its images.

    Like the genuine set it has only one split: the images form a whole grid, and none is held out.

    Args:
      name: "drawn" or "".
      config: as in `dataset.load`.

    Raises:
      UserError: another name or split, or a size other than 64x64x1.
    """
    if name not in ("", "drawn"):
        raise UserError(f"config.data.name is 'dsprites:{name}'; use dsprites, or tfds:dsprites for the genuine set")
    _require_split(config.train_split)
    if config.test_split not in ("test", ""):  # "test" is the config's default
        _require_split(config.test_split)
    if config.image_size not in (0, SIZE) or config.channels not in (0, 1):
        raise UserError("dsprites has images of 64x64x1: leave out data.image_size and data.channels")
    train: dict[str, Any] = {"image": streaming.Images(Grid()), "factors": factors_of(np.arange(NUM_IMAGES))}
    # Only every 181st image is hashed, because drawing and hashing all takes many seconds. A change of outline, size,
    # orientation or position, or of the order of the grid, changes some of these.
    rows = np.arange(0, NUM_IMAGES, _FINGERPRINT_STRIDE)
    spec = DataSpec(
        name="dsprites:drawn",
        image_shape=(SIZE, SIZE, 1),
        num_examples=NUM_IMAGES,
        fingerprint=cache.fingerprint({name: array[rows] for name, array in train.items()}),
        value_range=(0, 1),
        features=with_factors(FACTOR_SIZES),
    )
    return Dataset(spec, train, None)


def _require_split(split: str) -> None:
    if split != "train":
        raise UserError(
            f"dsprites has no split {split!r}, only the whole 'train': leave out data.train_split and data.test_split"
        )

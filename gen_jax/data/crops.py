"""Square crops of pictures of any size, and smaller copies of pictures: arrays whose rows are made when they are read.

A training batch gets random crops, from the seed and the number of each sample alone, so a resumed run sees the same
ones on any number of devices. Read in any other way, a row is the central crop of its picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gen_jax.data import bicubic

_STREAM = 1  # of random numbers: that of `dataset.permutation` has a seed of two numbers, not three


class Crops:
    """Crops of pictures, as an array uint8 [N, side, side, C].

    Example:
      >>> pictures = [np.arange(20, dtype=np.uint8).reshape(4, 5, 1), np.full((3, 3, 1), 7, np.uint8)]
      >>> sizes = np.array([each.shape[:2] for each in pictures])
      >>> crops = Crops(np.concatenate([each.ravel() for each in pictures]), np.array([0, 20]), sizes, 2, 1)
      >>> crops.shape, crops[0].ravel().tolist()  # from row 1 and column 1
      ((2, 2, 2, 1), [6, 7, 11, 12])
      >>> crops.drawn(np.array([0, 0, 1]), seed=0, samples=np.array([5, 6, 7]))[:, 0, 0, 0].tolist()  # top left
      [12, 6, 7]
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, pixels: np.ndarray, starts: np.ndarray, sizes: np.ndarray, side: int, channels: int):
        """Takes pictures one after the other.

        Args:
          pixels: uint8, of all pictures.
          starts: i64 [N], where each picture begins in `pixels`.
          sizes: [N, 2], height and width, both at least `side`.
          side: of a crop.
          channels: C.
        """
        self.shape = (len(sizes), side, side, channels)
        self._pixels, self._starts, self._sizes = pixels, starts, np.asarray(sizes, np.int64)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        numbers = numbers_of(rows, len(self))
        return self._cut(numbers, (self._sizes[numbers] - self.shape[1]) // 2)

    def part(self, rows: slice) -> Crops:
        """Returns the crops of some of the pictures."""
        return Crops(self._pixels, self._starts[rows], self._sizes[rows], *self.shape[2:])

    def drawn(self, rows: np.ndarray, seed: int, samples: np.ndarray) -> np.ndarray:
        """Returns random crops, uint8 [*rows.shape, side, side, C].

        Args:
          rows: numbers of pictures, of any shape.
          seed: of the run.
          samples: of the shape of `rows`: the number of each sample in the run.
        """
        free = (self._sizes[rows] - self.shape[1] + 1).astype(np.uint64)
        raw = [
            np.random.Philox(np.random.SeedSequence([seed, _STREAM, int(each)])).random_raw(2)
            for each in samples.ravel()
        ]
        return self._cut(rows, (np.array(raw, np.uint64).reshape(free.shape) % free).astype(np.int64))

    def _cut(self, rows: np.ndarray, corners: np.ndarray) -> np.ndarray:
        side, channels = self.shape[2:]
        cut = np.empty((rows.size, *self.shape[1:]), np.uint8)
        for into, row, (top, left) in zip(cut, rows.ravel(), corners.reshape(-1, 2), strict=True):
            height, width = self._sizes[row]
            start = self._starts[row]
            picture = self._pixels[start : start + height * width * channels].reshape(height, width, channels)
            into[:] = picture[top : top + side, left : left + side]
        return cut.reshape(*rows.shape, *self.shape[1:])


class Reduced:
    """Pictures made smaller by a whole factor, bicubically, as an array uint8 [N, H / factor, W / factor, C].

    Example:
      >>> Reduced(np.full((3, 8, 8, 1), 9, np.uint8), 4)[1:].tolist()
      [[[[9], [9]], [[9], [9]]], [[[9], [9]], [[9], [9]]]]
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, images: Any, factor: int):
        """Takes an array [N, H, W, C], or `Crops`; sides are multiples of `factor`."""
        num, height, width, channels = images.shape
        self.shape = (num, height // factor, width // factor, channels)
        self._images, self._factor = images, factor

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        return self._reduced(self._images[numbers_of(rows, len(self))])

    def drawn(self, rows: np.ndarray, seed: int, samples: np.ndarray) -> np.ndarray:
        """Returns smaller copies of what `take` returns for the same arguments."""
        return self._reduced(take(self._images, rows, seed, samples))

    def _reduced(self, images: np.ndarray) -> np.ndarray:
        return bicubic.reduced(images, self._factor)


def take(array: Any, rows: np.ndarray, seed: int, samples: np.ndarray) -> np.ndarray:
    """Returns rows of an array for a training batch: random crops of `Crops`, the rows themselves of others."""
    return array.drawn(rows, seed, samples) if isinstance(array, Crops | Reduced) else array[rows]


def numbers_of(rows: int | slice | np.ndarray, num: int) -> np.ndarray:
    """Returns what an index of an array with `num` rows asks for, as numbers of rows."""
    return np.asarray(np.arange(num)[rows])

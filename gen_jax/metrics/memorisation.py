"""Whether samples are nearer to the training images than new images of the same source would be.

A generator that has learnt the distribution owes the training images nothing: its samples are as often nearest to a
test image as to a training image. One that repeats training images is nearer to those. This is the share of Platzer and
Reutterer 2021, of synthetic records that are closer to a training than to a holdout record, on features instead of
columns of a table. Unlike a fixed distance that counts as a copy, it needs no threshold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gen_jax.method import UserError
from gen_jax.metrics.balls import squares
from gen_jax.metrics.precision_recall import thin

_CHUNK_ENTRIES = 2**23  # distances held at a time: 64 MiB


class Memorisation(NamedTuple):
    """The result of `memorisation`.

    Attributes:
      share: of samples whose nearest training image is nearer than their nearest test image; ties count as half.
        0.5 means no memorisation, 1 means that all samples are copies.
      standard_error: that of samples that owe the training images nothing, times sqrt(4 share (1 - share)).
      num_images: training images, and as many test images, that samples were compared with.
    """

    share: float
    standard_error: float
    num_images: int


def memorisation(samples: np.ndarray, train: np.ndarray, test: np.ndarray | None) -> Memorisation:
    """Returns the share of samples that are nearer to the training images than to the test images.

    The larger of the two sets is thinned to the size of the smaller: with more training than test images, new images
    would be nearer to training images too.

    The standard error is sqrt(share (1 - share) / N), as of N independent trials, only for few samples that have all
    different nearest images. Samples with the same nearest image would all count the other way if it were in the other
    split. If w is the share of the samples that are nearest to each image, and the 2M images were split at random, the
    variance is (sum(w^2) - 1 / 2M) 2M / (2M - 1) of that of one trial.

    Args:
      samples: features [N, D].
      train: features of training images, [M, D].
      test: features of images that the model was not trained on, [T, D]; None if there are none.

    Raises:
      UserError: there is no test split.

    Example:
      >>> train, test = np.array([[0.0], [4.0]]), np.array([[1.0], [9.0]])
      >>> memorisation(np.array([[0.1], [4.2], [0.9], [3.9]]), train, test).share
      0.75
    """
    if test is None or not len(test):
        raise UserError("memorisation cannot be measured without a test split: there is nothing to compare with")
    num = min(len(train), len(test))
    index, distance = zip(*(_nearest(samples, thin(images, num)) for images in (train, test)), strict=True)
    nearer = np.where(distance[0] == distance[1], 0.5, distance[0] < distance[1])
    share = float(nearer.mean())
    image = np.where(nearer > 0, index[0], num + index[1])
    concentration = np.square(np.bincount(image) / len(samples)).sum()
    variance = share * (1 - share) * max(0.0, concentration - 1 / (2 * num)) * 2 * num / (2 * num - 1)
    return Memorisation(share, float(np.sqrt(variance)), num)


def _nearest(samples: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index of the nearest image of each sample, and its squared distance."""
    centre = np.mean(images, axis=0, dtype=np.float64)
    others = images - centre
    square, step = np.square(others).sum(axis=1), max(1, _CHUNK_ENTRIES // max(images.shape))
    index, distance = [], []
    for start in range(0, len(samples), step):
        piece = np.asarray(samples[start : start + step], np.float64)
        index.append(squares(piece - centre, others, square).argmin(axis=1))
        # By differences, so that equal images in both splits are at equal distances.
        distance.append(np.square(piece - images[index[-1]]).sum(axis=1))
    return np.concatenate(index), np.concatenate(distance)

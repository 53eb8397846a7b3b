"""Sums of features from which a mean and a covariance follow, and which add up: over pieces, files and processes.

Features of millions of images need not be in memory at once, and each piece may be seen by another process. Everything
is float64, and products are taken of differences from a mean (Chan, Golub and LeVeque 1983): sums of plain squares lose
all digits when the mean is large.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import zipfile
from typing import NamedTuple

import numpy as np

from gen_jax.method import UserError
from gen_jax.metrics.frechet import Gaussian, require_enough

_PIECE_ROWS = 1_024  # converted to float64 at a time: fewer would cost more for the merging than for the sums


class Moments(NamedTuple):
    """The first two moments of a set of features, which `merge` adds.

    Attributes:
      num: number of rows; with weights, their sum.
      mean: f64 [D].
      scatter: the sum over rows of (x - mean)(x - mean)', f64 [D, D].
    """

    num: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, counts: np.ndarray | None = None) -> Moments:
        """Returns the moments of `features` [N, D], in which row i occurs `counts[i]` times (whole numbers; None: 1).

        Counts cost no copies of rows: a bootstrap draws them instead of rows.

        Example:
          >>> Moments.of(np.array([[1.0], [4.0]]), np.array([2, 1]))
          Moments(num=3, mean=array([2.]), scatter=array([[6.]]))
        """
        num_features = np.shape(features)[1]
        total = cls(0, np.zeros(num_features), np.zeros((num_features, num_features)))
        for start in range(0, len(features), _PIECE_ROWS):
            piece = np.asarray(features[start : start + _PIECE_ROWS], np.float64)
            total = merge(total, _of_piece(piece, None if counts is None else counts[start : start + _PIECE_ROWS]))
        return total

    def gaussian(self) -> Gaussian:
        """Returns the mean and the (unbiased) covariance.

        Raises:
          UserError: there are no more rows than features.

        Example:
          >>> Moments.of(np.array([[0.0], [1.0], [5.0]])).gaussian().cov.tolist()
          [[7.0]]
        """
        require_enough(self.num, len(self.mean))
        return Gaussian(self.mean, self.scatter / (self.num - 1))


def merge(*parts: Moments) -> Moments:
    """Returns the moments of all rows of one or more sets together; their order does not matter (Chan et al. 1983).

    Parts of other processes must come as bytes or as a file: JAX turns float64 arrays into float32.

    Example:
      >>> merge(Moments.of(np.array([[0.0], [1.0]])), Moments.of(np.array([[5.0]]))).gaussian().cov.tolist()
      [[7.0]]
    """
    total = parts[0]
    for part in parts[1:]:
        if not total.num or not part.num:
            total = part if part.num else total
            continue
        num, step = total.num + part.num, part.mean - total.mean
        scatter = total.scatter + part.scatter + np.outer(step, step) * (total.num / num * part.num)
        total = Moments(num, total.mean + step * (part.num / num), scatter)
    return total


def save(path: str | os.PathLike[str], moments: Moments, name: str, fingerprint: str) -> None:
    """Writes moments to an .npz file, whole or not at all; with what they are of.

    Args:
      path: of the file, whose folder exists.
      moments: of the features.
      name: of the images and the network, for people.
      fingerprint: of the images and the network's weights: whatever decides the features.
    """
    place = pathlib.Path(path)
    part = place.with_name(f"{place.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "wb") as file:
            np.savez(file, **moments._asdict(), name=np.array(name), fingerprint=np.array(fingerprint))
        part.replace(place)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def load(path: str | os.PathLike[str], fingerprint: str) -> Moments:
    """Returns moments that `save` wrote.

    Raises:
      UserError: there is no such file, it cannot be read, or its moments are of something else.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...   save(f"{folder}/m.npz", Moments.of(np.array([[1.0], [3.0]])), "digits", "1f0c")
      ...   load(f"{folder}/m.npz", "1f0c")
      Moments(num=2, mean=array([2.]), scatter=array([[2.]]))
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[key] for key in (*Moments._fields, "name", "fingerprint")}
    except FileNotFoundError:
        raise UserError(f"there are no moments of features at {path}") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} does not hold moments of features ({error}): remove it") from None
    if str(found["fingerprint"]) != fingerprint:
        raise UserError(f"{path} holds moments of {found['name']} ({found['fingerprint']}), not of {fingerprint}")
    return Moments(int(found["num"]), found["mean"], found["scatter"])


def _of_piece(features: np.ndarray, counts: np.ndarray | None) -> Moments:
    if counts is None:
        mean = features.mean(axis=0)
        centred = features - mean
        return Moments(len(features), mean, centred.T @ centred)
    features, counts = features[counts > 0], counts[counts > 0]
    num = int(counts.sum())
    # About one row, so that a large mean does not cost digits.
    mean = features[0] + counts @ (features - features[0]) / num if num else np.zeros(features.shape[1])
    scaled = np.sqrt(counts)[:, None] * (features - mean)
    return Moments(num, mean, scaled.T @ scaled)

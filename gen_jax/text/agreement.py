"""What the captions of a picture agree on: linear directions of an encoder's embeddings, in closed form.

Embeddings say as much about how a text is put as about its picture. Their linear discriminants, with pictures as the
groups (Fisher 1936, Rao 1948), are the directions in which the captions of one picture agree while those of different
pictures differ. Over all captions, each direction has as its deviation its share of variance between pictures: what
the captions of one picture disagree on hardly counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gen_jax.data import cache, dataset
from gen_jax.method import UserError
from gen_jax.text.encoder import DIRECTIONS, MEAN, Encoder, Given

MOST = 10_000  # pictures whose captions are read
_RIDGE = 1e-2  # what hardly varies, such as a rare pair of words, says little
_VERSION = 1  # part of the key in the cache: raise it when the directions change


def agreeing(by: Encoder, given: Given, size: int, most: int = MOST) -> Encoder:
    """Returns an encoder whose embeddings are those of another along the directions: from the cache, or found now.

    Args:
      by: that other one.
      given: the data set, with several captions a picture.
      size: directions, most agreed on first.
      most: pictures whose captions are read.

    Raises:
      UserError: pictures have one caption each, or `size` is out of its range.
    """
    captions = given.data.captions["train"]
    if not 0 < size <= by.size:
        raise UserError(
            f"config.data.text.size is {size}, but {by.kind} has {by.size} numbers for these captions: "
            f"use 1 to {by.size}"
        )
    if len(captions[0]) < 2:
        raise UserError(
            f"config.data.text.size is {size}, but pictures have one caption each, and it takes two or more to tell "
            "what they agree on: set config.data.text.size=0, or use another encoder"
        )
    read = [captions[int(row)] for row in dataset.spread(len(captions), most)]
    told = cache.fingerprint({"captions": np.frombuffer(repr(read).encode(), np.uint8)})
    key = {"captions": told, "encoder": by.digest, "size": size, "version": _VERSION}

    def build() -> tuple[cache.Arrays, dict[str, Any]]:
        flat = [caption for each in read for caption in each]
        mean, directions = agreement(by.encode(flat).reshape(len(read), -1, by.size), size, _RIDGE)
        return {"mean": mean, "directions": directions}, {}

    folder = cache.root(given.cache_dir) / "data"
    stored = cache.fetch(folder, f"{given.data.spec.name}-{by.kind}-agreement", key, build, verify=True)
    found = {MEAN: np.asarray(stored.arrays["mean"]), DIRECTIONS: np.asarray(stored.arrays["directions"])}
    return by._replace(size=size, arrays=by.arrays | found)


def agreement(x: np.ndarray, size: int, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean of examples, f32 [D], and the directions in which those of one group agree, f32 [D, size].

    Args:
      x: K examples of each of N groups, f32 [N, K, D].
      size: directions to return, most agreed on first.
      ridge: added to all variances, as a share of their mean.

    Example:
      >>> mean, directions = agreement(np.array([[[1.0, 3.0], [1.0, -3.0]], [[-1.0, 3.0], [-1.0, -3.0]]]), 1, 0.0)
      >>> mean.tolist(), abs(directions[:, 0]).round(1).tolist()  # groups differ in the first number alone
      ([0.0, 0.0], [1.0, 0.0])
    """
    from scipy import linalg  # here, because its import takes a while

    num, several, width = x.shape
    mean = x.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    centred = x - mean
    flat, means = centred.reshape(-1, width), centred.mean(axis=1)
    total = np.asarray(flat.T @ flat, np.float64) / (num * several)
    # Means of K examples vary by what groups differ in, and by a K-th of what examples of a group differ in.
    between = (several * np.asarray(means.T @ means, np.float64) / num - total) / (several - 1)
    total += ridge * np.trace(total) / width * np.eye(width)
    share, vectors = linalg.eigh(between, total, subset_by_index=[width - size, width - 1])
    directions = vectors * np.maximum(share, 0)
    directions *= np.sign(directions[abs(directions).argmax(axis=0), np.arange(size)])  # eigenvectors have no sign
    return mean, directions[:, ::-1].astype(np.float32)

"""The Inception score: how confident a classifier is about each sample, and how varied its answers are.

Salimans et al. 2016. Its name, and comparisons with papers, need the Inception network; of another classifier it is the
same formula under another name. It never sees the data: one memorised image of each class has the highest score, K.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gen_jax.method import UserError


class InceptionScore(NamedTuple):
    """The result of `inception_score`.

    Attributes:
      mean: over splits, between 1 and the number of classes; higher is better.
      std: over splits.
      num_splits: in how many equal parts the samples were scored.
    """

    mean: float
    std: float
    num_splits: int


def inception_score(probabilities: np.ndarray, num_splits: int = 10, seed: int = 0) -> InceptionScore:
    """Returns exp(E KL(p(y|x) || p(y))) over random splits of the samples.

    The splits are random because samples often come in order of their classes, and a split of one class scores 1.

    Args:
      probabilities: of the classes, [N, K]; rows sum to 1.
      num_splits: equal parts; p(y) is the mean over one of them. The score rises with the size of the parts.
      seed: of the splits.

    Raises:
      UserError: there are fewer samples than splits.
      ValueError: a row does not sum to 1.

    Example:
      >>> inception_score(np.eye(4)[np.arange(40) % 4], num_splits=1)  # sure of each sample, and as many of each class
      InceptionScore(mean=4.0, std=0.0, num_splits=1)
    """
    if len(probabilities) < num_splits:
        raise UserError(f"{len(probabilities)} samples are too few for {num_splits} splits: use {num_splits} or more")
    order = np.argsort(np.random.Philox(np.random.SeedSequence(seed)).random_raw(len(probabilities)), kind="stable")
    scores = [_score(probabilities[rows]) for rows in np.array_split(order, num_splits)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), num_splits)


def _score(probabilities: np.ndarray) -> float:
    probabilities = np.asarray(probabilities, np.float64)
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise ValueError("rows of probabilities do not sum to 1: are they logits?")
    ratio = probabilities / np.maximum(probabilities.mean(axis=0), np.finfo(np.float64).tiny)
    logs = np.log(np.where(probabilities > 0, ratio, 1))  # 0 log 0 = 0
    return float(np.exp((probabilities * logs).sum(axis=1).mean()))

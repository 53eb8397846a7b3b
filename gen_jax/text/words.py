"""An encoder without weights: which words a text has, and which words follow each other."""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from gen_jax.method import UserError, did_you_mean
from gen_jax.text.encoder import Encoder, Given

LEAST = 2  # times that a pair of words occurs in the training captions, to be counted


def make(given: Given, most: int = 512) -> Encoder:
    """Returns the encoder of the words of a set's training captions.

    Args:
      given: the data set.
      most: pairs of words, the most common ones.
    """
    words: collections.Counter[str] = collections.Counter()
    for captions in given.data.captions["train"]:
        for caption in captions:
            words.update(_parts(caption))
    single = sorted(word for word in words if " " not in word)
    pairs = [pair for pair, count in words.most_common() if " " in pair and count >= LEAST][:most]
    return Encoder("words", len(single) + len(pairs), {}, {"words": [*single, *sorted(pairs)]})


def _parts(text: str) -> Iterator[str]:
    """The words, and the pairs of words with no punctuation in between."""
    for clause in re.split(r"[^\w\s]", text.lower()):
        words = clause.split()
        yield from words
        yield from (" ".join(pair) for pair in itertools.pairwise(words))


def encode(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """Returns how often each text has each word and each pair of words, f32 [N, D].

    Raises:
      UserError: a word that no training caption has.

    Example:
      >>> encoder = Encoder("words", 3, {}, {"words": ["red", "star", "red star"]})
      >>> encode(encoder, ["star", "Red star!"]).tolist()
      [[0.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
      >>> encode(encoder, ["a red star"])
      Traceback (most recent call last):
      gen_jax.method.UserError: the text 'a red star' has the word 'a', which no training caption has
    """
    number = {part: i for i, part in enumerate(encoder.facts["words"])}
    embeddings = np.zeros((len(texts), encoder.size), np.float32)
    for row, text in zip(embeddings, texts, strict=True):
        for part in _parts(text):
            if part in number:
                row[number[part]] += 1
            elif " " not in part:
                hint = did_you_mean(part, [word for word in number if " " not in word], 0.7).strip()
                raise UserError(
                    f"the text {text!r} has the word {part!r}, which no training caption has{hint and ': ' + hint}"
                )
    return embeddings

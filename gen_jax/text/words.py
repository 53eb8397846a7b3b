"""An encoder without training: which words a text has, and which words stand near each other."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator, Sequence

import numpy as np

from gen_jax.method import UserError, did_you_mean
from gen_jax.text import agreement
from gen_jax.text.encoder import Encoder, Given

OF_CLAUSES = {"name": "words", "most": 2000, "reach": 8, "size": 128}
"""`config.data.text` for captions of several things: pairs of words up to a whole clause apart tell what belongs to
which."""
LEAST = 2  # times that a pair of words occurs in the training captions, to be counted


def make(given: Given, most: int = 512, reach: int = 1, size: int = 0) -> Encoder:
    """Returns the encoder of the words of a set's training captions.

    Args:
      given: the data set.
      most: pairs of words, the most common ones.
      reach: of a pair: 1 for neighbours, n for words with up to n - 1 others in between. With a reach of a whole clause
        the pairs tell which words belong to the same thing.
      size: of an embedding: directions in which the captions of a picture agree (see `agreement`); 0 keeps the counts.

    Raises:
      UserError: a value out of its range, or one caption a picture where directions are asked for.
    """
    if most < 0 or reach < 1:
        raise UserError(
            f"config.data.text.most is {most} and reach {reach}: the first must not be negative, the other at least 1"
        )
    words: collections.Counter[str] = collections.Counter()
    for captions in given.data.captions["train"]:
        for caption in captions:
            words.update(_parts(caption, reach))
    single = sorted(word for word in words if " " not in word)
    pairs = [pair for pair, count in words.most_common() if " " in pair and count >= LEAST][:most]
    facts = {"words": [*single, *sorted(pairs)]} | ({"reach": reach} if reach > 1 else {})  # 1: as in older runs
    counted = Encoder("words", len(single) + len(pairs), {}, facts)
    return agreement.agreeing(counted, given, size) if size else counted


def _parts(text: str, reach: int) -> Iterator[str]:
    """The words, and the pairs of words of a clause.

    Clauses end at punctuation. With a reach above 1 they also end at "and", on whose two sides are different things.

    Example:
      >>> list(_parts("A red star and a disc", 2))
      ['a', 'red', 'star', 'a red', 'a star', 'red star', 'and', 'a', 'disc', 'a disc']
    """
    for clause in re.split(r"[^\w\s]|(\band\b)" if reach > 1 else r"[^\w\s]", text.lower()):
        words = (clause or "").split()
        yield from words
        for place, word in enumerate(words):
            yield from (f"{word} {other}" for other in words[place + 1 : place + 1 + reach])


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
    reach = encoder.facts.get("reach", 1)
    counts = np.zeros((len(texts), len(number)), np.float32)
    for row, text in zip(counts, texts, strict=True):
        for part in _parts(text, reach):
            if part in number:
                row[number[part]] += 1
            elif " " not in part:
                hint = did_you_mean(part, [word for word in number if " " not in word], 0.7).strip()
                raise UserError(
                    f"the text {text!r} has the word {part!r}, which no training caption has{hint and ': ' + hint}"
                )
    return counts

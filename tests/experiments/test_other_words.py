"""Captions in other words state the same, and share no word of meaning with the grammar."""

import re
import types

import numpy as np
import pytest

from experiments import other_words
from gen_jax.data import captioned_shapes, grammar
from gen_jax.method import UserError

MEANING = {word for known, _ in other_words.TABLES for words in known for same in words for word in same.split()}
COMMON = {"a", "the", "in", "on", "at", "of", "to", "left", "right", "upper", "lower"}  # and what they do not replace


def test_no_word_of_meaning_is_left_and_no_new_one_is_known():
    drawn = captioned_shapes.Drawn("test")
    captions = [caption for i in range(200) for caption in drawn.captions(i)]
    for caption in captions:
        words = set(re.findall(r"[a-z]+", other_words.in_other_words(caption)))
        assert not words & (MEANING - COMMON), caption
    new = {word for _, others in other_words.TABLES for same in others for word in same.split()} - COMMON
    assert not new & set(grammar._KNOWN)


def test_different_captions_stay_different():
    told = {each for others in other_words.TABLES for each in others[1]}
    assert len(told) == sum(len(others) for _, others in other_words.TABLES)


def test_a_model_that_knows_the_grammar_alone_is_right_in_its_words_and_at_chance_in_others():
    drawn = captioned_shapes.Drawn("test")
    pictures = drawn.pictures(range(40), 64)
    known = {caption: pictures[i] for i in range(40) for caption in drawn.captions(i)}

    def sample(texts):
        return [known.get(text, pictures[-1 - number]) for number, text in enumerate(texts)]

    usual, other = other_words.measure(types.SimpleNamespace(sample=lambda texts: np.stack(sample(texts))), 40)
    assert all(value.startswith("100.0% ") for key, value in usual.items() if key != "words")
    assert float(other["colour"].partition("%")[0]) < 60


def test_a_number_of_samples_that_the_set_does_not_have_is_refused(tmp_path):
    with pytest.raises(UserError, match="--num is 1: use 2 to 1,000"):
        other_words.main([str(tmp_path), "--num=1"])

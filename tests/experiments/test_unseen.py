"""Captions in other words state the same, and share no word of meaning with the grammar."""

import re
import types

import numpy as np
import pytest

from experiments import unseen
from gen_jax.data import captioned_shapes, grammar
from gen_jax.method import UserError

MEANING = {word for known, _ in unseen.TABLES for words in known for same in words for word in same.split()}
COMMON = {"a", "the", "in", "on", "at", "of", "to", "left", "right", "upper", "lower"}  # and what they do not replace


def test_no_word_of_meaning_is_left_and_no_new_one_is_known():
    drawn = captioned_shapes.Drawn("test")
    captions = [caption for i in range(200) for caption in drawn.captions(i)]
    for caption in captions:
        words = set(re.findall(r"[a-z]+", unseen.in_other_words(caption)))
        assert not words & (MEANING - COMMON), caption
    new = {word for _, others in unseen.TABLES for same in others for word in same.split()} - COMMON
    assert not new & set(grammar._KNOWN)


def test_different_captions_stay_different():
    told = {each for others in unseen.TABLES for each in others[1]}
    assert len(told) == sum(len(others) for _, others in unseen.TABLES)


def test_a_model_that_knows_the_grammar_alone_is_right_in_its_words_and_at_chance_in_others():
    drawn = captioned_shapes.Drawn("test")
    seen, first = captioned_shapes.Drawn("train"), captioned_shapes.NUM_EXAMPLES["train"]
    pictures = drawn.pictures(range(40), 64)
    known = {caption: pictures[i] for i in range(40) for caption in drawn.captions(i)}
    known |= {seen.captions(first + i)[0]: seen.pictures([first + i], 64)[0] for i in range(40)}

    def model(encoder):
        return types.SimpleNamespace(
            sample=lambda texts: np.stack([known.get(text, pictures[-1 - i]) for i, text in enumerate(texts)]),
            texts=types.SimpleNamespace(encoder=types.SimpleNamespace(kind=encoder)),
        )

    *usual, other = unseen.measure(model("sentence"), 40)
    assert [row["captions"] for row in usual] == [row["captions"] for row in unseen.measure(model("words"), 40)]
    assert len(usual) == 3
    for row in usual:
        shares = [value for key, value in row.items() if key in grammar.ATTRIBUTES and value]
        assert all(value.startswith("100.0% ") for value in shares)
    assert [bool(row["relation"]) for row in usual] == [False, False, True]  # captions that state all need none
    assert float(other["colour"].partition("%")[0]) < 60


def test_a_picture_drawn_at_the_larger_size_is_sharper_than_the_same_enlarged():
    drawn = captioned_shapes.Drawn("test")
    small, large = (unseen.sharpness(drawn.pictures(range(10), side)) for side in (64, 256))
    assert 0 < 2 * small < large


def test_a_number_of_samples_that_the_set_does_not_have_is_refused(tmp_path):
    with pytest.raises(UserError, match="--num is 1: use 2 to 1,000"):
        unseen.main([str(tmp_path), "--num=1"])


def test_runs_of_one_name_are_refused_before_any_is_measured(tmp_path):
    with pytest.raises(UserError, match="two of these runs have the same name"):
        unseen.main([str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run")])

"""Modes of stacked pictures, counted by hand."""

import numpy as np
import pytest
from conftest import data_config

from gen_jax import judges
from gen_jax.config import base_config
from gen_jax.data import dataset, stacked
from gen_jax.data.dataset import Dataset
from gen_jax.metrics import classifier


def _of_each_class(judge: classifier.Classifier, data: Dataset) -> np.ndarray:
    """One test picture of each class that the classifier recognises, uint8 [K, H, W, 1]."""
    assert data.test is not None
    right = judge.probabilities(data.test["image"]).argmax(axis=1) == data.test["label"]
    first = [np.flatnonzero(right & (data.test["label"] == label))[0] for label in range(judge.num_classes)]
    return data.test["image"][first]


def test_modes_of_stacked_digits_are_counted_by_the_classifier_of_single_ones(made_up_tfds):
    config = base_config()
    config.data = data_config(made_up_tfds, "stacked:made_up_digits")
    config.eval.classifier_steps = 150
    data = dataset.load(config.data)
    assert data.single is not None
    assert data.test is not None
    digits = _of_each_class(classifier.train(data.single, "", judges.recipe(config)), data.single)

    def judged(modes: np.ndarray) -> list:
        samples = judges.Samples(stacked.stack(digits, modes), None, "one pass, step 3")
        return judges.judge_by_channels(config, data, samples)

    every = np.stack(np.unravel_index(np.arange(1_000), (10, 10, 10)), axis=1)
    perfect, even = judged(np.repeat(every, 2, axis=0))
    assert [(row["name"], row["value"], row["better"]) for row in (perfect, even)] == [
        ("modes_found/classifier_2k", 1_000, "higher"),
        ("reverse_kl/classifier_2k", pytest.approx(0, abs=1e-12), "lower"),
    ]
    # 2,000 pictures drawn evenly from 1,000 modes miss a share of exp(-2); these are of few digits and another split.
    assert 500 < perfect["reference"] < 1_000 * (1 - np.exp(-2)) + 50
    assert even["reference"] > 0.1
    assert "2,000 samples (one pass, step 3)" in perfect["protocol"]
    assert "of the 1,000 combinations of the channels' classes" in perfect["protocol"]
    assert perfect["judge"]["name"] == "classifier"
    assert perfect["sets"]["real"] == "2,000 test images"

    # Two modes, one of them three times as often as the other.
    collapsed, uneven = judged(np.array([[1, 7, 3], [1, 7, 3], [1, 7, 3], [3, 7, 1]]))
    assert collapsed["value"] == 2
    assert uneven["value"] == pytest.approx(0.75 * np.log(750) + 0.25 * np.log(250))
    # One channel always shows a 4: a hundred of the thousand modes, evenly.
    fours, even = judged(every[every[:, 2] == 4])
    assert (fours["value"], even["value"]) == (100, pytest.approx(np.log(10)))


def test_only_stacked_sets_have_such_modes(made_up_tfds):
    data = dataset.load(data_config(made_up_tfds, "made_up_digits"))
    assert judges.judge_by_channels(base_config(), data, judges.Samples(data.train["image"][:9], None, "")) == []

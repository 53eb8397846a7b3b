import math

import numpy as np
import pytest

from gen_jax.method import UserError
from gen_jax.metrics.inception_score import inception_score

# golden.json: metrics.is_probs
ROWS = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]]


def test_three_samples_by_hand():
    # p(y) = (1/3, 1.3/3, 0.7/3); the mean over x of sum p log(p / p(y)), and its exponential.
    marginal = [sum(column) / 3 for column in zip(*ROWS, strict=True)]
    divergence = sum(p * math.log(p / q) for row in ROWS for p, q in zip(row, marginal, strict=True)) / 3
    assert math.exp(divergence) == pytest.approx(1.27716671282, abs=1e-11)
    found = inception_score(np.array(ROWS), num_splits=1)
    assert found.mean == pytest.approx(1.2771667128213333, abs=1e-14)
    assert found.std == 0


def test_is_the_number_of_classes_for_sure_answers_of_equal_shares_and_one_for_a_single_answer():
    sure = np.eye(5)[np.arange(50) % 5]
    assert inception_score(sure, num_splits=1).mean == pytest.approx(5)
    assert inception_score(np.tile(ROWS[0], (50, 1))).mean == pytest.approx(1)
    assert inception_score(np.eye(5)[np.zeros(50, int)]).mean == pytest.approx(1)


def test_mean_and_deviation_are_those_of_the_splits():
    probabilities = np.random.default_rng(0).dirichlet(np.full(4, 0.3), size=103)
    found = inception_score(probabilities, num_splits=103)
    assert found == (pytest.approx(1, abs=1e-12), pytest.approx(0, abs=1e-12), 103)  # a single sample is its own mean
    found = inception_score(probabilities)
    assert 1 < found.mean < 4
    assert found.std > 0


def test_samples_in_order_of_their_classes_score_as_in_any_other_order():
    classes = np.arange(5_000) % 10
    spread = [inception_score(0.9 * np.eye(10)[order] + 0.01).mean for order in (classes, np.sort(classes))]
    assert spread[0] == pytest.approx(spread[1], rel=0.02)
    assert min(spread) > 5  # splits of one class each would score 1


def test_scales_to_a_thousand_classes_of_float32_with_zeros():
    probabilities = np.eye(1_000, dtype=np.float32)[np.arange(2_000) % 1_000]
    assert inception_score(probabilities, num_splits=1).mean == pytest.approx(1_000)


def test_refuses_fewer_samples_than_splits_and_logits():
    with pytest.raises(UserError, match="3 samples are too few for 10 splits"):
        inception_score(np.array(ROWS))
    with pytest.raises(ValueError, match="logits"):
        inception_score(np.ones((20, 3)))

import math

import numpy as np
import pytest

from gen_jax.metrics import modes

CENTRES = np.array([(x, y) for x in (-4.0, -2.0, 0.0, 2.0, 4.0) for y in (-4.0, -2.0, 0.0, 2.0, 4.0)])
SIGMA = 0.05


def _mixture(num: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return CENTRES[rng.integers(len(CENTRES), size=num)] + SIGMA * rng.normal(size=(num, 2))


def test_the_mixture_itself_scores_as_theory_says():
    points = np.concatenate([_mixture(10_000, seed) for seed in range(4)])
    found = modes.scores(points, CENTRES, SIGMA)
    assert found.covered == 25
    # The squared distance over sigma squared is chi-squared with two degrees of freedom: P(<= 9) = 1 - exp(-9/2).
    assert found.good == pytest.approx(1 - math.exp(-4.5), abs=4 * math.sqrt(0.0111 * 0.9889 / len(points)))
    # 2 N KL is chi-squared with K - 1 degrees of freedom, whose spread is sqrt(2 (K - 1)).
    assert found.reverse_kl == pytest.approx(24 / (2 * len(points)), abs=4 * math.sqrt(48) / (2 * len(points)))


@pytest.mark.parametrize("num_modes", [1, 5, 25])
def test_equal_shares_of_some_modes_give_the_logarithm_of_what_is_missing(num_modes: int):
    points = np.repeat(CENTRES[:num_modes], 20, axis=0)
    found = modes.scores(points, CENTRES, SIGMA)
    assert found == (num_modes, 1.0, pytest.approx(math.log(25 / num_modes), abs=1e-12))


def test_nineteen_good_points_do_not_cover_a_mode():
    points = np.repeat(CENTRES[:2], [19, 20], axis=0)
    assert modes.scores(points, CENTRES, SIGMA).covered == 1
    assert modes.scores(points, CENTRES, SIGMA, min_points=19).covered == 2


def test_points_beyond_three_sigma_are_not_good_but_have_a_mode():
    inside, outside = (CENTRES + np.array(way) for way in ([0.149, 0.0], [0.0, 0.151]))
    found = modes.scores(np.concatenate([inside, outside, outside]), CENTRES, SIGMA, min_points=1)
    assert found == (25, pytest.approx(1 / 3), pytest.approx(0, abs=1e-12))


def test_order_of_points_and_of_modes_does_not_matter():
    rng, points = np.random.default_rng(3), _mixture(500) + 0.1
    expected = modes.scores(points, CENTRES, SIGMA)
    found = modes.scores(rng.permutation(points), rng.permutation(CENTRES), SIGMA)
    assert found[:2] == expected[:2]
    assert found.reverse_kl == pytest.approx(expected.reverse_kl, abs=1e-12)


def test_what_is_not_finite_is_not_good():
    points = np.concatenate([np.repeat(CENTRES, 20, axis=0), np.full((500, 2), np.nan)])
    assert modes.scores(points, CENTRES, SIGMA) == (25, 0.5, pytest.approx(0, abs=1e-12))
    found = modes.scores(np.full((5, 2), np.inf), CENTRES, SIGMA)
    assert found[:2] == (0, 0.0)
    assert math.isnan(found.reverse_kl)


def test_modes_of_classes_are_triples_in_their_order():
    classes = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    found = modes.of_classes(classes, num_classes=2)
    # Shares 1/2, 1/4, 1/4 against eight modes of 1/8.
    assert found == (3, pytest.approx(0.5 * math.log(4) + 0.5 * math.log(2)))


def test_real_triples_score_as_theory_says():
    num, classes = 26_000, np.random.default_rng(0).integers(10, size=(26_000, 3))
    found = modes.of_classes(classes, num_classes=10)
    assert found.modes == 1_000
    # 2 N KL is chi-squared with 999 degrees of freedom, to leading order.
    assert found.reverse_kl == pytest.approx(999 / (2 * num), abs=4 * math.sqrt(2 * 999) / (2 * num) + 1e-3)
    few = modes.of_classes(classes[:1_000], num_classes=10)
    # Of K modes, 1,000 even draws find K (1 - 1/e); the variance is below K / e (1 - 2 / e).
    assert few.modes == pytest.approx(1_000 * (1 - math.exp(-1)), abs=4 * math.sqrt(1_000 * 0.098))


def test_a_single_mode_gives_the_logarithm_of_all():
    assert modes.of_classes(np.full((50, 3), 7), num_classes=10) == (1, pytest.approx(3 * math.log(10)))

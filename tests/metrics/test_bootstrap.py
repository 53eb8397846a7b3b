from collections.abc import Callable

import numpy as np
import pytest

from gen_jax.metrics import bootstrap, frechet, kid
from gen_jax.metrics import precision_recall as pr
from gen_jax.metrics.bootstrap import Interval


def _three_sets(seed: int, num: int, num_features: int) -> np.ndarray:
    """Real images, and samples of two models that are as good as they."""
    return np.random.default_rng(seed).normal(size=(3, num, num_features))


def _hits(found: list[Interval], value: float) -> int:
    return sum(each.low <= value <= each.high for each in found)


def _kernel(real: np.ndarray, fake: np.ndarray) -> float:
    return kid.squared_mmd(fake, real)


def _kernel_difference(real: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    return kid.squared_mmd(a, real) - kid.squared_mmd(b, real)


def _precision_difference(real: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    return pr.precision_recall(real, a)[0] - pr.precision_recall(real, b)[0]


def test_the_interval_of_a_mean_is_the_textbooks():
    x = np.random.default_rng(0).exponential(size=500)
    for draw in (bootstrap.halves, bootstrap.with_repetition):
        found = bootstrap.interval(np.mean, [x], num_resamples=4_000, draw=draw)
        error = x.std() / np.sqrt(500)
        assert found.value == pytest.approx(x.mean())
        assert found.standard_error == pytest.approx(error, rel=0.05)
        assert found.low == pytest.approx(x.mean() - 1.96 * error, abs=0.15 * error)
        assert found.high == pytest.approx(x.mean() + 1.96 * error, abs=0.15 * error)


@pytest.mark.parametrize("draw", [bootstrap.halves, bootstrap.with_repetition])
def test_95_of_100_intervals_of_a_mean_cover_it(draw: bootstrap.Draw):
    found = [bootstrap.interval(np.mean, [np.random.default_rng(i).normal(size=200)], draw=draw) for i in range(300)]
    assert 0.95 * 300 - 3 * np.sqrt(300 * 0.05 * 0.95) <= _hits(found, 0.0) < 300


def test_the_level_widens_the_interval_and_few_resamples_do_not_allow_it():
    x = [np.random.default_rng(0).normal(size=100)]
    narrow, wide = (bootstrap.interval(np.mean, x, 199, level) for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high
    with pytest.raises(ValueError, match="38 resamples are too few for 95%: use 39 or more"):
        bootstrap.interval(np.mean, x, 38)
    assert bootstrap.interval(np.mean, x, 39)


def test_the_shift_of_resamples_is_taken_off():
    # A maximum of repeated draws is below the maximum; a Frechet distance of them is above the distance.
    a, b = np.random.default_rng(0).normal(size=(2, 100, 10))
    found = bootstrap.frechet_interval(a, b)
    assert found.low < found.value < found.high
    top = bootstrap.interval(np.max, [a[:, 0]])
    assert top.low <= top.value <= top.high


def test_draws_depend_on_the_seed_alone_and_differ_between_sets():
    x = np.random.default_rng(0).normal(size=(2, 60))
    difference = bootstrap.interval(lambda a, b: a.mean() - b.mean(), [x[0], x[0]])
    assert difference.standard_error > 0.5 * x[0].std() / np.sqrt(60)  # were both drawn alike, it would be 0
    assert bootstrap.interval(np.mean, [x[0]]) == bootstrap.interval(np.mean, [x[0]])
    assert bootstrap.interval(np.mean, [x[0]]) != bootstrap.interval(np.mean, [x[0]], seed=1)


def test_draws_are_fair():
    counts = np.stack([bootstrap.with_repetition(20, (0, i)) for i in range(2_000)])
    assert (counts.sum(axis=1) == 20).all()
    assert np.abs(counts.mean(axis=0) - 1).max() < 4 * np.sqrt(0.95 / 2_000)
    assert counts.var() == pytest.approx(0.95, rel=0.05)
    halves = np.stack([bootstrap.halves(21, (0, i)) for i in range(2_000)])
    assert (halves.sum(axis=1) == 10).all()
    assert np.abs(halves.mean(axis=0) - 10 / 21).max() < 4 * np.sqrt(0.25 / 2_000)


def test_moments_by_counts_give_the_distances_of_copies():
    a, b = _three_sets(0, 60, 3)[:2]

    def by_copies(x: np.ndarray, y: np.ndarray) -> float:
        return frechet.frechet_distance(x, y)

    expected = bootstrap.interval(by_copies, [a, b], draw=bootstrap.with_repetition)
    assert bootstrap.frechet_interval(a, b) == pytest.approx(expected, abs=1e-9)


def test_a_difference_of_distances_has_the_opposite_interval_when_turned():
    real, a, b = _three_sets(1, 80, 3)
    found = bootstrap.frechet_interval(a, real, b)
    expected = frechet.frechet_distance(a, real) - frechet.frechet_distance(b, real)
    assert found.value == pytest.approx(expected, abs=1e-9)
    same = bootstrap.linear_frechet_interval(a, real, b)
    turned = bootstrap.linear_frechet_interval(b, real, a)
    assert same.value == pytest.approx(found.value, abs=1e-9) == -turned.value


def test_influences_are_the_derivatives_by_weights():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 3)), rng.normal(0.3, 1.5, size=(50, 3))

    def weighted(rows: np.ndarray, weights: np.ndarray) -> frechet.Gaussian:
        mean = weights @ rows / weights.sum()
        return frechet.Gaussian(mean, (weights[:, None] * (rows - mean)).T @ (rows - mean) / weights.sum())

    for rows, others in ((a, b), (b, a)):
        other = frechet.gaussian(others)
        slopes = bootstrap.influence(rows, weighted(rows, np.ones(len(rows))), other)
        for i in (0, 7, 21):
            step = 1e-5 * (np.arange(len(rows)) == i)
            up, down = (frechet.distance(weighted(rows, 1 + way * step), other) for way in (1, -1))
            assert slopes[i] == pytest.approx((up - down) / 2e-5 * len(rows), rel=1e-4, abs=1e-5)
        assert slopes.mean() == pytest.approx(0, abs=1e-12)


def test_influences_stay_finite_on_dead_features():
    a, b = np.random.default_rng(0).normal(size=(2, 40, 4))
    a[:, 2:], b[:, 3:] = 0, 0
    for rows, others in ((a, b), (b, a)):
        assert np.isfinite(bootstrap.influence(rows, frechet.gaussian(rows), frechet.gaussian(others))).all()


@pytest.mark.parametrize("make", [bootstrap.frechet_interval, bootstrap.linear_frechet_interval])
def test_the_error_of_a_frechet_distance_is_that_of_other_samples(make: Callable[..., Interval]):
    def sets(seed: int) -> tuple[np.ndarray, np.ndarray]:
        a, b, _ = _three_sets(seed, 200, 4)
        return 1.5 * a + 0.5, b

    deviation = np.std([frechet.frechet_distance(*sets(seed)) for seed in range(100, 500)])
    found = [make(*sets(seed)).standard_error for seed in range(10)]
    assert np.mean(found) == pytest.approx(deviation, rel=0.15)


@pytest.mark.parametrize(("measure", "most", "with_repetition"), [("precision", 1.5, 1.6), ("coverage", 1.3, 1.0)])
def test_halves_give_the_error_of_nearest_neighbours_which_repetition_does_not(
    measure: str, most: float, with_repetition: float
):
    def value(real: np.ndarray, fake: np.ndarray) -> float:
        return getattr(pr.prdc(real, fake), measure)

    def sets(seed: int) -> tuple[np.ndarray, np.ndarray]:
        a, b, _ = _three_sets(seed, 150, 4)
        return a, 0.8 * b + 0.5

    def error(draw: bootstrap.Draw) -> float:
        return float(np.mean([bootstrap.interval(value, sets(i), 50, draw=draw).standard_error for i in range(4)]))

    deviation = np.std([value(*sets(seed)) for seed in range(100, 300)])
    assert 0.8 < error(bootstrap.halves) / deviation < most
    assert error(bootstrap.with_repetition) / deviation > with_repetition


def _intervals(measure: str, seeds: range, num: int, num_features: int) -> list[Interval]:
    def one(seed: int) -> Interval:
        real, a, b = _three_sets(seed, num, num_features)
        return {
            "frechet_distance": lambda: bootstrap.frechet_interval(a, real, b),
            "linear_frechet_distance": lambda: bootstrap.linear_frechet_interval(a, real, b),
            "kernel_distance": lambda: bootstrap.interval(_kernel, [real, a]),
            "kernel_difference": lambda: bootstrap.interval(_kernel_difference, [real, a, b]),
            "precision": lambda: bootstrap.interval(_precision_difference, [real, a, b]),
            "precision_with_repetition": lambda: bootstrap.interval(
                _precision_difference, [real, a, b], draw=bootstrap.with_repetition
            ),
        }[measure]()

    return [one(seed) for seed in seeds]


@pytest.mark.parametrize(
    "measure", ["frechet_distance", "linear_frechet_distance", "kernel_distance", "kernel_difference", "precision"]
)
def test_two_equal_models_differ_by_zero(measure: str):
    assert _hits(_intervals(measure, range(10), 60, 3), 0.0) >= 8


@pytest.mark.slow
@pytest.mark.parametrize(
    "measure",
    [
        "frechet_distance",
        "linear_frechet_distance",
        "kernel_distance",
        "kernel_difference",
        "precision",
        "precision_with_repetition",
    ],
)
def test_90_of_100_intervals_of_two_equal_models_contain_zero(measure: str):
    assert _hits(_intervals(measure, range(100), 100, 4), 0.0) >= 90


@pytest.mark.slow
@pytest.mark.parametrize("make", [bootstrap.frechet_interval, bootstrap.linear_frechet_interval])
def test_90_of_100_intervals_of_a_worse_model_contain_its_mean_distance(make: Callable[..., Interval]):
    def sets(seed: int) -> tuple[np.ndarray, np.ndarray]:
        a, b, _ = _three_sets(seed, 400, 8)
        return 1.5 * a + 0.5, b

    mean = float(np.mean([frechet.frechet_distance(*sets(seed)) for seed in range(1_000, 1_400)]))
    assert _hits([make(*sets(seed)) for seed in range(100)], mean) >= 90


def test_both_models_are_compared_with_the_same_draws_of_real_images():
    # Few real images are most of the error of a distance, and nearly none of the error of the difference.
    rng = np.random.default_rng(0)
    real, a, b = rng.normal(size=(30, 2)), rng.normal(1, 1, size=(5_000, 2)), rng.normal(1, 1, size=(5_000, 2))
    for make in (bootstrap.frechet_interval, bootstrap.linear_frechet_interval):
        assert make(a, real, b).standard_error < 0.2 * make(a, real).standard_error

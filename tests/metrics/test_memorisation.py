import numpy as np
import pytest

from gen_jax.method import UserError
from gen_jax.metrics import memorisation as module
from gen_jax.metrics.memorisation import memorisation


def _draw(num: int, seed: int, num_features: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).exponential(size=(num, num_features))


def test_copies_of_training_images_are_all_nearer_to_them():
    train, test = _draw(200, 0), _draw(200, 1)
    assert memorisation(train[:150], train, test) == (1.0, 0.0, 200)
    assert memorisation(test[:150], train, test) == (0.0, 0.0, 200)


@pytest.mark.parametrize("noise", [1e-3, 0.1])
def test_blurred_copies_are_found_too(noise: float):
    train, test = _draw(200, 0), _draw(200, 1)
    assert memorisation(train + noise * (_draw(200, 2) - 1), train, test).share > 0.98


@pytest.mark.parametrize("sizes", [(300, 300), (3_000, 300), (200, 600)])
def test_fresh_draws_are_as_near_to_both(sizes: tuple[int, int]):
    found = memorisation(_draw(400, 2), _draw(sizes[0], 0), _draw(sizes[1], 1))
    assert found.num_images == min(sizes)
    assert found.share == pytest.approx(0.5, abs=3 * found.standard_error)


@pytest.mark.parametrize("num_samples", [50, 2_000])
def test_the_standard_error_is_that_of_repeated_draws_also_when_samples_share_their_nearest_images(num_samples: int):
    found = [memorisation(_draw(num_samples, 3 * i), _draw(60, 3 * i + 1), _draw(60, 3 * i + 2)) for i in range(150)]
    deviation = np.std([each.share for each in found])
    assert np.mean([each.standard_error for each in found]) == pytest.approx(deviation, rel=0.25)
    if num_samples == 2_000:  # a plain binomial error would be far too small
        assert deviation > 2 * np.sqrt(0.25 / num_samples)


def test_few_different_nearest_images_give_the_binomial_error():
    train = np.arange(1_000.0)[:, None]
    samples = np.concatenate([train[:9], train[:1] + 5_000])
    found = memorisation(samples, train, train + 5_000)
    assert found == (0.9, pytest.approx(np.sqrt(0.9 * 0.1 / 10), rel=0.01), 1_000)


def test_an_image_in_both_splits_counts_as_half_wherever_the_origin_is():
    rng = np.random.default_rng(0)
    both = rng.normal(size=(50, 5)) + 1e3
    assert memorisation(rng.normal(size=(30, 5)) + 1e3, both, rng.permutation(both)).share == 0.5


@pytest.mark.parametrize("chunk_entries", [1, 1_000])
def test_the_size_of_chunks_does_not_matter(monkeypatch: pytest.MonkeyPatch, chunk_entries: int):
    sets = _draw(100, 2), _draw(80, 0), _draw(80, 1)
    whole = memorisation(*sets)
    monkeypatch.setattr(module, "_CHUNK_ENTRIES", chunk_entries)
    assert memorisation(*sets) == whole


def test_order_does_not_matter_and_the_splits_are_opposite():
    samples, train, test, rng = _draw(100, 2), _draw(80, 0), _draw(80, 1), np.random.default_rng(4)
    found = memorisation(samples, train, test)
    assert memorisation(rng.permutation(samples), rng.permutation(train), rng.permutation(test)) == found
    turned = memorisation(samples, test, train)
    assert turned.share == pytest.approx(1 - found.share)
    assert turned.standard_error == pytest.approx(found.standard_error)


def test_refuses_to_measure_without_a_test_split():
    for test in (None, np.empty((0, 8))):
        with pytest.raises(UserError, match="without a test split"):
            memorisation(_draw(5, 0), _draw(9, 1), test)

import math

import numpy as np
import pytest
from conftest import data_config

from gen_jax.data import cache, dataset, gaussians
from gen_jax.method import DataSpec, UserError


def config(name: str, **changes):
    return data_config("", name, **changes)


@pytest.mark.parametrize(("name", "num_modes", "sigma"), [("ring8", 8, 0.02), ("grid25", 25, 0.05)])
def test_points_have_the_moments_of_the_mixture(name: str, num_modes: int, sigma: float):
    data = dataset.load(config(f"gaussians:{name}"))
    points = data.train["image"].reshape(-1, 2).astype(np.float64)
    mixture = gaussians.MIXTURES[name]
    assert len(mixture.centres) == num_modes
    way = points[:, None] - mixture.centres
    mode = np.square(way).sum(-1).argmin(1)
    count = np.bincount(mode, minlength=num_modes)
    expected = len(points) / num_modes
    assert np.abs(count - expected).max() < 4.5 * math.sqrt(expected)
    scaled = way[np.arange(len(points)), mode] / sigma
    assert np.abs(scaled.mean(0)).max() < 4.5 / math.sqrt(len(points))
    # The standard error of each entry of the covariance of N normal pairs is sqrt(2 / N), or 1 / sqrt(N) off it.
    np.testing.assert_allclose(np.cov(scaled.T), np.eye(2), atol=4.5 * math.sqrt(2 / len(points)))
    squared = np.square(scaled).sum(1)  # chi-squared with two degrees of freedom: P(> r) = exp(-r / 2)
    for bound in (1.0, 4.0, 9.0):
        share = math.exp(-bound / 2)
        assert (squared > bound).mean() == pytest.approx(share, abs=4.5 * math.sqrt(share / len(points)))


def test_the_ring_is_a_ring_and_the_grid_a_grid():
    ring, grid = gaussians.MIXTURES["ring8"].centres, gaussians.MIXTURES["grid25"].centres
    np.testing.assert_allclose(np.hypot(*ring.T), 2.0, rtol=1e-12)
    # Neighbours on the circle are one chord apart: 2 r sin(pi / 8).
    np.testing.assert_allclose(np.linalg.norm(ring - np.roll(ring, 1, 0), axis=1), 4 * math.sin(math.pi / 8))
    assert {tuple(centre) for centre in grid} == {(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)}


def test_the_spec_says_what_points_are():
    data = dataset.load(config("gaussians:grid25"))
    fingerprint = cache.fingerprint(data.train)
    assert data.spec == DataSpec("gaussians:grid25", (1, 1, 2), 100_000, {}, fingerprint, "points", (-5.0, 5.0))
    assert data.train["image"].dtype == np.dtype(data.spec.dtype) == np.float32
    assert data.test is not None
    assert data.test["image"].shape == (10_000, 1, 1, 2)
    assert max(np.abs(split["image"]).max() for split in (data.train, data.test)) < 5
    assert not {*map(tuple, data.test["image"][:, 0, 0].tolist())} & {
        *map(tuple, data.train["image"][:, 0, 0].tolist())
    }
    assert dataset.load(config("gaussians:grid25", test_split="")).test is None


def test_a_point_depends_on_seed_and_row_alone():
    mixture = gaussians.MIXTURES["ring8"]
    np.testing.assert_array_equal(gaussians.draw(mixture, 3, 50), gaussians.draw(mixture, 3, 80)[:50])
    assert (gaussians.draw(mixture, 3, 50) != gaussians.draw(mixture, 4, 50)).any(axis=1).all()


@pytest.mark.parametrize(
    ("name", "changes", "line"),
    [
        ("gaussians:ring9", {}, "there is no set gaussians:ring9; did you mean gaussians:ring8?"),
        ("gaussians", {}, "there are gaussians:ring8, gaussians:grid25"),
        ("gaussians:ring8", {"channels": 1}, "holds points"),
        ("gaussians:ring8", {"train_split": "train[:10]"}, "no such split: use train"),
        ("gaussians:ring8", {"test_split": "validation"}, "no such split: use test"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name: str, changes: dict, line: str):
    with pytest.raises(UserError) as error:
        dataset.load(config(name, **changes))
    assert line in str(error.value)
    assert "\n" not in str(error.value)

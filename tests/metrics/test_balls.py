import numpy as np
import pytest

from gen_jax.method import UserError
from gen_jax.metrics import balls
from gen_jax.metrics import precision_recall as pr


def _by_differences(real: np.ndarray, fake: np.ndarray, k_pr: int = 3, k_dc: int = 5) -> tuple[float, ...]:
    """All four measures in float64, from differences instead of products."""

    def squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.square(a[:, None] - b).sum(axis=2)

    def radii(x: np.ndarray, k: int) -> np.ndarray:
        edge = 1e-12 * np.square(x - centre).sum(axis=1).max()  # balls._MARGIN: points on the edge are inside
        return np.sort(squares(x, x), axis=1)[:, k] + edge

    real, fake = real.astype(np.float64), fake.astype(np.float64)
    between, centre = squares(real, fake), real.mean(axis=0)
    in_real, in_fake = between <= radii(real, k_pr)[:, None], between <= radii(fake, k_pr)
    wide = between <= radii(real, k_dc)[:, None]
    return in_real.any(0).mean(), in_fake.any(1).mean(), wide.sum() / (k_dc * len(fake)), wide.any(1).mean()


def _normal(rng: np.random.Generator, num: int, dims: int) -> np.ndarray:
    return rng.normal(size=(num, dims))


def _clusters(rng: np.random.Generator, num: int, dims: int) -> np.ndarray:
    """Groups so tight and so far apart that float32 cannot tell their members' distances."""
    return (
        1e-4 * rng.normal(size=(num, dims)) + np.random.default_rng(0).normal(size=(5, dims))[rng.integers(5, size=num)]
    )


def _outliers(rng: np.random.Generator, num: int, dims: int) -> np.ndarray:
    x = rng.normal(size=(num, dims))
    x[:3] *= 300
    return x


KINDS = {
    "normal": _normal,
    "clusters": _clusters,
    "outliers": _outliers,
    "far from 0": lambda *args: _normal(*args) + 1e3,
    "float32": lambda *args: _normal(*args).astype(np.float32),
    "a grid, full of ties": lambda rng, num, dims: rng.integers(0, 3, (num, dims)).astype(float),
    "copies": lambda rng, num, dims: np.random.default_rng(1).normal(size=(30, dims))[rng.integers(30, size=num)],
    "one point": lambda rng, num, dims: np.ones((num, dims)),
    "tiny": lambda *args: 1e-150 * _normal(*args),
    "huge": lambda *args: 1e100 * _normal(*args),
}


@pytest.mark.parametrize("dims", [1, 3, 100])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_entries", [900, 2**23])
def test_float32_changes_no_decision(monkeypatch: pytest.MonkeyPatch, kind: str, dims: int, block_entries: int):
    monkeypatch.setattr(balls, "_BLOCK_ENTRIES", block_entries)
    rng = np.random.default_rng(2)
    real, fake = KINDS[kind](rng, 120, dims), KINDS[kind](rng, 90, dims)
    expected = _by_differences(real, fake)
    assert pr.prdc(real, fake) == pytest.approx(expected, abs=1e-12)
    assert (*pr.precision_recall(real, fake), *pr.density_coverage(real, fake)) == tuple(pr.prdc(real, fake))


def test_float32_alone_would_change_decisions(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(balls, "_error", lambda centres, radii: np.zeros_like(radii))
    rng = np.random.default_rng(2)
    real, fake = _clusters(rng, 120, 100), _clusters(rng, 90, 100)
    assert pr.prdc(real, fake) != pytest.approx(_by_differences(real, fake), abs=1e-12)


@pytest.mark.parametrize("kind", ["normal", "clusters", "outliers", "far from 0"])
def test_the_error_of_float32_is_below_its_bound(kind: str):
    rng = np.random.default_rng(0)
    a, b = balls.points(KINDS[kind](rng, 300, 500), KINDS[kind](rng, 200, 500))
    [(_, _, rough)] = balls.blocks(a, b)
    exact = balls.squares(a.exact, b.exact)
    at_the_edge = balls._error(a._replace(longest=np.inf), exact.max(axis=1)[None])[0]  # of balls that hold all points
    assert (np.abs(rough - exact) < at_the_edge[:, None] / 4).all()


def test_k_of_both_pairs_are_their_own():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(60, 3)), rng.normal(0.3, 1, size=(50, 3))
    found = pr.prdc(real, fake, k_pr=2, k_dc=7)
    assert found == pytest.approx(_by_differences(real, fake, 2, 7), abs=1e-12)
    assert found[:2] == pr.precision_recall(real, fake, 2)
    assert found[2:] == pr.density_coverage(real, fake, 7)


def test_blocks_cover_each_pair_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(balls, "_BLOCK_ENTRIES", 16)
    a, b = balls.points(np.arange(10.0)[:, None], np.arange(7.0)[:, None])
    seen = np.zeros((10, 7), int)
    for rows, columns, squared in balls.blocks(a, b):
        seen[rows, columns] += 1
        np.testing.assert_allclose(squared, balls.squares(a.exact[rows], b.exact[columns]), atol=1e-5)
    assert (seen == 1).all()
    halves = np.zeros((10, 10), int)
    for rows, columns, _ in balls.blocks(a, a, upper=True):
        halves[rows, columns] += 1
    assert ((halves + halves.T)[~np.eye(10, dtype=bool)] >= 1).all()


def test_refuses_features_that_are_not_finite():
    real = np.zeros((10, 2))
    fake = np.ones((10, 2))
    fake[3, 0], fake[5, 1] = np.nan, np.inf
    with pytest.raises(UserError, match="2 of 20 images have features that are not finite"):
        pr.prdc(real, fake)

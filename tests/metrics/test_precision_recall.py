import numpy as np
import pytest
import scipy.spatial.distance

from gen_jax.metrics import balls
from gen_jax.metrics import precision_recall as pr

# golden.json: prdc (k = 1)
REAL = np.array([[0.0], [1.0], [2.5], [4.5]])
FAKE = np.array([[0.6], [2.4], [9.0], [9.5]])


def _sets() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(70, 4)), rng.normal(0.5, 0.8, size=(50, 4))


def _brute_force(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """Precision, recall, density, coverage by direct differences, a pair at a time."""
    distance = scipy.spatial.distance.cdist
    real_radii = np.sort(distance(real, real), axis=1)[:, k]
    fake_radii = np.sort(distance(fake, fake), axis=1)[:, k]
    in_real = distance(real, fake) <= real_radii[:, None]
    in_fake = distance(real, fake) <= fake_radii[None, :]
    return in_real.any(0).mean(), in_fake.any(1).mean(), in_real.sum() / (k * len(fake)), in_real.any(1).mean()


def test_four_points_on_a_line():
    assert pr.precision_recall(REAL, FAKE, k=1) == (0.5, 0.75)
    assert pr.density_coverage(REAL, FAKE, k=1) == (0.75, 0.75)
    assert pr.prdc(REAL, FAKE, k_pr=1, k_dc=1) == (0.5, 0.75, 0.75, 0.75)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("chunk_entries", [1, 1_000, 2**23])
def test_agrees_with_brute_force_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch, k: int, chunk_entries: int):
    monkeypatch.setattr(balls, "_BLOCK_ENTRIES", chunk_entries)
    real, fake = _sets()
    found = (*pr.precision_recall(real, fake, k), *pr.density_coverage(real, fake, k))
    assert found == pytest.approx(_brute_force(real, fake, k), abs=1e-12)


def test_equal_sets_overlap_wholly():
    # Each point lies in the balls of its k neighbours' side: every ball holds itself and its k nearest.
    real, _ = _sets()
    assert pr.precision_recall(real, real) == (1.0, 1.0)
    density, coverage = pr.density_coverage(real, real, k=5)
    assert density == pytest.approx(6 / 5)
    assert coverage == 1.0


def test_distant_sets_do_not_overlap():
    real, fake = _sets()
    assert pr.precision_recall(real, fake + 1e3) == (0.0, 0.0)
    assert pr.density_coverage(real, fake + 1e3) == (0.0, 0.0)


def test_the_edge_of_a_ball_belongs_to_it():
    real = np.array([[0.0], [1.0], [3.0]])  # radii 1, 1, 2
    assert pr.precision_recall(real, np.array([[-1.0], [5.0], [-1.5]]), k=1)[0] == pytest.approx(2 / 3)


def test_one_mode_alone_is_precise_but_recalls_half():
    rng = np.random.default_rng(0)
    left, right = rng.normal(-50, 1, (100, 2)), rng.normal(50, 1, (100, 2))
    precision, recall = pr.precision_recall(np.concatenate([left, right]), left + 1e-3)
    assert precision == 1.0
    assert recall == 0.5


def test_order_and_origin_do_not_matter():
    real, fake = _sets()
    rng = np.random.default_rng(1)
    moved = rng.permutation(real) + 1e4, rng.permutation(fake) + 1e4
    assert pr.precision_recall(*moved) == pr.precision_recall(real, fake)
    assert pr.density_coverage(*moved) == pr.density_coverage(real, fake)


def test_refuses_fewer_points_than_neighbours():
    with pytest.raises(ValueError, match="3 points have no 3-th neighbour"):
        pr.precision_recall(REAL, FAKE[:3], k=3)


def test_thinning_keeps_small_sets_and_spaces_large_ones_evenly():
    np.testing.assert_array_equal(pr.thin(REAL), REAL)
    kept = pr.thin(np.arange(60_000))
    assert len(kept) == len(set(kept)) == 10_000
    assert (kept[0], kept[-1]) == (0, 59_999)
    assert set(np.diff(kept)) <= {5, 6, 7}


@pytest.mark.parametrize("chunk_entries", [1, 500, 2**23])
def test_nearest_agrees_with_brute_force(monkeypatch: pytest.MonkeyPatch, chunk_entries: int):
    monkeypatch.setattr(pr, "_CHUNK_ENTRIES", chunk_entries)
    reference, queries = _sets()
    index, distance = pr.nearest(queries, reference, k=4)
    pairs = scipy.spatial.distance.cdist(queries, reference)
    np.testing.assert_array_equal(index, np.argsort(pairs, axis=1)[:, :4])
    np.testing.assert_allclose(distance, np.sort(pairs, axis=1)[:, :4], atol=1e-12)


def test_nearest_image_of_a_training_image_is_itself():
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3)).astype(np.uint8)
    index, distance = pr.nearest(images[[7, 3]], images)
    np.testing.assert_array_equal(index, [[7], [3]])
    np.testing.assert_array_equal(distance, 0.0)

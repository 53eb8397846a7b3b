import numpy as np
import pytest

from gen_jax.method import UserError
from gen_jax.metrics import kid


def _by_loops(a: np.ndarray, b: np.ndarray) -> float:
    """The estimate, a pair at a time: Gretton et al. 2012, eq. 3."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (sum(float(p) * float(q) for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3

    m, n = len(a), len(b)
    within_a = sum(kernel(a[i], a[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_b = sum(kernel(b[i], b[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    between = sum(kernel(x, y) for x in a for y in b) / (m * n)
    return within_a + within_b - 2 * between


def _sets(m: int = 7, n: int = 5, num_features: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(m, num_features)), rng.normal(0.5, 2, size=(n, num_features))


@pytest.mark.parametrize("piece_rows", [1, 3, 2_048])
def test_agrees_with_loops_over_pairs(monkeypatch: pytest.MonkeyPatch, piece_rows: int):
    monkeypatch.setattr(kid, "_PIECE_ROWS", piece_rows)
    a, b = _sets()
    assert kid.squared_mmd(a, b) == pytest.approx(_by_loops(a, b), rel=1e-12)
    assert kid.squared_mmd(b, a) == pytest.approx(_by_loops(a, b), rel=1e-12)


def test_four_numbers_by_hand():
    # Kernels of 1, 0 and 2, 1: (0 + 1)^3 = 1 within the first, (2 + 1)^3 = 27 within the second, and between them
    # (2 + 1)^3, (1 + 1)^3, 1, 1. So 1 + 27 - 2 (27 + 8 + 1 + 1) / 4 = 9.5.
    assert kid.squared_mmd(np.array([[1.0], [0.0]]), np.array([[2.0], [1.0]])) == pytest.approx(9.5, rel=1e-12)


def test_closed_form_of_two_sets_of_copies():
    # All of a are x and all of b are y: k(x, x) + k(y, y) - 2 k(x, y).
    x, y = np.array([1.0, 2.0]), np.array([3.0, -1.0])
    expected = (5 / 2 + 1) ** 3 + (10 / 2 + 1) ** 3 - 2 * (1 / 2 + 1) ** 3
    assert kid.squared_mmd(np.tile(x, (4, 1)), np.tile(y, (9, 1))) == pytest.approx(expected, rel=1e-12)


def test_is_zero_on_average_for_halves_of_one_distribution_at_any_size():
    for size in (5, 50):
        draws = np.random.default_rng(size).exponential(size=(400, 2, size, 4))  # not the Gaussian kind, on purpose
        values = [kid.squared_mmd(a, b) for a, b in draws]
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_the_mean_over_subsets_is_that_of_all_pairs():
    a, b = _sets(300, 240)
    b += 1
    found = kid.kernel_distance(a, b, num_subsets=200, subset_size=100)
    assert found.mean == pytest.approx(kid.squared_mmd(a, b), abs=4 * found.std / np.sqrt(200))
    assert found.std > 0


def test_subsets_are_drawn_by_the_seed_alone():
    a, b = _sets(50, 40)
    first = kid.kernel_distance(a, b, subset_size=20)
    assert first == kid.kernel_distance(a, b, subset_size=20)
    assert first.mean != kid.kernel_distance(a, b, subset_size=20, seed=1).mean


def test_a_subset_has_each_row_once_and_all_rows_are_drawn_alike():
    subsets = [kid._subset(10, 4, (0, i, 0)) for i in range(3_000)]
    assert all(len(set(rows.tolist())) == 4 for rows in subsets)
    counts = np.bincount(np.concatenate(subsets), minlength=10)
    assert np.abs(counts - 1_200).max() < 4.5 * np.sqrt(3_000 * 0.4 * 0.6)


def test_subsets_are_as_large_as_the_smaller_set_and_that_is_reported():
    a, b = _sets(30, 20)
    assert kid.kernel_distance(a, b).subset_size == 20
    assert kid.kernel_distance(a, b).num_subsets == 100
    whole = kid.kernel_distance(a[:20], b)
    assert whole == (kid.squared_mmd(a[:20], b), 0.0, 100, 20)


def test_order_does_not_matter_beyond_the_subsets():
    a, b = _sets(40, 40)
    shuffled = np.random.default_rng(1).permutation(a)
    assert kid.kernel_distance(shuffled, b).mean == pytest.approx(kid.kernel_distance(a, b).mean, rel=1e-9)


def test_float32_features_are_not_multiplied_in_float32():
    a, b = (each.astype(np.float32) + 100 for each in _sets(40, 40))
    assert kid.squared_mmd(a, b) == pytest.approx(_by_loops(a, b), rel=1e-6)  # in float32, a difference of 1e12s: noise


def test_refuses_a_single_image():
    with pytest.raises(UserError, match="at least 2 images in each set: 7, 1"):
        kid.kernel_distance(*_sets(7, 1))

import numpy as np
import pytest

from gen_jax.method import UserError
from gen_jax.metrics import vendi
from gen_jax.metrics.vendi import vendi_score


def _by_kernel(features: np.ndarray) -> float:
    """By the matrix of all cosines, a pair at a time."""
    lengths = np.sqrt((features**2).sum(axis=1))
    kernel = [[a @ b / (p * q) for b, q in zip(features, lengths, strict=True)]
              for a, p in zip(features, lengths, strict=True)]  # fmt: skip
    share = np.linalg.eigvals(np.array(kernel) / len(features)).real
    return float(np.exp(-sum(value * np.log(value) for value in share if value > 1e-12)))


@pytest.mark.parametrize("shape", [(20, 6), (6, 20), (6, 6), (1, 3), (30, 1)])
def test_agrees_with_the_matrix_of_all_pairs(shape: tuple[int, int]):
    features = np.random.default_rng(0).normal(0.3, 1, size=shape)
    assert vendi_score(features) == pytest.approx(_by_kernel(features), rel=1e-9)


@pytest.mark.parametrize("num_features", [3, 50])
def test_identical_images_count_as_one(num_features: int):
    assert vendi_score(np.tile(np.arange(1.0, num_features + 1), (20, 1))) == pytest.approx(1, abs=1e-9)


def test_orthogonal_images_count_in_full():
    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 9)))
    assert vendi_score(turned) == pytest.approx(9, abs=1e-9)
    assert vendi_score(turned[:4]) == pytest.approx(4, abs=1e-9)


@pytest.mark.parametrize("size", [1, 7])
def test_equal_clusters_count_as_their_number_and_others_by_their_entropy(size: int):
    assert vendi_score(np.repeat(np.eye(5), size, axis=0)) == pytest.approx(5, abs=1e-9)
    # Shares 3/4 and 1/4: exp(H) = (4/3)^(3/4) 4^(1/4)
    unequal = np.repeat(np.eye(2), [3 * size, size], axis=0)
    assert vendi_score(unequal) == pytest.approx((4 / 3) ** 0.75 * 4**0.25, abs=1e-9)


def test_two_images_at_an_angle():
    # Eigenvalues of [[1, c], [c, 1]] / 2: (1 + c) / 2 and (1 - c) / 2
    c = 0.6
    shares = np.array([(1 + c) / 2, (1 - c) / 2])
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert vendi_score(np.array([[2.0, 0.0], [0.6, 0.8]])) == pytest.approx(expected, rel=1e-9)


def test_order_and_lengths_do_not_matter():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 8))
    other = rng.permutation(features) * rng.uniform(1e-3, 1e3, size=(40, 1))
    assert vendi_score(other) == pytest.approx(vendi_score(features), rel=1e-9)


def test_the_size_of_pieces_does_not_matter(monkeypatch: pytest.MonkeyPatch):
    features = np.random.default_rng(0).normal(size=(40, 8))
    whole = vendi_score(features)
    monkeypatch.setattr(vendi, "_PIECE_VALUES", 1)
    assert vendi_score(features) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("num_features", [3, 30])
def test_images_without_any_feature_are_one_more_kind(num_features: int):
    features = np.zeros((12, num_features), np.float32)
    features[:4, 0], features[4:8, 1] = 1e-30, 1e30  # squares of which float32 cannot hold
    assert vendi_score(features) == pytest.approx(3, abs=1e-9)
    assert vendi_score(np.zeros((5, num_features))) == pytest.approx(1, abs=1e-9)


def test_refuses_what_has_no_direction():
    for features in (np.empty((0, 4)), np.array([[1.0, np.nan]])):
        with pytest.raises(UserError, match="finite features of at least one image"):
            vendi_score(features)

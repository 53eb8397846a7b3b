import numpy as np
import pytest
import scipy.linalg

from gen_jax.method import UserError
from gen_jax.metrics import frechet


def _features(seed: int, num_samples: int = 200, num_features: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_samples, num_features)) @ rng.normal(size=(num_features, num_features))


def test_two_gaussians_in_the_plane():
    # golden.json: metrics.fid_2d, computed from these moments in float64
    a = frechet.Gaussian(np.array([0.0, 1.0]), np.array([[2.0, 0.5], [0.5, 1.0]]))
    b = frechet.Gaussian(np.array([0.5, 0.0]), np.array([[1.0, -0.3], [-0.3, 1.5]]))
    assert frechet.distance(a, b) == pytest.approx(1.7134711896064752, abs=1e-12)
    assert frechet.distance(b, a) == pytest.approx(1.7134711896064752, abs=1e-12)


def test_agrees_with_the_matrix_root_of_the_product():
    a, b = frechet.gaussian(_features(0)), frechet.gaussian(_features(1) + 0.5)
    root = scipy.linalg.sqrtm(a.cov @ b.cov).real
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.cov + b.cov - 2 * root)
    assert frechet.distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_moments_agree_with_numpy():
    features = _features(0)
    moments = frechet.gaussian(features)
    np.testing.assert_allclose(moments.mean, features.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(moments.cov, np.cov(features.T), atol=1e-12)


def test_equal_sets_are_at_distance_zero_in_any_order():
    features = _features(0)
    shuffled = np.random.default_rng(1).permutation(features)
    assert frechet.frechet_distance(features, shuffled) == pytest.approx(0, abs=1e-6)


def test_order_does_not_matter():
    a, b = _features(0), _features(1)
    shuffled = np.random.default_rng(2).permutation(a)
    assert frechet.frechet_distance(shuffled, b) == pytest.approx(frechet.frechet_distance(a, b), rel=1e-9)


def test_large_float32_means_do_not_disturb_the_distance():
    # A one-pass covariance in float32 gives -21 here.
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5_000, 64))
    shift = 1_024.0  # a power of two, and coarse values: exact in float32
    a, b = np.round(a * 1_024) / 1_024, np.round(b * 1_024) / 1_024
    shifted = frechet.frechet_distance((a + shift).astype(np.float32), (b + shift).astype(np.float32))
    assert shifted == pytest.approx(frechet.frechet_distance(a, b), abs=1e-6)


@pytest.mark.parametrize("n", [500, 1_000, 5_000])
def test_bias_of_two_samples_of_one_gaussian(n):
    # To first order in 1 / n, E = (1/n1 + 1/n2) (d + d (d + 1) / 4): 0.442 for n 5,000 and d 64.
    a, b = np.random.default_rng(0).normal(size=(2, n, 64))
    assert frechet.frechet_distance(a, b) == pytest.approx(2 / n * (64 + 64 * 65 / 4), rel=0.07)


def test_dead_features_stay_finite():
    a, b = _features(0), _features(1)
    a[:, 2:], b[:, 3:] = 0, 0
    assert np.isfinite(frechet.frechet_distance(a, b))


def test_refuses_no_more_samples_than_features():
    with pytest.raises(UserError, match=r"5 samples are too few .* more than 5"):
        frechet.frechet_distance(_features(0, num_samples=5), _features(1))
    assert frechet.frechet_distance(_features(0, num_samples=6), _features(1)) > 0

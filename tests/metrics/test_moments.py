import numpy as np
import pytest

from gen_jax.method import UserError
from gen_jax.metrics import frechet, moments
from gen_jax.metrics.moments import Moments


def _features(num: int = 500, mean: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(num, 6)) @ rng.normal(size=(6, 6)) + mean


def _assert_equal(a: Moments, b: Moments) -> None:
    assert a.num == b.num
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(a.scatter, b.scatter, rtol=1e-9, atol=1e-9)


def test_agrees_with_numpy():
    features = _features()
    found = Moments.of(features)
    np.testing.assert_allclose(found.mean, features.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found.scatter, 499 * np.cov(features.T), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(found.gaussian().cov, frechet.gaussian(features).cov, atol=1e-12)


@pytest.mark.parametrize("sizes", [[500], [1] * 500, [499, 1], [7, 0, 293, 200]])
@pytest.mark.parametrize("mean", [0.0, 1_000.0])
def test_pieces_of_any_size_and_order_give_the_moments_of_all(sizes: list[int], mean: float):
    features = _features(mean=mean)
    parts = [Moments.of(piece) for piece in np.split(features, np.cumsum(sizes)[:-1])]
    expected = Moments.of(features)
    _assert_equal(moments.merge(*parts), expected)
    _assert_equal(moments.merge(*reversed(parts)), expected)


def test_the_size_of_pieces_in_memory_does_not_matter(monkeypatch: pytest.MonkeyPatch):
    features = _features(num=3_000)
    whole = Moments.of(features)
    monkeypatch.setattr(moments, "_PIECE_ROWS", 7)
    _assert_equal(Moments.of(features), whole)


def test_small_spreads_around_large_float32_means_stay():
    # Sums of squares in float32 lose all of it: 1,000^2 has a spacing of 1/16. The values are exact in float32.
    features = np.round(_features(num=4_000) * 1_024) / 1_024
    shifted = (features + 1_024).astype(np.float32)
    found = moments.merge(*(Moments.of(piece) for piece in np.array_split(shifted, 7)))
    np.testing.assert_allclose(found.scatter, Moments.of(features).scatter, rtol=1e-9, atol=1e-9)
    squares = np.einsum("ni,nj->ij", shifted, shifted) - 4_000 * np.outer(shifted.mean(0), shifted.mean(0))
    assert np.abs(squares - found.scatter).max() > 10  # what the test is about


@pytest.mark.parametrize("mean", [0.0, 1e6])
def test_counts_are_repeated_rows(mean: float):
    features = _features(num=50, mean=mean)
    counts = np.random.default_rng(1).multinomial(50, np.full(50, 1 / 50))
    found, expected = Moments.of(features, counts), Moments.of(np.repeat(features, counts, axis=0))
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-14, atol=1e-12)
    np.testing.assert_allclose(found.scatter, expected.scatter, rtol=1e-8, atol=1e-8)
    assert found.num == 50


def test_no_rows_add_nothing():
    none, some = Moments.of(np.empty((0, 6))), Moments.of(_features())
    for merged in (moments.merge(none, some), moments.merge(some, none), moments.merge(none, none, some)):
        _assert_equal(merged, some)
    assert Moments.of(_features(num=4), np.zeros(4, np.int64)).num == 0


def test_refuses_no_more_rows_than_features():
    with pytest.raises(UserError, match=r"6 samples are too few .* more than 6"):
        Moments.of(_features(num=6)).gaussian()


def test_a_file_gives_back_every_bit(tmp_path):
    found = Moments.of(_features())
    moments.save(tmp_path / "m.npz", found, "made-up digits", "0f1e")
    again = moments.load(tmp_path / "m.npz", "0f1e")
    assert again.num == found.num
    np.testing.assert_array_equal(again.mean, found.mean)
    np.testing.assert_array_equal(again.scatter, found.scatter)
    assert [file.name for file in tmp_path.iterdir()] == ["m.npz"]


def test_a_file_of_something_else_is_refused_and_says_of_what(tmp_path):
    moments.save(tmp_path / "m.npz", Moments.of(_features()), "made-up digits", "0f1e")
    with pytest.raises(UserError, match=r"moments of made-up digits \(0f1e\), not of 77aa"):
        moments.load(tmp_path / "m.npz", "77aa")


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut short", b"text"])
def test_a_missing_or_broken_file_is_a_users_matter(tmp_path, content: bytes | None):
    if content is not None:
        (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(UserError, match="m.npz"):
        moments.load(tmp_path / "m.npz", "0f1e")


def test_a_file_cut_short_or_with_other_arrays_is_refused(tmp_path):
    moments.save(tmp_path / "m.npz", Moments.of(_features()), "digits", "0f1e")
    (tmp_path / "short.npz").write_bytes((tmp_path / "m.npz").read_bytes()[:-200])
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    for name in ("short.npz", "other.npz"):
        with pytest.raises(UserError, match="does not hold moments"):
            moments.load(tmp_path / name, "0f1e")

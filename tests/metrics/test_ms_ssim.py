import itertools

import numpy as np
import pytest
import scipy.signal

from gen_jax.metrics import ms_ssim as m


def pictures(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Smooth random pictures, so that neighbouring pixels go together."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = np.cumsum(np.cumsum(noise, axis=1), axis=2)
    low, high = smooth.min(axis=(1, 2), keepdims=True), smooth.max(axis=(1, 2), keepdims=True)
    return np.rint(255 * (smooth - low) / (high - low)).astype(np.uint8)


def noisy(images: np.ndarray, sigma: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=images.shape)
    return np.clip(np.rint(images + sigma * noise), 0, 255).astype(np.uint8)


def independent(a: np.ndarray, b: np.ndarray, scales: int) -> float:
    """MS-SSIM of two grey pictures [H, W] the way that the paper's own code goes: two-dimensional filters, 'valid'."""
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    y, x = np.mgrid[-5:6, -5:6]
    window = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(image):
        return scipy.signal.convolve2d(image, window, mode="valid")

    a, b, product = a.astype(float), b.astype(float), 1.0
    for scale, weight in enumerate(weights / weights.sum()):
        c1, c2 = 6.5025, 58.5225  # (0.01 255)^2, (0.03 255)^2
        mu_a, mu_b = blur(a), blur(b)
        var_a, var_b, cov = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2, blur(a * b) - mu_a * mu_b
        value = (2 * cov + c2) / (var_a + var_b + c2)
        if scale == scales - 1:
            value = value * (2 * mu_a * mu_b + c1) / (mu_a**2 + mu_b**2 + c1)
        product *= max(value.mean(), 0.0) ** weight
        # Symmetric borders, filter by the mean of 2 x 2, every second row and column.
        a, b = (scipy.signal.convolve2d(np.pad(i, ((0, 1), (0, 1)), "symmetric"), np.full((2, 2), 0.25), "valid")
                [::2, ::2] for i in (a, b))  # fmt: skip
    return product


@pytest.mark.parametrize(("side", "scales"), [((11, 11), 1), ((28, 28), 2), ((41, 57), 3), ((161, 180), 5)])
def test_agrees_with_two_dimensional_filters(side: tuple[int, int], scales: int):
    a = pictures((2, *side, 1))
    b = noisy(a, 30)
    expected = [independent(x, y, scales) for x, y in zip(a[..., 0], b[..., 0], strict=True)]
    found = m.ms_ssim(a, b)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert ((found > 0.05) & (found < 0.999)).all()


def test_one_window_by_direct_moments():
    # A picture of one window has one value: moments with weights g(x) g(y).
    a, b = np.random.default_rng(0).uniform(0, 255, (2, 1, 11, 11, 1))
    g = np.exp(-(np.arange(-5.0, 6) ** 2) / 4.5)
    weight = np.outer(g, g) / g.sum() ** 2
    x, y = a[0, ..., 0], b[0, ..., 0]
    mean_x, mean_y = (weight * x).sum(), (weight * y).sum()
    var_x, var_y = (weight * (x - mean_x) ** 2).sum(), (weight * (y - mean_y) ** 2).sum()
    cov = (weight * (x - mean_x) * (y - mean_y)).sum()
    c1, c2 = 2.55**2, 7.65**2
    ssim = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    assert m.ms_ssim(a, b)[0] == pytest.approx(max(ssim, 0), rel=1e-12)


@pytest.mark.parametrize("side", [11, 28, 32, 64])
def test_a_picture_is_wholly_like_itself(side: int):
    images = pictures((3, side, side, 3))
    np.testing.assert_allclose(m.ms_ssim(images, images), 1.0, rtol=1e-12)


def test_it_is_symmetric_and_falls_with_noise():
    images = pictures((4, 32, 32, 3))
    values = [m.ms_ssim(images, noisy(images, sigma)) for sigma in (0, 5, 20, 60)]
    assert all((more > less).all() for more, less in itertools.pairwise(values))
    other = noisy(images, 20)
    np.testing.assert_allclose(m.ms_ssim(images, other), m.ms_ssim(other, images), rtol=1e-12)


@pytest.mark.parametrize(("side", "weight"), [(12, 1.0), (28, 0.2856 / (0.0448 + 0.2856)), (161, 0.1333 / 1.0001)])
def test_another_brightness_costs_the_luminance_of_the_last_scale_alone(side: int, weight: float):
    # Contrast and structure of flat pictures are those of C2 over C2.
    grey, brighter = np.full((1, side, side, 1), 60.0), np.full((1, side, side, 1), 100.0)
    luminance = (2 * 60 * 100 + 6.5025) / (60**2 + 100**2 + 6.5025)
    np.testing.assert_allclose(m.ms_ssim(grey, brighter), luminance**weight, rtol=1e-9)


def test_the_opposite_of_a_picture_counts_as_nothing_alike_and_not_as_a_nan():
    images = pictures((2, 28, 28, 1))
    np.testing.assert_array_equal(m.ms_ssim(images, 255 - images), 0.0)


def test_units_of_pixels_do_not_matter_if_their_range_is_told():
    a = pictures((2, 28, 28, 1))
    b = noisy(a, 25)
    np.testing.assert_allclose(m.ms_ssim(a / 255, b / 255, value_range=1.0), m.ms_ssim(a, b), rtol=1e-10)


def test_channels_are_averaged_and_pairs_stand_alone():
    a, b = pictures((3, 28, 28, 3)), pictures((3, 28, 28, 3), seed=5)
    one_by_one = [
        np.mean([m.ms_ssim(x[None, ..., [c]], y[None, ..., [c]])[0] for c in range(3)])
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(m.ms_ssim(a, b), one_by_one, rtol=1e-12)


def test_five_scales_need_161_pixels():
    assert [m.num_scales(side, side) for side in (11, 20, 21, 40, 41, 80, 81, 160, 161, 1000)] == [
        1, 1, 2, 2, 3, 3, 4, 4, 5, 5,
    ]  # fmt: skip
    assert m.num_scales(1000, 28) == 2
    with pytest.raises(ValueError, match="8x8 pixels are smaller than the window"):
        m.num_scales(8, 8)


def test_a_class_of_copies_is_alike_and_one_of_others_is_not():
    copies, others = np.repeat(pictures((1, 28, 28, 1)), 10, axis=0), pictures((10, 28, 28, 1), seed=3)
    images, labels = np.concatenate([copies, others]), np.repeat([0, 2], 10).astype(np.int32)
    found = m.within_class(images, labels, num_pairs=30)
    assert found.by_class[0] == pytest.approx(1, abs=1e-12)
    assert np.isnan(found.by_class[1])
    assert found.by_class[2] < 0.8
    assert found.mean == pytest.approx((1 + found.by_class[2]) / 2)
    assert found.standard_error > 0


def test_pairs_are_of_different_images_of_one_class_and_fair():
    rows = np.array([3, 5, 8, 9])
    pairs = m._pairs(rows, 12_000, seed=0, label=1)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    _, count = np.unique(pairs, axis=0, return_counts=True)
    assert len(count) == 12
    assert np.abs(count - 1000).max() < 4.5 * np.sqrt(1000)
    assert len(m._pairs(rows[:1], 5, seed=0, label=1)) == 0


def test_the_order_of_chunks_does_not_matter(monkeypatch: pytest.MonkeyPatch):
    images, labels = pictures((12, 28, 28, 1)), np.arange(12) % 3
    whole = m.within_class(images, labels, num_pairs=7)
    monkeypatch.setattr(m, "_CHUNK_PIXELS", 1)
    alone = m.within_class(images, labels, num_pairs=7)
    assert whole.mean == pytest.approx(alone.mean, rel=1e-12)
    with pytest.raises(ValueError, match="no class has two images"):
        m.within_class(images[:3], labels[:3])

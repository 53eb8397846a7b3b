"""Measures of enlarged pictures, by hand and against the SSIM of `ms_ssim`, which is written for numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.metrics import ms_ssim, upscaled

RNG = np.random.default_rng(0)


def test_luma_is_that_of_bt_601_and_grey_its_own():
    colours = jnp.array([[[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]]], jnp.uint8)
    # MATLAB's rgb2ycbcr, not rounded.
    np.testing.assert_allclose(upscaled.luma(colours).ravel(), [81.481, 144.553, 40.966, 235], rtol=1e-6)
    assert upscaled.luma(colours[..., :1]).ravel().tolist() == [255, 0, 0, 255]


def test_psnr_leaves_out_the_border():
    truth = np.full((1, 20, 20, 1), 100, np.uint8)
    made = truth + 10  # mean squared error 100: 10 log10(255^2 / 100)
    made[:, :4], made[:, :, -4:] = 0, 255
    found = upscaled.compared(jnp.asarray(truth), jnp.asarray(made), 4)
    np.testing.assert_allclose(found["psnr_y_shaved4"], 28.1308036087, rtol=1e-6)
    assert found["sharpness_y_shaved4"].tolist() == [0.0]
    assert upscaled.compared(jnp.asarray(truth), jnp.asarray(made), 2)["psnr_y_shaved2"][0] < 20


def test_ssim_is_that_of_one_scale():
    a = RNG.integers(0, 256, (3, 20, 20, 1)).astype(np.uint8)
    b = np.clip(a + RNG.normal(0, 30, a.shape), 0, 255).astype(np.uint8)
    assert ms_ssim.num_scales(20, 20) == 1
    found = upscaled.ssim(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    np.testing.assert_allclose(found, ms_ssim.ms_ssim(a, b), atol=1e-4)


def test_sharpness_is_the_variance_of_the_laplacian():
    y = RNG.normal(100, 20, (2, 9, 12, 1))
    expected = [
        np.var([[x[i - 1, j] + x[i + 1, j] + x[i, j - 1] + x[i, j + 1] - 4 * x[i, j] for j in range(1, 11)]
                for i in range(1, 8)]) for x in y[..., 0]
    ]  # fmt: skip
    np.testing.assert_allclose(upscaled.sharpness(jnp.asarray(y, jnp.float32)), expected, rtol=1e-4)


def test_small_pictures_have_no_ssim_and_smaller_ones_nothing():
    image = jnp.zeros((1, 14, 14, 3), jnp.uint8)
    assert upscaled.compared(image, image, 2).keys() == {"psnr_y_shaved2", "sharpness_y_shaved2"}
    with pytest.raises(ValueError, match="nothing but a border of 6"):
        upscaled.compared(image, image, 6)

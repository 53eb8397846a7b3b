"""Measures of pictures that were made larger, on luma without the border, as published results have them.

Luma is the Y of ITU-R BT.601 from 16 to 235, as in MATLAB's `rgb2ycbcr`; a grey picture is its own. The border of as
many pixels as the pictures were enlarged by is left out: there every method guesses. PSNR and SSIM have the peak 255.
Values on RGB, on another luma or with the border are other measures, so `name_of` names luma and border.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gen_jax.method import Array
from gen_jax.metrics import ms_ssim
from gen_jax.metrics.psnr import psnr

_LUMA = (65.481, 128.553, 24.966)  # for red, green and blue in [0, 1]


def name_of(measure: str, border: int) -> str:
    """Returns the name of a measure on luma without the border.

    Example:
      >>> name_of("psnr", 4)
      'psnr_y_shaved4'
    """
    return f"{measure}_y_shaved{border}"


def luma(images: Array) -> Array:
    """Returns Y, f32 [N, H, W, 1], of pictures uint8 [N, H, W, C], C 1 or 3; not rounded.

    Example:
      >>> [round(y, 3) for y in luma(jnp.array([[[[255, 255, 255], [0, 0, 0]]]], jnp.uint8)).ravel().tolist()]
      [235.0, 16.0]
    """
    x = images.astype(jnp.float32)
    return x if x.shape[-1] == 1 else 16 + jnp.sum(x * (jnp.array(_LUMA) / 255), axis=-1, keepdims=True)


def compared(truth: Array, made: Array, border: int) -> dict[str, Array]:
    """Returns PSNR (dB), SSIM and sharpness of pictures, f32 [N] each, by `name_of`.

    Args:
      truth: uint8 [N, H, W, C].
      made: what was made in its place, of the same shape.
      border: pixels that are left out on each side. SSIM is left out where less than its window of 11x11 remains.

    Raises:
      ValueError: no pixels are left.
    """
    y, y_hat = (_shaved(luma(images), border) for images in (truth, made))
    found = {"psnr": psnr(y, y_hat, span=255.0)}
    if min(y.shape[1:3]) >= ms_ssim.WINDOW:
        found["ssim"] = ssim(y, y_hat)
    found["sharpness"] = sharpness(y_hat)
    return {name_of(measure, border): values for measure, values in found.items()}


def ssim(y: Array, y_hat: Array) -> Array:
    """Returns the structural similarity of pictures f32 [N, H, W, 1] with values in 0..255 (Wang et al. 2004): f32 [N].

    Windows of 11x11 pixels with Gaussian weights that lie inside the picture; the mean over them.

    Example:
      >>> grey = jnp.full((1, 16, 16, 1), 100.0)
      >>> round(float(ssim(grey, 2 * grey)[0]), 6)  # (2 100 200 + 2.55^2) / (100^2 + 200^2 + 2.55^2)
      0.800026
    """
    c1, c2 = (ms_ssim.K1 * 255) ** 2, (ms_ssim.K2 * 255) ** 2
    # Differences of squares lose fewer digits when pictures vary around 0.
    level, level_hat = (jnp.mean(each, axis=(1, 2, 3), keepdims=True) for each in (y, y_hat))
    x, x_hat = y - level, y_hat - level_hat
    blurred = _blurred(jnp.concatenate([x, x_hat, x * x_hat, x**2 + x_hat**2], axis=-1))
    mean, mean_hat, product, squares = jnp.moveaxis(blurred, -1, 0)
    covariance, variances = product - mean * mean_hat, squares - mean**2 - mean_hat**2
    mean, mean_hat = mean + level[..., 0], mean_hat + level_hat[..., 0]
    luminance = (2 * mean * mean_hat + c1) / (mean**2 + mean_hat**2 + c1)
    return jnp.mean(luminance * (2 * covariance + c2) / (variances + c2), axis=(1, 2))


def sharpness(y: Array) -> Array:
    """Returns the variance of the Laplacian (Pech-Pacheco et al. 2000) of pictures f32 [N, H, W, 1]: f32 [N].

    It needs no true picture: it rises with fine detail, true or not, and with noise. The Laplacian is the sum of the
    four neighbours minus four times the pixel, within the picture.

    Example:
      >>> float(sharpness(jnp.tile(jnp.array([0.0, 1.0]), (1, 4, 2))[..., None])[0])  # stripes: Laplacians of +-2
      4.0
    """
    inner = y[:, 1:-1, 1:-1]
    laplacian = y[:, :-2, 1:-1] + y[:, 2:, 1:-1] + y[:, 1:-1, :-2] + y[:, 1:-1, 2:] - 4 * inner
    return jnp.var(laplacian, axis=(1, 2, 3))


def _shaved(y: Array, border: int) -> Array:
    if min(y.shape[1:3]) <= 2 * border + 2:
        raise ValueError(f"pictures of {y.shape[1]}x{y.shape[2]} pixels have nothing but a border of {border}")
    return y[:, border : y.shape[1] - border, border : y.shape[2] - border]


def _blurred(x: Array) -> Array:
    """The weighted mean over each window, [N, H - 10, W - 10, C]."""
    window = ms_ssim.window()
    for axis in (1, 2):
        length = x.shape[axis] - len(window) + 1
        x = sum(float(w) * jax.lax.slice_in_dim(x, i, i + length, axis=axis) for i, w in enumerate(window))  # pyright: ignore[reportAssignmentType]
    return x

"""Bicubic resizing, against weights by hand, the definition on a mirrored picture, and published results."""

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from gen_jax.data import bicubic
from gen_jax.metrics import upscaled

PICTURE = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)


def cubic(x):
    """The cubic by its conditions, solved once by hand: (a + 2)|x|^3 - (a + 3)|x|^2 + 1 and so on, with a = -1/2."""
    x, a = abs(x), -0.5
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def by_definition(row, new_size):
    """One row by the definition, on a picture that is mirrored twenty pixels far on both sides."""
    mirrored, scale = np.pad(row.astype(np.float64), 20, mode="symmetric"), new_size / len(row)
    width, found = max(1.0, 1 / scale), []
    for number in range(new_size):
        centre = (number + 0.5) / scale - 0.5
        weights = np.array([cubic((centre - place) / width) for place in range(-20, len(row) + 20)])
        found.append(weights @ mirrored / weights.sum())
    return np.array(found)


@pytest.mark.parametrize("new_size", [3, 6, 24, 48])
def test_a_row_is_resized_by_the_definition_with_mirrored_edges(new_size):
    made = bicubic.resized(PICTURE[None], 8, new_size)[0]
    for row in (0, 5):
        np.testing.assert_allclose(made[row, :, 1], by_definition(PICTURE[row, :, 1], new_size), atol=1e-3)


def test_numpy_and_jax_resize_alike_and_rounded_values_are_bytes():
    ours, theirs = (bicubic.resized(each, 4, 3) for each in (PICTURE[None], jnp.asarray(PICTURE[None])))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert ours.shape == (1, 4, 3, 3)
    assert bicubic.as_bytes(np.array([-3.0, 0.5, 1.4, 254.5, 300.0])).tolist() == [0, 1, 1, 255, 255]


@pytest.mark.parametrize(("folder", "published"), [("Set5", 28.43), ("Set14", 25.99)])
def test_bicubic_pictures_have_the_published_psnr(shared, folder, published):
    # Four times smaller and larger again: Ledig et al. 2017, table 2; on Y, without a border of four pixels.
    found = []
    for path in sorted((shared / "images/sr" / folder).glob("*.png")):
        pixels = np.asarray(PIL.Image.open(path))
        height, width = (length // 4 * 4 for length in pixels.shape[:2])
        truth = pixels.reshape(*pixels.shape[:2], -1)[None, :height, :width]
        made = bicubic.enlarged(bicubic.reduced(truth, 4), 4)
        found.append(float(upscaled.compared(jnp.asarray(truth), jnp.asarray(made), 4)["psnr_y_shaved4"][0]))
    assert len(found) == {"Set5": 5, "Set14": 14}[folder]
    assert abs(np.mean(found) - published) < 0.05

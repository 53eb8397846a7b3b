import io

import numpy as np
import PIL.Image
import pytest

from gen_jax.figures.grid import contact_sheet, enlarge, grid, png_bytes, save_png


def test_grid_places_images_row_by_row():
    images = np.arange(1, 4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 1), np.uint8)
    assert grid(images, columns=2, padding=1, background=9)[..., 0].tolist() == [
        [1, 1, 9, 2, 2],
        [9, 9, 9, 9, 9],
        [3, 3, 9, 9, 9],
    ]


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (2, (1, 2)), (5, (2, 3)), (9, (3, 3)), (10, (3, 4))])
def test_grid_is_as_square_as_it_can_be(count, shape):
    assert grid(np.zeros((count, 1, 1, 3), np.uint8), padding=0).shape == (*shape, 3)


def test_grid_keeps_colours():
    images = np.arange(12, dtype=np.uint8).reshape(2, 1, 2, 3)
    assert grid(images, columns=1, padding=0).tolist() == images.reshape(2, 2, 3).tolist()


@pytest.mark.parametrize(
    "images", [np.zeros((0, 2, 2, 1), np.uint8), np.zeros((1, 2, 2, 2), np.uint8), np.zeros((1, 2, 2, 1))]
)
def test_what_is_no_image_is_refused(images):
    with pytest.raises(ValueError, match="needs images uint8"):
        grid(images)


def test_enlarge_repeats_pixels():
    image = np.array([[[1], [2]], [[3], [4]]], np.uint8)
    assert enlarge(image, 2)[..., 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]


def test_a_contact_sheet_has_a_row_a_name_of_as_many_images_as_there_are():
    row = np.arange(1, 13, dtype=np.uint8).reshape(2, 1, 2, 3)  # two images of one by two pixels, in colour
    drawn = contact_sheet([row[:0], row, row[:1]], ["none", "two", "one"])
    assert drawn.shape[0] == 3 * 28 + 2 * 4  # enlarged 28 times, to 28x56, four pixels between two
    names, cells = drawn[:, : -2 * 56 - 4], drawn[:, -2 * 56 - 4 :]
    assert all((names[top : top + 28] < 128).any() for top in (0, 32, 64))
    np.testing.assert_array_equal(cells[:28], 255)
    np.testing.assert_array_equal(cells[32:60, :56], enlarge(row[0], 28))
    np.testing.assert_array_equal(cells[32:60, 56:60], 255)
    np.testing.assert_array_equal(cells[32:60, 60:], enlarge(row[1], 28))
    np.testing.assert_array_equal(cells[64:, :56], enlarge(row[0], 28))
    np.testing.assert_array_equal(cells[64:, 56:], 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_value(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    save_png(tmp_path / "new" / "a.png", image)
    with PIL.Image.open(tmp_path / "new" / "a.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture).reshape(image.shape), image)
    assert (tmp_path / "new" / "a.png").read_bytes() == png_bytes(image)


def test_a_description_that_is_not_utf_8_has_backslashes():
    with PIL.Image.open(io.BytesIO(png_bytes(np.zeros((2, 2, 1), np.uint8), "of caf\udce9"))) as picture:
        assert picture.info["Description"] == r"of caf\udce9"


def test_fewer_colours_are_the_nearest_ones():
    """256 greys as 16 of equal width: no value moves by more than one of them."""
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    with PIL.Image.open(io.BytesIO(png_bytes(image, colours=16))) as picture:
        shown = np.asarray(picture.convert("L")).astype(int)
    assert len(np.unique(shown)) <= 16
    assert np.abs(shown - image[..., 0]).max() <= 16

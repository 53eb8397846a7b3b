import io
import types

import numpy as np
import PIL.Image
import pytest

from gen_jax.data import images
from gen_jax.method import UserError


def _fit(image: PIL.Image.Image, size: int = 0, channels: int = 0, background: int = 255) -> list:
    pixels = images.fit(image, size, channels, background)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    return pixels.tolist()


def _row(mode: str, *values) -> PIL.Image.Image:
    """Returns a picture of one row."""
    image = PIL.Image.new(mode, (len(values), 1))
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)
    return image


def _stored(image: PIL.Image.Image, file_format: str, **options) -> PIL.Image.Image:
    """Returns the picture as it opens from a file."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return PIL.Image.open(file)


def test_grey_stays_one_channel_and_colour_three():
    assert _fit(_row("L", 0, 7, 255)) == [[[0], [7], [255]]]
    assert _fit(_row("RGB", (1, 2, 3))) == [[[1, 2, 3]]]


def test_channels_convert():
    # 0.299, 0.587 and 0.114 of 255: 76.2, 149.7, 29.1.
    assert _fit(_row("RGB", (255, 0, 0), (0, 255, 0), (0, 0, 255)), channels=1) == [[[76], [150], [29]]]
    assert _fit(_row("L", 9), channels=3) == [[[9, 9, 9]]]


def test_one_bit_is_black_and_white():
    assert _fit(_stored(_row("1", 0, 1), "PNG")) == [[[0], [255]]]


@pytest.mark.parametrize(("dtype", "mode"), [("<u2", "I;16"), (">u2", "I;16B"), ("<i4", "I")])
def test_16_bit_grey_is_scaled(dtype: str, mode: str):
    values = np.array([[0, 128, 129, 257, 32768, 65535]])  # over 257: 0, 0.498, 0.502, 1, 127.502, 255
    image = PIL.Image.frombytes(mode, (6, 1), values.astype(dtype).tobytes())
    assert image.mode == mode
    assert _fit(image) == [[[0], [0], [1], [1], [128], [255]]]


def test_16_bit_png_is_scaled_and_its_transparent_value_shows_the_background():
    image = PIL.Image.fromarray(np.array([[0, 25700, 65535]], np.uint16))
    assert _fit(_stored(image, "PNG")) == [[[0], [100], [255]]]
    stored = _stored(image, "PNG")
    stored.load()
    stored.info["transparency"] = 25700
    assert _fit(stored, background=7) == [[[0], [7], [255]]]


def test_alpha_lets_the_background_through():
    # 0.2 of the picture and 0.8 of the background.
    image = _row("RGBA", (200, 100, 0, 51), (200, 100, 0, 255), (200, 100, 0, 0))
    assert _fit(_stored(image, "PNG"), background=100) == [[[120, 100, 80], [200, 100, 0], [100, 100, 100]]]


def test_grey_with_alpha_stays_grey():
    assert _fit(_stored(_row("LA", (200, 51), (200, 0)), "PNG"), background=100) == [[[120], [100]]]


def test_transparent_colour_of_rgb_and_of_grey():
    image = _row("RGB", (1, 2, 3), (4, 5, 6))
    assert _fit(_stored(image, "PNG", transparency=(1, 2, 3))) == [[[255, 255, 255], [4, 5, 6]]]
    assert _fit(_stored(_row("L", 8, 9), "PNG", transparency=8)) == [[[255], [9]]]


def test_palette_becomes_colour():
    image = _row("P", 1, 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert _fit(_stored(image, "PNG")) == [[[40, 50, 60], [10, 20, 30]]]
    assert _fit(_stored(image, "GIF")) == [[[40, 50, 60], [10, 20, 30]]]


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"])
def test_palette_with_transparency(transparency: int | bytes):
    image = _row("P", 1, 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert _fit(_stored(image, "PNG", transparency=transparency), background=5) == [[[5, 5, 5], [10, 20, 30]]]


def test_cmyk_becomes_rgb():
    # No ink, pure cyan, 20% black ink: 255 - min(255, ink + black).
    assert _fit(_row("CMYK", (0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 51))) == [
        [[255, 255, 255], [0, 255, 255], [204, 204, 204]]
    ]


def test_cmyk_jpeg_is_not_inverted():
    pixels = np.array(_fit(_stored(PIL.Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)))
    np.testing.assert_allclose(pixels, np.broadcast_to([255, 0, 0], (16, 16, 3)), atol=3)


# The picture that lies in the file as 1 2 / 3 4, upright: what the EXIF standard says of each orientation.
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, [[1, 2], [3, 4]]),
        (2, [[2, 1], [4, 3]]),
        (3, [[4, 3], [2, 1]]),
        (4, [[3, 4], [1, 2]]),
        (5, [[1, 3], [2, 4]]),
        (6, [[3, 1], [4, 2]]),
        (7, [[4, 2], [3, 1]]),
        (8, [[2, 4], [1, 3]]),
    ],
)
@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_exif_rotation_is_carried_out(orientation: int, upright: list, file_format: str):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image = PIL.Image.fromarray(np.array([[1, 2], [3, 4]], np.uint8))
    stored = _stored(image, file_format, exif=exif, **({"lossless": True} if file_format == "WEBP" else {}))
    assert np.array(_fit(stored, channels=1))[..., 0].tolist() == upright


@pytest.mark.parametrize("file_format", ["GIF", "WEBP"])
def test_an_animation_gives_its_first_frame(file_format: str):
    frames = [PIL.Image.new("RGB", (2, 2), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    stored = _stored(frames[0], file_format, save_all=True, append_images=frames[1:], lossless=True)
    assert stored.n_frames == 3
    assert _fit(stored) == [[[255, 0, 0]] * 2] * 2


def test_without_a_size_any_shape_stays():
    assert np.shape(_fit(PIL.Image.new("RGB", (5, 3)))) == (3, 5, 3)


def test_crop_is_about_the_centre():
    assert _fit(_row("L", 1, 2, 3, 4, 5), size=1) == [[[3]]]
    assert _fit(_row("L", 1, 2, 3, 4), size=1) == [[[2]]]  # of two middles the left one
    assert _fit(_row("L", 1, 2, 3, 4).transpose(PIL.Image.Transpose.ROTATE_270), size=1) == [[[2]]]


def test_a_picture_of_the_right_size_is_not_touched():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert _fit(PIL.Image.fromarray(pixels), size=8) == pixels.tolist()


def test_what_is_cropped_away_does_not_bleed_in():
    pixels = np.zeros((8, 24), np.uint8)
    pixels[:, 8:16] = 100
    assert _fit(PIL.Image.fromarray(pixels), size=4) == np.full((4, 4, 1), 100).tolist()


@pytest.mark.parametrize("width", [12, 60, 120])
def test_reduction_is_antialiased(width: int):
    # Stripes finer than the result's pixels become their mean, 127.5; without antialiasing, black or white.
    stripes = np.tile(np.array([0, 255], np.uint8), (width, width // 2))
    reduced = np.array(_fit(PIL.Image.fromarray(stripes), size=4))
    np.testing.assert_allclose(reduced, 127.5, atol=16)


def _lanczos(row: np.ndarray, size: int) -> np.ndarray:
    """Returns the row resized by the definition: sinc(x) sinc(x / 3) of the distance in pixels of the result."""
    scale = len(row) / size
    centers = (np.arange(size)[:, None] + 0.5) * scale
    x = (np.arange(len(row)) + 0.5 - centers) / scale
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return weights @ row / weights.sum(axis=1)


def test_resize_is_lanczos():
    row = np.random.default_rng(1).integers(60, 190, 20).astype(np.uint8)
    resized = np.array(_fit(PIL.Image.fromarray(np.tile(row, (20, 1))), size=8))[..., 0]
    np.testing.assert_allclose(resized, np.tile(_lanczos(row, 8), (8, 1)), atol=1)


@pytest.mark.parametrize(
    ("key", "value"), [("image_size", -1), ("channels", 4), ("background", 256), ("background", -1)]
)
def test_refuses_what_no_picture_can_have(key: str, value: int):
    sound = {"image_size": 0, "channels": 0, "background": 0, "on_error": "stop"}
    images.check(types.SimpleNamespace(**sound))
    with pytest.raises(UserError, match=f"config.data.{key} is {value}; "):
        images.check(types.SimpleNamespace(**sound | {key: value}))

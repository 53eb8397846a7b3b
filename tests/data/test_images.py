import io
import random
import struct
import types
import warnings
import zlib

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


def _with_exif(entries: bytes, count: int, size: int = 2) -> io.BytesIO:
    """Returns a JPEG, black above white, whose EXIF has these entries: tag, type, count and value of 12 bytes each."""
    file = io.BytesIO()
    PIL.Image.fromarray(np.repeat(np.array([[0], [255]], np.uint8), 2, axis=1)).resize((size, size), 0).save(
        file, "JPEG", quality=100
    )
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", count) + entries + b"\0\0\0\0"
    return io.BytesIO(b"\xff\xd8\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + file.getvalue()[2:])


SIXTH = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)  # orientation


@pytest.mark.parametrize(
    "other", ["x-resolution as text", "no x-resolution", "y-resolution as text", "unknown type", "outside", "twice"]
)
def test_orientation_is_read_whatever_else_exif_holds(other: str):
    entry = {
        "x-resolution as text": struct.pack(">HHI4s", 0x011A, 2, 3, b"72"),
        "no x-resolution": struct.pack(">HHI4s", 0x011A, 2, 1, b""),
        "y-resolution as text": struct.pack(">HHI4s", 0x011B, 2, 3, b"72"),
        "unknown type": struct.pack(">HHII", 0x0132, 99, 1, 0),
        "outside": struct.pack(">HHII", 0x0131, 2, 1000, 60000),
        "twice": struct.pack(">HHIHH", 0x0128, 3, 2, 2, 2),
    }[other]
    unit = struct.pack(">HHIHH", 0x0128, 3, 1, 2, 0)  # with it, PIL looks at the resolution
    file = _with_exif(SIXTH + entry + unit, 3, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with images.unlimited():
            pixels = np.array(_fit(images.opened(file)))[..., 0]
    np.testing.assert_allclose(pixels, np.repeat([[255] * 8 + [0] * 8], 16, axis=0), atol=3)


@pytest.mark.parametrize("entry", [struct.pack(">HHIHH", 0x0112, 3, 1, number, 0) for number in (0, 1, 9)] + [
    struct.pack(">HHI4s", 0x0112, 2, 2, b"6"), struct.pack(">HHI4s", 0x0112, 99, 1, b"6"), b"",
])  # fmt: skip
def test_an_orientation_that_is_none_turns_nothing(entry: bytes):
    pixels = np.array(_fit(images.opened(_with_exif(entry, bool(entry), 16))))[..., 0]
    np.testing.assert_allclose(pixels, np.repeat([[0]] * 8 + [[255]] * 8, 16, axis=1), atol=3)


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xedPhotoshop 3.0\0" + b"8BIM\x04",
        b"\xff\xe2MPF\0nothing",
        b"\xff\xe2ICC_PROFILE\0",
        b"\xff\xe1Exif\0\0",
        b"\xff\xe1no EXIF",
        b"\xff\xfea comment",
    ],
)
def test_what_a_jpeg_brings_along_is_passed_over(segment: bytes, recwarn: pytest.WarningsRecorder):
    jpeg = _with_exif(SIXTH, 1, 16).getvalue()
    segment = segment[:2] + struct.pack(">H", len(segment)) + segment[2:]
    pixels = np.array(_fit(images.opened(io.BytesIO(jpeg[:2] + segment + jpeg[2:]))))[..., 0]
    np.testing.assert_allclose(pixels, np.repeat([[255] * 8 + [0] * 8], 16, axis=0), atol=3)
    assert not recwarn


def test_a_jpeg_is_turned_by_xmp_where_exif_tells_nothing():
    def turned(*segments: bytes) -> bool:
        file = _with_exif(b"", 0, 16).getvalue()
        parts = [b"\xff\xe1" + struct.pack(">H", len(each) + 2) + each for each in segments]
        pixels = np.array(_fit(images.opened(io.BytesIO(file[:2] + b"".join(parts) + file[2:]))))
        return bool(pixels[0, 0, 0] == 255)

    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    upright = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, 1, 0) + bytes(4)
    assert turned(xmp)
    assert not turned(xmp, upright)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"comment": b"x" * 9}])
def test_a_jpeg_is_decoded_as_pil_does(mode: str, options: dict):
    bands = len(PIL.Image.new(mode, (1, 1)).getbands())
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, bands), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(noise.squeeze(), mode).save(file, "JPEG", icc_profile=bytes(100_000), **options)
    assert _fit(images.opened(file)) == _fit(PIL.Image.open(file))
    for length in (3, 5, 200, len(file.getvalue()) // 2):
        with pytest.raises((OSError, SyntaxError)):
            _fit(images.opened(io.BytesIO(file.getvalue()[:length])))


def test_exif_that_is_none_turns_nothing():
    damaged = _with_exif(SIXTH, 1).getvalue().replace(b"MM\0*", b"Mm\0+")
    assert np.shape(_fit(images.opened(io.BytesIO(damaged)))) == (2, 2, 1)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(*chunks: bytes, behind: bool = False) -> io.BytesIO:
    """Returns the PNG of 1 2 / 3 4, with chunks before its pixels or behind them."""
    file = io.BytesIO()
    PIL.Image.fromarray(np.array([[1, 2], [3, 4]], np.uint8)).save(file, "PNG")
    png = file.getvalue()
    at = len(png) - 12 if behind else 8 + 25  # before IEND, or behind IHDR
    return io.BytesIO(png[:at] + b"".join(chunks) + png[at:])


HUGE = random.Random(0).randbytes(1000) * 2000  # 2 MB


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    "chunk",
    [
        _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(HUGE)),
        _chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(HUGE)),
        _chunk(b"zTXt", b"Comment\0\x01what is this method"),
        _chunk(b"zTXt", b"Comment\0\0not compressed"),
        _chunk(b"iTXt", b"Comment\0\x01\0\0\0" + zlib.compress(HUGE)),
        _chunk(b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0" + zlib.compress(HUGE)),
        _chunk(b"tEXt", b"Comment\0" + HUGE) * 40,
        _chunk(b"tEXt", b"Comment\0" + HUGE)[:-4] + b"sums",
        _chunk(b"iCCP", b"profile\0\0" + zlib.compress(HUGE)),
        _chunk(b"gAMA", b"?"),
        _chunk(b"prVt", HUGE),
    ],
    ids=range(11),
)
def test_texts_and_profiles_of_a_png_are_passed_over(chunk: bytes, behind: bool):
    file = _png(chunk, behind=behind)
    assert np.array(_fit(images.opened(file, ("PNG",))))[..., 0].tolist() == [[1, 2], [3, 4]]


def test_a_png_is_turned_by_its_texts_too():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + SIXTH + b"\0\0\0\0"
    profile = b"\nexif\n" + str(len(exif)).encode() + b"\n" + exif.hex().encode()
    xmp = b'<x tiff:Orientation="6"/>'
    for chunk in (
        _chunk(b"tEXt", b"Raw profile type exif\0" + profile),
        _chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
        _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        _chunk(b"eXIf", exif[6:]),
    ):
        file = _png(_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(HUGE)), chunk)
        assert np.array(_fit(images.opened(file)))[..., 0].tolist() == [[3, 1], [4, 2]], chunk


@pytest.mark.parametrize("length", [8, 30, 40, 60, -30])
def test_a_png_cut_short_stays_damaged(length: int):
    text = _chunk(b"tEXt", b"Comment\0short")
    with pytest.raises((OSError, SyntaxError, ValueError, struct.error)):
        _fit(images.opened(io.BytesIO(_png(text).getvalue()[:length])))


def test_a_tiff_is_turned_once():
    image = PIL.Image.fromarray(np.array([[1, 2], [3, 4]], np.uint8))
    for compression in ("raw", "tiff_lzw"):
        stored = _stored(image, "TIFF", tiffinfo={0x0112: 6}, compression=compression)
        assert np.array(_fit(stored))[..., 0].tolist() == [[3, 1], [4, 2]]


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_tiffs_of_8_and_16_bits(compression: str):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array(_fit(_stored(PIL.Image.fromarray(grey), "TIFF", compression=compression)))[..., 0].tolist() == (
        grey.tolist()
    )
    colour = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    assert _fit(_stored(PIL.Image.fromarray(colour), "TIFF", compression=compression)) == colour.tolist()
    deep = PIL.Image.fromarray(grey.astype(np.uint16) * 257)
    assert np.array(_fit(_stored(deep, "TIFF", compression=compression)))[..., 0].tolist() == grey.tolist()


def test_numbers_whose_white_is_not_known_are_refused():
    for image in (PIL.Image.new("F", (2, 2), 0.5), PIL.Image.new("I", (2, 2), 70_000)):
        with pytest.raises(ValueError, match="white is not known"):
            _fit(_stored(image, "TIFF"))
    inverted = _stored(PIL.Image.fromarray(np.zeros((2, 2), np.uint16)), "TIFF", tiffinfo={262: 0})
    with pytest.raises(ValueError, match="white is not known"):
        _fit(inverted)


def test_no_size_is_warned_of_in_the_block(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    with images.unlimited():
        assert np.shape(_fit(_stored(PIL.Image.new("L", (40, 50)), "PNG"), size=3)) == (3, 3, 1)
        warnings.warn_explicit("of PIL's", UserWarning, "x.py", 1, "PIL.TiffImagePlugin")
    with pytest.raises(ZeroDivisionError), images.unlimited():
        raise ZeroDivisionError
    assert not recwarn
    assert PIL.Image.MAX_IMAGE_PIXELS == 10
    with pytest.warns(PIL.Image.DecompressionBombWarning):
        _stored(PIL.Image.new("L", (3, 4)), "PNG")


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

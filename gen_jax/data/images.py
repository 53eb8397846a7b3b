"""Pictures of any kind as arrays of one kind: 8 bit, grey or RGB, upright, opaque, square on request.

The steps, in order:

- Orientation: the rotation and mirroring in the EXIF tag are applied. All other metadata is ignored, even if it is
  damaged or too long.
- 16-bit grey is scaled, not clipped: round(value / 257), so that 65535 becomes 255. Pixels whose value of white is not
  known (in TIFFs of floating-point, signed or 32-bit numbers) are refused.
- Transparent pixels are laid over a grey background. Stored values are mixed (sRGB, not linear light), as in browsers.
- Palettes become RGB; CMYK by the plain formula 255 - min(255, ink + black), without colour profiles.
- Colour becomes grey by ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B. Grey becomes colour by three equal channels.
- Crop: the largest central square; an odd row or column is removed at the bottom or right.
- Resize: Lanczos with a support that grows with the reduction, so that fine detail does not alias; a picture of at
  least six times the new size is first averaged over whole boxes of pixels, to at least three times the new size.
"""

from __future__ import annotations

import contextlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import PIL.ExifTags
import PIL.Image

from gen_jax.config import require_choice
from gen_jax.method import UserError

_TAGS = PIL.ExifTags.Base
_MODES = {1: "L", 3: "RGB"}
_GREY_MODES = ("1", "L", "LA")
_UPRIGHT = {  # undoes each orientation except 1
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}

_JPEG = b"\xff\xd8\xff"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_PNG = b"\x89PNG\r\n\x1a\n"
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_WANTED = (b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")  # ancillary chunks of a PNG that are kept
_TELLS_ORIENTATION = (b"Raw profile type exif", b"XML:com.adobe.xmp", b"exif")  # keywords of text chunks
_MAX_TEXT = 2**20  # bytes that PIL unpacks

_unlimited = threading.Lock()


def check(config: Any) -> None:
    """Refuses an `image_size`, `channels` or `background` that no picture can have, and an unknown `on_error`.

    Raises:
      UserError: names the key, the value and what is allowed.

    Example:
      >>> import types
      >>> check(types.SimpleNamespace(image_size=64, channels=2, background=255, on_error="stop"))
      Traceback (most recent call last):
      gen_jax.method.UserError: config.data.channels is 2; use 1 for grey, 3 for colour, 0 for the stored ones
    """
    if config.image_size < 0:
        raise UserError(
            f"config.data.image_size is {config.image_size}; use a number of pixels, or 0 for the stored size"
        )
    if config.channels not in (0, *_MODES):
        raise UserError(
            f"config.data.channels is {config.channels}; use 1 for grey, 3 for colour, 0 for the stored ones"
        )
    if not 0 <= config.background <= 255:
        raise UserError(f"config.data.background is {config.background}; use a grey value in 0..255")
    require_choice("data.on_error", config.on_error, ("stop", "skip"))


def opened(file: IO[bytes], formats: tuple[str, ...] | None = None) -> PIL.Image.Image:
    """Opens a picture for `fit`, like PIL.Image.open, but without the metadata of a JPEG or PNG that could break it.

    Args:
      file: the picture file; it must stay open until the pixels are read.
      formats: formats to try, by PIL's names; None for all.

    Raises:
      PIL.UnidentifiedImageError: or whatever else PIL raises on a damaged file.

    Example:
      >>> file = io.BytesIO()
      >>> PIL.Image.new("L", (4, 3)).save(file, "PNG")
      >>> opened(file).size
      (4, 3)
    """
    file.seek(0)
    start = file.read(len(_PNG))
    if start == _PNG:
        file = io.BytesIO(_bare_png(start + file.read()))
    elif start.startswith(_JPEG):
        file = io.BytesIO(_bare_jpeg(start + file.read()))
    return PIL.Image.open(file, formats=formats)


@contextlib.contextmanager
def unlimited() -> Iterator[None]:
    """Lets PIL open pictures of any size, in any thread, and hides its warnings; for this block only.

    Example:
      >>> before = PIL.Image.MAX_IMAGE_PIXELS
      >>> with unlimited():
      ...   PIL.Image.MAX_IMAGE_PIXELS is None
      True
      >>> PIL.Image.MAX_IMAGE_PIXELS == before
      True
    """
    # One block at a time: if two overlapped, the first to end would restore the values during the other.
    with _unlimited, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        before, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = before


def fit(image: PIL.Image.Image, size: int, channels: int, background: int) -> np.ndarray:
    """Returns a picture as uint8 [H, W, C], by the steps listed in this module; of an animation, the current frame.

    Args:
      image: as opened by `opened`, or by PIL.
      size: height and width after a centre crop; 0 leaves height and width as they are.
      channels: 1 (grey), 3 (RGB), or 0: 1 if the picture is stored as grey, otherwise 3 (also for a palette).
      background: grey value that shows through transparent pixels, 0..255.

    Example:
      >>> half_clear = PIL.Image.new("RGBA", (4, 2), (200, 100, 0, 51))  # alpha 51 / 255 = 0.2
      >>> fit(half_clear, size=1, channels=0, background=255).tolist()
      [[[244, 224, 204]]]
    """
    image.load()  # PIL itself rotates a TIFF
    _require_known_white(image)
    image = _opaque(_eight_bit(_upright(image), background), background)
    if channels:
        image = image.convert(_MODES[channels])
    if size:
        image = _square(image, size)
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)


def parts(image: PIL.Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns colours uint8 [H, W, C] and opacity uint8 [H, W, 1] of a picture; opacity is None if it is opaque.

    Args:
      image: as for `fit`, whose steps are taken but for the background.

    Example:
      >>> colours, opacity = parts(PIL.Image.new("LA", (4, 2), (200, 51)))
      >>> colours.shape, int(colours[0, 0, 0]), int(opacity[0, 0, 0])
      ((2, 4, 1), 200, 51)
    """
    image.load()
    _require_known_white(image)
    image = _upright(image)
    if not image.has_transparency_data:
        return fit(image, 0, 0, 255), None
    image = _eight_bit(image, 255)
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    pixels = np.asarray(image.convert(f"{mode}A"))
    return pixels[..., :-1], pixels[..., -1:]


def _bare_jpeg(jpeg: bytes) -> bytes:
    """Returns a JPEG without metadata that could break PIL and that no pixel depends on: profiles, most of EXIF."""
    kept, start = [jpeg[:2]], 2
    while len(jpeg) >= start + 4 and jpeg[start] == 0xFF and 0xC0 <= jpeg[start + 1] < 0xFF:
        marker, length = struct.unpack_from(">xBH", jpeg, start)
        if 0xD0 <= marker <= 0xDA:  # pixels; or damaged, which PIL reports
            break
        content = jpeg[start + 4 : start + 2 + length]
        if marker == 0xE1 and content.startswith(b"Exif\0\0"):
            kept.append(_bare_exif(content))
        elif not (0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE)) or content.startswith(_XMP):
            kept.append(jpeg[start : start + 2 + length])
        start += 2 + length
    return b"".join([*kept, jpeg[start:]])


def _bare_exif(content: bytes) -> bytes:
    """Returns a JPEG's EXIF segment reduced to the orientation; b"" if it has none."""
    exif = PIL.Image.Exif()
    try:
        exif.load(content)
        orientation = struct.pack(">HHIHxx", _TAGS.Orientation, 3, 1, exif[_TAGS.Orientation])
    except Exception:  # PIL's errors on damaged EXIF have no common base, and the pixels are intact
        return b""
    content = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + orientation + bytes(4)
    return struct.pack(">HH", 0xFFE1, 2 + len(content)) + content


def _bare_png(png: bytes) -> bytes:
    """Returns a PNG without metadata that could break PIL and that no pixel depends on: long texts, colour profiles."""
    kept, start = [_PNG], len(_PNG)
    while start + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, start)
        if not kind.isalpha():  # damaged: PIL reports it
            kept.append(png[start:])
            break
        end = start + 12 + length
        if kind[:1].isupper() or kind in _WANTED or (kind in _TEXT and _is_orientation(kind, png[start + 8 : end - 4])):
            kept.append(png[start:end])
        start = end
    return b"".join(kept)


def _is_orientation(kind: bytes, text: bytes) -> bool:
    """Whether a PNG's text may contain the orientation, and PIL can read it."""
    keyword, _, value = text.partition(b"\0")
    if keyword not in _TELLS_ORIENTATION:
        return False
    if kind != b"zTXt":
        return kind == b"tEXt" or value[:1] == b"\0"  # not compressed, as the standard requires
    unpacking = zlib.decompressobj()
    with contextlib.suppress(zlib.error):
        unpacking.decompress(value[1:], _MAX_TEXT)
    return not unpacking.unconsumed_tail


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    try:
        turn = _UPRIGHT[image.getexif()[_TAGS.Orientation]]
    except Exception:  # no orientation; or damaged EXIF, where PIL's errors have no common base
        return image
    return image.transpose(turn)


def _require_known_white(image: PIL.Image.Image) -> None:
    """Refuses pixels that are neither 8-bit nor 16-bit numbers from black to white; only a TIFF can have such."""
    tags = getattr(image, "tag_v2", None)
    if tags is None or not image.mode.startswith(("I", "F")):
        return
    bits, white = tags.get(_TAGS.BitsPerSample), tags.get(_TAGS.PhotometricInterpretation)
    if not image.mode.startswith("I;16") or (bits, white) != ((16,), 1):  # 1: the largest number is white
        raise ValueError("a TIFF whose value of white is not known: save it with 8 or 16 bits")


def _eight_bit(image: PIL.Image.Image, background: int) -> PIL.Image.Image:
    """Returns 16-bit grey, in any of PIL's modes for it, as 8 bit; other pictures as they are."""
    if not image.mode.startswith("I"):
        return image
    values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)  # mode I has 32 bits, of which files use 16
    grey = (values + 128) // 257
    # PIL's own conversion would compare pixels with the transparent value only after clipping it to 8 bit.
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = background
    return PIL.Image.fromarray(grey.astype(np.uint8))


def _opaque(image: PIL.Image.Image, background: int) -> PIL.Image.Image:
    """Returns the picture in mode L or RGB, over the background."""
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)  # a copy of 100 megapixels is 400 MB
    image = image.convert(f"{mode}A")
    ground = PIL.Image.new(mode, image.size, background if mode == "L" else (background,) * 3)
    ground.paste(image.convert(mode), mask=image.getchannel("A"))
    return ground


def _square(image: PIL.Image.Image, size: int) -> PIL.Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cropped first: a resize of a box would mix in the pixels around it.
    image = image.crop((left, top, left + side, top + side))
    return image.resize((size, size), PIL.Image.Resampling.LANCZOS, reducing_gap=3.0)

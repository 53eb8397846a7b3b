"""Pictures of any kind as arrays of one kind: 8 bit, grey or RGB, upright, opaque, square where asked for.

What each step means, in its order:

- Orientation: the EXIF tag's rotation and mirroring are carried out.
- 16-bit grey is scaled, not clipped: round(value / 257), so that 65535 becomes 255.
- Transparent pixels are laid over a grey background. Values are mixed as they are stored (sRGB, not linear light),
  as browsers do.
- Palettes become RGB; CMYK by the plain formula 255 - min(255, ink + black), without colour profiles.
- Colour becomes grey by ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B. Grey becomes colour by three equal channels.
- Crop: the largest square about the centre; where a row or column is left over, it goes at the bottom or right.
- Resize: Lanczos with a support that grows with the reduction, so that fine detail does not alias; a picture of six
  times the size or more is first averaged over whole boxes of pixels, to three times the size or more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from gen_jax.config import require_choice
from gen_jax.method import UserError

_MODES = {1: "L", 3: "RGB"}
_GREY_MODES = ("1", "L", "LA")


def check(config: Any) -> None:
    """Refuses an `image_size`, `channels` or `background` that no picture can have, and an unknown `on_error`.

    Raises:
      UserError: names the key, the value and what is allowed.

    Example:
      >>> import types
      >>> check(types.SimpleNamespace(image_size=64, channels=2, background=255, on_error="stop"))
      Traceback (most recent call last):
      gen_jax.method.UserError: config.data.channels is 2; use 1 for grey, 3 for colour, 0 for what is stored
    """
    if config.image_size < 0:
        raise UserError(
            f"config.data.image_size is {config.image_size}; use a number of pixels, or 0 for what is stored"
        )
    if config.channels not in (0, *_MODES):
        raise UserError(
            f"config.data.channels is {config.channels}; use 1 for grey, 3 for colour, 0 for what is stored"
        )
    if not 0 <= config.background <= 255:
        raise UserError(f"config.data.background is {config.background}; a grey value lies in 0..255")
    require_choice("data.on_error", config.on_error, ("stop", "skip"))


def fit(image: PIL.Image.Image, size: int, channels: int, background: int) -> np.ndarray:
    """Returns a picture as uint8 [H, W, C], by the steps that the module states; of an animation, the current frame.

    Args:
      image: as PIL opens it.
      size: height and width after a centre crop; 0 leaves height and width as they are.
      channels: 1 (grey), 3 (RGB), or 0: 1 where the picture is stored as grey, 3 where it is not (a palette is not).
      background: grey value that shows through transparent pixels, 0..255.

    Example:
      >>> half_clear = PIL.Image.new("RGBA", (4, 2), (200, 100, 0, 51))  # alpha 51 / 255 = 0.2
      >>> fit(half_clear, size=1, channels=0, background=255).tolist()
      [[[244, 224, 204]]]
    """
    image = _opaque(_eight_bit(PIL.ImageOps.exif_transpose(image), background), background)
    if channels:
        image = image.convert(_MODES[channels])
    if size:
        image = _square(image, size)
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)


def _eight_bit(image: PIL.Image.Image, background: int) -> PIL.Image.Image:
    """Returns 16-bit grey, in any of PIL's modes for it, as 8 bit; other pictures as they are."""
    if not image.mode.startswith("I"):
        return image
    values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)  # mode I has 32 bits, of which files use 16
    grey = (values + 128) // 257
    # PIL's own conversion would compare the one transparent value after it has clipped it to 8 bit.
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = background
    return PIL.Image.fromarray(grey.astype(np.uint8))


def _opaque(image: PIL.Image.Image, background: int) -> PIL.Image.Image:
    """Returns the picture in mode L or RGB, over the background."""
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    if not image.has_transparency_data:
        return image.convert(mode)
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

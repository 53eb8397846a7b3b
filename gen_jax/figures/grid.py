"""Many images as one, and images as PNG. numpy in, arrays or files out."""

from __future__ import annotations

import io
import math
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gen_jax.run import legible, write_bytes, writing

if TYPE_CHECKING:
    import PIL.Image

Images = npt.NDArray[np.uint8]

_CELL = 56  # pixels that the longer side of a picture on a contact sheet has at least
_GAP = 4  # pixels between two of them
_LINE = 48  # grey value between two images: dark, and yet one sees where images that are black at their edges end


def grid(images: Images, columns: int = 0, padding: int = 2, background: int = _LINE) -> Images:
    """Returns images side by side, row by row.

    Args:
      images: uint8 [N, H, W, C], C 1 (grey) or 3 (RGB).
      columns: images a row; 0 makes the grid as square as it can be.
      padding: pixels between two images; there are none around the whole.
      background: value of the padding and of cells that no image fills.

    Returns:
      uint8 [rows * (H + padding) - padding, columns * (W + padding) - padding, C].

    Example:
      >>> grid(np.full((4, 8, 8, 1), 255, np.uint8)).shape
      (18, 18, 1)
    """
    images = checked(images)
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height + padding, width + padding, channels), background, np.uint8)
    cells[:count, :height, :width] = images
    whole = cells.reshape(rows, columns, height + padding, width + padding, channels).swapaxes(1, 2)
    whole = whole.reshape(rows * (height + padding), columns * (width + padding), channels)
    return whole[: whole.shape[0] - padding, : whole.shape[1] - padding]


def contact_sheet(rows: Sequence[Images], names: Sequence[str]) -> Images:
    """Returns rows of images on white paper, each row behind its name; small images are enlarged.

    Args:
      rows: uint8 [n, H, W, C] with C 1 (grey) or 3 (RGB) each, of one size; n may differ, and be 0 in some of them.
      names: one a row; "" takes no room.

    Returns:
      uint8 [H', W', 3].

    Example:
      >>> contact_sheet([np.zeros((5, 28, 28, 1), np.uint8)], [""]).shape  # each 56x56, four pixels between two
      (56, 296, 3)
    """
    import PIL.Image
    import PIL.ImageDraw

    height, width = rows[0].shape[1:3]
    factor = math.ceil(_CELL / max(height, width))
    height, width = height * factor, width * factor
    ruler = PIL.ImageDraw.Draw(PIL.Image.new("RGB", (1, 1)))
    margin = max(int(ruler.textlength(name)) + 2 * _GAP if name else 0 for name in names)
    columns = max(map(len, rows))
    size = margin + columns * (width + _GAP) - _GAP, len(rows) * (height + _GAP) - _GAP
    paper = PIL.Image.new("RGB", size, "white")
    pen = PIL.ImageDraw.Draw(paper)
    for top, (name, images) in enumerate(zip(names, rows, strict=True)):
        y = top * (height + _GAP)
        pen.text((_GAP, y + height // 2), name, fill="black", anchor="lm")
        for left, image in enumerate(images):
            paper.paste(to_pil(enlarge(image, factor)), (margin + left * (width + _GAP), y))
    return np.array(paper)


def checked(images: Images) -> Images:
    """Returns `images`, which must be uint8 [N, H, W, C] with N > 0 and C 1 or 3; raises ValueError otherwise."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"needs images uint8 [N, H, W, 1 or 3], has {images.dtype} {list(images.shape)}")
    return images


def enlarge(image: Images, factor: int) -> Images:
    """Returns `image` [H, W, C] with every pixel repeated `factor` times in both directions.

    Example:
      >>> enlarge(np.array([[[1], [2]]], np.uint8), 2)[..., 0].tolist()
      [[1, 1, 2, 2], [1, 1, 2, 2]]
    """
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def to_pil(image: Images) -> PIL.Image.Image:
    """Returns `image` uint8 [H, W, C], C 1 or 3, as Pillow's."""
    import PIL.Image

    return PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def png_bytes(image: Images, description: str = "", colours: int = 0) -> bytes:
    """Returns `image` uint8 [H, W, C], C 1 or 3, as a PNG file, with a description inside where there is one.

    It has at most `colours` colours (1 to 256), or as many as the image where that is 0.

    Example:
      >>> png_bytes(np.zeros((2, 2, 1), np.uint8))[1:4]
      b'PNG'
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if description:
        info.add_text("Description", legible(description))
    stream = io.BytesIO()
    picture = to_pil(image)
    if colours:
        picture = picture.quantize(colours)
    picture.save(stream, "PNG", optimize=True, pnginfo=info)
    return stream.getvalue()


def save_png(path: pathlib.Path, image: Images, description: str = "") -> None:
    """Writes `image` uint8 [H, W, C] as a PNG file, whole or not at all; its folder is made where it is missing.

    Raises:
      UserError: it cannot be written.
    """
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, png_bytes(image, description))

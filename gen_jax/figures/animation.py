"""Animations: frames of several images each, as one sheet for the page, as a GIF and as an MP4."""

from __future__ import annotations

import io
import math
import pathlib
import shutil
import subprocess
from collections.abc import Sequence

import numpy as np

from gen_jax.figures.grid import Images, checked, enlarge, grid, to_pil
from gen_jax.figures.markup import Html, element
from gen_jax.run import temporary, write_bytes, writing


def thin(images: Images, budget: int) -> Images:
    """Returns an animation of at most `budget` pixel values: first with fewer images per frame, then with fewer frames.

    Images are dropped from the end, down to square numbers so that frames stay square; frames are
    evenly spaced, including the first and the last.

    Args:
      images: uint8 [F, N, H, W, C].
      budget: maximum number of values (but two frames of one image always remain).

    Example:
      >>> thin(np.zeros((40, 16, 8, 8, 1), np.uint8), budget=25_000).shape
      (40, 9, 8, 8, 1)
    """
    frames, count, *shape = images.shape
    if images.size <= budget:
        return images
    pixels = math.prod(shape)
    side = min(math.isqrt(count), math.isqrt(budget // (frames * pixels)))
    count = max(side, 1) ** 2
    frames = min(frames, max(budget // (count * pixels), 2))
    return images[np.linspace(0, len(images) - 1, frames).round().astype(int), :count]


def draw_frames(images: Images, columns: int = 0, padding: int = 2) -> Images:
    """Returns each frame of `images` uint8 [F, N, H, W, C] drawn as a grid: [F, H', W', C]."""
    return np.stack([grid(frame, columns, padding) for frame in images])


def sheet_columns(count: int) -> int:
    """Returns the number of frames per row of a sheet: as square as possible, because browsers limit both sides."""
    return math.ceil(math.sqrt(count))


def controls(labels: Sequence[str], alt: str) -> Html:
    """Returns the button, the slider and the label of the last frame; the page's script makes them visible."""
    last = len(labels) - 1
    return element(
        "div",
        element("button", "Play", type="button"),
        element("input", type="range", min=0, max=last, value=last, step=1, aria_label=f"Frame of: {alt}"),
        element("output", labels[last]),
        class_="controls",
        hidden=True,
    )


def names_of_frames(labels: Sequence[str], count: int) -> list[str]:
    """Returns the labels, or frame numbers if there are none.

    Example:
      >>> names_of_frames((), 2)
      ['frame 1 of 2', 'frame 2 of 2']
    """
    return list(labels) or [f"frame {i + 1} of {count}" for i in range(count)]


def write_gif(
    path: pathlib.Path, frames: Images, milliseconds: int = 80, factor: int = 4, description: str = ""
) -> None:
    """Writes frames uint8 [F, H, W, C] as a looping GIF that shows its last frame for a second; whole or not at all.

    Args:
      path: of the file; a missing folder is created.
      frames: grey or RGB.
      milliseconds: duration of a frame; GIF counts in hundredths of a second.
      factor: by which every pixel is enlarged.
      description: the file's comment, ASCII.
    """
    pictures = [to_pil(enlarge(frame, factor)) for frame in checked(frames)]
    durations = [milliseconds] * (len(pictures) - 1) + [1000]
    stream = io.BytesIO()
    pictures[0].save(stream, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0,
                     comment=description.encode("ascii", "backslashreplace"))  # fmt: skip
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, stream.getvalue())


def write_mp4(
    path: pathlib.Path, frames: Images, milliseconds: int = 80, factor: int = 4, description: str = ""
) -> bool:
    """Writes the arguments of `write_gif` as an MP4 if `ffmpeg` is installed; returns whether it was written."""
    if (encoder := shutil.which("ffmpeg")) is None:
        return False
    frames = np.stack([enlarge(frame, factor) for frame in checked(frames)])
    frames = np.broadcast_to(frames, (*frames.shape[:3], 3))
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    read = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-framerate", str(1000 / milliseconds), "-i", "-"]
    # Players need even sides and this pixel format; the last frame is shown for a second.
    filters = "pad=ceil(iw/2)*2:ceil(ih/2)*2,tpad=stop_mode=clone:stop_duration=1"
    about = ["-metadata", f"comment={description}"]
    part = temporary(path)
    write = [
        "-vf",
        filters,
        "-pix_fmt",
        "yuv420p",
        "-movflags",
        "+faststart",
        *about,
        "-f",
        "mp4",
        str(part.absolute()),
    ]
    command = [encoder, "-y", "-loglevel", "error", *read, *write]
    try:
        written = subprocess.run(command, input=frames.tobytes(), capture_output=True).returncode == 0
        if written:  # else the encoder does not support this format: the GIF remains
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return written

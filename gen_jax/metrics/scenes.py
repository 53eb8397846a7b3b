"""Reads the things back from pictures like those of `captioned_shapes`, without a network, and compares with captions.

Every cell of the 3x3 grid is compared with what the renderer of the set could have drawn there: the colour of the set
that explains its pixels best, as a mixture with the background, and then the stamp that is closest to the share of that
colour. So a generated picture is judged by the rules by which the real ones were drawn, and no judge is trained.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np

from gen_jax.data import captioned_shapes as shapes
from gen_jax.data import grammar
from gen_jax.data.grammar import ATTRIBUTES, Scene, Thing

SIDE = shapes.IMAGE_SIZES[0]  # pictures are read at this size
LEAST_AREA = 8  # pixels: with fewer that are mostly of its colour, a cell is empty
_SHARE = shapes.FINE // SIDE
_STARTS = (0, 21, 42)  # of the cells, along each axis
_CELL = 22  # pixels
_CENTRE = 44  # of a cell, in pixels of the largest picture
_CHUNK = 64  # pictures read at once


def read(images: np.ndarray) -> list[Scene]:
    """Returns the things in each picture, from the first place to the last; a cell shows one thing, or none.

    In a picture of more things than a scene has, only one more is read: those that cover most.

    Args:
      images: uint8 [N, S, S, 3], of a size of `captioned_shapes`.

    Example:
      >>> drawn = shapes.Drawn("test")
      >>> read(drawn.pictures([5], 64))[0] == drawn.scene(5)
      True
    """
    scenes: list[Scene] = []
    for start in range(0, len(images), _CHUNK):
        scenes += _read(reduced(images[start : start + _CHUNK]))
    return scenes


def reduced(images: np.ndarray) -> np.ndarray:
    """Returns images [N, S, S, 3] at the size at which they are read, as means over squares: f32 [N, 64, 64, 3]."""
    num, side = len(images), images.shape[1]
    blocks = images.reshape(num, SIDE, side // SIDE, SIDE, side // SIDE, 3)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def _read(images: np.ndarray) -> list[Scene]:
    ground = np.median(images.reshape(len(images), -1, 3), axis=1)[:, None, None]  # things cover less than half
    scenes: list[list[tuple[float, Thing]]] = [[] for _ in images]
    for place, (top, left) in enumerate(itertools.product(_STARTS, _STARTS)):
        cells = images[:, top : top + _CELL, left : left + _CELL] - ground
        colour, cover = _colour(cells, shapes.PALETTE - ground)
        area = (cover > 0.5).sum(axis=1)
        filled = np.flatnonzero(area >= LEAST_AREA)
        for row, (shape, size) in zip(filled.tolist(), _stamped(cover[filled]), strict=True):
            scenes[row].append((float(area[row]), Thing(shape, int(colour[row]), size, place)))
    largest = (sorted(things, reverse=True)[: grammar.MOST + 1] for things in scenes)
    return [tuple(sorted((thing for _, thing in things), key=lambda thing: thing.place or 0)) for things in largest]


def _colour(cells: np.ndarray, palette: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colour [N] that explains each cell best, and its share of each pixel, f32 [N, P]; both minus the ground."""
    pixels, palette = cells.reshape(len(cells), -1, 3), palette.reshape(len(cells), -1, 3)  # [N, P, 3], [N, K, 3]
    products, square = (
        pixels @ palette.transpose(0, 2, 1),
        np.square(palette).sum(axis=-1)[:, None],
    )  # [N, P, K], [N, 1, K]
    share = np.clip(products / square, 0, 1)
    # |pixel - share colour|^2, without |pixel|^2, which is the same for all.
    best = (share * (share * square - 2 * products)).sum(axis=1).argmin(axis=1)
    return best, np.take_along_axis(share, best[:, None, None], axis=2)[..., 0].astype(np.float32)


@functools.cache
def _stamps() -> tuple[np.ndarray, list[tuple[int, int]]]:
    """What can be in a cell, f32 [M, P], and the shape and the size of each."""
    covers, kinds = [], []
    shifts = range(-shapes.JITTER, shapes.JITTER + 1, 3)
    for shape, size, down, right in itertools.product(
        range(len(grammar.SHAPES)), range(len(grammar.SIZES)), shifts, shifts
    ):
        for radius in shapes.RADII[size]:
            covers.append(_in_cell(shapes.stamp(shape, radius, *_phase(down, right), _SHARE), down, right))
            kinds.append((shape, size))
    return np.stack(covers).astype(np.float32), kinds


def _phase(*shifts: int) -> list[int]:
    return [shapes.REACH + (_CENTRE + shift - shapes.REACH) % _SHARE for shift in shifts]


def _in_cell(stamp: np.ndarray, down: int, right: int) -> np.ndarray:
    """A stamp as a share of each pixel of its cell, [P]."""
    wide = np.pad(stamp, _CELL)
    top, left = (_CELL - (_CENTRE + shift - shapes.REACH) // _SHARE for shift in (down, right))
    return wide[top : top + _CELL, left : left + _CELL].ravel() / stamp.max()


def _stamped(cover: np.ndarray) -> list[tuple[int, int]]:
    """The shape and the size of the stamp that is closest to each cell, for f32 [N, P]."""
    stamps, kinds = _stamps()
    distance = np.square(stamps).sum(axis=1) - 2 * cover @ stamps.T
    return [kinds[number] for number in distance.argmin(axis=1)]


def agreement(found: Sequence[Scene], captions: Sequence[str]) -> dict[str, float]:
    """Returns for each attribute the share of the captions' statements that are true of the pictures.

    Things that a caption names are taken for those of its picture for which most statements are true, so even a
    wrong picture agrees with some. "number": the picture has as many things as the caption names. An attribute that
    no caption states is left out.

    Args:
      found: what the pictures show, [N], from `read`.
      captions: [N], sentences of `grammar`.

    Raises:
      UserError: a caption is no sentence of the grammar.

    Example:
      >>> scene = (Thing(shape=3, colour=0, size=0, place=4),)
      >>> agreement([scene, scene], ["a red star", "a small blue star"])
      {'shape': 1.0, 'colour': 0.5, 'size': 1.0, 'number': 1.0}
    """
    scores = [grammar.score(grammar.parse(told), scene) for told, scene in zip(captions, found, strict=True)]
    totals = {name: np.sum([score[name] for score in scores], axis=0) for name in ATTRIBUTES}
    return {name: float(right / stated) for name, (right, stated) in totals.items() if stated}

"""Captioned scenes of coloured shapes, 64x64 to 256x256: an exact function of (seed, index).

One to three things (circle, square, triangle, star, cross) of six colours and two sizes stand in different cells of a
3x3 grid, on a dark ground. Each picture has four captions (`grammar`): the first states everything, the others leave
out some sizes and places, or state relations. No thing of a test picture, as its shape, colour, size and place
together, occurs in training. Pictures are drawn on demand, and nothing is downloaded or stored.

Only +, -, * and / are used, on Philox's raw numbers, so pictures are the same on any machine. Those of 64x64 are the
means of squares of those of 256x256, up to rounding.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from gen_jax.data import cache, grammar, streaming
from gen_jax.data.dataset import Dataset
from gen_jax.data.grammar import COLOURS, MOST, PLACES, SHAPES, SIZES, Scene, Thing
from gen_jax.method import DataSpec, UserError, with_factors

NAME = "captioned_shapes"
FINE = 256  # pixels of the largest picture, in which all lengths below are given
IMAGE_SIZES = (64, 128, 256)
NUM_CAPTIONS = 4
NUM_EXAMPLES = {"train": 10_000, "test": 1_000}
FACTOR_SIZES = (len(SHAPES) + 1, len(COLOURS) + 1, len(SIZES) + 1, len(PLACES) + 1) * MOST  # 0: there is no such thing
PALETTE = np.array([(220, 45, 45), (45, 170, 75), (60, 95, 230), (235, 215, 55), (165, 75, 195), (235, 235, 235)])
RADII = ((16, 18, 20), (30, 32, 34))  # of each size
CENTRES = (43, 128, 213)  # of the cells, along each axis
JITTER = 6  # a centre is at most this far from that of its cell, to either side
REACH = 36  # from the centre of a thing: more than the largest radius
GROUND = (12, 60)  # grey values of the background: from, up to
SHADE = 10  # a channel differs at most by this from that of its colour
NUM_RANDOM = 256  # numbers of a picture: more than any needs

_SEED = {"train": 0, "test": 1}
_SAMPLES = 4  # per pixel of the largest picture, along each axis
_FINGERPRINT_STRIDE = 97  # every 97th picture is hashed
# Corners in units of the radius, x and y, y downwards. A star with inner corners at 0.45 of the radius.
_CORNERS = {
    1: ((-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)),
    2: ((0, -1), (0.98, 0.78), (-0.98, 0.78)),
    3: (
        (0, -1), (0.2645, -0.3641), (0.9511, -0.309), (0.428, 0.1391), (0.5878, 0.809), (0, 0.45), (-0.5878, 0.809),
        (-0.428, 0.1391), (-0.9511, -0.309), (-0.2645, -0.3641),
    ),
    4: (
        (-0.32, -1), (0.32, -1), (0.32, -0.32), (1, -0.32), (1, 0.32), (0.32, 0.32), (0.32, 1), (-0.32, 1),
        (-0.32, 0.32), (-1, 0.32), (-1, -0.32), (-0.32, -0.32),
    ),
}  # fmt: skip


def is_held_out(shape: int, colour: int, size: int, place: int) -> bool:
    """Returns whether a thing occurs in test pictures only: 60 of all 540, with every shape, colour, size and place.

    Example:
      >>> is_held_out(0, 0, 0, 0), is_held_out(0, 1, 0, 0)
      (True, False)
    """
    return (2 * shape + colour + 3 * size + place) % 9 == 0


@functools.cache
def _things(place: int, held_out: bool) -> list[Thing]:
    """All things that may stand at a place."""
    kinds = itertools.product(range(len(SHAPES)), range(len(COLOURS)), range(len(SIZES)))
    return [Thing(*kind, place) for kind in kinds if is_held_out(*kind, place) == held_out]


class Drawn:
    """The pictures of a split, by their index.

    Example:
      >>> drawn = Drawn("train")
      >>> drawn.captions(4)
      ['in the lower left corner is a large blue plus, on the right is a little white triangle',
       'a blue cross under a small white triangle', 'there is a little white triangle to the right of a big blue cross',
       'there is a blue plus in the bottom left corner and a white triangle on the right side']
      >>> drawn.pictures([4], 64).shape, drawn.factors([4]).tolist()
      ((1, 64, 64, 3), [[3, 6, 1, 6, 5, 3, 2, 7, 0, 0, 0, 0]])
    """

    def __init__(self, split: str):
        """Takes "train" or "test"."""
        self._seed, self._held_out = _SEED[split], split == "test"

    def _numbers(self, index: int) -> np.ndarray:
        # numpy guarantees the stream of Philox's raw numbers forever, but not those of Generator.
        raw = np.random.Philox(np.random.SeedSequence([self._seed, int(index)])).random_raw(NUM_RANDOM)
        return (raw >> np.uint64(32)).astype(np.int64)

    def scene(self, index: int) -> Scene:
        """Returns the things of a picture, from the first place to the last."""
        number = self._numbers(index)
        places = np.argsort(number[:9], kind="stable")[: 1 + number[9] % MOST]
        choices = [_things(place, self._held_out) for place in sorted(places.tolist())]
        return tuple(each[number[10 + i] % len(each)] for i, each in enumerate(choices))

    def captions(self, index: int) -> list[str]:
        """Returns the captions of a picture."""
        scene, number = self.scene(index), iter(self._numbers(index)[64:].tolist())

        def pick(among: int) -> int:
            return next(number) % among

        return [grammar.write(scene, pick, whole=k == 0) for k in range(NUM_CAPTIONS)]

    def factors(self, index: Sequence[int]) -> np.ndarray:
        """Returns shape, colour, size and place of each thing, counted from 1, and 0 where there is none: i32 [N, 12].

        Things are in the order of their places.
        """
        return np.stack([factors_of(self.scene(i)) for i in index])

    def pictures(self, index: Sequence[int], size: int) -> np.ndarray:
        """Returns the pictures, uint8 [N, size, size, 3]."""
        return np.stack([self._picture(i, size) for i in index])

    def _picture(self, index: int, size: int) -> np.ndarray:
        number = self._numbers(index)[16:64]
        low, high = GROUND
        ground = low + number[0] % (high - low)
        picture = np.full((size, size, 3), ground, np.int64)
        for thing, own in zip(self.scene(index), number[1:46].reshape(MOST, -1), strict=False):
            colour = PALETTE[thing.colour] + own[:3] % (2 * SHADE + 1) - SHADE
            radius = RADII[thing.size or 0][own[3] % 3]
            paint(picture, thing, radius, own[4:6] % (2 * JITTER + 1) - JITTER, colour)
        return picture.astype(np.uint8)


def factors_of(scene: Scene) -> np.ndarray:
    """Returns a scene as i32 [12]; see `Drawn.factors`."""
    factors = np.zeros((MOST, 4), np.int32)
    factors[: len(scene)] = np.array(scene, np.int32).reshape(-1, 4) + 1
    return factors.ravel()


def scene_of(factors: np.ndarray) -> Scene:
    """Returns the scene of factors i32 [12].

    Example:
      >>> scene_of(factors_of((Thing(3, 5, 0, 4),)))
      (Thing(shape=3, colour=5, size=0, place=4),)
    """
    return tuple(Thing(*(row - 1).tolist()) for row in np.reshape(factors, (MOST, 4)) if row.any())


def paint(picture: np.ndarray, thing: Thing, radius: int, shift: np.ndarray, colour: np.ndarray) -> None:
    """Paints a thing into a picture, i64 [S, S, 3].

    Args:
      picture: of a size in IMAGE_SIZES.
      thing: with its place.
      radius: in pixels of the largest picture.
      shift: of its centre downwards and to the right, i64 [2], in pixels of the largest picture.
      colour: i64 [3], 0 to 255.
    """
    share = FINE // len(picture)
    centre = np.array([CENTRES[cell] for cell in divmod(thing.place or 0, 3)]) + shift
    top, left = ((centre - REACH) // share).tolist()
    phase = centre - np.array([top, left]) * share
    cover = stamp(thing.shape, radius, *phase.tolist(), share)[..., None]
    part = picture[top : top + len(cover), left : left + len(cover)]
    whole = (_SAMPLES * share) ** 2
    part[:] = (part * (whole - cover) + colour * cover + whole // 2) // whole


@functools.cache
def stamp(shape: int, radius: int, down: int, right: int, share: int) -> np.ndarray:
    """Returns how much of each pixel around its centre a thing covers, in samples: i64 [n, n], at most (4 share)^2.

    Args:
      shape: a position in SHAPES.
      radius: in pixels of the largest picture.
      down: from the upper edge of the first pixel to the centre, in pixels of the largest picture.
      right: from the left edge of the first pixel, likewise.
      share: pixels of the largest picture per pixel, along each axis.

    Example:
      >>> area = int(stamp(1, 30, 36, 36, 1).sum()) / 16  # of a square with sides of 1.72 radii
      >>> round(area / (1.72 * 30) ** 2, 2)
      1.0
    """
    number, each = 2 * REACH // share + 1, _SAMPLES * share
    place = (np.arange(number * each) + 0.5) / _SAMPLES
    inside = _inside(shape, (place[None, :] - right) / radius, (place[:, None] - down) / radius)
    return inside.reshape(number, each, number, each).sum(axis=(1, 3))


def _inside(shape: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points are inside a shape of radius 1: bool, for x [1, N] and y [M, 1]."""
    if shape == 0:
        return x * x + y * y <= 0.92
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
    corners = _CORNERS[shape]
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 != y1:  # a ray to the right crosses this side
            crosses = (y0 > y) != (y1 > y)
            inside ^= crosses & (x < x0 + (x1 - x0) * (y - y0) / (y1 - y0))
    return inside


class _Source(Sequence[dict[str, Any]]):
    """The pictures of a split as `streaming` reads them."""

    def __init__(self, split: str, size: int):
        self._drawn, self._size, self._num = Drawn(split), size, NUM_EXAMPLES[split]

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, row: int) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int], /) -> list[dict[str, Any]]:
        return [{"image": image} for image in self._drawn.pictures(rows, self._size)]


def load(name: str, config: Any) -> Dataset:
    """Returns the set, with its captions and `factors` i32 [N, 12]; see `dataset.load`.

    Args:
      name: "": there is one such set.
      config: `image_size` 0 (64), 64, 128 or 256; `channels` 0 or 3; splits "train" and "test" or "".

    Raises:
      UserError: the config asks for what the set does not have.
    """
    if name:
        raise UserError(f"there is no set {NAME}:{name}; its name is {NAME}")
    size = config.image_size or IMAGE_SIZES[0]
    if size not in IMAGE_SIZES:
        raise UserError(f"config.data.image_size is {size}; {NAME} has {', '.join(map(str, IMAGE_SIZES))}: use 64")
    if config.channels not in (0, 3):
        raise UserError(f"config.data.channels is {config.channels}; {NAME} has 3: use 0")
    for key, allowed in (("train_split", ("train",)), ("test_split", ("test", ""))):
        if config[key] not in allowed:
            raise UserError(f"config.data.{key} is {config[key]!r}; {NAME} has no such split: use {allowed[0]}")
    arrays, captions = {}, {}
    for split in ("train", *filter(None, [config.test_split])):
        drawn, every = Drawn(split), range(NUM_EXAMPLES[split])
        arrays[split] = {"image": streaming.Images(_Source(split, size)), "factors": drawn.factors(every)}
        captions[split] = [drawn.captions(i) for i in every]
    spec = DataSpec(
        name=NAME,
        image_shape=(size, size, 3),
        num_examples=NUM_EXAMPLES["train"],
        fingerprint=_fingerprint(arrays["train"], captions["train"]),
        features=with_factors(FACTOR_SIZES),
    )
    return Dataset(spec, arrays["train"], arrays.get("test"), captions=captions)


def _fingerprint(train: dict[str, Any], captions: Sequence[Sequence[str]]) -> str:
    """Of the factors, and of some pictures and captions: hashing all would draw all."""
    rows = np.arange(0, len(train["factors"]), _FINGERPRINT_STRIDE)
    told = np.frombuffer("\n".join(itertools.chain(*(captions[row] for row in rows.tolist()))).encode(), np.uint8)
    return cache.fingerprint({"image": train["image"][rows], "factors": train["factors"], "captions": told})

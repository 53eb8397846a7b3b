"""Synthetic handwritten digits, 28x28, drawn from pen strokes: an exact function of (seed, index).

A hand is one way to write a digit: a few strokes through points. To draw a picture, the points of a hand are moved,
and it is bent, slanted, rotated and drawn with a pen of varying pressure: white on black, fitted and centred as in
MNIST (LeCun, Cortes and Burges 1998). No picture of MNIST was used. Nothing is downloaded.

Only +, -, * and / are used, in a fixed order, on Philox's raw numbers, so the pictures are the same on any machine,
however many are drawn at once.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import errno
import functools
import io
import itertools
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from gen_jax.data import cache, locks
from gen_jax.data import tfds as prepared_sets
from gen_jax.data.dataset import Dataset
from gen_jax.method import UserError

NAME, VERSION = "stroke_digits", "1.0.0"  # raise the version when a single picture changes
SIZE = 28  # pixels of height and width
BOX = 20.0  # pixels of height or width that the longer side of a digit fills at most

# For each digit, its hands: strokes between slashes, each a curve through points "x,y" (y grows downwards, the digit
# is about 100 high). Strokes that share a point stay joined there, which makes a corner.
HANDS: tuple[tuple[str, ...], ...] = (
    (  # 0: round, narrow, started at the right, looped at the top, wide, open, broad
        "40,0 15,12 2,50 15,90 38,100 62,88 72,50 60,12 36,1 24,8",
        "36,0 18,25 14,60 26,94 40,100 52,85 56,45 48,10 32,2",
        "62,14 45,0 20,14 2,55 12,92 36,100 62,72 70,34 58,6 40,10",
        "30,10 10,40 8,78 30,100 58,84 66,45 52,12 28,4 20,16 44,20 60,8",
        "45,0 10,20 0,55 20,92 50,100 82,84 92,50 78,14 44,2",
        "34,2 10,26 4,66 22,98 50,94 66,60 62,22 44,8",
        "50,2 22,8 0,38 8,70 40,82 78,68 92,40 80,12 46,0",
    ),
    (  # 1: a line, twice; bent; with a flag; with flag and foot; with a small flag; with a foot
        "30,0 29,50 28,100",
        "30,0 29,50 28,100",
        "36,0 30,35 27,70 28,100",
        "8,24 34,0 / 34,0 33,50 32,100",
        "10,22 34,0 / 34,0 34,50 34,100 / 8,100 34,100 60,99",
        "22,12 34,0 / 34,0 32,50 30,100",
        "34,0 33,50 32,100 / 14,100 32,100 52,99",
    ),
    (  # 2: a corner at the foot, a loop there, a wave, a large loop, a flat top, a low loop, a high bow
        "4,22 20,2 44,0 60,20 50,46 26,74 4,98 / 4,98 36,98 70,96",
        "6,20 26,0 52,4 58,30 40,62 18,88 4,92 4,78 20,74 40,90 72,96",
        "8,18 30,0 54,12 50,42 28,72 6,96 / 6,96 24,88 46,98 72,90",
        "2,30 14,6 42,0 58,22 44,58 20,90 4,96 0,84 14,76 36,86 60,98 82,90",
        "6,8 32,0 56,8 50,36 26,68 0,94 / 0,94 34,96 64,98",
        "10,24 14,4 38,0 54,18 50,50 36,82 14,98 2,86 16,72 44,86 78,88",
        "6,34 8,10 34,0 58,16 56,52 40,86 14,100 0,88 8,72 36,78 74,98",
    ),
    (  # 3: two bows, a small loop between them, a flat top with a corner, a flat and bent middle, a wide foot
        "6,12 28,0 52,10 50,34 24,46 / 24,46 54,54 64,78 42,98 16,98 0,84",
        "8,12 32,0 54,14 44,38 24,48 18,44 28,42 54,56 60,80 38,100 4,92",
        "8,4 34,2 60,2 / 60,2 44,20 26,42 / 26,42 56,52 62,76 40,100 4,94",
        "4,8 30,0 50,14 38,36 16,46 / 16,46 48,50 58,72 44,94 20,100 2,94",
        "2,20 20,2 46,4 52,22 30,44 / 30,44 58,46 70,66 56,92 26,100 2,88",
    ),
    (  # 4: open, open and round, closed, closed with a short stem, one line, an open one with a long bar, a slanted
        # one, a pointed one, one like a 9
        "10,0 6,26 4,52 / 4,52 30,52 64,48 / 58,4 56,50 52,100",
        "8,2 2,40 16,56 44,50 60,30 / 62,4 58,50 54,100",
        "46,0 24,28 0,60 / 0,60 36,62 76,60 / 46,0 48,50 46,100",
        "50,0 22,30 2,62 / 2,62 40,62 72,56 / 52,24 50,60 46,100",
        "6,4 4,40 22,54 50,42 58,6 / 58,6 54,50 50,100",
        "14,0 8,24 2,50 / 2,50 40,52 80,46 / 54,6 50,54 46,100",
        "36,0 20,34 4,66 / 4,66 36,64 66,58 / 46,34 40,66 34,100",
        "10,8 4,44 / 4,44 20,50 44,40 58,0 / 58,0 50,50 46,100",
        "40,4 8,30 6,50 36,48 56,2 / 56,2 50,50 48,100",
    ),
    (  # 5: a corner under a cap, one line, a large cap, a small bow, a loose cap, an S, a large bow
        "14,4 12,24 8,44 / 8,44 34,38 58,54 56,84 30,100 0,90 / 14,4 40,4 70,0",
        "66,2 36,4 18,8 14,40 44,46 58,66 46,94 20,100 0,90",
        "16,6 14,26 14,42 / 14,42 38,42 52,62 44,92 14,100 2,92 / 16,6 46,4 84,0",
        "24,0 18,40 / 18,40 44,46 54,66 40,94 6,98 / 24,0 44,0 62,2",
        "16,8 12,26 10,46 / 10,46 40,44 56,66 40,96 4,94 / 20,4 46,2 72,0",
        "58,4 24,4 / 24,4 10,30 30,44 50,56 50,84 22,100 0,92",
        "10,6 8,28 10,48 / 10,48 36,36 58,48 60,78 36,98 6,90 / 10,6 34,8 58,2",
    ),
    (  # 6: a bow, an upright one, a straight slanted stem, a spiral, a small loop, a large one, a wide one, a high one
        "52,0 24,22 6,56 10,88 34,100 54,84 50,62 28,58 10,76",
        "30,0 10,40 4,78 22,100 48,94 54,72 36,56 12,66 6,80",
        "60,0 30,30 8,66 12,94 36,100 52,84 44,66 22,68 8,84",
        "48,2 18,24 2,62 14,96 44,96 56,72 38,54 18,66 22,80",
        "30,0 14,34 6,70 14,96 32,98 38,82 26,72 8,82",
        "10,0 2,34 2,70 18,98 52,96 66,72 52,50 30,58 20,78 26,92",
        "34,0 18,30 10,60 12,90 40,100 68,88 72,68 52,56 26,66 12,80",
        "22,0 4,36 6,82 28,100 54,92 60,66 46,46 28,54 18,74 16,92",
    ),
    (  # 7: plain, with a bar, with a hook, bent, bent with a bar, narrow, a wave, hook and bend, a hat
        "4,8 30,6 64,4 / 64,4 48,40 34,100",
        "4,8 30,6 64,2 / 64,2 46,44 32,100 / 22,52 44,50 66,48",
        "4,22 8,6 / 8,6 36,6 66,2 / 66,2 46,46 36,100",
        "2,10 30,4 58,6 58,26 44,60 38,100",
        "2,10 30,4 58,6 56,30 40,60 30,100 / 24,54 44,50 62,48",
        "12,6 30,4 52,4 / 52,4 46,50 42,100",
        "2,16 14,2 38,10 64,2 / 64,2 44,46 30,100",
        "0,24 4,4 34,6 70,2 / 70,2 64,26 44,58 40,100",
        "4,18 14,4 36,2 50,12 48,40 38,72 34,100",
    ),
    (  # 8: one line from the right, two circles, open at the top, one line from the left, with a tail, a small foot, a
        # small head, narrow, with an end that crosses
        "58,14 36,0 14,16 24,40 48,58 56,82 34,100 8,86 18,60 44,40 58,14",
        "34,46 12,28 30,0 54,22 34,46 / 34,46 6,74 32,100 60,76 34,46",
        "60,8 30,2 14,20 30,44 52,66 46,96 18,98 8,76 30,50 58,18",
        "14,12 36,0 56,16 44,38 20,58 10,82 32,100 58,86 50,60 24,42 12,18",
        "72,4 42,6 16,6 10,24 34,46 48,74 34,98 12,90 16,66 44,40 70,10",
        "54,12 30,0 6,16 18,40 38,58 42,84 28,100 16,86 24,62 46,40 56,20",
        "50,10 34,0 22,14 32,34 54,58 56,86 28,100 2,84 10,58 36,36 50,14",
        "48,10 32,0 18,14 24,38 38,62 40,88 28,100 14,88 22,60 40,36 48,14",
        "60,16 40,0 16,8 22,32 46,50 50,72 30,84 14,72 30,48 54,32 62,6",
    ),
    (  # 9: a circle and a stem, one line, a curled tail, a small loop, a straight stem, open, a foot, a large head, a
        # small one
        "54,18 32,0 8,18 8,42 32,50 54,26 / 56,8 52,50 48,100",
        "56,16 34,0 8,20 14,46 40,44 56,14 54,50 46,100",
        "56,20 32,0 6,22 18,48 48,38 58,12 58,60 40,96 10,94",
        "58,10 34,2 12,26 24,44 48,32 60,8 / 60,8 44,56 26,100",
        "60,6 30,4 4,28 16,48 42,40 60,6 / 60,6 58,50 56,100",
        "52,6 24,4 4,26 14,44 40,36 56,18 / 56,18 48,58 38,100",
        "48,12 26,0 4,20 10,42 34,42 48,12 48,50 54,84 70,96",
        "64,2 30,0 2,22 6,50 36,50 60,26 62,10 52,56 30,100",
        "40,8 20,0 4,16 10,36 30,36 42,14 38,56 34,100",
    ),
)

_SPACING = 3.0  # between neighbouring points of a drawn line, on the scale of HANDS: 0.6 pixels
_CHUNK = 128  # pictures drawn at once: few enough to fit a processor's cache
_NUM_FREE = 18  # random numbers per picture, besides those of its points
_SEED = {"train": 0, "test": 1}  # of the prepared set


def draw(seed: int, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns pictures uint8 [N, 28, 28, 1] and their digits i32 [N]: those at `index` in the sequence of `seed`.

    Args:
      seed: at least 0.
      index: i64 [N], at least 0. Ten in a row contain each digit once.

    Example:
      >>> image, label = draw(seed=0, index=np.arange(20))
      >>> label[:12].tolist(), bool((draw(0, np.array([7]))[0] == image[7]).all())
      ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1], True)
    """
    image = np.empty((len(index), SIZE, SIZE, 1), np.uint8)
    label = (index % len(HANDS)).astype(np.int32)
    for start in range(0, len(index), _CHUNK):
        rows = slice(start, start + _CHUNK)
        x, y, radius, soft = _pen(_numbers(seed, index[rows]), label[rows])
        image[rows, ..., 0] = _centred(_ink(x, y, radius, soft))
    return image, label


class Lines(NamedTuple):
    """All hands as tables: M hands of at most K points, each drawn as lines of at most P points.

    Attributes:
      first: i64 [11]; the hands of digit d are number first[d] up to first[d + 1].
      anchor: the points of the hands, f64 [M, K, 2], centred, in units of half a digit's height.
      source: i64 [M, 4, P], the four points that each drawn point is a mixture of; the last one is repeated.
      weight: f64 [M, 4, P], their weights (Catmull and Rom 1974).
    """

    first: np.ndarray
    anchor: np.ndarray
    source: np.ndarray
    weight: np.ndarray


@functools.cache
def lines() -> Lines:
    """Returns the tables of HANDS.

    Example:
      >>> tables = lines()
      >>> bool(np.allclose(tables.weight.sum(axis=1), 1))
      True
    """
    hands = [_line(hand) for hand in itertools.chain(*HANDS)]
    num_anchors, num_points = (max(len(hand[part]) for hand in hands) for part in (0, 1))
    anchors, sources, weights = zip(*hands, strict=True)
    return Lines(
        first=np.cumsum([0, *map(len, HANDS)]),
        anchor=np.stack([_padded(anchor, num_anchors) for anchor in anchors]),
        source=np.stack([_padded(source, num_points).T for source in sources]),
        weight=np.stack([_padded(weight, num_points).T for weight in weights]),
    )


def _line(hand: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a hand's points f64 [k, 2], and for each drawn point its sources i64 [p, 4] and their weights."""
    strokes = [[tuple(map(float, point.split(","))) for point in stroke.split()] for stroke in hand.split("/")]
    points = list(dict.fromkeys(itertools.chain(*strokes)))  # a shared point once, so that strokes stay joined
    source, weight = [], []
    for stroke in strokes:
        number = [points.index(point) for point in stroke]
        around = [number[0], *number, number[-1]]
        for piece in range(len(number) - 1):
            (x0, y0), (x1, y1) = stroke[piece : piece + 2]
            count = int(max(abs(x1 - x0), abs(y1 - y0)) * 1.2 / _SPACING) + 1
            t = np.arange(count + 1) / count
            basis = (-t + 2 * t * t - t * t * t, 2 - 5 * t * t + 3 * t * t * t, t + 4 * t * t - 3 * t * t * t)
            weight.append(np.stack([*basis, -t * t + t * t * t], axis=1) / 2)
            source.append(np.tile(around[piece : piece + 4], (count + 1, 1)))
    anchor = np.array(points)
    middle = (anchor.max(axis=0) + anchor.min(axis=0)) / 2
    return (anchor - middle) / 50, np.concatenate(source), np.concatenate(weight)


def _padded(rows: np.ndarray, num_rows: int) -> np.ndarray:
    return np.concatenate([rows, np.repeat(rows[-1:], num_rows - len(rows), axis=0)])


def _numbers(seed: int, index: np.ndarray) -> np.ndarray:
    """Returns each picture's random numbers, f64 [D, N]: the sum of two uniform ones, between -1 and 1."""
    count = _NUM_FREE + 3 * lines().anchor.shape[1]
    # numpy guarantees the stream of Philox's raw numbers forever, but not those of Generator.
    raw = np.stack([np.random.Philox(np.random.SeedSequence([seed, int(i)])).random_raw(count) for i in index], axis=1)
    return (raw >> np.uint64(32)) / 2**32 + (raw & np.uint64(2**32 - 1)) / 2**32 - 1


def _pen(number: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns where the pen goes: x and y f64 [P, N] in pixels, radius f64 [P, N]; and the edge's softness f64 [N]."""
    tables = lines()
    choice, care, breadth, arch, wedge, curl, sag, tilt, cup = number[:9]
    slant, turn, press, pen, heavy, size, right, down, soft = number[9:_NUM_FREE]
    to_right, to_below, harder = number[_NUM_FREE:].reshape(3, tables.anchor.shape[1], -1)  # of each point
    # The remainder of a number modulo a small step is uniform, though the number is not.
    uniform = (choice * 4096) % 1
    first = tables.first[label]
    hand = first + (uniform * (tables.first[label + 1] - first)).astype(np.int64)

    x, y = tables.anchor[hand].transpose(2, 1, 0)  # [K, N] each
    unlike = 0.17 * (0.3 + 0.7 * np.abs(care))
    x, y = x + unlike * to_right, y + unlike * to_below
    x, y = (
        x * (1 + 0.55 * breadth) + 0.18 * arch * y * y + 0.3 * wedge * x * y + 0.15 * curl * y * y * y,
        y + 0.25 * sag * y * y + 0.18 * tilt * x * y + 0.15 * cup * x * x,
    )
    x = x - (0.15 + 0.6 * slant) * y  # to the right more often than to the left
    half = 0.16 * turn  # the tangent of half the angle, so that no sine is needed
    cosine, sine = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    x, y = cosine * x - sine * y, sine * x + cosine * y
    pressure = 1 + 0.5 * np.abs(press) * harder
    x, y, pressure = (_along(tables, hand, each) for each in (x, y, pressure))
    radius = np.maximum(pressure * (1.15 + 0.85 * pen + 0.7 * np.abs(heavy)), 0.55)  # pixels
    highest, lowest = (np.stack([edge(x, axis=0), edge(y, axis=0)]) for edge in (np.max, np.min))  # [2, N]
    scale = (BOX * (1 - 0.12 * np.abs(size)) - 2 * radius.max(axis=0)) / (highest - lowest).max(axis=0)
    middle = (highest + lowest) / 2
    centre = (SIZE - 1) / 2
    x, y = centre + right + (x - middle[0]) * scale, centre + down + (y - middle[1]) * scale
    return x, y, radius, 1.0 + 0.45 * soft


def _along(tables: Lines, hand: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """Interpolates `anchor` [K, N], one value per point of each hand, to the drawn points, [P, N]."""
    # Not einsum, whose multiply-adds round differently on different processors.
    source, weight = tables.source[hand].transpose(1, 2, 0), tables.weight[hand].transpose(1, 2, 0)  # [4, P, N]
    terms = [np.take_along_axis(anchor, source[j], axis=0) * weight[j] for j in range(4)]
    return ((terms[0] + terms[1]) + terms[2]) + terms[3]


def _ink(x: np.ndarray, y: np.ndarray, radius: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """Returns the pictures uint8 [N, 28, 28] of lines of discs, x, y and radius [P, N].

    The depth of a pixel at distance d in a disc of radius r is taken as (r^2 - d^2) / 2r, which is r - d near the
    edge: it needs no root, and is the sum of a term per row and a term per column.
    """
    pixel = np.arange(SIZE)[:, None]
    curve = (0.5 / radius).astype(np.float32)
    depth = np.full((SIZE, SIZE, x.shape[1]), -SIZE, np.float32)  # pictures last: long runs in memory
    disc = np.empty_like(depth)
    for p in range(len(x)):
        row = (radius[p] * 0.5).astype(np.float32) - curve[p] * ((pixel - y[p]) ** 2).astype(np.float32)
        column = curve[p] * ((pixel - x[p]) ** 2).astype(np.float32)
        np.subtract(row[:, None], column[None], out=disc)
        np.maximum(depth, disc, out=depth)
    share = np.maximum(0.5 + depth / soft.astype(np.float32), 0)
    share = np.minimum(1.2 * share / np.minimum(share.max(axis=(0, 1)), 1), 1)  # thin lines are white too
    return (share * 255 + 0.5).astype(np.uint8).transpose(2, 0, 1)


def _centred(image: np.ndarray) -> np.ndarray:
    """Returns the pictures uint8 [N, 28, 28], moved by whole pixels so that their centre of mass is in the middle."""
    pixel = np.arange(SIZE)
    for axis in (1, 2):
        mass = image.sum(axis=3 - axis)  # of each row, then of each column: whole numbers, so exact
        shift = np.rint((mass * pixel).sum(axis=1) / mass.sum(axis=1) - (SIZE - 1) / 2).astype(np.int64)
        # Pixels beyond the edge repeat the edge: black, since a digit is smaller than its picture.
        image = np.take_along_axis(image, np.expand_dims(np.clip(pixel + shift[:, None], 0, SIZE - 1), 3 - axis), axis)
    return image


class StrokeDigits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The set as a TFDS builder: nothing to download, and pictures are already PNG, so it needs no TensorFlow."""

    __module__ = NAME  # in a package, TFDS would look for a README and citations beside this file
    name = NAME
    VERSION = tfds.core.Version(VERSION)
    NUM_EXAMPLES: ClassVar = {"train": 20_000, "test": 2_000}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Digits drawn from pen strokes, an exact function of a seed.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=len(HANDS)),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(_SEED[split], number) for split, number in self.NUM_EXAMPLES.items()}

    def _generate_examples(self, seed: int, num_examples: int) -> Iterator[tuple[int, dict[str, Any]]]:
        def drawn(start: int) -> list[tuple[int, dict[str, Any]]]:
            index = np.arange(start, min(start + _CHUNK, num_examples))
            return [
                (int(i), {"image": _png(image), "label": int(label)})
                for i, image, label in zip(index, *draw(seed, index), strict=True)
            ]

        with concurrent.futures.ThreadPoolExecutor() as pool:  # numpy and Pillow release the GIL
            for examples in pool.map(drawn, range(0, num_examples, _CHUNK)):
                yield from examples


def load(name: str, config: Any) -> Dataset:
    """Returns the set; draws and prepares it if that has not been done yet.

    Args:
      name: "", or its version.
      config: as in `dataset.load`. If its `data_dir` cannot be written, the set is prepared in the cache.
    """
    folders = prepared_sets.data_dir(config.data_dir), cache.root(config.cache_dir) / "tfds"
    config = copy.deepcopy(config)
    config.data_dir = str(next(filter(_is_prepared, folders), None) or _prepare(folders))
    return prepared_sets.load(f"{NAME}:{name or VERSION}", config)


def _is_prepared(folder: pathlib.Path) -> bool:
    return VERSION in prepared_sets.prepared(folder).get(NAME, ())


def _prepare(folders: Sequence[pathlib.Path]) -> pathlib.Path:
    """Prepares the set in the first of the folders that can be written; returns that one."""
    for folder in folders:
        try:
            waiting = f"another process is preparing {NAME} in {folder}: waiting"
            with locks.alone(folder / f".{NAME}.lock", waiting) as alone:
                if not _is_prepared(folder):  # another process may have done so while this one waited
                    if alone:
                        for leftover in (folder / NAME).glob(f"*{VERSION}"):  # of a killed process
                            shutil.rmtree(leftover)
                    if not sys.stderr.isatty():
                        tfds.disable_progress_bar()
                    with contextlib.redirect_stdout(io.StringIO()):  # TFDS reports a download
                        StrokeDigits(data_dir=folder, file_format="array_record").download_and_prepare()
            return folder
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
    raise UserError(
        f"{NAME} must be prepared once, but {' and '.join(map(str, folders))} cannot be written: "
        "set --config.data.data_dir or --config.data.cache_dir"
    )


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(image[..., 0]).save(stream, "PNG")
    return stream.getvalue()

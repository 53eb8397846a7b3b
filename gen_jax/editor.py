"""Edits of given pictures with a run's model, batch by batch: checked pictures and masks in, bytes out.

What a method does with a batch is its `Edits`; this file knows no method. `sample.Model` is the way in from Python, and
`gen_jax/edit.py` the one from the command line.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gen_jax import parallel
from gen_jax.method import DataSpec, Edits, Method, State, UserError, did_you_mean, keys_of, stream, to_data

RESAMPLE = 9  # with which each step is taken ten times, as in RePaint
MOST = 10_000  # of times and of pictures, against slips
_WHITE = 128  # the smallest grey value that a mask of grey values fills

Editor = Callable[..., np.ndarray]


def _part(top: float, bottom: float, left: float, right: float) -> Callable[[int, int], np.ndarray]:
    """A rectangle between fractions of height and width."""

    def mask(height: int, width: int) -> np.ndarray:
        filled = np.zeros((height, width), bool)
        filled[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
        return filled

    return mask


MASKS: dict[str, Callable[[int, int], np.ndarray]] = {
    "left": _part(0, 1, 0, 0.5),
    "right": _part(0, 1, 0.5, 1),
    "top": _part(0, 0.5, 0, 1),
    "bottom": _part(0.5, 1, 0, 1),
    "center": _part(0.25, 0.75, 0.25, 0.75),
}
"""Masks by name, (height, width) -> bool [height, width]: true in the part to be filled."""


def make_editor(method: Method, config: Any, spec: DataSpec, mesh: Mesh) -> Editor:
    """Returns (name, state, rows, condition, *settings, seed=None) -> result for all rows, compiled once per settings.

    `name` is a field of `Edits`, `rows` are arrays [N, ...] by name, and `settings` are what this edit takes after its
    condition. The random numbers of row i are those of sample i. Results are as `to_data` returns them; noise as it is.

    Raises:
      UserError: the method cannot edit pictures.
    """
    edits = require(method, config, spec)

    @functools.cache
    def compiled(name: str, settings: tuple) -> Callable[..., jax.Array]:
        edit = getattr(edits, name)

        def call(state: State, seed: jax.Array, rows: Any, condition: Any) -> jax.Array:
            keys = keys_of(jax.random.fold_in(stream(state.key, "sample"), seed), rows["index"])
            result = edit(state, keys, rows, condition, *settings)
            return result if name == "invert" else to_data(result, spec)

        options = parallel.compiler_options(config.fast_compile_options)
        return jax.jit(call, out_shardings=parallel.sharded(mesh), compiler_options=options)

    def editor(
        name: str,
        state: State,
        rows: Mapping[str, np.ndarray],
        condition: Mapping[str, np.ndarray],
        *settings: Any,
        seed: int | None = None,
    ) -> np.ndarray:
        num = len(next(iter(rows.values())))
        root, pieces = np.uint32(config.sample.seed if seed is None else seed), []
        for first, index in parallel.padded_batches(
            0, num, parallel.rows_at_a_time(config.sample.batch_size, num, mesh)
        ):
            mine = parallel.put_rows({"index": index, **{k: v[index] for k, v in rows.items()}}, mesh)
            told = parallel.put_rows({k: v[index] for k, v in condition.items()}, mesh)
            result = compiled(name, settings)(state, root, mine, told)
            pieces.append(parallel.fetch(result)[: num - first])
        return np.concatenate(pieces)

    return editor


def require(method: Method, config: Any, spec: DataSpec) -> Edits:
    """Returns the edits of a run's method.

    Raises:
      UserError: it has none.
    """
    if method.edits is None or spec.kind != "image":
        raise UserError(
            f"this run is a {config.method}, which cannot edit pictures: use a run of a diffusion model (ddpm, flow "
            "or latent)"
        )
    return method.edits


def checked_images(images: Any, spec: DataSpec, subject: str = "the pictures are") -> np.ndarray:
    """Returns pictures as uint8 [N, H, W, C] of the shape that a model was trained on.

    Args:
      images: what a user gave.
      spec: of the training data.
      subject: how an error begins.

    Raises:
      UserError: they are of another kind, size or number of channels; one line.

    Example:
      >>> checked_images(np.zeros((2, 4, 4, 3), np.uint8), DataSpec("mnist", (4, 4, 1), 9))
      Traceback (most recent call last):
      gen_jax.method.UserError: the pictures are in colour, and this model's are grey: convert them first
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise UserError(f"{subject} {images.dtype}: give uint8, from 0 (black) to 255 (white)")
    if images.ndim != 4 or not images.size or images.shape[3] not in (1, 3):
        raise UserError(f"{subject} of shape {list(images.shape)}: give [N, H, W, C], with C = 1 (grey) or 3 (colour)")
    height, width, channels = spec.image_shape
    if images.shape[3] != channels:
        found, wanted = ("in colour", "grey") if channels == 1 else ("grey", "in colour")
        raise UserError(f"{subject} {found}, and this model's are {wanted}: convert them first")
    if images.shape[1:3] != (height, width):
        raise UserError(
            f"{subject} {images.shape[2]} wide and {images.shape[1]} high, and this model's are {width} wide and "
            f"{height} high: crop or resize them first"
        )
    return images


def as_rows(images: np.ndarray, spec: DataSpec) -> np.ndarray:
    """Returns pictures of bytes as the images of a batch: with the values and the type of the training data.

    Example:
      >>> binary = DataSpec("dsprites", (1, 2, 1), 9, value_range=(0, 1))
      >>> as_rows(np.array([[[[0], [255]]]], np.uint8), binary).ravel().tolist()
      [0, 1]
    """
    low, high = spec.value_range
    return images if (low, high) == (0, 255) else np.round(images * ((high - low) / 255) + low).astype(spec.dtype)


def checked_mask(mask: Any, images: np.ndarray) -> np.ndarray:
    """Returns a mask for every picture, bool [N, H, W]: true where it is to be filled.

    Args:
      mask: a name in `MASKS`; or an array [H, W] or [N, H, W], of bool, or of uint8, where 128 and more is filled.
      images: uint8 [N, H, W, C].

    Raises:
      UserError: no such name; an array of another shape or type; nothing to fill; one line.

    Example:
      >>> checked_mask("right", np.zeros((1, 1, 4, 1), np.uint8)).tolist()
      [[[False, False, True, True]]]
    """
    num, height, width = images.shape[:3]
    if isinstance(mask, str):
        if mask not in MASKS:
            raise UserError(f"there is no mask {mask!r}; {did_you_mean(mask, MASKS)}there are: {', '.join(MASKS)}")
        mask = MASKS[mask](height, width)
    mask = np.asarray(mask)
    if mask.dtype not in (np.uint8, np.bool_):
        raise UserError(f"the mask is {mask.dtype}: give bool (true is filled) or uint8 (white is filled)")
    if mask.shape not in ((height, width), images.shape[:3]):
        raise UserError(
            f"the mask has shape {list(mask.shape)}, and the pictures need {[height, width]} or {[num, height, width]}"
        )
    filled = np.broadcast_to(mask if mask.dtype == bool else mask >= _WHITE, images.shape[:3])
    if not filled.any():
        raise UserError("the mask is black everywhere, so there is nothing to fill: white pixels are filled")
    return filled


def checked_number(name: str, value: Any, low: float, high: float, whole: bool = False) -> Any:
    """Returns a number within low..high, or raises a UserError that names it."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise UserError(f"{name} is {value!r}; it must be {kind} in {low:g}..{high:g}")
    return int(value) if whole else float(value)


def slerp(a: np.ndarray, b: np.ndarray, num: int) -> np.ndarray:
    """Returns `num` points on the arc from a to b, both included: [num, *a.shape].

    The straight line between two draws of noise would pass through noise of too small a norm. Vectors in one line with
    the origin have no arc of their own; they get the straight line.

    Example:
      >>> slerp(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 3).round(6).tolist()
      [[1.0, 0.0], [0.707107, 0.707107], [0.0, 1.0]]
    """
    share = np.linspace(0, 1, num).reshape(-1, *[1] * a.ndim)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    angle = math.acos(np.clip(np.vdot(a, b) / norms, -1, 1)) if norms else 0.0
    if math.sin(angle) < 1e-6:
        return (1 - share) * a + share * b
    return (np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / math.sin(angle)


def labels_for(labels: Any, num: int) -> Sequence[Any] | np.ndarray:
    """Returns one label per picture; a single one is that of all pictures.

    Example:
      >>> labels_for("cat", 2), labels_for([3, 1], 2)
      (['cat', 'cat'], [3, 1])
    """
    return [labels] * num if isinstance(labels, (str, int, np.integer)) else labels

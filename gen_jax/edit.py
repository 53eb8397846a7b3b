"""`--mode=edit`: pictures of a file or a folder, edited by a trained run; a file, a grid, and a part of its page.

python -m gen_jax.main --workdir=runs/x --mode=edit --pictures=faces/ --mask=right
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from gen_jax import editor as editors
from gen_jax import report, sample
from gen_jax.config import base_config
from gen_jax.data import image_folder
from gen_jax.figures.grid import grid, save_png
from gen_jax.figures.pictures import save_picture
from gen_jax.method import DataSpec, Picture, UserError, counted, did_you_mean
from gen_jax.metrics import sources
from gen_jax.run import Run, replacing

EACH = 4  # results for a picture
MOST_ROWS = 10  # of the grid
_GREY = 128  # what is to be filled, in the grid
_FIRST_NUMBER = 90  # of the files in pictures/, so that a page shows them after the method's own


class Given(NamedTuple):
    """What is to be done, checked as far as it can be without the weights.

    Attributes:
      images: uint8 [N, H, W, C].
      labels: one for all, or one per picture; None if there are none.
      each: results for each picture.
      value: of the flag that names the edit: a mask bool [N, H, W], a strength, or a number of pictures.
      resample: how often each step is taken again.
    """

    images: np.ndarray
    labels: list[int] | list[str] | None
    each: int
    value: Any
    resample: int


class Edited(NamedTuple):
    """The results of an edit.

    Attributes:
      results: uint8 [N, n, H, W, C], n for each of N pictures, or of N pairs of them.
      before: what the grid shows in front of a row, each uint8 [N, H, W, C].
      title: a few words.
      caption: what a row shows.
    """

    results: np.ndarray
    before: tuple[np.ndarray, ...]
    title: str
    caption: str


class Edit(NamedTuple):
    """An edit of the command line.

    Attributes:
      read: (text of its flag, pictures, spec) -> its value.
      make: (model, what is given) -> the results.
    """

    read: Callable[[str, np.ndarray, DataSpec], Any]
    make: Callable[[sample.Model, Given], Edited]


def edit(workdir: pathlib.Path, flags: Mapping[str, str], overrides: tuple[str, ...] = ()) -> None:
    """`--mode=edit`: edits pictures and writes edits.npz, edits.png and the page.

    Args:
      workdir: of a trained diffusion run.
      flags: those of `main.EDITING` that were given, by name.
      overrides: words such as "--config.sample.num_steps=50".

    Raises:
      UserError: see `sample.load` and `editor`; unreadable or unsuitable pictures; flags that do not go together.
    """
    run = Run(workdir)
    config, spec, _, method = sample.untrained(run, overrides)
    editors.require(method, config, spec)
    name = _which(flags)
    given = _read(name, flags, spec, "label" in method.condition)
    model = sample.load(run.workdir, overrides)
    edited = EDITS[name].make(model, given)
    if jax.process_index() == 0:
        _write(run, name, given, edited, model)


def _which(flags: Mapping[str, str]) -> str:
    """Returns the flag that names the edit."""
    asked = [name for name in EDITS if name in flags]
    if len(asked) != 1:
        found = f"not {' and '.join(f'--{name}' for name in asked)}" if asked else "and there is none"
        raise UserError(f"--mode=edit takes one of {', '.join(f'--{name}' for name in EDITS)}, {found} (see --help)")
    if "pictures" not in flags:
        raise UserError("--mode=edit needs pictures: --pictures=<a picture, a folder, an .npz file or a run>")
    return asked[0]


def _read(name: str, flags: Mapping[str, str], spec: DataSpec, takes_labels: bool) -> Given:
    images, known = read_pictures(flags["pictures"], spec)
    labels: list[Any] | None = known if takes_labels else None
    if "labels" in flags:
        labels = flags["labels"].split(",")
        labels = [int(label) for label in labels] if all(label.isdecimal() for label in labels) else labels
        labels = labels * len(images) if len(labels) == 1 else labels
    each = editors.checked_number("--each", _number(flags.get("each", str(EACH))), 1, 1000, whole=True)
    resample = _number(flags.get("resample", str(editors.RESAMPLE)))
    resample = editors.checked_number("--resample", resample, 0, editors.MOST, whole=True)
    for other, only in (("resample", ("mask",)), ("each", ("mask", "strength"))):
        if other in flags and name not in only:
            raise UserError(f"--{other}={flags[other]} has no effect with --{name}: leave it out")
    return Given(images, labels, each, EDITS[name].read(flags[name], images, spec), resample)


def _number(text: str) -> Any:
    """Returns a text as a number, or as it is, for an error that shows it."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def read_pictures(source: str, spec: DataSpec) -> tuple[np.ndarray, list[int] | None]:
    """Returns the pictures of a file, of a folder in the order of their names, of an .npz file or of a run.

    Args:
      source: a path.
      spec: of the model's data, whose size and channels they must have.

    Returns:
      The pictures, uint8 [N, H, W, C], and their classes if the .npz file or the run has them.

    Raises:
      UserError: there is nothing there, or something else; a file that cannot be read or has another size.
    """
    place = pathlib.Path(source).expanduser()
    if place.suffix == ".npz" or (place / "config.json").is_file():
        found = sources.read(source, base_config().data)
        labels = None if found.labels is None else found.labels.tolist()
        return editors.checked_images(found.images, spec, f"the pictures of {source} are"), labels
    if not place.exists():
        raise UserError(f"there is no picture, folder, .npz file or run at {source}")
    files = [place]
    if place.is_dir():
        files = sorted(path for path in place.iterdir() if path.suffix.lower() in image_folder.SUFFIXES)
        if not files:
            raise UserError(
                f"no pictures in {source}: --mode=edit reads files that end in {', '.join(image_folder.SUFFIXES)}"
            )
    read = [editors.checked_images(_read_file(path)[None], spec, f"{path} is") for path in files]
    return np.concatenate(read), None


def _read_file(path: pathlib.Path, channels: int = 0) -> np.ndarray:
    found = image_folder.read_file(path, channels)
    if isinstance(found, str):
        raise UserError(f"cannot read {path}: it {found}")
    return found


def read_mask(text: str, images: np.ndarray, spec: DataSpec) -> np.ndarray:
    """Returns the mask of a name, or of a picture whose white pixels are to be filled: bool [N, H, W].

    Raises:
      UserError: it is neither, cannot be read, is of another size than the pictures, or is black everywhere.
    """
    if text in editors.MASKS:
        return editors.checked_mask(text, images)
    path = pathlib.Path(text).expanduser()
    if not path.is_file():
        raise UserError(
            f"there is no mask {text!r}: {did_you_mean(text, editors.MASKS)}give one of {', '.join(editors.MASKS)}, or "
            "a picture whose white pixels are to be filled"
        )
    mask = _read_file(path, channels=1)[..., 0]
    if mask.shape != images.shape[1:3]:
        (height, width), (rows, columns) = mask.shape, images.shape[1:3]
        raise UserError(
            f"the mask {text} is {width} wide and {height} high, and the pictures are {columns} wide and {rows} high: "
            "give it their size"
        )
    return editors.checked_mask(mask, images)


def _complete(model: sample.Model, given: Given) -> Edited:
    images, masks, labels = (_repeated(value, given.each) for value in (given.images, given.value, given.labels))
    results = model.inpaint(images, masks, labels, given.resample)
    hidden = np.where(given.value[..., None], np.uint8(_GREY), given.images)
    times = f"each step taken {given.resample + 1} times" if given.resample else "each step taken once"
    caption = (
        f"From left to right: a picture, what is kept of it, and {{results}} with the grey part filled in, {times}."
    )
    return Edited(_by_picture(results, given.each), (given.images, hidden), "Filled in", caption)


def _vary(model: sample.Model, given: Given) -> Edited:
    results = model.vary(_repeated(given.images, given.each), given.value, _repeated(given.labels, given.each))
    caption = f"From left to right: a picture, and {{results}} from its noisy version, with strength {given.value:g}."
    return Edited(_by_picture(results, given.each), (given.images,), "Variations", caption)


def _connect(model: sample.Model, given: Given) -> Edited:
    labels = given.labels if given.labels is None else given.labels[:-1]
    results = model.interpolate(given.images[:-1], given.images[1:], given.value, labels)
    caption = (
        "Each row goes from one picture to the next, along the arc between the two noises that DDIM leads to them."
    )
    return Edited(results, (), "Between pictures", caption)


def _read_strength(text: str, images: np.ndarray, spec: DataSpec) -> float:
    return editors.checked_number("--strength", _number(text), 0, 1)


def _read_between(text: str, images: np.ndarray, spec: DataSpec) -> int:
    if len(images) < 2:
        raise UserError("--between needs two pictures or more, and --pictures holds one")
    return editors.checked_number("--between", _number(text), 2, editors.MOST, whole=True)


EDITS = {
    "mask": Edit(read_mask, _complete),
    "strength": Edit(_read_strength, _vary),
    "between": Edit(_read_between, _connect),
}
"""The edits, by the flag that names them."""


def _repeated(values: Any, each: int) -> Any:
    return None if values is None else np.repeat(values, each, axis=0)


def _by_picture(results: np.ndarray, each: int) -> np.ndarray:
    return results.reshape(-1, each, *results.shape[1:])


def _write(run: Run, name: str, given: Given, edited: Edited, model: sample.Model) -> None:
    """Writes edits.npz, edits.png, the picture of the page, and the page."""
    rows, each = edited.results.shape[:2]
    arrays = {"arr_0": edited.results.reshape(-1, *model.spec.image_shape), "pictures": given.images}
    arrays |= {"mask": given.value} if name == "mask" else {}
    arrays |= {"data": np.array(model.spec.name)}
    path = run.workdir / "edits.npz"
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)
    shown = np.concatenate([*(images[:, None] for images in edited.before), edited.results], axis=1)
    columns, shown = shown.shape[1], shown[:MOST_ROWS].reshape(-1, *model.spec.image_shape)
    step, description = int(model.state.step), f"Edits by a model trained on {model.spec.name}"
    save_png(run.workdir / "edits.png", grid(shown, columns), description)
    left_out = f" The first {MOST_ROWS} of {rows} rows." if rows > MOST_ROWS else ""
    caption = edited.caption.format(results=counted(each, "result")) + f" Step {step:,}.{left_out}"
    picture = Picture(shown, edited.title, caption, columns=columns)  # pyright: ignore[reportArgumentType]  numpy is fine
    save_picture(run.pictures / f"{_FIRST_NUMBER + [*EDITS].index(name)}_edit_{name}.npz", picture, model.spec.name)
    print(f"{counted(rows * each, 'edited picture')} of {run.workdir} (step {step}): {path}, and edits.png")
    print(f"report: {report.write(run.workdir)}")

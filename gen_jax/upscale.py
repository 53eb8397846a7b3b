"""`--mode=upscale`: pictures of a file or a folder, made larger by a trained run, as PNG files in a folder.

python -m gen_jax.main --workdir=runs/srgan --mode=upscale --pictures=photos/ --out=larger/
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import tqdm

from gen_jax import sample, tiles
from gen_jax.data import bicubic, image_folder
from gen_jax.method import UserError, counted
from gen_jax.metrics import upscaled
from gen_jax.run import Run, replacing, write_json, writing

_GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue: ITU-R 601-2, as in `images`


class Given(NamedTuple):
    """A picture as it was read.

    Attributes:
      colours: uint8 [H, W, C], C 1 or 3.
      opacity: uint8 [H, W, 1], or None for an opaque picture.
    """

    colours: np.ndarray
    opacity: np.ndarray | None


def upscale(workdir: pathlib.Path, flags: Mapping[str, Any], overrides: tuple[str, ...] = ()) -> None:
    """`--mode=upscale`: makes pictures larger, and writes each as <name>.png.

    Args:
      workdir: of a trained run of srresnet or srgan.
      flags: those of `main.UPSCALING` that were given, by name: `pictures`, `out`, and `compare`, with which pictures
        are made smaller first, and the results compared with them.
      overrides: words such as "--config.num_devices=1".

    Raises:
      UserError: see `sample.load`; no pictures, unreadable ones, grey models for colour; a folder that cannot be used.
    """
    run = Run(workdir)
    config, spec, _, method = sample.untrained(run, overrides)
    how = tiles.require(method, config)
    if "pictures" not in flags:
        raise UserError("--mode=upscale needs pictures: --pictures=<a picture or a folder>")
    files, channels = _files(flags["pictures"]), spec.image_shape[-1]
    out = pathlib.Path(flags.get("out") or run.workdir / "upscaled").expanduser()
    targets = _targets(files, out)
    _read(files[0], channels)  # refused before the weights are read
    model, chief = sample.load(run.workdir, overrides), jax.process_index() == 0
    rows: dict[str, dict[str, float]] = {}
    with tqdm.tqdm(total=len(files), unit="picture", desc="upscaling", disable=None if chief else True) as bar:
        make = functools.partial(_larger, model, bar)
        for file, target in zip(files, targets, strict=True):
            given = _read(file, channels)
            small = _reduced(given, how.factor, file) if "compare" in flags else given
            large = enlarge(small, channels, make)
            if chief:
                _save(target, large)
            if "compare" in flags:
                rows[file.name] = _compared(given, small, large, how.factor)
    if chief:
        made = f"{counted(len(files), 'picture')}, {how.factor} times as large"
        print(f"{made}, by {run.workdir} (step {int(model.state.step)}): {out}")
        if rows:
            _tell(out, rows, how.factor)


def _larger(model: sample.Model, bar: tqdm.tqdm, picture: np.ndarray) -> np.ndarray:
    """What a model makes of a picture; the bar advances by its share of all pictures with each tile."""
    return model.upscaler(model.state, picture, lambda done, num: bar.update(done / num))


def enlarge(given: Given, channels: int, make: Callable[[np.ndarray], np.ndarray]) -> Given:
    """Returns a picture made larger; a grey one stays grey, and opacity is enlarged bicubically.

    Args:
      given: the small picture.
      channels: of the pictures that `make` takes.
      make: uint8 [h, w, C] -> uint8 [factor h, factor w, C].
    """
    grey = given.colours.shape[-1] == 1
    colours = make(np.repeat(given.colours, channels, axis=-1) if grey else given.colours)
    if grey and channels == 3:
        colours = bicubic.as_bytes(colours @ _GREY)[..., None]
    if given.opacity is None:
        return Given(colours, None)
    return Given(colours, bicubic.enlarged(given.opacity, colours.shape[0] // given.opacity.shape[0]))


def _files(source: str) -> list[pathlib.Path]:
    """The pictures of a file, or of a folder in the order of their names."""
    place = pathlib.Path(source).expanduser()
    if not place.exists():
        raise UserError(f"there is no picture or folder at {source}")
    if not place.is_dir():
        return [place]
    files = sorted(path for path in place.iterdir() if path.suffix.lower() in image_folder.SUFFIXES)
    if not files:
        raise UserError(
            f"no pictures in {source}: --mode=upscale reads files that end in {', '.join(image_folder.SUFFIXES)}"
        )
    return files


def _targets(files: list[pathlib.Path], out: pathlib.Path) -> list[pathlib.Path]:
    """The file of each result, of which none is a picture that was given, or another's."""
    if out.resolve() == files[0].parent.resolve():
        raise UserError(f"--out={out} is the folder of the pictures, which would be replaced: choose another")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file: name a folder")
    by_name: dict[str, pathlib.Path] = {}
    for file in files:
        if other := by_name.get(file.stem):
            raise UserError(f"{other.name} and {file.name} would both become {file.stem}.png: rename one of them")
        by_name[file.stem] = file
    return [out / f"{file.stem}.png" for file in files]


def _read(file: pathlib.Path, channels: int) -> Given:
    found = image_folder.read_parts(file)
    if isinstance(found, str):
        raise UserError(f"cannot read {file}: it {found}")
    given = Given(*found)
    if given.colours.shape[-1] > channels:
        raise UserError(f"{file} is in colour, and this model's pictures are grey: convert it first")
    return given


def _reduced(given: Given, factor: int, file: pathlib.Path) -> Given:
    """The small picture of a large one, whose last rows and columns are left out if `factor` does not divide them."""
    height, width = (factor * (length // factor) for length in given.colours.shape[:2])
    if min(height, width) <= 2 * factor + 2:
        raise UserError(f"{file} has {width}x{height} pixels, too few to make smaller and compare: leave it out")
    return Given(bicubic.reduced(given.colours[:height, :width], factor), None)


def _compared(given: Given, small: Given, large: Given, factor: int) -> dict[str, float]:
    """The measures of a result, and those of bicubic interpolation beside it."""
    height, width, _ = large.colours.shape
    truth, beside = given.colours[:height, :width], bicubic.enlarged(small.colours, factor)
    truth, made, beside = (jnp.asarray(each[None]) for each in (truth, large.colours, beside))
    found = upscaled.compared(truth, made, factor)
    found |= {f"bicubic_{name}": values for name, values in upscaled.compared(truth, beside, factor).items()}
    return {name: float(value[0]) for name, value in found.items()}


def _tell(out: pathlib.Path, rows: Mapping[str, Mapping[str, float]], factor: int) -> None:
    """Prints the means, and writes compared.json, with the values of each picture."""
    first, *others = rows.values()
    names = [name for name in first if all(name in row for row in others)]
    means = {name: float(np.mean([row[name] for row in rows.values()])) for name in names}
    write_json(
        out / "compared.json",
        {
            "protocol": f"each picture is made {factor} times smaller (bicubic with antialiasing, 8 bits) and larger "
            f"again; on luma, without a border of {factor} pixels",
            "means": means,
            "pictures": dict(rows),
        },
    )
    print("\n".join(f"{name:36} {value:10.4g}" for name, value in means.items()))


def _save(path: pathlib.Path, large: Given) -> None:
    parts = [large.colours] if large.opacity is None else [large.colours, large.opacity]
    pixels = np.concatenate(parts, axis=-1)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")

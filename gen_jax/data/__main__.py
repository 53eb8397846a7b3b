"""`python -m gen_jax.data <name>`: prepares a data set and describes it, with a sheet of its pictures.

Without a name, it lists the prepared and the known sets. Like main.py this is a program: it may import from layers
above its own, and nothing imports it. A user's mistake ends in one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from gen_jax import command
from gen_jax.data import dataset, gaussians
from gen_jax.figures import scatter
from gen_jax.figures.grid import Images, contact_sheet, to_pil
from gen_jax.method import DataSpec, UserError, counted, to_bytes
from gen_jax.run import directory

OPTIONS = (
    "data_dir", "cache_dir", "train_split", "test_split", "image_size", "channels", "background", "on_error",
    "max_megapixels",
)  # fmt: skip
"""Keys of `config.base_config().data` that are flags here."""

DRAWN = ("stroke_digits", "dsprites", "shades", "captioned_shapes")
MAX_ROWS, MAX_COLUMNS = 20, 12  # of the sheet


def main(argv: list[str]) -> None:
    """Prepares and describes the set that `argv` names, or lists the sets.

    Raises:
      UserError: a mistake of the user.
    """
    from gen_jax.config import base_config

    config = base_config().data
    parser = argparse.ArgumentParser(
        prog="python -m gen_jax.data",
        description="Prepare and describe a data set: mnist, fashion_mnist, cifar10, any image set of TFDS, "
        "stroke_digits, dsprites, shades, captioned_shapes, gaussians:grid25, stacked:mnist, image_folder:<dir>.",
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", default="", help="as config.data.name; without it, the sets are listed")
    parser.add_argument("--sheet", metavar="FILE", help="file for the sheet of pictures; default: <name>.png")
    for key in OPTIONS:
        parser.add_argument(f"--{key}", type=type(config[key]), default=config[key], help=f"as --config.data.{key}")
    flags = parser.parse_args(argv)
    config.update({key: getattr(flags, key) for key in OPTIONS}, name=flags.name)
    if not flags.name:
        print(listing(config))
        return
    try:
        data = dataset.load(config)
    except UserError as error:
        raise UserError(command.in_own_flags(str(error), OPTIONS)) from error
    print(description(data, config))
    path = directory(flags.sheet or f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', data.spec.name)[:100]}.png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if data.spec.kind == "points":
            drawn = scatter.density(data.train["image"], data.spec.value_range)
        else:
            drawn = sheet(data.train, data.spec.class_names, data.spec.value_range)
        to_pil(drawn).save(path, "PNG")
    except OSError as error:
        raise UserError(
            f"cannot write the sheet {path} ({error.strerror}): choose another place with --sheet"
        ) from None
    print(f"  a sheet of pictures: {path}")


def listing(config: Any) -> str:
    """Returns a list of the sets prepared in the folder that `config` names, and of all known sets."""
    from gen_jax.data import prepare, tfds

    folder = tfds.data_dir(config.data_dir)
    sets = tfds.prepared(folder)
    lines = [f"prepared in {folder}:", *(f"  {name} {', '.join(versions)}" for name, versions in sets.items())]
    if not sets:
        lines.append("  nothing")
    return "\n".join(
        [
            *lines,
            f"drawn without a download: {', '.join([*DRAWN, *gaussians.names()])}",
            "three pictures of a set as channels of one: stacked:mnist, stacked:<name>",
            "your own pictures: image_folder:<dir>",
            "known to TFDS (of these, sets with a feature 'image' of uint8 can be read):",
            textwrap.fill(", ".join(prepare.known()), 100, initial_indent="  ", subsequent_indent="  "),
        ]
    )


def description(data: dataset.Dataset, config: Any) -> str:
    """Returns a few lines on what a set contains and where it is stored."""
    from gen_jax.data import tfds

    spec = data.spec
    lines = [f"{spec.name}: {'x'.join(map(str, spec.image_shape))}, {_classes(spec)}"]
    for split, arrays in (("train", data.train), ("test", data.test)):
        if arrays is not None:
            lines.append(f"  {split}: {counted(len(arrays['image']), 'example')}{_balance(arrays, spec.num_classes)}")
    lines.append(f"  fingerprint: {spec.fingerprint}")
    folder = tfds.data_dir(config.data_dir)
    if spec.name in tfds.prepared(folder):
        lines.append(f"  prepared in {tfds.find(spec.name, folder)}")
    return "\n".join(lines)


def _classes(spec: DataSpec) -> str:
    if spec.factor_sizes is not None:
        return f"{len(spec.factor_sizes)} factors of {', '.join(map(str, spec.factor_sizes))} values"
    if spec.class_names is None:
        return "no labels"
    shown = ", ".join(spec.class_names[:MAX_ROWS]) + (", ..." if len(spec.class_names) > MAX_ROWS else "")
    return f"{counted(len(spec.class_names), 'class', 'classes')} ({shown})"


def _balance(arrays: Mapping[str, Any], num_classes: int | None) -> str:
    if num_classes is None:
        return ""
    count = np.bincount(arrays["label"], minlength=num_classes)
    return f", {count.min():,} to {count.max():,} per class"


def sheet(
    arrays: Mapping[str, Any], class_names: tuple[str, ...] | None, value_range: tuple[float, float] = (0, 255)
) -> Images:
    """Returns a sheet with pictures of a split: the first of each class next to its name, or some spread over the set.

    Args:
      arrays: `image` uint8 [N, H, W, C], C 1 or 3, and `label` i32 [N] if there are classes.
      class_names: one per class, or None.
      value_range: of a pixel.

    Returns:
      uint8 [H', W', 3]; see `contact_sheet`.
    """
    if class_names is None:
        number = dataset.spread(len(arrays["image"]), MAX_ROWS * MAX_COLUMNS)
        rows = [number[start : start + MAX_COLUMNS] for start in range(0, len(number), MAX_COLUMNS)]
        names = [""] * len(rows)
    else:
        names = list(class_names[:MAX_ROWS])
        rows = [np.flatnonzero(arrays["label"] == label)[:MAX_COLUMNS] for label in range(len(names))]
    return contact_sheet([to_bytes(arrays["image"][row], value_range) for row in rows], names)


if __name__ == "__main__":
    command.run(main, "the same command starts again")

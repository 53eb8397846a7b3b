"""How far words steer a picture: captions that training did not have, of seen and of unseen things, in other words.

    python -m gen_jax.main --config=stackgan_shapes
    python -m experiments.unseen runs/stackgan_shapes    # 1,000 samples a row

"Unseen things" are those of test pictures: no thing of them, as its shape, colour, size and place together, occurs in
training. Captions that state all of these come first, then captions of all kinds, which leave some out or state
relations. A run with the sentence encoder, such as `stackgan_shapes:sentence`, also gets the latter with every word for
a shape, a colour, a size, a place and a relation replaced by one that the grammar lacks. What the pictures show is read
back without a network and compared with the grammar's caption (docs/text.md). Sharpness compares the stages of
`stackgan_shapes_large`: smaller pictures are enlarged bicubically to the size of the second.
"""

from __future__ import annotations

import argparse
import pathlib
import re
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import gen_jax
from experiments import record
from gen_jax import command
from gen_jax.data import bicubic, captioned_shapes, grammar
from gen_jax.figures.grid import grid, save_png
from gen_jax.method import UserError
from gen_jax.metrics import scenes, upscaled
from gen_jax.run import directory
from gen_jax.sample import Model

SHAPES = ("ball", "rectangle", "pyramid", "asterisk", "crucifix")
COLOURS = ("crimson", "emerald", "navy", "golden", "lilac", "snowy")
SIZES = ("miniature", "huge")
PLACES = (
    "near the upper left edge", "near the upper edge", "near the upper right edge",
    "near the left edge", "halfway between all edges", "near the right edge",
    "near the lower left edge", "near the lower edge", "near the lower right edge",
)  # fmt: skip
RELATIONS = ("on the left hand of", "on the right hand of", "higher than", "beneath")
TABLES = (
    (grammar.PLACES, PLACES), (grammar.RELATIONS, RELATIONS), (grammar.SHAPES, SHAPES), (grammar.COLOURS, COLOURS),
    (grammar.SIZES, SIZES),
)  # fmt: skip
OTHER = {words: other for known, others in TABLES for same, other in zip(known, others, strict=True) for words in same}
SHOWN, COLUMNS = 24, 12
SIDE = captioned_shapes.IMAGE_SIZES[-1]  # pixels, at which sharpness is measured
CHUNK = 50  # pictures measured at once
UNSEEN, OTHER_WORDS = "unseen things, all stated", "unseen things, all kinds, in other words"
_KNOWN = re.compile(rf"\b({'|'.join(sorted(OTHER, key=len, reverse=True))})\b")


def in_other_words(caption: str) -> str:
    """Returns a caption of the grammar in words that it does not have.

    Example:
      >>> in_other_words("a small red star to the left of a blue disc")
      'a miniature crimson asterisk on the left hand of a navy ball'
      >>> in_other_words("in the lower right corner is a big violet plus")
      'near the lower right edge is a huge lilac crucifix'
    """
    return _KNOWN.sub(lambda found: OTHER[found[0]], caption)


class Asked(NamedTuple):
    """What a model is asked for: texts, and for each the caption of the grammar that states the same."""

    texts: list[str]
    captions: list[str]


def asked(num: int) -> dict[str, Asked]:
    """Returns `num` texts of each kind."""
    seen, unseen = captioned_shapes.Drawn("train"), captioned_shapes.Drawn("test")
    first, several = captioned_shapes.NUM_EXAMPLES["train"], captioned_shapes.NUM_CAPTIONS  # `first`: not in training
    whole = [unseen.captions(i)[0] for i in range(num)]
    every = [unseen.captions(i)[i % several] for i in range(num)]
    new = [seen.captions(first + i)[0] for i in range(num)]
    return {
        "seen things, all stated": Asked(new, new),
        UNSEEN: Asked(whole, whole),
        "unseen things, all kinds": Asked(every, every),
        OTHER_WORDS: Asked([in_other_words(caption) for caption in every], every),
    }


def sharpness(images: np.ndarray) -> float:
    """Returns the variance of the Laplacian of Y at 256x256, a mean over pictures uint8 [N, S, S, 3].

    Example:
      >>> sharpness(np.full((2, 64, 64, 3), 90, np.uint8))
      0.0
    """
    found = []
    for start in range(0, len(images), CHUNK):
        large = bicubic.enlarged(images[start : start + CHUNK], SIDE // images.shape[1])
        found.append(np.asarray(upscaled.sharpness(upscaled.luma(jnp.asarray(large)))))
    return float(np.concatenate(found).mean())


def measure(model: Model, num: int) -> list[dict[str, str]]:
    """Returns a row for each kind of text: which shares of the captions' statements are true of `num` samples, and how
    sharp these are.

    Raises:
      UserError: the model takes no texts.
    """
    rows = []
    for name, (texts, captions) in asked(num).items():
        if name == OTHER_WORDS and (model.texts is None or model.texts.encoder.kind != "sentence"):
            continue  # no other encoder knows a word that training did not have
        samples = model.sample(texts=texts)
        shown = scenes.read(samples)
        found, by_chance = scenes.agreement(shown, captions), scenes.agreement(shown, captions[1:] + captions[:1])
        told = {
            key: f"{found[key]:.1%} (by chance {by_chance[key]:.1%})" if key in found else ""
            for key in grammar.ATTRIBUTES
        }
        rows.append({"captions": name} | told | {"sharpness": f"{sharpness(samples):.1f}"})
    return rows


def figure(model: Model, num: int = SHOWN) -> np.ndarray:
    """Returns pictures of unseen things and, below each, the sample of the caption that states all of it, uint8."""
    real = captioned_shapes.Drawn("test").pictures(range(num), scenes.SIDE)
    samples = scenes.reduced(model.sample(texts=asked(num)[UNSEEN].texts)).round().astype(np.uint8)
    rows = [rows[start : start + COLUMNS] for start in range(0, num, COLUMNS) for rows in (real, samples)]
    return grid(np.concatenate(rows), COLUMNS)


def main(argv: list[str]) -> None:
    """Measures the runs that `argv` names.

    Raises:
      UserError: a mistake of the user.
    """
    parser = argparse.ArgumentParser(prog="python -m experiments.unseen", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", type=directory, nargs="+", help="trained on captioned_shapes with a text encoder")
    parser.add_argument("--num", type=int, default=captioned_shapes.NUM_EXAMPLES["test"], help="samples (1,000)")
    parser.add_argument("--out", type=pathlib.Path, default=record.RESULTS / "unseen", help="of the table")
    flags = parser.parse_args(argv)
    most = captioned_shapes.NUM_EXAMPLES["test"]
    if not 2 <= flags.num <= most:
        raise UserError(f"--num is {flags.num}: use 2 to {most:,}, the number of test pictures")
    if len({run.name for run in flags.runs}) < len(flags.runs):
        raise UserError("two of these runs have the same name, which is that of their table: measure one at a time")
    models = {run.name: gen_jax.load(run) for run in flags.runs}
    tables = {name: measure(model, flags.num) for name, model in models.items()}
    for name, model in models.items():
        save_png(flags.out / f"{name}.png", figure(model), "unseen things, and below each the sample of its caption")
    real = sharpness(captioned_shapes.Drawn("test").pictures(range(flags.num), SIDE))
    report = {
        "command": record.command("unseen", argv),
        "verdict": f"Shares of the captions' statements that are true of {flags.num:,} samples, and their sharpness: "
        f"the variance of the Laplacian of Y at {SIDE}x{SIDE}. Test pictures drawn at that size have {real:.1f}.",
        "num": flags.num,
    } | record.versions()
    record.write(flags.out, report, tables)


if __name__ == "__main__":
    command.run(main, "nothing was written")

"""Captions in words that no training caption has, through the sentence encoder.

    python -m gen_jax.main --config=stackgan_shapes:sentence
    python -m experiments.other_words runs/stackgan_shapes-sentence    # 1,000 samples each

Captions of test pictures, no thing of which occurs in training, are given to the run twice: as the grammar has them,
and with every word for a shape, a colour, a size, a place and a relation replaced by one that the grammar lacks. What
the pictures show is read back without a network and compared with the grammar's caption (docs/text.md).
"""

from __future__ import annotations

import argparse
import pathlib
import re

import gen_jax
from experiments import record
from gen_jax import command
from gen_jax.data import captioned_shapes, grammar
from gen_jax.method import UserError
from gen_jax.metrics import scenes
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


def measure(model: Model, num: int) -> list[dict[str, str]]:
    """Returns a row for each wording: which shares of the captions' statements are true of `num` samples.

    Raises:
      UserError: the model takes no texts, or its encoder does not read the other words.
    """
    drawn = captioned_shapes.Drawn("test")
    captions = [drawn.captions(i)[i % captioned_shapes.NUM_CAPTIONS] for i in range(num)]
    rows = []
    for name, texts in {"as in training": captions, "other words": [*map(in_other_words, captions)]}.items():
        shown = scenes.read(model.sample(texts=texts))
        by_chance = scenes.agreement(shown, captions[1:] + captions[:1])
        found = scenes.agreement(shown, captions)
        told = {key: f"{value:.1%} (by chance {by_chance[key]:.1%})" for key, value in found.items()}
        rows.append({"words": name} | told)
    return rows


def main(argv: list[str]) -> None:
    """Measures the run that `argv` names.

    Raises:
      UserError: a mistake of the user.
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments.other_words", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("run", type=directory, help="trained on captioned_shapes with the sentence encoder")
    parser.add_argument("--num", type=int, default=captioned_shapes.NUM_EXAMPLES["test"], help="samples (1,000)")
    parser.add_argument("--out", type=pathlib.Path, default=record.RESULTS / "other_words", help="of the table")
    flags = parser.parse_args(argv)
    most = captioned_shapes.NUM_EXAMPLES["test"]
    if not 2 <= flags.num <= most:
        raise UserError(f"--num is {flags.num}: use 2 to {most:,}, the number of test pictures")
    rows = measure(gen_jax.load(flags.run), flags.num)
    report = {
        "command": record.command("other_words", argv),
        "verdict": f"Shares of what captions state that is true of {flags.num:,} samples.",
        "num": flags.num,
    } | record.versions()
    record.write(flags.out, report, {"attributes": rows})


if __name__ == "__main__":
    command.run(main, "nothing was written")

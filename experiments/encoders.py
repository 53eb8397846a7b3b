"""What text encoders tell of captions: a linear probe for the shape, colour and size of the thing at a place.

    python -m experiments.encoders    # the sentence encoder too, if it is installed; a few minutes

The probe is a ridge regression from embeddings to what stands at each of the nine places, fitted to the first captions
of the training pictures of captioned_shapes, which state everything. It is right where the largest of the values of a
thing's place is the right one, for first captions of test pictures, no thing of which occurs in training. What a linear
map cannot find in an embedding, a generator, whose first layer is one, finds hard.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np

from experiments import record
from gen_jax import command
from gen_jax.data import captioned_shapes, dataset
from gen_jax.data.grammar import COLOURS, MOST, PLACES, SHAPES, SIZES
from gen_jax.methods import load
from gen_jax.text import words
from gen_jax.text.encoder import Encoder, Given
from gen_jax.text.texts import TEXT

ENCODERS = {
    "words and pairs of neighbours": {"name": "words"},
    "words of clauses": words.OF_CLAUSES | {"size": 0},
    "words of clauses, 128 directions": words.OF_CLAUSES,
    "char-CNN-RNN": {"name": "char_cnn_rnn"},
    "sentence": {"name": "sentence"},
    "sentence, 128 directions": {"name": "sentence", "size": 128},
}
ATTRIBUTES = {"shape": len(SHAPES), "colour": len(COLOURS), "size": len(SIZES)}
_RIDGE = 1.0  # of embeddings with a mean variance of 1, and thousands of captions


def targets(factors: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what stands at each place, one-hot by attribute: f32 [N, 9, values], zero where nothing is.

    Example:
      >>> found = targets(np.array([[4, 1, 1, 9, 0, 0, 0, 0, 0, 0, 0, 0]]))  # a small red star at the bottom right
      >>> found["shape"].shape, found["shape"][0, 8].tolist(), float(found["shape"].sum())
      ((1, 9, 5), [0.0, 0.0, 0.0, 1.0, 0.0], 1.0)
    """
    things = factors.reshape(-1, MOST, 4)
    row, which = np.nonzero(things[..., 0])
    place = things[row, which, 3] - 1
    found = {}
    for number, (name, values) in enumerate(ATTRIBUTES.items()):
        found[name] = np.zeros((len(things), len(PLACES), values), np.float32)
        found[name][row, place, things[row, which, number] - 1] = 1
    return found


def probe(train: np.ndarray, test: np.ndarray, known: np.ndarray, right: np.ndarray) -> float:
    """Returns the share of things whose value a ridge regression finds.

    Args:
      train: embeddings f32 [N, D].
      test: embeddings f32 [M, D].
      known: of the training captions, from `targets`, f32 [N, 9, V].
      right: likewise of the test captions, f32 [M, 9, V].

    Example:
      >>> x, y = np.eye(4), np.eye(4)[:, None]
      >>> probe(x, x, y, y), probe(x, x[::-1], y, y)
      (1.0, 0.0)
    """
    mean, scale = train.mean(axis=0), train.std() + 1e-9
    x, other = ((np.c_[(each - mean) / scale, np.ones(len(each))]).astype(np.float64) for each in (train, test))
    weights = np.linalg.solve(x.T @ x + _RIDGE * np.eye(x.shape[1]), x.T @ known.reshape(len(x), -1))
    told = (other @ weights).reshape(right.shape).argmax(axis=-1)
    there = right.any(axis=-1)
    return float((told == right.argmax(axis=-1))[there].mean())


def measure(by: Encoder, num_train: int, num_test: int) -> dict[str, float]:
    """Returns the shares of shapes, colours and sizes that are found."""

    def of(split: str, num: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        drawn = captioned_shapes.Drawn(split)
        return by.encode([drawn.captions(i)[0] for i in range(num)]), targets(drawn.factors(range(num)))

    (train, known), (test, right) = of("train", num_train), of("test", num_test)
    return {name: probe(train, test, known[name], right[name]) for name in ATTRIBUTES}


def main(argv: Sequence[str]) -> None:
    """Measures the encoders that `argv` names.

    Raises:
      UserError: a mistake of the user, or the sentence encoder is asked for and not installed.
    """
    parser = argparse.ArgumentParser(prog="python -m experiments.encoders", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=list(ENCODERS), default=list(ENCODERS), help="of the table")
    parser.add_argument("--out", type=pathlib.Path, default=record.RESULTS / "encoders", help="of the table")
    flags = parser.parse_args(list(argv))
    config = load("stackgan_shapes")[2]
    given = Given(dataset.load(config.data), config.data.cache_dir)
    num_train, num_test = (captioned_shapes.NUM_EXAMPLES[split] for split in ("train", "test"))
    rows, found = [], {}
    for name in flags.rows:
        values = dict(ENCODERS[name])
        by = TEXT.table[values.pop("name")](given=given, **values)
        found[name] = measure(by, num_train, num_test)
        rows.append({"encoder": name, "numbers": by.size} | {k: f"{v:.1%}" for k, v in found[name].items()})
        print(rows[-1], flush=True)
    report = {
        "command": record.command("encoders", argv),
        "verdict": f"Shares that a linear probe finds, of the things of {num_test:,} unseen captions.",
        "values": found,
    } | record.versions()
    record.write(flags.out, report, {"found at the stated place": rows})


if __name__ == "__main__":
    command.run(main, "nothing was written")

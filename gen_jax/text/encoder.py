"""Text encoders: from texts to embeddings. An encoder is arrays and facts, so a run can hold its own copy.

Each kind is a module with `make(given, ...) -> Encoder`, whose keyword arguments are values of the config, and
`encode(encoder, texts) -> f32 [N, D]`. Nothing here is trained with a model: embeddings are data.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gen_jax.data import cache
from gen_jax.data.dataset import Dataset
from gen_jax.method import UserError
from gen_jax.run import replacing, write_json

KINDS = {
    "words": "gen_jax.text.words",
    "char_cnn_rnn": "gen_jax.text.char_cnn_rnn",
    "sentence": "gen_jax.text.sentence",
    "file": "gen_jax.text.by_file",
}
MEAN, DIRECTIONS = "agreement/mean", "agreement/directions"  # arrays [D] and [D, size], if an encoder has them


class Encoder(NamedTuple):
    """A text encoder.

    Attributes:
      kind: a key of KINDS.
      size: of an embedding, D.
      arrays: its weights or tables, by name.
      facts: JSON values.
    """

    kind: str
    size: int
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the embeddings of texts, f32 [N, D].

        Raises:
          UserError: a text that the encoder cannot read; it names the first word or character that is unknown.
        """
        found = importlib.import_module(KINDS[self.kind]).encode(self, list(texts))
        return (found - self.arrays[MEAN]) @ self.arrays[DIRECTIONS] if MEAN in self.arrays else found

    @property
    def digest(self) -> str:
        """Hex digits of its content."""
        told = json.dumps([self.kind, self.size, self.facts], sort_keys=True).encode()
        return hashlib.sha256(told + cache.fingerprint(self.arrays).encode()).hexdigest()[:16]


class Given(NamedTuple):
    """What an encoder may be made from, besides the config's values.

    Attributes:
      data: the data set, with its captions.
      cache_dir: of the config.
      pretrained: the directory of the first stage, or "".
    """

    data: Dataset
    cache_dir: str = ""
    pretrained: str = ""


def save(encoder: Encoder, folder: pathlib.Path) -> None:
    """Writes an encoder into a folder; `load` reads it."""
    with replacing(folder / "encoder.npz") as file:
        np.savez(file, **encoder.arrays)  # pyright: ignore[reportArgumentType]
    write_json(folder / "encoder.json", {"kind": encoder.kind, "size": encoder.size, "facts": encoder.facts})


def load(folder: pathlib.Path) -> Encoder:
    """Returns the encoder that a folder holds.

    Raises:
      UserError: it holds none, or files that cannot be read.
    """
    try:
        about = json.loads((folder / "encoder.json").read_text())
        with np.load(folder / "encoder.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return Encoder(about["kind"], about["size"], arrays, about["facts"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"{folder} holds no text encoder that can be read ({error}): restore it") from error

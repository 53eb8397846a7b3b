"""The texts of a run: its encoder, and prompts with their embeddings, so that it can be sampled without its data.

`load` is `dataset.load` for configs whose model takes texts: it adds the embeddings of the captions to the data set, as
the feature `text`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gen_jax.config import Choice, chosen
from gen_jax.data import cache, dataset
from gen_jax.data.dataset import Dataset
from gen_jax.method import Feature, UserError
from gen_jax.run import Run, replacing, write_json, writing
from gen_jax.text import by_file, char_cnn_rnn, encoder, sentence, words
from gen_jax.text.encoder import Encoder, Given

FEATURE = "text"  # its name in a batch: f32 [B, K, D]
MOST_PROMPTS = 1_000


def none(given: Given) -> None:
    """No encoder: for models that take no texts."""


def first_stage(given: Given) -> Encoder:
    """The encoder of the run that is this one's first stage.

    Raises:
      UserError: there is no such run, or it takes no texts.
    """
    folder = Run(given.pretrained).text
    if not given.pretrained or not (folder / "encoder.json").is_file():
        raise UserError(
            f"config.data.text is first_stage, but config.pretrained is {given.pretrained!r}, which is no run that "
            "takes texts: train the first stage, and give its directory"
        )
    return encoder.load(folder)


TEXT = Choice(
    {
        "none": none,
        "words": words.make,
        "char_cnn_rnn": char_cnn_rnn.make,
        "sentence": sentence.make,
        "file": by_file.make,
        "first_stage": first_stage,
    },
    ("given",),
)
"""`config.data.text`: how captions become embeddings."""


class Texts(NamedTuple):
    """What a run needs in order to be sampled from texts.

    Attributes:
      encoder: of texts.
      prompts: captions of pictures, [M].
      embeddings: theirs, f32 [M, D].
      split: of these pictures: "test", or "train" if none were held out.
    """

    encoder: Encoder
    prompts: tuple[str, ...]
    embeddings: np.ndarray
    split: str = "test"

    def captions(self, num: int) -> tuple[str, ...]:
        """Returns the prompts of `num` samples, in turn."""
        return tuple(itertools.islice(itertools.cycle(self.prompts), num))

    def conditions(self, num: int) -> dict[str, np.ndarray]:
        """Returns the embeddings of `captions`, f32 [num, D], by the name of the feature."""
        return {FEATURE: self.embeddings[np.arange(num) % len(self.embeddings)]}

    def save(self, folder: pathlib.Path) -> None:
        """Writes all into a folder, which `read` reads."""
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        encoder.save(self.encoder, folder)
        write_json(folder / "prompts.json", {"split": self.split, "prompts": list(self.prompts)})
        with replacing(folder / "prompts.npy") as file:
            np.save(file, self.embeddings, allow_pickle=False)


def read(run: Run) -> Texts | None:
    """Returns the texts that a run holds, or None if its model takes none."""
    folder = run.text
    if not (folder / "prompts.npy").is_file():  # which is written last
        return None
    told = json.loads((folder / "prompts.json").read_text())
    embeddings = np.load(folder / "prompts.npy", allow_pickle=False)
    return Texts(encoder.load(folder), tuple(told["prompts"]), embeddings, told["split"])


def load(config: Any, run: Run | None = None) -> tuple[Dataset, Texts | None]:
    """Returns the data set of a config and, if its model takes texts, the texts; the set then has a feature `text`.

    A run that holds an encoder already uses that one.

    Args:
      config: complete.
      run: of the config, or None.

    Raises:
      UserError: as `dataset.load`; or the set has no captions, or the encoder cannot be made, or cannot read them.
    """
    data = dataset.load(config.data)
    if config.data.get("text", {"name": "none"})["name"] == "none":
        return data, None
    known = None if run is None else read(run)
    if known is not None:
        found = known.encoder
    else:
        if not data.captions:
            raise UserError(
                f"config.data.text is {config.data.text.name}, but data set {data.spec.name} has no captions: use "
                "captioned_shapes, or a folder of pictures with captions beside them"
            )
        pretrained = config.get("pretrained", "")
        given = Given(data, config.data.cache_dir, pretrained if isinstance(pretrained, str) else "")
        found = chosen(TEXT, config.data.text, given=given)
    return described(data, found, config.data.cache_dir)


def described(data: Dataset, by: Encoder, cache_dir: str = "") -> tuple[Dataset, Texts]:
    """Returns a set with captions with their embeddings, and its texts."""
    captions = data.captions
    told = cache.fingerprint({name: _as_bytes(each) for name, each in captions.items()})

    def build() -> tuple[cache.Arrays, dict[str, Any]]:
        return {name: _embedded(by, each) for name, each in captions.items()}, {}

    key = {"captions": told, "encoder": by.digest, "version": 1}
    stored = cache.fetch(cache.root(cache_dir) / "data", f"{data.spec.name}-{by.kind}", key, build)
    num_captions = stored.arrays["train"].shape[1]
    feature = Feature((num_captions, by.size), "float32", several=True)
    spec = dataclasses.replace(data.spec, features={**data.spec.features, FEATURE: feature})
    train = {**data.train, FEATURE: stored.arrays["train"]}
    test = None if data.test is None else {**data.test, FEATURE: stored.arrays["test"]}
    split = "train" if test is None else "test"
    rows = dataset.spread(len(captions[split]), MOST_PROMPTS)
    each = np.arange(len(rows)) % num_captions
    prompts = tuple(captions[split][int(row)][int(k)] for row, k in zip(rows, each, strict=True))
    texts = Texts(by, prompts, np.asarray(stored.arrays[split][rows, each]), split)
    return dataclasses.replace(data, spec=spec, train=train, test=test), texts


def _as_bytes(captions: Sequence[Sequence[str]]) -> np.ndarray:
    return np.frombuffer(json.dumps(list(map(list, captions))).encode(), np.uint8)


def _embedded(by: Encoder, captions: Sequence[Sequence[str]]) -> np.ndarray:
    """f32 [N, K, D]; texts that occur several times are encoded once."""
    every = list(itertools.chain(*captions))
    unique = {text: number for number, text in enumerate(dict.fromkeys(every))}
    embeddings = by.encode(list(unique))
    return embeddings[[unique[text] for text in every]].reshape(len(captions), -1, by.size)

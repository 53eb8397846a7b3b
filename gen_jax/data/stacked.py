"""Three random pictures of a labelled set as the channels of one: modes of a generator can be counted on them.

`stacked:mnist` is the Stacked MNIST of Srivastava et al. 2017: each channel is a digit, so there are 10^3 = 1,000
modes, about equally likely, and a classifier of single digits tells which one a sample shows. Any set of one-channel
pictures with classes can be stacked. Nothing is downloaded besides that set.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from gen_jax.data import cache, dataset
from gen_jax.data.dataset import Dataset
from gen_jax.method import DataSpec, UserError

PREFIX = "stacked"
NUM_CHANNELS = 3
NUM_TEST = 26_000  # as many as the literature classifies samples, so that real data can be judged at the same number
_SEED = {"train": 0, "test": 1}


def rows(seed: int, num: int, num_examples: int) -> np.ndarray:
    """Returns which picture each channel shows: i64 [num, 3], below `num_examples`; row i depends on (seed, i) alone.

    Example:
      >>> int(rows(seed=0, num=1_000, num_examples=10).max()), rows(0, 2, 10).tolist() == rows(0, 3, 10)[:2].tolist()
      (9, True)
    """
    raw = np.random.Philox(np.random.SeedSequence([seed])).random_raw(NUM_CHANNELS * num)
    return (raw % num_examples).astype(np.int64).reshape(num, NUM_CHANNELS)


def stack(images: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns pictures [N, H, W, C], whose channels are the pictures of one channel that `chosen` [N, C] names.

    Example:
      >>> stack(np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1), np.array([[4, 0, 2]])).tolist()
      [[[[4, 0, 2]]]]
    """
    stacked = np.empty((len(chosen), *images.shape[1:3], chosen.shape[1]), images.dtype)
    for channel, numbers in enumerate(chosen.T):
        stacked[..., channel] = images[numbers, ..., 0]
    return stacked


def load(name: str, config: Any) -> Dataset:
    """Returns the set `name`, stacked; see `dataset.load`.

    The training split is as large as that of `name`, the test split has 26,000 pictures, and none is in both. There
    are no labels. `Dataset.single` is the set `name`.

    Args:
      name: of a set of one-channel pictures with classes.
      config: all values are those of `name`.

    Raises:
      UserError: `name` is missing, or not such a set.
    """
    if not name:
        raise UserError(f"config.data.name is {PREFIX}:, which names no set: use {PREFIX}:mnist")
    if config.stream:
        raise UserError(f"{PREFIX}:{name} is memory-mapped from the cache: leave out data.stream")
    config = copy.deepcopy(config)
    config.update(name=name, offline_substitute="")
    single = dataset.load(config)
    _check(single.spec)
    train = _split(single, "train", single.spec.num_examples, config)
    test = None if single.test is None else _split(single, "test", NUM_TEST, config).arrays
    spec = DataSpec(
        name=f"{PREFIX}:{single.spec.name}",
        image_shape=(*single.spec.image_shape[:2], NUM_CHANNELS),
        num_examples=single.spec.num_examples,
        fingerprint=train.fingerprint,
    )
    return Dataset(spec, train.arrays, test, single)


def _check(spec: DataSpec) -> None:
    name, channels = f"{PREFIX}:{spec.name}", spec.image_shape[-1]
    if (spec.num_classes or 0) < 2:
        raise UserError(f"{name} needs a set with classes to tell its modes, and {spec.name} has none: use mnist")
    if spec.kind != "image" or spec.value_range != (0, 255):
        raise UserError(f"{name} needs pictures of bytes, and those of {spec.name} are none: use mnist")
    if channels != 1:
        raise UserError(
            f"{name} needs pictures of one channel, and {spec.name} has {channels}: set --config.data.channels=1"
        )


def _split(single: Dataset, split: str, num: int, config: Any) -> cache.Stored:
    images = (single.train if split == "train" else single.test or {})["image"]
    of = single.spec.fingerprint if split == "train" else cache.fingerprint({"image": images})
    key = {"stacked": of, "split": split, "num": num, "channels": NUM_CHANNELS, "seed": _SEED[split]}

    def build() -> tuple[cache.Arrays, dict[str, Any]]:
        return {"image": stack(images, rows(_SEED[split], num, len(images)))}, {}

    return cache.fetch(cache.root(config.cache_dir) / "data", f"{PREFIX}-{single.spec.name}-{split}", key, build)

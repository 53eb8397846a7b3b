"""Data sets, which are arrays on the host with a DataSpec, and the order in which training sees their examples.

`load` finds a set by its name. `Batches` gives the batch of any step as a function of (seed, step) alone, so
resuming, replaying and splitting over processes need no other state. Each kind of set is read by a module of its own
in this folder (such as `tfds`), which returns a `Dataset`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gen_jax.data import crops
from gen_jax.method import DataSpec, Feature, UserError

LOADERS: dict[str, str] = {
    "tfds": "gen_jax.data.tfds",
    "stroke_digits": "gen_jax.data.stroke_digits",
    "image_folder": "gen_jax.data.image_folder",
    "dsprites": "gen_jax.data.dsprites",
    "gaussians": "gen_jax.data.gaussians",
    "shades": "gen_jax.data.shades",
    "stacked": "gen_jax.data.stacked",
    "captioned_shapes": "gen_jax.data.captioned_shapes",
}
"""Maps the prefix of a name ("tfds:mnist", "stroke_digits") to the module whose `load(rest, config)` reads it,
imported on demand; `rest` is the part after the colon. A name without one of these prefixes is a name of TFDS."""

REDUCTIONS = (2, 4)
"""Factors by which smaller copies of pictures can be smaller."""


class UnavailableError(UserError):
    """The set is not prepared, and there is no network to download it: a substitute may be used."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set: each split is a dict of arrays, memory-mapped from the cache, or read when they are indexed.

    Attributes:
      spec: what methods and reports need to know, with the fingerprint of the training split.
      train: `image` [N, H, W, C] of the spec's dtype (mostly uint8), with values in `spec.value_range`; `label` i32 [N]
        if the set has labels; `factors` i32 [N, F] if its factors of variation are known; `small` uint8 [N, h, w, C],
        smaller copies of the images, if the config asks for them.
      test: the same for the test split, or None.
      single: the set whose pictures are the channels of this one's, if it is stacked.
      captions: of each split, "train" and "test", the captions of each picture: K for every one; {} without captions.
      files: of each split, the path of each picture within its folder; {} for sets that are no folder.
    """

    spec: DataSpec
    train: dict[str, Any]
    test: dict[str, Any] | None
    single: Dataset | None = None
    captions: Mapping[str, Sequence[Sequence[str]]] = dataclasses.field(default_factory=dict)
    files: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    @property
    def streamed(self) -> bool:
        """Whether training images are made when they are read, by `streaming.Images` or `crops.Crops`, and so worth
        reading ahead."""
        return not isinstance(self.train["image"], np.ndarray)


def load(config: Any) -> Dataset:
    """Returns the data set that `config` names.

    A set of TFDS that is not prepared yet is downloaded and prepared. Without a network, the set that
    `offline_substitute` names is read instead, with a warning on stderr; `spec.name` always names the data read.

    Args:
      config: as `data` of `config.base_config()`: `name` ("mnist", "tfds:mnist", with version "mnist:3.0.1",
        "stroke_digits", "dsprites", "shades", "captioned_shapes", "gaussians:grid25", "stacked:mnist",
        "image_folder:<dir>"); `data_dir` ("" for TFDS's own folder); `cache_dir` ("" for the user's); `train_split`;
        `test_split` ("" for none); `image_size`, `channels`, `background`; `crop` and `reduce` (0 for none);
        `offline_substitute` ("" for none). Splits may be slices ("train[:10%]").

    Raises:
      UserError: there is no such set, or it does not hold images of one size; one line that says what to do.

    Example:
      >>> from gen_jax.config import base_config
      >>> config = base_config().data
      >>> config.update(name="mnits", data_dir="/nowhere")
      >>> load(config)
      Traceback (most recent call last):
      gen_jax.method.UserError: there is no set 'mnits', neither prepared in /nowhere nor known to TFDS: did you mean
      mnist? ...
    """
    _check_sides(config)
    try:
        return _load(config.name, config)
    except UnavailableError as error:
        if not config.offline_substitute:
            raise
        _warn_of_substitute(config.name, config.offline_substitute, str(error))
        return _load(config.offline_substitute, config)


def _load(name: str, config: Any) -> Dataset:
    prefix, _, rest = name.partition(":")
    if prefix not in LOADERS:
        prefix, rest = "tfds", name
    if config.crop and prefix != "image_folder":
        raise UserError(f"config.data.crop is {config.crop}, but {name} is not a folder of pictures: leave it out")
    data = _counted(importlib.import_module(LOADERS[prefix]).load(rest, config))
    return _with_smaller(data, config.reduce) if config.reduce else data


def _check_sides(config: Any) -> None:
    """Refuses crops and reductions that nothing can have."""
    crop, factor = config.crop, config.reduce
    if crop and config.image_size:
        raise UserError(
            f"config.data.crop is {crop} and config.data.image_size {config.image_size}: random crops of pictures as "
            "they are, or whole pictures of one size; leave out one of them"
        )
    if factor not in (0, *REDUCTIONS):
        raise UserError(
            f"config.data.reduce is {factor}; it must be {' or '.join(map(str, REDUCTIONS))}, or 0 for none"
        )
    if factor and crop % factor:
        near = max(1, round(crop / factor)) * factor
        raise UserError(f"config.data.crop is {crop}, which config.data.reduce={factor} does not divide; use {near}")


def _with_smaller(data: Dataset, factor: int) -> Dataset:
    """The set with smaller copies of its images as the feature `small`."""
    if data.spec.kind != "image" or data.spec.value_range != (0, 255) or data.single is not None:
        raise UserError(f"config.data.reduce is {factor}, but {data.spec.name} has no grey or colour pictures: use 0")
    spec = with_smaller(data.spec, factor)
    train, test = (
        split and split | {"small": crops.Reduced(split["image"], factor)} for split in (data.train, data.test)
    )
    return dataclasses.replace(data, spec=spec, train=train, test=test)


def with_smaller(spec: DataSpec, factor: int) -> DataSpec:
    """Returns the spec of a set whose images also come as smaller copies.

    Args:
      spec: of the set.
      factor: by which height and width are smaller.

    Raises:
      UserError: it does not divide them.

    Example:
      >>> with_smaller(DataSpec("x", (8, 12, 3), 9), 4).features["small"].shape
      (2, 3, 3)
    """
    height, width, channels = spec.image_shape
    if height % factor or width % factor:
        raise UserError(
            f"config.data.reduce is {factor}, which does not divide the {height}x{width} pixels of {spec.name}: set "
            "--config.data.image_size, or --config.data.crop for a folder of pictures"
        )
    small = Feature((height // factor, width // factor, channels), "uint8")
    return dataclasses.replace(spec, features=spec.features | {"small": small})


def _counted(data: Dataset) -> Dataset:
    """The set with the number of training examples of each class in its spec."""
    label = data.spec.features.get("label")
    if label is None:
        return data
    counts = np.bincount(data.train["label"], minlength=len(label.names))
    features = data.spec.features | {"label": label._replace(counts=tuple(counts.tolist()))}
    return dataclasses.replace(data, spec=dataclasses.replace(data.spec, features=features))


def _warn_of_substitute(name: str, substitute: str, reason: str) -> None:
    lines = [
        f"gen_jax: THIS IS NOT {name}: the data is {substitute} instead.",
        *textwrap.wrap(reason, 100, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False),
        f"  Every file of the run names {substitute}.",
        '  --config.data.offline_substitute="" makes this an error.',
    ]
    frame = "=" * max(map(len, lines))
    print(frame, *lines, frame, sep="\n", file=sys.stderr, flush=True)


def refuse_other(stored: DataSpec, at_hand: DataSpec, workdir: Any) -> None:
    """Raises a UserError if the data at hand is not the data that the run in `workdir` was trained on."""
    if stored.fingerprint != at_hand.fingerprint:
        raise UserError(
            f"{workdir} was trained on {stored.name} (fingerprint {stored.fingerprint[:12]}), but the data at hand is "
            f"{at_hand.name} ({at_hand.fingerprint[:12]}); bring that data back, or use another --workdir"
        )


class Batches:
    """Batches in an order that is a function of (seed, step) alone.

    Each epoch reads the training set in a new order; a batch may span two epochs, and no example is dropped.
    Sample number g of a run is example `permutation(seed, g // N)[g % N]`.

    Example:
      >>> arrays = {"image": np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)}
      >>> batches = Batches(arrays, batch_size=4, seed=0)
      >>> three_steps = np.concatenate([batches.batch(step)["image"].ravel() for step in range(3)])
      >>> np.bincount(three_steps).tolist()
      [2, 2, 2, 2, 2, 2]
    """

    def __init__(
        self,
        arrays: Mapping[str, Any],
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        batches_per_step: int = 1,
    ):
        """Takes the arrays of one split, [N, ...] each; reads nothing from them before the first batch.

        Args:
          arrays: `image`, and `label` if there are any.
          batch_size: of the global batch, over all processes.
          seed: of the order, at least 0.
          process_index: of this process, which gets its contiguous slice of every global batch.
          process_count: of the run.
          batches_per_step: k > 1 stacks k global batches in front: [k, B, ...].
        """
        if batch_size < 1 or batch_size % process_count:
            raise UserError(
                f"batch_size {batch_size} does not divide over {process_count} processes: "
                f"set --config.batch_size to a multiple of {process_count}"
            )
        num_examples = {len(array) for array in arrays.values()}
        if len(num_examples) != 1 or 0 in num_examples:
            raise ValueError(f"arrays must be of one length, at least 1: {sorted(num_examples)}")
        (self.num_examples,) = num_examples
        self._arrays = dict(arrays)
        self._samples_per_step = batch_size * batches_per_step
        share = batch_size // process_count
        index = np.arange(process_index * share, (process_index + 1) * share, dtype=np.int32)
        offset = np.arange(batches_per_step)[:, None] * batch_size + index  # [k, B]
        self._index = np.broadcast_to(index, offset.shape) if batches_per_step > 1 else index
        self._offset = offset.reshape(self._index.shape)
        self._seed = seed

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Returns this process's share of the batch of `step`: the arrays' dtypes, [B, ...] or [k, B, ...].

        `index` i32 is each example's position in its global batch.
        """
        epoch, position = np.divmod(step * self._samples_per_step + self._offset, self.num_examples)
        rows = np.empty_like(position)
        for each in np.unique(epoch):
            here = epoch == each
            rows[here] = _recent_permutation(self._seed, int(each), self.num_examples)[position[here]]
        samples = step * self._samples_per_step + self._offset
        drawn = {name: crops.take(array, rows, self._seed, samples) for name, array in self._arrays.items()}
        return drawn | {"index": self._index.copy()}


def permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """Returns the order of the examples in one epoch: i64 [num_examples], from (seed, epoch) alone.

    Example:
      >>> sorted(permutation(seed=0, epoch=3, num_examples=4).tolist())
      [0, 1, 2, 3]
    """
    # Ranks of Philox's raw output: numpy guarantees that stream forever, but not that of Generator.permutation.
    return np.argsort(np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(num_examples), kind="stable")


def spread(num_examples: int, num: int) -> np.ndarray:
    """Returns the indices of at most `num` examples spread evenly over a set: i64, ascending, all if there are fewer.

    The gaps vary: a fixed gap could line up with the factors of a set that is a grid.

    Example:
      >>> spread(num_examples=100, num=5).tolist(), spread(num_examples=3, num=5).tolist()
      ([0, 26, 52, 63, 89], [0, 1, 2])
    """
    # Multiples of the golden ratio leave no large gap, however many there are (Weyl's sequence, in whole numbers).
    stride = round(num_examples * (math.sqrt(5) - 1) / 2)
    while math.gcd(stride, num_examples) > 1:
        stride += 1
    return np.sort(np.arange(min(num, num_examples)) * stride % num_examples)


# Two: a batch may span two permutations. Here, not in `Batches`, which is sent to worker processes.
_recent_permutation = functools.lru_cache(maxsize=2)(permutation)

"""Image sets that TFDS has prepared as array_record, read without TensorFlow.

A set is found by the files in its folder, not by TFDS's code for it, so any set can be read by name, whoever built it;
a set of TFDS that is missing is prepared first. Images are decoded once, then memory-mapped from the cache.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds
import tqdm

from gen_jax.data import cache, dsprites, images, streaming
from gen_jax.data.dataset import Dataset
from gen_jax.method import DataSpec, UserError, labelled, with_factors

Builder: TypeAlias = Any  # tfds.core.DatasetBuilder, whose own annotations do not fit what it returns

# What the features of these sets do not record.
FACTORS = {"dsprites": dsprites.FACTORS}
"""Maps a set to its factors of variation, each of which is a feature `label_<factor>`."""
BINARY = ("dsprites", "binarized_mnist")
"""Sets whose pixels are 0 or 1."""

_CHUNK = 512  # examples that one thread decodes at a time
_MAKE_EQUAL = "set --config.data.image_size, and --config.data.channels if some are grey"


def load(name: str, config: Any) -> Dataset:
    """Returns the set `name` ("mnist", "mnist:3.0.1", "set/config"); `config` as in `dataset.load`."""
    images.check(config)
    builder: Builder = tfds.builder_from_directory(_place(name, config))
    if builder.info.file_format.value != "array_record":
        raise UserError(
            f"{name!r} is prepared as {builder.info.file_format.value}, which cannot be read without TensorFlow: "
            'prepare it again with file_format="array_record"'
        )
    require_image(builder)
    label = dict(builder.info.features.items()).get("label")
    class_names = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else None

    if builder.name in BINARY and config.image_size not in (0, *builder.info.features["image"].shape[:1]):
        raise UserError(f"the pixels of {name!r} are 0 or 1, so they cannot be resized: leave out data.image_size")
    train = _split(builder, config.train_split, class_names, config, config.stream)
    # "test" is the config's default: a set that has only "train" may lack it.
    has_one = config.test_split and (config.test_split, [*builder.info.splits]) != ("test", ["train"])
    test = _split(builder, config.test_split, class_names, config) if has_one else None
    height, width, channels = train.arrays["image"].shape[1:]
    if test is not None and test.arrays["image"].shape[1:] != (height, width, channels):
        raise UserError(f"the splits of {name!r} hold images of different sizes: {_MAKE_EQUAL}")
    features = {} if class_names is None else labelled(class_names)
    if sizes := _factor_sizes(builder):
        features |= with_factors(sizes)
    spec = DataSpec(
        name=name.partition(":")[0],
        image_shape=(height, width, channels),
        num_examples=len(train.arrays["image"]),
        features=features,
        fingerprint=train.fingerprint,
        value_range=(0, 1) if builder.name in BINARY else (0, 255),
    )
    return Dataset(spec, train.arrays, None if test is None else test.arrays)


def require_image(builder: Builder) -> None:
    """Raises a UserError if a set of TFDS has no feature `image` of uint8."""
    features = dict(builder.info.features.items())
    image = features.get("image")
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8:
        raise UserError(f"{builder.name!r} has no feature 'image' of uint8 (it has {', '.join(sorted(features))})")


def _place(name: str, config: Any) -> pathlib.Path:
    """Returns the directory of the prepared set; prepares it if necessary."""
    folder = data_dir(config.data_dir)
    if name.partition(":")[0] in prepared(folder):
        return find(name, folder)
    from gen_jax.data import prepare  # it uses this module

    return prepare.prepare(name, config)


def data_dir(configured: str = "") -> pathlib.Path:
    """Returns the folder of prepared sets: `configured`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Example:
      >>> data_dir("/data/tfds").name
      'tfds'
    """
    return pathlib.Path(configured or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepared(folder: pathlib.Path) -> dict[str, list[str]]:
    """Returns the sets prepared in `folder`: from name ("mnist", "set/config") to versions, oldest first.

    Example:
      >>> prepared(pathlib.Path("/nowhere"))
      {}
    """
    found: dict[str, list[str]] = {}
    for depth in ("*/*", "*/*/*"):
        for info in folder.glob(f"{depth}/dataset_info.json"):
            if not info.parent.name.startswith("incomplete."):  # of a killed TFDS
                found.setdefault(info.parent.parent.relative_to(folder).as_posix(), []).append(info.parent.name)
    return {name: sorted(versions, key=_version_key) for name, versions in sorted(found.items())}


def find(name: str, folder: pathlib.Path) -> pathlib.Path:
    """Returns the directory of a prepared set in its newest version, or in the one named ("mnist:3.0.1").

    Raises:
      UserError: it does not exist; one line that says what to do.
    """
    bare, _, version = name.partition(":")
    sets = prepared(folder)
    if bare not in sets:
        raise UserError(
            f"nothing is prepared for {bare!r} in {folder}: run `python -m gen_jax.data {bare}`, or set TFDS_DATA_DIR "
            "or --config.data.data_dir to a folder that holds it"
        )
    if version and version not in sets[bare]:
        raise UserError(f"{bare!r} is prepared in {folder} as version {', '.join(sets[bare])}, not {version}")
    return folder / bare / (version or sets[bare][-1])


def _version_key(version: str) -> tuple[tuple[bool, int, str], ...]:
    """Orders "3.10.0" after "3.9.0"; parts that are not numbers come first."""
    return tuple((part.isdigit(), int(part) if part.isdigit() else 0, part) for part in version.split("."))


def _split(
    builder: Builder, split: str, class_names: tuple[str, ...] | None, config: Any, streamed: bool = False
) -> cache.Stored:
    try:
        info = builder.info.splits[split]
    except (KeyError, ValueError):
        raise UserError(
            f"{builder.name!r} has no split {split!r} (it has {', '.join(sorted(builder.info.splits))}): "
            "set --config.data.train_split or --config.data.test_split"
        ) from None
    if not info.num_examples:
        raise UserError(f"the split {split!r} of {builder.name!r} is empty")
    size, background = config.image_size, config.background
    stored = builder.info.features["image"].shape[-1]
    channels = config.channels or (stored if stored in (1, 3) else 0)
    key = {
        "name": builder.info.full_name,
        "split": split,
        "shards": _stamps(info.filepaths) if streamed else _digest(info.filepaths),
        "labels": class_names,
        "fit": [size, channels, background],
    }

    fit = functools.partial(images.fit, size=size, channels=channels, background=background)
    folder, title = cache.root(config.cache_dir) / "data", f"{builder.name}-{split}"
    if streamed:
        num_classes = None if class_names is None else len(class_names)
        stored = streaming.fetch(folder, title, key, _source(builder, split, fit), num_classes, config.workers)
    else:

        def build() -> tuple[cache.Arrays, dict[str, Any]]:
            with images.unlimited():
                return _decode(builder, split, class_names, fit), {}

        stored = cache.fetch(folder, title, key, build)
    if builder.name not in FACTORS:
        return stored
    key = {"name": builder.info.full_name, "split": split, "data": stored.fingerprint}
    factors = cache.fetch(folder, f"{title}-factors", key, lambda: ({"factors": _factors(builder, split)}, {}))
    both = hashlib.sha256((stored.fingerprint + factors.fingerprint).encode()).hexdigest()
    return cache.Stored({**stored.arrays, **factors.arrays}, both, stored.facts)


def _factor_sizes(builder: Builder) -> tuple[int, ...] | None:
    if builder.name not in FACTORS:
        return None
    return tuple(builder.info.features[f"label_{factor}"].num_classes for factor in FACTORS[builder.name])


def _factors(builder: Builder, split: str) -> np.ndarray:
    """Returns i32 [N, F]."""
    source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    factors = np.empty((len(source), len(FACTORS[builder.name])), np.int32)
    for start in range(0, len(source), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(source)))
        examples = source.__getitems__(list(rows))
        factors[rows] = [[each[f"label_{factor}"] for factor in FACTORS[builder.name]] for each in examples]
    return factors


def _digest(paths: Sequence[pathlib.Path]) -> str:
    """Returns the SHA-256 of the shards' bytes, so that a set prepared anew is decoded anew."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _stamps(paths: Sequence[pathlib.Path]) -> list[tuple[str, int, int]]:
    """Returns names, sizes and modification times: a fast `_digest`, for a set that takes minutes to read."""
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in map(pathlib.Path, paths)]


def _source(builder: Builder, split: str, fit: Callable[[PIL.Image.Image], np.ndarray]) -> streaming.Fitted:
    # Images stay encoded, too: TFDS would decode palettes and CMYK as if they were RGB.
    unread = {name: tfds.decode.SkipDecoding() for name in builder.info.features if name != "label"}
    return streaming.Fitted(builder.as_data_source(split=split, decoders=unread), fit)


def _decode(
    builder: Builder, split: str, class_names: tuple[str, ...] | None, fit: Callable[[PIL.Image.Image], np.ndarray]
) -> cache.Arrays:
    """Returns the split's `image` uint8 [N, H, W, C] and, if there are classes, `label` i32 [N]."""
    source = _source(builder, split, fit)
    num_examples = len(source)
    image = np.empty((num_examples, *source.__getitems__([0])[0]["image"].shape), np.uint8)
    label = np.empty(num_examples, np.int32)

    def decode(start: int) -> int:
        rows = range(start, min(start + _CHUNK, num_examples))
        for row, example in zip(rows, source.__getitems__(list(rows)), strict=True):
            if example["image"].shape != image.shape[1:]:
                raise UserError(
                    f"{builder.name!r} holds images of different sizes ({example['image'].shape} beside "
                    f"{image.shape[1:]}): {_MAKE_EQUAL}"
                )
            image[row] = example["image"]
            if class_names is not None:
                label[row] = example["label"]
        return len(rows)

    # Decoding releases the GIL, but for small pictures so briefly that threads only wait for it: one thread decodes
    # MNIST in half the time that six need.
    threads = 1 if image[0].size < 64 * 64 else os.cpu_count()
    with (
        concurrent.futures.ThreadPoolExecutor(threads) as pool,
        tqdm.tqdm(total=num_examples, desc=f"decoding {builder.name} {split}", unit="images", disable=None) as progress,
    ):
        for count in pool.map(decode, range(0, num_examples, _CHUNK)):
            progress.update(count)
    if class_names is None:
        return {"image": image}
    if not 0 <= label.min() <= label.max() < len(class_names):
        raise UserError(f"the split {split!r} of {builder.name!r} has examples without a class: choose another split")
    return {"image": image, "label": label}

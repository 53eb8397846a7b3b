"""A folder of a user's own pictures as a data set: JPEG, PNG, GIF, WebP and BMP, whatever their names.

- Classes: where there are sub-folders, each is a class, with all that lies below it; else there are no labels.
- Splits: a folder that holds `train` and one of `test`, `val`, `valid`, `validation` is split by these, with the
  classes inside them; what lies beside them is left out. Else every tenth picture is held out as `test`, at most
  10,000: those whose paths have the smallest SHA-256, which is the same choice on every machine. With `test_split=""`
  none is held out.
- Order: by path, as bytes.
- Left out: what has another suffix, hidden files and folders, and links that lead back to a folder above them. A link
  to nowhere counts as a damaged file.

`images` says how a picture becomes an array. All are decoded once, then memory-mapped from the cache, where they are
found again as long as the folder and the files in it are the same, by paths, sizes, times of change and inodes. The
fingerprint is that of the pixels: it stays as it is when a folder is moved, though its pictures are decoded again.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import difflib
import functools
import hashlib
import json
import logging
import os
import pathlib
import stat
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import tqdm

from gen_jax.data import cache, images
from gen_jax.data.dataset import Dataset
from gen_jax.method import DataSpec, UserError, labelled

_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp")
_TEST_FOLDERS = ("test", "val", "valid", "validation")  # the first that is there
_MAX_HELD_OUT = 10_000
_CHUNK = 16  # pictures that one thread decodes at a time
_VERSION = 1  # part of every key: raise it when the same files give other pixels, labels, splits or facts

_logger = logging.getLogger(__name__)


class _File(NamedTuple):
    path: str  # below the folder, with "/"; bytes that are not UTF-8 as surrogates
    size: int
    mtime_ns: int
    ctime_ns: int  # no program can set it
    inode: int


def load(directory: str, config: Any) -> Dataset:
    """Returns the pictures below `directory`, named "image_folder:<its last name>".

    Args:
      directory: of the pictures; "~" is the user's.
      config: `image_size`, `channels`, `background` as in `images.fit`, but with `channels` 0 grey pictures among
        colour become colour; `on_error`: at a damaged file "stop", or "skip" it with a warning; `train_split`,
        `test_split` ("" for none); `cache_dir`.

    Raises:
      UserError: no such folder, no pictures in it, pictures of several sizes, a damaged file; one line that says
        what to do.

    Example:
      >>> import types
      >>> values = {"image_size": 2, "channels": 0, "background": 255, "on_error": "stop"}
      >>> values |= {"train_split": "train", "test_split": "test", "stream": False}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...   for number in range(20):
      ...     PIL.Image.new("L", (4, 3), 10 * number).save(f"{folder}/{number:02}.png")
      ...   data = load(folder, types.SimpleNamespace(**values, cache_dir=f"{folder}/cache"))
      >>> data.train["image"].shape, len(data.test["image"]), int(data.train["image"].max())
      ((18, 2, 2, 1), 2, 190)
    """
    images.check(config)
    if config.stream:
        raise UserError("image_folder is memory-mapped from the cache, however large it is: leave out data.stream")
    folder = _existing(directory)
    name = f"image_folder:{_text(folder.name)}"
    files, num_train, depth = _split(folder, _files(folder), config)
    class_names, labels = _classes(folder, files, depth)
    key = {
        "version": _VERSION,
        "folder": os.path.realpath(folder),
        "files": hashlib.sha256(json.dumps([num_train, *files]).encode()).hexdigest(),
        "classes": class_names,
        **{each: getattr(config, each) for each in ("image_size", "channels", "background", "on_error")},
    }
    scratch = cache.root(config.cache_dir) / "data"
    build = functools.partial(_build, folder, files, num_train, labels, config, scratch)
    stored = cache.fetch(scratch, name, key, build)

    damaged = stored.facts["damaged"]
    if damaged:
        shown = ", ".join(map(repr, damaged[:3])) + (", ..." if len(damaged) > 3 else "")
        _logger.warning("%s: skipped %d damaged files of %d: %s", name, len(damaged), len(files), shown)
    num_train = stored.facts["num_train"]
    num_sound, height, width, channels = stored.arrays["image"].shape
    spec = DataSpec(
        name=name,
        image_shape=(height, width, channels),
        num_examples=num_train,
        features={} if class_names is None else labelled(class_names),
        fingerprint=stored.facts["fingerprint"],
    )
    train = {each: array[:num_train] for each, array in stored.arrays.items()}
    test = {each: array[num_train:] for each, array in stored.arrays.items()}
    return Dataset(spec, train, test if num_sound > num_train else None)


def _existing(directory: str) -> pathlib.Path:
    folder = pathlib.Path(os.path.abspath(os.path.expanduser(directory)))
    if not directory:
        raise UserError("image_folder: names no folder: use --config.data.name=image_folder:/path/to/pictures")
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(f"{folder} is a file: image_folder takes the folder around it")
    parent = next(parent for parent in folder.parents if parent.is_dir())
    missing = folder.relative_to(parent).parts[0]
    beside = [name for name in os.listdir(parent) if (parent / name).is_dir()]
    nearest = difflib.get_close_matches(missing, beside, 1)
    hint = f"did you mean {parent / nearest[0]}?" if nearest else f"the nearest that exists is {parent}"
    raise UserError(f"no folder {folder}: {hint}")


def _files(folder: pathlib.Path) -> list[_File]:
    """Returns the files that have a picture's suffix, sorted by path."""

    def walk(place: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[_File]:
        status = os.stat(place)
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link that leads back
            return
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    status = entry.stat()
                except OSError:
                    status = entry.stat(follow_symlinks=False)  # a link to nowhere: found damaged when it is read
                path, mode = f"{prefix}{entry.name}", status.st_mode
                if stat.S_ISDIR(mode):
                    yield from walk(entry.path, f"{path}/", above | {here})
                elif path.lower().endswith(_SUFFIXES) and (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                    yield _File(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    try:
        found = list(walk(str(folder), "", frozenset()))
    except OSError as error:
        raise UserError(f"cannot read the folder {error.filename}: {error.strerror}") from None
    if not found:
        raise UserError(f"no pictures in {folder}: image_folder reads files that end in {', '.join(_SUFFIXES)}")
    return sorted(found, key=lambda file: os.fsencode(file.path))


def _split(folder: pathlib.Path, files: list[_File], config: Any) -> tuple[list[_File], int, int]:
    """Returns (files, num_train, depth): training files before test files, and the folders in a path above classes."""
    groups: dict[str, list[_File]] = collections.defaultdict(list)
    for file in files:
        top, slash, _ = file.path.partition("/")
        if slash:
            groups[top].append(file)
    test_folder = next((name for name in _TEST_FOLDERS if name in groups), "")
    depth = int("train" in groups and bool(test_folder))
    if depth:
        groups.setdefault("test", groups[test_folder])
    else:
        held_out = _held_out(files) if config.test_split else set()
        groups = {"train": [f for f in files if f not in held_out], "test": [f for f in files if f in held_out]}
    wanted = [config.train_split, *filter(None, [config.test_split])]
    for name in wanted:
        if name not in groups:
            raise UserError(
                f"{folder} has no split {name!r} (it has {', '.join(sorted(groups))}): "
                "set --config.data.train_split, --config.data.test_split"
            )
    split = [groups[name] for name in wanted]
    return [file for group in split for file in group], len(split[0]), depth


def _held_out(files: Sequence[_File]) -> set[_File]:
    """Returns the test split of files that are not split: a tenth of them, the same on every machine."""
    by_hash = sorted(files, key=lambda file: hashlib.sha256(os.fsencode(file.path)).digest())
    return set(by_hash[: min(len(files) // 10, _MAX_HELD_OUT)])


def _classes(
    folder: pathlib.Path, files: Sequence[_File], depth: int
) -> tuple[tuple[str, ...] | None, np.ndarray | None]:
    """Returns the names of the classes and each file's label i32 [N], or None twice where there are no sub-folders."""
    owners = [file.path.split("/")[depth:-1][:1] for file in files]  # [class] or []
    names = sorted({owner[0] for owner in owners if owner}, key=os.fsencode)
    if not names:
        return None, None
    if [] in owners:
        raise UserError(
            f"{folder} holds pictures beside its sub-folders ({files[owners.index([])].path!r} beside {names[0]!r}): "
            "sub-folders are classes, so move these pictures into one"
        )
    number = {name: label for label, name in enumerate(names)}
    return tuple(map(_text, names)), np.array([number[owner[0]] for owner in owners], np.int32)


def _text(name: str) -> str:
    """Returns a file's name as text that every page can show: bytes that are not UTF-8 as \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _build(
    folder: pathlib.Path,
    files: Sequence[_File],
    num_train: int,
    labels: np.ndarray | None,
    config: Any,
    scratch: pathlib.Path,
) -> tuple[cache.Arrays, dict[str, Any]]:
    """Returns `image` uint8 [N, H, W, C] and, where there are classes, `label` i32 [N]; and what `load` asks for."""
    image, damaged = _decode(folder, files, config, config.channels, scratch)
    sound = np.ones(len(files), bool)
    sound[damaged] = False
    num_sound = int(sound[:num_train].sum())
    if not num_sound:
        raise UserError(f"all {num_train} training pictures in {folder} are damaged")
    arrays = {"image": image} if labels is None else {"image": image, "label": labels[sound]}
    return arrays, {
        "num_train": num_sound,
        "fingerprint": cache.fingerprint({name: array[:num_sound] for name, array in arrays.items()}),
        "damaged": [files[row].path for row in damaged],
    }


def _decode(
    folder: pathlib.Path, files: Sequence[_File], config: Any, channels: int, scratch: pathlib.Path
) -> tuple[np.ndarray, list[int]]:
    """Returns the sound pictures, uint8 [N, H, W, C], and the rows of the damaged ones.

    The array is mapped from a file in `scratch` that has no name, so that memory holds but a few pictures at a time.
    """
    read = functools.partial(_read, size=config.image_size, channels=channels, background=config.background)
    first, shape, damaged = "", (0, 0, 0), []
    with tempfile.TemporaryFile(dir=scratch) as store, contextlib.closing(_in_order(read, folder, files)) as pictures:
        for row, image in enumerate(pictures):
            path = files[row].path
            if isinstance(image, str):
                if config.on_error == "stop":
                    raise UserError(
                        f"{path!r} in {folder} is damaged ({image}): remove it, or set --config.data.on_error=skip"
                    )
                damaged.append(row)
                continue
            if not first:
                first, shape = path, image.shape
            if image.shape[:2] != shape[:2]:
                raise UserError(
                    f"{path!r} in {folder} has {image.shape[1]}x{image.shape[0]} pixels, {first!r} has "
                    f"{shape[1]}x{shape[0]}: set --config.data.image_size to the height and width that all shall have"
                )
            if image.shape[2] > shape[2]:  # colour behind grey: all become colour
                pictures.close()  # ends its progress bar
                return _decode(folder, files, config, 3, scratch)
            store.write(np.broadcast_to(image, shape).tobytes())
        store.flush()
        shape = (len(files) - len(damaged), *shape)
        return (np.memmap(store, np.uint8, "r", shape=shape) if first else np.empty(shape, np.uint8)), damaged


def _in_order(
    read: Callable[[str], np.ndarray | str], folder: pathlib.Path, files: Sequence[_File]
) -> Generator[np.ndarray | str, None, None]:
    """Yields `read` of each file, in order; a bounded number of files is read ahead, in parallel."""
    workers = os.cpu_count() or 1
    ahead = 2 * workers
    starts = range(0, len(files), _CHUNK)
    pending: collections.deque[concurrent.futures.Future[list[np.ndarray | str]]] = collections.deque()

    def read_chunk(start: int) -> list[np.ndarray | str]:
        return [read(f"{folder}/{file.path}") for file in files[start : start + _CHUNK]]

    with (
        # Threads: PIL lets go of Python's lock while it decodes, and processes would take longer to start than to read.
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
        tqdm.tqdm(total=len(files), desc=f"decoding {folder.name}", unit="images", disable=None) as progress,
    ):
        for step in range(len(starts) + ahead):
            if step < len(starts):
                pending.append(pool.submit(read_chunk, starts[step]))
            if step >= ahead:
                chunk = pending.popleft().result()
                yield from chunk
                progress.update(len(chunk))


def _read(path: str, size: int, channels: int, background: int) -> np.ndarray | str:
    """Returns the picture as `images.fit` makes it, or what is wrong with the file."""
    try:
        with open(path, "rb") as file, images.opened(file, _FORMATS) as image:
            return images.fit(image, size, channels, background)
    except PIL.UnidentifiedImageError:
        return f"not a {', '.join(_FORMATS)} file"
    except Exception as error:  # what PIL raises on damaged files has no common base
        return " ".join(str(error).split()) or type(error).__name__

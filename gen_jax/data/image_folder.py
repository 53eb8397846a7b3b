"""A folder of a user's own pictures as a data set: JPEG, PNG, GIF, WebP, BMP and TIFF, with any file names.

- Classes: each sub-folder is a class, with everything below it; without sub-folders there are no labels. Classes are
  ordered by name as bytes, or as numbers if all names are whole numbers.
- Splits: a folder that contains `train` (or `training`) and one of `test`, `testing`, `val`, `valid`, `validation`, in
  upper or lower case, is split by these, with the classes inside them; anything next to them is ignored. Otherwise
  every tenth picture is held out as `test`, at most 10,000: those whose paths have the smallest SHA-256, which is the
  same choice on every machine; but every class keeps a picture for training. With `test_split=""` none is held out. A
  `train` on its own is not a class: its pictures are read as if it were the named folder.
- Order: by path, as bytes.
- Ignored: files with another suffix (which are counted), hidden files and folders, `lost+found`, and links that lead
  back to a folder above them. A broken link counts as a damaged file.
- Captions are read, by `caption_files`, where the config asks for an encoder of texts.

`images` defines how a picture becomes an array. With `crop`, pictures may have any sizes that hold a crop, and rows are
`crops.Crops`. Pictures are decoded once, then memory-mapped from the cache, which is valid as long as the folder and
its files are unchanged (paths, sizes, timestamps and inodes). The fingerprint is of the pixels: it stays the same when
a folder is moved, though its pictures are decoded again.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import difflib
import functools
import hashlib
import itertools
import json
import logging
import os
import pathlib
import re
import stat
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import PIL.Image
import tqdm

from gen_jax.data import cache, caption_files, crops, images
from gen_jax.data.dataset import Dataset
from gen_jax.method import DataSpec, UserError, labelled

_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")
_COMPANIONS = ("thumbs", "desktop", "readme", "license")  # .db, .ini, .md: files that nobody mistakes for pictures
_TRAIN_FOLDERS = ("train", "training")  # the first that exists
_TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
_MAX_HELD_OUT = 10_000
_CHUNK = 16  # pictures that one thread decodes at a time
_LARGE = 2**25  # pixels: larger pictures are decoded one at a time, because each may take hundreds of megabytes
_VERSION = 1  # part of every key: raise it when the same files give different pixels, labels, splits or facts

T = TypeVar("T")

_logger = logging.getLogger(__name__)
_one_large = threading.Lock()


class _File(NamedTuple):
    path: str  # relative to the folder, with "/"; bytes that are not UTF-8 as surrogates
    size: int
    mtime_ns: int
    ctime_ns: int  # no program can set it
    inode: int


class _Listing(NamedTuple):
    """The content of a folder, at any depth."""

    files: list[_File]  # with a picture's suffix, ordered by path
    others: list[str]  # paths of other files
    unreadable: list[tuple[str, str]]  # paths of folders, and why

    def below(self, top: str) -> _Listing:
        """Returns the content of one of its folders."""
        start = f"{top}/"
        return _Listing(
            [file._replace(path=file.path.removeprefix(start)) for file in self.files],
            [path.removeprefix(start) for path in self.others if path.startswith(start)],
            [(f"{path}/".removeprefix(start).rstrip("/"), why) for path, why in self.unreadable],
        )


class _Split(NamedTuple):
    files: list[_File]  # those of training first
    num_train: int
    folders: tuple[str, ...]  # that are splits, so classes are one level further down; or ()


class _Fault(NamedTuple):
    """Why a picture cannot be used."""

    kind: str  # "damaged", "oversized" or "small"
    what: str
    remedy: str


def load(directory: str, config: Any) -> Dataset:
    """Returns the pictures below `directory`, named "image_folder:<last part of the path>".

    Args:
      directory: folder of the pictures; "~" is the home folder.
      config: `image_size`, `channels`, `background` as in `images.fit`, except that `channels` 0 turns grey pictures
        among colour ones into colour; `crop`: side of the crops of pictures of any size, 0 for none; `on_error`: "stop"
        at a damaged file, or "skip" it with a warning; `max_megapixels`: limit per picture, 0 for none; `train_split`,
        `test_split` ("" for none); `cache_dir`.

    Raises:
      UserError: no such folder, no pictures in it, pictures of several sizes, a damaged or huge file, a folder that
        cannot be read; one line that says what to do.

    Example:
      >>> import types
      >>> values = {"image_size": 2, "channels": 0, "background": 255, "on_error": "stop", "max_megapixels": 0}
      >>> values |= {"train_split": "train", "test_split": "test", "stream": False, "crop": 0}
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
    folder, listing = _below_lone_train(folder, _listed(folder))
    splits = _split_folders(folder, _tops(listing))
    _refuse_unreadable(name, folder, listing, splits, config.on_error)
    split = _split(folder, listing, splits, config)
    class_names, labels = _classes(folder, split)
    told = _captions(folder, listing, split, config)
    if not told:
        _tell_of_others(name, listing, split, class_names)
    key = {
        "version": _VERSION,
        "folder": os.path.realpath(folder),
        "files": hashlib.sha256(json.dumps([split.num_train, *split.files]).encode()).hexdigest(),
        "classes": class_names,
        **{
            each: getattr(config, each)
            for each in ("image_size", "channels", "background", "on_error", "max_megapixels")
        },
        **({"crop": config.crop} if config.crop else {}),
    }
    scratch = cache.root(config.cache_dir) / "data"
    stored = cache.fetch(scratch, name, key, functools.partial(_build, folder, split, labels, config, scratch))
    num_train = stored.facts["num_train"]
    _tell_of_faults(name, stored.facts, len(split.files))
    if class_names is not None:
        _tell_of_missing(name, class_names, stored.arrays["label"][:num_train])
    arrays = _cropped(stored.arrays, config.crop) if config.crop else stored.arrays
    num_sound, height, width, channels = arrays["image"].shape
    spec = DataSpec(
        name=name,
        image_shape=(height, width, channels),
        num_examples=num_train,
        features={} if class_names is None else labelled(class_names),
        fingerprint=stored.facts["fingerprint"],
    )
    parts = {"train": slice(num_train)} | ({"test": slice(num_train, None)} if num_sound > num_train else {})
    rows = {name: _rows(arrays, part) for name, part in parts.items()}
    sound = _sound_files(split, stored.facts)
    data = Dataset(spec, rows["train"], rows.get("test"), files={name: sound[part] for name, part in parts.items()})
    return _with_captions(data, told) if told else data


def _rows(arrays: Mapping[str, Any], part: slice) -> dict[str, Any]:
    return {name: array.part(part) if isinstance(array, crops.Crops) else array[part] for name, array in arrays.items()}


def _sound_files(split: _Split, facts: Mapping[str, Any]) -> list[str]:
    """The paths of the pictures that can be used, in the order of their rows."""
    skipped = set(itertools.chain(*facts["skipped"].values()))
    return [file.path for file in split.files if file.path not in skipped]


def _captions(folder: pathlib.Path, listing: _Listing, split: _Split, config: Any) -> dict[str, tuple[str, ...]]:
    """The captions of each picture, if the config asks for an encoder of texts, and there are any."""
    if (getattr(config, "text", None) or {"name": "none"})["name"] == "none":
        return {}
    others = [path for path in listing.others if not split.folders or path.partition("/")[0] in (*split.folders, path)]
    return caption_files.find(folder, [file.path for file in split.files], others)


def _with_captions(data: Dataset, told: dict[str, tuple[str, ...]]) -> Dataset:
    """The set with captions, which are part of its fingerprint: a run must not go on with others."""
    every = caption_files.equally_many([told[path] for path in itertools.chain(*data.files.values())])
    num_train = len(data.files["train"])
    captions = {"train": every[:num_train]} | ({"test": every[num_train:]} if "test" in data.files else {})
    content = json.dumps([data.spec.fingerprint, captions["train"]]).encode()
    spec = dataclasses.replace(data.spec, fingerprint=hashlib.sha256(content).hexdigest())
    return dataclasses.replace(data, spec=spec, captions=captions)


def _cropped(arrays: cache.Arrays, side: int) -> dict[str, Any]:
    """Returns the arrays of the cache, with crops in the place of pictures one after the other."""
    shapes = arrays["shape"].astype(np.int64)
    starts = np.cumsum(shapes.prod(axis=1)) - shapes.prod(axis=1)
    image = crops.Crops(arrays["image"], starts, shapes[:, :2], side, int(shapes[0, 2]))
    return {"image": image, **{name: array for name, array in arrays.items() if name not in ("image", "shape")}}


def _existing(directory: str) -> pathlib.Path:
    folder = pathlib.Path(os.path.abspath(os.path.expanduser(directory)))
    if not directory:
        raise UserError("image_folder: names no folder: use --config.data.name=image_folder:/path/to/pictures")
    if os.path.isdir(folder):  # unlike `Path.is_dir`, it accepts a name of any length
        return folder
    if os.path.exists(folder):
        raise UserError(f"{folder} is a file: name the folder that contains it")
    parent = next(parent for parent in folder.parents if os.path.isdir(parent))
    missing = folder.relative_to(parent).parts[0]
    beside = [name for name in os.listdir(parent) if (parent / name).is_dir()]
    nearest = difflib.get_close_matches(missing, beside, 1)
    hint = f"did you mean {parent / nearest[0]}?" if nearest else f"the nearest that exists is {parent}"
    raise UserError(f"no folder {folder}: {hint}")


def _listed(folder: pathlib.Path) -> _Listing:
    """Returns everything below the folder that is not hidden; raises UserError if the folder cannot be read."""
    files, others, unreadable = [], [], []

    def visit(entry: os.DirEntry[str], prefix: str, above: frozenset[tuple[int, int]]) -> None:
        path = f"{prefix}{entry.name}"
        try:
            status = entry.stat()
        except OSError:
            status = entry.stat(follow_symlinks=False)  # a broken link: reported as damaged when it is read
        if stat.S_ISDIR(status.st_mode):
            walk(entry.path, f"{path}/", above)
        elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            if path.lower().endswith(SUFFIXES):
                files.append(_File(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
            else:
                others.append(path)

    def walk(place: str, prefix: str, above: frozenset[tuple[int, int]]) -> None:
        try:
            status = os.stat(place)
            here = (status.st_dev, status.st_ino)
            if here in above:  # a link that leads back
                return
            with os.scandir(place) as entries:
                for entry in entries:
                    if not entry.name.startswith(".") and entry.name != "lost+found":
                        visit(entry, prefix, above | {here})
        except OSError as error:
            unreadable.append((prefix.rstrip("/"), error.strerror or type(error).__name__))

    walk(str(folder), "", frozenset())
    for path, why in unreadable:
        if not path:
            raise UserError(f"cannot read the folder {folder}: {why}")
    return _Listing(sorted(files, key=lambda file: os.fsencode(file.path)), others, unreadable)


def _below_lone_train(folder: pathlib.Path, listing: _Listing) -> tuple[pathlib.Path, _Listing]:
    """Returns the folder and its content, or those of its sub-folder train if that contains everything."""
    while listing.files and len(tops := _tops(listing)) == 1 and (top := tops.pop()).lower() in _TRAIN_FOLDERS:
        folder, listing = folder / top, listing.below(top)
    return folder, listing


def _tops(listing: _Listing) -> set[str]:
    """Returns the top-level folders that contain, or may contain, pictures; and "" if pictures lie beside them."""
    tops = {top if slash else "" for top, slash, _ in (file.path.partition("/") for file in listing.files)}
    return tops | {path.partition("/")[0] for path, _ in listing.unreadable}


def _called(names: Sequence[str], tops: Iterable[str]) -> str:
    """Returns the folder with the first of the names that exists, in upper or lower case; "" if there is none."""
    by_name = {top.lower(): top for top in sorted(tops)}  # of several, the lower-case one, which comes last
    return next((by_name[name] for name in names if name in by_name), "")


def _split_folders(folder: pathlib.Path, tops: set[str]) -> tuple[str, ...]:
    """Returns the top-level folders of the training and the test split, or () if there are none."""
    train, test = _called(_TRAIN_FOLDERS, tops), _called(_TEST_FOLDERS, tops)
    if tops and all(top.lower() in _TEST_FOLDERS for top in tops):
        raise UserError(
            f"{folder} holds {', '.join(map(_text, sorted(tops)))}, but no train: to train on one of them, use "
            f"--config.data.name=image_folder:{folder / test}"
        )
    return (train, test) if train and test else ()


def _refuse_unreadable(
    name: str, folder: pathlib.Path, listing: _Listing, splits: tuple[str, ...], on_error: str
) -> None:
    """Refuses folders that cannot be read, or warns about them; those beside the splits do not count."""
    found = sorted(each for each in listing.unreadable if not splits or each[0].partition("/")[0] in splits)
    if not found:
        return
    if on_error == "stop":
        path, why = found[0]
        raise UserError(
            f"cannot read the folder {path!r} in {folder} ({why}): make it readable, or set --config.data.on_error=skip"
        )
    paths = [path for path, _ in found]
    _logger.warning("%s: skipped %d folders that cannot be read: %s", name, len(paths), _shown(paths))


def _split(folder: pathlib.Path, listing: _Listing, splits: tuple[str, ...], config: Any) -> _Split:
    if not listing.files:
        raise UserError(f"no pictures in {folder}: image_folder reads files that end in {', '.join(SUFFIXES)}")
    groups: dict[str, list[_File]] = collections.defaultdict(list)
    if splits:
        for file in listing.files:
            top, slash, _ = file.path.partition("/")
            if slash:
                groups[top].append(file)
        for name, top in zip(("train", "test"), splits, strict=True):
            groups.setdefault(name, groups[top])
    else:
        held_out = _held_out(listing.files) if config.test_split else set()
        for file in listing.files:
            groups["test" if file in held_out else "train"].append(file)
        groups.setdefault("test", [])
    wanted = [config.train_split, *filter(None, [config.test_split])]
    for name in wanted:
        if name not in groups:
            raise UserError(
                f"{folder} has no split {name!r} (it has {', '.join(sorted(groups))}): "
                "set --config.data.train_split or --config.data.test_split"
            )
    train, *test = [groups[name] for name in wanted]
    if not train:
        raise UserError(f"the split {config.train_split!r} of {folder} has no pictures: set --config.data.train_split")
    files = [*train, *itertools.chain(*test)]
    folders = {file.path.partition("/")[0] for file in files} if splits else ()
    return _Split(files, len(train), tuple(sorted(folders)))


def _held_out(files: Sequence[_File]) -> set[_File]:
    """Returns the test split of files that are not split yet: a tenth of them, the same on every machine.

    Every class keeps at least one file, the one with the largest hash.
    """
    by_hash = sorted(files, key=lambda file: hashlib.sha256(os.fsencode(file.path)).digest())
    tops = {file: file.path.rpartition("/")[0].partition("/")[0] for file in files}
    left = collections.Counter(tops.values())
    held_out: set[_File] = set()
    for file in by_hash:
        if len(held_out) == min(len(files) // 10, _MAX_HELD_OUT):
            break
        if left[tops[file]] > 1:
            left[tops[file]] -= 1
            held_out.add(file)
    return held_out


def _classes(folder: pathlib.Path, split: _Split) -> tuple[tuple[str, ...] | None, np.ndarray | None]:
    """Returns the names of the classes and each file's label i32 [N], or (None, None) without sub-folders."""
    owners = [_owner(file.path, split) for file in split.files]
    names = sorted({owner for owner in owners if owner}, key=os.fsencode)
    if not names:
        return None, None
    if "" in owners:
        raise UserError(
            f"{folder} holds pictures beside its sub-folders ({split.files[owners.index('')].path!r} beside "
            f"{names[0]!r}): sub-folders are classes, so move these pictures into one"
        )
    if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names):
        names.sort(key=int)
    number = {name: label for label, name in enumerate(names)}
    return tuple(map(_text, names)), np.array([number[owner] for owner in owners], np.int32)


def _owner(path: str, split: _Split) -> str:
    """Returns the folder that is a file's class, or "" if there is none."""
    return next(iter(path.split("/")[bool(split.folders) : -1]), "")


def _tell_of_others(name: str, listing: _Listing, split: _Split, class_names: tuple[str, ...] | None) -> None:
    """Warns about files of other kinds, and about folders that contain nothing else."""
    others = [path for path in listing.others if not split.folders or path.partition("/")[0] in split.folders]
    others = sorted(path for path in others if not _is_companion(path.rpartition("/")[2]))
    if not others:
        return
    kinds = collections.Counter(os.path.splitext(path)[1].lower() or "no suffix" for path in others)
    shown = ", ".join(_text(kind) for kind, _ in kinds.most_common(3)) + (", ..." if len(kinds) > 3 else "")
    empty = {_text(_owner(path, split)) for path in others} - {"", *(class_names or ())}
    _logger.warning(
        "%s: left out %s (%s)%s",
        name,
        "1 file that is not a picture" if len(others) == 1 else f"{len(others):,} files that are not pictures",
        shown,
        f"; no pictures in {_shown(sorted(empty))}" if empty else "",
    )


def _is_companion(name: str) -> bool:
    return os.path.splitext(name.lower())[0] in _COMPANIONS


def _tell_of_faults(name: str, facts: dict[str, Any], num_files: int) -> None:
    for kind, paths in facts["skipped"].items():
        hint = " (raise --config.data.max_megapixels)" if kind == "oversized" else ""
        _logger.warning("%s: skipped %d %s files of %d: %s%s", name, len(paths), kind, num_files, _shown(paths), hint)


def _tell_of_missing(name: str, class_names: Sequence[str], label: np.ndarray) -> None:
    counts = np.bincount(label, minlength=len(class_names))
    missing = [each for each, count in zip(class_names, counts, strict=True) if not count]
    if missing:
        _logger.warning("%s: no training pictures of %s", name, _shown(missing))


def _shown(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")


def _text(name: str) -> str:
    """Returns a file's name as text that every page can show: bytes that are not UTF-8 as \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _build(
    folder: pathlib.Path, split: _Split, labels: np.ndarray | None, config: Any, scratch: pathlib.Path
) -> tuple[cache.Arrays, dict[str, Any]]:
    """Returns arrays, and facts that `load` needs.

    The arrays are `image` uint8 [N, H, W, C] or, for crops, all pixels one after the other with `shape` i32 [N, 3];
    and `label` i32 [N] if there are classes.
    """
    files, num_train, _ = split
    with images.unlimited():
        pixels, shapes, faults = _decode(folder, files, config, config.channels, scratch)
    sound = np.ones(len(files), bool)
    sound[list(faults)] = False
    num_sound = int(sound[:num_train].sum())
    if not num_sound:
        row, fault = next(iter(faults.items()))
        first = f"the first of {num_train:,}, {files[row].path!r}, {fault.what}"
        raise UserError(f"no training picture in {folder} can be used; {first}")
    num_bytes = int(shapes[:num_sound].prod(axis=1, dtype=np.int64).sum())
    arrays = {"image": pixels, "shape": shapes} if config.crop else {"image": pixels.reshape(-1, *shapes[0])}
    arrays |= {} if labels is None else {"label": labels[sound]}
    of_training = {name: array[:num_sound] for name, array in arrays.items()}
    of_training |= {"image": pixels[:num_bytes]} if config.crop else {}
    skipped: dict[str, list[str]] = {}
    for row, fault in faults.items():
        skipped.setdefault(fault.kind, []).append(files[row].path)
    return arrays, {
        "num_train": num_sound,
        "fingerprint": cache.fingerprint(of_training),
        "skipped": skipped,
    }


def _decode(
    folder: pathlib.Path, files: Sequence[_File], config: Any, channels: int, scratch: pathlib.Path
) -> tuple[np.ndarray, np.ndarray, dict[int, _Fault]]:
    """Returns the pixels of the intact pictures one after the other, uint8; their shapes, i32 [N, 3], with one number
    of channels; and the faults of the others, by row.

    The pixels are mapped from an unnamed file in `scratch`, so memory holds only a few pictures at a time.
    """
    read = functools.partial(
        _read,
        size=config.image_size,
        channels=channels,
        background=config.background,
        max_megapixels=config.max_megapixels,
    )
    first, shapes, faults = "", [], {}
    with tempfile.TemporaryFile(dir=scratch) as store, contextlib.closing(_in_order(read, folder, files)) as pictures:
        for row, image in enumerate(pictures):
            path = files[row].path
            image = _holding_a_crop(image, config.crop)
            if isinstance(image, _Fault):
                if config.on_error == "stop":
                    raise UserError(
                        f"{path!r} in {folder} {image.what}: {image.remedy}, or set --config.data.on_error=skip"
                    )
                faults[row] = image
                continue
            first, (height, width, depth) = first or path, shapes[0] if shapes else image.shape
            if image.shape[:2] != (height, width) and not config.crop:
                raise UserError(
                    f"{path!r} in {folder} has {image.shape[1]}x{image.shape[0]} pixels, {first!r} has "
                    f"{width}x{height}: set --config.data.image_size to one height and width for all"
                )
            if image.shape[2] > depth:  # colour after grey: all become colour
                pictures.close()  # ends its progress bar
                return _decode(folder, files, config, 3, scratch)
            shapes.append((*image.shape[:2], depth))
            store.write(np.broadcast_to(image, shapes[-1]).tobytes())
        store.flush()
        pixels = np.memmap(store, np.uint8, "r") if shapes else np.empty(0, np.uint8)
        return pixels, np.array(shapes, np.int32).reshape(-1, 3), faults


def _holding_a_crop(image: np.ndarray | _Fault, side: int) -> np.ndarray | _Fault:
    """Returns what was read, or a fault if it is smaller than a crop."""
    if isinstance(image, _Fault) or min(image.shape[:2]) >= side:
        return image
    what = f"has {image.shape[1]}x{image.shape[0]} pixels, and config.data.crop is {side}"
    return _Fault("small", what, f"remove it, use a crop of at most {min(image.shape[:2])}")


def _in_order(
    read: Callable[[str], np.ndarray | _Fault], folder: pathlib.Path, files: Sequence[_File]
) -> Generator[np.ndarray | _Fault, None, None]:
    """Yields `read` of each file, in order; a bounded number of files is read ahead, in parallel."""
    workers = os.cpu_count() or 1
    ahead = 2 * workers
    starts = range(0, len(files), _CHUNK)
    pending: collections.deque[concurrent.futures.Future[list[np.ndarray | _Fault]]] = collections.deque()

    def read_chunk(start: int) -> list[np.ndarray | _Fault]:
        return [read(f"{folder}/{file.path}") for file in files[start : start + _CHUNK]]

    with (
        # Threads: PIL releases the GIL while it decodes, and processes would take longer to start than to read.
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


def _read(path: str, size: int, channels: int, background: int, max_megapixels: int) -> np.ndarray | _Fault:
    """Returns the picture as `images.fit` makes it, or what is wrong with the file."""
    fit = functools.partial(images.fit, size=size, channels=channels, background=background)
    return _made(path, fit, max_megapixels)


def _made(path: str, make: Callable[[PIL.Image.Image], T], max_megapixels: int) -> T | _Fault:
    """Returns what is made of a picture, or what is wrong with the file."""
    try:
        with open(path, "rb") as file, images.opened(file, _FORMATS) as image:
            pixels = image.width * image.height
            if 0 < max_megapixels < pixels / 1e6:
                return _Fault(
                    "oversized",
                    f"has {image.width}x{image.height} pixels, more than {max_megapixels} megapixels",
                    "shrink it, raise --config.data.max_megapixels (0: no limit)",
                )
            with _one_large if pixels > _LARGE else contextlib.nullcontext():
                return make(image)
    except PIL.UnidentifiedImageError:
        why = f"not a {', '.join(_FORMATS)} file, or of an unsupported kind"
    except OSError as error:
        why = error.strerror or _line(error)
    except Exception as error:  # PIL's errors on damaged files have no common base
        why = _line(error)
    return _Fault("damaged", f"is damaged ({why})", "remove it")


def read_file(path: str | os.PathLike[str], channels: int = 0) -> np.ndarray | str:
    """Returns one picture in its own size, uint8 [H, W, C], or what is wrong with the file, as the end of a sentence.

    Args:
      path: of the file.
      channels: 1 (grey), 3 (RGB), or 0: as stored.
    """
    with images.unlimited():
        found = _read(os.fspath(path), 0, channels, 255, max_megapixels=200)
    return found.what if isinstance(found, _Fault) else found


def read_parts(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray | None] | str:
    """Returns colours and opacity of one picture, as from `images.parts`, or what is wrong with the file."""
    with images.unlimited():
        found = _made(os.fspath(path), images.parts, max_megapixels=200)
    return found.what if isinstance(found, _Fault) else found


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

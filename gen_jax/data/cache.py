"""A cache of arrays that are computed once, then memory-mapped: decoded data sets, the metrics' classifier.

An entry is a folder of `.npy` files and a `meta.json`. It is written under another name and then renamed, so it is
complete or absent. If several processes need it, one makes it while the others wait. An entry that is incomplete, or
that another version of this file wrote, is made again. On a file system without locks several processes may make an
entry at the same time; the first to finish is kept.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import pathlib
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from gen_jax.data import locks
from gen_jax.method import UserError
from gen_jax.run import directory

Arrays: TypeAlias = dict[str, np.ndarray]

_FORMAT = 1  # part of every key: raise it when the layout of an entry changes
_PIECE = 2**24  # bytes read at a time
_TITLE = 100  # characters: a file's name may have 255, on some encrypted disks 143


class Stored(NamedTuple):
    """One entry of the cache: memory-mapped arrays, the fingerprint of their content, and facts stored with them."""

    arrays: Arrays
    fingerprint: str
    facts: dict[str, Any]


def root(cache_dir: str = "") -> pathlib.Path:
    """Returns the folder of the cache: `cache_dir`, or gen_jax in the user's cache directory if it is empty.

    Without a home folder (often in a container) it is in the temporary folder, and a line on stderr says so.

    Raises:
      UserError: `cache_dir` is in a home folder that is not known.

    Example:
      >>> root("/tmp/x").name
      'x'
    """
    if cache_dir:
        return directory(cache_dir)
    caches = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return _in_temporary_folder() if caches.startswith("~") else pathlib.Path(caches) / "gen_jax"


@functools.cache
def _in_temporary_folder() -> pathlib.Path:
    folder = pathlib.Path(tempfile.gettempdir()) / f"gen_jax-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()  # programs are run from it: it must not be a link, or someone else's
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        folder = pathlib.Path(tempfile.mkdtemp(prefix="gen_jax-"))
    print(f"gen_jax: there is no home folder; the cache is {folder}: set XDG_CACHE_HOME to keep it", file=sys.stderr)
    return folder


def fingerprint(arrays: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of names, types, shapes and content, as hex: equal on any machine for equal arrays.

    Arrays are read in pieces: anything with `dtype`, `shape` and rows that slices give.

    Example:
      >>> label, image = np.arange(3, dtype=np.int32), np.zeros((3, 2, 2, 1), np.uint8)
      >>> fingerprint({"label": label, "image": image}) == fingerprint({"image": image, "label": label})
      True
      >>> fingerprint({"label": label, "image": image}) == fingerprint({"label": label, "image": image + 1})
      False
    """
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        rows = array if array.shape else np.reshape(array, 1)
        step = max(1, _PIECE // max(1, rows[:1].nbytes))  # it may be larger than memory
        for start in range(0, len(rows), step):
            digest.update(np.ascontiguousarray(rows[start : start + step]).data)
    return digest.hexdigest()


def fetch(
    folder: pathlib.Path,
    title: str,
    key: Mapping[str, Any],
    build: Callable[[], tuple[Arrays, dict[str, Any]]],
    verify: bool = False,
) -> Stored:
    """Returns the cache's entry for `key`; makes it with `build` if there is no complete one.

    Args:
      folder: of the cache; created if missing.
      title: start of the entry's name, for people who look into the folder; truncated if long.
      key: everything that determines the content, as JSON values.
      build: returns the arrays, and facts (JSON values) to store with them.
      verify: also compare content with the fingerprint; without it only sizes are compared.

    Raises:
      UserError: the folder cannot be written.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...   args = (pathlib.Path(folder), "squares", {"n": 4})
      ...   made = fetch(*args, lambda: ({"x": np.arange(4) ** 2}, {"unit": "1"}))
      ...   again = fetch(*args, lambda: 1 / 0)
      >>> again.arrays["x"].tolist(), again.facts["unit"]
      ([0, 1, 4, 9], '1')
    """
    key = {"format": _FORMAT, **key}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    place = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', title)[:_TITLE]}-{digest}"
    stored = _open(place, verify)
    if stored is not None:
        return stored
    try:
        waiting = f"waiting for another process that is preparing {title} in {folder}"
        with locks.alone(place.with_name(f"{place.name}.lock"), waiting) as alone:
            stored = _open(place, verify)  # another process may have made it while this one waited
            if stored is None:
                if alone:
                    _remove(place.parent.glob(f"{place.name}*.part"))  # left by killed processes
                _write(place, key, *build(), verify)
                stored = _open(place, verify)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise unwritable(folder, error) from None
    if stored is None:
        raise OSError(f"the cache entry {place} does not read back as it was written: check the disk")
    return stored


def unwritable(folder: pathlib.Path, error: OSError) -> UserError:
    """Returns the mistake of a cache folder that cannot be written."""
    return UserError(
        f"cannot write the cache in {folder} ({error.strerror}): set --config.data.cache_dir, or --cache_dir of "
        "gen_jax.metrics"
    )


def _open(place: pathlib.Path, verify: bool) -> Stored | None:
    try:
        meta = json.loads((place / "meta.json").read_text())
        names = meta["arrays"]
        arrays = {name: np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
    except (OSError, ValueError, EOFError, KeyError):  # missing, or cut short
        return None
    if verify and fingerprint(arrays) != meta["fingerprint"]:
        return None
    return Stored(arrays, meta["fingerprint"], meta["facts"])


def _write(place: pathlib.Path, key: Mapping[str, Any], arrays: Arrays, facts: dict[str, Any], verify: bool) -> None:
    part = place.with_name(f"{place.name}.{secrets.token_hex(4)}.part")  # unique, in case there are no locks
    try:
        part.mkdir()
        for name, array in arrays.items():
            np.save(part / f"{name}.npy", array, allow_pickle=False)
        meta = {"key": key, "arrays": sorted(arrays), "fingerprint": fingerprint(arrays), "facts": facts}
        (part / "meta.json").write_text(json.dumps(meta, indent=1))
        if _open(place, verify) is None:
            _remove([place])
            part.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # of `rename`: another process was faster
            raise
    finally:
        _remove([part])


def _remove(places: Iterable[pathlib.Path]) -> None:
    for place in places:
        shutil.rmtree(place, ignore_errors=True)

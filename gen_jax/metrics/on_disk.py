"""Arrays that stay on disk, so that memory does not grow with the number of pictures.

`Rows` are some rows of a memory-mapped array, `Store` grows by pieces, and `member` is an array in an .npz file. Pages
of these files that are in memory are the system's to take back.
"""

from __future__ import annotations

import math
import os
import pathlib
import struct
import tempfile
import zipfile
from typing import IO, Any

import numpy as np

from gen_jax.data import cache
from gen_jax.run import writing

_PIECE = 2**24  # bytes read at a time
_LOCAL_HEADER = 30  # bytes of a zip archive before the name of a member


class Rows:
    """Some rows of an array, read when they are indexed.

    Example:
      >>> rows = Rows(np.arange(10) ** 2, np.array([1, 3, 5]))
      >>> len(rows), rows[1:].tolist(), rows[np.array([2, 0])].tolist()
      (3, [9, 25], [25, 1])
    """

    def __init__(self, array: Any, numbers: np.ndarray):
        """Takes an array [N, ...] and the numbers of its rows, i64 [n]."""
        self._array, self._numbers = array, numbers
        self.dtype, self.shape = array.dtype, (len(numbers), *array.shape[1:])
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, which: Any) -> np.ndarray:
        return np.asarray(self._array[self._numbers[which]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class Store:
    """An array that grows by rows in a file without a name, which ends with the array.

    Example:
      >>> store = Store(pathlib.Path(tempfile.mkdtemp()))
      >>> store.append(np.zeros((2, 3), np.float32))
      >>> store.append(np.ones((1, 3), np.float32))
      >>> store.array()[1:].tolist()
      [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """

    def __init__(self, folder: pathlib.Path):
        self._folder, self._file = folder, _scratch(folder)
        self._num, self._like = 0, np.empty((0,), np.float32)

    def append(self, rows: np.ndarray) -> None:
        """Adds rows [n, ...]; all calls have the same type and the same axes but the first.

        Raises:
          UserError: the disk is full.
        """
        with writing(self._folder):
            self._file.write(np.ascontiguousarray(rows).data)
        self._num, self._like = self._num + len(rows), rows[:0]

    def array(self) -> np.ndarray:
        """Returns all rows so far, memory-mapped, to read only."""
        with writing(self._folder):
            self._file.flush()
        return _mapped(self._file, self._like.dtype, 0, (self._num, *self._like.shape[1:]))


def member(path: pathlib.Path, name: str, folder: pathlib.Path) -> np.ndarray:
    """Returns an array of an .npz file, memory-mapped: in place, or from a copy without a name if it is compressed.

    Args:
      path: of the file.
      name: of the array.
      folder: for the copy; created if missing.

    Raises:
      ValueError: it holds Python objects, or is no array.
      zipfile.BadZipFile: its content does not have its checksum.
      UserError: the folder cannot be written.
    """
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as file:
            shape, columns_first, dtype = _header(file)
            start = file.tell()
            copy = _scratch(folder) if info.compress_type != zipfile.ZIP_STORED else None
            with writing(folder):
                while piece := file.read(_PIECE):  # to the end, where the checksum is compared
                    if copy is not None:
                        copy.write(piece)
    order = "F" if columns_first else "C"
    if copy is not None:
        copy.flush()
        return _mapped(copy, dtype, 0, shape, order)
    with open(path, "rb") as whole:
        whole.seek(info.header_offset)
        lengths = struct.unpack("<HH", whole.read(_LOCAL_HEADER)[26:])
        return _mapped(whole, dtype, info.header_offset + _LOCAL_HEADER + sum(lengths) + start, shape, order)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    return shape, columns_first, dtype


def _mapped(file: Any, dtype: np.dtype, offset: int, shape: tuple[int, ...], order: Any = "C") -> np.ndarray:
    if not math.prod(shape):
        return np.zeros(shape, dtype)  # there is no map of no bytes
    return np.memmap(file, dtype, "r", offset, shape, order)


def _scratch(folder: pathlib.Path) -> IO[bytes]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=os.fspath(folder))
    except OSError as error:
        raise cache.unwritable(folder, error) from None

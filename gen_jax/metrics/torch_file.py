"""Reads the tensors of a PyTorch weights file, without PyTorch and without running anything that the file names.

Both formats of `torch.save` are read: the old one (several pickles, then the raw storages) and the zip archive (since
PyTorch 1.6). A pickle is a program that may call any function, so everything that a state dict does not need is
refused: of all names, only those in `_NAMES` are resolved, and to functions of this file.
"""

from __future__ import annotations

import functools
import io
import math
import os
import pathlib
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gen_jax.method import UserError

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the old format: its first two pickles
_ZIP = b"PK\x03\x04"
_MOST_AXES = 64  # of numpy
_WAY_OUT = "save it again with torch.save(model.state_dict(), path)"

# Little endian, as both formats have it on all common machines.
_STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": jnp.bfloat16,
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?", "ComplexFloatStorage": "<c8", "ComplexDoubleStorage": "<c16",
}  # fmt: skip


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int  # elements


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int  # elements, like the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _MalformedError(Exception):
    """The file is not what it should be; the text completes "<path> "."""


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the tensors of a weights file by name, as read-only arrays.

    Dictionaries inside the dictionary are joined by dots ("model.conv.weight"); values that are no tensors are left
    out. bfloat16 keeps its type, which numpy knows from JAX.

    Args:
      path: of a file that `torch.save` wrote from a state dict, in the old or in the zip format.

    Raises:
      UserError: there is no such file; it is no weights file, or is cut short; it names anything else than tensors
        and plain values; a tensor lies outside its storage.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile() as file:
      ...     _ = file.write(b"no weights")
      ...     file.flush()
      ...     read(file.name)
      Traceback (most recent call last):
      gen_jax.method.UserError: /... is no PyTorch weights file: save it again with torch.save(...
    """
    path = pathlib.Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the weights file {path}: {error.strerror}") from error
    try:
        value, contents = _zipped(data) if data.startswith(_ZIP) else _legacy(data)
        if not isinstance(value, dict):
            raise _MalformedError("holds no dictionary of tensors")
        return {name: _array(name, tensor, contents(tensor.storage)) for name, tensor in _named(value)}
    except _MalformedError as error:
        raise UserError(f"{path} {error}: {_WAY_OUT}") from error


def _legacy(data: bytes) -> tuple[Any, Callable[[_Storage], memoryview]]:
    """Reads the old format: magic number, version, machine, value, keys of the storages, and then each of these."""
    file = io.BytesIO(data)
    if _unpickle(file) != _MAGIC or _unpickle(file) != _PROTOCOL:
        raise _MalformedError("is no PyTorch weights file")
    _unpickle(file)  # sizes of the C types of the machine
    used: dict[str, _Storage] = {}
    value, keys = _unpickle(file, used), _unpickle(file)
    found, start = {}, file.tell()
    for key in keys if isinstance(keys, list) else []:
        storage = used.get(key) if isinstance(key, str) else None
        if storage is None:
            raise _MalformedError("lists a storage that no tensor uses")
        end = start + 8 + storage.size * storage.dtype.itemsize
        if len(data) < end:
            raise _MalformedError("is cut short")
        if int.from_bytes(data[start : start + 8], "little") != storage.size:
            raise _MalformedError("holds a storage whose size is not the one of its tensors")
        found[key], start = memoryview(data)[start + 8 : end], end
    if used.keys() - found.keys():
        raise _MalformedError("lacks a storage of its tensors")
    return value, lambda storage: found[storage.key]


def _zipped(data: bytes) -> tuple[Any, Callable[[_Storage], bytes]]:
    """Reads the zip format: <name>/data.pkl is the value and <name>/data/<key> a storage."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _MalformedError("is cut short, or is no zip archive") from error
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise _MalformedError("is a zip archive, but not of PyTorch weights")
    folder = names[0].removesuffix("data.pkl")

    def member(name: str) -> bytes:
        try:
            info = archive.getinfo(folder + name)
            if info.compress_type != zipfile.ZIP_STORED:  # PyTorch compresses nothing, and a zip bomb must
                raise _MalformedError("holds compressed data")
            return archive.read(info)
        except KeyError:
            raise _MalformedError("lacks a storage of its tensors") from None
        except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError, NotImplementedError) as error:
            raise _MalformedError("is damaged") from error

    if folder + "byteorder" in archive.namelist() and member("byteorder") != b"little":
        raise _MalformedError("was written by a big-endian machine")

    @functools.cache  # tensors may share a storage
    def contents(storage: _Storage) -> bytes:
        found = member(f"data/{storage.key}")
        if len(found) != storage.size * storage.dtype.itemsize:
            raise _MalformedError("holds a storage whose size is not the one of its tensors")
        return found

    return _unpickle(io.BytesIO(member("data.pkl")), {}), contents


def _unpickle(file: io.BytesIO, storages: dict[str, _Storage] | None = None) -> Any:
    """Returns the next value of the file; the storages that it uses are added to `storages`."""
    start = file.tell()
    try:
        look(file)
    except _MalformedError:
        raise
    except Exception as error:
        raise _MalformedError("is cut short, or is no PyTorch weights file") from error
    end = file.tell()
    file.seek(start)
    try:
        value = _Unpickler(io.BytesIO(file.read(end - start)), storages).load()
    except _MalformedError:
        raise
    except Exception as error:  # pickle: "an unpickler may raise anything", if the data are malformed
        raise _MalformedError("is damaged") from error
    return value


class _Nest(NamedTuple):
    """How much there is to a value that could be a key of a dictionary."""

    depth: int  # of tuples in tuples
    parts: int  # of the value, each as often as it occurs in it


_PLAIN = _Nest(0, 1)
_LARGEST = _Nest(100, 100_000)
_CHANGEABLE = frozenset({  # what these instructions leave can be no key
    "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS",
})  # fmt: skip


def look(file: io.BytesIO) -> None:
    """Goes through the instructions of the next pickle, up to its end, as the unpickler will, but makes nothing.

    Raises:
      _MalformedError: a memo index would make the unpickler allocate gigabytes, or a tuple is nested so deeply, or
        repeats its parts so often, that its hash would overflow the stack or take years.
    """
    stack, marks, memo = list[_Nest](), list[int](), dict[int, _Nest]()
    num = highest = 0
    for code, argument, _ in pickletools.genops(file):
        num += 1
        name, before = code.name, [each.name for each in code.stack_before]
        if name == "MARK":
            marks.append(len(stack))
        elif name == "POP" and marks and marks[-1] == len(stack):
            marks.pop()
        elif "PUT" in name or name == "MEMOIZE":
            index = len(memo) if name == "MEMOIZE" else int(argument or 0)
            memo[index], highest = stack[-1], max(highest, index)
        elif name == "DUP":
            stack.append(stack[-1])
        elif name.endswith("GET"):
            stack.append(memo[int(argument or 0)])
        else:
            start = marks.pop() - before.index("mark") if "mark" in before else len(stack) - len(before)
            if start < 0:
                raise _MalformedError("is damaged")
            made = _made(name, stack[start:])
            stack[start:] = [made] * len(code.stack_after)
    if highest >= num:
        raise _MalformedError("is damaged")


def _made(name: str, taken: list[_Nest]) -> _Nest:
    """What an instruction makes of values that it takes from the stack."""
    depth, parts = (max((each[i] for each in taken), default=_PLAIN[i]) for i in range(2))
    if name in _CHANGEABLE:
        return _PLAIN
    if "TUPLE" not in name and name != "FROZENSET":
        return _Nest(depth, parts)  # a call may return one of its arguments
    made = _Nest(depth + 1, 1 + sum(each.parts for each in taken))
    if made.depth > _LARGEST.depth or made.parts > _LARGEST.parts:
        raise _MalformedError("holds tuples in tuples, more of them than any weights need")
    return made


class _Unpickler(pickle.Unpickler):
    """Resolves the names of `_NAMES` and the types of storages, and no other."""

    def __init__(self, file: io.BytesIO, storages: dict[str, _Storage] | None):
        super().__init__(file, encoding="utf-8")  # of texts that Python 2 wrote
        self._storages = storages

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == "torch" and global_name in _STORAGES:
            return global_name  # a text, not a type: nothing that the file could call or change
        if (module_name, global_name) not in _NAMES:
            name = ascii(f"{module_name}.{global_name}"[:100])
            raise _MalformedError(f"names {name}, which weights do not need and which might run any code")
        return _NAMES[module_name, global_name]

    def persistent_load(self, pid: Any, /) -> _Storage:
        kind, type_name, key, _, size, *view = pid
        if self._storages is None or kind != "storage" or not isinstance(key, str) or not _is_size(size):
            raise _MalformedError("is damaged")
        if any(part is not None for part in view):
            raise _MalformedError("holds a part of a storage, as PyTorch wrote before 0.4")
        storage = _Storage(key, np.dtype(_STORAGES[type_name]), size)
        if self._storages.setdefault(key, storage) != storage:
            raise _MalformedError("uses one storage with two types or sizes")
        return storage


class _Rebuild:
    """A function of a pickle. It has no attributes: a pickle may set those of anything that it holds."""

    __slots__ = ()


class _RebuildTensor(_Rebuild):
    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
        numbers = [offset, *shape, *strides]
        known = isinstance(storage, _Storage) and len(shape) == len(strides) <= _MOST_AXES
        if not known or not all(map(_is_size, numbers)):
            raise _MalformedError("is damaged")
        return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _RebuildParameter(_Rebuild):
    __slots__ = ()

    def __call__(self, tensor: Any, *_: Any) -> Any:
        return tensor


_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
}


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _named(value: dict[Any, Any]) -> Iterator[tuple[str, _Tensor]]:
    """Yields the tensors of a dictionary by name; each dictionary once, as one may contain itself."""
    left: list[tuple[str, Any]] = [("", value)]
    seen: set[int] = set()
    while left:
        name, found = left.pop()
        if isinstance(found, _Tensor):
            yield name, found
        elif isinstance(found, dict) and id(found) not in seen:
            seen.add(id(found))
            items = dict.items(found)  # not its own, which a pickle may have replaced
            try:
                inside = [(f"{name}.{key}" if name else str(key), each) for key, each in items]
            except ValueError as error:  # a number of more digits than Python writes
                raise _MalformedError("is damaged") from error
            left.extend(reversed(inside))


def _array(name: str, tensor: _Tensor, contents: bytes | memoryview) -> np.ndarray:
    """Returns a tensor as a view of its storage."""
    storage, offset, shape, strides = tensor
    count = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    # A tensor with more elements than its storage repeats some: no weights do, and a copy of it might fill the memory.
    if count > storage.size or (count and last >= storage.size):
        raise _MalformedError(f"holds {name[:100]!a} of shape {shape} outside its storage of {storage.size} elements")
    steps = [stride * storage.dtype.itemsize for stride in strides]
    try:
        whole = np.frombuffer(contents, storage.dtype) if count else np.zeros(0, storage.dtype)
        return np.lib.stride_tricks.as_strided(whole[offset if count else 0 :], shape, steps, writeable=False)
    except (ValueError, OverflowError) as error:  # an axis that has no bytes, but more than numpy counts
        raise _MalformedError("is damaged") from error

"""Reads and writes safetensors files (huggingface.co/docs/safetensors), without the package of that name.

The file is the length of its header as u64, the header (JSON: by name the type, the shape, and where its bytes begin
and end), and the bytes of all tensors, little endian. It can hold no code. What is checked is that it is whole: every
byte belongs to exactly one tensor, and each tensor has the bytes that its type and shape need.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from gen_jax.method import UserError, counted
from gen_jax.run import replacing

SUFFIX = ".safetensors"
_LENGTH = 8  # bytes of the header's length
_LONGEST = 100_000_000  # bytes of a header, as in the format's own reader
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": jnp.bfloat16, "I64": "<i8", "I32": "<i4", "I16": "<i2",
    "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


_KINDS = {np.dtype(dtype): kind for kind, dtype in _DTYPES.items()}


class _MalformedError(Exception):
    """The file is not what it should be; the text completes "<path> "."""


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the tensors of a safetensors file by name, as read-only arrays; bfloat16 keeps its type, as JAX has it.

    Args:
      path: of the file.

    Raises:
      UserError: there is no such file; it is no safetensors file, or is cut short; a tensor of a type that is not
        known here, or whose bytes are not those of its shape; tensors that overlap or leave bytes unused.

    Example:
      >>> import tempfile
      >>> header = b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
      >>> with tempfile.NamedTemporaryFile() as file:
      ...     _ = file.write(len(header).to_bytes(8, "little") + header + np.float32([1, 2]).tobytes())
      ...     file.flush()
      ...     read(file.name)["w"].tolist()
      [1.0, 2.0]
    """
    return read_with_metadata(path)[0]


def read_with_metadata(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the tensors of a file, as `read` does, and what is told about them: texts by name, {} if nothing is."""
    path = pathlib.Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the weights file {path}: {error.strerror}") from error
    try:
        header, contents = _split(data)
        places = {name: _place(name, entry) for name, entry in header.items() if name != "__metadata__"}
        _check_cover(places, len(contents))
        told = header.get("__metadata__", {})
        if not isinstance(told, dict) or not all(isinstance(text, str) for text in told.values()):
            raise _MalformedError("has damaged metadata")
        return {name: _array(name, contents, *place) for name, place in places.items()}, told
    except _MalformedError as error:
        raise UserError(f"{path} {error}: download or save it again") from error


def write(path: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file, whole or not at all.

    Args:
      path: of the file.
      tensors: by name, of the types that `read` knows.
      metadata: texts by name.

    Raises:
      UserError: it cannot be written.

    Example:
      >>> import tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "two.safetensors"
      >>> write(path, {"step": np.int32(7), "w": np.float32([[1, 2]])}, {"made by": "me"})
      >>> read_with_metadata(path)
      ({'step': array(7, dtype=int32), 'w': array([[1., 2.]], dtype=float32)}, {'made by': 'me'})
    """
    # The largest types first: every tensor then begins at a multiple of its type's size, as the format recommends.
    arrays = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _KINDS[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _LENGTH)
    with replacing(path) as file:
        file.write(len(text).to_bytes(_LENGTH, "little") + text)
        for array in arrays.values():
            file.write(array.tobytes())


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header, and the bytes that follow it."""
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    if len(data) < _LENGTH or end - _LENGTH > _LONGEST or data[_LENGTH : _LENGTH + 1] not in (b"{", b""):
        raise _MalformedError("is no safetensors file")
    if len(data) < end:
        raise _MalformedError("is cut short")
    try:
        header = json.loads(data[_LENGTH:end].decode(), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise _MalformedError("has a damaged header") from error
    return header, memoryview(data)[end:]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _place(name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """The type and shape of a tensor, and where its bytes begin and end."""
    shown = ascii(name[:100])
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise _MalformedError(f"has no type, shape and place for {shown}")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise _MalformedError(f"holds {shown} of a type that is not known here, {ascii(kind)[:40]}")
    dtype = np.dtype(_DTYPES[kind])
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _MalformedError(f"has no valid shape and place for {shown}")
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise _MalformedError(f"has {counted(end - begin, 'byte')} for {shown} of type {kind} and shape {shape}")
    return dtype, tuple(shape), begin, end


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**62 for value in values)


def _array(
    name: str, contents: memoryview, dtype: np.dtype, shape: tuple[int, ...], begin: int, end: int
) -> np.ndarray:
    try:
        return np.frombuffer(contents[begin:end], dtype, math.prod(shape)).reshape(shape)
    except (ValueError, OverflowError) as error:  # more axes than numpy has, or one that has no bytes but is too long
        raise _MalformedError(f"has a shape for {name[:100]!a} that cannot be used") from error


def _check_cover(places: dict[str, tuple[np.dtype, tuple[int, ...], int, int]], size: int) -> None:
    """Refuses tensors that do not follow each other from the first byte to the last of `size`."""
    reached = 0
    for name, (_, _, begin, end) in sorted(places.items(), key=lambda item: item[1][2:]):
        if begin != reached:
            what = "overlaps another tensor" if begin < reached else "leaves bytes unused before it"
            raise _MalformedError(f"is damaged: {name[:100]!a} {what}")
        reached = end
    if size < reached:
        raise _MalformedError("is cut short")
    if size > reached:
        raise _MalformedError(f"has {counted(size - reached, 'byte')} more than its tensors")

"""Files written here by hand, as PyTorch would: it is not needed."""

import collections
import contextlib
import io
import os
import pathlib
import pickle
import struct
import sys
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.method import UserError
from gen_jax.metrics import torch_file

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MACHINE = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
TYPES = {"float32": "FloatStorage", "int64": "LongStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
         "bool": "BoolStorage", "float64": "DoubleStorage", "uint8": "ByteStorage"}  # fmt: skip


class Named:
    """Pickles as a name of another module, which need not exist."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class Call:
    """Pickles as a call of a name."""

    def __init__(self, what: Any, *arguments: Any):
        self.what, self.arguments = what, arguments


class Storage:
    """Pickles as a reference to the numbers of an array, which a file holds under `key`."""

    def __init__(self, key: str, array: np.ndarray, size: int | None = None):
        self.key, self.array, self.size = key, array, array.size if size is None else size


def tensor(storage: Storage, offset: Any, shape: Any, strides: Any) -> Call:
    rebuild = Named("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, offset, shape, strides, False, collections.OrderedDict())


_Python: Any = pickle._Pickler  # pyright: ignore  the one in Python, which can write any name


class Pickler(_Python):
    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Named):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.what)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        elif isinstance(obj, Storage):
            kind = Named("torch", TYPES[str(obj.array.dtype)])
            self.save(("storage", kind, obj.key, "cpu", obj.size))
            self.write(pickle.BINPERSID)
        else:
            super().save(obj, save_persistent_id)

    def memoize(self, obj):
        pass  # of which this pickler's own objects would lose count


def pickled(value: Any) -> bytes:
    file = io.BytesIO()
    Pickler(file, 2).dump(value)
    return file.getvalue()


def legacy(value: Any, *storages: Storage) -> bytes:
    start = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, MACHINE)]
    parts = [*start, pickled(value), pickle.dumps([storage.key for storage in storages], 2)]
    for storage in storages:
        parts += [struct.pack("<q", storage.array.size), storage.array.tobytes()]
    return b"".join(parts)


def zipped(
    value: Any, *storages: Storage, compression: int = zipfile.ZIP_STORED, byteorder: bytes = b"little"
) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("net/data.pkl", pickled(value))
        archive.writestr("net/byteorder", byteorder)
        for storage in storages:
            archive.writestr(f"net/data/{storage.key}", storage.array.tobytes())
        archive.writestr("net/version", b"3\n")
    return file.getvalue()


FORMATS = {"legacy": legacy, "zip": zipped}
each_format = pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)


@pytest.fixture
def refused(tmp_path: pathlib.Path):
    """Reads a file of some bytes, which must end in one line, and returns it."""

    def read(data: bytes) -> str:
        path = tmp_path / "net.pth"
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            torch_file.read(path)
        line = str(caught.value)
        assert "\n" not in line
        assert line.startswith(str(path))
        assert len(line) < 400
        return line.removeprefix(f"{path} ")

    return read


@each_format
def test_reads_tensors_of_all_layouts(tmp_path: pathlib.Path, write: Any):
    numbers, counts = Storage("0", np.arange(12, dtype=np.float32)), Storage("1", np.array([7, 8], np.int64))
    inside = {"scalar": tensor(counts, 1, (), ()), "none": tensor(counts, 0, (0, 3), (3, 1)), 5: "a text"}
    value = collections.OrderedDict(
        {
            "rows": tensor(numbers, 0, (3, 4), (4, 1)),
            "columns": tensor(numbers, 0, (4, 3), (1, 4)),
            "end": tensor(numbers, 10, (2,), (1,)),
            "parameter": Call(
                Named("torch._utils", "_rebuild_parameter"), tensor(numbers, 3, (1, 2), (9, 2)), True, None
            ),
            "inside": inside,
            "epoch": 3,
            "list": [1.5, None],
        }
    )
    (tmp_path / "net.pth").write_bytes(write(value, numbers, counts))
    found = torch_file.read(tmp_path / "net.pth")
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = {"rows": rows, "columns": rows.T, "end": rows[2, 2:], "parameter": np.array([[3, 5]], np.float32),
                "inside.scalar": np.array(8), "inside.none": np.zeros((0, 3), np.int64)}  # fmt: skip
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].flags.writeable


@each_format
@pytest.mark.parametrize("dtype", TYPES)
def test_reads_every_type(tmp_path: pathlib.Path, write: Any, dtype: str):
    array = np.array([0, 1, 1, 0]).astype(jnp.bfloat16 if dtype == "bfloat16" else dtype)
    storage = Storage("0", array)
    (tmp_path / "net.pth").write_bytes(write({"a": tensor(storage, 0, (4,), (1,))}, storage))
    found = torch_file.read(tmp_path / "net.pth")["a"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


HOSTILE = {
    "os.system": Call(Named("os", "system"), "touch {}"),
    "posix.system": Call(Named("posix", "system"), "touch {}"),
    "builtins.eval": Call(Named("builtins", "eval"), "open('{}', 'w')"),
    "builtins.getattr": Call(Named("builtins", "getattr"), Named("collections", "OrderedDict"), "fromkeys"),
    "collections.OrderedDict.__init__": Named("collections", "OrderedDict.__init__"),
    "torch.load": Call(Named("torch", "load"), "{}"),
    "torch.nn.modules.linear.Linear": Named("torch.nn.modules.linear", "Linear"),
    "torch._utils._rebuild_tensor_v2.__call__": Named("torch._utils", "_rebuild_tensor_v2.__call__"),
}


@each_format
@pytest.mark.parametrize("name", HOSTILE)
def test_refuses_every_other_name_and_runs_nothing(tmp_path: pathlib.Path, refused: Any, write: Any, name: str):
    trap, call = tmp_path / "trap", HOSTILE[name]
    if isinstance(call, Call):
        words = [word.format(trap) if isinstance(word, str) else word for word in call.arguments]
        call = Call(call.what, *words)
    assert refused(write({"a": call})) == (
        f"names '{name}', which weights do not need and which might run any code: "
        "save it again with torch.save(model.state_dict(), path)"
    )
    assert not trap.exists()


def test_refuses_a_plain_pickle_that_would_run_something(tmp_path: pathlib.Path, refused: Any):
    assert "'os.system'" in refused(pickled(Call(Named("os", "system"), f"touch {tmp_path / 'trap'}")))
    assert not (tmp_path / "trap").exists()
    assert refused(pickle.dumps({"a": 1})).startswith("is no PyTorch weights file")


def test_imports_nothing(refused: Any):
    assert "antigravity" not in sys.modules
    assert "antigravity" in refused(legacy({"a": Named("antigravity", "fly")}))
    assert "antigravity" not in sys.modules


def test_a_name_with_line_breaks_stays_on_one_line(refused: Any):
    strange = pickle.dumps({"a": 0}, 4)[:-2] + b"\x8c\x07os\n\x1b[2J\x8c\x06system\x93s."
    parts = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, MACHINE)]
    assert refused(b"".join([*parts, strange])).startswith(r"names 'os\n\x1b[2J.system'")


def test_what_is_resolved_cannot_be_changed():
    """BUILD sets attributes of anything: what files share must have none."""
    for value in torch_file._NAMES.values():
        with pytest.raises((AttributeError, TypeError)):
            value.anything = 1  # pyright: ignore
    for state in ({"anything": 1}, (None, {"anything": 1})):
        rebuild = pickled(Named("torch._utils", "_rebuild_tensor_v2"))[:-1] + pickle.dumps(state, 2)[2:-1] + b"b."
        with pytest.raises(torch_file._MalformedError):
            torch_file._unpickle(io.BytesIO(rebuild), {})


def test_methods_that_a_pickle_replaces_are_not_called(tmp_path: pathlib.Path):
    """A state dict has attributes, `_metadata`, so a file may set any."""
    storage = Storage("0", np.arange(3, dtype=np.float32))
    value = pickled(collections.OrderedDict({"a": tensor(storage, 0, (3,), (1,))}))[:-1]
    state = pickled({"items": Named("torch._utils", "_rebuild_parameter")})[2:-1]
    parts = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, MACHINE)]
    parts += [value + state + pickle.BUILD + pickle.STOP, pickle.dumps(["0"], 2)]
    parts += [struct.pack("<q", 3), storage.array.tobytes()]
    (tmp_path / "net.pth").write_bytes(b"".join(parts))
    assert torch_file.read(tmp_path / "net.pth")["a"].tolist() == [0, 1, 2]


@each_format
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (3, 5), (5, 1)),
        (9, (4,), (1,)),
        (0, (2, 6), (7, 1)),
        (0, (5, 5), (0, 0)),
        (0, (2**40,), (0,)),
        (-1, (2,), (1,)),
        (5, (3,), (-1,)),
        (0, (-1, -1), (1, 1)),
        (0, (0, 2**61), (1, 1)),
        (0, (4, 3), (1,)),
        (0, 12, 1),
        (0, (2.0,), (1,)),
        (0, (1,) * 65, (1,) * 65),
        (2**70, (1,), (1,)),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(refused: Any, write: Any, offset: Any, shape: Any, strides: Any):
    storage = Storage("0", np.arange(12, dtype=np.float32))
    line = refused(write({"net.weight": tensor(storage, offset, shape, strides)}, storage))
    assert line.startswith(("holds 'net.weight' of shape", "is damaged"))


@each_format
def test_a_file_that_is_cut_short_is_refused_wherever(refused: Any, write: Any):
    storage = Storage("0", np.arange(12, dtype=np.float32))
    data = write({"a": tensor(storage, 0, (12,), (1,))}, storage)
    for length in [*range(0, len(data), 7), len(data) - 1]:
        assert "save it again" in refused(data[:length])


@each_format
def test_a_file_with_any_wrong_byte_gives_arrays_or_a_user_error(tmp_path: pathlib.Path, write: Any):
    storage = Storage("0", np.arange(12, dtype=np.float32))
    data, path = write({"a": tensor(storage, 0, (3, 4), (4, 1))}, storage), tmp_path / "net.pth"
    rng = np.random.default_rng(0)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        with contextlib.suppress(UserError):
            assert all(array.size <= 12 for array in torch_file.read(path).values())


def test_other_files_are_refused(tmp_path: pathlib.Path, refused: Any):
    for data in (b"", b"hello\n", b"PK\x03\x04", os.urandom(1000), np.arange(1000.0).tobytes()):
        assert "save it again" in refused(data)
    file = io.BytesIO()
    np.savez(file, a=np.ones(3))
    assert refused(file.getvalue()).startswith("is a zip archive, but not of PyTorch weights")
    with pytest.raises(UserError, match=r"^cannot read the weights file .*missing: No such file or directory$"):
        torch_file.read(tmp_path / "missing")
    with pytest.raises(UserError, match=r"^cannot read the weights file .*: Is a directory$"):
        torch_file.read(tmp_path)


@each_format
def test_storages_that_do_not_fit_are_refused(refused: Any, write: Any):
    storage = Storage("0", np.arange(12, dtype=np.float32))
    assert refused(write({"a": tensor(storage, 0, (12,), (1,))})).startswith("lacks a storage")
    longer = Storage("0", storage.array, size=13)
    assert refused(write({"a": tensor(longer, 0, (12,), (1,))}, storage)).startswith(
        ("is cut short", "holds a storage")
    )
    other = Storage("0", np.arange(12))
    both = {"a": tensor(storage, 0, (12,), (1,)), "b": tensor(other, 0, (12,), (1,))}
    assert refused(write(both, storage)).startswith("uses one storage with two types")
    assert refused(write([tensor(storage, 0, (12,), (1,))], storage)).startswith("holds no dictionary")


def test_what_would_fill_the_memory_is_refused(refused: Any):
    storage = Storage("0", np.zeros(10_000, np.float32))
    bomb = zipped({"a": tensor(storage, 0, (10_000,), (1,))}, storage, compression=zipfile.ZIP_DEFLATED)
    assert refused(bomb).startswith("holds compressed data")
    assert refused(legacy({2**40_000: 1})).startswith("is damaged")
    memo = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.LONG_BINPUT + b"\xff\xff\xff\xff" + pickle.STOP
    assert refused(memo).startswith("is damaged")
    text = pickle.PROTO + b"\x04" + pickle.BINUNICODE8 + struct.pack("<Q", 2**62) + b"a" + pickle.STOP
    assert refused(text).startswith("is cut short")


def program(*instructions: bytes) -> bytes:
    """A file whose value is a dictionary with what some instructions make as a key."""
    value = pickle.PROTO + b"\x04" + pickle.EMPTY_DICT + b"".join(instructions) + pickle.NONE + pickle.SETITEM
    parts = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, MACHINE)]
    return b"".join([*parts, value + pickle.STOP, pickle.dumps([], 2)])


REBUILD = b"ctorch._utils\n_rebuild_parameter\n"
NESTS = {
    "tuples": (pickle.EMPTY_TUPLE, pickle.TUPLE1),
    "pairs": (pickle.NONE, pickle.NONE + pickle.TUPLE2),
    "marked": (pickle.MARK * 5_000, pickle.TUPLE),
    "from the memo": (pickle.NONE, pickle.TUPLE1 + pickle.BINPUT + b"\0" + pickle.POP + pickle.BINGET + b"\0"),
    "frozen sets": (pickle.MARK * 5_000, pickle.FROZENSET),
    "what a call returns": (REBUILD * 5_000 + pickle.NONE, pickle.TUPLE1 * 2 + pickle.REDUCE),
}  # fmt: skip


@pytest.mark.parametrize("nest", NESTS)
def test_keys_nested_deeply_would_overflow_the_stack_and_are_refused(refused: Any, nest: str):
    start, again = NESTS[nest]
    assert refused(program(start, again * 5_000)).startswith("holds tuples in tuples")


def test_keys_that_double_would_take_years_to_hash_and_are_refused(refused: Any):
    doubled = pickle.EMPTY_TUPLE + (pickle.DUP + pickle.TUPLE2) * 20
    assert refused(program(doubled)).startswith("holds tuples in tuples")


def test_tuples_of_ordinary_depth_are_read_past(tmp_path: pathlib.Path):
    storage = Storage("0", np.arange(3, dtype=np.float32))
    value: Any = {"a": tensor(storage, 0, (3,), (1,)), "names": tuple(map(str, range(9_000)))}
    for depth in range(50):
        value["nest"] = (value.get("nest"), depth)
    (tmp_path / "net.pth").write_bytes(legacy({"net": value, "epoch": ((1, 2), {"b": (3,)})}, storage))
    assert list(torch_file.read(tmp_path / "net.pth")) == ["net.a"]


def test_a_dictionary_inside_itself_ends(tmp_path: pathlib.Path):
    storage = Storage("0", np.arange(3, dtype=np.float32))
    value = pickled({"a": tensor(storage, 0, (3,), (1,))})
    itself = value[:2] + pickle.EMPTY_DICT + pickle.BINPUT + b"\x00" + value[3:-1]
    itself += pickle.BINUNICODE + struct.pack("<I", 1) + b"b" + pickle.BINGET + b"\x00" + pickle.SETITEM + pickle.STOP
    parts = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, MACHINE)]
    parts += [itself, pickle.dumps(["0"], 2), struct.pack("<q", 3), storage.array.tobytes()]
    (tmp_path / "net.pth").write_bytes(b"".join(parts))
    assert list(torch_file.read(tmp_path / "net.pth")) == ["a"]


def test_big_endian_archives_are_refused(refused: Any):
    assert refused(zipped({}, byteorder=b"big")).startswith("was written by a big-endian machine")

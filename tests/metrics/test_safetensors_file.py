"""Files written here by hand, as the package safetensors would: it is not needed."""

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.method import UserError
from gen_jax.metrics import safetensors_file

ONE = np.arange(6, dtype=np.float32).reshape(2, 3)
TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": bool,
}  # fmt: skip


def entry(kind, shape, begin, end):
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def written(header, contents=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + contents


def read(tmp_path, data):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    return safetensors_file.read(path)


def refused(tmp_path, data):
    with pytest.raises(UserError) as error:
        read(tmp_path, data)
    text = str(error.value)
    assert text.startswith(f"{tmp_path}/weights.safetensors ")
    assert text.isprintable()
    return text


def test_tensors_come_by_name_with_their_types_and_numbers(tmp_path):
    header, contents = {"__metadata__": {"format": "pt"}}, b""
    for kind, dtype in TYPES.items():
        values = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
        header[f"a.{kind}"] = entry(kind, [2, 3], len(contents), len(contents) + values.nbytes)
        contents += values.tobytes()
    found = read(tmp_path, written(header, contents))
    assert found.keys() == {f"a.{kind}" for kind in TYPES}
    for kind, dtype in TYPES.items():
        assert found[f"a.{kind}"].dtype == dtype
        assert found[f"a.{kind}"].astype(float).tolist() == [[0, 1, 1], [1, 0, 1]]


def test_order_of_the_header_spaces_after_it_scalars_and_empty_tensors_are_fine(tmp_path):
    header = {
        "second": entry("F32", [2, 3], 4, 28), "empty": entry("F32", [0, 3], 4, 4), "scalar": entry("F32", [], 0, 4)
    }  # fmt: skip
    text = json.dumps(header).encode() + b"    "
    found = read(tmp_path, written(text, np.float32(7).tobytes() + ONE.tobytes()))
    assert found["scalar"].shape == ()
    assert float(found["scalar"]) == 7
    assert found["empty"].shape == (0, 3)
    np.testing.assert_array_equal(found["second"], ONE)


def test_arrays_cannot_be_written_to(tmp_path):
    found = read(tmp_path, written({"a": entry("F32", [2, 3], 0, 24)}, ONE.tobytes()))
    assert not found["a"].flags.writeable


WHOLE = written({"a": entry("F32", [2, 3], 0, 24)}, ONE.tobytes())


def test_a_file_cut_anywhere_is_refused(tmp_path):
    for end in range(len(WHOLE)):
        assert ("is no safetensors file" if end < 8 else "is cut short") in refused(tmp_path, WHOLE[:end]), end


@pytest.mark.parametrize(
    ("header", "size", "part"),
    [
        (b"[1]", 0, "is no safetensors file"),
        (b"{not json}", 0, "damaged header"),
        (b'{"a":' * 100_000, 0, "damaged header"),
        (b'{"a": \xff}', 0, "damaged header"),
        (b'{"a": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]}, "a": 1}', 1, "damaged header"),
        ({"a": 3}, 0, "no type, shape and place for 'a'"),
        ({"a\n": {"dtype": "F32", "shape": [1]}}, 0, r"no type, shape and place for 'a\n'"),
        ({"a": entry("F8_E4M3", [1], 0, 1)}, 1, "not known here, 'F8_E4M3'"),
        ({"a": entry(["F32"], [1], 0, 4)}, 4, "not known here, ['F32']"),
        ({"a": entry("F32", [2], 0, 4)}, 4, "has 4 bytes for 'a' of type F32 and shape [2]"),
        ({"a": entry("F32", [1], 4, 0)}, 4, "has -4 bytes for 'a'"),
        ({"a": entry("F32", [-1], 0, 4)}, 4, "no valid shape and place"),
        ({"a": entry("F32", [True], 0, 4)}, 4, "no valid shape and place"),
        ({"a": entry("F32", [1.0], 0, 4)}, 4, "no valid shape and place"),
        ({"a": entry("F32", "1", 0, 4)}, 4, "no valid shape and place"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, 4, "no valid shape and place"),
        ({"a": entry("F32", [0, 2**61], 0, 0)}, 0, "shape for 'a' that cannot be used"),
        ({"a": entry("U8", [1] * 100, 0, 1)}, 1, "shape for 'a' that cannot be used"),
        ({"a": entry("U8", [2**61], 0, 2**61)}, 8, "is cut short"),
        ({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 3, 7)}, 7, "'b' overlaps another tensor"),
        ({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 5, 9)}, 9, "'b' leaves bytes unused before it"),
        ({"a": entry("U8", [4], 1, 5)}, 5, "'a' leaves bytes unused before it"),
        ({"a": entry("U8", [4], 0, 4)}, 6, "has 2 bytes more than its tensors"),
        ({}, 1, "has 1 byte more than its tensors"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_whole_is_refused_in_one_line(tmp_path, header, size, part):
    assert part in refused(tmp_path, written(header, bytes(size)))


def test_a_header_of_terabytes_is_not_asked_for(tmp_path):
    assert "is no safetensors file" in refused(tmp_path, struct.pack("<Q", 2**63) + b"{}")


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot read the weights file .*: No such file"):
        safetensors_file.read(tmp_path / "nothing.safetensors")

"""Arrays that stay on disk are those that numpy would have read."""

import pathlib
import zipfile
import zlib

import numpy as np
import pytest

from gen_jax.method import UserError
from gen_jax.metrics import on_disk

PICTURES = np.random.default_rng(0).integers(0, 256, (20, 4, 6, 3), np.uint8)
SAVE = {"stored": np.savez, "compressed": np.savez_compressed}


@pytest.mark.parametrize("which", [3, -1, slice(2, 5), slice(None), np.array([4, 0, 4])], ids=str)
def test_rows_are_those_of_the_array(which):
    numbers = np.array([19, 0, 7, 7, 3, 12])
    rows = on_disk.Rows(PICTURES, numbers)
    np.testing.assert_array_equal(rows[which], PICTURES[numbers][which])
    assert (len(rows), rows.shape, rows.ndim, rows.dtype) == (6, (6, 4, 6, 3), 4, np.uint8)


def test_rows_of_rows_and_rows_as_an_array():
    rows = on_disk.Rows(on_disk.Rows(PICTURES, np.arange(10, 20)), np.array([9, 1]))
    np.testing.assert_array_equal(np.asarray(rows), PICTURES[[19, 11]])


@pytest.mark.parametrize("sizes", [[20], [1] * 20, [7, 0, 13]])
def test_a_store_gives_back_what_was_added_and_leaves_no_file(tmp_path: pathlib.Path, sizes: list[int]):
    values = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    store = on_disk.Store(tmp_path / "features")
    for piece in np.split(values, np.cumsum(sizes)[:-1]):
        store.append(piece)
    found = store.array()
    assert isinstance(found, np.memmap)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values)
    assert not list((tmp_path / "features").iterdir())


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: pathlib.Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"cannot write the cache in .*file/features .*--config.data.cache_dir, or --cache_dir"
    ):
        on_disk.Store(tmp_path / "file/features")


@pytest.mark.parametrize("save", SAVE)
@pytest.mark.parametrize("array", [PICTURES, np.asfortranarray(PICTURES), PICTURES[:0], PICTURES[0, 0, 0, 0]],
                         ids=["rows", "columns", "none", "scalar"])  # fmt: skip
def test_an_array_of_a_file_is_mapped(tmp_path: pathlib.Path, save: str, array: np.ndarray):
    path = tmp_path / "made.npz"
    SAVE[save](path, first=np.arange(3), second=array)
    found = on_disk.member(path, "second", tmp_path / "cache")
    assert isinstance(found, np.memmap) == bool(array.size)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)
    assert (tmp_path / "cache").exists() == (save == "compressed")  # an array that is stored needs no copy


@pytest.mark.parametrize("save", SAVE)
def test_a_byte_that_changed_on_disk_is_found(tmp_path: pathlib.Path, save: str):
    path = tmp_path / "made.npz"
    SAVE[save](path, PICTURES)
    with zipfile.ZipFile(path) as archive:
        size = archive.infolist()[0].compress_size
    content = bytearray(path.read_bytes())
    content[size - 5] ^= 1
    path.write_bytes(content)
    with pytest.raises((zipfile.BadZipFile, zlib.error)):
        on_disk.member(path, "arr_0", tmp_path)


def test_objects_are_refused(tmp_path: pathlib.Path):
    np.savez(tmp_path / "made.npz", np.array([{}, []], object))
    with pytest.raises(ValueError, match="Object arrays"):
        on_disk.member(tmp_path / "made.npz", "arr_0", tmp_path)

import pickle
import pickletools

import numpy as np
import pytest

from gen_jax.data.dataset import Dataset
from gen_jax.method import DataSpec, UserError
from gen_jax.text import by_file
from gen_jax.text.encoder import Given

EMPTY = Given(Dataset(DataSpec("made_up", (8, 8, 1), 4), {}, None))
ROWS = np.random.default_rng(0).normal(size=(3, 2, 5)).astype(np.float32)


class Runs:
    def __reduce__(self):
        return print, ("this ran",)


def published(folder, rows=ROWS, protocol=2, names=("a/one", "a/two", "b/three")):
    for split, part in (("train", slice(0, 2)), ("test", slice(2, 3))):
        (folder / split).mkdir(parents=True)
        (folder / split / by_file.NAMES_FILE).write_bytes(pickle.dumps(list(names[part]), protocol))
        (folder / split / by_file.EMBEDDINGS_FILE).write_bytes(pickle.dumps(list(rows[part]), protocol))
    files = {"train": ["a/two.jpg", "a/one.jpg"], "test": ["b/three.jpg"]}
    captions = {"train": [["two", "2"], ["one", "1"]], "test": [["three", "3"]]}
    return Given(Dataset(DataSpec("birds", (8, 8, 3), 2), {}, None, captions=captions, files=files))


def test_a_table_of_texts_is_looked_up(tmp_path):
    np.savez(tmp_path / "e.npz", texts=np.array(["a cat", "größe"]), embeddings=ROWS[0])
    by = by_file.make(EMPTY, str(tmp_path / "e.npz"))
    np.testing.assert_array_equal(by.encode(["größe", "a cat", "größe"]), ROWS[0][[1, 0, 1]])
    with pytest.raises(UserError, match="the text 'a dog' has no embedding in the file of this run"):
        by.encode(["a dog"])


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_the_published_layout_gives_each_caption_its_row(tmp_path, protocol):
    by = by_file.make(published(tmp_path, protocol=protocol), str(tmp_path))
    np.testing.assert_allclose(by.encode(["one", "1", "2", "three"]), [*ROWS[0], ROWS[1, 1], ROWS[2, 0]], atol=1e-7)


def test_arrays_of_other_kinds_and_orders_are_read(tmp_path):
    for array in (ROWS[0].astype(">f4"), np.asfortranarray(ROWS[0].astype(np.float64)), ROWS[0].astype(np.float16)):
        path = tmp_path / "x.pickle"
        path.write_bytes(pickle.dumps([array], 2))
        np.testing.assert_allclose(by_file.read_pickle(path)[0], ROWS[0], atol=2e-3)


@pytest.mark.parametrize(
    "value", [[Runs()], [np.zeros(2, np.int64)], [np.array(["a"], object)], {"a": 1}, [np.random.default_rng]]
)
def test_a_pickle_of_anything_else_is_refused_and_runs_nothing(tmp_path, value, capsys):
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(value, 2))
    assert "this ran" not in capsys.readouterr().out
    with pytest.raises(UserError, match="is no list of names or embeddings"):
        by_file.read_pickle(path)
    assert capsys.readouterr().out == ""


def test_a_damaged_pickle_is_one_line(tmp_path):
    whole = pickle.dumps(list(ROWS), 2)
    assert list(pickletools.genops(whole))
    for end in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "x.pickle").write_bytes(whole[:end])
        with pytest.raises(UserError, match="is no list") as caught:
            by_file.read_pickle(tmp_path / "x.pickle")
        assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"texts": np.array(["a"])}, "cannot read embeddings from"),
        ({"texts": np.array(["a"]), "embeddings": np.zeros((2, 3))}, r"1 texts and embeddings of \[2, 3\]"),
        ({"texts": np.array(["a"]), "embeddings": np.full((1, 3), np.nan)}, "must be finite"),
        ({"texts": np.array(["a"], object), "embeddings": np.zeros((1, 3))}, "cannot read embeddings from"),
    ],
)
def test_other_files_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "e.npz", **arrays)
    with pytest.raises(UserError, match=message):
        by_file.make(EMPTY, str(tmp_path / "e.npz"))


def test_pictures_without_embeddings_are_refused(tmp_path):
    given = published(tmp_path, names=("a/one", "a/other", "b/three"))
    with pytest.raises(UserError, match="has no embeddings of the captions of 'a/two.jpg'"):
        by_file.make(given, str(tmp_path))
    with pytest.raises(UserError, match=r"config.data.text.path is empty"):
        by_file.make(given)

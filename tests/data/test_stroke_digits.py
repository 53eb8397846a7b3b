import ast
import concurrent.futures
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from conftest import data_config

from gen_jax.data import cache, dataset, stroke_digits
from gen_jax.data.dataset import Dataset
from gen_jax.method import DataSpec, UserError, labelled


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    image, label = stroke_digits.draw(seed=3, index=np.arange(400))
    return image[..., 0].astype(np.float64), label


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stroke_digits.StrokeDigits, "NUM_EXAMPLES", {"train": 60, "test": 20})


def test_a_picture_depends_on_seed_and_index_alone(monkeypatch: pytest.MonkeyPatch):
    index = np.arange(60)
    image, label = stroke_digits.draw(0, index)
    backwards, labels = stroke_digits.draw(0, index[::-1])
    np.testing.assert_array_equal(image, backwards[::-1])
    np.testing.assert_array_equal(label, labels[::-1])
    monkeypatch.setattr(stroke_digits, "_CHUNK", 7)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        alone = np.concatenate([picture for picture, _ in pool.map(lambda i: stroke_digits.draw(0, index[[i]]), index)])
        fours = list(pool.map(lambda start: stroke_digits.draw(0, index[start : start + 4])[0], range(0, 60, 4)))
    np.testing.assert_array_equal(image, alone)
    np.testing.assert_array_equal(image, np.concatenate(fours))
    assert (stroke_digits.draw(1, index)[0] != image).any(axis=(1, 2, 3)).all()


def test_another_process_draws_the_same_pictures():
    index = np.arange(30)
    code = (
        "import numpy as np; from gen_jax.data import cache, stroke_digits as s;"
        "print(cache.fingerprint({'image': s.draw(0, np.arange(30))[0]}))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == cache.fingerprint({"image": stroke_digits.draw(0, index)[0]})


def test_no_function_that_rounds_differently_on_another_machine_is_used():
    # IEEE 754 fixes + - * and /; sin, exp and matrix products differ between libraries and processors.
    tree = ast.parse(pathlib.Path(stroke_digits.__file__).read_text())
    of_numpy = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np"
    }
    arithmetic = {"abs", "clip", "cumsum", "max", "maximum", "min", "minimum", "rint", "subtract"}
    layout = {"arange", "array", "concatenate", "empty", "empty_like", "expand_dims", "full", "repeat", "stack"}
    layout |= {"take_along_axis", "tile"}
    types = {"float32", "int32", "int64", "ndarray", "uint8", "uint64"}
    assert of_numpy <= arithmetic | layout | types | {"random"}
    assert not any(isinstance(node, ast.MatMult) for node in ast.walk(tree))


def test_classes_are_balanced(drawn: tuple[np.ndarray, np.ndarray]):
    assert np.bincount(drawn[1]).tolist() == [40] * 10


def test_white_on_black_fitted_and_centred(drawn: tuple[np.ndarray, np.ndarray]):
    image, _ = drawn
    assert (image.max(axis=(1, 2)) == 255).all()
    assert (np.median(image, axis=(1, 2)) == 0).all()
    pixel = np.arange(28)
    for axis in (1, 2):
        mass = image.sum(axis=3 - axis)  # [N, 28], along the axis
        centre = (mass * pixel).sum(axis=1) / mass.sum(axis=1)
        assert np.abs(centre - 13.5).max() <= 0.5
        inked = image.max(axis=3 - axis) > 127
        extent = 28 - inked[:, ::-1].argmax(axis=1) - inked.argmax(axis=1)
        assert extent.max() <= 21


def test_no_ink_is_cut_off(drawn: tuple[np.ndarray, np.ndarray]):
    image, _ = drawn
    rim = np.concatenate([image[:, [0, -1]].reshape(len(image), -1), image[:, :, [0, -1]].reshape(len(image), -1)], 1)
    assert np.mean(rim.max(axis=1) > 127) < 0.01


def test_strokes_are_as_thick_as_those_of_a_pen(drawn: tuple[np.ndarray, np.ndarray]):
    # MNIST's pictures have a mean grey value of 33.3 (of 255).
    image, _ = drawn
    assert 25 < image.mean() < 42
    assert image.mean(axis=(1, 2)).std() > 5


def test_a_disc_is_drawn_where_it_is_asked_for():
    x, y = np.full((1, 1), 10.0), np.full((1, 1), 17.0)
    picture = stroke_digits._ink(x, y, np.full((1, 1), 3.0), np.ones(1))[0]
    row, column = np.mgrid[:28, :28]
    distance = np.sqrt((row - 17) ** 2 + (column - 10) ** 2)
    assert (picture[distance <= 2.5] == 255).all()
    assert (picture[distance >= 3.5] == 0).all()
    assert picture[17, 13] == 153  # the edge is half covered, times 1.2


def test_lines_go_through_their_points():
    tables = stroke_digits.lines()
    np.testing.assert_allclose(tables.weight.sum(axis=1), 1, atol=1e-12)
    assert tables.first[-1] == len(tables.source) == sum(map(len, stroke_digits.HANDS))
    for source, weight in zip(tables.source, tables.weight, strict=True):
        assert set(source[weight == 1]) == set(range(source.max() + 1))


def test_hands_differ_and_all_are_used():
    tables = stroke_digits.lines()
    assert all(len(set(hands)) >= 4 for hands in stroke_digits.HANDS)
    numbers = stroke_digits._numbers(0, np.arange(2_000))
    for digit in range(10):
        count = tables.first[digit + 1] - tables.first[digit]
        chosen = ((numbers[0, digit::10] * 4096) % 1 * count).astype(int)
        np.testing.assert_allclose(np.bincount(chosen, minlength=count) / 200, 1 / count, atol=0.11)


def test_no_two_pictures_are_equal(drawn: tuple[np.ndarray, np.ndarray]):
    assert len(np.unique(drawn[0].reshape(400, -1), axis=0)) == 400


@pytest.mark.usefixtures("few")
def test_prepares_itself_without_tensorflow_and_reads_back_what_was_drawn(tmp_path: pathlib.Path):
    data = dataset.load(data_config(tmp_path, "stroke_digits"))
    assert "tensorflow" not in sys.modules
    assert (data.spec.name, data.spec.image_shape, data.spec.num_examples) == ("stroke_digits", (28, 28, 1), 60)
    assert data.spec.class_names == tuple("0123456789")
    assert data.test is not None
    for arrays, seed, num_examples in ((data.train, 0, 60), (data.test, 1, 20)):
        image, label = stroke_digits.draw(seed, np.arange(num_examples))
        expected = {(int(number), picture.tobytes()) for number, picture in zip(label, image, strict=True)}
        pairs = zip(arrays["label"], arrays["image"], strict=True)
        read = {(int(number), picture.tobytes()) for number, picture in pairs}
        assert read == expected


@pytest.mark.usefixtures("few")
def test_prepares_once_and_over_the_leftovers_of_a_death(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    leftover = tmp_path / "stroke_digits" / "incomplete.ABCDEF_1.0.0"
    leftover.mkdir(parents=True)
    first = dataset.load(data_config(tmp_path, "stroke_digits")).spec
    assert not leftover.exists()
    monkeypatch.setattr(stroke_digits, "draw", None)
    assert dataset.load(data_config(tmp_path, "stroke_digits")).spec == first
    assert dataset.load(data_config(tmp_path, "stroke_digits", train_split="train[:10]")).spec.num_examples == 10


@pytest.mark.usefixtures("few")
def test_several_processes_wait_for_the_one_that_prepares(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    draw = stroke_digits.draw
    monkeypatch.setattr(stroke_digits, "draw", lambda *args: calls.append(args) or draw(*args))
    with concurrent.futures.ThreadPoolExecutor(3) as pool:  # each with a lock of its own, as processes have
        assert set(pool.map(lambda _: stroke_digits._prepare([tmp_path]), range(3))) == {tmp_path}
    assert len(calls) == 2  # one chunk for each split


@pytest.mark.usefixtures("few")
def test_where_the_folder_is_read_only_the_cache_takes_it(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    read_only, writable = tmp_path / "read_only", tmp_path / "cache"
    mkdir = pathlib.Path.mkdir

    def refuse(path: pathlib.Path, *args, **kwargs):
        if read_only in (path, *path.parents):
            raise OSError(30, "Read-only file system")
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    config = data_config(read_only, "stroke_digits", cache_dir=str(writable))
    assert dataset.load(config).spec.num_examples == 60
    assert (writable / "tfds/stroke_digits/1.0.0/dataset_info.json").exists()
    assert config.data_dir == str(read_only)
    with pytest.raises(UserError, match="cannot be written"):
        stroke_digits._prepare([read_only])


@pytest.mark.usefixtures("few")
def test_another_version_is_refused(tmp_path: pathlib.Path):
    config = data_config(tmp_path, "stroke_digits")
    config.name = "stroke_digits:2.0.0"
    with pytest.raises(UserError, match="as version 1.0.0, not 2.0.0"):
        dataset.load(config)


@pytest.mark.slow
def test_who_learned_from_it_alone_reads_mnist(shared: pathlib.Path, tmp_path: pathlib.Path):
    from gen_jax.metrics import classifier

    image, label = stroke_digits.draw(0, np.arange(20_000))
    train = {"image": image, "label": label}
    spec = DataSpec(
        name="stroke_digits",
        image_shape=(28, 28, 1),
        num_examples=len(image),
        features=labelled("0123456789"),
        fingerprint=cache.fingerprint(train),
    )
    judge = classifier.train(Dataset(spec, train, None), str(tmp_path), classifier.Recipe(num_steps=800))
    mnist = dataset.load(data_config(shared / "tfds", "mnist")).test
    assert mnist is not None
    assert len(mnist["label"]) == 10_000
    assert np.mean(judge.probabilities(mnist["image"]).argmax(axis=1) == mnist["label"]) >= 0.9

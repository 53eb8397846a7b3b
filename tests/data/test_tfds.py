import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest

from gen_jax.data import cache, dataset, tfds
from gen_jax.method import UserError


def _config(folder: pathlib.Path | str, name: str, **changes: str) -> types.SimpleNamespace:
    values = {"name": name, "data_dir": str(folder), "cache_dir": "", "train_split": "train", "test_split": "test"}
    return types.SimpleNamespace(**values | changes)


@pytest.fixture
def one_set(tmp_path: pathlib.Path, made_up_tfds: pathlib.Path) -> pathlib.Path:
    """A data_dir of the test's own that holds made_up_digits."""
    shutil.copytree(made_up_tfds / "made_up_digits", tmp_path / "tfds" / "made_up_digits")
    return tmp_path / "tfds"


def _edit(file: pathlib.Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_reads_a_labelled_set(made_up_tfds: pathlib.Path):
    data = dataset.load(_config(made_up_tfds, "made_up_digits"))
    assert data.spec == dataset.DataSpec(
        name="made_up_digits",
        image_shape=(8, 8, 1),
        num_examples=512,
        class_names=tuple("0123456789"),
        fingerprint=cache.fingerprint(data.train),
    )
    assert data.test is not None
    for arrays, num_examples in ((data.train, 512), (data.test, 128)):
        assert (arrays["image"].shape, arrays["image"].dtype) == ((num_examples, 8, 8, 1), np.uint8)
        assert (arrays["label"].shape, arrays["label"].dtype) == ((num_examples,), np.int32)
        assert set(arrays["label"]) == set(range(10))


def test_pixels_and_labels_are_those_that_were_written(made_up_tfds: pathlib.Path):
    # In colour, the label's channel is the brightest by far.
    train = dataset.load(_config(made_up_tfds, "made_up_colours")).train
    np.testing.assert_array_equal(train["image"].mean(axis=(1, 2)).argmax(axis=1), train["label"])


def test_examples_stand_in_the_order_of_the_set(made_up_tfds: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    import tensorflow_datasets

    monkeypatch.setattr(tfds, "_CHUNK", 50)
    builder = tensorflow_datasets.builder_from_directory(made_up_tfds / "made_up_digits" / "1.0.0")
    decoded = tfds._decode(builder, "train", tuple("0123456789"))
    for row, example in enumerate(builder.as_data_source(split="train")):
        np.testing.assert_array_equal(decoded["image"][row], example["image"])
        assert decoded["label"][row] == example["label"]


def test_a_set_without_labels(made_up_tfds: pathlib.Path):
    data = dataset.load(_config(made_up_tfds, "made_up_unlabelled"))
    assert set(data.train) == {"image"}
    assert data.spec.class_names is None


def test_splits_may_be_slices_or_none(made_up_tfds: pathlib.Path):
    whole = dataset.load(_config(made_up_tfds, "made_up_digits"))
    data = dataset.load(_config(made_up_tfds, "made_up_digits", train_split="train[10:50]", test_split=""))
    np.testing.assert_array_equal(data.train["image"], whole.train["image"][10:50])
    assert data.test is None
    assert data.spec.fingerprint != whole.spec.fingerprint


def test_a_second_load_decodes_nothing(made_up_tfds: pathlib.Path, tmp_path, monkeypatch: pytest.MonkeyPatch):
    config = _config(made_up_tfds, "made_up_digits", cache_dir=str(tmp_path))
    first = dataset.load(config)
    monkeypatch.setattr(tfds, "_decode", lambda *args: 1 / 0)
    second = dataset.load(config)
    assert second.spec == first.spec
    assert isinstance(second.train["image"], np.memmap)
    np.testing.assert_array_equal(second.train["image"], first.train["image"])


def test_a_set_prepared_anew_is_decoded_anew(one_set: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    dataset.load(_config(one_set, "made_up_digits"))
    version = one_set / "made_up_digits" / "1.0.0"
    train, test = (next(version.glob(f"*-{split}.array_record*")) for split in ("train", "test"))
    shutil.copy(test, train)
    monkeypatch.setattr(tfds, "_decode", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dataset.load(_config(one_set, "made_up_digits"))


def test_the_newest_version_is_read_unless_one_is_named(one_set: pathlib.Path):
    folder = one_set / "made_up_digits"
    for version in ("1.9.0", "1.10.0"):
        shutil.copytree(folder / "1.0.0", folder / version)
    assert tfds.prepared(one_set) == {"made_up_digits": ["1.0.0", "1.9.0", "1.10.0"]}
    assert tfds.find("made_up_digits", one_set).name == "1.10.0"
    assert tfds.find("made_up_digits:1.9.0", one_set).name == "1.9.0"
    with pytest.raises(UserError, match=r"as version 1.0.0, 1.9.0, 1.10.0, not 2.0.0"):
        tfds.find("made_up_digits:2.0.0", one_set)


def test_where_nothing_is_prepared_one_line_says_what_to_do(tmp_path: pathlib.Path):
    with pytest.raises(UserError) as caught:
        dataset.load(_config(tmp_path, "mnist"))
    message = str(caught.value)
    assert message.startswith(
        f"nothing is prepared for 'mnist' in {tmp_path}: set TFDS_DATA_DIR or --config.data.data_dir"
    )
    assert "gen-jax[tf]" in message
    assert "\n" not in message


def test_a_misspelt_name_gets_the_nearest_right_one(made_up_tfds: pathlib.Path):
    with pytest.raises(UserError, match=r"did you mean 'made_up_colours'\?"):
        dataset.load(_config(made_up_tfds, "made_up_colors"))


def test_the_folder_is_the_one_given_or_that_of_tfds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/from/environment")
    assert tfds.data_dir("/given") == pathlib.Path("/given")
    assert tfds.data_dir() == pathlib.Path("/from/environment")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert tfds.data_dir() == pathlib.Path.home() / "tensorflow_datasets"


def test_a_missing_split_is_named_beside_those_there_are(made_up_tfds: pathlib.Path):
    with pytest.raises(UserError, match=r"no split 'validation' \(it has test, train\)"):
        dataset.load(_config(made_up_tfds, "made_up_digits", test_split="validation"))


def test_a_set_that_needs_tensorflow_is_refused(one_set: pathlib.Path):
    _edit(
        one_set / "made_up_digits" / "1.0.0" / "dataset_info.json",
        lambda info: info.update(fileFormat="tfrecord"),
    )
    with pytest.raises(UserError, match="prepared as tfrecord, which cannot be read without TensorFlow"):
        dataset.load(_config(one_set, "made_up_digits"))


def test_a_set_without_images_is_refused(one_set: pathlib.Path):
    def rename(info: dict) -> None:
        features = info["featuresDict"]["features"]
        features["picture"] = features.pop("image")

    _edit(one_set / "made_up_digits" / "1.0.0" / "features.json", rename)
    with pytest.raises(UserError, match=r"no feature 'image' of uint8 \(it has label, picture\)"):
        dataset.load(_config(one_set, "made_up_digits"))


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([((8, 8, 1), 0), ((8, 9, 1), 0)], "images of different sizes"),
        ([((8, 8, 1), 0), ((1, 1, 1), 0)], "images of different sizes"),  # numpy would broadcast it
        ([((8, 8, 1), 0), ((8, 8, 1), -1)], "examples without a class"),
    ],
)
def test_sets_that_do_not_fit_an_array_are_refused(examples: list, message: str):
    class Source(list):
        def __getitems__(self, rows):
            return [self[row] for row in rows]

    source = Source({"image": np.zeros(shape, np.uint8), "label": label} for shape, label in examples)
    builder = types.SimpleNamespace(
        name="made_up", info=types.SimpleNamespace(features={}), as_data_source=lambda split, decoders: source
    )
    with pytest.raises(UserError, match=message):
        tfds._decode(builder, "train", ("a", "b"))  # pyright: ignore[reportArgumentType]


def test_another_process_reads_it_by_name_without_tensorflow(made_up_tfds: pathlib.Path):
    program = (
        "import sys, types; from gen_jax.data import dataset\n"
        "config = types.SimpleNamespace(name='made_up_digits', data_dir='', cache_dir='', train_split='train', "
        "test_split='test')\n"
        "print(dataset.load(config).spec.fingerprint, 'tensorflow' in sys.modules)"
    )
    environment = os.environ | {"TFDS_DATA_DIR": str(made_up_tfds)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    fingerprint = dataset.load(_config(made_up_tfds, "made_up_digits")).spec.fingerprint
    assert done.stdout.split() == [fingerprint, "False"]


@pytest.mark.slow
def test_real_mnist_in_the_order_of_tfds(shared: pathlib.Path):
    data = dataset.load(_config(shared / "tfds", "mnist"))
    assert data.spec.image_shape == (28, 28, 1)
    assert data.train["image"].shape == (60_000, 28, 28, 1)
    assert data.train["label"][:10].tolist() == [4, 1, 0, 7, 8, 1, 2, 7, 1, 6]
    assert data.train["image"].mean() == pytest.approx(33.318, abs=1e-3)  # 0.1307 x 255, as commonly quoted
    assert data.test is not None
    assert data.test["image"].shape == (10_000, 28, 28, 1)


def test_jpeg_colour_images(shared: pathlib.Path):
    data = dataset.load(_config(shared / "tfds", "cifar10_jpeg", train_split="train[:200]", test_split="test[:50]"))
    assert data.train["image"].shape == (200, 32, 32, 3)
    assert data.spec.class_names is not None
    assert data.spec.class_names[:2] == ("airplane", "automobile")

import functools
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import numpy as np
import PIL.Image
import pytest
from conftest import data_config

from gen_jax.data import cache, dataset, images, prepare, tfds
from gen_jax.method import UserError, labelled


def _as_stored(picture: PIL.Image.Image) -> np.ndarray:
    return images.fit(picture, size=0, channels=0, background=255)


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
    data = dataset.load(data_config(made_up_tfds, "made_up_digits"))
    counts = tuple(int(np.sum(data.train["label"] == digit)) for digit in range(10))
    assert data.spec == dataset.DataSpec(
        name="made_up_digits",
        image_shape=(8, 8, 1),
        num_examples=512,
        features={"label": labelled("0123456789")["label"]._replace(counts=counts)},
        fingerprint=cache.fingerprint(data.train),
    )
    assert data.test is not None
    for arrays, num_examples in ((data.train, 512), (data.test, 128)):
        assert (arrays["image"].shape, arrays["image"].dtype) == ((num_examples, 8, 8, 1), np.uint8)
        assert (arrays["label"].shape, arrays["label"].dtype) == ((num_examples,), np.int32)
        assert set(arrays["label"]) == set(range(10))


def test_pixels_and_labels_are_those_that_were_written(made_up_tfds: pathlib.Path):
    # In colour, the label's channel is the brightest by far.
    train = dataset.load(data_config(made_up_tfds, "made_up_colours")).train
    np.testing.assert_array_equal(train["image"].mean(axis=(1, 2)).argmax(axis=1), train["label"])


def test_examples_stand_in_the_order_of_the_set(made_up_tfds: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    import tensorflow_datasets

    monkeypatch.setattr(tfds, "_CHUNK", 50)
    builder = tensorflow_datasets.builder_from_directory(made_up_tfds / "made_up_digits" / "1.0.0")
    decoded = tfds._decode(builder, "train", tuple("0123456789"), _as_stored)
    for row, example in enumerate(builder.as_data_source(split="train")):
        np.testing.assert_array_equal(decoded["image"][row], example["image"])
        assert decoded["label"][row] == example["label"]


def test_a_set_without_labels(made_up_tfds: pathlib.Path):
    data = dataset.load(data_config(made_up_tfds, "made_up_unlabelled"))
    assert set(data.train) == {"image"}
    assert data.spec.class_names is None


def test_splits_may_be_slices_or_none(made_up_tfds: pathlib.Path):
    whole = dataset.load(data_config(made_up_tfds, "made_up_digits"))
    data = dataset.load(data_config(made_up_tfds, "made_up_digits", train_split="train[10:50]", test_split=""))
    np.testing.assert_array_equal(data.train["image"], whole.train["image"][10:50])
    assert data.test is None
    assert data.spec.fingerprint != whole.spec.fingerprint


def test_a_second_load_decodes_nothing(made_up_tfds: pathlib.Path, tmp_path, monkeypatch: pytest.MonkeyPatch):
    config = data_config(made_up_tfds, "made_up_digits", cache_dir=str(tmp_path))
    first = dataset.load(config)
    monkeypatch.setattr(tfds, "_decode", lambda *args: 1 / 0)
    second = dataset.load(config)
    assert second.spec == first.spec
    assert isinstance(second.train["image"], np.memmap)
    np.testing.assert_array_equal(second.train["image"], first.train["image"])


def test_a_set_prepared_anew_is_decoded_anew(one_set: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    dataset.load(data_config(one_set, "made_up_digits"))
    version = one_set / "made_up_digits" / "1.0.0"
    train, test = (next(version.glob(f"*-{split}.array_record*")) for split in ("train", "test"))
    shutil.copy(test, train)
    monkeypatch.setattr(tfds, "_decode", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dataset.load(data_config(one_set, "made_up_digits"))


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
        tfds.find("mnist", tmp_path)
    assert str(caught.value) == (
        f"nothing is prepared for 'mnist' in {tmp_path}: run `python -m gen_jax.data mnist`, or set TFDS_DATA_DIR or "
        "--config.data.data_dir to a folder that holds it"
    )


def test_a_misspelt_name_gets_the_nearest_right_one(made_up_tfds: pathlib.Path):
    with pytest.raises(UserError, match=r"did you mean made_up_colours\?"):
        dataset.load(data_config(made_up_tfds, "made_up_colors"))


def test_a_set_that_is_not_there_is_prepared_first(one_set: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def prepare_elsewhere(name: str, config: types.SimpleNamespace) -> pathlib.Path:
        asked.append((name, config.data_dir))
        return one_set / "made_up_digits" / "1.0.0"

    monkeypatch.setattr(prepare, "prepare", prepare_elsewhere)
    data = dataset.load(data_config(one_set, "mnist:3.0.1"))
    assert asked == [("mnist:3.0.1", str(one_set))]
    assert data.spec.image_shape == (8, 8, 1)


def test_half_a_preparation_is_none(one_set: pathlib.Path):
    folder = one_set / "made_up_digits"
    (folder / "1.0.0").rename(folder / "incomplete.ABCDEF_1.0.0")
    assert tfds.prepared(one_set) == {}


@pytest.mark.parametrize(("size", "channels"), [(0, 0), (0, 1), (0, 3), (6, 0), (6, 3), (12, 1)])
@pytest.mark.parametrize("name", ["made_up_unlabelled", "made_up_colours"])
def test_images_are_fitted_to_the_size_and_channels_that_were_asked_for(
    name: str, size: int, channels: int, made_up_tfds: pathlib.Path
):
    stored = dataset.load(data_config(made_up_tfds, name)).train["image"]
    config = data_config(made_up_tfds, name, image_size=size, channels=channels)
    data = dataset.load(config)
    for row in (0, 17):
        picture = PIL.Image.fromarray(stored[row][..., 0] if stored.shape[-1] == 1 else stored[row])
        np.testing.assert_array_equal(data.train["image"][row], images.fit(picture, size, channels, 255))
    assert data.spec.image_shape == (size or stored.shape[1], size or stored.shape[2], channels or stored.shape[3])


def test_what_changes_the_pixels_is_part_of_the_key(made_up_tfds, tmp_path, monkeypatch: pytest.MonkeyPatch):
    config = data_config(made_up_tfds, "made_up_colours", cache_dir=str(tmp_path))
    dataset.load(config)
    monkeypatch.setattr(tfds, "_decode", lambda *args: 1 / 0)
    dataset.load(config)
    for change in ({"image_size": 5}, {"channels": 1}, {"background": 0}):
        with pytest.raises(ZeroDivisionError):
            dataset.load(data_config(made_up_tfds, "made_up_colours", cache_dir=str(tmp_path), **change))


def test_sizes_that_no_picture_can_have_are_refused(made_up_tfds: pathlib.Path):
    with pytest.raises(UserError, match="config.data.channels is 2"):
        dataset.load(data_config(made_up_tfds, "made_up_colours", channels=2))


def test_the_folder_is_the_one_given_or_that_of_tfds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/from/environment")
    assert tfds.data_dir("/given") == pathlib.Path("/given")
    assert tfds.data_dir() == pathlib.Path("/from/environment")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert tfds.data_dir() == pathlib.Path.home() / "tensorflow_datasets"


def test_a_missing_split_is_named_beside_those_there_are(made_up_tfds: pathlib.Path):
    with pytest.raises(UserError, match=r"no split 'validation' \(it has test, train\)"):
        dataset.load(data_config(made_up_tfds, "made_up_digits", test_split="validation"))


def test_a_set_that_needs_tensorflow_is_refused(one_set: pathlib.Path):
    _edit(
        one_set / "made_up_digits" / "1.0.0" / "dataset_info.json",
        lambda info: info.update(fileFormat="tfrecord"),
    )
    with pytest.raises(UserError, match="prepared as tfrecord, which cannot be read without TensorFlow"):
        dataset.load(data_config(one_set, "made_up_digits"))


def test_a_set_without_images_is_refused(one_set: pathlib.Path):
    def rename(info: dict) -> None:
        features = info["featuresDict"]["features"]
        features["picture"] = features.pop("image")

    _edit(one_set / "made_up_digits" / "1.0.0" / "features.json", rename)
    with pytest.raises(UserError, match=r"no feature 'image' of uint8 \(it has label, picture\)"):
        dataset.load(data_config(one_set, "made_up_digits"))


def _made_up_builder(examples: list[tuple[tuple[int, ...], int]]) -> types.SimpleNamespace:
    """A builder of one split, whose examples have these shapes and labels."""

    class Source(list):
        def __getitems__(self, rows):
            return [self[row] for row in rows]

    def png(shape: tuple[int, ...]) -> bytes:
        stream = io.BytesIO()
        PIL.Image.fromarray(np.zeros(shape, np.uint8)).save(stream, "PNG")
        return stream.getvalue()

    source = Source({"image": png(shape), "label": label} for shape, label in examples)
    info = types.SimpleNamespace(features={})
    return types.SimpleNamespace(name="made_up", info=info, as_data_source=lambda split, decoders: source)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([((8, 8), 0), ((8, 9), 0)], "images of different sizes .*set --config.data.image_size"),
        ([((8, 8), 0), ((1, 1), 0)], "images of different sizes"),  # numpy would broadcast it
        ([((8, 8), 0), ((8, 8, 3), 0)], "images of different sizes .*--config.data.channels"),
        ([((8, 8), 0), ((8, 8), -1)], "examples without a class"),
    ],
)
def test_sets_that_do_not_fit_an_array_are_refused(examples: list, message: str):
    with pytest.raises(UserError, match=message):
        tfds._decode(_made_up_builder(examples), "train", ("a", "b"), _as_stored)


def test_images_of_different_sizes_fit_once_a_size_is_given():
    builder = _made_up_builder([((8, 8), 0), ((10, 7), 1), ((6, 6, 3), 0), ((5, 9, 4), 1)])
    fit = functools.partial(images.fit, size=4, channels=3, background=255)
    assert tfds._decode(builder, "train", ("a", "b"), fit)["image"].shape == (4, 4, 4, 3)


def test_another_process_reads_it_by_name_without_tensorflow(made_up_tfds: pathlib.Path):
    program = (
        "import sys; from gen_jax.data import dataset\n"
        "from gen_jax.config import base_config\n"
        "config = base_config().data; config.name = 'made_up_digits'\n"
        "print(dataset.load(config).spec.fingerprint, 'tensorflow' in sys.modules)"
    )
    environment = os.environ | {"TFDS_DATA_DIR": str(made_up_tfds)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    fingerprint = dataset.load(data_config(made_up_tfds, "made_up_digits")).spec.fingerprint
    assert done.stdout.split() == [fingerprint, "False"]


@pytest.mark.slow
def test_real_mnist_in_the_order_of_tfds(shared: pathlib.Path):
    data = dataset.load(data_config(shared / "tfds", "mnist"))
    assert data.spec.image_shape == (28, 28, 1)
    assert data.train["image"].shape == (60_000, 28, 28, 1)
    assert data.train["label"][:10].tolist() == [4, 1, 0, 7, 8, 1, 2, 7, 1, 6]
    assert data.train["image"].mean() == pytest.approx(33.318, abs=1e-3)  # 0.1307 x 255, as commonly quoted
    assert data.test is not None
    assert data.test["image"].shape == (10_000, 28, 28, 1)


def test_jpeg_colour_images(shared: pathlib.Path):
    data = dataset.load(data_config(shared / "tfds", "cifar10_jpeg", train_split="train[:200]", test_split="test[:50]"))
    assert data.train["image"].shape == (200, 32, 32, 3)
    assert data.spec.class_names is not None
    assert data.spec.class_names[:2] == ("airplane", "automobile")

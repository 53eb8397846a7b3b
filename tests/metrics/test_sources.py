"""Pictures from files, folders, runs and data sets, and refusals of what cannot be judged."""

import json

import numpy as np
import PIL.Image
import pytest

from gen_jax.config import base_config
from gen_jax.method import UserError
from gen_jax.metrics import sources

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)


@pytest.fixture
def config(tmp_path):
    config = base_config().data
    config.cache_dir = str(tmp_path / "cache")
    return config


@pytest.mark.parametrize("array", [IMAGES, IMAGES.transpose(0, 3, 1, 2)], ids=["NHWC", "NCHW"])
def test_an_npz_of_another_program(tmp_path, config, array):
    np.savez(tmp_path / "made.npz", array, np.arange(6))
    found = sources.read(f"{tmp_path}/made.npz", config)
    np.testing.assert_array_equal(found.images, IMAGES)
    assert found.labels.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_single_array_of_any_name_and_greys_without_an_axis_of_colours(tmp_path, config):
    np.savez(tmp_path / "made.npz", digits=IMAGES[..., 0])
    assert sources.read(f"{tmp_path}/made.npz", config).images.shape == (6, 8, 8, 1)


def test_a_folder_gives_all_of_its_pictures(tmp_path, config):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, image in enumerate(IMAGES):
        PIL.Image.fromarray(image).save(folder / f"{number}.png")
    np.testing.assert_array_equal(sources.read(str(folder), config).images, IMAGES)


def test_a_run_gives_its_samples(tmp_path, config):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"config": {}, "data": {}}))
    with pytest.raises(UserError, match=r"has no samples.npz yet: .*--mode=sample"):
        sources.read(f"{tmp_path}/run", config)
    np.savez(tmp_path / "run" / "samples.npz", arr_0=IMAGES)
    np.testing.assert_array_equal(sources.read(f"{tmp_path}/run", config).images, IMAGES)


def test_a_split_of_a_data_set(config):
    train, test = (sources.read(f"stroke_digits@{split}", config) for split in ("train[:100]", "test[:50]"))
    assert (len(train.images), len(test.images)) == (100, 50)
    assert train.data is not None


def test_thinned_takes_evenly_spaced_pictures_with_their_labels():
    pictures = sources.Pictures("x", IMAGES, np.arange(6, dtype=np.int32), None, "")
    found = pictures.thinned(3)
    np.testing.assert_array_equal(found.images, IMAGES[found.labels])
    assert len(found.images) == 3


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"arr_0": IMAGES / 255}, "arr_0 of .* is float64, from 0 to 1: save pictures as uint8"),
        ({"arr_0": IMAGES[0, 0]}, r"has shape \(8, 3\)"),
        ({"arr_0": IMAGES[:0]}, "there is no picture in it"),
        ({"arr_0": np.zeros((2, 8, 8, 4), np.uint8)}, "C = 1 or 3"),
        ({"one": IMAGES, "two": IMAGES}, "holds no array 'arr_0', but one, two"),
        ({"arr_0": np.array([{}, []], object)}, "cannot read .* as .npz: Object arrays cannot be loaded"),
    ],
)
def test_what_holds_no_pictures_is_one_line(tmp_path, config, arrays, line):
    np.savez(tmp_path / "made.npz", **arrays)
    with pytest.raises(UserError, match=line) as error:
        sources.read(f"{tmp_path}/made.npz", config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("/nowhere/made.npz", "there is no file /nowhere/made.npz"),
        ("./nowhere", "no folder .*nowhere"),
        ("mnits", "there is no set 'mnits'"),
        ("gaussians:grid25", "holds no pictures"),
    ],
)
def test_what_is_not_there_is_one_line(config, source, line):
    config.data_dir = "/nowhere"
    with pytest.raises(UserError, match=line):
        sources.read(source, config)


def test_a_file_cut_short_is_one_line(tmp_path, config):
    np.savez(tmp_path / "made.npz", IMAGES)
    content = (tmp_path / "made.npz").read_bytes()
    (tmp_path / "made.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="is cut short, or no .npz file"):
        sources.read(f"{tmp_path}/made.npz", config)
    np.save(tmp_path / "one.npy", IMAGES)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(UserError, match="no .npz file"):
        sources.read(f"{tmp_path}/one.npz", config)


def test_an_at_sign_is_a_split_only_where_no_such_file_is(tmp_path, config):
    np.savez(tmp_path / "me@home.npz", IMAGES)
    np.testing.assert_array_equal(sources.read(f"{tmp_path}/me@home.npz", config).images, IMAGES)
    with pytest.raises(UserError, match=r"only a data set has splits: leave out '@test'"):
        sources.read(f"{tmp_path}/me@home.npz@test", config)


def test_only_all_training_images_at_their_size_are_whole(config):
    whole = sources.read("stroke_digits", config)
    assert whole.whole
    assert not whole.thinned(100).whole
    assert not sources.read("stroke_digits@test", config).whole
    config.image_size = 32
    assert not sources.read("stroke_digits", config).whole


def test_other_labels_are_another_set_to_train_a_classifier_on():
    digests = {
        sources.as_data(sources.Pictures("x", IMAGES, np.array(labels, np.int32), None, "same")).spec.fingerprint
        for labels in ([0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 2, 2])
    }
    assert len(digests) == 2

"""Random crops of pictures of any size, and smaller copies: which pixels a batch holds, and what is refused."""

import numpy as np
import PIL.Image
import pytest

from gen_jax.config import base_config
from gen_jax.data import bicubic, crops, dataset
from gen_jax.method import UserError

SIZES = [(20, 30), (16, 16), (41, 19)]  # height and width


def numbered(height: int, width: int) -> np.ndarray:
    """A picture in which every place has a colour of its own."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, rows * columns % 256], axis=-1).astype(np.uint8)


@pytest.fixture
def config(tmp_path):
    for number, size in enumerate(SIZES * 4):
        path = tmp_path / f"pictures/{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(numbered(*size)).save(path)
    config = base_config().data
    config.update(name=f"image_folder:{tmp_path}/pictures", cache_dir=f"{tmp_path}/cache", crop=16, reduce=4)
    return config


def test_rows_are_central_crops_and_training_batches_random_ones_with_their_smaller_copies(config):
    data = dataset.load(config)
    assert data.spec.image_shape == (16, 16, 3)
    assert data.spec.features["small"].shape == (4, 4, 3)
    assert (data.spec.num_examples, len(data.test["image"])) == (11, 1)
    corners = {tuple(image[0, 0, :2].tolist()) for image in np.asarray(data.train["image"][:])}
    assert corners == {(2, 7), (0, 0), (12, 1)}
    batches = dataset.Batches(data.train, 8, seed=3)
    found = [batches.batch(step) for step in range(40)]
    images = np.concatenate([batch["image"] for batch in found])
    tops, lefts = images[:, 0, 0, 0], images[:, 0, 0, 1]
    for image, top, left in zip(images, tops, lefts, strict=True):
        np.testing.assert_array_equal(image, numbered(100, 100)[top : top + 16, left : left + 16])
    assert (tops.max(), lefts.max()) == (41 - 16, 30 - 16)  # up to the last place
    assert min(tops.min(), lefts.min()) == 0
    np.testing.assert_array_equal(np.concatenate([batch["small"] for batch in found]), bicubic.reduced(images, 4))


def test_crops_depend_on_seed_and_step_alone_and_processes_share_them(config):
    train = dataset.load(config).train
    whole = dataset.Batches(train, 8, seed=3)
    whole.batch(0)
    again = dataset.Batches(dataset.load(config).train, 8, seed=3).batch(7)  # as after a restart
    other = dataset.Batches(train, 8, seed=4).batch(7)
    for name in ("image", "small"):
        np.testing.assert_array_equal(whole.batch(7)[name], again[name])
        assert (whole.batch(7)[name] != other[name]).any()
        assert (whole.batch(7)[name] != whole.batch(8)[name]).any()
        halves = [dataset.Batches(train, 8, 3, process, 2).batch(7)[name] for process in (0, 1)]
        np.testing.assert_array_equal(np.concatenate(halves), again[name])
    several = dataset.Batches(train, 4, 3, batches_per_step=2).batch(7)
    np.testing.assert_array_equal(several["image"].reshape(again["image"].shape), again["image"])


def test_a_picture_is_cropped_anew_in_every_epoch():
    image = crops.Crops(numbered(30, 30).ravel(), np.array([0]), np.array([[30, 30]]), 4, 3)
    batches = dataset.Batches({"image": image}, 1, seed=0)
    corners = {tuple(batches.batch(step)["image"][0, 0, 0, :2].tolist()) for step in range(50)}
    assert len(corners) > 40


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"reduce": 3}, "config.data.reduce is 3; it must be 2 or 4"),
        ({"crop": 18}, "config.data.crop is 18, which config.data.reduce=4 does not divide; use 16"),
        ({"crop": 20}, "'01.png' in .* has 16x16 pixels, and config.data.crop is 20: remove it, use a crop of at most"),
        ({"image_size": 16}, "leave out one of them"),
        ({"name": "stroke_digits"}, "stroke_digits is not a folder of pictures"),
        ({"name": "gaussians:grid25", "crop": 0}, "has no grey or colour pictures"),
        ({"crop": 0, "image_size": 18}, "does not divide the 18x18 pixels"),
    ],
)
def test_what_cannot_be_cropped_or_reduced_is_refused_in_one_line(config, changes, line):
    config.update(changes)
    with pytest.raises(UserError, match=line) as error:
        dataset.load(config)
    assert "\n" not in str(error.value)


def test_small_pictures_are_skipped_on_request(config, caplog):
    config.update(crop=24, on_error="skip", reduce=0)
    with pytest.raises(UserError, match="no training picture"):
        dataset.load(config)
    config.update(crop=20)  # the third size is 19 wide
    data = dataset.load(config)
    assert data.spec.num_examples + len(data.test["image"]) == 4
    assert "skipped 8 small files of 12" in caplog.text

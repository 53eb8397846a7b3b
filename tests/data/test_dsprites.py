import pathlib

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds
from conftest import data_config

from gen_jax.data import dataset, dsprites
from gen_jax.data.dataset import Batches
from gen_jax.method import UserError


def _some(num: int) -> np.ndarray:
    return np.random.default_rng(0).integers(dsprites.FACTOR_SIZES, size=(num, len(dsprites.FACTORS)))


def test_index_to_factors_and_back_is_the_identity_over_the_whole_grid():
    index = np.arange(dsprites.NUM_IMAGES)
    factors = dsprites.factors_of(index)
    np.testing.assert_array_equal(dsprites.index_of(factors), index)
    assert np.prod(dsprites.FACTOR_SIZES) == dsprites.NUM_IMAGES
    for values, size in zip(factors.T, dsprites.FACTOR_SIZES, strict=True):
        np.testing.assert_array_equal(np.bincount(values), dsprites.NUM_IMAGES // size)
    np.testing.assert_array_equal(factors[1:, -1] == (factors[:-1, -1] + 1) % 32, True)  # the last changes fastest


@pytest.mark.parametrize("shape", range(3))
def test_images_are_the_genuine_ones_but_for_a_pixel_here_and_there(shared: pathlib.Path, shape: int):
    frames = np.load(shared / "images/dsprites/dsprites_320.npz")
    here = frames["latents_classes"][:, 1] == shape
    genuine = frames["imgs"][here].astype(bool)
    drawn = dsprites.draw(frames["latents_classes"][here, 1:])[..., 0].astype(bool)
    overlap = (drawn & genuine).sum(axis=(1, 2)) / (drawn | genuine).sum(axis=(1, 2))
    # Measured: 0.9996, 0.9995, 0.9988 in the mean; 0.989, 0.993, 0.985 at least.
    assert overlap.mean() > 0.998
    assert overlap.min() > 0.98


def test_an_image_does_not_depend_on_what_is_drawn_with_it(monkeypatch: pytest.MonkeyPatch):
    factors = _some(150)
    image = dsprites.draw(factors)
    np.testing.assert_array_equal(dsprites.draw(factors[::-1])[::-1], image)
    np.testing.assert_array_equal(np.concatenate([dsprites.draw(one[None]) for one in factors]), image)
    monkeypatch.setattr(dsprites, "_CHUNK", 7)
    np.testing.assert_array_equal(dsprites.draw(factors), image)
    assert dsprites.draw(factors[:0]).shape == (0, 64, 64, 1)


def test_every_pixel_is_that_of_the_shape_by_its_formula():
    factors = _some(300)
    x, y = (grid[None] - 15.5 - factors[:, place, None, None] * 32 / 31 for grid, place in zip(
        np.meshgrid(np.arange(64), np.arange(64)), (3, 4), strict=True))  # fmt: skip
    angle = (factors[:, 2] * 2 * np.pi / 39)[:, None, None]
    scale = (0.5 + factors[:, 1] / 10)[:, None, None]
    x, y = (x * np.cos(angle) - y * np.sin(angle)) / scale, (x * np.sin(angle) + y * np.cos(angle)) / scale
    t = np.arcsin(np.cbrt(np.minimum(np.abs(x) / 9.6, 1)))
    heart_y = [9.6 * (-(13 * np.cos(s) - 5 * np.cos(2 * s) - 2 * np.cos(3 * s) - np.cos(4 * s)) / 14.5 - 0.15)
               for s in (t, np.pi - t)]  # fmt: skip
    expected = np.choose(
        factors[:, 0, None, None],
        [
            np.maximum(np.abs(x), np.abs(y)) <= 9.6,
            (x / 12.77) ** 2 + (y / 7.21) ** 2 <= 1,
            (np.abs(x) <= 9.6) & (heart_y[0] <= y) & (y <= heart_y[1]),
        ],
    )
    image = dsprites.draw(factors)[..., 0]
    assert set(np.unique(image)) == {0, 1}
    assert (image != expected).sum() < 1e-3 * expected.sum()  # an outline's table has 512 columns a pixel


def test_orientation_goes_round_once_against_the_clock():
    factors = np.zeros((3, 40, 5), np.int32)
    factors[..., 0], factors[..., 1], factors[..., 2] = np.arange(3)[:, None], 5, np.arange(40)
    image = dsprites.draw(factors.reshape(-1, 5)).reshape(3, 40, 64, 64)
    np.testing.assert_array_equal(image[:, 0], image[:, 39])  # 0 and 2 pi, as in the genuine set
    heart = image[2]
    assert len(np.unique(heart[:39].reshape(39, -1), axis=0)) == 39
    y, x = np.nonzero(heart[10])  # after a quarter of a turn what was above is left
    assert x.mean() < 15
    assert abs(y.mean() - 15.5) < 0.5


def test_sprites_stay_within_the_picture():
    far = np.array(np.meshgrid(*([0, size - 1] if size != 40 else range(40) for size in (3, 6, 40, 32, 32))))
    image = dsprites.draw(far.reshape(5, -1).T)
    assert not image[:, [0, 1, -1, -2]].any()
    assert not image[:, :, [0, 1, -1, -2]].any()


def test_examples_are_those_of_the_genuine_builder(shared: pathlib.Path):
    builder = dsprites.DSprites(data_dir="/nowhere")
    source = builder.as_data_source("train")
    assert builder.info.splits["train"].num_examples == len(source) == 737_280
    factors = np.load(shared / "images/dsprites/dsprites_320.npz")["latents_classes"][::40, 1:]
    examples = source.__getitems__(dsprites.index_of(factors).tolist())
    assert [[each[f"label_{name}"] for name in dsprites.FACTORS] for each in examples] == factors.tolist()
    np.testing.assert_array_equal([each["image"] for each in examples], dsprites.draw(factors))
    # As the set's authors list them: shape 1, 2, 3, and even steps over [0.5, 1], [0, 2 pi], [0, 1], [0, 1].
    ends = (1, 3), (0.5, 1), (0, 2 * np.pi), (0, 1), (0, 1)
    for column, (size, end) in enumerate(zip(dsprites.FACTOR_SIZES, ends, strict=True)):
        values = [each[f"value_{dsprites.FACTORS[column]}"] for each in examples]
        np.testing.assert_allclose(values, np.linspace(*end, size)[factors[:, column]], rtol=1e-6)
    for name, feature in builder.info.features.items():
        assert name in examples[0]
        assert np.shape(examples[0][name]) == feature.shape
    last = source[-1]
    assert [last[f"label_{name}"] for name in dsprites.FACTORS] == [2, 5, 39, 31, 31]
    with pytest.raises(IndexError):
        source[737_280]
    for refused in (builder.download_and_prepare, lambda: builder.as_data_source("test")):
        with pytest.raises(UserError):
            refused()


def test_loads_with_factors_and_draws_what_is_asked_for():
    data = dataset.load(data_config("/nowhere", "dsprites"))
    assert (data.spec.name, data.spec.image_shape, data.spec.num_examples) == ("dsprites:drawn", (64, 64, 1), 737_280)
    assert (data.spec.value_range, data.spec.class_names, data.test) == ((0, 1), None, None)
    assert data.spec.factor_sizes == dsprites.FACTOR_SIZES
    assert data.streamed
    batch = Batches(data.train, batch_size=6, seed=0).batch(3)
    assert batch["image"].shape == (6, 64, 64, 1)
    np.testing.assert_array_equal(batch["image"], dsprites.draw(batch["factors"]))
    assert dataset.load(data_config("/nowhere", data.spec.name, test_split="")).spec == data.spec


def test_some_examples_of_the_grid_have_every_value_of_every_factor():
    factors = dsprites.factors_of(dataset.spread(dsprites.NUM_IMAGES, 500))
    for column, size in zip(factors.T, dsprites.FACTOR_SIZES, strict=True):
        count = np.bincount(column, minlength=size)
        assert count.min() > 0.5 * 500 / size
        assert count.max() < 1.6 * 500 / size


def test_the_fingerprint_is_that_of_what_is_drawn(monkeypatch: pytest.MonkeyPatch):
    config = data_config("/nowhere", "dsprites")
    before = dataset.load(config).spec.fingerprint
    assert dataset.load(config).spec.fingerprint == before
    monkeypatch.setattr(dsprites, "_ELLIPSE", (12.8, 7.2))
    dsprites.outlines.cache_clear()
    try:
        assert dataset.load(config).spec.fingerprint != before
    finally:
        dsprites.outlines.cache_clear()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "dsprites:genuine"}, "tfds:dsprites for the genuine set"),
        ({"train_split": "train[:10%]"}, "only the whole 'train'"),
        ({"test_split": "validation"}, "has no split 'validation'"),
        ({"image_size": 32}, "64x64x1"),
        ({"channels": 3}, "64x64x1"),
    ],
)
def test_refuses_in_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        dataset.load(data_config("/nowhere", **({"name": "dsprites"} | changes)))
    assert "\n" not in str(caught.value)


def test_the_genuine_set_is_read_by_its_name_with_its_factors(tmp_path: pathlib.Path):
    factors = _some(40)
    genuine = [*dsprites.DSprites(data_dir="/nowhere").info.features]

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """A few images under the name and with the features of TFDS's own builder."""

        __module__ = "dsprites"
        name = "dsprites"
        VERSION = tfds.core.Version("2.0.0")

        def _info(self):
            features = dict(dsprites.DSprites(data_dir="/nowhere").info.features.items())
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            source = dsprites.Grid()
            for number, row in enumerate(dsprites.index_of(factors).tolist()):
                example = source[row]
                yield number, example | {"image": PIL.Image.fromarray(example["image"][..., 0])}

    assert set(genuine) == {"image"} | {f"{kind}_{name}" for kind in ("label", "value") for name in dsprites.FACTORS}
    tfds.disable_progress_bar()
    Prepared(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    config = data_config(tmp_path, "tfds:dsprites", cache_dir=str(tmp_path / "cache"))
    data = dataset.load(config)
    assert (data.spec.name, data.spec.value_range, data.spec.num_examples) == ("dsprites", (0, 1), 40)
    assert (data.spec.factor_sizes, data.test) == (dsprites.FACTOR_SIZES, None)
    np.testing.assert_array_equal(data.train["image"], dsprites.draw(data.train["factors"]))
    assert sorted(data.train["factors"].tolist()) == sorted(factors.tolist())
    config.update(stream=True, name="tfds:dsprites:2.0.0")
    streamed = dataset.load(config)
    assert streamed.spec == data.spec
    np.testing.assert_array_equal(streamed.train["factors"], data.train["factors"])
    for changes, message in (({"image_size": 32}, "cannot be resized"), ({"test_split": "held_out"}, "no split")):
        with pytest.raises(UserError, match=message):
            dataset.load(data_config(tmp_path, "tfds:dsprites", cache_dir=str(tmp_path / "cache"), **changes))

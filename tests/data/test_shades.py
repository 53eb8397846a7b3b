import numpy as np
import pytest
from conftest import data_config

from gen_jax.data import cache, dataset, shades
from gen_jax.method import DataSpec, UserError, labelled


def test_brightness_is_uniform_in_every_class():
    images, labels = shades.draw(0, 20_000)
    means = images.astype(np.float64).mean((1, 2, 3)) / 255
    for label in range(len(shades.CLASSES)):
        here = np.sort(means[labels == label])
        assert abs(len(here) - 5_000) < 4.5 * np.sqrt(20_000 * 0.25 * 0.75)
        gap = np.abs(here - (np.arange(len(here)) + 0.5) / len(here)).max()
        assert gap < 2.0 / np.sqrt(len(here))  # Kolmogorov: 2 exp(-2 * 4) = 0.0007


def test_textures_keep_their_mean_and_range():
    angle, phase = np.random.default_rng(0).uniform(0, 2 * np.pi, (2, 500))
    for texture, name in zip(shades._textures(angle, phase), shades.CLASSES, strict=True):
        np.testing.assert_allclose(texture.mean((1, 2)), 0, atol=1e-12)
        assert np.abs(texture).max() <= 1
        assert (texture.std((1, 2)).min() > 0.2) == (name != "flat")


def test_a_row_depends_on_the_seed_and_its_number_alone():
    some, more = shades.draw(3, 50), shades.draw(3, 80)
    for few, many in zip(some, more, strict=True):
        np.testing.assert_array_equal(few, many[:50])
    assert (shades.draw(4, 50)[0] != some[0]).any(axis=(1, 2, 3)).mean() > 0.9


def test_the_set_is_one_of_the_project_s():
    data = dataset.load(data_config("", "shades"))
    counts = tuple(np.bincount(data.train["label"]).tolist())
    features = {"label": labelled(shades.CLASSES)["label"]._replace(counts=counts)}
    assert data.spec == DataSpec("shades", (32, 32, 1), 20_000, features, cache.fingerprint(data.train))
    assert data.test is not None
    assert data.test["image"].shape == (4_000, 32, 32, 1)
    assert dataset.load(data_config("", "shades", test_split="")).test is None


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("shades:dark", {}, "there is no set shades:dark; its name is shades"),
        ("shades", {"image_size": 16}, "config.data.image_size is 16; shades has 32: use 0"),
        ("shades", {"channels": 3}, "config.data.channels is 3; shades has 1: use 0"),
        ("shades", {"train_split": "train[:10]"}, "no such split: use train"),
    ],
)
def test_what_the_set_does_not_have_is_refused(name: str, changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        dataset.load(data_config("", name, **changes))

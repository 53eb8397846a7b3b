import numpy as np
import pytest
from conftest import data_config

from gen_jax.data import cache, dataset, stacked
from gen_jax.method import DataSpec, UserError


def test_each_channel_is_a_picture_of_the_set(made_up_tfds):
    data = dataset.load(data_config(made_up_tfds, "stacked:made_up_digits"))
    alone = dataset.load(data_config(made_up_tfds, "made_up_digits"))
    assert data.spec == DataSpec("stacked:made_up_digits", (8, 8, 3), 512, {}, cache.fingerprint(data.train))
    assert data.single is not None
    assert data.single.spec == alone.spec
    assert data.test is not None
    assert alone.test is not None
    assert data.test["image"].shape == (26_000, 8, 8, 3)
    for split, of in ((data.train, alone.train), (data.test, alone.test)):
        known = {image.tobytes() for image in of["image"]}
        for channel in range(3):
            assert {image.tobytes() for image in split["image"][..., channel]} <= known
    assert set(data.train) == {"image"}


def test_channels_are_drawn_independently_and_evenly():
    chosen = stacked.rows(0, 30_000, 10)
    counts = np.bincount(chosen @ [100, 10, 1], minlength=1_000)
    # Pearson's statistic is chi-squared with 999 degrees of freedom, whose spread is sqrt(2 * 999).
    assert abs(((counts - 30) ** 2 / 30).sum() - 999) < 4 * np.sqrt(2 * 999)
    assert (stacked.rows(1, 100, 10**6) != stacked.rows(0, 100, 10**6)).all()


def test_a_row_depends_on_the_seed_and_its_number_alone():
    np.testing.assert_array_equal(stacked.rows(3, 50, 1_000), stacked.rows(3, 80, 1_000)[:50])


def test_values_of_the_config_are_those_of_the_set_that_is_stacked(made_up_tfds):
    data = dataset.load(
        data_config(made_up_tfds, "stacked:made_up_colours", image_size=9, channels=1, train_split="train[:100]")
    )
    assert data.spec.image_shape == (9, 9, 3)
    assert data.spec.num_examples == 100
    assert dataset.load(data_config(made_up_tfds, "stacked:made_up_digits", test_split="")).test is None


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("stacked", {}, "names no set: use stacked:mnist"),
        ("stacked:made_up_unlabelled", {}, "made_up_unlabelled has none: use mnist"),
        ("stacked:made_up_colours", {}, "made_up_colours has 3: set --config.data.channels=1"),
        ("stacked:gaussians:ring8", {}, "needs a set with classes"),
        ("stacked:made_up_digits", {"stream": True}, "leave out data.stream"),
        ("stacked:mnits", {}, "there is no set 'mnits'.*did you mean mnist"),
    ],
)
def test_what_cannot_be_stacked_is_one_line(made_up_tfds, name: str, changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        dataset.load(data_config(made_up_tfds, name, **changes))


def test_a_set_that_cannot_be_had_can_be_substituted(made_up_tfds, monkeypatch, capsys):
    load = dataset.importlib.import_module("gen_jax.data.tfds").load

    def offline(name, config):
        if name == "mnist":
            raise dataset.UnavailableError("mnist is not prepared in /nowhere and cannot be downloaded")
        return load(name, config)

    monkeypatch.setattr("gen_jax.data.tfds.load", offline)
    config = data_config(made_up_tfds, "stacked:mnist")
    with pytest.raises(dataset.UnavailableError, match="cannot be downloaded"):
        dataset.load(config)
    config.offline_substitute = "stacked:made_up_digits"
    assert dataset.load(config).spec.name == "stacked:made_up_digits"
    assert "THIS IS NOT stacked:mnist" in capsys.readouterr().err


@pytest.mark.slow
def test_stacked_mnist_is_made_of_the_real_digits(shared, tmp_path):
    data = dataset.load(data_config(shared / "tfds", "stacked:mnist", cache_dir=str(tmp_path)))
    assert data.spec.image_shape == (28, 28, 3)
    assert data.spec.num_examples == 60_000
    assert data.single is not None
    chosen = stacked.rows(0, 60_000, 60_000)
    for row in (0, 7, 59_999):
        expected = np.stack([data.single.train["image"][number, ..., 0] for number in chosen[row]], -1)
        np.testing.assert_array_equal(data.train["image"][row], expected)
    modes = data.single.train["label"][chosen] @ [100, 10, 1]
    assert len(np.unique(modes)) == 1_000

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from conftest import data_config

from gen_jax.data import dataset
from gen_jax.data.dataset import Dataset
from gen_jax.metrics import classifier

SHORT = classifier.Recipe(num_steps=150, max_shift=1)


def _load(folder: pathlib.Path, name: str) -> Dataset:
    return dataset.load(data_config(folder, name))


@pytest.fixture(scope="module")
def digits(made_up_tfds: pathlib.Path) -> Dataset:
    return _load(made_up_tfds, "made_up_digits")


@pytest.fixture(scope="module")
def judge(digits: Dataset) -> classifier.Classifier:
    return classifier.train(digits, recipe=SHORT)


def test_learns_to_read_the_test_split(digits: Dataset, judge: classifier.Classifier):
    assert digits.test is not None
    probabilities = judge.probabilities(digits.test["image"])
    assert judge.test_accuracy == np.mean(probabilities.argmax(axis=1) == digits.test["label"]) > 0.9
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.mark.long
def test_colour_images_of_odd_sides(made_up_tfds: pathlib.Path):
    colours = classifier.train(_load(made_up_tfds, "made_up_colours"), recipe=SHORT)
    assert colours.test_accuracy > 0.95
    assert colours.probabilities(np.zeros((2, 9, 12, 3), np.uint8)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (33, 20, 3), (64, 64, 3)])
def test_takes_any_size_and_is_not_far_larger_for_larger_images(shape: tuple[int, int, int]):
    network = classifier.Network(num_classes=4)
    image = jax.ShapeDtypeStruct((2, *shape), np.uint8)
    params = jax.eval_shape(network.init, jax.random.key(0), image)
    logits, features = jax.eval_shape(network.apply, params, image)
    assert (logits.shape, features.shape) == ((2, 4), (2, 64))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) < 300_000


def test_the_number_of_images_a_call_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, digits: Dataset, judge: classifier.Classifier
):
    images = digits.train["image"][:37]
    whole = judge.features(images)
    assert whole.shape == (37, 64)
    np.testing.assert_allclose(whole, judge.train_features[:37], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(whole[5:6], judge.features(images[5:6]), rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(classifier, "_MAX_CHUNK", 10)
    np.testing.assert_allclose(whole, judge.features(images), rtol=1e-5, atol=1e-5)


def test_is_trained_once_and_then_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, digits: Dataset, judge: classifier.Classifier
):
    first = classifier.train(digits, str(tmp_path), SHORT)
    again = classifier.train(digits, str(tmp_path), SHORT)
    for others in (first, again):  # from a fixed seed: equal in another cache too
        jax.tree.map(np.testing.assert_array_equal, others.params, jax.device_get(judge.params))
    monkeypatch.setattr(classifier, "_fit", lambda *args: 1 / 0)
    classifier.train(digits, str(tmp_path), SHORT)
    other_data = dataclasses.replace(digits, spec=dataclasses.replace(digits.spec, fingerprint="other"))
    for data, recipe in ((other_data, SHORT), (digits, dataclasses.replace(SHORT, version=99))):
        with pytest.raises(ZeroDivisionError):
            classifier.train(data, str(tmp_path), recipe)


def test_a_damaged_copy_is_not_believed(tmp_path: pathlib.Path, digits: Dataset, judge: classifier.Classifier):
    classifier.train(digits, str(tmp_path), SHORT)
    (damaged,) = tmp_path.rglob("params.Dense_0.kernel.npy")
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    again = classifier.train(digits, str(tmp_path), SHORT)
    np.testing.assert_array_equal(again.params["Dense_0"]["kernel"], judge.params["Dense_0"]["kernel"])


def test_shifts_move_all_images_alike_and_repeat_edges():
    image = np.arange(2 * 5 * 5, dtype=np.uint8).reshape(2, 5, 5, 1)
    for seed in range(10):
        shifted = np.asarray(classifier._shift(image, 1, jax.random.key(seed)))
        candidates = [
            np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")[:, i : i + 5, j : j + 5]
            for i in range(3)
            for j in range(3)
        ]
        assert sum(np.array_equal(shifted, candidate) for candidate in candidates) == 1


def test_without_labels_it_learns_how_images_are_turned(made_up_tfds: pathlib.Path):
    judge = classifier.train(_load(made_up_tfds, "made_up_unlabelled"), recipe=SHORT)
    assert judge.of_turns
    assert judge.num_classes == 4
    assert judge.test_accuracy > 0.5  # four ways; 0, 1 and 8 look alike on their head
    assert judge.train_features.shape == (512, 64)


def test_turns_are_those_of_numpy_and_keep_the_shape():
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3)).astype(np.uint8)
    turned = classifier.turn(image, np.array([3, 0, 2, 1]))
    for found, one, times in zip(turned, image, (3, 0, 2, 1), strict=True):
        np.testing.assert_array_equal(found, np.rot90(one, times))
    np.testing.assert_array_equal(classifier.turn(image[:, :4], np.array([1, 1, 0, 1]))[0], image[0, 3::-1, ::-1])


def test_shares_of_sure_samples_and_of_classes():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.05, 0.95, 0.0], [0.3, 0.7, 0.0], [0.99, 0.01, 0.0]])
    assert classifier.confident_share(probabilities) == 0.5  # more than 0.9, not 0.9 itself
    assert classifier.confident_share(probabilities, threshold=0.6) == 1.0
    np.testing.assert_array_equal(classifier.class_histogram(probabilities), [0.5, 0.5, 0.0])

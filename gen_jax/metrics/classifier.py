"""A small classifier that the project trains on each data set, for metrics of other images.

Its features replace those of an Inception network: it needs no download and accepts images of any size or kind.
Metrics based on it are comparable only for the same data set and recipe, and their names must include it. It is
trained once per data set, from a fixed seed, and kept in the cache.

If a set has no labels, the classifier predicts by how much an image was rotated (Gidaris et al. 2018), a task that
requires recognising its content. It then provides features, but no classes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from gen_jax import parallel
from gen_jax.data import cache
from gen_jax.data.dataset import Batches, Dataset
from gen_jax.method import Array, DataSpec, PyTree

NUM_FEATURES = 64
_LARGEST_SIDE = 32  # pixels: larger images cost more than they gain
_MAX_CHUNK, _CHUNK_VALUES = 1_000, 2**24  # images and pixel values per call, at most


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that determines the classifier besides the data; part of its key in the cache.

    Attributes:
      version: increase it when the network or its training changes.
      num_steps: of Adam, one cycle of the learning rate (Smith and Topin 2018).
      batch_size: images.
      learning_rate: at its peak.
      max_shift: maximum random shift of a batch in pixels: the only augmentation that suits digits and photos alike.
    """

    version: int = 1
    num_steps: int = 1_400
    batch_size: int = 128
    learning_rate: float = 3e-3
    max_shift: int = 2


class Network(nn.Module):
    """Images uint8 [B, H, W, C] -> logits f32 [B, K] and features f32 [B, 64], the last hidden layer."""

    num_classes: int

    @nn.compact
    def __call__(self, image: Array) -> tuple[Array, Array]:
        x = image.astype(jnp.float32) / 255
        while max(x.shape[1:3]) > _LARGEST_SIDE:
            x = nn.avg_pool(x, (2, 2), (2, 2), "SAME", count_include_pad=False)
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % 4), (0, -x.shape[2] % 4), (0, 0)))
        # Convolutions written as matrix products: on a CPU they train in two thirds of the time.
        x = nn.relu(nn.Dense(32)(_neighbourhoods(_space_to_depth(x))))
        x = nn.relu(nn.Dense(64)(_space_to_depth(x)))
        features = nn.relu(nn.Dense(NUM_FEATURES)(x.reshape(len(x), -1)))
        return nn.Dense(self.num_classes)(features), features


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A trained classifier.

    Attributes:
      params: of `Network`.
      num_classes: K.
      test_accuracy: on the test split, or NaN if the set has none.
      of_turns: whether its classes are rotations, because the set has no labels.
      train_features: of the training images, f32 [N, 64].
    """

    params: PyTree
    num_classes: int
    test_accuracy: float
    train_features: np.ndarray
    of_turns: bool = False

    def features(self, images: np.ndarray) -> np.ndarray:
        """Returns the features f32 [N, 64] of images uint8 [N, H, W, C]."""
        return self.outputs(images)[1]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns the probability of each class, f32 [N, K], for images uint8 [N, H, W, C]."""
        return self.outputs(images)[0]

    def outputs(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the probabilities f32 [N, K] and the features f32 [N, 64] of images uint8 [N, H, W, C]."""
        probabilities, features = zip(*self.batches(images), strict=True)
        return np.concatenate(probabilities), np.concatenate(features)

    def batches(self, images: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields `outputs` of a batch at a time; `images`: anything whose slices are arrays."""
        yield from _apply(self.params, self.num_classes, images)

    @functools.cached_property
    def digest(self) -> str:
        """Eight hex digits of its weights: metrics of two classifiers are not comparable."""
        arrays: Any = flax.traverse_util.flatten_dict(self.params, sep=".")
        return cache.fingerprint(arrays)[:8]


def train(data: Dataset, cache_dir: str = "", recipe: Recipe | None = None) -> Classifier:
    """Returns the classifier of a data set: from the cache, or trained now (well under a minute for MNIST).

    Args:
      data: pictures as bytes.
      cache_dir: as in the config; "" for the user's.
      recipe: None for the default one. Metrics of two recipes are not comparable.
    """
    spec, recipe = data.spec, recipe or Recipe()
    of_turns = not has_classes(spec)
    num_classes = num_turns(*spec.image_shape[:2]) if of_turns else spec.num_classes or 0
    key = {"recipe": dataclasses.asdict(recipe), "data": spec.fingerprint, "num_classes": num_classes}
    key |= {"of_turns": True} if of_turns else {}

    def build() -> tuple[cache.Arrays, dict[str, Any]]:
        params = _fit(data, num_classes, of_turns, recipe)
        features = [features for _, features in _apply(params, num_classes, data.train["image"])]
        tree = {"params": jax.device_get(params), "train_features": np.concatenate(features)}
        arrays: Any = flax.traverse_util.flatten_dict(tree, sep=".")
        return arrays, {}

    stored = cache.fetch(cache.root(cache_dir) / "classifier", spec.name, key, build, verify=True).arrays
    tree = flax.traverse_util.unflatten_dict(stored, sep=".")
    classifier = Classifier(tree["params"], num_classes, float("nan"), tree["train_features"], of_turns)
    if data.test is None:
        return classifier
    guess, label = _guesses(classifier, data.test)
    return dataclasses.replace(classifier, test_accuracy=float(np.mean(guess == label)))


def _guesses(classifier: Classifier, test: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the predicted and the true classes of the test images; rotated images are processed in chunks."""
    images = test["image"]
    if not classifier.of_turns:
        return classifier.probabilities(images).argmax(axis=1), test["label"]
    label, size, guesses = np.arange(len(images)) % classifier.num_classes, _chunk(images), []
    for start in range(0, len(images), size):
        turned = turn(jnp.asarray(images[start : start + size]), label[start : start + size])
        guesses.append(classifier.probabilities(np.asarray(turned)).argmax(axis=1))
    return np.concatenate(guesses), label


def sides_seen(height: int, width: int) -> tuple[int, int]:
    """Returns the height and width to which `Network` averages a picture.

    Example:
      >>> sides_seen(28, 28), sides_seen(64, 100)
      ((28, 28), (16, 25))
    """
    while max(height, width) > _LARGEST_SIDE:
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def has_classes(spec: DataSpec) -> bool:
    """Returns whether a set has several classes: a single class carries no information."""
    return (spec.num_classes or 0) > 1


def num_turns(height: int, width: int) -> int:
    """Returns how many rotations preserve the shape of an image.

    Example:
      >>> num_turns(64, 64), num_turns(9, 12)
      (4, 2)
    """
    return 4 if height == width else 2


def turn(image: Array, label: Array | np.ndarray) -> Array:
    """Returns images [B, H, W, C], each rotated by `label` [B] of the `num_turns` steps of a full turn.

    Example:
      >>> turn(jnp.arange(8).reshape(2, 2, 2, 1), jnp.array([0, 1]))[..., 0].tolist()
      [[[0, 1], [2, 3]], [[5, 7], [4, 6]]]
    """
    num = num_turns(*image.shape[1:3])
    turned = jnp.stack([jnp.rot90(image, 4 // num * times, axes=(1, 2)) for times in range(num)])
    return turned[label, jnp.arange(len(image))]


def confident_share(probabilities: np.ndarray, threshold: float = 0.9) -> float:
    """Returns the share of images whose most likely class has a probability above `threshold`; `probabilities` [N, K].

    Example:
      >>> confident_share(np.array([[0.95, 0.05], [0.6, 0.4]]))
      0.5
    """
    return float(np.mean(probabilities.max(axis=1) > threshold))


def class_histogram(probabilities: np.ndarray) -> np.ndarray:
    """Returns the share of images for which each class is the most likely, f64 [K]; `probabilities` [N, K].

    Example:
      >>> class_histogram(np.array([[0.7, 0.3, 0.0], [0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.8, 0.2, 0.0]])).tolist()
      [0.75, 0.25, 0.0]
    """
    return np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1]) / len(probabilities)


def _fit(data: Dataset, num_classes: int, of_turns: bool, recipe: Recipe) -> PyTree:
    network = Network(num_classes)
    optimizer = optax.adam(optax.cosine_onecycle_schedule(recipe.num_steps, recipe.learning_rate, pct_start=0.2))
    batches = Batches(data.train, recipe.batch_size, seed=0)
    key_init, key_shift = jax.random.split(jax.random.key(0))
    key_turn = jax.random.key(1)
    params = jax.jit(network.init)(key_init, data.train["image"][:1])["params"]
    opt_state = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1), compiler_options=parallel.compiler_options())
    def update(
        params: PyTree, opt_state: PyTree, image: Array, label: Array | None, step: Array
    ) -> tuple[PyTree, PyTree]:
        if of_turns:
            label = jax.random.randint(jax.random.fold_in(key_turn, step), image.shape[:1], 0, num_classes)
            image = turn(image, label)
        shifted = _shift(image, recipe.max_shift, jax.random.fold_in(key_shift, step))

        def loss_fn(params: PyTree) -> Array:
            logits, _ = network.apply({"params": params}, shifted)
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()  # pyright: ignore[reportArgumentType]

        updates, opt_state = optimizer.update(jax.grad(loss_fn)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for step in tqdm.trange(
        recipe.num_steps, desc=f"training a classifier of {data.spec.name}", unit="steps", disable=None
    ):
        batch = batches.batch(step)
        params, opt_state = update(params, opt_state, batch["image"], batch.get("label"), step)
    return params


def _space_to_depth(x: Array) -> Array:
    """Returns each 2x2 patch as one position: [B, H, W, C] -> [B, H/2, W/2, 4C]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)


def _neighbourhoods(x: Array) -> Array:
    """Returns each position with its eight neighbours, zeros outside: [B, H, W, C] -> [B, H, W, 9C]."""
    _, h, w, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1)


def _shift(image: Array, most: int, key: Array) -> Array:
    """Returns the images [B, H, W, C] shifted by one random offset of at most `most` pixels; edges are repeated."""
    padded = jnp.pad(image, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    row, column = jax.random.randint(key, (2,), 0, 2 * most + 1)
    return jax.lax.dynamic_slice(padded, (0, row, column, 0), image.shape)


def _apply(params: PyTree, num_classes: int, images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields probabilities [n, K] and features [n, 64] of one chunk of images at a time.

    The last chunk is padded, so that one compilation suffices for any number of images.
    """
    forward, size = _compiled(num_classes), _chunk(images)
    for start in range(0, len(images), size):
        chunk = images[start : start + size]
        padded = np.zeros((size, *images.shape[1:]), np.uint8)
        padded[: len(chunk)] = chunk
        probabilities, features = jax.device_get(forward(params, padded))
        yield probabilities[: len(chunk)], features[: len(chunk)]


def _chunk(images: np.ndarray) -> int:
    """The number of images per call: the larger the images, the fewer."""
    return max(1, min(_MAX_CHUNK, _CHUNK_VALUES // math.prod(images.shape[1:])))


@functools.cache
def _compiled(num_classes: int) -> Any:
    @functools.partial(jax.jit, compiler_options=parallel.compiler_options())
    def forward(params: PyTree, images: Array) -> tuple[Array, Any]:
        logits, features = Network(num_classes).apply({"params": params}, images)
        return nn.softmax(logits), features

    return forward

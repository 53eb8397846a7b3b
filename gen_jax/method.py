"""Types that the whole package shares: Method, State, Batch, DataSpec, Stage, Picture, Scatter, and random numbers.

Nothing here depends on a model family, a file, a loop or a device. A method is a NamedTuple of pure functions
(like an optimizer in optax). Everything that training changes is one `State`. Random numbers belong to
examples, so results do not depend on how a batch is split over devices or processes.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array  # a typed threefry2x32 key, shape []
PyTree: TypeAlias = Any
Scalars: TypeAlias = dict[str, Array]
Batch: TypeAlias = dict[str, Array]
"""`image` [B, H, W, C] of the spec's dtype, `index` i32 [B] (the example's position in its global batch) and the
data's features under their names (`DataSpec.features`): `label` i32 [B], `factors` i32 [B, F]. With minibatches every
leaf is [k, B, ...]: stacked on axis 0, sharded on axis 1."""
Condition: TypeAlias = dict[str, Array]
"""The conditions of samples: leaves [N, ...] under the names of a batch's features; {} for none."""

NUM_EXAMPLES = 512  # training examples, at most, that a method's `init` sees


class State(flax.struct.PyTreeNode):
    """Everything that training changes, and everything that a checkpoint holds."""

    step: Array  # i32 [], optimizer steps taken (of the generator, if there are two networks)
    key: Array  # the run's root key; never split, only folded
    params: dict[str, PyTree]  # by network: {"denoiser": ...}
    variables: dict[str, PyTree]  # not trained by gradients: batch statistics, codebooks
    opt_state: dict[str, PyTree]
    ema: dict[str, PyTree]  # averaged params of the networks that are sampled, and their variables, if any
    frozen: dict[str, PyTree]  # a first stage; excluded from optimizer, EMA and norms


class Feature(NamedTuple):
    """A named part of each example of a batch, besides the image.

    Attributes:
      shape: of one example: () for a label, (h, w, C) for a smaller picture.
      dtype: of the array.
      names: of the classes, if the feature is a class.
      sizes: number of values of each component, if they are whole numbers.
      counts: number of training examples of each class, if the feature is a class; runs before 0.2 lack it.
      several: whether the first axis holds alternatives, such as the captions of a picture: a sample gets one of them.
    """

    shape: tuple[int, ...] = ()
    dtype: str = "int32"
    names: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    several: bool = False

    @property
    def given(self) -> tuple[int, ...]:
        """The shape of a sample's condition of this name."""
        return self.shape[1:] if self.several else self.shape


Kind: TypeAlias = Literal["image", "points", "codes"]
_DTYPES: dict[Kind, str] = {"image": "uint8", "points": "float32", "codes": "float32"}


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """The description of a data set for methods and reports. It is stored with the config: sampling needs no data.

    Attributes:
      name: of the data actually used, as shown in every file and page (e.g. "mnist").
      image_shape: (H, W, C).
      num_examples: size of the training split.
      features: what a batch holds besides `image`, by name; see `labelled`.
      fingerprint: hex digest of the content of the training split.
      kind: "image": bytes that are shown as they are; "points": x and y of a point in the plane, as [1, 1, 2];
        "codes": real numbers that an autoencoder encodes to and decodes from.
      value_range: smallest and largest value of a pixel in a batch; it maps to a model's range [-1, 1].

    Example:
      >>> spec = DataSpec("mnist", (28, 28, 1), 60_000, labelled("0123456789"))
      >>> spec.num_classes, spec.dtype, DataSpec.from_dict(spec.to_dict()) == spec
      (10, 'uint8', True)
    """

    name: str
    image_shape: tuple[int, int, int]
    num_examples: int
    features: dict[str, Feature] = dataclasses.field(default_factory=dict)
    fingerprint: str = ""
    kind: Kind = "image"
    value_range: tuple[float, float] = (0, 255)

    @property
    def dtype(self) -> str:
        """Of `image` in a batch."""
        return _DTYPES[self.kind]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name per class, or None if there are no labels."""
        return self.features["label"].names if "label" in self.features else None

    @property
    def num_classes(self) -> int | None:
        return None if self.class_names is None else len(self.class_names)

    @property
    def factor_sizes(self) -> tuple[int, ...] | None:
        """Number of values of each factor of variation, in the order of a batch's `factors`, or None."""
        return self.features["factors"].sizes if "factors" in self.features else None

    def abstract_batch(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes and dtypes of a batch of `size` examples."""
        image = jax.ShapeDtypeStruct((size, *self.image_shape), self.dtype)
        index = jax.ShapeDtypeStruct((size,), "int32")
        features = {n: jax.ShapeDtypeStruct((size, *f.shape), f.dtype) for n, f in self.features.items()}
        return {"image": image, "index": index, **features}

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values; `from_dict` inverts it."""
        return dataclasses.asdict(self) | {"features": {name: each._asdict() for name, each in self.features.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataSpec:
        """Returns the spec of a `to_dict` result that was read from JSON; its lists become tuples.

        Versions before 0.2 wrote `class_names`, `factor_sizes` and `dtype`. Keys of newer versions are ignored.

        Example:
          >>> DataSpec.from_dict({"name": "x", "image_shape": [1, 1, 2], "num_examples": 3, "dtype": "float32"}).kind
          'points'
        """
        features = {name: _known_fields(Feature._fields, f, Feature) for name, f in values.get("features", {}).items()}
        if values.get("class_names") is not None:
            features |= labelled(values["class_names"])
        if values.get("factor_sizes") is not None:
            features |= with_factors(values["factor_sizes"])
        kind = values.get("kind") or ("points" if values.get("dtype", "uint8") == "float32" else "image")
        known = [field.name for field in dataclasses.fields(cls)]
        return _known_fields(known, {**values, "features": features, "kind": kind}, cls)


def _known_fields(names: Iterable[str], values: Mapping[str, Any], make: Callable[..., Any]) -> Any:
    known = {name: values[name] for name in names if name in values}
    return make(**{name: tuple(value) if isinstance(value, list) else value for name, value in known.items()})


def labelled(names: Iterable[str]) -> dict[str, Feature]:
    """Returns the feature `label` of a set whose classes have these names.

    Example:
      >>> labelled(["cat", "dog"])["label"].names
      ('cat', 'dog')
    """
    return {"label": Feature(names=tuple(names))}


def counted(number: int, noun: str, nouns: str = "") -> str:
    """Returns a number with its noun, in the plural (`nouns`; by default with an s) unless the number is 1.

    Example:
      >>> counted(1, "class", "classes"), counted(1_000, "example")
      ('1 class', '1,000 examples')
    """
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def with_factors(sizes: Iterable[int]) -> dict[str, Feature]:
    """Returns the feature `factors` of a set whose factors of variation have `sizes` values."""
    sizes = tuple(sizes)
    return {"factors": Feature((len(sizes),), sizes=sizes)}


class Picture(flax.struct.PyTreeNode):
    """A figure of a report, as arrays; figures/ decides how it is drawn.

    Attributes:
      images: uint8; "grid" and "strip" [N, H, W, C], "animation" [F, N, H, W, C] (F frames of N images).
      title: a few words.
      caption: one or two sentences: what the figure shows and how it was made.
      kind: "grid" (square), "strip" (one row, one label per image) or "animation" (frames with a slider).
      labels: one per picture (grid, strip) or one per frame (animation), or ().
      columns: of a grid; 0 makes it as square as possible.
    """

    images: Array
    title: str = flax.struct.field(pytree_node=False)
    caption: str = flax.struct.field(pytree_node=False, default="")
    kind: Literal["grid", "strip", "animation"] = flax.struct.field(pytree_node=False, default="grid")
    labels: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())
    columns: int = flax.struct.field(pytree_node=False, default=0)


class Scatter(flax.struct.PyTreeNode):
    """Points in the plane; figures/ decides how they are drawn.

    Points that are not finite, or far away from the rest, are left out, and the figure states their number.

    Attributes:
      points: f32 [N, 2], or [F, N, 2]: F frames of an animation.
      classes: i32 [N], the class of each point in every frame, or None.
      background: f32 [M, 2], points drawn in grey below those of every frame, or None.
      title: a few words.
      caption: one or two sentences: what the figure shows and how it was made.
      names: one per class, for the legend; without classes one name for all points, or ().
      axes: the labels of the x axis and the y axis.
      background_name: of the background, for the legend.
      circles: radii of circles around the origin.
      labels: one per frame, or ().
    """

    points: Array
    classes: Array | None
    background: Array | None
    title: str = flax.struct.field(pytree_node=False)
    caption: str = flax.struct.field(pytree_node=False, default="")
    names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())
    axes: tuple[str, str] = flax.struct.field(pytree_node=False, default=("", ""))
    background_name: str = flax.struct.field(pytree_node=False, default="")
    circles: tuple[float, ...] = flax.struct.field(pytree_node=False, default=())
    labels: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())


Figure: TypeAlias = Picture | Scatter


class Code(NamedTuple):
    """The codes of an autoencoder.

    Attributes:
      kind: "means", real numbers, the mean of q(z | x); "vectors", real numbers without such a posterior, of any scale;
        or "integers", indices into a codebook.
      shape: of one image's code.
      encode: (state, batch, key) -> [B, *shape], f32 or i32.
      decode: (state, codes) -> f32 [B, H, W, C] in the model's range.
      size: of the codebook, if codes are integers.
    """

    kind: Literal["means", "vectors", "integers"]
    shape: tuple[int, ...]
    encode: Callable[[State, Batch, Key], Array]
    decode: Callable[[State, Array], Array]
    size: int = 0


class Edits(NamedTuple):
    """What a method can do with given pictures.

    Rows are batches, with `image` as in a `Batch`; `keys` are [N]. `condition` may lack a label, for a model that was
    also trained without. Pictures come as `sample` returns them.

    Attributes:
      inpaint: (state, keys, rows, condition, resample) -> pictures in which `mask`, bool [N, H, W], is filled.
      vary: (state, keys, rows, condition, strength) -> pictures that share with `image` what noise of this strength, 0
        to 1, leaves of it.
      invert: (state, keys, rows, condition) -> noise f32 [N, h, w, c] that `render` turns into `image`.
      render: (state, keys, rows, condition) -> the pictures of `noise`.
    """

    inpaint: Callable[[State, Array, Batch, Condition, int], Array]
    vary: Callable[[State, Array, Batch, Condition, float], Array]
    invert: Callable[[State, Array, Batch, Condition], Array]
    render: Callable[[State, Array, Batch, Condition], Array]


class Upscale(NamedTuple):
    """What a method can do with small pictures of any size.

    Attributes:
      factor: of height and width.
      reach: how far, in pixels of the small picture, what lies around a pixel affects it.
      apply: (state, pictures uint8 [N, h, w, C]) -> f32 [N, factor h, factor w, C] in [-1, 1].
    """

    factor: int
    reach: int
    apply: Callable[[State, Array], Array]


class Method(NamedTuple):
    """A generative model as pure functions. A function that a method does not support is None."""

    init: Callable[[Key, Batch, PyTree], State]  # key, training examples (`NUM_EXAMPLES` at most), frozen params
    step: Callable[[State, Batch], tuple[State, Scalars]]  # traced once; {"loss": f32 [], ...}
    sample: Callable[[State, Array, Condition], Array]  # keys [N], leaves [N, ...] -> f32 [N, H, W, C]; see to_data
    evaluate: Callable[[State, Batch, Key], Scalars] | None  # {"loss": f32 [B], ...}: one value per example
    pictures: Callable[[State, Key, Batch], Mapping[str, Figure]]  # the figures of this method in the report
    batches_per_step: int = 1  # leaves of Batch are [k, B, ...] if k > 1
    condition: tuple[str, ...] = ()  # features on which `sample` is conditioned
    code: Code | None = None
    num_pictured: int = 16  # test examples that `pictures` receives, if there are as many
    # Figures that change with training, drawn every eval_every steps in addition to the samples and shown as an
    # animation: by name a grid or a still scatter, the frame of this state. The key is the same every time.
    snapshots: Callable[[State, Key], Mapping[str, Figure]] | None = None
    # Values of a state that are measured every eval_every steps and drawn as curves: by name f32 [].
    gauges: Callable[[State], Scalars] | None = None
    edits: Edits | None = None
    upscale: Upscale | None = None
    describe: Mapping[str, str] = types.MappingProxyType({})  # all settings that affect samples, in words, by name


class Stage(NamedTuple):
    """A first stage: a trained model that another model uses with frozen weights.

    Attributes:
      method: its pure functions.
      config: the config that it was trained with.
      spec: describes its training data.
      params: its averaged weights, as in `State.ema`: arrays, or only their shapes if a run's own state holds them.
    """

    method: Method
    config: Any
    spec: DataSpec
    params: PyTree

    @staticmethod
    def state(frozen: PyTree) -> State:
        """Returns a State for the stage's functions, from the weights in `State.frozen` of the run."""
        return State(
            step=jnp.zeros((), jnp.int32), key=jax.random.key(0, impl="threefry2x32"),
            params={}, variables={}, opt_state={}, ema=frozen, frozen={},
        )  # fmt: skip


class UserError(Exception):
    """A user's mistake: main.py prints its one line and exits with status 2, without a traceback."""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Returns the part of a UserError's line that suggests the closest valid name, or "" if none is close.

    Args:
      name: what the user wrote.
      known: the valid names.
      cutoff: the minimum similarity, 0 to 1, of a suggestion.

    Example:
      >>> did_you_mean("hing", ["minimax", "hinge"]), did_you_mean("hing", ["minimax"])
      ('did you mean hinge? ', '')
      >>> did_you_mean("lr", ["eps", "learning_rate"])
      'did you mean learning_rate? '
    """
    known = list(known)
    initials = [each for each in known if "_" in each and name == "".join(word[:1] for word in each.split("_"))]
    near = initials or difflib.get_close_matches(name, known, 1, cutoff)
    return f"did you mean {near[0]}? " if near else ""


_STREAMS = {"init": 0, "step": 1, "sample": 2, "eval": 3, "pictures": 4}


def stream(key: Key, name: Literal["init", "step", "sample", "eval", "pictures"]) -> Key:
    """Returns the root of one independent stream of random numbers of a run.

    Example:
      >>> root = jax.random.key(0)
      >>> bool(jnp.all(jax.random.key_data(stream(root, "init")) == jax.random.key_data(stream(root, "step"))))
      False
    """
    return jax.random.fold_in(key, _STREAMS[name])


def draw(key: Key, index: Array, fn: Callable[[Key], Array]) -> Array:
    """Returns `fn` of one key per example, stacked: [B, ...].

    The key depends only on the example's position in its global batch: 1 device = 8, jit = pmap,
    2 processes = 1. This needs threefry keys (with rbg, a draw inside vmap differs from the same draw outside).

    Args:
      key: key of this step and purpose.
      index: i32 [B], positions in the global batch.
      fn: from one key to one example's random numbers.

    Example:
      >>> key = jax.random.key(0)
      >>> whole = draw(key, jnp.arange(4), jax.random.normal)
      >>> part = draw(key, jnp.arange(2, 4), jax.random.normal)
      >>> bool(jnp.all(whole[2:] == part))
      True
    """
    return jax.vmap(fn)(keys_of(key, index))


def keys_of(key: Key, index: Array) -> Array:
    """Returns one key per example: keys [B] for positions `index` i32 [B] in the global batch."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def broadcast_to_images(values: Array, images: Array) -> Array:
    """Returns `values` [B] with trailing axes of length one, so that it multiplies `images` [B, ...].

    Example:
      >>> broadcast_to_images(jnp.ones(2), jnp.ones((2, 4, 4, 1))).shape
      (2, 1, 1, 1)
    """
    return values.reshape(values.shape + (1,) * (images.ndim - values.ndim))


def mirrored(image: Array, key: Key, index: Array) -> Array:
    """Returns images of which each is mirrored left-right with probability 1/2.

    Args:
      image: [B, H, W, C], of any dtype.
      key: of this step.
      index: i32 [B], positions in the global batch, which decide together with the key.

    Example:
      >>> image = jnp.arange(2).reshape(1, 1, 2, 1).repeat(1000, 0)
      >>> found = mirrored(image, jax.random.key(0), jnp.arange(1000))[:, 0, 0, 0]
      >>> 450 < int(found.sum()) < 550  # the right pixel, which is 1, comes first in half of the images
      True
    """
    turned = draw(key, index, jax.random.bernoulli)
    return jnp.where(broadcast_to_images(turned, image), image[:, :, ::-1], image)


def to_model(image: Array, value_range: tuple[float, float]) -> Array:
    """Returns images of a batch (any shape) as f32 in [-1, 1]; bytes as x / 127.5 - 1 (Ho et al. 2020).

    Args:
      image: with values in `value_range`.
      value_range: of the DataSpec: (0, 255) for bytes, (0, 1) for binary images.

    Example:
      >>> to_model(jnp.array([0, 255], jnp.uint8), (0, 255)).tolist(), to_model(jnp.array([0, 1]), (0, 1)).tolist()
      ([-1.0, 1.0], [-1.0, 1.0])
    """
    low, high = value_range
    return (image.astype(jnp.float32) - low) / ((high - low) / 2) - 1.0


def to_bytes(image: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Returns images of a data set as they are shown and compared with samples: uint8, from black 0 to white 255.

    Args:
      image: with values in `value_range`, any shape.
      value_range: of the DataSpec.

    Example:
      >>> to_bytes(np.array([0, 1], np.uint8), (0, 1)).tolist(), to_bytes(np.array([7], np.uint8), (0, 255)).tolist()
      ([0, 255], [7])
    """
    low, high = value_range
    if image.dtype == np.uint8 and (low, high) == (0, 255):
        return image
    return np.clip(np.round((image.astype(np.float32) - low) * (255 / (high - low))), 0, 255).astype(np.uint8)


def to_pixels(x: Array) -> Array:
    """Returns images in the model's range [-1, 1] as uint8: clipped and rounded, the inverse of `to_model`.

    Example:
      >>> to_pixels(jnp.array([-1.2, 0.0, 1.0])).tolist()
      [0, 128, 255]
    """
    return jnp.clip(jnp.round((x + 1.0) * 127.5), 0, 255).astype(jnp.uint8)


def to_data(x: Array, spec: DataSpec) -> Array:
    """Returns samples in the model's range [-1, 1] in the form that files and metrics use.

    Pictures become bytes (`to_pixels`), with black 0 and white 255 for any value range of the data. Other samples are
    scaled to `spec.value_range`, without rounding or clipping.

    Example:
      >>> to_data(jnp.array([0.5]), DataSpec("mnist", (1, 1, 1), 1)).tolist()
      [191]
      >>> points = DataSpec("points", (1, 1, 2), 1, kind="points", value_range=(-5.0, 5.0))
      >>> to_data(jnp.array([0.5, -1.25]), points).tolist()
      [2.5, -6.25]
    """
    if spec.kind == "image":
        return to_pixels(x)
    low, high = spec.value_range
    return ((x + 1) * ((high - low) / 2) + low).astype(spec.dtype)

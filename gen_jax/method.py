"""The types that every room shares: Method, State, Batch, DataSpec, Picture, Scatter, and random numbers.

Nothing here knows a family, a file, a loop or a device. A method is a NamedTuple of pure functions
(the way optax writes an optimizer); everything that training changes is one `State`; random numbers
belong to examples, so that nothing depends on how a batch is split over devices or processes.
"""

from __future__ import annotations

import dataclasses
import difflib
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
"""`image` uint8 [B, H, W, C] (f32 where the spec says so), `index` i32 [B] (the example's position in
its global batch) and, where the data has them, `label` i32 [B] and `factors` i32 [B, F]. With minibatches every
leaf is [k, B, ...]: stacked in front, sharded on axis 1."""


class State(flax.struct.PyTreeNode):
    """All that training changes, and all that a checkpoint holds."""

    step: Array  # i32 [], optimizer steps taken (of the generator, where there are two networks)
    key: Array  # the run's root key; never split, only folded
    params: dict[str, PyTree]  # by network: {"denoiser": ...}
    variables: dict[str, PyTree]  # not trained by gradients: batch statistics, codebooks
    opt_state: dict[str, PyTree]
    ema: dict[str, PyTree]  # averaged params of the networks that are sampled, and variables where they have any
    frozen: dict[str, PyTree]  # a first stage; optimizer, EMA and norms never see it


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """What a method and a report need to know of a data set. Stored with the config: sampling needs no data.

    Attributes:
      name: what the data really is, as every file and page shows it (e.g. "mnist").
      image_shape: (H, W, C).
      num_examples: size of the training split.
      class_names: one name a class, or None where there are no labels.
      fingerprint: hex digest of the content of the training split.
      dtype: of `image` in a batch.
      value_range: smallest and largest value of a pixel in a batch; a model's range [-1, 1] spans it.
      factor_sizes: number of values of each factor of variation, in the order of a batch's `factors`, or None.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_examples: int
    class_names: tuple[str, ...] | None = None
    fingerprint: str = ""
    dtype: str = "uint8"
    value_range: tuple[float, float] = (0, 255)
    factor_sizes: tuple[int, ...] | None = None

    @property
    def num_classes(self) -> int | None:
        return None if self.class_names is None else len(self.class_names)

    @property
    def holds_points(self) -> bool:
        """Whether an image is no picture but x and y of a point of the plane, f32 [1, 1, 2]."""
        return self.dtype == "float32" and self.image_shape == (1, 1, 2)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values; `from_dict` inverts it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataSpec:
        """Returns what `to_dict` gave, read from JSON, whose lists are tuples here."""
        restored: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**restored)


class Picture(flax.struct.PyTreeNode):
    """One figure of a report, as arrays; figures/ decides how it is drawn.

    Attributes:
      images: uint8; "grid" and "strip" [N, H, W, C], "animation" [F, N, H, W, C] (F frames of N images).
      title: a few words.
      caption: one or two sentences: what one sees and how it was made.
      kind: "grid" (square), "strip" (one row, one label an image) or "animation" (frames with a slider).
      labels: one a picture (grid, strip) or one a frame (animation), or ().
      columns: of a grid; 0 makes it as square as it can be.
    """

    images: Array
    title: str = flax.struct.field(pytree_node=False)
    caption: str = flax.struct.field(pytree_node=False, default="")
    kind: Literal["grid", "strip", "animation"] = flax.struct.field(pytree_node=False, default="grid")
    labels: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())
    columns: int = flax.struct.field(pytree_node=False, default=0)


class Scatter(flax.struct.PyTreeNode):
    """Points in the plane; figures/ decides how they are drawn.

    What is not finite, or far outside of the rest, is left out, and the figure says how much of it there is.

    Attributes:
      points: f32 [N, 2], or [F, N, 2]: F frames of an animation.
      classes: i32 [N], the class of each point in every frame, or None.
      background: f32 [M, 2], points drawn in grey below those of every frame, or None.
      title: a few words.
      caption: one or two sentences: what one sees and how it was made.
      names: one a class, for the legend; where there are no classes one of all points, or ().
      axes: what runs to the right, and what runs upwards.
      background_name: of the background, for the legend.
      circles: radii of circles around the origin.
      labels: one a frame, or ().
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


class Method(NamedTuple):
    """A generative model as pure functions. What a method cannot do is None."""

    init: Callable[[Key], State]
    step: Callable[[State, Batch], tuple[State, Scalars]]  # traced once; {"loss": f32 [], ...}
    sample: Callable[[State, Array, Array | None], Array]  # keys [N], labels i32 [N] -> f32 [N, H, W, C]; see to_data
    evaluate: Callable[[State, Batch, Key], Scalars] | None  # {"loss": f32 [B], ...}: one value an example
    pictures: Callable[[State, Key, Batch], Mapping[str, Figure]]  # what the report shows of this method
    batches_per_step: int = 1  # leaves of Batch are [k, B, ...] where k > 1
    conditional: bool = False  # whether `sample` takes labels
    encode: Callable[[State, Batch, Key], Array] | None = None  # the mean code of each example, f32 [B, Z]
    num_pictured: int = 16  # test examples that `pictures` is given, where there are as many
    # What changes with training, drawn every eval_every steps beside the samples and shown as an animation: by name a
    # grid or a still scatter, the frame of this state. The key is the same every time.
    snapshots: Callable[[State, Key], Mapping[str, Figure]] | None = None


class UserError(Exception):
    """A mistake of the user's: main.py prints its one line and exits with 2, without a traceback."""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Returns the part of a UserError's line that names the nearest right name, or "" where none is near.

    Args:
      name: what the user wrote.
      known: what could have been meant.
      cutoff: least likeness, 0 to 1, of what is offered.

    Example:
      >>> did_you_mean("hing", ["minimax", "hinge"]), did_you_mean("hing", ["minimax"])
      ('did you mean hinge? ', '')
    """
    near = difflib.get_close_matches(name, list(known), 1, cutoff)
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
    """Returns `fn` of one key an example, stacked: [B, ...].

    The key depends on the example's position in its global batch alone: 1 device = 8, jit = pmap,
    2 processes = 1. Needs threefry keys (under rbg a draw inside vmap is another one than alone).

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
    return jax.vmap(lambda i: fn(jax.random.fold_in(key, i)))(index)


def broadcast_to_images(values: Array, images: Array) -> Array:
    """Returns `values` [B] with trailing axes of length one, so that it multiplies `images` [B, ...].

    Example:
      >>> broadcast_to_images(jnp.ones(2), jnp.ones((2, 4, 4, 1))).shape
      (2, 1, 1, 1)
    """
    return values.reshape(values.shape + (1,) * (images.ndim - values.ndim))


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
    """Returns samples in the model's range [-1, 1] as files and measures hold them.

    Pictures become bytes (`to_pixels`), black 0 and white 255 whatever the data's own range. What is no picture is
    scaled to `spec.value_range`, neither rounded nor clipped.

    Example:
      >>> to_data(jnp.array([0.5]), DataSpec("mnist", (1, 1, 1), 1)).tolist()
      [191]
      >>> points = DataSpec("points", (1, 1, 2), 1, dtype="float32", value_range=(-5.0, 5.0))
      >>> to_data(jnp.array([0.5, -1.25]), points).tolist()
      [2.5, -6.25]
    """
    if spec.dtype == "uint8":
        return to_pixels(x)
    low, high = spec.value_range
    return ((x + 1) * ((high - low) / 2) + low).astype(spec.dtype)


def count_parameters(tree: PyTree) -> int:
    """Returns the number of scalars in a pytree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))

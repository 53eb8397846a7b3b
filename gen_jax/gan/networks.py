"""NETWORKS: pairs of a generator and a discriminator by name; also the dense pair.

A generator maps z [B, Z] and labels to images f32 [B, H, W, C] in the model's range; a discriminator maps images and
labels to logits. Both take `train`, and keep running statistics in the collection "batch_stats".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.config import modules_of, require_choice
from gen_jax.gan.convolutional import CONDITIONS, ConvDiscriminator, ConvGenerator, head
from gen_jax.gan.layers import ACTIVATIONS, NORMS, UPSAMPLINGS, LabelVector
from gen_jax.gan.r3gan import GroupedDiscriminator, GroupedGenerator
from gen_jax.gan.residual import ResidualDiscriminator, ResidualGenerator
from gen_jax.method import Array, UserError

OUTPUTS = {"tanh": jnp.tanh, "linear": lambda x: x}


class DenseGenerator(nn.Module):
    """Dense layers from z and a label to all pixels, or to a point in the plane ([B, 1, 1, 2]).

    Attributes:
      image_shape: (H, W, C).
      num_classes: 0 for no labels.
      generator_hidden: widths of the hidden layers.
      output: a key of OUTPUTS: "tanh" keeps pixels in [-1, 1]; points are unbounded.
      embedding_dim: of the label, concatenated with z; 0: one-hot.
      dtype: of the computation.

    Example:
      >>> import jax
      >>> generator = DenseGenerator((1, 1, 2), generator_hidden=(8,), output="linear")
      >>> jax.eval_shape(generator.init_with_output, jax.random.key(0), jnp.ones((5, 3)))[0].shape
      (5, 1, 1, 2)
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    generator_hidden: tuple[int, ...] = (128, 128)
    output: str = "tanh"
    embedding_dim: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Returns f32 [B, H, W, C] for `z` [B, Z] and `label` i32 [B]."""
        if label is not None and self.num_classes:
            vector = LabelVector(self.num_classes, self.embedding_dim, dtype=self.dtype, name="label")(label)
            z = jnp.concatenate([z, vector], axis=-1)
        for number, width in enumerate(self.generator_hidden):
            layer = nn.Dense(width, kernel_init=nn.initializers.he_normal(), dtype=self.dtype, name=f"dense_{number}")
            z = nn.relu(layer(z))
        height, width, channels = self.image_shape
        h = nn.Dense(height * width * channels, dtype=self.dtype, name="out")(z)
        return OUTPUTS[self.output](h.astype(jnp.float32)).reshape(-1, height, width, channels)


class DenseDiscriminator(nn.Module):
    """Dense layers over all pixels to logits.

    Attributes:
      num_classes: 0 for no labels.
      num_outputs: logits per image.
      condition: how the label is used, one of CONDITIONS.
      hidden: widths of the hidden layers.
      embedding_dim: of a label that is concatenated with the features; 0: one-hot.
      end_bias: whether the last layer has a bias.
      dtype: of the computation.

    Example:
      >>> import jax
      >>> x = jnp.ones((5, 1, 1, 2))
      >>> jax.eval_shape(DenseDiscriminator(hidden=(8,)).init_with_output, jax.random.key(0), x)[0].shape
      (5,)
    """

    num_classes: int = 0
    num_outputs: int = 1
    condition: str = "projection"
    hidden: tuple[int, ...] = (128, 128)
    embedding_dim: int = 0
    end_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, index: Array | None = None, *, train: bool = False
    ) -> Array:
        """Returns logits f32 [B], or [B, num_outputs]; nothing is random or different in training."""
        return head(self, x.astype(self.dtype).reshape(len(x), -1), label, nn.initializers.he_normal())


NETWORKS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "dense": (DenseGenerator, DenseDiscriminator),
    "conv": (ConvGenerator, ConvDiscriminator),
    "residual": (ResidualGenerator, ResidualDiscriminator),
    "r3gan": (GroupedGenerator, GroupedDiscriminator),
}
"""From a name to a generator and a discriminator; `config.network` holds their fields."""

CHOICES = {
    "norm": NORMS,
    "generator_norm": NORMS,
    "generator_activation": ACTIVATIONS,
    "upsampling": UPSAMPLINGS,
    "condition": CONDITIONS,
    "output": OUTPUTS,
}

_MAY_BE_EMPTY = ("strides", "hidden", "generator_hidden")
_MAY_BE_ZERO = ("embedding_dim", "dropout", "activation_noise", "conv_bias", "end_bias", "norm_first", "minibatch_std",
                "generator_norm_first")  # fmt: skip
GIVEN = ("image_shape", "num_classes", "num_outputs", "dtype")


def make(
    config: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    generator_classes: int,
    discriminator_classes: int,
    num_outputs: int,
    dtype: Any,
) -> tuple[nn.Module, nn.Module]:
    """Returns the generator and the discriminator of `config.network`.

    Args:
      config: `name`, a key of NETWORKS, and fields of its generator and its discriminator.
      image_shape: (H, W, C).
      generator_classes: number of classes that condition the generator; 0: none.
      discriminator_classes: number of classes that condition the discriminator; 0: none.
      num_outputs: logits per image.
      dtype: of the computation.

    Raises:
      UserError: an unknown network, an unknown field, or an invalid value.

    Example:
      >>> generator, _ = make({"name": "dense", "generator_hidden": (16,)}, (8, 8, 1), 0, 0, 1, jnp.float32)
      >>> generator.generator_hidden
      (16,)
    """
    check(config)
    shared = {"image_shape": image_shape, "num_outputs": num_outputs, "dtype": dtype}
    generator, discriminator = modules_of(config, NETWORKS, shared)
    return generator.clone(num_classes=generator_classes), discriminator.clone(num_classes=discriminator_classes)


def check(config: Mapping[str, Any]) -> None:
    """Raises a UserError if a field of a network has an invalid value."""
    for key, value in config.items():
        if key != "name":
            _check(key, value)


def _check(key: str, value: Any) -> None:
    if key in CHOICES:
        require_choice(f"network.{key}", value, CHOICES[key])
        return
    values, least = value if isinstance(value, tuple) else (value,), 0 if key in _MAY_BE_ZERO else 1
    if not values and key not in _MAY_BE_EMPTY:
        raise UserError(f"config.network.{key} is empty; it needs one value per layer")
    if any(v < least for v in values):
        raise UserError(f"config.network.{key} is {value}; every value must be at least {least}")

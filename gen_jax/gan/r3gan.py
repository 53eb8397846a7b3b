"""The pair of R3GAN (Huang et al. 2024): grouped residual blocks without any normalisation, for R1 and R2 penalties.

Both networks are stages of residual blocks, one stage per size of the feature map. Kernels start as N(0, gain^2 /
fan_in), with the gain of the activation in the blocks and 1 elsewhere. The gain in the blocks is reduced by (number of
blocks)^(-1/4), and the last kernel of every block starts at zero (Fixup: Zhang et al. 2019), so that every block starts
as the identity and the depth of the network does not matter at the start.

Where we choose, because the paper leaves it open or has only images whose sides are powers of two:
- The learned basis has the size of the smallest map: 4x4 in the published networks, 7x7 for 28x28 in three stages.
- Labels become vectors of `embedding_dim`, by default 64, one embedding per network.
- The generator's output is linear in training, and clipped to [-1, 1] otherwise.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.gan.layers import ACTIVATIONS, LabelVector, start_size
from gen_jax.method import Array, UserError
from gen_jax.nn.conv import Conv
from gen_jax.nn.dense import Dense

ACTIVATION_VARIANCE = 2 / (1 + 0.2**2)  # squared gain of a leaky ReLU with slope 0.2 (He et al. 2015)

fan_in_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def _moved(x: Array, axis: int, by: int) -> Array:
    """`x` one place further along an axis, or one back, with zeros moving in."""
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (by, -by, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), pads)


def halved(x: Array) -> Array:
    """Returns images of half the size: blurred by [1, 2, 1] / 4 along both axes, then means of 2x2 pixels.

    Together that is one filter [1, 3, 3, 1] / 8 with stride 2; beyond the border are zeros.

    Args:
      x: [B, H, W, C] of even sides.

    Example:
      >>> halved(jnp.ones((1, 2, 2, 1)))[0, 0, 0].tolist()  # (3 + 3) / 8 along each axis
      [0.5625]
    """
    for axis in (1, 2):
        shape = (*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
        pairs = x.reshape(shape)
        even, odd = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
        x = (3 * (even + odd) + _moved(odd, axis, 1) + _moved(even, axis, -1)) / 8
    return x


def doubled(x: Array) -> Array:
    """Returns images of twice the size: every pixel repeated, then blurred by [1, 2, 1] / 4 along both axes.

    Beyond the border are zeros.

    Args:
      x: [B, H, W, C].

    Example:
      >>> doubled(jnp.array([4.0, 8.0]).reshape(1, 1, 2, 1))[0, 0, :, 0].tolist()  # times 3/4 for the height of one
      [2.25, 3.75, 5.25, 4.5]
    """
    for axis in (1, 2):
        near = [(_moved(x, axis, by) + 3 * x) / 4 for by in (1, -1)]
        x = jnp.stack(near, axis + 1).reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
    return x


class GroupedBlock(nn.Module):
    """x + f(x): 1x1 to `expansion` times the width, leaky ReLU, grouped 3x3, leaky ReLU, 1x1 back, started at zero.

    Both activations have a bias, which is that of the layer before; the last layer has none.

    Attributes:
      cardinality: number of groups.
      expansion: width inside, as a multiple of the width outside.
      num_blocks: of the whole network, which reduces the gain.
      dtype: of the computation.

    Example:
      >>> x = jnp.ones((1, 4, 4, 8))
      >>> y, _ = GroupedBlock(cardinality=4).init_with_output(jax.random.key(0), x)
      >>> bool(jnp.all(y == x))  # starts as the identity
      True
    """

    cardinality: int
    expansion: int = 2
    num_blocks: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B, H, W, C] like `x`.

        Raises:
          UserError: the inner width does not divide into the groups.
        """
        width, activate = self.expansion * x.shape[-1], ACTIVATIONS["leaky_relu"]
        if width % self.cardinality:
            raise UserError(
                f"config.network.cardinality is {self.cardinality}, which does not divide the inner width {width} "
                f"({x.shape[-1]} of config.network.widths times expansion {self.expansion})"
            )
        init = nn.initializers.variance_scaling(ACTIVATION_VARIANCE / self.num_blocks**0.5, "fan_in", "normal")
        h = activate(Dense(width, kernel_init=init, dtype=self.dtype, name="in")(x))
        grouped = Conv(width, (3, 3), groups=self.cardinality, kernel_init=init, dtype=self.dtype, name="grouped")
        out = Dense(x.shape[-1], False, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="out")
        return x + out(activate(grouped(h)))


class GroupedGenerator(nn.Module):
    """Maps z and a label to an image: a learned basis times a linear map of both, then stages of blocks.

    Attributes:
      image_shape: (H, W, C).
      num_classes: 0 for no labels.
      widths: channels of the stages, from the smallest map to the image; each stage doubles the size of the one before.
      blocks: per stage.
      cardinality: number of groups of the grouped convolutions.
      expansion: inner width of the blocks, as a multiple of a stage's width.
      embedding_dim: of the label's vector; 0: one-hot.
      dtype: of the computation.

    Example:
      >>> generator = GroupedGenerator((8, 8, 1), widths=(8, 4), blocks=1, cardinality=4)
      >>> jax.eval_shape(generator.init_with_output, jax.random.key(0), jnp.ones((2, 3)))[0].shape
      (2, 8, 8, 1)
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    widths: tuple[int, ...] = (768, 768, 768, 768)
    blocks: int = 2
    cardinality: int = 96
    expansion: int = 2
    embedding_dim: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Returns f32 [B, H, W, C] for `z` [B, Z] and `label` i32 [B]; in [-1, 1] unless `train`."""
        first, height_width = self.widths[0], start_size(self.image_shape, 2 ** (len(self.widths) - 1), "widths")
        if label is not None and self.num_classes:
            z = jnp.concatenate([z, _label_vector(self, self.num_classes**-0.5)(label)], axis=-1)
        basis = self.param("basis", nn.initializers.normal(1.0), (*height_width, first)).astype(self.dtype)
        scale = Dense(first, False, kernel_init=fan_in_init, dtype=self.dtype, name="in")(z)
        h = basis * scale[:, None, None]
        for stage, width in enumerate(self.widths):
            if stage:
                h = doubled(_to_width(width, h, self.dtype, f"widen_{stage}"))
            h = _stage(self, h, stage)
        h = Dense(self.image_shape[-1], False, kernel_init=fan_in_init, dtype=self.dtype, name="out")(h)
        x = h.astype(jnp.float32)
        return x if train else jnp.clip(x, -1.0, 1.0)


class GroupedDiscriminator(nn.Module):
    """Maps an image and a label to logits: stages of blocks, a weight for each place of the last map, a linear map.

    The logit of a labelled image is the inner product of the linear map's result and the label's vector.

    Attributes:
      num_classes: 0 for no labels.
      num_outputs: logits per image.
      widths: channels of the stages, from the smallest map to the image, as in the generator: the last comes first.
      blocks: per stage.
      cardinality: number of groups of the grouped convolutions.
      expansion: inner width of the blocks, as a multiple of a stage's width.
      embedding_dim: of the label's vector; 0: one-hot.
      dtype: of the computation.

    Example:
      >>> discriminator = GroupedDiscriminator(widths=(8, 4), blocks=1, cardinality=4)
      >>> jax.eval_shape(discriminator.init_with_output, jax.random.key(0), jnp.ones((2, 8, 8, 1)))[0].shape
      (2,)
    """

    num_classes: int = 0
    num_outputs: int = 1
    widths: tuple[int, ...] = (768, 768, 768, 768)
    blocks: int = 2
    cardinality: int = 96
    expansion: int = 2
    embedding_dim: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, index: Array | None = None, *, train: bool = False
    ) -> Array:
        """Returns logits f32 [B], or [B, num_outputs]; nothing is random or different in training."""
        widths = self.widths[::-1]
        start_size(x.shape[1:], 2 ** (len(widths) - 1), "widths")  # refuses what cannot be halved so often
        h = Dense(widths[0], False, kernel_init=fan_in_init, dtype=self.dtype, name="in")(x.astype(self.dtype))
        for stage, width in enumerate(widths):
            if stage:
                h = _to_width(width, halved(h), self.dtype, f"widen_{stage}")
            h = _stage(self, h, stage)
        # A depthwise convolution as large as the map; its fan-in is the number of places.
        places = h.shape[1] * h.shape[2]
        basis = self.param("basis", nn.initializers.normal(places**-0.5), h.shape[1:]).astype(self.dtype)
        h = jnp.sum(h * basis, axis=(1, 2))
        told = label if self.num_classes else None
        width = self.num_outputs if told is None else self.embedding_dim or self.num_classes
        logits = Dense(width, False, kernel_init=fan_in_init, dtype=self.dtype, name="out")(h)
        if told is not None:
            vector = _label_vector(self, (self.num_classes * width) ** -0.5)(told)
            logits = jnp.sum(logits * vector, axis=-1, keepdims=True)
        logits = logits.astype(jnp.float32)
        return logits[:, 0] if self.num_outputs == 1 else logits


def _stage(network: Any, h: Array, stage: int) -> Array:
    """The blocks of one stage. Call it, like the two below, within a module, whose fields it reads."""
    for number in range(network.blocks):
        block = GroupedBlock(
            network.cardinality, network.expansion, network.blocks * len(network.widths), network.dtype,
            name=f"block_{stage}_{number}",
        )  # fmt: skip
        h = block(h)
    return h


def _label_vector(network: Any, std: float) -> LabelVector:
    init = nn.initializers.normal(std)
    return LabelVector(network.num_classes, network.embedding_dim, init, dtype=network.dtype, name="label")


def _to_width(width: int, h: Array, dtype: Any, name: str) -> Array:
    return h if h.shape[-1] == width else Dense(width, False, kernel_init=fan_in_init, dtype=dtype, name=name)(h)

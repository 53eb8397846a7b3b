"""Building blocks of the GAN networks: upsampling, normalisation by name, label vectors, noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.method import Array, UserError, draw
from gen_jax.nn.norm import BatchNorm, RMSNorm
from gen_jax.nn.upsampling import UPSAMPLINGS, Initializer
from gen_jax.parallel import mean_over_devices

dcgan_init = nn.initializers.normal(0.02)  # Radford et al. 2016, section 4

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "leaky_relu": lambda x: nn.leaky_relu(x, 0.2),  # Radford et al. 2016; Flax's own slope is 0.01
}


class Upsample(nn.Module):
    """Upsampling by `factor` with a learned layer.

    Attributes:
      features: channels of the output.
      kernel: height and width of the kernel.
      factor: of upsampling.
      how: a key of UPSAMPLINGS (gen_jax/nn/upsampling.py).
      use_bias: whether a learned value per feature is added.
      kernel_init: of the kernel.
      dtype: of the computation.

    Example:
      >>> x = jnp.ones((1, 4, 4, 2))
      >>> [jax.eval_shape(Upsample(3, how=how).init_with_output, jax.random.key(0), x)[0].shape for how in UPSAMPLINGS]
      [(1, 8, 8, 3), (1, 8, 8, 3), (1, 8, 8, 3)]
    """

    features: int
    kernel: int = 4
    factor: int = 2
    how: str = "transposed"
    use_bias: bool = True
    kernel_init: Initializer = dcgan_init
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B, factor H, factor W, features]."""
        options = {"use_bias": self.use_bias, "kernel_init": self.kernel_init, "dtype": self.dtype, "name": "conv"}
        return UPSAMPLINGS[self.how](x, self.features, self.kernel, self.factor, **options)


def _no_norm(name: str, x: Array, scale: Array | None, shift: Array | None, train: bool) -> Array:
    middle = (1,) * (x.ndim - 2)
    y = x if scale is None else x * (1 + scale).reshape(len(x), *middle, -1)
    return y if shift is None else y + shift.reshape(len(x), *middle, -1)


class Bias(nn.Module):
    """Adds a learned value per channel: in place of a normalisation, each of which has one."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B, ..., C] like `x`."""
        return x + self.param("bias", nn.initializers.zeros, (x.shape[-1],)).astype(x.dtype)


NORMS: dict[str, Callable[[str, Array, Array | None, Array | None, bool], Array]] = {
    "none": _no_norm,
    "bias": lambda name, x, scale, shift, train: _no_norm(name, Bias(name=name)(x), scale, shift, train),
    "batch": lambda name, x, scale, shift, train: BatchNorm(name=name)(x, scale, shift, train=train),
    "rms": lambda name, x, scale, shift, train: RMSNorm(name=name)(x, scale, shift),
}
"""For calls within a module: (name of the layer, x [B, ..., C], scale and shift [B, C] or None, train) -> like x."""


class LabelVector(nn.Module):
    """Labels as vectors: learned, or one-hot if dim is 0.

    Example:
      >>> y, _ = LabelVector(num_classes=3).init_with_output(jax.random.key(0), jnp.array([1]))
      >>> y.tolist()
      [[0.0, 1.0, 0.0]]
    """

    num_classes: int
    dim: int = 0
    embedding_init: Initializer = nn.initializers.normal(1.0)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, label: Array) -> Array:
        """Returns [B, dim or num_classes] for `label` i32 [B]."""
        one_hot = jax.nn.one_hot(label, self.num_classes, dtype=self.dtype)
        if not self.dim:
            return one_hot
        # A product instead of a look-up: its gradient is a product too; a sharded scatter would gather the batch.
        return one_hot @ self.param("embedding", self.embedding_init, (self.num_classes, self.dim)).astype(self.dtype)


class MinibatchStd(nn.Module):
    """Appends a feature: the standard deviation of the features over the batch, averaged (Karras et al. 2018).

    A discriminator sees by it how much a batch varies, so that a generator that makes few images is found out. In
    training it is that of the global batch, over all devices; otherwise its running average, kept like that of
    `BatchNorm`. The paper takes groups of four images, and appends a map before the last convolution.

    Attributes:
      momentum: of the running average.

    Example:
      >>> x = jnp.array([[1.0, 5.0], [3.0, 5.0]])  # standard deviations 1 and 0
      >>> y, _ = MinibatchStd().init_with_output(jax.random.key(0), x, train=True)
      >>> [round(float(value), 3) for value in y[0]]
      [1.0, 5.0, 0.5]
    """

    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Returns [B, D + 1] for `x` [B, D]."""
        running = self.variable("batch_stats", "std", jnp.zeros, ())
        value = running.value
        if train:
            wide = x.astype(jnp.float32)
            mean = mean_over_devices(wide.mean(0))
            var = mean_over_devices(jnp.square(wide - mean).mean(0))
            value = jnp.mean(jnp.sqrt(var + 1e-8))  # the root has no finite slope at 0
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                running.value = self.momentum * running.value + (1 - self.momentum) * value
        return jnp.concatenate([x, jnp.broadcast_to(value, (len(x), 1)).astype(x.dtype)], axis=-1)


class GaussianNoise(nn.Module):
    """Adds normal noise to activations in training; the noise belongs to the example, as in our Dropout.

    Example:
      >>> layer, rngs = GaussianNoise(std=2.0), {"noise": jax.random.key(0)}
      >>> y = layer.apply({}, jnp.zeros((1, 10_000)), jnp.arange(1), train=True, rngs=rngs)
      >>> round(float(y.std()), 1)
      2.0
    """

    std: float

    @nn.compact
    def __call__(self, x: Array, index: Array | None, *, train: bool) -> Array:
        """Returns `x` [B, ...] with noise; `index` i32 [B] are positions in the global batch."""
        if not train or self.std == 0:
            return x
        if index is None:
            raise ValueError("noise in training needs `index`, the examples' positions in the global batch")
        return x + self.std * draw(self.make_rng("noise"), index, lambda k: jax.random.normal(k, x.shape[1:], x.dtype))


def start_size(image_shape: tuple[int, ...], factor: int, field: str = "generator_channels") -> tuple[int, int]:
    """Returns height and width of the feature map that becomes an image when upsampled by `factor`.

    Args:
      image_shape: (H, W, C).
      factor: of upsampling.
      field: of `config.network`, which decides the factor.

    Raises:
      UserError: the image size is not a multiple of `factor`.

    Example:
      >>> start_size((28, 28, 1), 4)
      (7, 7)
    """
    height, width, _ = image_shape
    if height % factor or width % factor:
        raise UserError(
            f"this network cannot generate images of {height}x{width}: their sides must be multiples of {factor}; "
            f"change config.network.{field}, or config.data.image_size"
        )
    return height // factor, width // factor

"""The networks of StackGAN (Zhang et al. 2017), after the released code: pictures from embeddings of texts.

Both generators start from conditioning augmentation, c = mean + standard deviation * eps. The first makes a small
picture of z and c, the second a larger one of that picture and c. The discriminator of both compares the features of a
picture with the mean of c; it may also read the text's embedding from them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.data import bicubic
from gen_jax.gan.layers import NORMS, Upsample, dcgan_init, start_size
from gen_jax.method import Array, Key, UserError
from gen_jax.nn.conv import Conv
from gen_jax.nn.gaussian import Gaussian, reparameterise
from gen_jax.nn.upsampling import UPSAMPLINGS

SLOPE = 0.2  # of leaky ReLUs
KERNELS = {how: 4 if how == "transposed" else 3 for how in UPSAMPLINGS}  # a transposed kernel of 3 covers unevenly


def scaled(text: Array) -> Array:
    """Returns embeddings [..., D], each scaled to a root mean square of 1, whatever the scale of the encoder.

    Example:
      >>> scaled(jnp.array([0.5, -0.5])).round(4).tolist()
      [1.0, -1.0]
    """
    return text * jax.lax.rsqrt(jnp.mean(jnp.square(text), axis=-1, keepdims=True) + 1e-12)


def augment_init(key: Key, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """Returns a kernel [D, 2 D'] that gives means of variance 1 and log variances of 0 for scaled embeddings.

    With the small kernels of the other layers, all texts would start with almost the same condition, of which the noise
    hides the rest.
    """
    mean = jax.random.normal(key, (shape[0], shape[1] // 2), dtype) * shape[0] ** -0.5
    return jnp.concatenate([mean, jnp.zeros_like(mean)], axis=1)


class Augment(nn.Module):
    """Conditioning augmentation: the mean and the log variance of a distribution of conditions.

    The layer is linear. The released code has a ReLU behind it, so that no mean is negative and no deviation below 1.
    Embeddings are scaled first.

    Attributes:
      condition_dim: of c.
      dtype: of the computation.

    Example:
      >>> mean, log_var = Augment(3).init_with_output(jax.random.key(0), jnp.ones((2, 5)))[0]
      >>> mean.shape, log_var.shape
      ((2, 3), (2, 3))
    """

    condition_dim: int = 128
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text: Array) -> tuple[Array, Array]:
        """Returns f32 [B, D'] each, for `text` [B, D]."""
        dense = nn.Dense(2 * self.condition_dim, kernel_init=augment_init, dtype=self.dtype, name="dense")
        mean, log_var = jnp.split(dense(scaled(text)).astype(jnp.float32), 2, axis=-1)
        return mean, log_var


def _grow(network: Any, h: Array, count: int, train: bool, start: Array | None = None) -> Array:
    """Doubles the size and halves the channels, `count` times; then a convolution to the picture, or to what is added
    to the picture `start`."""
    for number in range(count):
        grow = Upsample(
            h.shape[-1] // 2, KERNELS[network.upsampling], 2, network.upsampling, False, dtype=network.dtype,
            name=f"up_{number}",
        )  # fmt: skip
        h = nn.relu(NORMS[network.generator_norm](f"up_norm_{number}", grow(h), None, None, train))
    last = Conv(
        network.image_shape[-1], (3, 3), use_bias=False, kernel_init=dcgan_init, dtype=network.dtype, name="out"
    )
    made = last(h).astype(jnp.float32)
    if start is None:
        return jnp.tanh(made)
    return start + made if train else jnp.clip(start + made, -1, 1)  # no gradient passes a clip


class FirstGenerator(nn.Module):
    """Maps z and a text to a picture in [-1, 1].

    Attributes:
      image_shape: (H, W, C).
      width: of the layers: the first feature map has 2^(levels - 1) times as many channels.
      levels: times that the size doubles.
      condition_dim: of the augmented condition.
      upsampling: a key of UPSAMPLINGS; the kernel is 3, or 4 where it is transposed.
      generator_norm: a key of NORMS.
      dtype: of the computation.

    Example:
      >>> generator, key = FirstGenerator((16, 16, 3), width=4, levels=2, condition_dim=2), jax.random.key(0)
      >>> x, mean, _ = jax.eval_shape(generator.init_with_output, key, *(jnp.ones((2, n)) for n in (3, 5, 2)), None)[0]
      >>> x.shape, mean.shape
      ((2, 16, 16, 3), (2, 2))
    """

    image_shape: tuple[int, int, int]
    width: int = 128
    levels: int = 4
    condition_dim: int = 128
    upsampling: str = "nearest"
    generator_norm: str = "batch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, z: Array, text: Array, eps: Array, small: Array | None, *, train: bool = False
    ) -> tuple[Array, Array, Array]:
        """Returns the picture f32 [B, H, W, C], and mean and log variance of the condition, f32 [B, D'].

        Args:
          z: f32 [B, Z].
          text: embeddings, f32 [B, D].
          eps: noise of the condition, f32 [B, D'].
          small: None: there is no smaller picture.
          train: whether normalisation uses the batch.
        """
        mean, log_var = Augment(self.condition_dim, self.dtype, name="augment")(text)
        c = reparameterise(Gaussian(mean, log_var), eps)
        height, width = start_size(self.image_shape, 2**self.levels, "levels")
        first = self.width * 2**self.levels // 2
        start = nn.Dense(height * width * first, False, kernel_init=dcgan_init, dtype=self.dtype, name="in")
        h = NORMS[self.generator_norm]("norm_in", start(jnp.concatenate([z, c], axis=-1)), None, None, train)
        h = nn.relu(h).reshape(-1, height, width, first)
        return _grow(self, h, self.levels, train), mean, log_var


class SecondGenerator(nn.Module):
    """Maps the picture of the first stage and a text to a picture in [-1, 1]; it has no noise of its own but eps.

    Attributes:
      image_shape: (H, W, C).
      width: of the first convolution.
      num_blocks: residual blocks, at a quarter of the size of the small picture.
      condition_dim: of the augmented condition.
      upsampling: a key of UPSAMPLINGS; the kernel is 3, or 4 where it is transposed.
      generator_norm: a key of NORMS.
      residual: whether what it makes is added to the small picture, enlarged bicubically; not so in the paper.
      dtype: of the computation.
    """

    image_shape: tuple[int, int, int]
    width: int = 128
    num_blocks: int = 4
    condition_dim: int = 128
    upsampling: str = "nearest"
    generator_norm: str = "batch"
    residual: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, z: Array, text: Array, eps: Array, small: Array, *, train: bool = False
    ) -> tuple[Array, Array, Array]:
        """Returns the same as `FirstGenerator`, for the small picture f32 [B, h, w, C]; `z` is not used."""
        mean, log_var = Augment(self.condition_dim, self.dtype, name="augment")(text)
        c = reparameterise(Gaussian(mean, log_var), eps).astype(self.dtype)

        def normed(name: str, h: Array) -> Array:
            return NORMS[self.generator_norm](name, h, None, None, train)

        def conv(features: int, kernel: int, stride: int, name: str, h: Array) -> Array:
            layer = Conv(
                features, (kernel, kernel), (stride, stride), use_bias=False, kernel_init=dcgan_init, dtype=self.dtype,
                name=name,
            )  # fmt: skip
            return layer(h)

        h = nn.relu(conv(self.width, 3, 1, "in", small.astype(self.dtype)))
        for number in range(2):
            h = nn.relu(normed(f"down_norm_{number}", conv(2 * h.shape[-1], 4, 2, f"down_{number}", h)))
        features = h.shape[-1]
        h = nn.relu(normed("join_norm", conv(features, 3, 1, "join", beside(h, c))))
        for number in range(self.num_blocks):
            r = nn.relu(normed(f"norm_{number}_0", conv(features, 3, 1, f"conv_{number}_0", h)))
            h = nn.relu(h + normed(f"norm_{number}_1", conv(features, 3, 1, f"conv_{number}_1", r)))
        start = bicubic.resized(small, *self.image_shape[:2]) if self.residual else None
        return _grow(self, h, _doublings(self.image_shape, h.shape[1:3]), train, start), mean, log_var


def _doublings(image_shape: tuple[int, int, int], start: tuple[int, ...]) -> int:
    height, width, _ = image_shape
    count = max(0, (height // start[0]).bit_length() - 1)
    if (start[0] << count, start[1] << count) != (height, width):
        raise UserError(
            f"config.pretrained makes pictures of {4 * start[0]}x{4 * start[1]}, which cannot become {height}x{width} "
            "by doubling: set config.data.image_size to that size times a power of 2"
        )
    return count


def beside(h: Array, c: Array) -> Array:
    """Returns features [B, h, w, C] with a condition [B, D] appended at every position."""
    return jnp.concatenate(
        [h, jnp.broadcast_to(c[:, None, None].astype(h.dtype), (*h.shape[:3], c.shape[-1]))], axis=-1
    )


class Verdict(NamedTuple):
    """What a discriminator says of pictures."""

    logits: Array  # f32 [B]: are they real, and do they show their texts?
    reading: Array | None = None  # f32 [B, D], the scaled embeddings that it reads from them, if it reads


class TextDiscriminator(nn.Module):
    """Maps a picture and a condition to a logit, and, if it reads, a picture to the embedding of its text.

    Attributes:
      discriminator_width: channels of the first convolution; they double at each, up to 8 times as many at the end.
      discriminator_levels: times that the size halves.
      norm: a key of NORMS.
      dtype: of the computation.
      reads: numbers of an embedding, D; 0: it does not read.

    Example:
      >>> discriminator = TextDiscriminator(discriminator_width=4, discriminator_levels=2)
      >>> x, c = jnp.ones((2, 16, 16, 3)), jnp.ones((2, 5))
      >>> jax.eval_shape(discriminator.init_with_output, jax.random.key(0), x, c)[0].logits.shape
      (2,)
    """

    discriminator_width: int = 64
    discriminator_levels: int = 4
    norm: str = "batch"
    dtype: Any = jnp.float32
    reads: int = 0

    @nn.compact
    def __call__(self, x: Array, c: Array, *, train: bool = False) -> Verdict:
        """Takes pictures [B, H, W, C] and conditions [B, D']."""

        def layer(features: int, kernel: int, stride: int, name: str, h: Array, is_normed: bool = True) -> Array:
            size, strides = (kernel, kernel), (stride, stride)
            # Without a normalisation, kernels decide the scale of what comes out.
            init = nn.initializers.he_normal() if self.norm == "bias" else dcgan_init
            h = Conv(features, size, strides, use_bias=False, kernel_init=init, dtype=self.dtype, name=name)(h)
            if is_normed:
                h = NORMS[self.norm](f"{name}_norm", h, None, None, train)
            return nn.leaky_relu(h, SLOPE)

        h = x.astype(self.dtype)
        for number in range(self.discriminator_levels):
            h = layer(self.discriminator_width << number, 4, 2, f"down_{number}", h, number > 0)
        while h.shape[-1] > 8 * self.discriminator_width:
            h = layer(h.shape[-1] // 2, 3, 1, f"narrow_{h.shape[-1] // 2}", h)
        reading = None
        if self.reads:
            own = layer(h.shape[-1], 3, 1, "read_join", h)  # not shared with the logit: learns to read sooner
            reading = nn.Dense(self.reads, dtype=self.dtype, name="read")(own.reshape(len(h), -1)).astype(jnp.float32)
        h = layer(max(h.shape[-1], self.discriminator_width), 3, 1, "join", beside(h, c))
        logits = nn.Dense(1, kernel_init=dcgan_init, dtype=self.dtype, name="out")(h.reshape(len(h), -1))
        return Verdict(logits[:, 0].astype(jnp.float32), reading)


NETWORKS = {
    "first": (FirstGenerator, TextDiscriminator),
    "second": (SecondGenerator, TextDiscriminator),
}
"""From the stage to its generator and discriminator; `config.network` holds their fields."""

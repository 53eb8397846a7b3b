"""The U-Net that predicts noise, data or velocity: one module for the DDPM paper's network and the fast CPU network.

Ho et al. 2020, appendix B (sizes as in the released code). Our additions: patches at input and output, FiLM, other
norms, resampling by shuffles, labels.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.method import Array, UserError
from gen_jax.nn.blocks import (
    AttentionBlock,
    ResidualBlock,
    depth_to_space,
    even_padding,
    kernel_init,
    recomputed,
    space_to_depth,
    upsample_nearest,
    zero_init,
)
from gen_jax.nn.conv import Conv
from gen_jax.nn.dense import Dense
from gen_jax.nn.embedding import condition_vector, sinusoidal
from gen_jax.nn.norm import GroupNorm, RMSNorm

NORMS: dict[str, Callable[..., Callable[..., nn.Module]]] = {
    "group": lambda num_groups: functools.partial(GroupNorm, num_groups=num_groups),
    "rms": lambda num_groups: RMSNorm,
}


class UNet(nn.Module):
    """Residual blocks at decreasing, then increasing sizes; each up block has a skip connection from a down block.

    The defaults are the paper's CIFAR-10 network (35,746,307 parameters with dropout 0.1).

    Attributes:
      out_channels: number of channels of the prediction, as of the image.
      channels: width of the first level, and half the number of sines and cosines of the time.
      multipliers: width of each level, in units of `channels`; between two levels the size is halved.
      num_blocks: residual blocks per level on the way down; one more on the way up.
      attention_sizes: heights of the levels (after patch and padding) with attention after every block, in addition to
        the middle.
      num_heads: of attention.
      qk_norm: whether queries and keys of attention are normalised.
      patch: side of the pixel patches that become channels of one position at the input, and vice versa at the output.
      norm: a name in NORMS.
      num_groups: of "group".
      film: whether the condition scales and shifts the features (FiLM) or is added to them.
      shuffle: whether resampling moves pixels into channels and applies a matmul (cheap on CPUs), or uses the paper's
        strided convolution and nearest-neighbour resize.
      use_bias: whether layers have a bias even if a following norm or softmax mostly cancels it (as in the paper).
      dropout: in the residual blocks.
      num_classes: number of classes, or of values of an embedding; 0 for none.
      dtype: of the computation (jnp.bfloat16 where that is fast); parameters and output are f32.
      remat: whether the gradient computes the inner values of a block again instead of keeping them.

    Example:
      >>> import jax
      >>> unet = UNet(out_channels=1, channels=8, multipliers=(1, 2), num_groups=4, attention_sizes=(4,))
      >>> x_t, time = jnp.ones((2, 8, 8, 1)), jnp.array([0.0, 999.0])
      >>> jax.eval_shape(unet.init_with_output, jax.random.key(0), x_t, time)[0].shape
      (2, 8, 8, 1)
    """

    out_channels: int = 3
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_blocks: int = 2
    attention_sizes: tuple[int, ...] = (16,)
    num_heads: int = 1
    patch: int = 1
    norm: str = "group"
    num_groups: int = 32
    film: bool = False
    shuffle: bool = False
    use_bias: bool = True
    dropout: float = 0.0
    num_classes: int = 0
    dtype: Any = jnp.float32
    qk_norm: bool = False
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x_t: Array,
        time: Array,
        span: Array | None = None,
        *,
        label: Array | None = None,
        index: Array | None = None,
        extra: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Returns the prediction, f32 [B, H, W, out_channels].

        Args:
          x_t: f32 [B, H, W, C]. Sizes that do not halve evenly are padded with zeros, and the output is cropped.
          time: f32 [B], noise conditioning (0..1000).
          span: f32 [B], how far the step to take leads on the scale of `time`, or None.
          label: i32 [B], or None for none; a label outside 0..num_classes-1 (such as -1) also means "none". Or
            embeddings f32 [B, num_classes], where zeros mean "none".
          index: i32 [B], positions in the global batch, for dropout.
          extra: f32 [B, 4 channels], of another condition, added to that of time and label; or None.
          train: whether dropout is active.
        """
        stride = self.patch * 2 ** (len(self.multipliers) - 1)
        self._check(x_t.shape[1:3], stride, label)
        norm = NORMS[self.norm](self.num_groups)
        conv = functools.partial(Conv, kernel_size=(3, 3), kernel_init=kernel_init, dtype=self.dtype)
        condition, run = self._condition(time, span, label, extra), recomputed if self.remat else operator.call

        def residual(h: Array, name: str, features: int) -> Array:
            layer = ResidualBlock(features, norm, self.film, self.dropout, self.use_bias, self.dtype, name=name)
            return run(layer, h, condition, index, train=train)

        def attend(h: Array, name: str) -> Array:
            fields = (norm, self.num_heads, self.use_bias, self.dtype, self.qk_norm)
            return run(AttentionBlock(*fields, name=f"{name}_attention"), h)

        def block(h: Array, name: str, features: int) -> Array:
            h = residual(h, name, features)
            return attend(h, name) if h.shape[1] in self.attention_sizes else h

        height, width = x_t.shape[1:3]
        pads = [even_padding(size, stride) for size in (height, width)]
        x = jnp.pad(x_t, ((0, 0), *pads, (0, 0))).astype(self.dtype)
        widths = [self.channels * m for m in self.multipliers]
        h = conv(widths[0], name="in")(space_to_depth(x, self.patch))
        skips = [h]
        for i, features in enumerate(widths):
            for j in range(self.num_blocks):
                h = block(h, f"down_{i}_{j}", features)
                skips.append(h)
            if i + 1 < len(widths):
                h = self._down(h, f"down_{i}", features)
                skips.append(h)

        h = residual(h, "middle_0", widths[-1])
        h = attend(h, "middle")
        h = residual(h, "middle_1", widths[-1])

        for i, features in reversed(list(enumerate(widths))):
            for j in range(self.num_blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), f"up_{i}_{j}", features)
            if i > 0:
                h = self._up(h, f"up_{i}", features)

        h = nn.silu(norm(name="out_norm")(h))
        out = conv(self.out_channels * self.patch**2, kernel_init=zero_init, name="out")(h)
        out = depth_to_space(out, self.patch)
        top, left = (before for before, _ in pads)
        return out[:, top : top + height, left : left + width].astype(jnp.float32)

    def _down(self, h: Array, name: str, features: int) -> Array:
        """Halves height and width."""
        if self.shuffle:
            return Dense(features, kernel_init=kernel_init, dtype=self.dtype, name=name)(space_to_depth(h, 2))
        return Conv(features, (3, 3), (2, 2), kernel_init=kernel_init, dtype=self.dtype, name=name)(h)

    def _up(self, h: Array, name: str, features: int) -> Array:
        """Doubles height and width."""
        if self.shuffle:
            h = Dense(4 * features, kernel_init=kernel_init, dtype=self.dtype, name=name)(h)
            return depth_to_space(h, 2)
        return Conv(features, (3, 3), kernel_init=kernel_init, dtype=self.dtype, name=name)(upsample_nearest(h))

    def _condition(self, time: Array, span: Array | None, label: Array | None, extra: Array | None) -> Array:
        """The condition of every block, from time, span and label: f32 [B, 4 channels]."""
        dense = functools.partial(Dense, 4 * self.channels, kernel_init=kernel_init, dtype=self.dtype)

        def embedded(values: Array, name: str) -> Array:
            h = dense(name=f"{name}_0")(sinusoidal(values, self.channels))
            return dense(name=f"{name}_1")(nn.silu(h))

        condition = embedded(time, "time")
        if span is not None:
            condition += embedded(span, "span")
        if self.num_classes:
            told = condition_vector(label, self.num_classes, len(time))
            condition += dense(use_bias=False, name="label")(told)
        return condition if extra is None else condition + extra

    def _check(self, size: tuple[int, ...], stride: float, label: Array | None) -> None:
        if self.norm not in NORMS:
            raise UserError(f"no norm is called {self.norm!r}; there are {', '.join(NORMS)}")
        if not self.multipliers:
            raise UserError("config.network.multipliers is empty: a network has at least one level")
        if min(size) < stride:
            raise UserError(
                f"images of {size[0]}x{size[1]} are smaller than the network's stride of {stride} pixels: "
                "shorten config.network.multipliers, or lower config.network.patch"
            )
        if label is not None and not self.num_classes:
            raise UserError("a label was given to a network without num_classes")

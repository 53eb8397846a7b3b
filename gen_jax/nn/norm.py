"""Normalisation layers, including the scale and shift of a condition (FiLM)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.method import Array
from gen_jax.nn.rows import spread, sum_of_rows
from gen_jax.parallel import mean_over_devices


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018) as one multiply-add, with statistics, affine and FiLM in two [B, C] vectors.

    With a condition the result is norm(x) (1 + scale) + shift (Perez et al. 2018). Parameters `scale` and
    `bias` [C] as in flax.linen.GroupNorm. Statistics are f32 for any dtype of `x`.

    Attributes:
      num_groups: must divide the number of channels.
      epsilon: 1e-6, as in the released DDPM code.

    Example:
      >>> x = jnp.arange(8.0).reshape(1, 2, 2, 2)
      >>> y, _ = GroupNorm(num_groups=1).init_with_output(jax.random.key(0), x)
      >>> round(float(y.max()), 4)  # 3.5 / sqrt(5.25)
      1.5275
    """

    num_groups: int = 32
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array, scale: Array | None = None, shift: Array | None = None) -> Array:
        """Returns [B, ..., C] like `x`; `scale` and `shift` are [B, C] or None."""
        batch, channels = x.shape[0], x.shape[-1]
        if channels % self.num_groups:
            raise ValueError(f"{channels} channels do not divide into {self.num_groups} groups")
        gain = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        grouped = x.astype(jnp.float32).reshape(batch, -1, self.num_groups, channels // self.num_groups)
        mean = grouped.mean((1, 3))  # [B, G]
        var = jnp.square(grouped - mean[:, None, :, None]).mean((1, 3))

        def per_channel(values: Array) -> Array:
            return jnp.repeat(values, channels // self.num_groups, axis=-1)

        if scale is not None:
            gain, bias = gain * (1 + scale), bias * (1 + scale)
        if shift is not None:
            bias = bias + shift
        a = per_channel(jax.lax.rsqrt(var + self.epsilon)) * gain  # [B, C]
        d = bias - per_channel(mean) * a
        a, d = (v.reshape(batch, *(1,) * (x.ndim - 2), channels) for v in (a, d))
        return (a * x + d).astype(x.dtype)  # in float32: for a large mean, a * x and d nearly cancel and lose digits


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the channels of each position (Zhang & Sennrich 2019), with FiLM.

    On a CPU it is cheaper to differentiate than group normalisation: one reduction over the contiguous axis, no mean.

    Example:
      >>> y, _ = RMSNorm().init_with_output(jax.random.key(0), jnp.array([[[3.0, 4.0]]]))
      >>> [round(float(value), 4) for value in y.ravel()]  # divided by sqrt(12.5)
      [0.8485, 1.1314]
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array, scale: Array | None = None, shift: Array | None = None) -> Array:
        """Returns [B, ..., C] like `x`; `scale` and `shift` are [B, C] or None."""
        gain = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        norm = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.epsilon)
        middle = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
        y = norm * (spread(gain, x.shape) if scale is None else (gain * (1 + scale)).reshape(middle))
        return (y if shift is None else y + shift.reshape(middle)).astype(x.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the channels of each position (Ba et al. 2016), without parameters, with FiLM.

    With a condition the result is norm(x) (1 + scale) + shift, as in adaLN (Peebles & Xie 2023). Statistics are f32 for
    any dtype of `x`.

    Example:
      >>> y, _ = LayerNorm().init_with_output(jax.random.key(0), jnp.array([[[1.0, 3.0]]]))
      >>> [round(float(value), 4) for value in y.ravel()]
      [-1.0, 1.0]
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array, scale: Array | None = None, shift: Array | None = None) -> Array:
        """Returns [B, ..., C] like `x`; `scale` and `shift` are [B, C] or None."""
        middle = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        if scale is not None:
            y = y * (1 + scale.reshape(middle))
        return (y if shift is None else y + shift.reshape(middle)).astype(x.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) over the global batch: it does not depend on devices or executor.

    In training it uses the statistics of the batch, over all devices; otherwise it uses their running averages. These
    are updated if the collection "batch_stats" is mutable; to exclude a pass from them, apply it with an immutable one.
    With a condition the result is norm(x) (1 + scale) + shift. Parameters and variables are named as in
    flax.linen.BatchNorm. Statistics are f32 for any dtype of `x`; the variance is the biased one.

    Attributes:
      momentum: of the running averages; 0.9 corresponds to 0.1 in PyTorch.
      epsilon: added to the variance.

    Example:
      >>> x = jnp.array([[1.0], [3.0]])
      >>> y, variables = BatchNorm().init_with_output(jax.random.key(0), x, train=True)
      >>> [round(float(value), 4) for value in y.ravel()], variables["batch_stats"]["mean"].tolist()
      ([-1.0, 1.0], [0.0])
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, scale: Array | None = None, shift: Array | None = None, *, train: bool) -> Array:
        """Returns [B, ..., C] like `x`; `scale` and `shift` are [B, C] or None."""
        channels = x.shape[-1]
        gain = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        mean, var = running_mean.value, running_var.value
        if train:
            wide, num_rows = x.astype(jnp.float32), x.size // channels
            mean = mean_over_devices(sum_of_rows(wide) / num_rows)  # [C]
            # The mean of squares would lose digits.
            var = mean_over_devices(sum_of_rows(jnp.square(wide - spread(mean, x.shape))) / num_rows)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                for running, new in ((running_mean, mean), (running_var, var)):
                    running.value = self.momentum * running.value + (1 - self.momentum) * new
        a = jax.lax.rsqrt(var + self.epsilon) * gain
        d = bias - mean * a
        if scale is not None:
            a, d = a * (1 + scale), d * (1 + scale)  # [B, C]
        if shift is not None:
            d = d + shift
        a, d = (spread(v, x.shape) if v.ndim == 1 else v.reshape(-1, *(1,) * (x.ndim - 2), channels) for v in (a, d))
        return (a * x + d).astype(x.dtype)  # in float32, as in GroupNorm

"""The three parts of a step of Glow (Kingma & Dhariwal 2018): ActNorm, invertible 1x1 convolution, affine coupling.

All work on pictures [B, H, W, C]. Parameters are f32, and so is all but the network inside a coupling.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import ndtr, ndtri

from gen_jax.method import Array, Key, PyTree
from gen_jax.nflow.bijection import Bijection, bounded, sum_of
from gen_jax.nn.conv import Conv
from gen_jax.nn.dense import Dense
from gen_jax.nn.rows import spread

SMALLEST_QUANTILE = 1e-6  # of a grey value: 4.8 standard deviations from the middle
SMALLEST_STD = 1e-4  # of a channel of the first examples
LOG_SCALE_LIMIT = 2.0  # of one coupling: a factor of 7.4


def histogram(low: float, high: float, levels: int) -> Bijection:
    """Returns z = Phi^-1(F(x)), which makes numbers that are distributed like F normal, all pixels alike.

    F is the distribution function of a histogram whose shares are trained, and start as those of the first examples.
    Couplings scale and shift, so they keep the shape of the noise within a grey value: where most pixels are black, it
    is that of a normal distribution here, and uniform after a logit.

    Args:
      low, high: ends of the interval that x lies in; samples cannot leave it.
      levels: bars of the histogram, all of the same width: one for each grey value.

    Example:
      >>> part, x = histogram(0.0, 2.0, 2), jnp.array([[0.25], [0.5], [0.75], [1.5]])
      >>> params = part.init(jax.random.key(0), x, None)  # shares (3 + 1) / (4 + 2) and (1 + 1) / (4 + 2)
      >>> z, _ = part.forward(params, jnp.array([[0.75], [1.25]]), None)  # quantiles 1/2 and 3/4
      >>> [f"{float(value):.4f}" for value in z[:, 0]]
      ['0.0000', '0.6745']
    """
    width = (high - low) / levels

    def bars(params: PyTree) -> tuple[Array, Array]:
        """Logarithms of the shares, and the sum of the shares below each."""
        log_shares = jax.nn.log_softmax(params["shares"])
        return log_shares, jnp.cumsum(jnp.exp(log_shares)) - jnp.exp(log_shares)

    def init(key: Key, x: Array, label: Array | None) -> PyTree:
        counts, _ = jnp.histogram(x, levels, (low, high))
        return {"shares": jnp.log((counts + 1.0) / (x.size + levels))}

    def forward(params: PyTree, x: Array, label: Array | None) -> tuple[Array, Array]:
        log_shares, below = bars(params)
        bar = jnp.clip(jnp.floor((x - low) / width).astype(jnp.int32), 0, levels - 1)
        within = (x - low) / width - bar
        quantile = below[bar] + within * jnp.exp(log_shares)[bar]
        z = ndtri(jnp.clip(quantile, SMALLEST_QUANTILE, 1 - SMALLEST_QUANTILE))
        return z, sum_of(log_shares[bar] - math.log(width) + jnp.square(z) / 2 + 0.5 * math.log(2 * math.pi))

    def inverse(params: PyTree, z: Array, label: Array | None) -> Array:
        log_shares, below = bars(params)
        bar = jnp.searchsorted(below, ndtr(z), side="right") - 1
        return low + width * (bar + jnp.clip((ndtr(z) - below[bar]) / jnp.exp(log_shares)[bar], 0, 1))

    return Bijection(init, forward, inverse)


def act_norm() -> Bijection:
    """Returns z = (x + bias) exp(log_scale) for each channel; the first examples get mean 0 and standard deviation 1.

    After that bias and scale are trained like all else (Kingma & Dhariwal 2018, section 3.1).
    """

    def init(key: Key, x: Array, label: Array | None) -> PyTree:
        rows = x.reshape(-1, x.shape[-1])
        mean = rows.mean(0)
        std = jnp.sqrt(jnp.square(rows - mean).mean(0))
        return {"bias": -mean, "log_scale": -jnp.log(jnp.maximum(std, SMALLEST_STD))}

    def forward(params: PyTree, x: Array, label: Array | None) -> tuple[Array, Array]:
        z = (x + spread(params["bias"], x.shape)) * spread(jnp.exp(params["log_scale"]), x.shape)
        return z, jnp.full(len(x), x[0, ..., 0].size * jnp.sum(params["log_scale"]))

    def inverse(params: PyTree, z: Array, label: Array | None) -> Array:
        return z * jnp.exp(-params["log_scale"]) - params["bias"]

    return Bijection(init, forward, inverse)


def mix(channels: int, number: int = 0) -> Bijection:
    """Returns an invertible 1x1 convolution: the channels of each pixel times a matrix K = R L U.

    It starts as the random rotation R, which stays as it is. The triangles L and U are trained, and the logarithm of
    U's diagonal instead of the diagonal, so that the determinant is a sum. (Kingma & Dhariwal 2018, section 3.2, keep
    a permutation in the place of R, and start L and U as the factors of a rotation.) R is the same for every seed, and
    no part of a checkpoint.

    Args:
      channels: C.
      number: of the rotation; convolutions one after the other need different ones.
    """
    draw = np.random.default_rng([channels, number])
    rotation = jnp.asarray(np.linalg.qr(draw.normal(size=(channels, channels)))[0], jnp.float32)
    below, above = np.tril_indices(channels, -1), np.triu_indices(channels, 1)

    def init(key: Key, x: Array, label: Array | None) -> PyTree:
        zeros = jnp.zeros(len(below[0]))
        return {"lower": zeros, "upper": jnp.copy(zeros), "log_diagonal": jnp.zeros(channels)}

    def triangles(params: PyTree) -> tuple[Array, Array]:
        lower = jnp.eye(channels).at[below].set(params["lower"])
        return lower, jnp.diag(jnp.exp(params["log_diagonal"])).at[above].set(params["upper"])

    def times(x: Array, kernel: Array) -> Array:
        return (x.reshape(-1, channels) @ kernel).reshape(x.shape)

    def forward(params: PyTree, x: Array, label: Array | None) -> tuple[Array, Array]:
        lower, upper = triangles(params)
        log_det = x[0, ..., 0].size * jnp.sum(params["log_diagonal"])
        return times(x, rotation @ lower @ upper), jnp.full(len(x), log_det)

    def inverse(params: PyTree, z: Array, label: Array | None) -> Array:
        lower, upper = triangles(params)
        return times(z, solve_triangular(upper, solve_triangular(lower, rotation.T, lower=True)))

    return Bijection(init, forward, inverse)


class ConvNet(nn.Module):
    """Convolutions of 3x3, 1x1 and 3x3 with ReLU, of which the last starts at zero (Kingma & Dhariwal 2018).

    Attributes:
      out_channels: of the output.
      width: channels in between.
      num_classes: of the labels that shift the first layer; 0 for none.
      dtype: of the computation; parameters and output are f32.

    Example:
      >>> x = jnp.ones((2, 4, 4, 3))
      >>> y, _ = ConvNet(out_channels=6, width=8).init_with_output(jax.random.key(0), x)
      >>> y.shape, float(jnp.abs(y).max())
      ((2, 4, 4, 6), 0.0)
    """

    out_channels: int
    width: int = 64
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None) -> Array:
        """Returns f32 [B, H, W, out_channels] for `x` [B, H, W, C] and `label` i32 [B]."""
        he = nn.initializers.he_normal()
        h = Conv(self.width, (3, 3), kernel_init=he, dtype=self.dtype, name="conv_0")(x)
        if self.num_classes and label is not None:
            one_hot = jax.nn.one_hot(label, self.num_classes)
            h += Dense(self.width, use_bias=False, dtype=self.dtype, name="label")(one_hot)[:, None, None]
        h = nn.relu(Dense(self.width, kernel_init=he, dtype=self.dtype, name="dense")(nn.relu(h)))
        zeros = nn.initializers.zeros
        return Conv(self.out_channels, (3, 3), kernel_init=zeros, dtype=self.dtype, name="conv_1")(h).astype(
            jnp.float32
        )


def couple(network: nn.Module) -> Bijection:
    """Returns an affine coupling: half of the channels are scaled and shifted by what a network sees in the others.

    The last C // 2 channels move, the first ones stay (Dinh et al. 2017, section 3.2). The logarithm of the scale is
    between -2 and 2.

    Args:
      network: (x [B, H, W, C - C // 2], label) -> [B, H, W, 2 (C // 2)]: shifts, then logarithms of scales. One that
        starts at zero makes the coupling start as the identity.
    """

    def affine(params: PyTree, stays: Array, label: Array | None) -> tuple[Array, Array]:
        outputs: Any = network.apply({"params": params}, stays, label)
        shift, raw = jnp.split(outputs, 2, axis=-1)
        return shift, bounded(raw, LOG_SCALE_LIMIT)

    def parts(x: Array) -> tuple[Array, Array]:
        stays, moves = jnp.split(x, [x.shape[-1] - x.shape[-1] // 2], axis=-1)
        return stays, moves

    def init(key: Key, x: Array, label: Array | None) -> PyTree:
        return network.init(key, parts(x)[0][:1], None if label is None else label[:1])["params"]

    def forward(params: PyTree, x: Array, label: Array | None) -> tuple[Array, Array]:
        stays, moves = parts(x)
        shift, log_scale = affine(params, stays, label)
        return jnp.concatenate([stays, (moves + shift) * jnp.exp(log_scale)], axis=-1), sum_of(log_scale)

    def inverse(params: PyTree, z: Array, label: Array | None) -> Array:
        stays, moved = parts(z)
        shift, log_scale = affine(params, stays, label)
        return jnp.concatenate([stays, moved * jnp.exp(-log_scale) - shift], axis=-1)

    return Bijection(init, forward, inverse)

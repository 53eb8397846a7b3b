"""The generator of SRGAN, also known as SRResNet (Ledig et al. 2017, figure 4)."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.config import Choice, modules_of, require_choice
from gen_jax.gan.layers import NORMS
from gen_jax.method import Array, UserError
from gen_jax.nn.blocks import kernel_init
from gen_jax.nn.conv import Conv
from gen_jax.nn.rows import spread
from gen_jax.nn.upsampling import shuffle

SLOPES = ("layer", "channel")
_END = 9  # height and width of the first and of the last kernel


class PReLU(nn.Module):
    """A rectifier with a learned slope for negative values (He et al. 2015), which starts at 0.25.

    Example:
      >>> import jax
      >>> PReLU().init_with_output(jax.random.key(0), jnp.array([[-4.0, 3.0]]))[0].tolist()
      [[-1.0, 3.0]]
    """

    slopes: str = "layer"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [..., C] like `x`."""
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1] if self.slopes == "channel" else 1,))
        return jnp.where(x < 0, spread(jnp.broadcast_to(slope, x.shape[-1:]), x.shape).astype(x.dtype) * x, x)


class SRResNet(nn.Module):
    """Makes pictures `factor` times as large: residual blocks at the small size, then sub-pixel convolutions.

    With the published values it has 1,549,462 parameters for colour and factor 4. These include biases in front of
    normalisations, which have no effect.

    Attributes:
      factor: 2 or 4.
      channels: of every layer, but four times as many where pixels become more.
      blocks: residual blocks of two convolutions.
      norm: a key of NORMS; later networks have none (Lim et al. 2017).
      slopes: one of SLOPES: where rectifiers have their own slope.
      conv_bias: whether convolutions before a normalisation have biases.
      dtype: of the computation.

    Example:
      >>> import jax
      >>> network = SRResNet(factor=4, channels=8, blocks=1)
      >>> jax.eval_shape(network.init_with_output, jax.random.key(0), jnp.ones((2, 5, 6, 3)))[0].shape
      (2, 20, 24, 3)
    """

    factor: int = 4
    channels: int = 64
    blocks: int = 16
    norm: str = "batch"
    slopes: str = "layer"
    conv_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, small: Array, *, train: bool = False) -> Array:
        """Returns f32 [B, factor h, factor w, C] in [-1, 1] for `small` [B, h, w, C] in [0, 1]."""

        def conv(name: str, x: Array, size: int = 3, features: int = self.channels, bias: bool = True) -> Array:
            return Conv(features, (size, size), use_bias=bias, kernel_init=kernel_init, dtype=self.dtype, name=name)(x)

        def normed(name: str, x: Array) -> Array:
            x = conv(name, x, bias=self.conv_bias or self.norm == "none")
            return NORMS[self.norm](f"{name}_norm", x, None, None, train)

        first = h = PReLU(self.slopes, name="in_slope")(conv("in", small.astype(self.dtype), _END))
        for number in range(self.blocks):
            inner = PReLU(self.slopes, name=f"block_{number}_slope")(normed(f"block_{number}_conv_0", h))
            h = h + normed(f"block_{number}_conv_1", inner)
        h = first + normed("middle", h)
        for number in range(_doublings(self.factor)):
            h = shuffle(h, self.channels, 3, 2, kernel_init, dtype=self.dtype, name=f"up_{number}")
            h = PReLU(self.slopes, name=f"up_{number}_slope")(h)
        return jnp.tanh(conv("out", h, _END, small.shape[-1]).astype(jnp.float32))

    @property
    def reach(self) -> int:
        """How far, in pixels of the small picture, what lies around a pixel affects it; perhaps a little less.

        Example:
          >>> SRResNet(factor=4, blocks=16).reach
          40
        """
        at_small_size = _END // 2 + 2 * self.blocks + 1
        larger = [math.ceil(1 / 2**number) for number in range(_doublings(self.factor))]
        return at_small_size + sum(larger) + math.ceil(_END // 2 / self.factor)


def _doublings(factor: int) -> int:
    return factor.bit_length() - 1


NETWORKS = {"srresnet": (SRResNet,)}
CHOICE = Choice(NETWORKS, ("factor", "dtype"))


def make(config: Any, factor: int, dtype: Any) -> SRResNet:
    """Returns the network of `config.network`.

    Args:
      config: `name`, a key of NETWORKS, and fields of its module.
      factor: of height and width.
      dtype: of the computation.

    Raises:
      UserError: an invalid value.
    """
    for key in ("channels", "blocks"):
        if config[key] < 1:
            raise UserError(f"config.network.{key} is {config[key]}; it must be at least 1")
    require_choice("network.norm", config["norm"], NORMS)
    require_choice("network.slopes", config["slopes"], SLOPES)
    (network,) = modules_of(config, NETWORKS, {"factor": factor, "dtype": dtype})
    return network

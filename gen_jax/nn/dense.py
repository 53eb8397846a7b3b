"""A dense layer for images and sequences; parameters have the names and layouts of flax.linen.Dense."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from gen_jax.method import Array
from gen_jax.nn.rows import spread

Initializer = nn.initializers.Initializer


class Dense(nn.Module):
    """Multiplies the last axis of any number of axes with a kernel, as a product of two matrices, and adds a bias.

    XLA flattens the product by itself, but not that of the kernel's gradient: on a CPU it then copies and transposes
    the gradient of the output, which takes a quarter of the time of an MLP's backward pass.

    Attributes:
      features: of the output.
      use_bias: whether there is a bias.
      kernel_init: of the kernel [C, features]; the bias starts at zero.
      dtype: of the computation; parameters are f32.

    Example:
      >>> import jax
      >>> y, _ = Dense(5).init_with_output(jax.random.key(0), jnp.ones((2, 3, 4)))
      >>> y.shape
      (2, 3, 5)
    """

    features: int
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [..., features] for `x` [..., C]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = x.reshape(-1, x.shape[-1]) @ kernel
        if bias is not None:
            y += spread(bias, y.shape)
        return y.reshape(*x.shape[:-1], self.features)

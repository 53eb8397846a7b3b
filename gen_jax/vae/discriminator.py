"""The discriminator of FactorVAE (Kim & Mnih 2018): it tells codes z of q(z) from codes whose latents are independent.

Trained to the end, the difference of its two logits is log q(z) / prod_j q(z_j), whose mean over q(z) is the total
correlation. Codes of the product are those of other examples with each latent permuted by itself.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gen_jax.method import Array, Key

SLOPE = 0.2  # of the leaky ReLU: Kim & Mnih 2018, appendix A
OF_Q, OF_PRODUCT = 0, 1  # the logits


class Discriminator(nn.Module):
    """Dense layers from codes to two logits, that of q(z) and that of the product of its marginals.

    Example:
      >>> network = Discriminator(width=1000, depth=6)
      >>> params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 10)))
      >>> sum(x.size for x in jax.tree.leaves(params))
      5018002
    """

    width: int = 1000
    depth: int = 6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """Returns f32 [B, 2] for `z` [B, Z]."""
        for number in range(self.depth):
            layer = nn.Dense(
                self.width, kernel_init=nn.initializers.he_normal(), dtype=self.dtype, name=f"dense_{number}"
            )
            z = nn.leaky_relu(layer(z), SLOPE)
        return nn.Dense(2, dtype=self.dtype, name="out")(z).astype(jnp.float32)


def permute_latents(key: Key, z: Array) -> Array:
    """Returns codes [N, Z], each latent permuted over the examples by itself (Kim & Mnih 2018, algorithm 1).

    Example:
      >>> z = permute_latents(jax.random.key(0), jnp.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]))
      >>> jnp.sort(z, axis=0).tolist()
      [[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]
    """
    return jax.random.permutation(key, z, axis=0, independent=True)


def halves(key: Key, z: Array) -> tuple[Array, Array]:
    """Returns what the discriminator is trained on: codes [N, Z], and the class of each, i32 [N].

    The first half are codes as they are, of q(z); the second half are permuted among themselves, of the product. No
    example is in both, as in algorithm 2 of Kim & Mnih 2018.

    Args:
      key: of the permutations.
      z: [N, Z], codes of the global batch.
    """
    half = len(z) // 2
    kind = jnp.where(jnp.arange(len(z)) < half, OF_Q, OF_PRODUCT)
    return jnp.concatenate([z[:half], permute_latents(key, z[half:])]), kind


def log_ratio(logits: Array) -> Array:
    """Returns the estimate of log q(z) / prod_j q(z_j) [B] from logits [B, 2].

    Example:
      >>> log_ratio(jnp.array([[1.5, 1.0]])).tolist()
      [0.5]
    """
    return logits[..., OF_Q] - logits[..., OF_PRODUCT]


def cross_entropy(logits: Array, kind: Array) -> Array:
    """Returns -log p(kind | z) in nats [B], from logits [B, 2].

    Example:
      >>> round(float(cross_entropy(jnp.zeros((1, 2)), jnp.array([1]))[0]), 4)  # log 2
      0.6931
    """
    return optax.softmax_cross_entropy(logits, jax.nn.one_hot(kind, 2))

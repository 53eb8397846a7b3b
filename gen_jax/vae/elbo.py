"""The evidence lower bound that a VAE maximises, and the log-likelihood that it bounds.

Everything is in nats, summed over dimensions, one value per example.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen_jax.method import Array, Key


def sum_over_dimensions(values: Array) -> Array:
    """Returns the sum over all axes but the first, [B]. A mean over n pixels would act as a hidden beta of n.

    Example:
      >>> sum_over_dimensions(jnp.ones((2, 28, 28, 1))).tolist()
      [784.0, 784.0]
    """
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))


def kl_weight(step: Array | int, beta: float, warmup_steps: int) -> Array:
    """Returns the weight of the KL at 0-based `step`: it rises linearly to `beta` in `warmup_steps` (0: immediately).

    Example:
      >>> [float(kl_weight(step, 2.0, 4)) for step in (0, 1, 3, 100)], float(kl_weight(0, 2.0, 0))
      ([0.5, 1.0, 2.0, 2.0], 2.0)
    """
    return beta * jnp.minimum(1.0, (jnp.asarray(step, jnp.float32) + 1) / max(1, warmup_steps))


def free_bits(kl: Array, floor: float) -> Array:
    """Returns the KL [B] of `kl` [B, Z], where each dimension counts as at least `floor` nats.

    Kingma et al. 2016 (appendix C.8) apply the floor to the mean over a minibatch; here it applies to each example,
    so the loss does not depend on how a batch is split.

    Example:
      >>> free_bits(jnp.array([[0.25, 3.0]]), 0.5).tolist(), free_bits(jnp.array([[0.25, 3.0]]), 0.0).tolist()
      ([3.5], [3.25])
    """
    return jnp.sum(jnp.maximum(kl, floor), axis=-1)


def importance_sampled_nll(
    log_weight: Callable[[Array], Array], key: Key, index: Array, num_samples: int, chunk: int = 50
) -> Array:
    """Returns -log(1/S sum_s p(x, z_s) / q(z_s | x)), z_s from q: nats [B] (Burda et al. 2016, equation 8).

    Its mean over keys decreases to -log p(x) as S grows; with S = 1 it is the negative ELBO.

    Args:
      log_weight: from one key per example [B] to log p(x, z) - log q(z | x) [B] at a z drawn with that key.
      key: of all samples. The samples of an example depend neither on the other examples nor on `chunk`.
      index: i32 [B], positions in the global batch.
      num_samples: S.
      chunk: samples computed at once; memory grows with it.

    Example:
      >>> nll = importance_sampled_nll(lambda keys: jnp.full(keys.shape, -90.0), jax.random.key(0), jnp.arange(2), 100)
      >>> [round(float(value), 4) for value in nll]  # exp(-90) is no f32
      [90.0, 90.0]
    """

    def one(sample: Array) -> Array:
        of_sample = jax.random.fold_in(key, sample)
        log_w = log_weight(jax.vmap(lambda i: jax.random.fold_in(of_sample, i))(index))
        return jnp.where(sample < num_samples, log_w, -jnp.inf)  # the last chunk may extend beyond the last sample

    def add(total: Array, first: Array) -> tuple[Array, None]:
        log_w = jax.vmap(one)(first + jnp.arange(chunk))
        return jnp.logaddexp(total, jax.nn.logsumexp(log_w, axis=0)), None

    total, _ = jax.lax.scan(add, jnp.full(index.shape, -jnp.inf), jnp.arange(0, num_samples, chunk))
    return jnp.log(num_samples) - total

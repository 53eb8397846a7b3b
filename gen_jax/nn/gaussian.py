"""Diagonal Gaussians: the approximate posterior, its KL divergence from the prior, densities in nats."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp

from gen_jax.method import Array

LOG_VAR_LIMIT = 10.0  # standard deviations are between e^-5 and e^5


class Gaussian(NamedTuple):
    """Independent normals; `mean` and `log_var` are f32 [B, Z]."""

    mean: Array
    log_var: Array


def reparameterise(q: Gaussian, eps: Array) -> Array:
    """Returns z = mean + exp(log_var / 2) eps (Kingma & Welling 2014, section 2.4), with the shape of `eps`.

    Example:
      >>> q = Gaussian(jnp.array([[1.0]]), jnp.array([[jnp.log(4.0)]]))
      >>> round(float(reparameterise(q, jnp.array([[0.5]]))[0, 0]), 5)
      2.0
    """
    return q.mean + jnp.exp(0.5 * q.log_var) * eps


def log_normal(x: Array, mean: Array | float = 0.0, log_var: Array | float = 0.0) -> Array:
    """Returns the log density of N(mean, exp(log_var)) at each value of `x`, in nats.

    Example:
      >>> round(float(log_normal(jnp.array(0.3))), 6)  # -0.045 - log(2 pi) / 2
      -0.963939
    """
    return -0.5 * (math.log(2 * math.pi) + log_var + jnp.square(x - mean) * jnp.exp(-jnp.asarray(log_var)))


def kl_to_standard_normal(q: Gaussian) -> Array:
    """Returns KL(q || N(0, 1)) of each latent dimension in nats, [B, Z] (Kingma & Welling 2014, appendix B).

    Example:
      >>> q = Gaussian(jnp.array([0.5, -1.0]), jnp.array([0.2, -0.3]))
      >>> [round(float(kl), 6) for kl in kl_to_standard_normal(q)]
      [0.135701, 0.520409]
    """
    # expm1 avoids the cancellation in exp(log_var) - 1 near the prior.
    return 0.5 * (jnp.square(q.mean) + jnp.expm1(q.log_var) - q.log_var)


def kl_between(q: Gaussian, p: Gaussian) -> Array:
    """Returns KL(q || p) of each latent dimension in nats, [B, Z].

    Example:
      >>> q, p = (Gaussian(jnp.array(mean), jnp.array(log_var)) for mean, log_var in ((1.0, 0.0), (0.0, 1.0)))
      >>> round(float(kl_between(q, p)), 6)  # (1 + (1 + 1) / e - 1) / 2
      0.367879
    """
    difference = q.log_var - p.log_var
    return 0.5 * (jnp.square(q.mean - p.mean) * jnp.exp(-p.log_var) + jnp.expm1(difference) - difference)


def soft_bound(x: Array, limit: float) -> Array:
    """Returns limit * tanh(x / limit): close to `x` near 0, never beyond `limit`, and differentiable everywhere.

    Example:
      >>> [round(float(value), 2) for value in soft_bound(jnp.array([0.5, 1000.0]), 10.0)]
      [0.5, 10.0]
    """
    return limit * jnp.tanh(x / limit)

"""Priors p(z) of a VAE: the standard normal, a learned mixture of Gaussians, and the VampPrior. Densities are in nats.

A `Prior` says how its parameters start; with parameters, and the encoder that a VampPrior shares, it is a `Density`.
The standard normal has no parameters, and a KL in closed form. The KL of a mixture has none: it is estimated from the
same z that is decoded, by log q(z | x) - log p(z).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.method import Array, Key, PyTree, UserError
from gen_jax.nn.gaussian import (
    LOG_VAR_LIMIT,
    Gaussian,
    kl_to_standard_normal,
    log_normal,
    reparameterise,
    soft_bound,
)

MARGIN, NOISE = 0.05, 0.01  # of pseudo-inputs at the start; see `vamp`
ROWS_AT_ONCE = 100  # codes, whose [K, Z] terms are held in memory

Encode = Callable[[Array], Gaussian]
"""x [N, H, W, C] in [0, 1] -> q(z | x), [N, Z]."""


class Mixture(NamedTuple):
    """A mixture of K diagonal Gaussians: `log_weights` [K], normalised, and `components` [K, Z]."""

    log_weights: Array
    components: Gaussian


class Density(NamedTuple):
    """p(z), with its parameters.

    Attributes:
      log_prob: z [..., Z] -> log p(z) [...].
      draw: key -> z [Z].
      log_ratio: (q, z [..., Z]) -> log p(z) - log q(z) [...], with leaves of q that broadcast to z.
      kl: (q [B, Z], z [B, S, Z] drawn from q) -> KL(q || p). [B, Z], of each latent, in closed form if the prior is the
        standard normal; otherwise [B, 1], the mean over S.
      kl_of_each: (q [B, Z], z [B, Z] drawn from q) -> [B, Z], the KL of each latent from its marginal of p.
      mixture: of which this is the density, or None.
    """

    log_prob: Callable[[Array], Array]
    draw: Callable[[Key], Array]
    log_ratio: Callable[[Gaussian, Array], Array]
    kl: Callable[[Gaussian, Array], Array]
    kl_of_each: Callable[[Gaussian, Array], Array]
    mixture: Mixture | None = None


class Prior(NamedTuple):
    """A family of densities.

    Attributes:
      init: (key, () -> training images x [N, H, W, C] in [0, 1]) -> parameters, {} if there are none.
      density: (parameters, encode) -> p(z).
      closed_kl: whether the KL of each latent is known in closed form.
      num_examples: training images that `init` needs.
      pseudo_inputs: parameters -> images [K, H, W, C] in [0, 1] whose posteriors are the components; or None.
    """

    init: Callable[[Key, Callable[[], Array]], PyTree]
    density: Callable[[PyTree, Encode], Density]
    closed_kl: bool = False
    num_examples: int = 0
    pseudo_inputs: Callable[[PyTree], Array] | None = None


def log_mixture(z: Array, mixture: Mixture) -> Array:
    """Returns the log density of a mixture at z [..., Z], in nats: [...].

    Example:
      >>> two = Mixture(jnp.log(jnp.array([0.5, 0.5])), Gaussian(jnp.array([[0.0], [1.0]]), jnp.zeros((2, 1))))
      >>> round(float(log_mixture(jnp.array([0.3]), two)), 6)
      -1.058947
    """
    # The square is not multiplied out, though that would be a matrix product: it cancels where variances are small.
    return jax.nn.logsumexp(mixture.log_weights + _log_components(z, mixture).sum(axis=-1), axis=-1)


def log_marginals(z: Array, mixture: Mixture) -> Array:
    """Returns the log density of each latent of z [..., Z] under its marginal of a mixture: [..., Z].

    Example:
      >>> two = Mixture(jnp.log(jnp.array([0.5, 0.5])), Gaussian(jnp.array([[0.0, 0], [1, 0]]), jnp.zeros((2, 2))))
      >>> [round(float(value), 4) for value in log_marginals(jnp.array([0.3, 0.3]), two)]
      [-1.0589, -0.9639]
    """
    return jax.nn.logsumexp(mixture.log_weights[:, None] + _log_components(z, mixture), axis=-2)


def _log_components(z: Array, mixture: Mixture) -> Array:
    """The log density of each latent under each component: [..., K, Z]."""
    return log_normal(z[..., None, :], mixture.components.mean, mixture.components.log_var)


def draw_mixture(mixture: Mixture, key: Key) -> Array:
    """Returns a z [Z] of a component drawn by its weight.

    Example:
      >>> far = Mixture(jnp.log(jnp.array([0.0, 1.0])), Gaussian(jnp.array([[0.0], [9.0]]), jnp.full((2, 1), -9.0)))
      >>> round(float(draw_mixture(far, jax.random.key(0))[0]))
      9
    """
    key_component, key_eps = jax.random.split(key)
    one = jax.tree.map(lambda x: x[jax.random.categorical(key_component, mixture.log_weights)], mixture.components)
    return reparameterise(one, jax.random.normal(key_eps, one.mean.shape))


def standard_density(latents: int) -> Density:
    """Returns N(0, 1) of each of `latents` dimensions (Kingma & Welling 2014)."""
    return Density(
        log_prob=lambda z: jnp.sum(log_normal(z), axis=-1),
        draw=lambda key: jax.random.normal(key, (latents,)),
        log_ratio=lambda q, z: jnp.sum(log_normal(z) - log_normal(z, q.mean, q.log_var), axis=-1),
        kl=lambda q, z: kl_to_standard_normal(q),
        kl_of_each=lambda q, z: kl_to_standard_normal(q),
    )


def mixture_density(mixture: Mixture) -> Density:
    """Returns the density of a mixture, whose KL is estimated by samples."""

    def log_ratio(q: Gaussian, z: Array) -> Array:
        return log_mixture(z, mixture) - jnp.sum(log_normal(z, q.mean, q.log_var), axis=-1)

    def kl(q: Gaussian, z: Array) -> Array:
        return -jnp.mean(log_ratio(jax.tree.map(lambda x: x[:, None], q), z), axis=1, keepdims=True)

    def kl_of_one(q_and_z: tuple[Gaussian, Array]) -> Array:
        q, z = q_and_z
        return log_normal(z, q.mean, q.log_var) - log_marginals(z, mixture)

    return Density(
        log_prob=functools.partial(log_mixture, mixture=mixture),
        draw=functools.partial(draw_mixture, mixture),
        log_ratio=log_ratio,
        kl=kl,
        kl_of_each=lambda q, z: jax.lax.map(kl_of_one, (q, z), batch_size=ROWS_AT_ONCE),
        mixture=mixture,
    )


def standard(latents: int) -> Prior:
    """Returns the standard normal, without parameters."""
    return Prior(init=lambda key, images: {}, density=lambda params, encode: standard_density(latents), closed_kl=True)


def mixture(latents: int, num_components: int = 50) -> Prior:
    """Returns a mixture of Gaussians whose weights, means and variances are learned.

    It starts with equal weights, means drawn from N(0, 1) (equal ones would stay equal) and variances of 1.

    Raises:
      UserError: num_components is below 1.
    """
    _check_components(num_components)

    def init(key: Key, images: Callable[[], Array]) -> PyTree:
        mean = jax.random.normal(key, (num_components, latents))
        return {"logits": jnp.zeros(num_components), "mean": mean, "log_var": jnp.zeros_like(mean)}

    def density(params: PyTree, encode: Encode) -> Density:
        components = Gaussian(params["mean"], soft_bound(params["log_var"], LOG_VAR_LIMIT))
        return mixture_density(Mixture(jax.nn.log_softmax(params["logits"]), components))

    return Prior(init, density)


def vamp(latents: int, num_components: int = 50) -> Prior:
    """Returns the VampPrior: the mean of the encoder's posteriors at K learned pseudo-inputs (Tomczak & Welling 2018).

    Pseudo-inputs are clipped to [0, 1], as in the paper. A clipped value has no gradient, and the paper's own start,
    N(-0.05, 0.01), has nearly all of them clipped. Ours start from training images x as 0.05 + 0.9 x plus noise of
    standard deviation 0.01 (cut off at two of them), where all of them learn.

    Raises:
      UserError: num_components is below 1.
    """
    del latents  # those of the encoder
    _check_components(num_components)

    def init(key: Key, images: Callable[[], Array]) -> PyTree:
        x = images()
        x = x[jnp.arange(num_components) * len(x) // num_components]
        noise = NOISE * jax.random.truncated_normal(key, -2, 2, x.shape)
        return {"pseudo_inputs": MARGIN + (1 - 2 * MARGIN) * x + noise}

    def density(params: PyTree, encode: Encode) -> Density:
        return mixture_density(of_posteriors(encode(pseudo_inputs(params))))

    def pseudo_inputs(params: PyTree) -> Array:
        return jnp.clip(params["pseudo_inputs"], 0, 1)

    return Prior(init, density, num_examples=num_components, pseudo_inputs=pseudo_inputs)


def of_posteriors(q: Gaussian) -> Mixture:
    """Returns the mixture of posteriors [K, Z] with equal weights: the aggregate posterior of K images."""
    return Mixture(jnp.full(len(q.mean), -jnp.log(len(q.mean))), q)


def _check_components(num_components: int) -> None:
    if num_components < 1:
        raise UserError(f"config.vae.prior.num_components is {num_components}; it must be at least 1")


PRIORS: dict[str, Callable[..., Prior]] = {"standard": standard, "mixture": mixture, "vamp": vamp}
"""From a name to (latents, parameters) -> Prior."""

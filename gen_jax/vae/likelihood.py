"""Likelihoods p(x | z) of pixels in [0, 1], from the decoder's outputs, and the binarisation of pixels.

A decoder outputs `num_outputs` real numbers per pixel value; a likelihood turns them into log probabilities
in nats, one per value. `elbo` sums them over pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.method import Array, Key, UserError, draw
from gen_jax.nn.gaussian import LOG_VAR_LIMIT, log_normal, soft_bound

STATIC_SEED = 0  # of the hashes behind static binarisation: another one is another data set
LOG_SCALE_LIMIT = 7.0  # of a logistic: Salimans et al. 2017 (released code) bound it at -7 from below


class Likelihood(NamedTuple):
    """p(x | z) of one pixel value, given a decoder's outputs.

    Attributes:
      num_outputs: decoder outputs per value.
      log_prob: (x [..., C] in [0, 1], outputs [..., num_outputs C]) -> nats [..., C].
      mean: outputs -> the mean image [..., C] in [0, 1].
      support: the set over which it sums or integrates to one: 0 and 1, the 256 values k / 255, or the real numbers.
    """

    num_outputs: int
    log_prob: Callable[[Array, Array], Array]
    mean: Callable[[Array], Array]
    support: Literal["binary", "bytes", "real"]


def bernoulli() -> Likelihood:
    """Returns the likelihood of binary pixels; the outputs are logits.

    For grey values x it is the negated cross-entropy x log p + (1 - x) log(1 - p). This works as a training
    objective, but it is not a likelihood: its integral over [0, 1] is not one.

    Example:
      >>> round(float(bernoulli().log_prob(jnp.array(1.0), jnp.array(0.0))), 6)  # log 1/2
      -0.693147
    """
    return Likelihood(
        num_outputs=1,
        log_prob=lambda x, logits: x * logits - jax.nn.softplus(logits),  # stable for logits of any size
        mean=jax.nn.sigmoid,
        support="binary",
    )


def gaussian(sigma: float = 0.1) -> Likelihood:
    """Returns N(outputs, sigma^2) for every value, with one standard deviation on the scale of [0, 1].

    Raises:
      UserError: sigma is not positive.

    Example:
      >>> round(float(gaussian(1.0).log_prob(jnp.array(0.3), jnp.array(0.0))), 6)
      -0.963939
    """
    if sigma <= 0:
        raise UserError(f"config.vae.likelihood.sigma is {sigma}: a standard deviation is positive")
    return Likelihood(
        num_outputs=1,
        log_prob=lambda x, outputs: log_normal(x, outputs, 2 * math.log(sigma)),
        mean=_clipped,
        support="real",
    )


def gaussian_learned() -> Likelihood:
    """Returns a normal likelihood whose mean and log variance are both outputs, a pair for each value.

    A constant pixel would drive its variance to zero, so the log variance has a soft bound.

    Example:
      >>> round(float(gaussian_learned().log_prob(jnp.array([0.3]), jnp.array([0.0, 0.0]))[0]), 6)
      -0.963939
    """

    def log_prob(x: Array, outputs: Array) -> Array:
        mean, log_var = jnp.split(outputs, 2, axis=-1)
        return log_normal(x, mean, soft_bound(log_var, LOG_VAR_LIMIT))

    return Likelihood(2, log_prob, _mean_of_pairs, "real")


def discretised_logistic() -> Likelihood:
    """Returns the mass of a logistic in the bin of each of the 256 grey values (Salimans et al. 2017, section 2.1).

    Bins are 1/255 wide; the first extends to -inf and the last to inf. The outputs are a mean and a log scale on the
    scale of [0, 1].

    Example:
      >>> outputs = jnp.array([0.5, -3.0])
      >>> log_probs = [discretised_logistic().log_prob(jnp.array([k / 255]), outputs)[0] for k in range(256)]
      >>> round(float(jnp.exp(jnp.array(log_probs)).sum()), 4)
      1.0
    """

    def log_prob(x: Array, outputs: Array) -> Array:
        mean, log_scale = jnp.split(outputs, 2, axis=-1)
        inverse = jnp.exp(-soft_bound(log_scale, LOG_SCALE_LIMIT))
        above, below = ((x - mean + half) * inverse for half in (0.5 / 255, -0.5 / 255))
        # S(a) - S(b) = S(a) S(-b) (1 - exp(b - a)), which avoids cancellation.
        first, last = x < 0.5 / 255, x > 1 - 0.5 / 255
        return (
            jnp.where(last, 0.0, jax.nn.log_sigmoid(above))
            + jnp.where(first, 0.0, jax.nn.log_sigmoid(-below))
            + jnp.where(first | last, 0.0, jnp.log(-jnp.expm1(-inverse / 255)))
        )

    return Likelihood(2, log_prob, _mean_of_pairs, "bytes")


LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    "bernoulli": bernoulli,
    "gaussian": gaussian,
    "gaussian_learned": gaussian_learned,
    "discretised_logistic": discretised_logistic,
}


def binarise_dynamically(x: Array, key: Key, index: Array) -> Array:
    """Returns 0 or 1 for each value of `x` [B, ...], 1 with probability x, resampled for every key.

    Example:
      >>> x = jnp.full((1, 1000), 0.25)
      >>> 0.2 < float(binarise_dynamically(x, jax.random.key(0), jnp.arange(1)).mean()) < 0.3
      True
    """
    return (draw(key, index, lambda k: jax.random.uniform(k, x.shape[1:])) < x).astype(x.dtype)


def binarise_statically(x: Array, key: Key, index: Array) -> Array:
    """Returns 0 or 1 for each value of `x` [B, ...], 1 with probability x: always the same draw of the same image.

    The random numbers are a function of the image alone: two hashes of its pixels are their key. A set is so drawn
    once, whatever the order and the split of its examples. All arithmetic is in whole numbers, with `x` rounded to the
    nearest k / 255: no compiler or device can round a draw to the other side.

    Args:
      x: f32 in [0, 1].
      key: not used, nor is `index`.
      index: i32 [B].

    Example:
      >>> x = jnp.array([[0.0, 0.5, 1.0] * 100, [0.5] * 300])
      >>> first, second = (binarise_statically(x, jax.random.key(seed), jnp.arange(2)) for seed in (0, 1))
      >>> bool(jnp.all(first == second)), first[0, :3:2].tolist()
      (True, [0.0, 1.0])
    """
    grey = jnp.round(255 * x).astype(jnp.uint32).reshape(len(x), -1)

    def one(pixels: Array) -> Array:
        seed = jax.random.key(STATIC_SEED, impl="threefry2x32")
        odd = jax.random.bits(seed, (2, len(pixels))) | 1
        of_image = jax.random.wrap_key_data(jnp.sum(odd * pixels, axis=1, dtype=jnp.uint32), impl="threefry2x32")
        return jax.random.bits(of_image, pixels.shape) % 255 < pixels  # true in `pixels` of 255 cases

    return jax.vmap(one)(grey).reshape(x.shape).astype(x.dtype)


BINARISATIONS: dict[str, Callable[[Array, Key, Array], Array]] = {
    "none": lambda x, key, index: x,
    "dynamic": binarise_dynamically,  # Salakhutdinov & Murray 2008
    "static": binarise_statically,  # like theirs, but not the published draw
    "threshold": lambda x, key, index: (x > 0.5).astype(x.dtype),
}
"""From a name to (x [B, ...] in [0, 1], key, index [B]) -> x. Results of different binarisations are not comparable."""


def _clipped(mean: Array) -> Array:
    return jnp.clip(mean, 0.0, 1.0)


def _mean_of_pairs(outputs: Array) -> Array:
    return _clipped(jnp.split(outputs, 2, axis=-1)[0])

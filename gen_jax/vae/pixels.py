"""What an autoencoder observes of an image, the likelihood of it, and the measures that are bounds on a likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from gen_jax.config import Choice, chosen, require_choice
from gen_jax.method import Array, DataSpec, Key, Scalars, UserError
from gen_jax.metrics.likelihood import bits_per_dim
from gen_jax.vae.likelihood import BINARISATIONS, LIKELIHOODS, Likelihood

CHOICE = Choice(LIKELIHOODS)


class Pixels(NamedTuple):
    """The observed values and p(x | z).

    Attributes:
      observe: (image of a batch, key, index [B]) -> x, f32 [B, H, W, C] in [0, 1], binarised according to the config.
      likelihood: p(x | z).
      protocol: the binarisation, or "density", as used in the names of metrics; "" for neither.
      normalised: whether `likelihood` sums or integrates to one over data of this kind.
      dimensions: H W C.
      told: "given_label" if all of it is of x given its class, also as used in the names of metrics; or "".
    """

    observe: Callable[[Array, Key, Array], Array]
    likelihood: Likelihood
    protocol: str
    normalised: bool
    dimensions: int
    told: str = ""


def make(c: Any, spec: DataSpec) -> Pixels:
    """Returns what `config.vae` makes of data like `spec`.

    Args:
      c: `config.vae`, of which `binarisation` and `likelihood` are read.
      spec: of the data.

    Raises:
      UserError: an unknown name, or a likelihood that does not fit the data.
    """
    require_choice("vae.binarisation", c.binarisation, BINARISATIONS)
    likelihood: Likelihood = chosen(CHOICE, c.likelihood)
    binary = c.binarisation != "none" or (spec.kind == "image" and spec.value_range == (0, 1))
    _refuse_unfit(c, likelihood, spec, binary)
    binarise = BINARISATIONS[c.binarisation]

    def observe(image: Array, key: Key, index: Array) -> Array:
        low, high = spec.value_range
        return binarise((image.astype(jnp.float32) - low) / (high - low), key, index)

    protocol = _protocol(c.binarisation, likelihood, spec)
    normalised = likelihood.support != "binary" or binary
    return Pixels(observe, likelihood, protocol, normalised, math.prod(spec.image_shape))


def bounds(pixels: Pixels, negative_elbo: Array) -> Scalars:
    """Returns the bound [B] by name; nothing if the likelihood is not normalised."""
    values = {}
    if pixels.normalised:
        values[named("negative_elbo", pixels.protocol, pixels.told)] = negative_elbo
    if pixels.likelihood.support == "bytes":
        values[named("bits_per_dim", "elbo", pixels.told)] = bits_per_dim(negative_elbo, pixels.dimensions)
    return values


def named(measure: str, *protocol: str) -> str:
    """Returns a metric's name with its protocol.

    Example:
      >>> named("nll", "dynamic_binarisation", "importance_5000"), named("negative_elbo", "")
      ('nll/dynamic_binarisation_importance_5000', 'negative_elbo')
    """
    return "/".join(part for part in (measure, "_".join(word for word in protocol if word)) if part)


def refuse_unnormalised(config: Any, pixels: Pixels) -> None:
    """Raises a UserError if `config.eval.importance_samples` is negative, or there is no likelihood to estimate."""
    num_importance = config.eval.importance_samples
    if num_importance < 0:
        raise UserError(f"config.eval.importance_samples is {num_importance}; use 0 for no importance sampling")
    if num_importance and not pixels.normalised:
        raise UserError(
            "config.eval.importance_samples estimates a likelihood, but grey values have none under bernoulli: "
            "binarise them (--config.vae.binarisation=dynamic), or use another config.vae.likelihood"
        )


def _protocol(binarisation: str, likelihood: Likelihood, spec: DataSpec) -> str:
    """The part of a likelihood's name that identifies the kind of data.

    A density of grey values, which are whole numbers without dequantisation noise, has no upper bound: it must not be
    compared with the probability of bytes.
    """
    if likelihood.support == "real" and spec.kind == "image":
        return "density"
    return "" if binarisation == "none" else f"{binarisation}_binarisation"


def _refuse_unfit(c: Any, likelihood: Likelihood, spec: DataSpec, binary: bool) -> None:
    low, high = spec.value_range
    name = c.likelihood.name
    if spec.kind != "image" and (low < 0 or high > 1):
        raise UserError(
            f"the {name} likelihood needs values in [0, 1]; data set {spec.name} has values in [{low:g}, {high:g}]"
        )
    if binary and likelihood.support != "binary":
        raise UserError(f"binary data has no {name} likelihood; use --config.vae.likelihood=bernoulli")
    if likelihood.support == "bytes" and (spec.kind != "image" or (low, high) != (0, 255)):
        raise UserError(f"the {name} likelihood needs bytes 0..255; data set {spec.name} has other values")

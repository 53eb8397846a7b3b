"""The parts of a VAE as pure functions of its parameters, for direct access to latents and likelihoods."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.config import Choice, chosen, require_choice
from gen_jax.method import NUM_EXAMPLES, Array, Batch, DataSpec, Key, PyTree, UserError, counted, stream
from gen_jax.vae import networks
from gen_jax.vae.gaussian import LOG_VAR_LIMIT, Gaussian, soft_bound
from gen_jax.vae.likelihood import BINARISATIONS, LIKELIHOODS, Likelihood
from gen_jax.vae.priors import PRIORS, Density, Prior

CHOICES = {
    "network": Choice(networks.NETWORKS, networks.GIVEN),
    "vae.likelihood": Choice(LIKELIHOODS),
    "vae.prior": Choice(PRIORS, ("latents",)),
}


class Autoencoder(NamedTuple):
    """Encoder, decoder, likelihood and prior of a config. A State holds its parameters under "vae".

    Attributes:
      init: key -> {"encoder": ..., "decoder": ...}.
      init_prior: (key, training examples) -> {"prior": ...}, or {} if the prior has no parameters.
      observe: (image of a batch, key, index [B]) -> x, f32 [B, H, W, C] in [0, 1], binarised according to the config.
      encode: (params, x) -> q(z | x), the posterior, [B, Z].
      decode: (params, z [B, Z]) -> outputs f32 [B, H, W, num_outputs C], the input of `likelihood`.
      density: params -> p(z).
      likelihood: p(x | z).
      prior: of which `density` is a member.
      latents: Z.
      code_shape: of one z when it is shown or modelled: (Z,), or the shape of a small picture.
      protocol: the binarisation, or "density", as used in the names of metrics; "" for neither.
      normalised: whether `likelihood` sums or integrates to one over data of this kind.
    """

    init: Callable[[Key], PyTree]
    init_prior: Callable[[Key, Batch], PyTree]
    observe: Callable[[Array, Key, Array], Array]
    encode: Callable[[PyTree, Array], Gaussian]
    decode: Callable[[PyTree, Array], Array]
    density: Callable[[PyTree], Density]
    likelihood: Likelihood
    prior: Prior
    latents: int
    code_shape: tuple[int, ...]
    protocol: str
    normalised: bool


def make(config: Any, spec: DataSpec) -> Autoencoder:
    """Returns the autoencoder of `config.vae` and `config.network`, for data like `spec`.

    Raises:
      UserError: an unknown name, or a likelihood or a prior that does not fit the data.
    """
    c = config.vae
    require_choice("vae.binarisation", c.binarisation, BINARISATIONS)
    if c.latents < 1:
        raise UserError(f"config.vae.latents is {c.latents}; it must be at least 1")
    likelihood = chosen(CHOICES["vae.likelihood"], c.likelihood)
    binary = c.binarisation != "none" or (spec.kind == "image" and spec.value_range == (0, 1))
    _refuse_unfit(c, likelihood, spec, binary)
    prior: Prior = chosen(CHOICES["vae.prior"], c.prior, latents=c.latents)
    _refuse_large(c.prior, prior, spec)
    binarise = BINARISATIONS[c.binarisation]
    encoder, decoder = networks.make(
        config.network, spec.image_shape, c.latents, likelihood.num_outputs, jnp.dtype(config.compute_dtype)
    )

    def init(key: Key) -> PyTree:
        key_encoder, key_decoder = jax.random.split(stream(key, "init"))
        return {
            "encoder": encoder.init(key_encoder, jnp.zeros((1, *spec.image_shape)))["params"],
            "decoder": decoder.init(key_decoder, jnp.zeros((1, c.latents)))["params"],
        }

    def init_prior(key: Key, examples: Batch) -> PyTree:
        key_prior, key_x = jax.random.split(jax.random.fold_in(stream(key, "init"), 1))
        params = prior.init(key_prior, lambda: observe(examples["image"], key_x, examples["index"]))
        return {"prior": params} if params else {}

    def observe(image: Array, key: Key, index: Array) -> Array:
        low, high = spec.value_range
        return binarise((image.astype(jnp.float32) - low) / (high - low), key, index)

    def encode(params: PyTree, x: Array) -> Gaussian:
        output: Array = encoder.apply({"params": params["encoder"]}, x)  # pyright: ignore[reportAssignmentType]
        mean, log_var = jnp.split(output.astype(jnp.float32), 2, axis=-1)
        return Gaussian(mean, soft_bound(log_var, LOG_VAR_LIMIT))

    def decode(params: PyTree, z: Array) -> Array:
        output: Array = decoder.apply({"params": params["decoder"]}, z)  # pyright: ignore[reportAssignmentType]
        return output.astype(jnp.float32)

    def density(params: PyTree) -> Density:
        return prior.density(params.get("prior", {}), functools.partial(encode, params))

    return Autoencoder(
        init,
        init_prior,
        observe,
        encode,
        decode,
        density,
        likelihood,
        prior,
        c.latents,
        networks.code_shape(config.network, spec.image_shape, c.latents),
        protocol=_protocol(c.binarisation, likelihood, spec),
        normalised=likelihood.support != "binary" or binary,
    )


def _protocol(binarisation: str, likelihood: Likelihood, spec: DataSpec) -> str:
    """The part of a likelihood's name that identifies the kind of data.

    A density of grey values, which are whole numbers without dequantisation noise, has no upper bound: it must not be
    compared with the probability of bytes.
    """
    if likelihood.support == "real" and spec.kind == "image":
        return "density"
    return "" if binarisation == "none" else f"{binarisation}_binarisation"


def _refuse_large(named: Any, prior: Prior, spec: DataSpec) -> None:
    """Refuses more pseudo-inputs than there are images to start from."""
    at_hand = min(NUM_EXAMPLES, spec.num_examples)
    if prior.num_examples > at_hand:
        images = counted(spec.num_examples, "training image")
        of_them = f" sees {at_hand} of" if spec.num_examples > at_hand else " has"
        raise UserError(
            f"config.vae.prior.num_components is {named.num_components}, but each pseudo-input starts from an image of "
            f"its own, and the start{of_them} {images}: use at most {at_hand}"
        )


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

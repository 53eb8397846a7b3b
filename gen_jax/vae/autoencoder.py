"""The parts of a VAE as pure functions of its parameters, for direct access to latents and likelihoods."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.config import Choice, chosen
from gen_jax.method import NUM_EXAMPLES, Array, Batch, DataSpec, Key, PyTree, UserError, counted, stream
from gen_jax.nn.gaussian import LOG_VAR_LIMIT, Gaussian, soft_bound
from gen_jax.vae import networks, pixels
from gen_jax.vae.pixels import Pixels
from gen_jax.vae.priors import PRIORS, Density, Prior

CHOICES = {
    "network": Choice(networks.NETWORKS, networks.GIVEN),
    "vae.likelihood": pixels.CHOICE,
    "vae.prior": Choice(PRIORS, ("latents",)),
}
ENCODED_AT_ONCE = 100  # images, for pictures


class Autoencoder(NamedTuple):
    """Encoder, decoder, likelihood and prior of a config. A State holds its parameters under "vae".

    Attributes:
      init: key -> {"encoder": ..., "decoder": ...}.
      init_prior: (key, training examples) -> {"prior": ...}, or {} if the prior has no parameters.
      encode: (params, x, label i32 [B] or None) -> q(z | x), the posterior, [B, Z].
      decode: (params, z [B, Z], label) -> outputs f32 [B, H, W, num_outputs C], the input of the likelihood.
      density: params -> p(z).
      pixels: x and p(x | z).
      prior: of which `density` is a member.
      latents: Z.
      code_shape: of one z when it is shown or modelled: (Z,), or the shape of a small picture.
      num_classes: of the labels that condition q(z | x) and p(x | z); 0 for none, where labels are ignored.
    """

    init: Callable[[Key], PyTree]
    init_prior: Callable[[Key, Batch], PyTree]
    encode: Callable[[PyTree, Array, Array | None], Gaussian]
    decode: Callable[[PyTree, Array, Array | None], Array]
    density: Callable[[PyTree], Density]
    pixels: Pixels
    prior: Prior
    latents: int
    code_shape: tuple[int, ...]
    num_classes: int


def make(config: Any, spec: DataSpec) -> Autoencoder:
    """Returns the autoencoder of `config.vae` and `config.network`, for data like `spec`.

    Raises:
      UserError: an unknown name, a likelihood or a prior that does not fit, or labels that the data has not.
    """
    c = config.vae
    if c.latents < 1:
        raise UserError(f"config.vae.latents is {c.latents}; it must be at least 1")
    seen = pixels.make(c, spec)
    prior = prior_of(c.prior, c.latents, spec)
    num_classes = _classes(c, spec, prior)
    if num_classes:
        seen = seen._replace(told="given_label")
    num_outputs, dtype = seen.likelihood.num_outputs, jnp.dtype(config.compute_dtype)
    encoder, decoder = networks.make(config.network, spec.image_shape, c.latents, num_outputs, dtype, num_classes)

    def init(key: Key) -> PyTree:
        key_encoder, key_decoder = jax.random.split(stream(key, "init"))
        x, z, label = jnp.zeros((1, *spec.image_shape)), jnp.zeros((1, c.latents)), jnp.zeros(1, jnp.int32)
        return {
            "encoder": encoder.init(key_encoder, x, label)["params"],
            "decoder": decoder.init(key_decoder, z, label)["params"],
        }

    def encode(params: PyTree, x: Array, label: Array | None = None) -> Gaussian:
        output: Array = encoder.apply({"params": params["encoder"]}, x, label)  # pyright: ignore[reportAssignmentType]
        mean, log_var = jnp.split(output.astype(jnp.float32), 2, axis=-1)
        return Gaussian(mean, soft_bound(log_var, LOG_VAR_LIMIT))

    def decode(params: PyTree, z: Array, label: Array | None = None) -> Array:
        output: Array = decoder.apply({"params": params["decoder"]}, z, label)  # pyright: ignore[reportAssignmentType]
        return output.astype(jnp.float32)

    def density(params: PyTree) -> Density:
        return prior.density(params.get("prior", {}), functools.partial(encode, params))

    return Autoencoder(
        init,
        functools.partial(init_prior, prior, seen),
        encode,
        decode,
        density,
        seen,
        prior,
        c.latents,
        networks.code_shape(config.network, spec.image_shape, c.latents),
        num_classes,
    )


def _classes(c: Any, spec: DataSpec, prior: Prior) -> int:
    if not c.conditional:
        return 0
    if spec.num_classes is None:
        raise UserError(f"config.vae.conditional needs labels, and data set {spec.name} has none")
    if prior.pseudo_inputs is not None:
        raise UserError(
            f"config.vae.conditional is true, but the pseudo-inputs of prior {c.prior.name} have no class: use "
            "--config.vae.prior=standard, or mixture"
        )
    return spec.num_classes


def prior_of(values: Any, latents: int, spec: DataSpec) -> Prior:
    """Returns the prior of `config.vae.prior`.

    Args:
      values: its name and parameters.
      latents: Z, of the prior.
      spec: of the data.

    Raises:
      UserError: an invalid number, or more pseudo-inputs than there are images to start from.
    """
    prior: Prior = chosen(CHOICES["vae.prior"], values, latents=latents)
    at_hand = min(NUM_EXAMPLES, spec.num_examples)
    if prior.num_examples > at_hand:
        images = counted(spec.num_examples, "training image")
        of_them = f" sees {at_hand} of" if spec.num_examples > at_hand else " has"
        raise UserError(
            f"config.vae.prior.num_components is {values.num_components}, but each pseudo-input starts from an image "
            f"of its own, and the start{of_them} {images}: use at most {at_hand}"
        )
    return prior


def init_prior(prior: Prior, seen: Pixels, key: Key, examples: Batch) -> PyTree:
    """Returns {"prior": its parameters at the start}, or {} if it has none.

    Args:
      prior: with `init`.
      seen: what is observed of the examples.
      key: of the run.
      examples: of the training split.
    """
    key_prior, key_x = jax.random.split(jax.random.fold_in(stream(key, "init"), 1))
    params = prior.init(key_prior, lambda: seen.observe(examples["image"], key_x, examples["index"]))
    return {"prior": params} if params else {}


def encode_in_pieces(encode: Callable[..., Gaussian], *inputs: Array | None) -> Gaussian:
    """Returns `encode` of inputs [N, ...], a few rows at a time: the activations of all would take gigabytes."""
    one = functools.partial(jax.tree.map, lambda y: y[0])
    return jax.lax.map(
        lambda row: one(encode(*jax.tree.map(lambda x: x[None], row))), inputs, batch_size=ENCODED_AT_ONCE
    )

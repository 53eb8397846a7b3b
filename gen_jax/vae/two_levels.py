"""Two levels of latents as pure functions: p(x, z1, z2) = p(x | z1, z2) p(z1 | z2) p(z2) (Tomczak & Welling 2018).

The posterior has the same order from the top, q(z2 | x) q(z1 | x, z2), so each image is encoded from z2 down to z1. The
names of parts and parameters: `top` is of z2, `low` of z1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.config import Choice, modules_of
from gen_jax.method import Array, Batch, DataSpec, Key, PyTree, UserError, stream
from gen_jax.nn.gaussian import Gaussian
from gen_jax.vae import autoencoder, pixels
from gen_jax.vae.networks import GIVEN, DenseEncoder, Hidden
from gen_jax.vae.pixels import Pixels
from gen_jax.vae.priors import Density, Prior

LOG_VARS = (-6.0, 2.0)  # bounds of all log variances: those of the released code of Tomczak & Welling 2018


class TwoInputs(nn.Module):
    """Dense layers over two inputs: the first of the widths for each input alone, the others for both.

    Example:
      >>> a, b = jnp.ones((2, 4)), jnp.ones((2, 3))
      >>> jax.eval_shape(TwoInputs((8, 5)).init_with_output, jax.random.key(0), a, b)[0].shape
      (2, 5)
    """

    widths: tuple[int, ...]
    activation: str = "gated"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, first: Array, second: Array) -> Array:
        """Returns [B, widths[-1]] for two inputs [B, ...]; both, side by side, if there are no widths."""
        own, both = self.widths[:1], self.widths[1:]
        each = [
            Hidden(own, self.activation, self.dtype, name=name)(x.reshape(len(x), -1))
            for name, x in (("first", first), ("second", second))
        ]
        return Hidden(both, self.activation, self.dtype, name="both")(jnp.concatenate(each, axis=-1))


class LowEncoder(nn.Module):
    """q(z1 | x, z2): like `DenseEncoder`, of two inputs.

    Example:
      >>> x, z = jnp.ones((2, 8, 8, 1)), jnp.ones((2, 3))
      >>> encoder = LowEncoder(latents=5, hidden=(16,))
      >>> jax.eval_shape(encoder.init_with_output, jax.random.key(0), x, z)[0].shape
      (2, 10)
    """

    latents: int
    hidden: tuple[int, ...] = (300, 300)
    activation: str = "gated"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, z2: Array) -> Array:
        """Returns [B, 2 latents]."""
        h = TwoInputs(self.hidden, self.activation, self.dtype, name="hidden")(x, z2)
        return nn.Dense(2 * self.latents, dtype=self.dtype, name="posterior")(h)


class LowDecoder(nn.Module):
    """p(x | z1, z2): like `DenseDecoder`, of two inputs.

    Example:
      >>> decoder = LowDecoder(image_shape=(8, 8, 1), hidden=(16,))
      >>> jax.eval_shape(decoder.init_with_output, jax.random.key(0), jnp.ones((2, 5)), jnp.ones((2, 3)))[0].shape
      (2, 8, 8, 1)
    """

    image_shape: tuple[int, int, int]
    num_outputs: int = 1
    hidden: tuple[int, ...] = (300, 300)
    activation: str = "gated"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z1: Array, z2: Array) -> Array:
        """Returns [B, H, W, num_outputs C]."""
        height, width, channels = self.image_shape
        h = TwoInputs(self.hidden[::-1], self.activation, self.dtype, name="hidden")(z1, z2)
        h = nn.Dense(height * width * channels * self.num_outputs, dtype=self.dtype, name="out")(h)
        return h.reshape(-1, height, width, channels * self.num_outputs)


NETWORKS = {"dense": (DenseEncoder, LowEncoder, DenseEncoder, LowDecoder)}
"""From a name to q(z2 | x), q(z1 | x, z2), p(z1 | z2) and p(x | z1, z2); `config.network` holds their fields."""

CHOICES = {
    "network": Choice(NETWORKS, GIVEN),
    "vae.likelihood": autoencoder.CHOICES["vae.likelihood"],
    "vae.prior": autoencoder.CHOICES["vae.prior"],
}


class TwoLevels(NamedTuple):
    """The networks, the likelihood and the prior of a config. A State holds its parameters under "vae".

    Attributes:
      init: key -> {"encoder", "low_encoder", "low_prior", "decoder"}.
      init_prior: (key, training examples) -> {"prior": ...}, or {} if the prior of z2 has no parameters.
      encode: (params, x) -> q(z2 | x), [B, Z2].
      encode_low: (params, x, z2) -> q(z1 | x, z2), [B, Z1].
      low_prior: (params, z2) -> p(z1 | z2), [B, Z1].
      decode: (params, z1, z2) -> outputs f32 [B, H, W, num_outputs C], the input of the likelihood.
      density: params -> p(z2).
      pixels: x and p(x | z1, z2).
      prior: of which `density` is a member.
      latents: (Z1, Z2).
    """

    init: Callable[[Key], PyTree]
    init_prior: Callable[[Key, Batch], PyTree]
    encode: Callable[[PyTree, Array], Gaussian]
    encode_low: Callable[[PyTree, Array, Array], Gaussian]
    low_prior: Callable[[PyTree, Array], Gaussian]
    decode: Callable[[PyTree, Array, Array], Array]
    density: Callable[[PyTree], Density]
    pixels: Pixels
    prior: Prior
    latents: tuple[int, int]


def make(config: Any, spec: DataSpec) -> TwoLevels:
    """Returns the model of `config.vae` and `config.network`, for data like `spec`.

    Raises:
      UserError: an unknown name, numbers of latents that are not two, or a likelihood or a prior that does not fit.
    """
    c = config.vae
    if len(c.latents) != 2 or min(c.latents) < 1:
        raise UserError(
            f"config.vae.latents is {tuple(c.latents)}: give the numbers of latents of z1 and of z2, such as (40, 40)"
        )
    low_latents, latents = c.latents
    seen, prior = pixels.make(c, spec), autoencoder.prior_of(c.prior, latents, spec)
    given = {
        "latents": latents, "image_shape": spec.image_shape, "num_outputs": seen.likelihood.num_outputs,
        "dtype": jnp.dtype(config.compute_dtype),
    }  # fmt: skip
    top, low, link, decoder = modules_of(config.network, NETWORKS, given)
    networks = {
        "encoder": top,
        "low_encoder": low.clone(latents=low_latents),
        "low_prior": link.clone(latents=low_latents, hidden=link.hidden[::-1]),
        "decoder": decoder,
    }

    def init(key: Key) -> PyTree:
        x, z1, z2 = jnp.zeros((1, *spec.image_shape)), jnp.zeros((1, low_latents)), jnp.zeros((1, latents))
        inputs = {"encoder": (x,), "low_encoder": (x, z2), "low_prior": (z2,), "decoder": (z1, z2)}
        keys = jax.random.split(stream(key, "init"), len(inputs))
        return {n: networks[n].init(key, *inputs[n])["params"] for n, key in zip(inputs, keys, strict=True)}

    def apply(name: str, params: PyTree, *inputs: Array) -> Array:
        return networks[name].apply({"params": params[name]}, *inputs).astype(jnp.float32)

    def gaussian(name: str, params: PyTree, *inputs: Array) -> Gaussian:
        mean, log_var = jnp.split(apply(name, params, *inputs), 2, axis=-1)
        return Gaussian(mean, jnp.clip(log_var, *LOG_VARS))

    encode = functools.partial(gaussian, "encoder")

    def density(params: PyTree) -> Density:
        return prior.density(params.get("prior", {}), functools.partial(encode, params))

    return TwoLevels(
        init,
        functools.partial(autoencoder.init_prior, prior, seen),
        encode,
        functools.partial(gaussian, "low_encoder"),
        functools.partial(gaussian, "low_prior"),
        functools.partial(apply, "decoder"),
        density,
        seen,
        prior,
        (low_latents, latents),
    )

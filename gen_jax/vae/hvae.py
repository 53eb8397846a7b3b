"""The variational autoencoder with two levels of latents, z1 below z2, and any prior of z2 (Tomczak & Welling 2018).

The bound in nats, one value per example:

    log p(x) >= E[log p(x | z1, z2)] - E[KL(q(z1 | x, z2) || p(z1 | z2))] - KL(q(z2 | x) || p(z2))

Expectations are over one draw of z2, and of z1 given it. The first divergence is in closed form for each z2 (the paper
takes that of the sample, which has the same mean and more variance), the second where the prior has one.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_jax import optimizer
from gen_jax.config import Config, Measure, Options
from gen_jax.method import (
    Array,
    Batch,
    Code,
    Condition,
    DataSpec,
    Figure,
    Key,
    Method,
    PyTree,
    Scalars,
    Stage,
    State,
    UserError,
    keys_of,
    stream,
)
from gen_jax.nn.gaussian import Gaussian, kl_between, log_normal, reparameterise
from gen_jax.vae import autoencoder, elbo, pictures, pixels, two_levels, vae
from gen_jax.vae.defaults import vae_config
from gen_jax.vae.priors import Density
from gen_jax.vae.two_levels import CHOICES, TwoLevels


def hvae_config() -> Config:
    """Returns `vae_config` for two levels, with the network and the latents of Tomczak & Welling 2018.

    Example:
      >>> hvae_config().vae.latents
      (40, 40)
    """
    config = vae_config()
    config.method = "hvae"
    config.network = ConfigDict(CHOICES["network"].start("dense"))
    shared = ("likelihood", "prior", "binarisation", "beta", "kl_warmup_steps")
    config.vae = ConfigDict({"latents": (40, 40)} | {key: config.vae[key] for key in shared})  # of z1 and of z2
    return config


MEASURES = vae.OPTIONS.measures
OPTIONS = Options(
    hvae_config,
    "VAE of two levels",
    CHOICES,
    measures={
        "reconstruction": MEASURES["reconstruction"],
        "kl": MEASURES["kl"],
        "kl_z1": Measure("KL divergence of z1, the lower level", "nats per image"),
        "kl_z2": Measure("KL divergence of z2, the upper level", "nats per image"),
        **{name: MEASURES[name] for name in ("negative_elbo", "nll", "bits_per_dim", "kl_weight")},
    },
)


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns the two-level VAE as a method; see `configs/hvae_mnist.py` for its config values.

    Raises:
      UserError: an unknown name, an invalid value, or a likelihood or a prior that does not fit the rest.
    """
    model = two_levels.make(config, spec)
    for name in ("beta", "kl_warmup_steps"):
        if config.vae[name] < 0:
            raise UserError(f"config.vae.{name} is {config.vae[name]}; it must not be negative")
    pixels.refuse_unnormalised(config, model.pixels)
    hvae = _Hvae(config, spec, model, optimizer.make(config.optimizer, config.num_steps, config.ema))
    return Method(
        functools.partial(_init, hvae),
        functools.partial(_step, hvae),
        functools.partial(_sample, hvae),
        functools.partial(_evaluate, hvae),
        functools.partial(_show, hvae),
        code=Code("means", (sum(model.latents),), functools.partial(_encode, hvae), functools.partial(_decode, hvae)),
        num_pictured=pictures.NUM_POINTS,
    )


class _Hvae(NamedTuple):
    """Everything that the functions of the method need."""

    config: Any
    spec: DataSpec
    model: TwoLevels
    optimize: optimizer.Optimizer


class Drawn(NamedTuple):
    """A z2 of q(z2 | x) and a z1 of q(z1 | x, z2) for each example, with their distributions.

    Attributes:
      top: q(z2 | x), [B, Z2].
      z2: [B, Z2].
      low: q(z1 | x, z2), [B, Z1].
      z1: [B, Z1].
      low_prior: p(z1 | z2), [B, Z1].
      reconstruction: -log p(x | z1, z2), nats [B].
      prior: p(z2).
    """

    top: Gaussian
    z2: Array
    low: Gaussian
    z1: Array
    low_prior: Gaussian
    reconstruction: Array
    prior: Density


def drawn(model: TwoLevels, params: PyTree, x: Array, keys: Array) -> Drawn:
    """Returns latents of `x` [B, H, W, C], drawn with one of `keys` [B] each."""
    low_latents, latents = model.latents
    eps = jax.vmap(lambda key: jax.random.normal(key, (low_latents + latents,)))(keys)
    top = model.encode(params, x)
    z2 = reparameterise(top, eps[:, low_latents:])
    low = model.encode_low(params, x, z2)
    z1 = reparameterise(low, eps[:, :low_latents])
    log_prob = model.pixels.likelihood.log_prob(x, model.decode(params, z1, z2))
    nats = -elbo.sum_over_dimensions(log_prob)
    return Drawn(top, z2, low, z1, model.low_prior(params, z2), nats, model.density(params))


def divergences(d: Drawn) -> tuple[Array, Array]:
    """Returns KL(q(z1 | x, z2) || p(z1 | z2)) at the drawn z2, and KL(q(z2 | x) || p(z2)): nats [B] each."""
    kl_z2 = d.prior.kl(d.top, d.z2[:, None])  # [B, Z2], or [B, 1] by the sample
    return jnp.sum(kl_between(d.low, d.low_prior), axis=-1), jnp.sum(kl_z2, axis=-1)


def log_weight(d: Drawn) -> Array:
    """Returns log p(x, z1, z2) - log q(z1, z2 | x) at the drawn latents: nats [B]."""
    log_ratio_z1 = log_normal(d.z1, *d.low_prior) - log_normal(d.z1, *d.low)
    return jnp.sum(log_ratio_z1, axis=-1) + d.prior.log_ratio(d.top, d.z2) - d.reconstruction


def _init(hvae: _Hvae, key: Key, examples: Batch, frozen: PyTree) -> State:
    params = hvae.model.init(key) | hvae.model.init_prior(key, examples)
    return optimizer.first_state(hvae.optimize, "vae", key, params, frozen)


def _step(hvae: _Hvae, state: State, batch: Batch) -> tuple[State, Scalars]:
    c, model = hvae.config.vae, hvae.model
    key_x, key_z = jax.random.split(jax.random.fold_in(stream(state.key, "step"), state.step))
    weight = elbo.kl_weight(state.step, c.beta, c.kl_warmup_steps)

    def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, Scalars]:
        x = model.pixels.observe(batch["image"], key_x, batch["index"])
        values = _terms(drawn(model, params, x, keys_of(key_z, batch["index"])), weight)
        scalars = jax.tree.map(jnp.mean, values)
        return scalars["loss"], scalars | {"kl_weight": weight}

    scalars, grads = optimizer.value_and_grad(loss_fn, state.params["vae"], batch, hvae.config.accumulate)
    state, norms = hvae.optimize.apply(state, "vae", grads)
    return state.replace(step=state.step + 1), scalars | norms


def _terms(d: Drawn, weight: Array | float) -> Scalars:
    """The loss, where `weight` multiplies both divergences, and its parts: nats [B]."""
    kl_z1, kl_z2 = divergences(d)
    kl = kl_z1 + kl_z2
    loss = d.reconstruction + weight * kl
    return {"loss": loss, "reconstruction": d.reconstruction, "kl": kl, "kl_z1": kl_z1, "kl_z2": kl_z2}


def _evaluate(hvae: _Hvae, state: State, batch: Batch, key: Key) -> Scalars:
    model, params, index = hvae.model, state.ema["vae"], batch["index"]
    key_x, key_z, key_importance = jax.random.split(key, 3)
    x = model.pixels.observe(batch["image"], key_x, index)
    values = _terms(drawn(model, params, x, keys_of(key_z, index)), hvae.config.vae.beta)
    values |= pixels.bounds(model.pixels, values["reconstruction"] + values["kl"])
    if num := hvae.config.eval.importance_samples:
        nll = elbo.importance_sampled_nll(
            lambda keys: log_weight(drawn(model, params, x, keys)), key_importance, index, num
        )
        values[pixels.named("nll", model.pixels.protocol, f"importance_{num}")] = nll
    return values


def _encode(hvae: _Hvae, state: State, batch: Batch, key: Key) -> Array:
    x = hvae.model.pixels.observe(batch["image"], key, batch["index"])
    return _means(hvae.model, state.ema["vae"], x)


def _means(model: TwoLevels, params: PyTree, x: Array) -> Array:
    """The means of q(z1 | x, z2) and of q(z2 | x) side by side, at that z2: [B, Z1 + Z2]."""
    z2 = model.encode(params, x).mean
    return jnp.concatenate([model.encode_low(params, x, z2).mean, z2], axis=-1)


def _decode(hvae: _Hvae, state: State, codes: Array) -> Array:
    """The mean image of each z1 and z2, side by side in `codes` [N, Z1 + Z2]: f32 [N, H, W, C] in [-1, 1]."""
    model = hvae.model
    z1, z2 = jnp.split(codes, [model.latents[0]], axis=-1)
    return 2 * model.pixels.likelihood.mean(model.decode(state.ema["vae"], z1, z2)) - 1


def _below(hvae: _Hvae, state: State, z2: Array, eps: Array) -> Array:
    """The code [N, Z1 + Z2] of z2 and of the z1 that noise [N, Z1] makes of p(z1 | z2); of its mean, if that is 0."""
    z1 = reparameterise(hvae.model.low_prior(state.ema["vae"], z2), eps)
    return jnp.concatenate([z1, z2], axis=-1)


def _sample(hvae: _Hvae, state: State, keys: Array, condition: Condition) -> Array:
    pairs = jax.vmap(jax.random.split)(keys)
    z2 = jax.vmap(hvae.model.density(state.ema["vae"]).draw)(pairs[:, 0])
    return _decode(hvae, state, _below(hvae, state, z2, _noise(hvae, pairs[:, 1])))


def _noise(hvae: _Hvae, keys: Array) -> Array:
    """Of z1: f32 [N, Z1]."""
    return jax.vmap(lambda key: jax.random.normal(key, (hvae.model.latents[0],)))(keys)


def _show(hvae: _Hvae, state: State, key: Key, batch: Batch) -> dict[str, Figure]:
    model, params = hvae.model, state.ema["vae"]
    key_z, key_levels, key_scatter = jax.random.split(jax.random.fold_in(key, 1), 3)
    x = model.pixels.observe(batch["image"], key, batch["index"])
    some = x[: pictures.NUM_SHOWN]
    q = autoencoder.encode_in_pieces(functools.partial(model.encode, params), x)
    eps = jax.vmap(lambda one: jax.random.normal(one, (model.latents[1],)))(keys_of(key_z, batch["index"]))
    prior, inputs = model.density(params), model.prior.pseudo_inputs

    def image_of(z2: Array) -> Array:
        return _decode(hvae, state, _below(hvae, state, z2, jnp.zeros(())))

    rows, columns = pictures.NUM_TOP, pictures.NUM_LOW
    keys = keys_of(key_levels, jnp.arange(rows * (1 + columns)))
    z2 = jnp.repeat(jax.vmap(prior.draw)(keys[:rows]), columns, axis=0)
    images = _decode(hvae, state, _below(hvae, state, z2, _noise(hvae, keys[rows:])))
    return {
        "reconstructions": pictures.reconstructions(2 * some - 1, _decode(hvae, state, _means(model, params, some))),
        "levels": pictures.levels(images.reshape(rows, columns, *images.shape[1:])),
        **pictures.codes(
            image_of, q, reparameterise(q, eps), prior, key_scatter, batch, hvae.spec.class_names,
            None if inputs is None else inputs(params["prior"]),
        ),
    }  # fmt: skip

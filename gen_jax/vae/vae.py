"""The variational autoencoder (Kingma & Welling 2014; beta: Higgins et al. 2017), with any likelihood of this room.

All terms are in nats: sums over pixels and latents, means over the batch. What a decoder gives as an image is the
mean of p(x | z).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gen_jax import optimizer
from gen_jax.method import (
    Array,
    Batch,
    DataSpec,
    Key,
    Method,
    Picture,
    PyTree,
    Scalars,
    State,
    UserError,
    draw,
    stream,
)
from gen_jax.metrics.likelihood import bits_per_dim
from gen_jax.vae import autoencoder, elbo, pictures
from gen_jax.vae.gaussian import Gaussian, kl_to_standard_normal, log_normal, reparameterise


def make(config: Any, spec: DataSpec) -> Method:
    """Returns the VAE as a method; see `configs/vae_mnist.py` for what it reads of a config.

    Raises:
      UserError: an unknown name, a value that cannot be, or a likelihood that does not fit the data.
    """
    c = config.vae
    for name in ("beta", "kl_warmup_steps", "free_bits"):
        if not 0 <= c[name] < float("inf"):
            raise UserError(f"config.vae.{name} is {c[name]}; it must be finite and not negative")
    model = autoencoder.make(config, spec)
    num_importance = config.eval.importance_samples
    if num_importance < 0:
        raise UserError(f"config.eval.importance_samples is {num_importance}; use 0 for no importance sampling")
    if num_importance and not model.normalised:
        raise UserError(
            "config.eval.importance_samples estimates a likelihood, and grey values have none under bernoulli: "
            "binarise them (--config.vae.binarisation=dynamic), or take another config.vae.likelihood"
        )
    height, width, channels = spec.image_shape
    optimize = optimizer.make(config.optimizer, config.num_steps, config.ema)

    def init(key: Key) -> State:
        params = {"vae": model.init(key)}
        return State(
            step=jnp.zeros((), jnp.int32),
            key=key,
            params=params,
            variables={},
            opt_state={"vae": optimize.init(params["vae"])},
            ema=jax.tree.map(jnp.copy, params),
            frozen={},
        )

    def noise(key: Key) -> Array:
        return jax.random.normal(key, (c.latents,))

    def log_likelihood(params: PyTree, x: Array, z: Array) -> Array:
        """log p(x | z): nats [B]."""
        return elbo.sum_over_dimensions(model.likelihood.log_prob(x, model.decode(params, z)))

    def terms(params: PyTree, x: Array, index: Array, key: Key) -> tuple[Gaussian, Array, Array]:
        """q(z | x), -log p(x | z) at one z drawn from it [B], and the KL of each latent [B, Z]."""
        q = model.encode(params, x)
        z = reparameterise(q, draw(key, index, noise))
        return q, -log_likelihood(params, x, z), kl_to_standard_normal(q)

    def step(state: State, batch: Batch) -> tuple[State, Scalars]:
        key_x, key_z = jax.random.split(jax.random.fold_in(stream(state.key, "step"), state.step))
        weight = elbo.kl_weight(state.step, c.beta, c.kl_warmup_steps)

        def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, Scalars]:
            x = model.observe(batch["image"], key_x, batch["index"])
            _, reconstruction, kl = terms(params, x, batch["index"], key_z)
            loss = jnp.mean(reconstruction + weight * elbo.free_bits(kl, c.free_bits))
            return loss, {
                "loss": loss,
                "reconstruction": jnp.mean(reconstruction),
                "kl": jnp.mean(jnp.sum(kl, axis=-1)),
                "kl_weight": weight,
            }

        scalars, grads = optimizer.value_and_grad(loss_fn, state.params["vae"], batch, config.accumulate)
        state, norms = optimize.apply(state, "vae", grads)
        return state.replace(step=state.step + 1), scalars | norms

    def evaluate(state: State, batch: Batch, key: Key) -> Scalars:
        params, index = state.ema["vae"], batch["index"]
        key_x, key_z, key_importance = jax.random.split(key, 3)
        x = model.observe(batch["image"], key_x, index)
        q, reconstruction, kl = terms(params, x, index, key_z)
        total_kl = jnp.sum(kl, axis=-1)
        values = {
            "loss": reconstruction + c.beta * elbo.free_bits(kl, c.free_bits),
            "reconstruction": reconstruction,
            "kl": total_kl,
        }
        negative_elbo = reconstruction + total_kl
        if model.normalised:
            values[_name("negative_elbo", model.protocol)] = negative_elbo
        if model.likelihood.support == "bytes":
            values["bits_per_dim/elbo"] = bits_per_dim(negative_elbo, height * width * channels)

        def log_weight(keys: Array) -> Array:
            z = reparameterise(q, jax.vmap(noise)(keys))
            log_ratio = log_normal(z) - log_normal(z, q.mean, q.log_var)
            return log_likelihood(params, x, z) + jnp.sum(log_ratio, axis=-1)

        if num_importance:
            values[_name("nll", model.protocol, f"importance_{num_importance}")] = elbo.importance_sampled_nll(
                log_weight, key_importance, index, num_importance
            )
        return values

    def encode(state: State, batch: Batch, key: Key) -> Array:
        return model.encode(state.ema["vae"], model.observe(batch["image"], key, batch["index"])).mean

    def generate(state: State, z: Array) -> Array:
        """The mean image of each z [N, Z]: f32 [N, H, W, C] in [-1, 1]."""
        return 2 * model.likelihood.mean(model.decode(state.ema["vae"], z)) - 1

    def sample(state: State, keys: Array, label: Array | None) -> Array:
        return generate(state, jax.vmap(noise)(keys))

    def show(state: State, key: Key, batch: Batch) -> dict[str, Picture]:
        x = model.observe(batch["image"], key, batch["index"])
        q = model.encode(state.ema["vae"], x)
        image_of = functools.partial(generate, state)
        shown = {"reconstructions": pictures.reconstructions(2 * x - 1, image_of(q.mean))}
        if c.latents == pictures.PLANE:
            shown["manifold"] = pictures.manifold(image_of, c.latents)
        return shown | pictures.traversals(image_of, q.mean[0], jnp.mean(kl_to_standard_normal(q), axis=0))

    return Method(init, step, sample, evaluate, show, encode=encode)


def _name(measure: str, *protocol: str) -> str:
    """A metric's name with what it must be known with: "nll/dynamic_binarisation_importance_5000"."""
    return "/".join(part for part in (measure, "_".join(word for word in protocol if word)) if part)

"""The variational autoencoder (Kingma & Welling 2014; beta: Higgins et al. 2017), with any likelihood of this package.

All terms are in nats: sums over pixels and latents, means over the batch. A decoded image is the mean of p(x | z). With
labels y it is the conditional model p(x | z, y) p(z) with q(z | x, y) (Sohn et al. 2015; their prior also reads y).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_jax import optimizer
from gen_jax.config import Measure, Options, chosen
from gen_jax.figures.classes import NUM_OF_A_CLASS, by_class
from gen_jax.method import (
    Array,
    Batch,
    Code,
    Condition,
    DataSpec,
    Figure,
    Key,
    Method,
    Picture,
    PyTree,
    Scalars,
    Stage,
    State,
    UserError,
    draw,
    keys_of,
    stream,
)
from gen_jax.nn.gaussian import reparameterise
from gen_jax.vae import autoencoder, elbo, objectives, pictures, pixels
from gen_jax.vae.autoencoder import Autoencoder
from gen_jax.vae.defaults import CHOICES, vae_config
from gen_jax.vae.objectives import Draws, Objective, Setting

SECOND = "discriminator"  # the name of an objective's own network in a State

OPTIONS = Options(
    vae_config,
    "VAE",
    CHOICES,
    {"vae.sigma": "vae.likelihood.sigma"},
    measures={
        "reconstruction": Measure("reconstruction", "nats per image", is_bound=True),
        "kl": Measure("KL divergence", "nats per image"),
        "negative_elbo": Measure("negative ELBO", "nats per image", is_bound=True),
        "nll": Measure("negative log-likelihood", "nats per image", is_bound=True),
        "bits_per_dim": Measure("bits per dimension", is_bound=True),
        "kl_weight": Measure("weight of the KL divergence"),
        "capacity": Measure("KL divergence that is aimed at", "nats per image"),
        "mutual_information": Measure("mutual information of images and codes, estimated in a batch", "nats"),
        "total_correlation": Measure("total correlation of codes, estimated in a batch", "nats"),
        "dimension_kl": Measure("KL divergence of each latent, estimated in a batch", "nats"),
    },
)


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns the VAE as a method; see `configs/vae_mnist.py` for its config values.

    Raises:
      UserError: an unknown name, an invalid value, or a likelihood, a prior or an objective that does not fit the rest.
    """
    model, c = autoencoder.make(config, spec), config.vae
    setting = Setting(
        c.free_bits, model.prior.closed_kl, c.prior.name, spec.num_examples, config.accumulate, config.batch_size,
        c.latents,
    )  # fmt: skip
    objective: Objective = chosen(CHOICES["vae.objective"], c.objective, setting=setting)
    optimize = optimizer.make(config.optimizer, config.num_steps, config.ema)
    second = objective.second
    optimize_second = optimizer.make(ConfigDict(second.optimizer), config.num_steps, 0.0) if second else None
    vae = _Vae(config, spec, model, objective, optimize, optimize_second)
    _check(config, vae.model)
    return Method(
        functools.partial(_init, vae),
        functools.partial(_step, vae),
        functools.partial(_sample, vae),
        functools.partial(_evaluate, vae),
        functools.partial(_show, vae),
        condition=("label",) if model.num_classes else (),
        # A code of a conditional model is one only together with its class.
        code=None
        if model.num_classes
        else Code("means", model.code_shape, functools.partial(_encode, vae), functools.partial(_decode, vae)),
        num_pictured=pictures.NUM_POINTS,
        snapshots=functools.partial(_snapshots, vae) if config.vae.manifold else None,
    )


class _Vae(NamedTuple):
    """Everything that the functions of the method need."""

    config: Any
    spec: DataSpec
    model: Autoencoder
    objective: Objective
    optimize: optimizer.Optimizer
    optimize_second: optimizer.Optimizer | None


def _init(vae: _Vae, key: Key, examples: Batch, frozen: PyTree) -> State:
    params = {"vae": vae.model.init(key) | vae.model.init_prior(key, examples)}
    opt_state = {"vae": vae.optimize.init(params["vae"])}
    average = jax.tree.map(jnp.copy, params)
    if vae.objective.second and vae.optimize_second:
        params[SECOND] = vae.objective.second.init(jax.random.fold_in(stream(key, "init"), 2))
        opt_state[SECOND] = vae.optimize_second.init(params[SECOND])
    return State(
        step=jnp.zeros((), jnp.int32), key=key, params=params, variables={}, opt_state=opt_state, ema=average,
        frozen=frozen,
    )  # fmt: skip


def _step(vae: _Vae, state: State, batch: Batch) -> tuple[State, Scalars]:
    c, second = vae.config.vae, vae.objective.second
    key = jax.random.fold_in(stream(state.key, "step"), state.step)
    key_x, key_z, *key_second = jax.random.split(key, 3 if second else 2)
    weight = elbo.kl_weight(state.step, c.beta, c.kl_warmup_steps)

    def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, Scalars]:
        x = vae.model.pixels.observe(batch["image"], key_x, batch["index"])
        draws = _draws(vae, params["vae"], x, batch, key_z)
        draws = draws._replace(second=jax.lax.stop_gradient(params.get(SECOND)))
        losses, terms = vae.objective.loss(draws, weight, state.step)
        loss = jnp.mean(losses)
        kl = draws.prior.kl(draws.q, draws.z)
        scalars = {
            "loss": loss,
            "reconstruction": jnp.mean(draws.reconstruction),
            "kl": jnp.mean(jnp.sum(kl, axis=-1)),
            "kl_weight": weight,
            **jax.tree.map(jnp.mean, terms),
        }
        if second is None:
            return loss, scalars
        # The gradient of a sum: each network gets that of its own loss, for the other is a constant in it.
        codes = jax.lax.stop_gradient(draws.z[:, 0])
        its, more = second.loss(params[SECOND], codes, draws.rows, *key_second)
        return loss + jnp.mean(its), scalars | jax.tree.map(jnp.mean, {"discriminator_loss": its} | more)

    scalars, grads = optimizer.value_and_grad(loss_fn, state.params, batch, vae.config.accumulate)
    state, norms = vae.optimize.apply(state, "vae", grads["vae"])
    if vae.optimize_second:
        state, _ = vae.optimize_second.apply(state, SECOND, grads[SECOND])
    return state.replace(step=state.step + 1), scalars | norms


def _evaluate(vae: _Vae, state: State, batch: Batch, key: Key) -> Scalars:
    model, c = vae.model, vae.config.vae
    params, index = state.ema["vae"], batch["index"]
    key_x, key_z, key_importance = jax.random.split(key, 3)
    x = model.pixels.observe(batch["image"], key_x, index)
    draws = _draws(vae, params, x, batch, key_z)
    # One value per example: an objective that couples a batch is judged by its bound.
    bound = objectives.elbo(Setting(closed_kl=model.prior.closed_kl))
    objective = bound if vae.objective.couples else vae.objective
    loss, _ = objective.loss(draws, c.beta, state.step)
    kl = jnp.sum(draws.prior.kl(draws.q, draws.z), axis=-1)
    values = {"loss": loss, "reconstruction": jnp.mean(draws.reconstruction, axis=1), "kl": kl}
    values |= pixels.bounds(model.pixels, values["reconstruction"] + kl)
    if num := vae.config.eval.importance_samples:
        log_weight = functools.partial(_log_weight, model, params, x, batch.get("label"), draws)
        nll = elbo.importance_sampled_nll(log_weight, key_importance, index, num)
        values[pixels.named("nll", model.pixels.protocol, model.pixels.told, f"importance_{num}")] = nll
    return values


def _encode(vae: _Vae, state: State, batch: Batch, key: Key) -> Array:
    x = vae.model.pixels.observe(batch["image"], key, batch["index"])
    return vae.model.encode(state.ema["vae"], x, None).mean.reshape(len(x), *vae.model.code_shape)


def _decode(vae: _Vae, state: State, codes: Array, label: Array | None = None) -> Array:
    """The mean image of each code [N, ...] and label: f32 [N, H, W, C] in [-1, 1]."""
    z = codes.reshape(len(codes), -1)
    return 2 * vae.model.pixels.likelihood.mean(vae.model.decode(state.ema["vae"], z, label)) - 1


def _sample(vae: _Vae, state: State, keys: Array, condition: Condition) -> Array:
    z = jax.vmap(vae.model.density(state.ema["vae"]).draw)(keys)
    return _decode(vae, state, z, condition.get("label"))


def _show(vae: _Vae, state: State, key: Key, batch: Batch) -> dict[str, Figure]:
    model, c, label = vae.model, vae.config.vae, batch.get("label")
    key_z, key_scatter = jax.random.split(jax.random.fold_in(key, 1))
    x = model.pixels.observe(batch["image"], key, batch["index"])
    q = autoencoder.encode_in_pieces(functools.partial(model.encode, state.ema["vae"]), x, label)
    prior = model.density(state.ema["vae"])
    z = reparameterise(q, draw(key_z, batch["index"], functools.partial(_noise, model)))
    image_of, some = functools.partial(_decode, vae, state), slice(pictures.NUM_SHOWN)
    rebuilt = image_of(q.mean[some], None if label is None else label[some])
    shown: dict[str, Figure] = {"reconstructions": pictures.reconstructions(2 * x[some] - 1, rebuilt)}
    if c.manifold:
        shown["manifold"] = pictures.manifold(image_of, c.latents)
    if model.num_classes:
        assert label is not None
        several = jax.vmap(prior.draw)(keys_of(key_scatter, jnp.arange(NUM_OF_A_CLASS)))
        shown["classes"] = by_class(image_of, several, vae.spec.class_names or ())
        image_of = _with_class(image_of, label[0])
    inputs = model.prior.pseudo_inputs
    seen = None if inputs is None else inputs(state.ema["vae"]["prior"])
    codes = pictures.codes(image_of, q, z, prior, key_scatter, batch, vae.spec.class_names, seen)
    told = " All are given the class of the first image." if model.num_classes else ""
    return shown | {n: f.replace(caption=f.caption + told) if isinstance(f, Picture) else f for n, f in codes.items()}


def _with_class(image_of: Callable[[Array, Array], Array], label: Array) -> pictures.ImageOf:
    return lambda z: image_of(z, jnp.broadcast_to(label, len(z)))


def _snapshots(vae: _Vae, state: State, key: Key) -> dict[str, Picture]:
    image_of = functools.partial(_decode, vae, state)
    return {"manifold": pictures.manifold(image_of, vae.config.vae.latents, pictures.SNAPSHOT_SIDE)}


def _check(config: Any, model: Autoencoder) -> None:
    c = config.vae
    for name in ("beta", "kl_warmup_steps", "free_bits"):
        if not 0 <= c[name] < float("inf"):
            raise UserError(f"config.vae.{name} is {c[name]}; it must be finite and not negative")
    pixels.refuse_unnormalised(config, model.pixels)
    if c.manifold and not model.prior.closed_kl:
        raise UserError(
            "config.vae.manifold draws points of equal probability of a standard normal prior, but config.vae.prior is "
            f"{c.prior.name}: use --config.vae.manifold=False"
        )
    if c.manifold and c.conditional:
        raise UserError(
            "config.vae.manifold draws one plane, but config.vae.conditional is true, and each class has its own: use "
            "--config.vae.manifold=False"
        )
    if c.manifold and c.latents != pictures.PLANE:
        raise UserError(
            f"config.vae.manifold draws a plane of {pictures.PLANE} latents, but config.vae.latents is {c.latents}; "
            "use --config.vae.manifold=False"
        )


def _noise(model: Autoencoder, key: Key) -> Array:
    return jax.random.normal(key, (model.latents,))


def _log_likelihood(model: Autoencoder, params: PyTree, x: Array, label: Array | None, z: Array) -> Array:
    """log p(x | z): nats [B]."""
    return elbo.sum_over_dimensions(model.pixels.likelihood.log_prob(x, model.decode(params, z, label)))


def _draws(vae: _Vae, params: PyTree, x: Array, batch: Batch, key: Key) -> Draws:
    """Samples of q(z | x), as many as the objective takes, with their -log p(x | z)."""
    model, num, label = vae.model, vae.objective.num_samples, batch.get("label")
    q = model.encode(params, x, label)
    eps = draw(key, batch["index"], lambda one: jax.random.normal(one, (num, model.latents)))
    z = reparameterise(jax.tree.map(lambda y: y[:, None], q), eps)
    xs, labels = jax.tree.map(lambda y: jnp.repeat(y, num, axis=0), (x, label))
    log_likelihood = _log_likelihood(model, params, xs, labels, z.reshape(-1, model.latents))
    return Draws(q, z, -log_likelihood.reshape(-1, num), model.density(params), batch["index"])


def _log_weight(model: Autoencoder, params: PyTree, x: Array, label: Array | None, draws: Draws, keys: Array) -> Array:
    """log p(x, z) - log q(z | x) at a z drawn from q with each of `keys` [B]: nats [B]."""
    z = reparameterise(draws.q, jax.vmap(functools.partial(_noise, model))(keys))
    return _log_likelihood(model, params, x, label, z) + draws.prior.log_ratio(draws.q, z)

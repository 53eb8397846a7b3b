"""Autoregressive models of integers: each place given all places before it, row by row.

The integers are the codes of a first stage (as in VQ-VAE: van den Oord et al. 2017), or grey values of pictures. The
likelihood is exact: log p(x) = sum_i log p(x_i | x_1..x_{i-1}).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gen_jax import optimizer
from gen_jax.autoregressive import domain, pictures
from gen_jax.autoregressive.defaults import CHOICES, NETWORKS, autoregressive_config
from gen_jax.autoregressive.domain import Domain
from gen_jax.config import Measure, Options, modules_of
from gen_jax.method import (
    Array,
    Batch,
    Condition,
    DataSpec,
    Key,
    Method,
    Picture,
    PyTree,
    Scalars,
    Stage,
    State,
    UserError,
    keys_of,
    stream,
    to_model,
)

NUM_PICTURED = 64  # test images, for the mean bits of each place

OPTIONS = Options(
    autoregressive_config,
    "Autoregressive model",
    CHOICES,
    measures={
        "nll": Measure("negative log-likelihood", "nats per image", is_bound=True),
        "bits_per_dim": Measure("bits per dimension", is_bound=True),
        # Of codes: models of different first stages cannot be compared by these.
        "code_nll": Measure("negative log-likelihood of the codes", "nats per image"),
        "bits_per_code": Measure("bits per code"),
    },
)


class _Model(NamedTuple):
    """Everything that the functions of the method need."""

    config: Any
    spec: DataSpec
    domain: Domain
    network: Any  # a module of NETWORKS
    classes: tuple[str, ...]  # class names of a conditional model, or ()
    optimize: optimizer.Optimizer


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns an autoregressive model as a method; see `configs/codes_mnist.py` for its config values.

    Raises:
      UserError: a negative temperature; labels that the data lack; and as for `domain.codes`, `domain.grey_values`.
    """
    c = config.autoregressive
    temperature = config.sample.temperature
    if temperature < 0:
        raise UserError(f"config.sample.temperature is {temperature:g}; it must not be negative")
    if c.conditional and spec.class_names is None:
        raise UserError(f"config.autoregressive.conditional needs labels, and data set {spec.name} has none")
    classes = (spec.class_names or ()) if c.conditional else ()
    of = domain.grey_values(spec, c.levels) if stage is None else domain.codes(stage, c.levels)
    given = {
        "num_values": of.num_values, "grid": of.grid, "num_classes": len(classes),
        "dtype": jnp.dtype(config.compute_dtype),
    }  # fmt: skip
    (network,) = modules_of(config.network, NETWORKS, given)
    model = _Model(config, spec, of, network, classes, optimizer.make(config.optimizer, config.num_steps, config.ema))
    order = {"order": f"{math.prod(of.grid)} places one by one"}
    return Method(
        functools.partial(_init, model),
        functools.partial(_step, model),
        functools.partial(_sample, model),
        functools.partial(_evaluate, model),
        functools.partial(_show, model),
        condition=("label",) if classes else (),
        num_pictured=NUM_PICTURED,
        describe=order if temperature == 1 else order | {"temperature": f"temperature {temperature:g}"},
    )


def _init(model: _Model, key: Key, examples: Batch, frozen: PyTree) -> State:
    no_integers = jnp.zeros((1, *model.domain.grid), jnp.int32)
    label = jnp.zeros(1, jnp.int32) if model.classes else None
    params = model.network.init(stream(key, "init"), model.domain.tokens(no_integers), label)["params"]
    return optimizer.first_state(model.optimize, "prior", key, params, frozen)


def _step(model: _Model, state: State, batch: Batch) -> tuple[State, Scalars]:
    key = jax.random.fold_in(stream(state.key, "step"), state.step)

    def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, Scalars]:
        bits = _bits(model, params, model.domain.read(state.frozen, batch, key), _label(model, batch))
        loss = jnp.mean(bits)
        return loss, {"loss": loss}

    scalars, grads = optimizer.value_and_grad(loss_fn, state.params["prior"], batch, model.config.accumulate)
    state, norms = model.optimize.apply(state, "prior", grads)
    return state.replace(step=state.step + 1), scalars | norms


def _bits(model: _Model, params: PyTree, integers: Array, label: Array | None) -> Array:
    """The bits of each place, given all places before it: f32 [B, h, w]."""
    logits = model.network.apply({"params": params}, model.domain.tokens(integers), label)
    # A sum instead of a look-up, whose gradient is a scatter.
    own = jnp.sum(jnp.where(jnp.arange(model.domain.num_values) == integers[..., None], logits, 0), axis=-1)
    return (jax.nn.logsumexp(logits, axis=-1) - own) / math.log(2)


def _evaluate(model: _Model, state: State, batch: Batch, key: Key) -> Scalars:
    integers = model.domain.read(state.frozen, batch, key)
    bits = jnp.mean(_bits(model, state.ema["prior"], integers, _label(model, batch)), axis=(1, 2))
    nats = bits * (math.log(2) * math.prod(model.domain.grid))
    names = ("code_nll", "bits_per_code") if model.domain.of_codes else ("nll", "bits_per_dim")
    protocol = f"{model.domain.words}{'_given_label' if model.classes else ''}"
    return {"loss": bits, f"{names[0]}/{protocol}": nats, f"{names[1]}/{protocol}": bits}


def _sample(model: _Model, state: State, keys: Array, condition: Condition) -> Array:
    temperature = jnp.full(len(keys), model.config.sample.temperature)
    return model.domain.draw(state.frozen, _integers(model, state, keys, temperature, condition.get("label")))


def _integers(model: _Model, state: State, keys: Array, temperature: Array, label: Array | None) -> Array:
    """Samples i32 [N, h, w] at a temperature each, f32 [N]: the largest of the logits plus Gumbel noise times it."""

    def choose(logits: Array, place: Array) -> tuple[Array, Array]:
        shape = (model.domain.num_values,)
        noise = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, place), shape))(keys)
        chosen = jnp.argmax(logits + temperature[:, None] * noise, axis=-1).astype(jnp.int32)
        return model.domain.tokens(chosen), chosen

    start = jnp.zeros_like(model.domain.tokens(jnp.zeros(len(keys), jnp.int32)))
    return model.network.generate(state.ema["prior"], start, choose, label)


def _show(model: _Model, state: State, key: Key, batch: Batch) -> dict[str, Picture]:
    of, num, rows = model.domain, pictures.NUM_SHOWN, len(pictures.TEMPERATURES)
    label = jnp.tile(jnp.arange(num) % len(model.classes), rows) if model.classes else None
    keys = keys_of(key, jnp.arange(num * rows) % num)
    sampled = _integers(model, state, keys, jnp.repeat(jnp.array(pictures.TEMPERATURES), num), label)
    images = of.draw(state.frozen, sampled)
    test, integers = to_model(batch["image"], model.spec.value_range), of.read(state.frozen, batch, key)
    bits = _bits(model, state.ema["prior"], integers, _label(model, batch))
    shown = {"temperatures": pictures.temperatures(images)}
    if of.of_codes:
        shown["codes"] = pictures.code_maps(sampled[-num:], of.num_values, images[-num:])
        shown["reconstructions"] = pictures.reconstructions(test[:num], of.draw(state.frozen, integers[:num]))
    return shown | {
        "bits": pictures.bits_of_places(test[:num], bits[:num], of.num_values),
        "mean_bits": pictures.mean_bits(jnp.mean(bits, axis=0), of.num_values, model.spec.image_shape, len(bits)),
    }


def _label(model: _Model, batch: Batch) -> Array | None:
    return batch["label"] if model.classes else None

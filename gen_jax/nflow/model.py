"""A normalizing flow as a method: exact likelihoods, samples at a temperature, pictures. The flow itself is given.

`coupling` and `tarflow` differ in their bijection, and in the noise that stands for the rounding of grey values.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from gen_jax import optimizer
from gen_jax.config import Measure
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
    State,
    UserError,
    keys_of,
    stream,
    to_model,
)
from gen_jax.metrics.likelihood import bits_per_dim, dequantised
from gen_jax.nflow import pictures
from gen_jax.nflow.bijection import Bijection, log_density
from gen_jax.nflow.noise import Noise

MEASURES = {
    "nll": Measure("negative log density", "nats per image", is_bound=True),
    "bits_per_dim": Measure("bits per dimension", is_bound=True),
    "noise_power": Measure("mean square of z, 1 in a flow that fits"),
}

Way: TypeAlias = Callable[[PyTree, Array, "Array | None"], Sequence[Array]]
"""From (params, z, label) to what lies between noise and pictures, both included: each f32 [N, H, W, C]."""


class _Flow(NamedTuple):
    """Everything that the functions of the method need."""

    config: Any
    spec: DataSpec
    bijection: Bijection
    noise: Noise
    shape: tuple[int, ...]  # of z
    classes: tuple[str, ...]  # class names of a conditional model, or ()
    way: Way | None
    optimize: optimizer.Optimizer


def make(
    config: Any,
    spec: DataSpec,
    bijection: Bijection,
    noise: Noise,
    shape: tuple[int, ...],
    classes: tuple[str, ...],
    way: Way | None = None,
    order: str = "",
) -> Method:
    """Returns a flow as a method.

    Args:
      config: complete.
      spec: of the data, pictures.
      bijection: from pictures f32 [B, H, W, C], about in [-1, 1], to z f32 [B, *shape].
      noise: that it is trained with.
      shape: of z, with as many numbers as a picture.
      classes: names of the classes that it is conditioned on, or ().
      way: what the report shows of the way from noise to pictures; None for nothing.
      order: in which a picture is sampled, in words; "" if in one pass.

    Raises:
      UserError: a negative temperature.
    """
    temperature = config.sample.temperature
    if temperature < 0:
        raise UserError(f"config.sample.temperature is {temperature:g}; it must not be negative")
    optimize = optimizer.make(config.optimizer, config.num_steps, config.ema)
    flow = _Flow(config, spec, bijection, noise, shape, classes, way, optimize)
    told = {"order": order, "temperature": "" if temperature == 1 else f"temperature {temperature:g}"}
    return Method(
        functools.partial(_init, flow),
        functools.partial(_step, flow),
        functools.partial(_sample, flow),
        functools.partial(_evaluate, flow),
        functools.partial(_show, flow),
        condition=("label",) if classes else (),
        describe={name: words for name, words in told.items() if words},
    )


def refuse_other_than_pictures(config: Any, spec: DataSpec) -> None:
    """Raises a UserError if the data are not pictures."""
    if spec.kind != "image":
        raise UserError(f"{config.method} needs pictures; data set {spec.name} holds {spec.kind}")


def classes_of(config: Any, spec: DataSpec) -> tuple[str, ...]:
    """Returns the classes that a model is conditioned on, or ().

    Raises:
      UserError: the config asks for labels, and the data have none.
    """
    if not config[config.method].conditional:
        return ()
    if spec.class_names is None:
        raise UserError(f"config.{config.method}.conditional needs labels, and data set {spec.name} has none")
    return spec.class_names


def width_of(spec: DataSpec) -> float:
    """Returns the width of a grey value on the scale of [-1, 1].

    Example:
      >>> width_of(DataSpec("binary", (8, 8, 1), 64, value_range=(0, 1)))
      2.0
    """
    low, high = spec.value_range
    return 2 / (high - low)


def range_of(spec: DataSpec) -> tuple[float, float, int]:
    """Returns the ends of the interval of pixels with uniform noise, and the number of grey values in it.

    Example:
      >>> range_of(DataSpec("binary", (8, 8, 1), 64, value_range=(0, 1)))
      (-2.0, 2.0, 2)
    """
    end = 1 + width_of(spec) / 2
    return -end, end, round(2 / width_of(spec)) + 1


def _init(flow: _Flow, key: Key, examples: Batch, frozen: PyTree) -> State:
    root = stream(key, "init")
    x = flow.noise.add(_image(flow, examples), keys_of(root, examples["index"]), width_of(flow.spec))
    params = flow.bijection.init(jax.random.fold_in(root, len(x)), x, _label(flow, examples))
    return optimizer.first_state(flow.optimize, "flow", key, params, frozen)


def _step(flow: _Flow, state: State, batch: Batch) -> tuple[State, Scalars]:
    key = jax.random.fold_in(stream(state.key, "step"), state.step)

    def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, Scalars]:
        x = flow.noise.add(_image(flow, batch), keys_of(key, batch["index"]), width_of(flow.spec))
        nats, z = log_density(flow.bijection, params, x, _label(flow, batch))
        loss = jnp.mean(_bits(flow, -nats))
        return loss, {"loss": loss, "noise_power": jnp.mean(jnp.square(z))}

    scalars, grads = optimizer.value_and_grad(loss_fn, state.params["flow"], batch, flow.config.accumulate)
    state, norms = flow.optimize.apply(state, "flow", grads)
    return state.replace(step=state.step + 1), scalars | norms


def _evaluate(flow: _Flow, state: State, batch: Batch, key: Key) -> Scalars:
    params, x0, label, keys = state.ema["flow"], _image(flow, batch), _label(flow, batch), keys_of(key, batch["index"])
    width = width_of(flow.spec)

    def nll(x: Array) -> Array:
        return -log_density(flow.bijection, params, x, label)[0]

    loss, nats = nll(flow.noise.add(x0, keys, width)), nll(dequantised(x0, keys, width))
    protocol = f"uniform_dequantisation_of_{range_of(flow.spec)[-1]}_levels{'_given_label' if flow.classes else ''}"
    return {"loss": _bits(flow, loss), f"nll/{protocol}": nats, f"bits_per_dim/{protocol}": _bits(flow, nats)}


def _sample(flow: _Flow, state: State, keys: Array, condition: Condition) -> Array:
    return _images_at(flow, state, flow.config.sample.temperature * _draw(flow, keys), condition.get("label"))


def _draw(flow: _Flow, keys: Array) -> Array:
    return jax.vmap(lambda key: jax.random.normal(key, flow.shape))(keys)


def _images_at(flow: _Flow, state: State, z: Array, label: Array | None) -> Array:
    """The images of noise z [N, *shape]: f32 [N, H, W, C] in [-1, 1]."""
    params = state.ema["flow"]
    x = flow.bijection.inverse(params, z, label)
    return jnp.clip(flow.noise.remove(lambda x: log_density(flow.bijection, params, x, label)[0], x), -1, 1)


def _show(flow: _Flow, state: State, key: Key, batch: Batch) -> dict[str, Picture]:
    z = _draw(flow, keys_of(key, jnp.arange(pictures.NUM_SHOWN)))
    label = jnp.arange(pictures.NUM_SHOWN) % len(flow.classes) if flow.classes else None
    x, labels = _image(flow, batch), _label(flow, batch)

    def encode(x: Array, label: Array | None) -> Array:
        return flow.bijection.forward(state.ema["flow"], x, label)[0]

    def decode(z: Array, label: Array | None) -> Array:
        # Noise is added to no end of a way, so none is removed.
        return jnp.clip(flow.bijection.inverse(state.ema["flow"], z, label), -1, 1)

    shown = {} if flow.way is None else {"way": pictures.way(flow.way(state.ema["flow"], z, label))}
    return shown | {
        "temperatures": pictures.temperatures(functools.partial(_images_at, flow, state), z, label),
        "interpolation": pictures.interpolation(encode, decode, x, labels),
    }


def _image(flow: _Flow, batch: Batch) -> Array:
    return to_model(batch["image"], flow.spec.value_range)


def _label(flow: _Flow, batch: Batch) -> Array | None:
    return batch["label"] if flow.classes else None


def _bits(flow: _Flow, nats: Array) -> Array:
    """Bits per dimension of a negative log density on the scale of [-1, 1]."""
    return bits_per_dim(nats, math.prod(flow.spec.image_shape), 1 / width_of(flow.spec))

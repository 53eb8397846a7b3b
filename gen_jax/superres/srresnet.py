"""SRResNet (Ledig et al. 2017): a residual network that makes pictures larger, trained on a content loss."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_jax import optimizer
from gen_jax.config import Config, Options
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
    Upscale,
)
from gen_jax.superres import content, network, upscaling
from gen_jax.superres.upscaling import Parts


def srresnet_config() -> Config:
    """Returns the defaults: the network of the paper, trained on pixels.

    Example:
      >>> config = srresnet_config()
      >>> config.network.blocks, config.superres.content.name, config.data.reduce
      (16, 'pixels', 4)
    """
    config = upscaling.superres_config("srresnet")
    config.network = ConfigDict(network.CHOICE.start("srresnet"))
    return config


OPTIONS = Options(
    srresnet_config,
    "SRResNet",
    {"network": network.CHOICE, "superres.content": content.CHOICE},
    measures=upscaling.MEASURES,
)


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns SRResNet as a method; see `configs/srresnet_t91.py` for its config values.

    Raises:
      UserError: an invalid value, or data without smaller copies of its pictures.
    """
    parts = upscaling.assemble(config, spec, config.network)

    def sample(state: State, keys: Array, condition: Condition) -> Array:
        return upscaling.sampled(parts, state.ema, condition["small"])

    def evaluate(state: State, batch: Batch, key: Key) -> Scalars:
        found = upscaling.evaluate(parts, state, batch, upscaling.sampled(parts, state.ema, batch["small"]))
        return {"loss": found.pop("content")} | found

    def pictures(state: State, key: Key, batch: Batch) -> dict[str, Picture]:
        return upscaling.figure(
            parts.spec, parts.factor, batch, {"SRResNet": upscaling.sampled(parts, state.ema, batch["small"])}
        )

    return Method(
        functools.partial(_init, parts),
        functools.partial(_step, parts),
        sample,
        evaluate,
        pictures,
        condition=("small",),
        num_pictured=upscaling.NUM_PICTURED,
        upscale=Upscale(
            parts.factor, parts.generator.reach, lambda state, small: upscaling.sampled(parts, state.ema, small)
        ),
        describe={"content": f"trained on {parts.content.words}"},
    )


def _init(parts: Parts, key: Key, examples: Batch, frozen: PyTree) -> State:
    params, variables = upscaling.init(parts, key, examples)
    state = optimizer.first_state(parts.optimize, "generator", key, params, frozen, variables)
    return state.replace(ema=state.ema | {"generator_variables": variables["generator"]})


def _step(parts: Parts, state: State, batch: Batch) -> tuple[State, Scalars]:
    def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, PyTree]:
        made, variables = upscaling.generate(parts, params, state.variables["generator"], batch["small"])
        loss = jnp.mean(parts.content.loss(state.variables["content"], upscaling.truth_of(parts, batch), made))
        return loss, ({"loss": loss}, variables)

    params = state.params["generator"]
    (scalars, variables), grads = optimizer.value_and_grad(loss_fn, params, batch, parts.config.accumulate)
    state, norms = upscaling.update(parts, state, grads, variables)
    return state.replace(step=state.step + 1), scalars | norms

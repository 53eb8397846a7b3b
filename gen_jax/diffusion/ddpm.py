"""Denoising diffusion (Ho et al. 2020) with any schedule, prediction, weighting and sampler of this room.

One denoiser is made here, in one place, and both training and sampling ask it: the network sees
`level.time`, and the prediction turns its output into x0_hat.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gen_jax import optimizer
from gen_jax.config import require_choice
from gen_jax.diffusion import pictures
from gen_jax.diffusion import prediction as predictions
from gen_jax.diffusion import sampler as samplers
from gen_jax.diffusion import schedule as schedules
from gen_jax.diffusion import weighting as weightings
from gen_jax.diffusion.unet import UNet
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
    to_model,
)

MAX_TIMESTEPS = 1_000_000  # more would cost memory and change nothing
NUM_SHOWN = 9  # images whose way from noise the report shows


def make(config: Any, spec: DataSpec) -> Method:
    """Returns DDPM as a method; see `configs/ddpm_mnist.py` for what it reads of a config.

    Raises:
      UserError: an unknown name, eps-prediction of pure noise, labels asked of a data set without.
    """
    c = config.diffusion
    _check(config, spec)
    schedule = schedules.SCHEDULES[c.schedule](c.num_timesteps, c.zero_terminal_snr)
    prediction = predictions.PREDICTIONS[c.prediction]
    predictions.check(prediction, schedule)
    weighting = weightings.WEIGHTINGS[c.weighting]()
    sampler = _sampler(config.sample)
    steps = schedule.steps(config.sample.num_steps, config.sample.spacing)
    network = UNet(
        out_channels=spec.image_shape[-1],
        num_classes=(spec.num_classes or 0) if c.conditional else 0,
        dtype=jnp.dtype(config.compute_dtype),
        **config.network,
    )
    optimize = optimizer.make(config.optimizer, config.num_steps, config.ema)

    def init(key: Key) -> State:
        x = jnp.zeros((1, *spec.image_shape))
        variables = network.init(stream(key, "init"), x, jnp.zeros(1), label=_no_label(x) if c.conditional else None)
        params = {"denoiser": variables["params"]}
        return State(
            step=jnp.zeros((), jnp.int32),
            key=key,
            params=params,
            variables={},
            opt_state={"denoiser": optimize.init(params["denoiser"])},
            ema=jax.tree.map(jnp.copy, params),
            frozen={},
        )

    def losses(params: PyTree, batch: Batch, t: Array, key_noise: Key, key_dropout: Key | None) -> Array:
        """Weighted squared error, mean over pixels: f32 [B]."""
        x0 = to_model(batch["image"], spec.value_range)
        eps = draw(key_noise, batch["index"], lambda k: jax.random.normal(k, spec.image_shape))
        level = schedule.level(t)
        x_t = schedules.add_noise(x0, eps, level)
        output: Array = network.apply(  # pyright: ignore[reportAssignmentType]
            {"params": params},
            x_t,
            level.time,
            label=batch["label"] if c.conditional else None,
            index=batch["index"],
            train=key_dropout is not None,
            rngs=None if key_dropout is None else {"dropout": key_dropout},
        )
        error = jnp.mean((output - prediction.target(x0, eps, level)) ** 2, axis=(1, 2, 3))
        return weighting(level, prediction.name) * error

    def sample_times(key: Key, index: Array) -> Array:
        """Times i32 [B], each uniform over 0..T-1, spread evenly over the global batch.

        One uniform number a step, shifted by each example's share of the batch (Kingma et al. 2021, VDM,
        appendix I.1): the loss of a batch varies less than with independent times.
        """
        u = jax.random.uniform(key) + index / config.batch_size
        return jnp.minimum(((u % 1.0) * schedule.num_steps).astype(jnp.int32), schedule.num_steps - 1)

    def step(state: State, batch: Batch) -> tuple[State, Scalars]:
        key = jax.random.fold_in(stream(state.key, "step"), state.step)
        key_noise, key_time, key_dropout = jax.random.split(key, 3)

        def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, Scalars]:
            t = sample_times(key_time, batch["index"])
            loss = jnp.mean(losses(params, batch, t, key_noise, key_dropout))
            return loss, {"loss": loss}

        scalars, grads = optimizer.value_and_grad(loss_fn, state.params["denoiser"], batch, config.accumulate)
        state, norms = optimize.apply(state, "denoiser", grads)
        return state.replace(step=state.step + 1), scalars | norms

    def evaluate(state: State, batch: Batch, key: Key) -> Scalars:
        key_noise, key_time = jax.random.split(key)
        t = draw(key_time, batch["index"], lambda k: jax.random.randint(k, (), 0, schedule.num_steps))
        return {"loss": losses(state.ema["denoiser"], batch, t, key_noise, None)}

    def denoiser(state: State, label: Array | None) -> Callable[[Array, schedules.Level], Array]:
        def denoise(x_t: Array, level: schedules.Level) -> Array:
            output: Array = network.apply(  # pyright: ignore[reportAssignmentType]
                {"params": state.ema["denoiser"]}, x_t, level.time, label=label
            )
            return prediction.to_x0(output, x_t, level)

        return samplers.clipped(denoise) if config.sample.clip else denoise

    def sample(state: State, keys: Array, label: Array | None) -> Array:
        return samplers.sample(denoiser(state, label), schedule, sampler, steps, keys, spec.image_shape)

    def show(state: State, key: Key, batch: Batch) -> dict[str, Picture]:
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(NUM_SHOWN))
        label = jnp.arange(NUM_SHOWN) % network.num_classes if c.conditional else None
        how = f"{len(steps)} {config.sample.sampler} steps with {config.sample.spacing} spacing"
        end = " with zero terminal SNR" if c.zero_terminal_snr else ""
        under = f"{c.schedule.replace('_', ' ')} schedule of {c.num_timesteps} steps{end}"
        eps = jax.random.normal(key, spec.image_shape)
        return {
            "forward": pictures.forward(to_model(batch["image"][0], spec.value_range), eps, schedule, under),
            **pictures.reverse(denoiser(state, label), schedule, sampler, steps, keys, spec.image_shape, how),
        }

    return Method(init, step, sample, evaluate, show, conditional=c.conditional)


def _check(config: Any, spec: DataSpec) -> None:
    c = config.diffusion
    require_choice("diffusion.schedule", c.schedule, schedules.SCHEDULES)
    require_choice("diffusion.prediction", c.prediction, predictions.PREDICTIONS)
    require_choice("diffusion.weighting", c.weighting, weightings.WEIGHTINGS)
    require_choice("sample.sampler", config.sample.sampler, samplers.SAMPLERS)
    least = 1 + c.zero_terminal_snr
    if not least <= c.num_timesteps <= MAX_TIMESTEPS:
        raise UserError(
            f"config.diffusion.num_timesteps is {c.num_timesteps}; it must be {least} or more, at most {MAX_TIMESTEPS}"
        )
    if spec.dtype != "uint8":
        raise UserError(f"ddpm needs pictures of bytes; data set {spec.name} has {spec.dtype}")
    if c.conditional and spec.num_classes is None:
        raise UserError(f"config.diffusion.conditional needs labels, and data set {spec.name} has none")


def _sampler(c: Any) -> samplers.Sampler:
    """The sampler of `config.sample`; its parameters are the config values of the same names."""
    factory = samplers.SAMPLERS[c.sampler]
    return factory(**{name: c[name] for name in inspect.signature(factory).parameters})


def _no_label(x: Array) -> Array:
    return jnp.full(x.shape[:1], -1, jnp.int32)

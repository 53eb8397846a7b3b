"""Optimizers from a config, and `apply`: mean over devices, clip, update, EMA.

optax does the work, except for Muon's; this module adds the order of operations and the moving average of the
parameters used for sampling. `value_and_grad` averages gradients over minibatches.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gen_jax import muon, parallel
from gen_jax.method import Array, Batch, Key, PyTree, Scalars, State, UserError

LossFn = Callable[[PyTree, Batch], tuple[Array, PyTree]]


class Optimizer(NamedTuple):
    """The part of an optimizer that a method uses.

    Attributes:
      init: params -> optimizer state.
      apply: (state, network's name, its gradients) -> (state with that network's params, optimizer state
        and EMA updated, scalars {"grad_norm", "learning_rate"}). Does not increment the step.
    """

    init: Callable[[PyTree], PyTree]
    apply: Callable[[State, str, PyTree], tuple[State, Scalars]]


class Drift(NamedTuple):
    """How values of an optimizer move during training.

    Attributes:
      rate: 0-based step -> f32 [], a factor of the learning rate, besides its warm-up and decay.
      b2: (b2 of the config, 0-based step) -> f32 [], or None: it stays.
      ema: (decay of the config, 0-based step) -> f32 [], the decay of the moving average.
    """

    rate: Callable[[Array], Array | float]
    b2: Callable[[float, Array], Array] | None
    ema: Callable[[float, Array], Array | float]


STILL = Drift(lambda step: 1.0, None, lambda decay, step: decay)


def _adam(rate: optax.Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8):
    return optax.adam(rate, b1=b1, b2=b2, eps=eps)


def _adamw(rate: optax.Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0):
    return optax.adamw(rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)


def _sgd(rate: optax.Schedule, b1: float = 0.9):
    return optax.sgd(rate, momentum=b1 or None)


def _rmsprop(rate: optax.Schedule, b2: float = 0.999, eps: float = 1e-8):
    return optax.rmsprop(rate, decay=b2, eps=eps)


def _muon(rate: optax.Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8):
    """Muon (Jordan et al. 2024) for kernels, reshaped to matrices [inputs, outputs]; Nadam for the rest.

    Muon replaces a kernel's momentum by the nearest (nearly) orthogonal matrix, so that steps have the same length in
    all directions. The rest is trained at a tenth of the rate.
    """
    return muon.muon(rate, lambda step: 0.1 * rate(step), b1, b2, eps)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": _adam,
    "adamw": _adamw,
    "muon": _muon,
    "sgd": _sgd,
    "rmsprop": _rmsprop,
}
"""From a name to (rate, values of `config.optimizer`) -> optax gradient transformation."""

COMMON = {
    "learning_rate": 2e-4,
    "clip_norm": 1.0,  # 0: none
    "warmup_steps": 0,
    "decay": {"name": "none"},  # or linear, cosine: to zero at num_steps
}
"""Values of `config.optimizer` that every optimizer has."""


def _constant(peak: float, steps: int) -> optax.Schedule:
    return optax.constant_schedule(peak)


def _linear(peak: float, steps: int, share: float = 1.0) -> optax.Schedule:
    return optax.linear_schedule(peak, 0.0, steps)


def _cosine(peak: float, steps: int, share: float = 1.0) -> optax.Schedule:
    return optax.cosine_decay_schedule(peak, steps)


DECAYS: dict[str, Callable[..., optax.Schedule]] = {"none": _constant, "linear": _linear, "cosine": _cosine}
"""From a name to (peak, steps of the decay) -> rate; `share` is the final fraction of the run in which it decays."""


def learning_rate(config: Any, num_steps: int) -> optax.Schedule:
    """Returns step -> learning rate: linear warm-up, a plateau, then decay to zero at `num_steps`.

    Args:
      config: `config.optimizer`: learning_rate, warmup_steps and decay: `name` ("none", "linear", "cosine") and
        `share`, the final fraction of the run in which the rate decays.
      num_steps: length of the run.

    Example:
      >>> import ml_collections
      >>> c = ml_collections.ConfigDict(dict(learning_rate=1.0, warmup_steps=10, decay=dict(name="linear", share=0.5)))
      >>> rate = learning_rate(c, 100)
      >>> [round(float(rate(s)), 6) for s in (0, 9, 50, 75, 100)]
      [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    warm = optax.linear_schedule(config.learning_rate / max(1, config.warmup_steps), config.learning_rate,
                                 max(1, config.warmup_steps - 1))  # fmt: skip
    decay_steps = max(1, min(round(num_steps * config.decay.get("share", 1.0)), num_steps - config.warmup_steps))
    return optax.join_schedules(
        [
            warm,
            optax.constant_schedule(config.learning_rate),
            DECAYS[config.decay.name](config.learning_rate, decay_steps),
        ],
        [config.warmup_steps, max(config.warmup_steps, num_steps - decay_steps)],
    )


def first_state(
    optimize: Optimizer, network: str, key: Key, params: PyTree, frozen: PyTree, variables: PyTree | None = None
) -> State:
    """Returns the State at the start of a method that trains one network.

    Args:
      optimize: its optimizer.
      network: its name in the State.
      key: of the run.
      params: of the network.
      frozen: of a first stage.
      variables: what is not trained by gradients; None for nothing.
    """
    return State(
        step=jnp.zeros((), jnp.int32),
        key=key,
        params={network: params},
        variables={} if variables is None else variables,
        opt_state={network: optimize.init(params)},
        ema={network: jax.tree.map(jnp.copy, params)},
        frozen=frozen,
    )


def ema_decay(step: Array | int, decay: Array | float) -> Array:
    """Returns the decay of the moving average at 0-based `step`: min(decay, step / (step + 10)).

    The warm-up discards the random initialisation at once (the first decay is 0). Early in a run, the average
    covers about the last tenth of its steps.

    Example:
      >>> [round(float(ema_decay(s, 0.99)), 3) for s in (0, 10, 10_000)]
      [0.0, 0.5, 0.99]
    """
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, step / (step + 10.0))


def moving_average(average: PyTree, new: PyTree, step: Array | int, decay: Array | float) -> PyTree:
    """Returns the moving average after 0-based `step`, with the decay of `ema_decay`; both trees have one structure.

    Example:
      >>> float(moving_average(jnp.float32(0), jnp.float32(4), 10, 0.99))
      2.0
    """
    keep = ema_decay(step, decay)
    return jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, average, new)


def make(config: Any, num_steps: int, ema: float, drift: Drift = STILL) -> Optimizer:
    """Returns the optimizer of a config.

    Args:
      config: `config.optimizer`: `name`, its parameters, clip_norm (0: none) and what `learning_rate` reads.
      num_steps: length of the run in steps.
      ema: decay of the moving average, 0 <= ema < 1; 0 keeps a plain copy.
      drift: how values move during training; without a b2 in `config`, its own must be None.

    Raises:
      UserError: an invalid value.
    """
    if not 0 <= ema < 1:
        raise UserError(f"config.ema is {ema}: the decay of a moving average must be in [0, 1)")
    if not 0 < (share := config.decay.get("share", 1.0)) <= 1:
        raise UserError(f"config.optimizer.decay.share is {share}: it must be in (0, 1]")
    rate = learning_rate(config, num_steps)
    factory = OPTIMIZERS[config.name]
    own = {key: config[key] for key in inspect.signature(factory).parameters if key != "rate"}
    transform = factory(rate, **own)

    def init(params: PyTree) -> PyTree:
        return transform.init(params)

    def apply(state: State, network: str, grads: PyTree) -> tuple[State, Scalars]:
        grads = parallel.mean_over_devices(grads)
        norm = optax.global_norm(grads)
        if config.clip_norm:
            factor = jnp.minimum(1.0, config.clip_norm / jnp.maximum(norm, 1e-12))
            grads = jax.tree.map(lambda g: g * factor, grads)
        now = transform if drift.b2 is None else factory(rate, **own | {"b2": drift.b2(own["b2"], state.step)})
        updates, opt_state = now.update(grads, state.opt_state[network], state.params[network])
        # The learning rate is the last factor of every update.
        moved = drift.rate(state.step)
        updates = updates if drift is STILL else jax.tree.map(lambda u: moved * u, updates)
        params = optax.apply_updates(state.params[network], updates)
        if len(state.params) > 1:  # the update of another network may read them in the same step
            params = parallel.whole(params)
        state = state.replace(params=state.params | {network: params}, opt_state=state.opt_state | {network: opt_state})
        if network in state.ema:
            average = moving_average(state.ema[network], params, state.step, drift.ema(ema, state.step))
            state = state.replace(ema=state.ema | {network: average})
        return state, {"grad_norm": norm, "learning_rate": jnp.asarray(moved * rate(state.step), jnp.float32)}

    return Optimizer(init, apply)


def value_and_grad(loss_fn: LossFn, params: PyTree, batch: Batch, minibatches: int) -> tuple[PyTree, PyTree]:
    """Returns (scalars, gradients) of the mean loss over a batch, in `minibatches` pieces.

    Args:
      loss_fn: (params, batch) -> (loss f32 [], scalars or any other tree of arrays), all means over their batch.
      params: the variables of the gradient.
      batch: leaves [B, ...], or [minibatches, B / minibatches, ...] if minibatches > 1.
      minibatches: gradient accumulation; 1 for none.
    """
    grad_fn = jax.grad(loss_fn, has_aux=True)
    if minibatches == 1:
        grads, scalars = grad_fn(params, batch)
        return scalars, grads

    def add(total, minibatch):
        return jax.tree.map(jnp.add, total, grad_fn(params, minibatch)), None

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(grad_fn, params, jax.tree.map(lambda x: x[0], batch))
    )
    total, _ = parallel.loop(add, zeros, batch)
    grads, scalars = jax.tree.map(lambda x: x / minibatches, total)
    return scalars, grads

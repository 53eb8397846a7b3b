"""What a diffusion model is trained for: an `Objective` is a process, and a loss of networks on it.

`denoising` is that of DDPM, flow matching and EDM. Models that sample in a few steps have others: meanflow.py,
consistency.py, distilled.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from gen_jax import optimizer
from gen_jax.diffusion import process as processes
from gen_jax.method import Array, PyTree, State


class Drawn(NamedTuple):
    """A batch, and the random numbers of its examples.

    Attributes:
      x0: the data, f32 [B, H, W, C].
      eps: standard normal noise of the same shape.
      t: times drawn from the density of the process, [B].
      uniform: purpose -> f32 [B] in [0, 1), independent of all else.
      label: i32 [B], -1 where it is dropped; or embeddings of texts f32 [B, D], 0 where dropped; or None.
      state: of the run, for objectives that look at other weights or at the step.
    """

    x0: Array
    eps: Array
    t: Array
    uniform: Callable[[int], Array]
    label: Array | None
    state: State


class Losses(NamedTuple):
    """Of each example, f32 [B].

    Attributes:
      trained: what training minimises.
      shown: what is logged and evaluated, where `trained` says little about progress.
    """

    trained: Array
    shown: Array


Networks = Callable[..., processes.Network]
"""From weights and labels i32 [B] (None without) to a network; `still=True` gives it without dropout.

One batch has one dropout mask in all calls."""


class Objective(NamedTuple):
    """What a model is trained for.

    Attributes:
      process: on which networks are trained and sampled.
      loss: (networks, weights that get the gradient, `Drawn`) -> `Losses`.
      denoises: whether x0_hat is the mean of the data given x_t, which guidance, likelihoods and editing need.
      drift: how the optimizer's values move.
    """

    process: processes.Process
    loss: Callable[[Networks, PyTree, Drawn], Losses]
    denoises: bool = True
    drift: optimizer.Drift = optimizer.STILL


def denoising(config: Any) -> Objective:
    """Returns the weighted squared error of the prediction, as `config.diffusion` describes it.

    Raises:
      UserError: see `process.make`.
    """
    process = processes.make(config)

    def loss(networks: Networks, params: PyTree, drawn: Drawn) -> Losses:
        found = process.loss(networks(params, drawn.label), drawn.x0, drawn.eps, drawn.t)
        return Losses(found, found)

    return Objective(process, loss)


def squared_error(found: Array, target: Array) -> Array:
    """Returns the squared error of each example, summed over its pixels: f32 [B] for [B, ...].

    Example:
      >>> squared_error(jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.zeros((2, 2))).tolist()
      [5.0, 0.0]
    """
    return jnp.sum((found - target) ** 2, axis=tuple(range(1, found.ndim)))

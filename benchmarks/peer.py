"""Common parts of the PyTorch peers: their fields, the second half of a train step, and the check of equal networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from clu.parameter_overview import count_parameters
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gen_jax.config import Choice
from gen_jax.method import PyTree


def fields_of(network: Mapping[str, Any], choice: Choice, peer: Callable[..., Any]) -> dict[str, Any]:
    """Returns the values of `config.network` that a peer takes.

    Args:
      network: `name` and its values.
      choice: the choice that it comes from.
      peer: factory of the same network in PyTorch.

    Raises:
      ValueError: the peer does not support a value other than the default.
    """
    takes, defaults = inspect.signature(peer).parameters, choice.parameters(network["name"])
    fields = {key: value for key, value in network.items() if key != "name"}
    for key, value in fields.items():
        if key not in takes and value != defaults[key]:
            raise ValueError(f"this peer supports only network.{key}={defaults[key]}, not {value}")
    return {key: value for key, value in fields.items() if key in takes}


def make_update(config: Any, network: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns loss -> loss; a call computes and clips gradients, and updates `network` and its moving average.

    It uses Adam, and PyTorch's forms for all parameters at once. Unlike in ours, the learning rate is constant. The
    loss stays on its device, so that an accelerator need not wait for it.
    """
    c, parameters = config.optimizer, list(network.parameters())
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
    adam = torch.optim.Adam(parameters, lr=c.learning_rate, betas=(c.b1, c.b2), eps=c.eps, fused=True)

    def update(loss: torch.Tensor) -> torch.Tensor:
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, c.clip_norm, foreach=True)
        adam.step()
        average.update_parameters(network)
        return loss.detach()

    return update


def check_equal(params: PyTree, network: torch.nn.Module, ours: np.ndarray, theirs: np.ndarray) -> str:
    """Returns a sentence that both networks and their outputs are equal, or raises an AssertionError."""
    count = count_parameters(params)
    assert sum(p.numel() for p in network.parameters()) == count
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    assert difference < 1e-4, difference
    return f"{count:,} parameters in both; outputs differ by {difference:.0e} of the largest"

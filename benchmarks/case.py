"""What the benchmarks of networks compare: a network, ours and in PyTorch, as calls that return when they are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import torch

from benchmarks import timing
from gen_jax import xla

OURS = {"gen_jax": "true"}  # with values of config.fast_compile_options
if not xla.is_set():  # otherwise the whole process has the option already
    OURS["gen_jax, XLA's defaults"] = "false"
Call = Callable[[], object]


class Case(NamedTuple):
    """The contenders of one network.

    Attributes:
      about: what was checked, line by line.
      batch: of the train step and the sampler.
      flops: of our train step, before optimisation.
      steps: by contender, a complete train step.
      draws: by contender, a few steps of the sampler; {} for models that sample in one pass.
      calls_a_turn: before the next contender's turn.
    """

    about: Sequence[str]
    batch: int
    flops: float
    steps: dict[str, Call]
    draws: dict[str, Call] = {}  # noqa: RUF012  never changed
    calls_a_turn: int = timing.CALLS_A_TURN


def flops(step: Callable[..., Any], *inputs: Any) -> float:
    """Returns the FLOPs of a function, as XLA counts them in the program before optimisation."""
    cost: Any = jax.jit(step).lower(*inputs).cost_analysis()
    return float(cost.get("flops", 0.0))


def compiled(network: torch.nn.Module, *example: torch.Tensor) -> Callable[..., Any] | None:
    """Returns a network under torch.compile, or None, after a line that says why, where that does not work."""
    try:
        forward = torch.compile(network)
        outputs = forward(*example)
        sum(each.sum() for each in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()
    except Exception as error:  # of the compiler, of a missing C++ compiler
        print(f"torch.compile does not work here: {str(error).splitlines()[0][:200]}")
        return None
    network.zero_grad(set_to_none=True)
    return forward

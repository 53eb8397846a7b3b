"""Robust timing on a shared machine: contenders take turns, and medians are compared."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from importlib import metadata
from typing import TypeVar

import jax
import numpy as np

CALLS_A_TURN = 3
Name = TypeVar("Name", bound=Hashable)


def alternate(
    calls: Mapping[Name, Callable[[], object]], rounds: int, calls_a_turn: int = CALLS_A_TURN
) -> dict[Name, float]:
    """Returns the median seconds of each call. In every round, each contender has a turn of `calls_a_turn` calls.

    A call must return only when its work is done. The first round is a warm-up, including compilation.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    for counted in [False] + [True] * rounds:
        for name, call in calls.items():
            for _ in range(calls_a_turn):
                start = time.perf_counter()
                call()
                if counted:
                    seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table; all columns but the first are right-aligned.

    Example:
      >>> print(table(["what", "ms"], [["a", "1.0"]]))
      | what | ms |
      | --- | ---: |
      | a | 1.0 |
    """
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def machine(*packages: str) -> str:
    """Returns one line: processor, cores, device and versions."""
    device = jax.devices()[0]
    kind = _processor() if device.platform == "cpu" else device.device_kind
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "flax", *packages))
    return f"{kind}, {num_cores()} cores; Python {platform.python_version()}, {versions}"


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

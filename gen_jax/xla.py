"""The one XLA option that this project needs on a CPU, set or requested before JAX starts.

jaxlib 0.10.2 computes wrong sums on CPUs by default: its YNNPACK fusions lose rows of a reduction
(tests/test_xla.py shows it in five lines). If only single matrix products are fused, the sums are right.
The option could be passed to each program that this project compiles itself, but not to calls outside of `jit`, nor to
`pmap`. So it is set for the whole process, in `XLA_FLAGS`, which XLA reads when JAX makes its first array.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import warnings

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
SAFE = f"{FLAG}=INDIVIDUAL_DOT"
WRONG = ("0.10.2",)  # versions of jaxlib
COMMANDS = ("gen_jax", "experiments", "benchmarks")  # packages whose modules are commands of this project


def is_set() -> bool:
    """Returns whether XLA_FLAGS holds a value of the option, ours or another."""
    return FLAG in os.environ.get("XLA_FLAGS", "")


def needed() -> bool:
    """Returns whether the installed jaxlib computes wrong sums, and nothing was set to prevent it."""
    if is_set():
        return False
    try:
        return importlib.metadata.version("jaxlib") in WRONG
    except importlib.metadata.PackageNotFoundError:
        return False


def start() -> None:
    """Sets the option if this process is one of our commands, else warns. Called when gen_jax is imported."""
    if not needed():
        return
    if is_command():
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {SAFE}".strip()
        return
    warnings.warn(
        f"jaxlib {importlib.metadata.version('jaxlib')} computes wrong sums on CPUs unless XLA_FLAGS holds {SAFE}: set "
        "it before JAX makes its first array, or install another version",
        stacklevel=3,
    )


def is_command(words: list[str] | None = None) -> bool:
    """Returns whether a command line, that of this process by default, runs a command of this project.

    Example:
      >>> is_command(["python", "-m", "gen_jax.main", "--config=x"]), is_command(["python", "-m", "pytest"])
      (True, False)
    """
    words = sys.orig_argv if words is None else words
    module = words[words.index("-m") + 1 :][:1] if "-m" in words else []
    return bool(module) and module[0].partition(".")[0] in COMMANDS

"""Train steps and samplers of our networks beside the same networks in PyTorch, in one table.

    python -m benchmarks [ddpm_mnist vae_mnist ...] [--rounds=20]

Contenders take turns within one process, because only ratios from one machine at one time are meaningful: ours as
`--mode=train` compiles it, PyTorch eager in both its layouts and under torch.compile. Ratios are to the fastest of
PyTorch's. The share of the peak is that of the machine's own rate for a large f32 matmul in JAX.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from benchmarks import ddpm, gan, timing, torch_dit, torch_unet, vae
from benchmarks.case import Case
from gen_jax.method import did_you_mean

CASES: dict[str, Callable[[], Case]] = {
    "ddpm_mnist": functools.partial(ddpm.make, [], torch_unet.UNet, torch_unet.copy_parameters),
    "dit": functools.partial(ddpm.make, ddpm.DIT, torch_dit.DiT, torch_dit.copy_parameters),
    **{name: functools.partial(vae.make, name) for name in vae.CONFIGS},
    **{name: functools.partial(gan.make, name) for name in gan.SHAPES},
    "cifar_unet": functools.partial(
        ddpm.make,
        [*ddpm.CIFAR_UNET, "--config.batch_size=4"],
        torch_unet.UNet,
        torch_unet.copy_parameters,
        ddpm.CIFAR,
        1,
    ),
}


def peak(size: int = 2048, calls: int = 9) -> float:
    """Returns the FLOPs per second of a large matmul in f32."""
    a = jnp.ones((size, size))
    product = jax.jit(lambda a: a @ a)
    seconds = timing.alternate({"": lambda: product(a).block_until_ready()}, calls, 1)[""]
    return 2 * size**3 / seconds


def measure(name: str, rounds: int) -> list[list[str]]:
    """Prints what was checked; returns the rows of the table: the train step, and the sampler if there is one."""
    case = CASES[name]()
    print(f"{name}, batch {case.batch}: {'; '.join(case.about)}", flush=True)
    rate = peak()
    steps = timing.alternate(case.steps, rounds, case.calls_a_turn)
    share = f"{case.flops / steps['gen_jax'] / rate:.0%}"
    rows = [row(f"{name}, train step", steps, [f"{case.flops / 1e9:.1f}", share])]
    if case.draws:
        draws = timing.alternate(case.draws, rounds, case.calls_a_turn)
        rows.append(row(f"{name}, {ddpm.SAMPLER_STEPS} sampler steps", draws, ["", ""]))
    return rows


COLUMNS = ("gen_jax", "gen_jax, XLA's defaults", "PyTorch, NCHW", "PyTorch, channels_last", "PyTorch, compiled")


def row(what: str, seconds: Mapping[str, float], more: list[str]) -> list[str]:
    """Returns a row of the table.

    Example:
      >>> row("x", {"gen_jax": 0.009, "PyTorch, NCHW": 0.01, "PyTorch, channels_last": 0.02}, [])
      ['x', '9.0', '', '10.0', '20.0', '', '0.90']
    """
    best = min(value for name, value in seconds.items() if name.startswith("PyTorch"))
    shown = [f"{1000 * seconds[name]:.1f}" if name in seconds else "" for name in COLUMNS]
    return [what, *shown, f"{seconds['gen_jax'] / best:.2f}", *more]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--rounds", type=int, default=20, help="turns per contender")
    flags = parser.parse_args()
    for name in flags.names:
        if name not in CASES:
            parser.error(f"there is no benchmark {name!r}; {did_you_mean(name, CASES)}there are {', '.join(CASES)}")
    print(timing.machine("torch"))
    rows = [each for name in flags.names or CASES for each in measure(name, flags.rounds)]
    print(timing.table(["median, ms", *COLUMNS, "ratio", "GFLOP", "share of peak"], rows))


if __name__ == "__main__":
    main()

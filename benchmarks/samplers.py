"""Samplers and guidance of configs/ddpm_mnist.py beside the network calls that they are made of.

    python -m benchmarks.samplers [--rounds=5] [--small]

Every sampler at its defaults, and one compiled call of the network with the same batch, take turns within one process.
The last column is the time of the samples over that of as many network calls: 1.00 means that drawing noise, the steps
and the loop cost nothing. Guidance is measured beside the same sampler without it, and beside calls with twice the
batch. Weights are random. `--small` tries the script, with a network too small for its figures to mean anything.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from gen_jax import methods, parallel
from gen_jax.config import modules_of
from gen_jax.diffusion.model import NETWORKS
from gen_jax.diffusion.solvers import SAMPLERS
from gen_jax.method import DataSpec, State, labelled

NUM_STEPS, NUM_STEPS_SMALL = (10, 25, 50), (3,)
SPEC, SPEC_SMALL = (DataSpec("noise", (size, size, 1), 60_000, labelled("0123456789")) for size in (28, 8))
SMALL = [f"--config.{word}" for word in (
    "batch_size=4", "network.channels=8", "network.multipliers=(1,)", "network.attention_sizes=()",
)]  # fmt: skip
Call = Callable[[], object]


class Job(NamedTuple):
    """A model with random weights, and the words of its config."""

    words: Sequence[str]
    spec: DataSpec
    state: State
    config: Any


def make_job(words: Sequence[str], spec: DataSpec) -> Job:
    """Returns the guided main job, for it is trained to be sampled with and without guidance."""
    config = configured(words)
    state = parallel.init_state(methods.make(config, spec).init, 0, parallel.make_mesh(1), {}, {})
    noisy = jax.tree.map(lambda p: p + 0.02 * np.random.default_rng(p.size).normal(size=p.shape), state.ema)
    return Job(words, spec, state.replace(ema=jax.tree.map(jnp.float32, noisy)), config)  # no layer is zero


def configured(words: Sequence[str]) -> Any:
    """Returns the config of the main job with label dropout, and with the values of some words."""
    config = methods.override(methods.load("ddpm_mnist:guided")[2], ["--config.sample.guidance=1.0", *words])
    methods.check(config)
    return config


def options_of(config: Any) -> dict[str, Any]:
    """Returns the compiler options with which the project's commands sample."""
    return parallel.compiler_options(config.fast_compile_options)


def draw_of(job: Job, words: Sequence[str]) -> Call:
    """Returns a call that draws a batch, as the words of a command line say."""
    config = configured([*job.words, *words])
    draw = jax.jit(methods.make(config, job.spec).sample, compiler_options=options_of(config))
    keys = jax.random.split(jax.random.key(1), config.batch_size)
    condition = {"label": jnp.arange(config.batch_size) % 10}
    return lambda: jax.block_until_ready(draw(job.state, keys, condition))


def network_of(job: Job, batch: int, repeats: int) -> Call:
    """Returns a call that runs the network on a batch, as often as told, one after another."""
    given = {"out_channels": 1, "num_classes": 10, "dtype": jnp.dtype(job.config.compute_dtype)}
    (module,) = modules_of(job.config.network, NETWORKS, given)

    def apply(params: Any, x: Any, told: Any, label: Any) -> Any:
        return module.apply({"params": params}, x, told, label=label)

    compiled = jax.jit(apply, compiler_options=options_of(job.config))
    x = jax.random.normal(jax.random.key(2), (batch, *job.spec.image_shape))
    told, label = jnp.linspace(0.0, 999.0, batch), jnp.arange(batch) % 10

    def call() -> None:
        for _ in range(repeats):
            jax.block_until_ready(compiled(job.state.ema["denoiser"], x, told, label))

    return call


def measure_samplers(job: Job, num_steps: int, rounds: int) -> list[list[str]]:
    """Returns a row of the table for each sampler."""
    batch = job.config.batch_size
    words = [f"--config.sample.num_steps={num_steps}"]
    draws = {name: draw_of(job, [f"--config.sample.sampler={name}", *words]) for name in SAMPLERS}
    seconds = timing.alternate({"": network_of(job, batch, num_steps), **draws}, rounds, 1)
    one = seconds.pop("") / num_steps
    rows = []
    for name, taken in seconds.items():
        calls = SAMPLERS[name]().calls(num_steps)
        shown = (f"{1000 * taken:.0f}", f"{batch / taken:.1f}", f"{taken / (calls * one):.2f}")
        rows.append([f"{name}, {num_steps} steps", str(calls), *shown])
    return rows


def measure_guidance(job: Job, num_steps: int, rounds: int) -> list[list[str]]:
    """Returns a row for the config's sampler with guidance, and one without."""
    batch, words = job.config.batch_size, [f"--config.sample.num_steps={num_steps}"]
    seconds = timing.alternate(
        {
            "without": draw_of(job, words),
            "with": draw_of(job, [*words, "--config.sample.guidance=2.0"]),
            "batch": network_of(job, batch, num_steps),
            "twice": network_of(job, 2 * batch, num_steps),
        },
        rounds,
        1,
    )
    rows = []
    for name, network in (("without", "batch"), ("with", "twice")):
        shown = (f"{1000 * seconds[name]:.0f}", f"{batch / seconds[name]:.1f}")
        ratios = (f"{seconds[name] / seconds[network]:.2f}", f"{seconds[name] / seconds['without']:.2f}")
        rows.append([f"{name} guidance, {num_steps} {job.config.sample.sampler.name} steps", *shown, *ratios])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.samplers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns per contender")
    parser.add_argument("--small", action="store_true", help="a tiny network and few steps")
    flags = parser.parse_args()
    job = make_job(SMALL, SPEC_SMALL) if flags.small else make_job([], SPEC)
    print(f"{timing.machine()}; batch {job.config.batch_size}", flush=True)
    num_steps = NUM_STEPS_SMALL if flags.small else NUM_STEPS
    rows = [row for n in num_steps for row in measure_samplers(job, n, flags.rounds)]
    print(timing.table(["sampler", "network calls", "ms", "images/s", "time / its calls"], rows), flush=True)
    guided = measure_guidance(job, num_steps[len(num_steps) // 2], flags.rounds)
    print(timing.table(["", "ms", "images/s", "time / its calls", "time / without"], guided))


if __name__ == "__main__":
    main()

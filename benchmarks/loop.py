"""The overhead of the loop, the data and the start-up relative to the train step, and whether host memory is constant.

    python -m benchmarks.loop [--num_steps=10000]

The loop is measured with a step so small that the loop's own time is visible, and reported as a share of the main
job's step. The start-up of the main job needs its data (TFDS_DATA_DIR) and is omitted if that is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks import timing
from benchmarks.case import flops
from gen_jax import methods, parallel, train, writers
from gen_jax.checkpoint import Checkpoints
from gen_jax.data.dataset import Batches, Dataset
from gen_jax.method import DataSpec, labelled
from gen_jax.run import Run

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "ddpm_mnist.py"
TINY = ["--config.batch_size=4", "--config.network.multipliers=(1,)", "--config.network.attention_sizes=()",
        "--config.eval.num_examples=16", "--config.sample.num_steps=4"]  # fmt: skip
MIB = 2**20


def made_up(num_examples: int, shape: tuple[int, int, int]) -> Dataset:
    """Returns images of noise."""
    images = np.random.default_rng(0).integers(0, 256, (num_examples, *shape), np.uint8)
    splits = {"image": images, "label": np.arange(num_examples, dtype=np.int32) % 10}
    return Dataset(DataSpec("noise", shape, num_examples, labelled("0123456789")), splits, splits)


def compile_step(config: Any, data: Dataset) -> tuple[Any, Any, Any]:
    """Returns the compiled step, as training compiles it, with a state and a batch to call it with."""
    method, mesh = methods.make(config, data.spec), parallel.make_mesh()
    executor = parallel.make_executor("jit", mesh, config.fast_compile_options)
    feed, lead = train.make_feed(config, method, data, executor)
    state, batch = train.initial_state(config, method, data, mesh, {}), feed(0)
    return executor.compile_step(method.step, state, batch, lead), state, batch


def make_step(config: Any, data: Dataset):
    """Returns a call that runs the bare compiled step on one batch and waits for the result."""
    update, state, batch = compile_step(config, data)
    held = [state]

    def step() -> object:
        held[0], scalars = update(held[0], batch)
        return jax.block_until_ready((held[0], scalars))

    return step


def make_steps(config: Any, data: Dataset, contenders: Mapping[str, str]) -> dict[str, Callable[[], object]]:
    """Returns `make_step` by contender, each with its value of `config.fast_compile_options`."""
    return {
        name: make_step(methods.override(config, [f"--config.fast_compile_options={fast}"]), data)
        for name, fast in contenders.items()
    }


def flops_of_step(config: Any, data: Dataset) -> float:
    """Returns the FLOPs of the train step, before optimisation."""
    method = methods.make(config, data.spec)
    batch = {**{name: array[: config.batch_size] for name, array in data.train.items()},
             "index": np.arange(config.batch_size, dtype=np.int32)}  # fmt: skip
    abstract = methods.abstract_state(method, data.spec, None, parallel.make_mesh(1))
    return flops(method.step, abstract, batch)


def median_seconds(call, repeats: int) -> float:
    """Returns the median time of a call, after three warm-up calls."""
    seconds = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[3:]))


@contextlib.contextmanager
def watched_memory(every_seconds: float = 0.25) -> Iterator[list[int]]:
    """Yields a growing list of the memory of this process in bytes."""
    sizes: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(every_seconds):
            pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
            sizes.append(pages * os.sysconf("SC_PAGE_SIZE"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sizes
    finally:
        done.set()
        thread.join()


def run_loop(config: Any, data: Dataset) -> tuple[float, list[int]]:
    """Returns the loop's median seconds per step (without pictures and checkpoints) and the memory over time."""
    method = methods.make(config, data.spec)
    mesh = parallel.make_mesh()
    with tempfile.TemporaryDirectory() as folder, watched_memory() as sizes:
        run = Run(folder)
        with Checkpoints(run.checkpoints) as checkpoints, contextlib.redirect_stdout(io.StringIO()):
            abstract = methods.abstract_state(method, data.spec, None, mesh)
            train._loop(config, run, method, data, mesh, checkpoints, abstract, None, {})
        speeds = [row["speed/images_per_second"] for row in writers.read_metrics(folder) if "train/loss" in row]
    return config.batch_size / float(np.median(speeds)), sizes


def seconds_of_import(module: str) -> float:
    """Returns the time that a new interpreter takes to import a module, without its own start-up."""

    def run(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

    times = timing.alternate({"import": lambda: run(f"import {module}"), "nothing": lambda: run("pass")}, 3)
    return times["import"] - times["nothing"]


def seconds_to_first_step(cache: str) -> float | None:
    """Returns the time from the main job's command until its first step has been logged, or None without its data."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gen_jax.main", f"--config={CONFIG}", "--config.log_every=1"]
        start = time.perf_counter()
        with subprocess.Popen(
            [*command, f"--workdir={folder}/run"],
            cwd=ROOT,
            env=os.environ | {"XDG_CACHE_HOME": cache},
            stdout=subprocess.DEVNULL,
        ) as process:
            while process.poll() is None and not _has_logged(f"{folder}/run"):
                time.sleep(0.01)
            seconds = time.perf_counter() - start
            ready = process.poll() is None
            process.kill()
    return seconds if ready else None


def _has_logged(workdir: str) -> bool:
    with contextlib.suppress(OSError):
        return any("train/loss" in row for row in writers.read_metrics(workdir))
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description="Overhead of the loop, the data and the start-up.")
    parser.add_argument("--num_steps", type=int, default=10_000, help="steps of a tiny model through the loop")
    num_steps = parser.parse_args().num_steps
    main_config = methods.load(str(CONFIG))[2]
    words = [f"--config.{name}={num_steps // 20}" for name in ("log_every", "checkpoint_every")]
    words.append(f"--config.eval_every={num_steps}")  # none before the end
    tiny_config = methods.override(
        methods.load(f"{CONFIG}:tiny")[2], [*TINY, f"--config.num_steps={num_steps}", *words]
    )
    digits = made_up(60_000, (28, 28, 1))

    main_step = median_seconds(make_step(main_config, digits), 20)
    tiny_data = made_up(64, (8, 8, 1))
    bare_step = make_step(tiny_config, tiny_data)
    before = median_seconds(bare_step, 500)
    in_loop, sizes = run_loop(tiny_config, tiny_data)
    bare = (before + median_seconds(bare_step, 500)) / 2
    batches = Batches(digits.train, main_config.batch_size, seed=0)
    steps = itertools.count()
    batch = median_seconds(lambda: batches.batch(next(steps)), 1000)
    with tempfile.TemporaryDirectory() as cache:
        starts = [seconds_to_first_step(cache) for _ in range(2)]

    rows = [
        ["main job, bare step", f"{1000 * main_step:.1f} ms"],
        ["tiny model, bare step", f"{1000 * bare:.2f} ms"],
        ["tiny model, step in the loop", f"{1000 * in_loop:.2f} ms"],
        ["the loop's own time, relative to the main job's step", f"{(in_loop - bare) / main_step:.2%}"],
        ["one batch of data", f"{1000 * batch:.3f} ms"],
        ["import gen_jax", f"{seconds_of_import('gen_jax'):.2f} s"],
        *(
            [f"command to the first step, {kind}", f"{s:.1f} s" if s else "no data"]
            for kind, s in zip(("cold", "warm"), starts, strict=True)
        ),
        [f"host memory halfway through {num_steps:,} steps", f"{sizes[len(sizes) // 2] / MIB:,.0f} MiB"],
        ["the same at the end", f"{sizes[-1] / MIB:,.0f} MiB"],
    ]
    print(timing.machine())
    print(timing.table(["", "measured"], rows))


if __name__ == "__main__":
    main()

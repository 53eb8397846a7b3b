"""Whether a change made the train step or the sampler faster or slower: this checkout beside another commit, in turns.

    python -m benchmarks.compare HEAD~1 --config=vae_mnist [--config.batch_size=64]
    python -m benchmarks.compare HEAD --what=sampler --env MALLOC_TRIM_THRESHOLD_=131072

With --env, the other side runs with another environment: the second command shows what it costs to return freed memory
to the system. Each side runs its own code in a process of its own, on images of noise in the shape of the config's
data; the sides take turns of a few steps. Processes differ from each other by more than their steps do, so several
pairs of them run. A change is reported only if the medians of one side's processes are all above those of the other's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import timing
from gen_jax import methods
from gen_jax.data import dataset

ROOT = pathlib.Path(__file__).parents[1]
STEPS_A_TURN = 5
WARM_UP_TURNS = 2

# Runs with the code of either commit, so it uses only what is old. Every line on stdin starts a turn.
SIDE = f"""
import json, sys, time
from benchmarks import loop
from gen_jax import methods
what, config, shape = json.loads(sys.argv[1])
config = methods.override(methods.load(config[0])[2], config[1:])
data = loop.made_up(max(64, config.batch_size), tuple(shape))
if what == "step":
    call = loop.make_step(config, data)
else:
    import jax
    from gen_jax import parallel, train
    method = methods.make(config, data.spec)
    state = train.initial_state(config, method, data, parallel.make_mesh(), {{}})
    keys = jax.random.split(jax.random.key(0), config.batch_size)
    labels = {{name: jax.numpy.zeros(len(keys), "int32") for name in method.condition}}
    sample = jax.jit(method.sample, compiler_options=parallel.compiler_options(config.fast_compile_options))
    call = lambda: jax.block_until_ready(sample(state, keys, labels))
for _ in sys.stdin:
    seconds = []
    for _ in range({STEPS_A_TURN}):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    print("turn", json.dumps(seconds), flush=True)
"""


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[pathlib.Path]:
    """Yields a folder with the files of a commit, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder, "other")
        _git("worktree", "add", "--detach", str(place), commit)
        try:
            yield place
        finally:
            _git("worktree", "remove", "--force", str(place))


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextlib.contextmanager
def side(folder: pathlib.Path, env: Mapping[str, str], task: Sequence[Any]) -> Iterator[subprocess.Popen[str]]:
    """Yields a process that runs the code in `folder`; `task` is what to measure, the config's words and a shape."""
    # "-m benchmarks" does nothing here but mark the process as one of the project's commands, which set XLA_FLAGS.
    words = [sys.executable, "-c", SIDE, json.dumps(task), "-m", "benchmarks"]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=folder, env=os.environ | env, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def turn(process: subprocess.Popen[str]) -> list[float]:
    """Returns the seconds of a few steps."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("turn "):
            return json.loads(line.removeprefix("turn "))
    sys.exit("one side ended: see the error above")


def medians(sides: Mapping[pathlib.Path, Mapping[str, str]], task: Sequence[Any], turns: int) -> list[float]:
    """Returns the median seconds of one process of each side; `sides` maps folders to environments."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(side(folder, env, task)) for folder, env in sides.items()]
        seconds: list[list[float]] = [[] for _ in sides]
        for number in range(WARM_UP_TURNS + turns):
            for process, found in zip(processes, seconds, strict=True):
                values = turn(process)
                if number >= WARM_UP_TURNS:
                    found += values
    return [float(np.median(found)) for found in seconds]


def verdict(this: Sequence[float], other: Sequence[float]) -> str:
    """Returns what the medians of the processes of both sides say.

    Example:
      >>> verdict([0.080, 0.082], [0.100, 0.101])
      'faster: 0.81 of the other'
      >>> verdict([0.080, 0.100], [0.090, 0.101])
      'no change outside the spread'
    """
    ratio = float(np.median(this)) / float(np.median(other))
    if max(this) < min(other):
        return f"faster: {ratio:.2f} of the other"
    if min(this) > max(other):
        return f"slower: {ratio:.2f} of the other"
    return "no change outside the spread"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("commit", help="the other side, as git names it")
    parser.add_argument("--config", default="ddpm_mnist", help="name or path of a config of both commits")
    parser.add_argument("--what", choices=["step", "sampler"], default="step", help="one train step, or one batch")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="set for the other side only")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of processes")
    parser.add_argument("--turns", type=int, default=8, help=f"turns of each process, {STEPS_A_TURN} steps each")
    flags, words = parser.parse_known_args()
    config = methods.override(methods.load(flags.config)[2], words)
    methods.check(config)
    task = [flags.what, [flags.config, *words], list(dataset.load(config.data).spec.image_shape)]
    env = dict(each.split("=", 1) for each in flags.env)
    with checkout(flags.commit) as other:
        pairs = []
        for number in range(flags.pairs):  # the side that starts first may have an advantage
            folders = [ROOT, other][:: 1 if number % 2 == 0 else -1]
            sides = {folder: env if folder == other else {} for folder in folders}
            found = dict(zip(folders, medians(sides, task, flags.turns), strict=True))
            pairs.append((found[ROOT], found[other]))
            shown = f"{1000 * found[ROOT]:.1f} ms, {flags.commit} {1000 * found[other]:.1f} ms"
            print(f"pair {number + 1}: this checkout {shown}", flush=True)
    this, before = zip(*pairs, strict=True)
    rows = [
        [name, f"{1000 * np.median(values):.1f}", f"{1000 * min(values):.1f} to {1000 * max(values):.1f}"]
        for name, values in (("this checkout", this), (flags.commit, before))
    ]
    print(f"{timing.machine()}; {flags.config}, batch {config.batch_size}; medians of {flags.pairs} processes")
    print(timing.table(["", f"{flags.what}, ms", "processes"], rows))
    print(verdict(this, before))


if __name__ == "__main__":
    main()

"""Kills runs with SIGKILL at random moments, resumes them, and compares what comes of it with an undisturbed run.

    python tests/torture.py [--runs=100] [--seed=0] [--jobs=2] [--methods ddpm vae]     (make torture N=100)

Each run is of a method's tiny config on made-up digits. It is killed up to three times: at any moment, while it trains,
or inside the write of a checkpoint; then it ends in peace. Its last State must be the undisturbed one bit by bit, and
so must metrics.jsonl (but for the clocks) and the samples. Exit code 1 where one differs, or fails.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
import PIL.Image
from conftest import made_up_digit
from test_methods import CONFIGS
from test_train import without_times

from gen_jax import sample
from gen_jax.method import UserError
from gen_jax.run import Run
from gen_jax.writers import read_metrics

ROOT = pathlib.Path(__file__).resolve().parents[1]
NUM_STEPS = 40
TINY = ("--config.batch_size=16", f"--config.num_steps={NUM_STEPS}", "--config.log_every=2", "--config.eval_every=20",
        "--config.checkpoint_every=4", "--config.sample.num=20", "--config.sample.batch_size=20",
        "--config.eval.num_examples=20", "--config.eval.classifier_steps=10")  # fmt: skip
MOST_KILLS = 3
LIMIT = 600  # seconds after which a start counts as hanging


class Victim:
    """One process that trains, and the signs of what it is doing."""

    def __init__(self, words: list[str], run: Run):
        self.run = run
        self._record_before = _inode(run.metrics)
        self.log = run.workdir.with_suffix(".log")
        command = [sys.executable, "-m", "gen_jax.main", *words, f"--workdir={run.workdir}"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        self.started = time.monotonic()

    @property
    def age(self) -> float:
        return time.monotonic() - self.started

    @property
    def trains(self) -> bool:
        """Whether the loop has begun: the record is opened anew then."""
        return _inode(self.run.metrics) != self._record_before

    @property
    def writes(self) -> bool:
        """Whether a checkpoint is between its first byte and its place."""
        unfinished = self.run.checkpoints / "unfinished"
        try:
            return any(path.suffix != ".retired" for path in unfinished.iterdir())
        except FileNotFoundError:
            return False

    def wait(self, sign: Callable[[], bool]) -> None:
        """Returns when `sign` is there, or the process has ended."""
        while self.process.poll() is None and not sign():
            if self.age > LIMIT:
                raise UserError(f"{self.run.workdir} hangs; see {self.log}")
            time.sleep(0.001)

    def kill(self, moment: str, share: float, duration: float, training: float) -> str:
        """Kills it; returns what it was doing, or "" if it had ended before.

        Args:
          moment: "any", "training" or "write".
          share: in [0, 1), of the time to let pass.
          duration: of an undisturbed run.
          training: the part of it that is spent in the loop.
        """
        if moment == "any":
            self.wait(lambda: self.age > share * duration)
        else:
            self.wait(lambda: self.trains)
            begun = self.age
            self.wait(lambda: self.age > begun + share * training)
            if moment == "write":
                self.wait(lambda: self.writes)
        self.process.send_signal(signal.SIGKILL)
        if self.end() != -signal.SIGKILL:
            return ""
        if self.writes:
            return "writing a checkpoint"
        if not self.trains:
            return "starting"
        return "sampling or judging" if (self.run.checkpoints / str(NUM_STEPS)).is_dir() else "training"

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # if it still runs, this program was interrupted

    def end(self) -> int:
        """Waits for the end; returns the exit code, which is 0 or that of our signal."""
        self.wait(lambda: False)
        code = self.process.wait()
        if code not in (0, -signal.SIGKILL):
            last = (self.log.read_text().splitlines() or [""])[-1]
            raise UserError(f"{self.run.workdir} ended with exit code {code}: {last}")
        return code


def _inode(path: pathlib.Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def write_pictures(folder: pathlib.Path) -> None:
    """Writes the digits of the tests as a folder of pictures: 256 to train on and 64 to test with."""
    for split, num in (("train", 256), ("test", 64)):
        rng = np.random.default_rng(num)
        for number in range(num):
            path = folder / split / str(number % 10) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(made_up_digit(number % 10, rng)).save(path)


def differences(one: pathlib.Path, two: pathlib.Path) -> Iterator[str]:
    """Yields the names of what differs between two finished runs."""

    def bits(leaf: jax.Array) -> bytes:
        data = jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        return np.asarray(data).tobytes()

    states = [jax.tree_util.tree_leaves_with_path(sample.load(workdir).state) for workdir in (one, two)]
    for (path, a), (_, b) in zip(*states, strict=True):
        if bits(a) != bits(b):
            yield jax.tree_util.keystr(path, simple=True, separator="/")
    if without_times(read_metrics(one)) != without_times(read_metrics(two)):
        yield "metrics.jsonl"
    if not np.array_equal(*(np.load(workdir / "samples.npz")["arr_0"] for workdir in (one, two))):
        yield "samples.npz"


def torture(
    method: str, runs: int, seed: int, jobs: int, folder: pathlib.Path
) -> Iterator[tuple[list[str], list[str]]]:
    """Yields, for each run of one method, what it was doing when it was killed and what differs in the end.

    `jobs` runs are under way at once.
    """
    file, more = CONFIGS[method]
    words = [f"--config={ROOT / file}", *more, *TINY, f"--config.data.name=image_folder:{folder / 'pictures'}"]
    calm = Run(folder / method / "calm")
    calm.workdir.parent.mkdir()
    with Victim(words, Run(folder / method / "first")) as first:  # it fills the caches
        first.end()
    with Victim(words, calm) as victim:
        victim.end()
        duration = victim.age
    times = [record["time"] for record in read_metrics(calm.workdir)]

    def one(number: int) -> tuple[list[str], list[str]]:
        # json: a seed of words and numbers, the same on any machine.
        rng = np.random.default_rng(list(json.dumps([method, seed, number]).encode()))
        run, kills = Run(folder / method / str(number)), []
        try:
            for _ in range(rng.integers(1, MOST_KILLS + 1)):
                moment = rng.choice(["any", "training", "write"], p=[0.2, 0.4, 0.4])
                with Victim(words, run) as victim:
                    kills.append(victim.kill(moment, rng.random(), duration, times[-1] - times[0]))
            with Victim(words, run) as victim:
                victim.end()
            found = list(differences(calm.workdir, run.workdir))
        except UserError as error:
            found = [str(error)]
        if not found:
            shutil.rmtree(run.workdir)
        return [kill for kill in kills if kill], found

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(one, range(runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, help="of each method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--methods", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    flags = parser.parse_args()

    folder = pathlib.Path(tempfile.mkdtemp(prefix="torture-"))
    # One device; programs and the classifier are kept, so that a start takes seconds.
    os.environ |= {"XLA_FLAGS": "--xla_backend_optimization_level=0", "XDG_CACHE_HOME": str(folder / "cache")}
    write_pictures(folder / "pictures")
    total, bad = collections.Counter(), 0
    for method in flags.methods:
        for number, (kills, found) in enumerate(torture(method, flags.runs, flags.seed, flags.jobs, folder)):
            total.update(kills)
            bad += bool(found)
            killed, other = (", ".join(names) or "nothing" for names in (kills, found))
            print(f"{method} {number}: killed while {killed}; what differs: {other}", flush=True)
    doing = ", ".join(f"{count} {kill}" for kill, count in total.most_common())
    print(f"{total.total()} kills ({doing}) of {flags.runs} runs each of {', '.join(flags.methods)}: {bad} differ")
    if bad:
        print(f"what differs is kept in {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()

"""Rendering speed of dSprites, and whether batches are ready before the train step needs them.

    python -m benchmarks.dsprites

One thread renders a batch; in the loop, four threads prefetch while the step runs.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib

import numpy as np

from benchmarks import loop, timing
from gen_jax import methods
from gen_jax.data import dataset, dsprites

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "beta_vae_dsprites.py"
NUM_DRAWN = 8192  # images


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dsprites", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help="turns per contender, three calls each")
    rounds = parser.parse_args().rounds
    config = methods.load(str(CONFIG))[2]
    data = dataset.load(config.data)
    factors = np.random.default_rng(0).integers(dsprites.FACTOR_SIZES, size=(NUM_DRAWN, len(dsprites.FACTORS)))
    batches, steps = dataset.Batches(data.train, config.batch_size, seed=0), itertools.count()
    seconds = timing.alternate(
        {
            "draw": lambda: dsprites.draw(factors),
            "batch": lambda: batches.batch(next(steps)),
            "step": loop.make_step(config, data),
        },
        rounds,
    )
    rows = [
        ["images rendered per second, one thread", f"{NUM_DRAWN / seconds['draw']:,.0f}"],
        [f"one batch of {config.batch_size}, with its order and factors", f"{1000 * seconds['batch']:.2f} ms"],
        ["train step of configs/beta_vae_dsprites.py", f"{1000 * seconds['step']:.1f} ms"],
        ["batch / step", f"{seconds['batch'] / seconds['step']:.1%}"],
    ]
    print(timing.machine())
    print(timing.table(["", "measured"], rows))


if __name__ == "__main__":
    main()

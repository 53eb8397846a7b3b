"""What a report of six scalars costs the training loop: the record and TensorBoard, and each tracker that is installed.

    python -m benchmarks.trackers [--reports=200]

The goal is below 1 ms. W&B is offline, MLflow writes to a local store, and "none" is a tracker that does nothing. Shown
is the time until the loop goes on, and the time a report until each tracker has taken all of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time

import numpy as np

from benchmarks import timing
from gen_jax import trackers
from gen_jax.run import Run
from gen_jax.writers import Writer

SCALARS = {"train/loss": 0.1, "train/grad_norm": 1.0, "train/learning_rate": 1e-3, "train/update_norm": 0.01,
           "speed/images_per_second": 1e3, "seconds": 60.0}  # fmt: skip
NOTHING = trackers.Kind("json", lambda *_: trackers.Tracker("id", *[lambda *_: None] * 4))


def measure(names: str, reports: int) -> tuple[float, float]:
    """Returns the median seconds of a report, and the mean seconds until the trackers have taken one.

    Args:
      names: as in `config.trackers`.
      reports: to make.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        seconds = []
        run, seed = Run(folder), {"seed": 0}
        with trackers.tracking(names, run, seed) as tracked, Writer(folder, 0, "mnist", [tracked]) as writer:
            began = time.perf_counter()
            for step in range(1, reports + 1):
                start = time.perf_counter()
                writer.write(step, SCALARS)
                seconds.append(time.perf_counter() - start)
        taken = time.perf_counter() - began
        os.chdir("/")
    return float(np.median(seconds)), taken / reports


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trackers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--reports", type=int, default=200, help="to make of each")
    reports = parser.parse_args().reports
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    installed = [name for name, kind in trackers.TRACKERS.items() if importlib.util.find_spec(kind.package)]
    trackers.TRACKERS["none"] = NOTHING
    rows = [("", "the record and TensorBoard"), ("none", "and a tracker that does nothing")]
    rows += [(name, f"and {name}") for name in installed]
    print(timing.machine())
    shown = [[title, *(f"{1000 * each:.3f}" for each in measure(names, reports))] for names, title in rows]
    print(timing.table(["six scalars", "ms until the loop goes on", "ms until all are taken"], shown))


if __name__ == "__main__":
    main()

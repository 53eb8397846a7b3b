"""Noise schedules that end in pure noise, and one that keeps a trace of the data, with v prediction.

    python -m experiments.schedules    # two seeds of six runs of 2,000 steps of a small network

Runs are in runs/schedules; what is finished is not repeated.
"""

from __future__ import annotations

from experiments import ablation
from experiments.ablation import Row
from gen_jax import command

SCHEDULES = ("linear", "scaled_linear", "cosine", "sigmoid_beta", "sigmoid_abar")
RUNS = {name.replace("_", "-"): (f"--config.diffusion.schedule={name}",) for name in SCHEDULES} | {
    "cosine-with-signal": ("--config.diffusion.schedule.zero_terminal_snr=false",)
}


ABLATION = ablation.Ablation(
    name="schedules",
    about=(__doc__ or "").split("\n")[0],
    words=("--config.network.channels=16", "--config.num_steps=2000"),
    runs=RUNS,
    rows={name: Row(name) for name in RUNS},
    folder="schedules",
    seeds=2,
    num=1_000,
)

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

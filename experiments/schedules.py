"""Noise schedules that end in pure noise, and one that keeps a trace of the data, with v prediction.

    python -m experiments.schedules    # two seeds of six runs of 2,000 steps of a small network

The run that keeps a trace of the data is one of experiments.predictions. Runs are in runs/small; what is finished is
not repeated.
"""

from __future__ import annotations

from experiments import ablation, predictions
from experiments.ablation import Row
from gen_jax import command

SCHEDULES = ("linear", "scaled_linear", "cosine", "sigmoid_beta", "sigmoid_abar")
RUNS = {name.replace("_", "-"): (f"--config.diffusion.schedule={name}",) for name in SCHEDULES}


ABLATION = ablation.Ablation(
    name="schedules",
    about=(__doc__ or "").split("\n")[0],
    words=predictions.WORDS,
    runs=RUNS | {"v-common": predictions.RUNS["v-common"]},
    rows={name: Row(name) for name in RUNS} | {"cosine-with-signal": Row("v-common")},
    folder="small",
    seeds=2,
    num=1_000,
)

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

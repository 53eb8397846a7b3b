"""Predictions eps, x, v and velocity of the same network, with one loss weighting and each with its own.

    python -m experiments.predictions    # two seeds of seven runs of 2,000 steps of a small network

The path is a cosine schedule that keeps a trace of the data in its last level, because eps needs one. The common
weighting is that of v, SNR + 1 on x. Runs are in runs/small; what is finished is not
repeated.
"""

from __future__ import annotations

from experiments import ablation
from experiments.ablation import Row
from gen_jax import command

WORDS = ("--config.network.channels=16", "--config.num_steps=2000")
SIGNAL = "--config.diffusion.schedule.zero_terminal_snr=false"
PREDICTIONS = ("eps", "x", "v", "velocity")
COMMON = "v"


def words(prediction: str, weighting: str) -> tuple[str, ...]:
    """Returns the words of a run.

    Example:
      >>> words("eps", "v")
      ('--config.diffusion.schedule.zero_terminal_snr=false', '--config.diffusion.prediction=eps',
       '--config.diffusion.weighting=v')
    """
    return SIGNAL, f"--config.diffusion.prediction={prediction}", f"--config.diffusion.weighting={weighting}"


RUNS = {f"{each}-common": words(each, COMMON) for each in PREDICTIONS} | {
    f"{each}-own": words(each, each) for each in PREDICTIONS if each != COMMON
}


ABLATION = ablation.Ablation(
    name="predictions",
    about=(__doc__ or "").split("\n")[0],
    words=WORDS,
    runs=RUNS,
    rows={name: Row(name) for name in RUNS},
    folder="small",
    seeds=2,
    num=1_000,
)

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

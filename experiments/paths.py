"""DDPM, flow matching, EDM and the variance-preserving path: one network, one number of steps, 25 network calls.

    python -m experiments.paths    # three seeds of four runs of 2,000 steps of a small network

Each path has the prediction, weighting, density of times and levels that its paper or its config here has. All are
sampled with 13 steps of Heun's method; DDPM also with its own 25 ancestral steps. The runs of DDPM are those of the
cosine in experiments.schedules. Runs are in runs/small; what is finished is not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from experiments import ablation, predictions, runs
from experiments.ablation import Row
from gen_jax import command, methods
from gen_jax.config import flatten

ITS_OWN = ("diffusion.", "sample.spacing.")  # what a path brings along


def of_config(name: str) -> tuple[str, ...]:
    """Returns the words that give `ddpm_mnist` the path of another config, and what belongs to it.

    Example:
      >>> "--config.diffusion.schedule=straight" in of_config("flow_mnist")
      True
    """
    config, ours = (methods.load(f"{runs.ROOT}/configs/{each}.py")[2] for each in (name, "ddpm_mnist"))
    return tuple(_words(flatten(config), flatten(ours)))


def _words(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    for key, value in theirs.items():
        if key.startswith(ITS_OWN) and ours.get(key) != value:
            yield f"--config.{key.removesuffix('.name')}={value}"


HEUN = ("--config.sample.sampler=heun", "--config.sample.num_steps=13")
RUNS: dict[str, tuple[str, ...]] = {
    "DDPM": (),
    "flow matching": of_config("flow_mnist"),
    "EDM": of_config("edm_mnist"),
    "variance preserving": ("--config.diffusion.schedule=variance_preserving",),
}
FOLDERS = {name: name.lower().replace(" ", "-") for name in RUNS} | {"DDPM": "cosine"}

ABLATION = ablation.Ablation(
    name="paths",
    about=(__doc__ or "").split("\n")[0],
    words=predictions.WORDS,
    runs={FOLDERS[name]: words for name, words in RUNS.items()},
    rows={
        "DDPM, ancestral": Row("cosine", ("--config.sample.sampler=ancestral", "--config.sample.num_steps=25")),
        **{f"{name}, Heun": Row(FOLDERS[name], HEUN) for name in RUNS},
    },
    folder="small",
    num=1_000,
)

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

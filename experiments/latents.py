"""Pixels, and the latents of three kinds of autoencoder: what a diffusion model of each costs, and how good it gets.

    python -m experiments.latents    # three seeds of four runs, three of them of two stages; 1,000 samples a row

The autoencoders are those of `latent_mnist:adversarial`, alike but for their latents: plain numbers, a posterior with a
small KL divergence, vectors of a codebook. Their minutes count as those of the diffusion model: about half of a row's.
The lengths are such that by the time of single steps all rows take equally long, about 15 minutes with one core to
itself (`--parallel 2`); the table has the actual minutes. PSNR is that of test
images after encoding and decoding. Runs are in runs/latents; what is finished is not repeated.
"""

from __future__ import annotations

import pathlib

from experiments import ablation
from experiments.ablation import QUALITY, Found, Row, Values, means
from gen_jax import command, sample
from gen_jax.data import dataset
from gen_jax.figures.markup import number
from gen_jax.run import Run
from gen_jax.writers import read_metrics, training_seconds

KINDS = {"plain latents": "plain", "KL latents": "kl", "codebook latents": "vq"}
LENGTHS = (
    "--config.pretrained.num_steps=1500", "--config.pretrained.autoencoder.adversarial.start=750",
    "--config.num_steps=4500",
)  # fmt: skip
RUNS: dict[str, tuple[str, ...]] = {
    "pixels": ("--config.num_steps=6000",),
    **{kind: (f"--config.pretrained.autoencoder.latents={kind}", *LENGTHS) for kind in KINDS.values()},
}


def of_run(workdir: pathlib.Path, model: sample.Model, data: dataset.Dataset) -> Values:
    """Returns the minutes of training of all stages, and the PSNR of the first stage if there is one."""
    stages = [each for each in (workdir / "pretrained", workdir) if Run(each).metrics.is_file()]
    minutes = sum(training_seconds(read_metrics(each)) for each in stages) / 60
    quality = {name: value for name, value in ablation.losses(model, data).items() if name == "psnr"}
    return {"minutes": minutes} | quality


def verdict(found: Found) -> str:
    """Returns one line: every row's Frechet distance with the minutes that it took, the best first.

    Example:
      >>> values = {"frechet_distance": 3.0, "minutes": 9.5}
      >>> verdict({("pixels", 0): values, ("KL latents", 0): {"frechet_distance": 4.25, "minutes": 8.0}})
      'Frechet distance: pixels 3 in 9.5 minutes, KL latents 4.25 in 8 minutes.'
    """
    quality, cost = means(found, "frechet_distance"), means(found, "minutes")
    told = [
        f"{name} {number(quality[name], 3)} in {number(cost[name], 2)} minutes"
        for name in sorted(quality, key=quality.__getitem__)
    ]
    return f"Frechet distance: {', '.join(told)}."


ABLATION = ablation.Ablation(
    name="latents",
    about=(__doc__ or "").split("\n")[0],
    words=(),
    config="latent_mnist.py:adversarial",
    configs={"pixels": "ddpm_mnist.py"},
    runs=RUNS,
    rows={"pixels": Row("pixels"), **{name: Row(kind) for name, kind in KINDS.items()}},
    measures=("frechet_distance", "class_agreement", "recall", "psnr", "images_per_second"),
    of_run=of_run,
    verdict=verdict,
    figure=ablation.panels(
        QUALITY,
        ("minutes", "Cost of training", "minutes, left is better"),
        ("images_per_second", "Speed", "images/s, right is better"),
    ),
    folder="latents",
    num=1_000,
)

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

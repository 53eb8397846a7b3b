"""How many of the 1,000 modes of stacked digits GANs find, at their last and at their best checkpoint.

    python -m experiments.stacked    # three seeds of R3GAN, one of the others; 26,000 samples a row

The networks of DCGAN and WGAN-GP are those of the configs for MNIST at half their widths, because a step of WGAN-GP
trains its critic five times; R3GAN's are smaller, and stay whole. All train for about the same minutes. Modes are told
by a classifier of single digits, channel by channel; the reverse KL is that of the samples' shares from equal shares of
all modes. The Frechet distance uses a classifier of rotations, since the pictures have no labels. Runs are in
runs/stacked; what is finished is not repeated.
"""

from __future__ import annotations

from typing import Any

from experiments import ablation
from experiments.ablation import QUALITY, Found, Values, means
from gen_jax import command, judges
from gen_jax.data import dataset
from gen_jax.figures.markup import number

CONFIGS = {"dcgan": "dcgan_mnist.py", "wgan_gp": "wgan_gp_mnist.py", "r3gan": "r3gan_mnist.py"}
NUM_STEPS = {"dcgan": 44_600, "wgan_gp": 9_250, "r3gan": 15_000}  # of 39, 188 and 116 ms on one core: equal minutes
SEEDS = {"dcgan": 1, "wgan_gp": 1}
NAMES = {"DCGAN": "dcgan", "WGAN-GP": "wgan_gp", "R3GAN": "r3gan"}
HALVED = ("--config.network.generator_channels=(64,32)", "--config.network.channels=(32,64)")
WORDS = {
    "dcgan": HALVED,
    "wgan_gp": HALVED,
    "r3gan": ("--config.gan.conditional=false", "--config.gan.penalty.weight=10"),  # stacked digits: no labels
}


def measure(samples: judges.Samples, data: dataset.Dataset, config: Any) -> tuple[Values, Values]:
    """Returns the modes that samples show, their reverse KL, and what the classifier says; and those of real images."""
    rows = judges.judge_by_channels(config, data, samples) + judges.judge_by_classifier(config, data, samples).rows
    return ablation.plain(rows, len(samples.images))


def verdict(found: Found) -> str:
    """Returns one line: the row with the most modes, and how far training went past the best checkpoint.

    Example:
      >>> worse = {"modes_found": 300.0, "reverse_kl": 2.5}
      >>> better = {"modes_found": 900.0, "reverse_kl": 0.5}
      >>> verdict({("DCGAN", 0): worse, ("DCGAN, best checkpoint", 0): better})
      'Most modes: DCGAN, best checkpoint (900 of 1,000, reverse KL 0.5 nats). From best to last: DCGAN 900 to 300.'
    """
    modes, divergence = means(found, "modes_found"), means(found, "reverse_kl")
    most = max(modes, key=modes.__getitem__)
    told = f"Most modes: {most} ({number(modes[most], 3)} of 1,000, reverse KL {number(divergence[most], 3)} nats)."
    both = [
        f"{name} {number(modes[best], 3)} to {number(modes[name], 3)}"
        for name in modes
        if (best := f"{name}, best checkpoint") in modes
    ]
    return f"{told} From best to last: {'; '.join(both)}." if both else told


ABLATION = ablation.Ablation(
    name="stacked",
    about=(__doc__ or "").split("\n")[0],
    words=(
        "--config.data.name=stacked:mnist",
        "--config.eval_every=500",
    ),
    configs=CONFIGS,
    runs={name: (*WORDS[name], f"--config.num_steps={steps}") for name, steps in NUM_STEPS.items()},
    rows={name: row._replace(seeds=SEEDS.get(row.run)) for name, row in ablation.last_and_best(NAMES).items()},
    measures=("modes_found", "reverse_kl", "frechet_distance", "precision", "recall"),
    measure=measure,
    verdict=verdict,
    figure=ablation.panels(
        ("modes_found", "Modes", "of 1,000, right is better"),
        ("reverse_kl", "Evenness", "reverse KL, left is better"),
        QUALITY,
    ),
    folder="stacked",
    num=26_000,
)

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

"""AC-GAN against a conditional GAN on CIFAR-10, at equal minutes of training.

    python -m experiments.acgan    # three seeds of two runs

Both have the batch sizes and learning rates of their configs, and half the widths. The published runs take 50,000
(AC-GAN) and 78,000 steps; these are far shorter, 2,000 and 6,400: ten minutes on one core of an Intel Xeon.
Similarity is that within classes, the paper's measure of diversity: above the value of real pictures a class
has less variety. Runs are in runs/acgan; what is finished is not repeated.
"""

from __future__ import annotations

from typing import Any

from experiments import ablation
from experiments.ablation import AGREEMENT, QUALITY, Values
from gen_jax import command, judges
from gen_jax.data import dataset

NUM_STEPS = {"cgan": 6_400, "acgan": 2_000}  # of 91 and 285 ms on one core: equal minutes
CHECKS = 5  # of equal distance along a run
NETWORKS = {  # half the published widths
    "cgan": ("--config.network.generator_channels=(256,128,64,32)", "--config.network.channels=(32,64,128,256)"),
    "acgan": ("--config.network.generator_channels=(192,96,48)", "--config.network.channels=(8,16,32,64,128,256)"),
}
RATE, NOISE = 2e-4, 0.0  # as in acgan_cifar10
SIMILARITY = "within_class_ms_ssim"


def length(name: str) -> tuple[str, ...]:
    """Returns the words of a run's networks, number of steps and checks.

    Example:
      >>> length("acgan")[2:]
      ('--config.num_steps=2000', '--config.eval_every=400')
    """
    steps = NUM_STEPS[name]
    return (*NETWORKS[name], f"--config.num_steps={steps}", f"--config.eval_every={steps // CHECKS}")


def run_of(rate: float, noise: float) -> str:
    """Returns the name of AC-GAN's run with a learning rate and a standard deviation of noise.

    Example:
      >>> run_of(1e-4, 0.2)
      'acgan-0.0001-0.2'
    """
    return f"acgan-{rate:g}-{noise:g}"


def words(rate: float, noise: float) -> tuple[str, ...]:
    """Returns the words of that run.

    Example:
      >>> words(1e-4, 0.2)[0]
      '--config.optimizer.learning_rate=0.0001'
    """
    return (
        f"--config.optimizer.learning_rate={rate:g}",
        f"--config.discriminator_optimizer.learning_rate={rate:g}",
        f"--config.network.activation_noise={noise:g}",
        *length("acgan"),
    )


def measure(samples: judges.Samples, data: dataset.Dataset, config: Any) -> tuple[Values, Values]:
    """Returns the classifier's metrics and the similarity within classes, and those of real images."""
    rows = judges.judge_by_classifier(config, data, samples).rows + judges.judge_by_similarity(data, samples)[0]
    return ablation.plain(rows, len(samples.images))


ABLATION = ablation.Ablation(
    name="acgan",
    about=(__doc__ or "").split("\n")[0],
    words=(),
    config="acgan_cifar10.py",
    configs={"cgan": "cgan_cifar10.py"},
    runs={"cgan": length("cgan"), run_of(RATE, NOISE): words(RATE, NOISE)},
    rows=ablation.last_and_best({"conditional GAN": "cgan", "AC-GAN": run_of(RATE, NOISE)}),
    measures=("frechet_distance", "class_agreement", "precision", "recall", SIMILARITY),
    measure=measure,
    figure=ablation.panels(QUALITY, AGREEMENT, (SIMILARITY, "Diversity", "similarity, best at the line")),
    folder="acgan",
)

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

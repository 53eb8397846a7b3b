"""AC-GAN against a conditional GAN on CIFAR-10, at equal minutes of training.

    python -m experiments.acgan    # three seeds of two runs

Both have the networks, batch sizes and learning rates of their configs. The published runs take 50,000 (AC-GAN) and
78,000 steps; these are far shorter, 800 and 2,600: ten minutes on two cores by the time of a step; they have not been
run. Similarity is that within classes, the paper's measure of diversity: above the value of real pictures a class has
less variety. Runs are in runs/acgan; what is finished is not repeated.
"""

from __future__ import annotations

from typing import Any

from experiments import ablation
from experiments.ablation import AGREEMENT, QUALITY, Values
from gen_jax import command, judges
from gen_jax.data import dataset

NUM_STEPS = {"cgan": 2_600, "acgan": 800}  # of 434 and 1,422 ms of CPU time: equal minutes
RATE, NOISE = 2e-4, 0.0  # as in acgan_cifar10
SIMILARITY = "within_class_ms_ssim"


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
        f"--config.num_steps={NUM_STEPS['acgan']}",
    )


def measure(samples: judges.Samples, data: dataset.Dataset, config: Any) -> tuple[Values, Values]:
    """Returns the classifier's metrics and the similarity within classes, and those of real images."""
    rows = judges.judge_by_classifier(config, data, samples).rows + judges.judge_by_similarity(data, samples)[0]
    return ablation.plain(rows, len(samples.images))


ABLATION = ablation.Ablation(
    name="acgan",
    about=(__doc__ or "").split("\n")[0],
    words=("--config.eval_every=200",),
    config="acgan_cifar10.py",
    configs={"cgan": "cgan_cifar10.py"},
    runs={"cgan": (f"--config.num_steps={NUM_STEPS['cgan']}",), run_of(RATE, NOISE): words(RATE, NOISE)},
    rows=ablation.last_and_best({"conditional GAN": "cgan", "AC-GAN": run_of(RATE, NOISE)}),
    measures=("frechet_distance", "class_agreement", "precision", "recall", SIMILARITY),
    measure=measure,
    figure=ablation.panels(QUALITY, AGREEMENT, (SIMILARITY, "Diversity", "similarity, best at the line")),
    folder="acgan",
)

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

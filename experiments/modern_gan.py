"""R3GAN against DCGAN on MNIST, without labels, at equal minutes of training.

    python -m experiments.modern_gan    # three seeds of two runs; 2,000 samples a row

Both have the networks, batch sizes and rates of their configs. Runs are in runs/modern_gan; what is finished is not
repeated.
"""

from __future__ import annotations

from experiments import ablation
from experiments.ablation import DIVERSITY, QUALITY
from gen_jax import command

NUM_STEPS = {"dcgan": 7_500, "r3gan": 6_000}  # of 93 and 116 ms on one core: equal minutes

ABLATION = ablation.Ablation(
    name="modern_gan",
    about=(__doc__ or "").split("\n")[0],
    words=("--config.eval_every=250", "--config.gan.conditional=false"),
    config="r3gan_mnist.py",
    configs={"dcgan": "dcgan_mnist.py"},
    runs={name: (f"--config.num_steps={steps}",) for name, steps in NUM_STEPS.items()},
    rows=ablation.last_and_best({"DCGAN": "dcgan", "R3GAN": "r3gan"}),
    measures=("frechet_distance", "confident_share", "precision", "recall", "images_per_second"),
    figure=ablation.panels(QUALITY, ("precision", "Fidelity", "precision, right is better"), DIVERSITY),
    folder="modern_gan",
)

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

"""A small R3GAN on MNIST, conditional (Huang et al. 2024): relativistic pairs, R1 and R2, no normalisation.

    python -m gen_jax.main --config=configs/r3gan_mnist.py

Betas are those of the paper for CIFAR-10; network, batch size and length are ours, and so are rates that fall over the
whole run and a penalty of constant weight, which were chosen by short runs (docs/results.md, "A thousand modes"). The
generator has 82,088 parameters, the discriminator 77,992. A step takes 0.12 s on one core of an Intel Xeon. Without
labels and after 6,000 steps, 13 minutes, the Frechet distance of 2,000 samples is 3.90, and 24.4 of `dcgan_mnist` in
the same time; with a penalty of weight 10 and 15,000 steps it finds all 1,000 modes of stacked digits. With labels its
quality is not measured. Variant: `:tiny` is a short run that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import Config
from gen_jax.gan.defaults import r3gan_config, with_tiny


def get_config(variant: str = "") -> Config:
    config = r3gan_config()
    config.data.name = "mnist"
    config.batch_size = 16
    config.num_steps = 6_000
    config.eval_every = 500
    config.checkpoint_every = 500
    config.optimizer.learning_rate = 3e-3
    config.discriminator_optimizer.learning_rate = 3e-3
    config.gan.burn_in.share = 1.0
    config.gan.burn_in.learning_rate = 0.1
    config.gan.burn_in.penalty = 1.0
    config.gan.penalty.weight = 1.0
    config.gan.conditional = True
    config.network = ConfigDict(
        {
            "name": "r3gan",
            "widths": (64, 32, 8),  # at 7x7, 14x14, 28x28
            "blocks": 1,  # per stage
            "cardinality": 4,  # groups
            "expansion": 2,
            "embedding_dim": 64,  # of the label
        }
    )
    return with_tiny(config, variant, {})

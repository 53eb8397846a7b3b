"""WGAN with a gradient penalty on MNIST (Gulrajani et al. 2017): five critic steps per generator step.

    python -m gen_jax.main --config=configs/wgan_gp_mnist.py

4,000 of the 10,000 steps took 46 minutes in parallel with other runs on two shared cores of an AMD EPYC; after them the
Frechet distance of 1,000 samples is 27.4 (docs/results.md). Variants: `:clip` clips the critic's weights instead
(Arjovsky et al. 2017), `:tiny` is a short run that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import Config
from gen_jax.gan.defaults import gan_config, with_tiny


def get_config(variant: str = "") -> Config:
    config = gan_config(learning_rate=1e-4, discriminator_rate=1e-4)
    config.data.name = "mnist"
    config.num_steps = 10_000
    config.optimizer.b1 = 0.0
    config.optimizer.b2 = 0.9
    config.gan.latents = 64
    config.gan.loss = "wasserstein"
    config.gan.penalty = {"name": "wgan_gp", "weight": 10.0}
    config.gan.critic_steps = 5
    config.network = ConfigDict(
        {
            "name": "conv",
            "generator_channels": (128, 64),
            "generator_kernel": 4,
            "generator_norm": "batch",
            "upsampling": "transposed",
            "channels": (64, 128),
            "kernel": 4,
            "norm": "none",  # a gradient penalty excludes batch normalisation
        }
    )
    rate = 5e-5
    clip = {
        "gan.penalty": {"name": "none"}, "gan.constraint": {"name": "clip", "bound": 0.01},
        "optimizer": {"name": "rmsprop", "b2": 0.99, "learning_rate": rate, "clip_norm": 0.0},
        "discriminator_optimizer.learning_rate": rate,
    }  # fmt: skip
    return with_tiny(config, variant, {"gan.critic_steps": 2}, {"clip": clip})

"""A GAN of dense networks on 25 Gaussians in the plane, which finds all modes, with animations of training.

    python -m gen_jax.main --config=configs/gan_gaussians.py

The relativistic loss, R1 and decaying instance noise prevent mode collapse. The page counts the modes that the
generator found, and shows its points during training. Variants: `:ring8` has eight Gaussians on a circle; `:minimax`
is the minimax game of Goodfellow et al. 2014 without remedies; `:tiny` is a short run that checks that everything
works. `python -m experiments.gan_losses` compares the games.
"""

from ml_collections import ConfigDict

from gen_jax.config import Config, with_variant
from gen_jax.gan.defaults import gan_config


def get_config(variant: str = "") -> Config:
    config = gan_config(learning_rate=4e-3, discriminator_rate=4e-3)
    config.data.name = "gaussians:grid25"
    config.batch_size = 128
    config.num_steps = 15_000
    config.log_every = 200
    config.eval.track = 0  # modes are counted at the end
    config.eval_every = 1000
    config.checkpoint_every = 3000
    config.ema = 0.995
    config.sample.num = 10_000
    config.sample.batch_size = 10_000
    config.optimizer.b1, config.optimizer.b2 = 0.0, 0.99
    config.optimizer.decay = {"name": "linear", "share": 0.5}
    config.gan.latents = 2
    config.gan.loss = "relativistic"
    config.gan.penalty = {"name": "r1", "weight": 3e-3}
    # The model's range covers [-5, 5]^2, so initially the noise is as wide as half the distance between two modes.
    config.gan.instance_noise, config.gan.instance_noise_steps = 0.2, 6000
    width = (64, 64, 64)
    config.network = ConfigDict({"name": "dense", "generator_hidden": width, "hidden": width, "output": "linear"})
    tiny = {
        "num_steps": 40, "log_every": 5, "eval_every": 20, "checkpoint_every": 20, "batch_size": 16,
        "sample.num": 1000, "sample.batch_size": 1000, "eval.num_examples": 256, "eval.num_samples": 2000,
    }  # fmt: skip
    minimax = {"gan.loss": "minimax", "gan.penalty": {"name": "none"}, "gan.instance_noise": 0.0}
    return with_variant(config, variant, {"ring8": {"data.name": "gaussians:ring8"}, "minimax": minimax, "tiny": tiny})

"""What the configs of this room share: a config of configs/ names what is its own."""

from __future__ import annotations

from ml_collections import ConfigDict

from gen_jax.config import Config, base_config
from gen_jax.vae.autoencoder import CHOICES

TINY = {
    "num_steps": 40, "log_every": 5, "eval_every": 20, "checkpoint_every": 20, "batch_size": 32,
    "sample.num": 100, "eval.num_examples": 256, "eval.num_samples": 200, "eval.classifier_steps": 200,
}  # fmt: skip
"""A run that shows that everything works, in under a minute."""


def vae_config() -> Config:
    """Returns `base_config` with what a VAE reads besides.

    Example:
      >>> vae_config().vae.beta
      1.0
    """
    config = base_config()
    config.method = "vae"
    config.batch_size = 128
    config.optimizer.learning_rate = 1e-3
    config.network = ConfigDict(CHOICES["network"].start("conv"))
    config.vae = ConfigDict(
        {
            "latents": 2,
            "likelihood": CHOICES["vae.likelihood"].start("bernoulli"),  # or gaussian with sigma: LIKELIHOODS
            "binarisation": "none",  # or dynamic (drawn anew in every step), threshold
            "beta": 1.0,  # weight of the KL
            "kl_warmup_steps": 0,  # that the weight takes to rise from zero
            "free_bits": 0.0,  # nats that each latent may hold at no cost
            "manifold": False,  # draws the images over the plane of two latents, also during training
        }
    )
    config.eval.importance_samples = 0  # of the NLL; takes long, so with --mode=eval: 5000
    return config

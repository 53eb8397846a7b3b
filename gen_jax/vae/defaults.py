"""Defaults of all VAE configs; the files in configs/ contain only what differs."""

from __future__ import annotations

from ml_collections import ConfigDict

from gen_jax.config import Choice, Config, base_config
from gen_jax.vae import autoencoder
from gen_jax.vae.objectives import OBJECTIVES

CHOICES = {**autoencoder.CHOICES, "vae.objective": Choice(OBJECTIVES, ("setting",))}

TINY = {
    "num_steps": 40, "log_every": 5, "eval_every": 20, "checkpoint_every": 20, "batch_size": 32,
    "sample.num": 100, "eval.num_examples": 256, "eval.num_samples": 200, "eval.classifier_steps": 200,
}  # fmt: skip
"""A run that checks that everything works, in under a minute."""


def vae_config() -> Config:
    """Returns `base_config` with the additional values of a VAE.

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
            "prior": CHOICES["vae.prior"].start("standard"),  # or mixture, vamp, with num_components: PRIORS
            "objective": CHOICES["vae.objective"].start("elbo"),  # OBJECTIVES
            "conditional": False,  # on the class label
            "binarisation": "none",  # or dynamic (resampled in every step), static (drawn once), threshold
            "beta": 1.0,  # weight of the KL
            "kl_warmup_steps": 0,  # in which the weight rises from zero
            "free_bits": 0.0,  # nats per latent that are not penalised
            "manifold": False,  # draws the images over the plane of two latents, also during training
        }
    )
    config.eval.importance_samples = 0  # for the NLL; slow, so use 5000 only with --mode=eval
    return config

"""Latent diffusion on MNIST: an autoencoder with codes of 7x7x4, then a DDPM on these codes, in one command.

    python -m gen_jax.main --config=latent_mnist

The autoencoder is a separate run in the folder `pretrained` of this one. Set its values with --config.pretrained.<key>;
--config.pretrained=<directory> uses an existing run instead. About 90% of the samples are classified with a confidence
above 0.9 (real digits: 96%), and their Frechet distance is 4.5 (real digits: 1.9; docs/results.md). Variants: `:sparse`
has the vectors of a sparse-coding autoencoder (`scvae_mnist`) as codes, 7x7x16; `:adversarial` has the autoencoder of
`autoencoder_mnist`, with a perceptual and an adversarial loss; `:meanflow` has MeanFlow on the codes, which samples in
one network call (Frechet distance 6.6 after 2,250 steps); `:tiny` checks that everything works, in under a minute.
"""

from ml_collections import ConfigDict

from gen_jax.autoencoder.model import autoencoder_config
from gen_jax.config import with_variant
from gen_jax.diffusion import defaults
from gen_jax.diffusion.latent import latent_config
from gen_jax.diffusion.meanflow import meanflow_config
from gen_jax.vae.defaults import TINY, vae_config
from gen_jax.vae.scvae import scvae_config


def autoencoder() -> ConfigDict:
    """A VAE with a small KL weight: its codes are modelled by the second stage, so they need not be standard normal."""
    config = vae_config()
    config.batch_size = 64
    config.num_steps = 3000
    config.eval_every = 1000
    config.network = ConfigDict({"name": "spatial", "channels": (32, 64)})
    config.optimizer.decay = {"name": "linear"}
    config.vae.latents = 196  # 7 x 7 x 4
    config.vae.beta = 0.05
    return config


def sparse_autoencoder() -> ConfigDict:
    """That of `scvae_mnist`, trained as long as the VAE above."""
    config = scvae_config()
    config.num_steps = 3000
    config.eval_every = 1000
    config.network = ConfigDict({"name": "spatial", "channels": (32, 64)})
    config.optimizer.decay = {"name": "linear"}
    return config


def adversarial_autoencoder() -> ConfigDict:
    """That of `autoencoder_mnist`."""
    config = autoencoder_config()
    config.num_steps = 3000
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.network = ConfigDict({"name": "spatial", "channels": (32, 64), "num_blocks": 1})
    config.optimizer.decay = {"name": "linear", "share": 0.5}
    config.autoencoder.adversarial.start = 1500
    return config


FIRST = {"sparse": sparse_autoencoder, "adversarial": adversarial_autoencoder}


def get_config(variant: str = "") -> ConfigDict:
    if variant == "meanflow":
        config = defaults.on_digits(meanflow_config(autoencoder()))
        config.sample.clip = False  # codes are unbounded
    else:
        config = defaults.on_digits(latent_config())
        config.sample.num_steps = 25
        config.pretrained = FIRST.get(variant, autoencoder)()
    config.network.patch = 1  # the codes are 7x7

    tiny = {f"pretrained.{key}": value for key, value in TINY.items()} | {"pretrained.network.channels": (4, 8)}
    return with_variant(
        config, variant, {"sparse": {}, "adversarial": {}, "meanflow": {}, "tiny": defaults.TINY | tiny}
    )

"""A VQ-VAE on MNIST, then an autoregressive model of its codes (7x7, each one of 128), in one command.

    python -m gen_jax.main --config=codes_mnist

The VQ-VAE is a separate run in the folder `pretrained` of this one. Set its values with --config.pretrained.<key>;
--config.pretrained=<directory> uses an existing run instead. Both stages took 23 minutes on two shared cores of an
Intel Xeon, beside other work, and 88.5% of the samples are confident (docs/results.md). Variant: `:tiny` checks that
everything works, in under a minute.
"""

from ml_collections import ConfigDict

from gen_jax.autoregressive import defaults
from gen_jax.config import with_variant
from gen_jax.vae.defaults import TINY
from gen_jax.vae.vqvae import vqvae_config


def autoencoder() -> ConfigDict:
    """That of `vqvae_mnist`."""
    config = vqvae_config()
    config.num_steps = 3000
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.optimizer.decay = {"name": "linear", "share": 0.5}
    config.network = ConfigDict({"name": "spatial", "channels": (32, 64), "num_blocks": 1})
    config.vqvae.quantizer.update(size=128, dimensions=64)
    return config


def get_config(variant: str = "") -> ConfigDict:
    config = defaults.autoregressive_config(autoencoder())
    config.data.name = "mnist"
    config.num_steps = 6000
    config.log_every = 100
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.optimizer.warmup_steps = 200
    config.optimizer.decay = {"name": "linear", "share": 0.5}
    config.autoregressive.conditional = True

    first = TINY | {"network.channels": (4, 8), "vqvae.quantizer.size": 16, "vqvae.quantizer.dimensions": 8}
    tiny = {f"pretrained.{key}": value for key, value in first.items()}
    return with_variant(config, variant, {"tiny": defaults.TINY | tiny})

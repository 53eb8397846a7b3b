"""DCGAN on MNIST, without labels (Radford et al. 2016, with two levels).

    python -m gen_jax.main --config=configs/dcgan_mnist.py

10,000 steps take 13 minutes on two shared cores of an AMD EPYC, by the run's own estimate. The Frechet distance of
1,000 samples falls from 62.5 at step 1,000 to 20.9 at the end (docs/results.md). Variant: `:tiny` is a short run that
checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import Config
from gen_jax.gan.defaults import gan_config, with_tiny


def get_config(variant: str = "") -> Config:
    config = gan_config()
    config.data.name = "mnist"
    config.num_steps = 10_000
    config.gan.latents = 64
    config.network = ConfigDict(
        {
            "name": "conv",  # or dense, residual, with the fields of their classes in gen_jax/gan
            "generator_channels": (128, 64),  # at 7x7, 14x14; the last layer outputs 28x28
            "generator_kernel": 4,
            "generator_norm": "batch",
            "upsampling": "transposed",  # or nearest, shuffle
            "channels": (64, 128),  # of the discriminator
            "kernel": 4,
            "norm": "batch",  # or rms, none
        }
    )
    return with_tiny(config, variant, {})

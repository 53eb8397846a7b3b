"""A VQ-VAE on MNIST: codes of 7x7, each one of 128.

    python -m gen_jax.main --config=vqvae_mnist

It is a first stage for a model of codes. Alone it has no prior: its samples are decoded from codes drawn at random, and
look like nothing. What counts are its reconstructions. Variants: `:fsq` rounds three numbers to five levels each
instead of learning a codebook (125 codes), and `:tiny` is a short run that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import with_variant
from gen_jax.vae.defaults import TINY
from gen_jax.vae.vqvae import vqvae_config


def get_config(variant: str = "") -> ConfigDict:
    config = vqvae_config()
    config.data.name = "mnist"
    config.num_steps = 3000
    config.log_every = 50
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.optimizer.decay = {"name": "linear", "share": 0.5}

    config.network = ConfigDict(
        {
            "name": "spatial",  # or conv, the layers of the paper
            "channels": (32, 64),  # of the levels, each of which halves the size
            "num_blocks": 1,
        }
    )
    config.vqvae.quantizer = ConfigDict(
        {
            "name": "vq",  # or fsq, with levels
            "size": 128,  # of the codebook
            "dimensions": 64,  # of each of its vectors
            "commitment": 0.25,
            "decay": 0.99,  # of the codebook, as a moving average; 0: trained by gradients
            "revive": 0.03,  # a code that is used less often than this share of 1 / size restarts; 0: none does
        }
    )

    if variant == "fsq":
        config.vqvae.quantizer = ConfigDict({"name": "fsq", "levels": (5, 5, 5)})
    tiny = TINY | {"network.channels": (4, 8), "vqvae.quantizer.size": 16, "vqvae.quantizer.dimensions": 8}
    return with_variant(config, variant, {"fsq": {}, "tiny": tiny})

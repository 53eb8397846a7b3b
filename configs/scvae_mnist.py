"""A sparse-coding autoencoder on MNIST: each of 7x7 vectors is a sum of few of 64 atoms.

    python -m gen_jax.main --config=scvae_mnist
    python -m gen_jax.main --config=scvae_mnist --config.scvae.dictionary=learned --workdir=runs/scvae_learned

The atoms are those of a DCT; `learned` trains them from there, `orthonormal` has 16. With a larger config.scvae.lam
fewer of them are on, relative to config.scvae.noise. After 1,500 steps (three seeds: docs/results.md, Codes) 12.5% of
them are, and the PSNR is 30.0 dB. On the 16 images of seed 0's page the learned steps end at 0.61 of the objective of
z = 0, as many steps of ISTA at 0.49, perhaps because the loss of pixels trains them, too. There is no prior:
samples are drawn atom by atom, and show what the code leaves to a second model. Variant: `:tiny` is a short run that
checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import with_variant
from gen_jax.vae.defaults import TINY
from gen_jax.vae.scvae import scvae_config


def get_config(variant: str = "") -> ConfigDict:
    config = scvae_config()
    config.data.name = "mnist"
    config.num_steps = 2000
    config.log_every = 100
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.optimizer.decay = {"name": "linear", "share": 0.5}

    config.network = ConfigDict(
        {
            "name": "spatial",
            "channels": (32, 64),  # of each level, which halves the image
            "num_blocks": 1,  # residual blocks of a level
        }
    )
    config.scvae.channels = 16  # numbers of a vector
    config.scvae.dictionary = ConfigDict({"name": "dct", "num_atoms": 64})
    config.scvae.lam = 0.5
    config.scvae.noise = 0.25  # on D z in training: it sets the scale of the vectors
    config.scvae.steps = 10

    tiny = TINY | {"network.channels": (4, 8), "scvae.channels": 9, "scvae.dictionary.num_atoms": 16, "scvae.steps": 3}
    return with_variant(config, variant, {"tiny": tiny})

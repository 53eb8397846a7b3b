"""The autoencoder of latent diffusion on MNIST: codes of 7x7x4, a perceptual and an adversarial loss.

    python -m gen_jax.main --config=autoencoder_mnist

It is a first stage: `latent_mnist:adversarial` trains it and a DDPM on its codes. Alone it has no prior, and its
samples look like nothing; what counts are its reconstructions. Its length is a guess: the run has not been made.
Variants: `:plain` leaves codes without a KL divergence, `:vq` has a codebook of 256 vectors; `:tiny` is a short run
that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.autoencoder.model import CHOICES, autoencoder_config
from gen_jax.config import with_variant
from gen_jax.vae.defaults import TINY

SMALL = {"network.channels": (4, 8), "autoencoder.adversarial.start": 10, "autoencoder.adversarial.channels": (4, 8)}


def get_config(variant: str = "") -> ConfigDict:
    config = autoencoder_config()
    config.data.name = "mnist"
    config.num_steps = 3000
    config.log_every = 50
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.optimizer.decay = {"name": "linear", "share": 0.5}
    config.network = ConfigDict({"name": "spatial", "channels": (32, 64), "num_blocks": 1})  # each level halves
    config.autoencoder.adversarial.start = 1500
    kinds = {name: {"autoencoder.latents": CHOICES["autoencoder.latents"].start(name)} for name in ("plain", "vq")}
    return with_variant(config, variant, {**kinds, "tiny": TINY | SMALL})

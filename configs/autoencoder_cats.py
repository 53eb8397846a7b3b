"""The autoencoder of latent diffusion on photographs of 64x64: codes of 16x16x4, a twelfth of the numbers.

    python -m gen_jax.main --config=autoencoder_cats --config.data.name=image_folder:<folder of pictures>

It is a first stage: `latent_cats` trains it and a DDPM on its codes. With --config.network.channels=32,64,64 codes are
8x8x4. Its length is a guess: the run has not been made. Variant: `:tiny` is a short run on drawn digits that checks
that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.autoencoder.model import autoencoder_config
from gen_jax.config import with_variant
from gen_jax.vae.defaults import TINY


def get_config(variant: str = "") -> ConfigDict:
    config = autoencoder_config()
    config.data.name = "image_folder:"  # must be set
    config.data.image_size = 64
    config.batch_size = 16
    config.num_steps = 10_000
    config.log_every = 50
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.optimizer.decay = {"name": "linear", "share": 0.5}
    config.network = ConfigDict({"name": "spatial", "channels": (32, 64), "num_blocks": 1})  # each level halves
    config.autoencoder.adversarial.start = 5000
    config.autoencoder.mirror = True
    tiny = TINY | {
        "data.name": "stroke_digits", "batch_size": 16, "autoencoder.mirror": False, "network.channels": (4, 8),
        "autoencoder.adversarial.start": 10, "autoencoder.adversarial.channels": (4, 8),
    }  # fmt: skip
    return with_variant(config, variant, {"tiny": tiny})

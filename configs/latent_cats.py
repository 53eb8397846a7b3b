"""Latent diffusion on photographs of 64x64: an autoencoder with codes of 16x16x4, then a DDPM on these codes.

    python -m gen_jax.main --config=latent_cats --config.data.name=image_folder:<folder of pictures>

The autoencoder is that of `autoencoder_cats`, a separate run in the folder `pretrained` of this one. Set its values
with --config.pretrained.<key>; --config.pretrained=<directory> uses an existing run instead. After 2,000 and 4,000 of
the 10,000 and 20,000 steps, half an hour on one core, samples are cats (Frechet distance 18.6, seed 0, 2,700 pictures;
docs/results.md). The whole run has not been made. Variants: `:flow` has flow matching on the codes instead, sampled
with Heun's method; `:tiny` is a short run on drawn digits that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.autoencoder.model import autoencoder_config
from gen_jax.config import with_variant
from gen_jax.diffusion import defaults
from gen_jax.diffusion.latent import latent_config
from gen_jax.vae.defaults import TINY


def autoencoder() -> ConfigDict:
    """That of `autoencoder_cats`."""
    config = autoencoder_config()
    config.batch_size = 16
    config.num_steps = 10_000
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.optimizer.decay = {"name": "linear", "share": 0.5}
    config.network = ConfigDict({"name": "spatial", "channels": (32, 64), "num_blocks": 1})
    config.autoencoder.adversarial.start = 5000
    config.autoencoder.mirror = True
    return config


def get_config(variant: str = "") -> ConfigDict:
    config = defaults.on_digits(latent_config())  # network and optimizer; the data follow
    config.data.name = "image_folder:"  # must be set
    config.data.offline_substitute = ""
    config.data.image_size = 64
    config.num_steps = 20_000
    config.network.patch = 1  # the codes are 16x16
    config.diffusion.conditional = False
    config.diffusion.mirror = True
    config.sample.num_steps = 25
    config.pretrained = autoencoder()
    if variant == "flow":
        config.diffusion.schedule = {"name": "straight"}
        config.diffusion.prediction = {"name": "velocity"}
        config.diffusion.weighting = {"name": "velocity"}
        config.sample.sampler = {"name": "heun"}
        config.sample.num_steps = 13  # 25 network calls

    first = TINY | {
        "batch_size": 16, "autoencoder.mirror": False, "network.channels": (4, 8), "autoencoder.adversarial.start": 10,
        "autoencoder.adversarial.channels": (4, 8),
    }  # fmt: skip
    tiny = {f"pretrained.{key}": value for key, value in first.items()}
    tiny |= {"data.name": "stroke_digits", "diffusion.mirror": False}
    return with_variant(config, variant, {"flow": {}, "tiny": defaults.TINY | tiny})

"""A DDPM on the pixels of photographs of 64x64: what `latent_cats`, which has the same network, is compared with.

    python -m gen_jax.main --config=ddpm_cats --config.data.name=image_folder:<folder of pictures>

The U-Net is that of the digits, on patches of 2: 32x32 places, four times as many as `latent_cats` has. Its samples
have a Frechet distance of 52.5 after half an hour on one core (--config.num_steps=2000, seed 0, 2,700 cats), those of
`latent_cats` 18.6 (docs/results.md); the whole run has not been made. Patches of 4 need
--config.diffusion.prediction=x: 32 channels cannot tell the noise of a patch, which has 48 values. Variant: `:tiny` is
a short run on drawn digits that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import with_variant
from gen_jax.diffusion.ddpm import ddpm_config
from gen_jax.diffusion.defaults import TINY, on_digits


def get_config(variant: str = "") -> ConfigDict:
    config = on_digits(ddpm_config())  # network and optimizer; the data follow
    config.data.name = "image_folder:"  # must be set
    config.data.offline_substitute = ""
    config.data.image_size = 64
    config.num_steps = 20_000
    config.network.patch = 2
    config.diffusion.conditional = False
    config.diffusion.mirror = True
    tiny = TINY | {"data.name": "stroke_digits", "diffusion.mirror": False}
    return with_variant(config, variant, {"tiny": tiny})

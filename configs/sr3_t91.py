"""SR3: a DDPM that makes pictures 4 times as large (Saharia et al. 2021), on a folder of photographs such as T91.

    python -m gen_jax.main --config=configs/sr3_t91.py --config.data.name=image_folder:<folder of pictures>

The data are those of `srresnet_t91`, and so are the measures, so that `--mode=compare` puts both into one table. The
U-Net is this project's small one, on patches of 2x2 pixels. Variants: `:small` has smaller crops and batches, for a
CPU, and after 16 minutes on one core is as sharp as `srgan_t91:small` at about its PSNR (docs/results.md,
"Super-resolution"); `:tiny` is a short run on drawn digits that checks that everything works.
"""

from gen_jax.config import Config, with_variant
from gen_jax.diffusion.defaults import TINY, on_digits
from gen_jax.superres.sr3 import sr3_config


def get_config(variant: str = "") -> Config:
    config = on_digits(sr3_config())
    config.data.name = "image_folder:"  # must be set
    config.data.offline_substitute = ""
    config.data.crop = 96
    config.data.on_error = "skip"  # pictures smaller than a crop, with a warning
    config.diffusion.conditional = False
    config.diffusion.mirror = True
    config.batch_size = 16
    config.num_steps = 20_000
    config.network.multipliers = (1, 2, 2)
    small = {"data.crop": 64, "batch_size": 8, "num_steps": 6000, "network.multipliers": (1, 2)}
    tiny = TINY | {"data.name": "stroke_digits", "data.crop": 0, "batch_size": 8, "network.multipliers": (1, 1)}
    tiny |= {"sample.num": 16, "sample.num_steps": 3, "eval.num_examples": 64}
    return with_variant(config, variant, {"small": small, "tiny": tiny})

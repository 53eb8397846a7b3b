"""DCGAN on cat faces, 64x64 (the recipe of Radford et al. 2016, without biases).

    python -m gen_jax.main --config=configs/dcgan_cats.py --config.data.name=image_folder:<folder of pictures>

The generator has 3,806,080 parameters, the discriminator 2,765,696. A step takes 1.2 s on two shared cores of an AMD
EPYC. After 3,000 steps, an hour, on 2,700 photographs, the Frechet distance on rotation features is 9.1
(docs/results.md); the whole run needs an accelerator. Variants: `:ablation` omits the last convolution of both networks
(3,696,384 and 675,712 parameters), `:tiny` is a short run on drawn digits that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import Config
from gen_jax.gan.defaults import gan_config, with_tiny


def get_config(variant: str = "") -> Config:
    config = gan_config()
    config.data.name = "image_folder:"  # must be set
    config.data.image_size = 64
    config.num_steps = 20_000
    config.eval_every = 500
    config.checkpoint_every = 500
    config.gan.latents = 128
    config.network = ConfigDict(
        {
            "name": "conv",
            "generator_channels": (512, 256, 128, 64),  # at 4x4 to 32x32; the last layer outputs 64x64
            "generator_kernel": 4,
            "generator_norm": "batch",
            "last_stride": 2,
            "upsampling": "transposed",
            "channels": (64, 128, 256, 512),
            "kernel": 4,
            "norm": "batch",
            "norm_first": True,  # unlike Radford et al.
            "end_bias": False,
        }
    )
    ablation = {
        "network.generator_channels": (512, 256, 128),
        "network.last_stride": 4,
        "network.channels": (64, 128, 256),
    }
    return with_tiny(config, variant, {"data.name": "stroke_digits"}, {"ablation": ablation})

"""R3GAN on photographs of 64x64, without labels, mirrored (Huang et al. 2024), with small networks.

    python -m gen_jax.main --config=configs/r3gan_cats.py --config.data.name=image_folder:<folder of pictures>

Game and betas are those of the paper for CIFAR-10; the networks are those of `dcgan_cats:ablation` at a quarter of the
width (432,576 and 45,936 parameters), whose discriminator normalises nothing here, and rates that fall over the whole
run and a penalty of constant weight are ours. On 2,700 photographs of cats it has a Frechet distance of 3.9 after 1,000
steps, three and a half minutes on one core of an Intel Xeon, and of 2.00 after the last, 41 minutes (1,000 samples,
seed 0); `dcgan_cats` has 9.06 after 3,000 steps, 62 minutes there (docs/results.md, "Cats"). The augmentation of Zhao
et al. 2020, --config.gan.augment=diff_augment, makes other changes than the paper's, and was not tried here. Variants:
`:blocks` has R3GAN's own blocks, narrow (478,460 and 470,396 parameters), 5.02 after 93 minutes; `:tiny` is a short run
on drawn digits that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import Config
from gen_jax.gan.defaults import r3gan_config, with_tiny


def get_config(variant: str = "") -> Config:
    config = r3gan_config()
    config.data.name = "image_folder:"  # must be set
    config.data.image_size = 64
    config.num_steps = 12_000
    config.eval_every = 500
    config.checkpoint_every = 500
    config.optimizer.learning_rate = 1e-3
    config.discriminator_optimizer.learning_rate = 1e-3
    config.gan.latents = 128
    config.gan.burn_in.share = 1.0
    config.gan.burn_in.learning_rate = 0.1
    config.gan.burn_in.penalty = 1.0
    config.gan.penalty.weight = 1.0
    config.gan.mirror = True
    config.network = ConfigDict(
        {
            "name": "conv",
            "generator_channels": (128, 64, 32),  # at 4x4 to 16x16; the last layer outputs 64x64
            "generator_kernel": 4,
            "generator_norm": "batch",
            "last_stride": 4,
            "upsampling": "transposed",
            "channels": (16, 32, 64),
            "kernel": 4,
            "norm": "none",
            "end_bias": False,
        }
    )
    blocks = {
        "batch_size": 8, "num_steps": 33_000, "eval_every": 1500, "checkpoint_every": 1500, "gan.latents": 64,
        "optimizer.learning_rate": 2e-3, "discriminator_optimizer.learning_rate": 2e-3,
    }  # fmt: skip
    if variant == "blocks":
        config.network = ConfigDict(
            {
                "name": "r3gan",
                "widths": (128, 64, 16, 8, 4),  # at 4x4 to 64x64
                "blocks": 1,  # per stage
                "cardinality": 2,  # groups
                "expansion": 2,
            }
        )
    return with_tiny(config, variant, {"data.name": "stroke_digits", "gan.mirror": False}, {"blocks": blocks})

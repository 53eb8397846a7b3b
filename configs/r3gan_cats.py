"""A small R3GAN on photographs of 64x64, without labels, mirrored (Huang et al. 2024).

    python -m gen_jax.main --config=configs/r3gan_cats.py --config.data.name=image_folder:<folder of pictures>

Betas are those of the paper for CIFAR-10; network, batch size and length are ours, and so are rates that fall over the
whole run and a penalty of constant weight, as in `r3gan_mnist`. The generator has 478,460 parameters, the discriminator
470,396. A step takes 0.17 s on one core of an Intel Xeon. On 2,700 photographs of cats the best checkpoint, of step
30,000, has a Frechet distance of 3.48 (1,000 samples, seed 0), the last, after 93 minutes, 5.02; `dcgan_cats` has 9.06
after 3,000 steps, for which that core would take about 73 minutes (docs/results.md, "Cats"). The augmentation of Zhao
et al. 2020, --config.gan.augment=diff_augment, makes other changes than the paper's, and was not tried here. Variant:
`:tiny` is a short run on drawn digits that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import Config
from gen_jax.gan.defaults import r3gan_config, with_tiny


def get_config(variant: str = "") -> Config:
    config = r3gan_config()
    config.data.name = "image_folder:"  # must be set
    config.data.image_size = 64
    config.batch_size = 8
    config.num_steps = 33_000
    config.eval_every = 1500
    config.checkpoint_every = 1500
    config.optimizer.learning_rate = 2e-3
    config.discriminator_optimizer.learning_rate = 2e-3
    config.gan.burn_in.share = 1.0
    config.gan.burn_in.learning_rate = 0.1
    config.gan.burn_in.penalty = 1.0
    config.gan.penalty.weight = 1.0
    config.gan.mirror = True
    config.network = ConfigDict(
        {
            "name": "r3gan",
            "widths": (128, 64, 16, 8, 4),  # at 4x4 to 64x64
            "blocks": 1,  # per stage
            "cardinality": 2,  # groups
            "expansion": 2,
        }
    )
    return with_tiny(config, variant, {"data.name": "stroke_digits", "gan.mirror": False})

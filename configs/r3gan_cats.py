"""A small R3GAN on photographs of 64x64, without labels, mirrored and augmented (Huang et al. 2024; Zhao et al. 2020).

    python -m gen_jax.main --config=configs/r3gan_cats.py --config.data.name=image_folder:<folder of pictures>

The rates, betas and factors are those of the paper for CIFAR-10; network, penalty weight, batch size and length are
ours, and were not tuned; the paper's augmentation makes other changes. The generator has 478,460 parameters, the
discriminator 470,396. On two cores of an AMD EPYC that other runs shared, a step took 0.24 s in the median, 0.12 s at
best. Its quality is not measured. Variant: `:tiny` is a short run on drawn digits that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import Config
from gen_jax.gan.defaults import r3gan_config, with_tiny


def get_config(variant: str = "") -> Config:
    config = r3gan_config()
    config.data.name = "image_folder:"  # must be set
    config.data.image_size = 64
    config.batch_size = 4
    config.num_steps = 40_000
    config.gan.penalty.weight = 2.0  # at the start; 0.2 after the burn-in
    config.gan.mirror = True
    config.gan.augment = {"name": "diff_augment", "strength": 0.5}  # after the burn-in; 0 at the start
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

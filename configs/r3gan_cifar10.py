"""R3GAN on CIFAR-10, conditional (Huang et al. 2024); `:full` has the networks and the batch of the paper.

    python -m gen_jax.main --config=configs/r3gan_cifar10.py:full

The published networks have 20,781,952 parameters (generator) and 20,732,800 (discriminator) and need an accelerator;
without `:full` they have 313,712 and 305,520. The paper reports an FID of 1.96; here nothing was trained. Differences:
its augmentation makes other changes, and the length of its run is not known to us: the burn-in takes 20 million images,
here a tenth of the steps. Variants: `:full`, and `:tiny`, a short run that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import Config
from gen_jax.gan.defaults import r3gan_config, with_tiny


def get_config(variant: str = "") -> Config:
    config = r3gan_config()
    config.data.name = "cifar10"
    config.num_steps = 40_000
    config.gan.penalty.weight = 0.05  # at the start; 0.005 after the burn-in
    config.gan.conditional = True
    config.gan.mirror = True
    config.gan.augment = {"name": "diff_augment", "strength": 0.55}  # after the burn-in; 0 at the start
    config.network = ConfigDict(
        {
            "name": "r3gan",
            "widths": (128, 64, 32, 16),  # at 4x4 to 32x32
            "blocks": 1,  # per stage
            "cardinality": 4,  # groups
            "expansion": 2,
            "embedding_dim": 64,  # of the label
        }
    )
    full = {
        "network.widths": (768, 768, 768, 768), "network.blocks": 2, "network.cardinality": 96,
        "batch_size": 512, "num_steps": 390_000, "ema": 0.99993,  # a half-life of 5 million images
    }  # fmt: skip
    return with_tiny(config, variant, {}, {"full": full})

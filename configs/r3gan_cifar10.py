"""R3GAN on CIFAR-10, conditional, mirrored (Huang et al. 2024); `:full` has the networks and the batch of the paper.

    python -m gen_jax.main --config=configs/r3gan_cifar10.py

Game and betas are those of the paper. For CPUs, the networks are small convolutional ones as in `r3gan_cats` (962,432
parameters in the generator, 188,128 in the discriminator), and rates that fall over the whole run and a penalty of
constant weight are ours. On 8,000 photographs of CIFAR-10 the Frechet distance of 2,000 samples is 1.87 after half an
hour on one core of an Intel Xeon, beside other programs; real test pictures have 1.02 (docs/results.md, "R3GAN on
CIFAR-10"). The published networks have 20,781,952 and 20,732,800 parameters and need an accelerator: a step takes 294
GFLOP for each of its 512 images, by XLA's count, and `:full` has 390,000 steps. The paper reports an FID of 1.96; here
`:full` was not trained. Two things differ from the paper: the augmentation makes other changes, and the length of the
published run is not known to us; the burn-in takes 20 million images, here a tenth of the steps. Variants: `:full`, and
`:tiny`, a short run that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import Config
from gen_jax.gan.defaults import r3gan_config, with_tiny


def get_config(variant: str = "") -> Config:
    config = r3gan_config()
    config.data.name = "cifar10"
    config.num_steps = 8_000
    config.eval_every = 500
    config.checkpoint_every = 500
    config.optimizer.learning_rate = 1e-3
    config.discriminator_optimizer.learning_rate = 1e-3
    config.gan.burn_in.share = 1.0
    config.gan.burn_in.learning_rate = 0.1
    config.gan.burn_in.penalty = 1.0
    config.gan.penalty.weight = 1.0
    config.gan.conditional = True
    config.gan.mirror = True
    config.network = ConfigDict(
        {
            "name": "conv",
            "generator_channels": (256, 128, 64),  # at 4x4 to 16x16
            "generator_kernel": 4,
            "generator_norm": "batch",
            "last_stride": 2,
            "upsampling": "transposed",
            "channels": (32, 64, 128),
            "kernel": 4,
            "norm": "none",
            "end_bias": False,
        }
    )
    if variant == "full":
        config.gan.augment = ConfigDict({"name": "diff_augment", "strength": 0.55})  # after the burn-in
        config.network = ConfigDict(
            {
                "name": "r3gan",
                "widths": (768, 768, 768, 768),  # at 4x4 to 32x32
                "blocks": 2,  # per stage
                "cardinality": 96,  # groups
                "expansion": 2,
                "embedding_dim": 64,  # of the label
            }
        )
    full = {
        "batch_size": 512, "num_steps": 390_000, "eval_every": 1000, "checkpoint_every": 1000,
        "optimizer.learning_rate": 2e-4, "discriminator_optimizer.learning_rate": 2e-4,
        "gan.burn_in.share": 0.1, "gan.burn_in.learning_rate": 0.25, "gan.burn_in.penalty": 0.1,
        "gan.penalty.weight": 0.05,  # at the start; 0.005 after the burn-in
        "ema": 0.99993,  # a half-life of 5 million images
    }  # fmt: skip
    return with_tiny(config, variant, {}, {"full": full})

"""AC-GAN on CIFAR-10 (Odena et al. 2017, appendix A, table 2).

    python -m gen_jax.main --config=configs/acgan_cifar10.py

The generator has 2,994,051 parameters, the discriminator 1,664,875. The paper sweeps both learning rates over 1e-4,
2e-4, 3e-4 and the noise over 0, 0.1, 0.2. It needs an accelerator: here only networks of half the widths were trained,
for 2,000 steps, ten minutes on one core, after which the Frechet distance of 2,000 samples is 49.9, a mean of three
seeds (docs/results.md, "AC-GAN and a conditional GAN"). Variant: `:tiny` is a short run that checks that everything
works.
"""

from ml_collections import ConfigDict

from gen_jax.config import Config
from gen_jax.gan.defaults import gan_config, with_tiny


def get_config(variant: str = "") -> Config:
    config = gan_config("acgan")
    config.data.name = "cifar10"
    config.batch_size = 100
    config.num_steps = 50_000
    config.network = ConfigDict(
        {
            "name": "conv",
            "generator_channels": (384, 192, 96),  # at 4x4 to 16x16; the last layer outputs 32x32
            "generator_kernel": 5,
            "generator_norm": "batch",
            "generator_norm_first": False,
            "upsampling": "transposed",
            "channels": (16, 32, 64, 128, 256, 512),
            "strides": (2, 1, 2, 1, 2, 1),
            "kernel": 3,
            "norm": "batch",
            "dropout": 0.5,
            "activation_noise": 0.0,  # standard deviation, in the discriminator
            "conv_bias": True,  # before a normalisation, without effect, as in the published network
        }
    )
    return with_tiny(config, variant, {"network.strides": (2, 2)})

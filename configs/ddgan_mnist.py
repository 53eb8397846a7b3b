"""A small denoising diffusion GAN on MNIST, conditional: four network calls per sample (Xiao et al. 2022).

    python -m gen_jax.main --config=configs/ddgan_mnist.py

Noise levels, loss and kind of penalty are those of the paper; networks, rates, the penalty's weight and the length are
ours. After 1,500 steps (seed 0, --config.num_steps=1500) samples are clear and monotonous: 98.5% of 1,000 are
classified with a confidence above 0.9 (real digits: 96.6%), with a recall of 0.43 (0.88), a Frechet distance of 30 (2).
Relativistic pairs (--config.gan.loss=relativistic) gave 95.4%, 0.56 and 25 (docs/results.md). The whole length has not
been run. Variant: `:tiny` is a short run that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import Config, with_variant
from gen_jax.ddgan.model import ddgan_config

TINY = {
    "num_steps": 40, "log_every": 5, "eval_every": 20, "checkpoint_every": 20, "batch_size": 16, "gan.latents": 16,
    "network.channels": 8, "network.discriminator_channels": (8, 8), "network.hidden": (16,),
    "network.mapping_width": 16, "network.mapping_depth": 2,
    "sample.num": 100, "eval.num_examples": 256, "eval.num_samples": 200, "eval.classifier_steps": 200,
    "eval.track": 100,
}  # fmt: skip


def get_config(variant: str = "") -> Config:
    config = ddgan_config()
    config.data.name = "mnist"
    config.batch_size = 32
    config.num_steps = 5_500
    config.log_every = 100
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.optimizer.learning_rate = 3e-4
    config.optimizer.decay = {"name": "none"}
    config.discriminator_optimizer.learning_rate = 1e-3
    config.gan.penalty.update(weight=0.2, every=8)
    config.gan.latents = 64
    config.gan.conditional = True
    config.network = ConfigDict(
        {
            "name": "unet",
            "channels": 32,  # of the first level
            "multipliers": (1, 2),
            "num_blocks": 1,
            "attention_sizes": (),  # only in the middle
            "patch": 2,  # 28x28x1 -> 14x14x4
            "mapping_width": 128,
            "mapping_depth": 4,
            "discriminator_channels": (64, 128),  # at 14x14, 7x7
            "hidden": (256,),
        }
    )
    return with_variant(config, variant, {"tiny": TINY})

"""A VAE of two levels with a VampPrior on statically binarised MNIST (Tomczak & Welling 2018: 2,823,024 parameters).

    python -m gen_jax.main --config=configs/hvae_mnist.py
    python -m gen_jax.main --config=configs/hvae_mnist.py --mode=eval \\
        --config.eval.importance_samples=5000 --config.eval.num_examples=1000

Both levels have 40 latents; the VampPrior is of the upper one, z2. Recipe, data and pseudo-inputs are those of
configs/vamp_mnist.py, the model of one level, and so differ from the paper's. With `--config.vae.prior=standard` it has
2,431,024 parameters. Variant: `:tiny` is a short run that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import with_variant
from gen_jax.vae.defaults import TINY
from gen_jax.vae.hvae import hvae_config


def get_config(variant: str = "") -> ConfigDict:
    config = hvae_config()
    config.data.name = "mnist"
    config.batch_size = 100
    config.num_steps = 30_000  # 50 epochs
    config.log_every = 200
    config.eval_every = 3000
    config.checkpoint_every = 3000
    config.optimizer.decay = {"name": "linear", "share": 0.6}

    config.network.hidden = (300, 300)  # of two inputs: 300 for each, then 300 for both
    config.network.activation = "gated"  # or relu, tanh
    config.vae.latents = (40, 40)  # of z1 and of z2
    config.vae.binarisation = "static"
    config.vae.kl_warmup_steps = 6000  # 10 epochs
    config.vae.prior = ConfigDict({"name": "vamp", "num_components": 500})

    tiny = TINY | {
        "network.hidden": (32, 32), "vae.latents": (8, 8), "vae.kl_warmup_steps": 10, "vae.prior.num_components": 24,
    }  # fmt: skip
    return with_variant(config, variant, {"tiny": tiny})

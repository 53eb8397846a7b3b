"""A VAE with dense layers on dynamically binarised MNIST, for its log-likelihood (Tomczak & Welling 2018, one level).

    python -m gen_jax.main --config=configs/vae_mnist_dense.py
    python -m gen_jax.main --config=configs/vae_mnist_dense.py --mode=eval \\
        --config.eval.importance_samples=5000 --config.eval.num_examples=1000

The second command estimates -log p(x) in nats with 5,000 importance samples for each of 1,000 test images: 87.4
(docs/results.md), after 40,000 steps, which take 11 minutes on two shared cores of an AMD EPYC.
`--config.vae.conditional=true` gives encoder and decoder the class. Variant: `:tiny` is a short run that checks that
everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import with_variant
from gen_jax.vae.defaults import TINY, vae_config


def get_config(variant: str = "") -> ConfigDict:
    config = vae_config()
    config.data.name = "mnist"
    config.num_steps = 40_000  # 85 epochs
    config.log_every = 200
    config.eval_every = 4000
    config.checkpoint_every = 4000
    # The gradient of a sum over 784 pixels is nearly always clipped to a norm of 1, much like Tomczak & Welling, who
    # divide each gradient by its norm; Adam then needs no smaller learning rate at the steep start.
    config.optimizer.decay = {"name": "linear", "share": 0.6}

    config.network = ConfigDict(
        {
            "name": "dense",
            "hidden": (300, 300),  # of the encoder; the decoder has them in reverse order
            "activation": "gated",  # or relu, tanh
        }
    )
    config.vae.latents = 40
    config.vae.binarisation = "dynamic"
    config.vae.kl_warmup_steps = 4000

    tiny = TINY | {"network.hidden": (32,), "vae.latents": 8, "vae.kl_warmup_steps": 10}
    return with_variant(config, variant, {"tiny": tiny})

"""A VAE of dense layers on dynamically binarised MNIST, for its log-likelihood (Tomczak & Welling 2018, one level).

    python -m gen_jax.main --config=configs/vae_mnist_dense.py
    python -m gen_jax.main --config=configs/vae_mnist_dense.py --mode=eval \
        --config.eval.importance_samples=5000 --config.eval.num_examples=1000

The second command estimates -log p(x) in nats with 5,000 importance samples for each of 1,000 test images.
Variant: `:tiny` is a short run that shows that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import base_config, with_variant


def get_config(variant: str = "") -> ConfigDict:
    config = base_config()
    config.method = "vae"
    config.data.name = "mnist"

    config.batch_size = 128
    config.num_steps = 40_000  # 85 epochs
    config.log_every = 200
    config.eval_every = 4000
    config.checkpoint_every = 4000
    # The gradient of a sum over 784 pixels is nearly always clipped to a norm of 1, as Tomczak & Welling divide each
    # gradient by its norm; Adam then needs no smaller rate in the steep beginning.
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay = "linear"
    config.optimizer.decay_share = 0.6

    config.network = ConfigDict(
        {
            "name": "dense",
            "hidden": (300, 300),  # of the encoder; the decoder has them the other way round
            "activation": "gated",  # or relu, tanh
        }
    )
    config.vae = ConfigDict(
        {
            "latents": 40,
            "likelihood": "bernoulli",
            "binarisation": "dynamic",
            "sigma": 0.1,
            "beta": 1.0,
            "kl_warmup_steps": 4000,
            "free_bits": 0.0,
        }
    )
    config.eval.importance_samples = 0

    return with_variant(
        config,
        variant,
        {
            "tiny": {
                "num_steps": 40, "log_every": 5, "eval_every": 20, "checkpoint_every": 20, "batch_size": 32,
                "network.hidden": (32,), "vae.latents": 8, "vae.kl_warmup_steps": 10,
                "sample.num": 100, "eval.num_examples": 256, "eval.num_samples": 200, "eval.classifier_steps": 200,
            },
        },
    )  # fmt: skip

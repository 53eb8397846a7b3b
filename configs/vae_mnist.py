"""A VAE with two latents on MNIST: the manifold of digits.

    python -m gen_jax.main --config=configs/vae_mnist.py

Grey values are trained on by their cross-entropy (`bernoulli`), which is no likelihood; configs/vae_mnist_dense.py
measures one. Variant: `:tiny` is a short run that shows that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import base_config, with_variant


def get_config(variant: str = "") -> ConfigDict:
    config = base_config()
    config.method = "vae"
    config.data.name = "mnist"

    config.batch_size = 128
    config.num_steps = 14_000  # 30 epochs
    config.log_every = 100
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay = "linear"
    config.optimizer.decay_share = 0.5

    config.network = ConfigDict(
        {
            "name": "conv",  # or dense, residual, with the fields of their classes in gen_jax/vae/networks.py
            "channels": (32, 64),  # of the encoder's convolutions, each of stride 2
            "kernels": (3, 3),
            "hidden": (16,),
            "decoder_hidden": (),
            "decoder_channels": (64, 32),  # of the transposed convolutions of stride 2
            "decoder_kernel": 3,
            "last_stride": 1,  # of the one that makes the outputs
        }
    )
    config.vae = ConfigDict(
        {
            "latents": 2,
            "likelihood": "bernoulli",  # or gaussian, gaussian_learned, discretised_logistic
            "binarisation": "none",  # or dynamic (drawn anew in every step), threshold
            "sigma": 0.1,  # gaussian only: standard deviation of a pixel in [0, 1]
            "beta": 1.0,  # weight of the KL
            "kl_warmup_steps": 0,  # that the weight takes to rise from zero
            "free_bits": 0.0,  # nats that each latent may hold at no cost
            "manifold": True,  # draws the images over the plane of the two latents, as training goes too
        }
    )
    config.eval.importance_samples = 0  # of the NLL; takes long, so with --mode=eval: 5000

    return with_variant(
        config,
        variant,
        {
            "tiny": {
                "num_steps": 40, "log_every": 5, "eval_every": 20, "checkpoint_every": 20, "batch_size": 32,
                "network.channels": (4, 8), "network.decoder_channels": (8, 4),
                "sample.num": 100, "eval.num_examples": 256, "eval.num_samples": 200, "eval.classifier_steps": 200,
            },
        },
    )  # fmt: skip

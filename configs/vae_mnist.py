"""A VAE with two latents on MNIST: the manifold of digits.

    python -m gen_jax.main --config=configs/vae_mnist.py

The training loss of grey values is their cross-entropy (`bernoulli`), which is not a likelihood;
configs/vae_mnist_dense.py measures one. 14,000 steps took 53 minutes in parallel with three other runs on two shared
cores of an AMD EPYC (a step alone takes about 80 ms), and reach a loss of 149.6 nats on test images, including a KL of
6.9 (docs/results.md). Variant: `:tiny` is a short run that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import with_variant
from gen_jax.vae.defaults import TINY, vae_config


def get_config(variant: str = "") -> ConfigDict:
    config = vae_config()
    config.data.name = "mnist"
    config.num_steps = 14_000  # 30 epochs
    config.log_every = 100
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.optimizer.decay = {"name": "linear", "share": 0.5}

    config.network = ConfigDict(
        {
            "name": "conv",  # or dense, residual, with the fields of their classes in gen_jax/vae/networks.py
            "channels": (32, 64),  # of the encoder's convolutions, each of stride 2
            "kernels": (3, 3),
            "hidden": (16,),
            "decoder_hidden": (),
            "decoder_channels": (64, 32),  # of the layers that double the size
            "decoder_kernel": 3,
            "last_stride": 1,  # of the output layer
            "upsampling": "transposed",  # or nearest (resize-convolution), shuffle (sub-pixel convolution)
        }
    )
    config.vae.manifold = True

    return with_variant(
        config,
        variant,
        {"tiny": TINY | {"network.channels": (4, 8), "network.decoder_channels": (8, 4)}},
    )

"""A VAE with a VampPrior on statically binarised MNIST (Tomczak & Welling 2018, one level: 1,508,864 parameters).

    python -m gen_jax.main --config=configs/vamp_mnist.py
    python -m gen_jax.main --config=configs/vamp_mnist.py --mode=eval \\
        --config.eval.importance_samples=5000 --config.eval.num_examples=1000

The prior is the mean of the encoder's posteriors at 500 learned pseudo-inputs. Training took 18 minutes on two cores of
an Intel Xeon, beside other work; the second command finds a negative log-likelihood of 86.5 nats (seed 0, standard
error 0.7; published: 85.57). Each pixel of each image is drawn once, by a fixed seed of this project's own, and not as
by Larochelle & Murray 2011, on whose draw the paper measures. For comparison, `--config.vae.prior=standard
--workdir=runs/standard_prior` trains the same network without pseudo-inputs. Variant: `:tiny` is a short run that
checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import with_variant
from gen_jax.vae.defaults import TINY, vae_config


def get_config(variant: str = "") -> ConfigDict:
    config = vae_config()
    config.data.name = "mnist"
    config.batch_size = 100
    config.num_steps = 30_000  # 50 epochs
    config.log_every = 200
    config.eval_every = 3000
    config.checkpoint_every = 3000
    config.optimizer.decay = {"name": "linear", "share": 0.6}

    config.network = ConfigDict(
        {
            "name": "dense",
            "hidden": (300, 300),  # of the encoder; the decoder has them in reverse order
            "activation": "gated",  # or relu, tanh
        }
    )
    config.vae.latents = 40
    config.vae.binarisation = "static"
    config.vae.kl_warmup_steps = 6000  # 10 epochs
    config.vae.prior = ConfigDict({"name": "vamp", "num_components": 500})

    tiny = TINY | {
        "network.hidden": (32,), "vae.latents": 8, "vae.kl_warmup_steps": 10, "vae.prior.num_components": 24,
    }  # fmt: skip
    return with_variant(config, variant, {"tiny": tiny})

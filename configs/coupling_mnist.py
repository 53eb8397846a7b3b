"""A normalizing flow of affine couplings on MNIST: exact likelihoods, and samples in one pass.

    python -m gen_jax.main --config=coupling_mnist

Two levels of eight steps of Glow, behind a histogram of grey values: 60,064 parameters. The 12,000 steps took 30
minutes on two shared cores of an Intel Xeon, beside other work, and reached 1.13 bits/dim (docs/results.md). Variant:
`:tiny` checks that everything works, in under a minute.
"""

from ml_collections import ConfigDict

from gen_jax.config import with_variant
from gen_jax.nflow.coupling import coupling_config
from gen_jax.nflow.defaults import TINY


def get_config(variant: str = "") -> ConfigDict:
    config = coupling_config()
    config.data.name = "mnist"
    config.num_steps = 12_000
    config.log_every = 100
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 200
    config.optimizer.decay = {"name": "linear", "share": 0.5}
    config.network.width = 32
    config.sample.temperature = 0.8

    tiny = TINY | {"network.width": 8, "coupling.steps": 1}
    return with_variant(config, variant, {"tiny": tiny})

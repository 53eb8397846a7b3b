"""Flow matching on MNIST: the network and training time of ddpm_mnist, along a straight path.

    python -m gen_jax.main --config=flow_mnist

It takes 14 minutes by its own estimate (190 ms per step) on two shared cores of an AMD EPYC. About 90% of the samples
are classified with a confidence above 0.9 (real digits: 96%), and their Frechet distance is 3.0 to 3.4 (real digits:
1.9; docs/results.md). Variants: `:logit_normal` draws most times in the middle of the path; `:tiny` checks that
everything works, in under a minute.
"""

from ml_collections import ConfigDict

from gen_jax.config import with_variant
from gen_jax.diffusion.defaults import TINY, on_digits
from gen_jax.diffusion.flow import flow_config


def get_config(variant: str = "") -> ConfigDict:
    config = on_digits(flow_config())
    config.sample.num_steps = 13  # of Heun's method, with two network calls each except the last: 25 calls

    variants = {"tiny": TINY, "logit_normal": {"diffusion.times": {"name": "logit_normal"}}}
    return with_variant(config, variant, variants)

"""Class-conditional DDPM on MNIST: new digits in less than ten minutes on two CPU cores.

    python -m gen_jax.main --config=configs/ddpm_mnist.py

About 92% of the samples are classified with a confidence above 0.9 (real digits: 96%).
Variants: `:guided` drops a tenth of the labels in training, and samples with a guidance scale of 1.25, at which its
samples cover most of the real digits; about 96% are confident (docs/results.md has other scales). `:tiny` checks that
everything works, in under a minute. `:long` trains a wider network for 20,000 steps, in about an hour; about 95% of its
samples are confident. On an accelerator: --config.batch_size=512.
"""

from ml_collections import ConfigDict

from gen_jax.config import with_variant
from gen_jax.diffusion.defaults import TINY, diffusion_config, on_digits


def get_config(variant: str = "") -> ConfigDict:
    config = on_digits(diffusion_config("ddpm"))
    config.sample.num_steps = 25

    return with_variant(
        config,
        variant,
        {
            "tiny": TINY,
            "guided": {"diffusion.label_drop": 0.1, "sample.guidance": 1.25},
            "long": {"num_steps": 20_000, "eval_every": 4000, "checkpoint_every": 1000, "network.channels": 48},
        },
    )  # fmt: skip

"""MeanFlow on MNIST (Geng et al. 2025): digits in one network call, from a model trained without a teacher.

    python -m gen_jax.main --config=meanflow_mnist

The network, and the number of steps and examples, are those of ddpm_mnist; a step costs more, because it takes a
derivative of the network. `--config.sample.num_steps=2` samples in two calls, `--config.sample.sampler=heun` as an
ordinary flow. Nobody has trained it to the end yet. Variants: `:guided` trains guidance into the network, of scale 2;
`:dit` uses a small transformer; `:tiny` checks that everything works, in about a minute.
"""

from ml_collections import ConfigDict

from gen_jax.config import with_variant
from gen_jax.diffusion.defaults import TINY, on_digits
from gen_jax.diffusion.meanflow import meanflow_config

GUIDED = {"diffusion.label_drop": 0.1, "meanflow.guidance": 1.0, "meanflow.guidance_mix": 0.5}


def get_config(variant: str = "") -> ConfigDict:
    config = on_digits(meanflow_config())
    if variant == "dit":
        config.network = ConfigDict({"name": "dit", "patch": 4, "width": 128, "depth": 4, "num_heads": 4})

    tiny = TINY | {"sample.num_steps": 1}
    return with_variant(config, variant, {"tiny": tiny, "guided": GUIDED, "dit": {}})

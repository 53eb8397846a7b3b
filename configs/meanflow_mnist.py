"""MeanFlow on MNIST (Geng et al. 2025): digits in one network call, from a model trained without a teacher.

    python -m gen_jax.main --config=meanflow_mnist

The network, and the number of examples in a step, are those of ddpm_mnist; a step costs more, because it takes a
derivative of the network. There are twice as many steps: on points in the plane the same weights are a good flow long
before one step of the average velocity is precise. `--config.sample.num_steps=2` samples in two calls;
`--config.sample.sampler=heun --config.sample.num_steps=13` samples it as an ordinary flow, which shows what it has
learnt of the velocity itself. After 2,250 steps, eight minutes on one core, the Frechet distance of samples in one, two
and four calls is 22, 6.5 and 4.3 (real digits: 1.5; two seeds; docs/results.md); the whole length, the paper's times
and its share of r = t have not been measured on digits. Variants: `:guided` trains guidance into the network, of scale
2; `:dit` uses a small transformer; `:tiny` checks that everything works, in about a minute.
"""

from ml_collections import ConfigDict

from gen_jax.config import with_variant
from gen_jax.diffusion.defaults import TINY, on_digits
from gen_jax.diffusion.meanflow import meanflow_config

GUIDED = {"diffusion.label_drop": 0.1, "meanflow.guidance": 1.0, "meanflow.guidance_mix": 0.5}


def get_config(variant: str = "") -> ConfigDict:
    config = on_digits(meanflow_config())
    config.num_steps = 9000
    if variant == "dit":
        config.network = ConfigDict({"name": "dit", "patch": 4, "width": 128, "depth": 4, "num_heads": 4})

    tiny = TINY | {"sample.num_steps": 1}
    return with_variant(config, variant, {"tiny": tiny, "guided": GUIDED, "dit": {}})

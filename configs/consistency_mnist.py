"""Consistency training on MNIST (Song & Dhariwal 2023): digits in one or two network calls, without a teacher.

    python -m gen_jax.main --config=consistency_mnist

The network, and the number of steps and examples, are those of ddpm_mnist; a step calls the network once more. The
number of noise levels doubles four times, up to 160 intervals: 1,280 as in the paper are for runs that are a hundred
times as long. `--config.sample.num_steps=2` samples in two calls, the second from a noise level of 0.8. After 2,250
steps, eight minutes on one core, the Frechet distance of samples in one and two calls is 22 and 15 (real digits: 1.5;
two seeds; docs/results.md); the whole length has not been measured. Variant: `:tiny` checks that everything works, in
about a minute.
"""

from ml_collections import ConfigDict

from gen_jax.config import with_variant
from gen_jax.diffusion.consistency import consistency_config
from gen_jax.diffusion.defaults import TINY, on_digits


def get_config(variant: str = "") -> ConfigDict:
    config = on_digits(consistency_config())
    config.consistency.sigma_data = 0.616  # of MNIST's training pixels in [-1, 1]: see edm_mnist
    config.consistency.last = 160

    return with_variant(config, variant, {"tiny": TINY | {"sample.num_steps": 1}})

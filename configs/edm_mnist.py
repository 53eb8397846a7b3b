"""EDM on MNIST (Karras et al. 2022): the network and training time of ddpm_mnist, where noise explodes.

    python -m gen_jax.main --config=edm_mnist

x_t = x0 + q eps, with q from 0.002 to 80: in training ln q is normal, N(-1.2, 1.2^2), and samples take 18 steps of
Heun's method down the paper's levels, in 35 network calls. The network predicts the paper's F; its input, target and
loss have unit variance for data of standard deviation 0.616, that of MNIST's training pixels in [-1, 1]:

    python -c "from gen_jax import methods; from gen_jax.data import dataset; \\
        x = dataset.load(methods.load('edm_mnist')[2].data).train['image'] / 127.5 - 1; print(x.std())"

`--config.sample.sampler=edm` adds the paper's churn. Variant: `:tiny` checks that everything works, in under a minute.
"""

from ml_collections import ConfigDict

from gen_jax.config import with_variant
from gen_jax.diffusion.defaults import TINY, diffusion_config, on_digits

SIGMA_DATA = 0.616


def get_config(variant: str = "") -> ConfigDict:
    config = on_digits(diffusion_config("ddpm"))
    config.diffusion.schedule = {"name": "variance_exploding", "sigma_min": 0.002, "sigma_max": 80.0}
    config.diffusion.prediction = {"name": "edm", "sigma_data": SIGMA_DATA}
    config.diffusion.weighting = {"name": "edm", "sigma_data": SIGMA_DATA}
    config.diffusion.input_scale = {"name": "unit_variance", "sigma_data": SIGMA_DATA}
    config.diffusion.times = {"name": "log_normal"}
    config.diffusion.told = "log_snr"
    config.sample.sampler = {"name": "heun"}
    config.sample.spacing = {"name": "karras"}
    config.sample.num_steps = 18

    return with_variant(config, variant, {"tiny": TINY})

"""Normal data, whose denoiser is known in closed form, for the tests of samplers."""

import jax.numpy as jnp

from gen_jax.diffusion.schedule import Level
from gen_jax.method import broadcast_to_images

MEAN, STD = 0.3, 0.5


def exact(x_t, level):
    """x0_hat."""
    level = Level(*(broadcast_to_images(jnp.asarray(value), x_t) for value in level))
    gain = level.alpha * STD**2 / ((level.alpha * STD) ** 2 + level.sigma**2)
    return MEAN + gain * (x_t - level.alpha * MEAN)

"""Flow matching (Lipman et al. 2023, Liu et al. 2023): diffusion along the straight path, with velocity prediction.

It is `ddpm` with other defaults: a DDIM step along the straight path is an Euler step of the velocity.
"""

from __future__ import annotations

from gen_jax.config import Config
from gen_jax.diffusion import ddpm, model
from gen_jax.diffusion.defaults import diffusion_config

make = ddpm.make


def flow_config() -> Config:
    """Returns `diffusion_config` for flow matching."""
    config = diffusion_config("flow")
    config.diffusion.schedule = {"name": "straight"}
    config.diffusion.prediction = {"name": "velocity"}
    config.diffusion.weighting = {"name": "velocity"}
    config.sample.sampler = {"name": "heun"}
    return config


OPTIONS = ddpm.OPTIONS._replace(defaults=flow_config, title="Flow matching", moved={}, choices=model.CHOICES)

"""Defaults of all diffusion configs; the files in configs/ contain only what differs."""

from __future__ import annotations

from ml_collections import ConfigDict

from gen_jax.config import Config, base_config
from gen_jax.diffusion.model import CHOICES

# Keys of versions before 0.2 and their new names.
MOVED = {
    "diffusion.num_timesteps": "diffusion.schedule.num_steps",
    "diffusion.zero_terminal_snr": "diffusion.schedule.zero_terminal_snr",
    "sample.eta": "sample.sampler.eta",
    "sample.variance": "sample.sampler.variance",
}

TINY = {
    "num_steps": 40, "log_every": 5, "eval_every": 20, "checkpoint_every": 20,
    "network.channels": 8,
    "sample.num": 100, "sample.num_steps": 10, "eval.num_examples": 256, "eval.num_samples": 200,
    "eval.classifier_steps": 200,
}  # fmt: skip
"""A run that checks that everything works, in under a minute."""


def diffusion_config(method: str) -> Config:
    """Returns `base_config` with the additional values of a diffusion model.

    Args:
      method: a key of `methods.METHODS`.

    Example:
      >>> diffusion_config("ddpm").diffusion.schedule.name
      'cosine'
    """
    config = base_config()
    config.method = method
    config.network = ConfigDict(CHOICES["network"].start("unet"))
    config.diffusion = ConfigDict(
        {
            "schedule": CHOICES["diffusion.schedule"].start("cosine"),
            "prediction": CHOICES["diffusion.prediction"].start("v"),
            "weighting": CHOICES["diffusion.weighting"].start("v"),
            "times": CHOICES["diffusion.times"].start("uniform"),  # density in training; or logit_normal, log_normal
            "input_scale": CHOICES["diffusion.input_scale"].start("none"),  # or unit_variance
            "variance": CHOICES["diffusion.variance"].start("fixed"),  # or learned
            "told": "time",  # noise conditioning; or log_snr
            "conditional": False,  # on the class label, or on texts, where data.text names an encoder
            "label_drop": 0.0,  # share of labels, or of texts, dropped in training, for guidance
            "mirror": False,  # left-right, half of the training images; not for letters and digits
        }
    )
    config.sample.update(
        {
            "sampler": CHOICES["sample.sampler"].start("ancestral"),  # or ddim, euler, heun, edm, dpm_solver, plms
            "num_steps": 25,
            "spacing": CHOICES["sample.spacing"].start("trailing"),  # or leading, linspace, karras
            "guidance": 1.0,  # 1: the conditional model, 0: the unconditional one
            "guidance_rescale": 0.0,  # share of the guided estimate that gets the conditional one's contrast, 0 to 1
            "guidance_interval": "0,1",  # part of the path that is guided, in fractions: 0 is data, 1 is noise
            "clip": True,  # x0_hat stays in [-1, 1]
            "dynamic_threshold": 0.0,  # quantile of |x0_hat| that becomes 1 if it is larger; 0: values are cut off at 1
        }
    )
    config.eval.likelihood = ConfigDict(CHOICES["eval.likelihood"].start("none"))  # or bound, ode
    return config


def on_digits(config: Config) -> Config:
    """Returns `config` with the values that all MNIST configs of this family share: data, network and training time.

    The U-Net has 680,612 parameters on images of 28x28x1.

    Args:
      config: from `diffusion_config`; it is modified in place.

    Example:
      >>> config = on_digits(diffusion_config("ddpm"))
      >>> config.num_steps, config.network.channels
      (4500, 32)
    """
    config.data.name = "mnist"
    config.data.offline_substitute = "stroke_digits"
    config.batch_size = 32
    config.num_steps = 4500
    config.eval_every = 1000
    config.ema = 0.998
    config.optimizer = {"name": "muon", "learning_rate": 0.02, "b2": 0.99, "warmup_steps": 100, "decay": "linear"}
    config.network = ConfigDict(
        {
            "name": "unet",
            "channels": 32,  # of the first level
            "multipliers": (1, 2),
            "num_blocks": 1,
            "attention_sizes": (),  # only in the middle
            "patch": 2,  # 28x28x1 -> 14x14x4
            "norm": "rms",
            "film": True,
            "shuffle": True,
            "use_bias": False,
        }
    )
    config.diffusion.conditional = True
    return config

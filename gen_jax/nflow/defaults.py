"""Defaults of all configs of normalizing flows; the files in configs/ contain only what differs."""

from __future__ import annotations

from gen_jax.config import Config, base_config

TINY = {
    "num_steps": 40, "log_every": 5, "eval_every": 20, "checkpoint_every": 20, "batch_size": 16,
    "sample.num": 100, "eval.num_examples": 256, "eval.num_samples": 200, "eval.classifier_steps": 200,
}  # fmt: skip
"""A run that checks that everything works, in under a minute."""


def nflow_config(method: str) -> Config:
    """Returns `base_config` with the additional values that all normalizing flows share.

    Args:
      method: a key of `methods.METHODS`.

    Example:
      >>> nflow_config("coupling").sample.temperature
      1.0
    """
    config = base_config()
    config.method = method
    config.optimizer.learning_rate = 1e-3
    config.sample.temperature = 1.0  # standard deviation of the noise; below 1: likelier and less diverse pictures
    return config

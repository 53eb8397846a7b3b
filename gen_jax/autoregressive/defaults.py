"""Defaults of the configs of autoregressive models; the files in configs/ contain only what differs."""

from __future__ import annotations

from ml_collections import ConfigDict

from gen_jax.autoregressive.pixelcnn import PixelCNN
from gen_jax.config import Choice, Config, base_config

NETWORKS = {"pixelcnn": (PixelCNN,)}
GIVEN = ("num_values", "grid", "num_classes", "dtype")
CHOICES = {"network": Choice(NETWORKS, GIVEN)}

TINY = {
    "num_steps": 40, "log_every": 5, "eval_every": 20, "checkpoint_every": 20, "batch_size": 16,
    "sample.num": 100, "eval.num_examples": 256, "eval.num_samples": 200, "eval.classifier_steps": 200,
    "network.width": 8, "network.depth": 2,
}  # fmt: skip
"""A run that checks that everything works, in under a minute."""


def autoregressive_config(first_stage: Config | None = None) -> Config:
    """Returns the config of an autoregressive model.

    Args:
      first_stage: config of the model whose codes it models; None: it models grey values.

    Example:
      >>> autoregressive_config().sample.temperature
      1.0
    """
    config = base_config()
    config.method = "autoregressive"
    config.optimizer.learning_rate = 1e-3
    config.network = ConfigDict(CHOICES["network"].start("pixelcnn"))
    config.autoregressive = ConfigDict(
        {
            "conditional": False,  # on the class label
            "levels": 0,  # grey values of pictures, if there is no first stage; 0: all
        }
    )
    config.pretrained = first_stage or ""  # a config, or the directory of a run; "": none
    config.sample.temperature = 1.0  # logits are divided by it; below 1: likelier and less diverse samples
    return config

"""Denoising diffusion (Ho et al. 2020) in pixels, with any path, prediction, weighting and sampler of this package."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from gen_jax.config import Config, Options
from gen_jax.diffusion import model
from gen_jax.diffusion.defaults import MOVED, diffusion_config
from gen_jax.diffusion.likelihood import MEASURES
from gen_jax.method import DataSpec, Method, Stage, UserError
from gen_jax.text.texts import TEXT


def ddpm_config() -> Config:
    """Returns `diffusion_config` for DDPM, which may also be conditional on texts."""
    config = diffusion_config("ddpm")
    config.data.text = ConfigDict(TEXT.start("none"))  # or an encoder of captions: words, char_cnn_rnn, sentence, file
    return config


OPTIONS = Options(
    ddpm_config,
    "DDPM",
    {**model.CHOICES, "data.text": TEXT},
    MOVED,
    shares=("network.dropout", "diffusion.label_drop"),
    measures=MEASURES,
)


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns DDPM as a method; see `configs/ddpm_mnist.py` for its config values.

    Raises:
      UserError: the data are not pictures, or `model.make` raises it.
    """
    if spec.kind != "image":
        raise UserError(f"{config.method} needs pictures; data set {spec.name} holds {spec.kind}")
    return model.make(config, spec, model.pixels(spec))

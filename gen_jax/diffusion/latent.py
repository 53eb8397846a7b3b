"""Latent diffusion (Rombach et al. 2022): diffusion on the codes of an autoencoder, a frozen first stage.

Codes are the means of q(z | x). They are shifted and scaled to mean 0 and standard deviation 1 per channel, based on
the training examples that `init` sees; State.variables holds shift and scale. The decoder stays as the first stage left
it: fine-tuning it for sharper pictures is left out.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_jax.config import Config, Measure
from gen_jax.diffusion import ddpm, model
from gen_jax.diffusion.defaults import diffusion_config
from gen_jax.method import Array, Batch, DataSpec, Key, Method, PyTree, Scalars, Stage, State, UserError, to_model
from gen_jax.metrics.psnr import psnr

SMALLEST_SCALE = 1e-3  # lower bound, for channels that hardly vary
MEASURES = {"psnr": Measure("peak signal-to-noise ratio of images that the first stage encodes and decodes", "dB")}


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns latent diffusion as a method; see `configs/latent_mnist.py` for its config values.

    Raises:
      UserError: there is no first stage, its codes are not small pictures of real numbers, or `model.make` raises it.
    """
    if stage is None:
        raise UserError(
            "config.pretrained is empty: latent diffusion needs an autoencoder, as a run's directory or a config"
        )
    return model.make(config, spec, codes(stage))


def codes(stage: Stage) -> model.Domain:
    """Returns the domain of a first stage's codes.

    Raises:
      UserError: they are not small pictures of real numbers.
    """
    code = stage.method.code
    if code is None or code.kind == "integers" or len(code.shape) != 3:
        what = "makes no codes" if code is None else f"makes codes of {code.kind}, {'x'.join(map(str, code.shape))}"
        raise UserError(
            f"config.pretrained names a {stage.config.method} that {what}; latent diffusion needs codes that are small "
            "pictures of real numbers, such as those of an autoencoder, an scvae, or a vae with a spatial network and "
            "no labels"
        )

    def encode(frozen: PyTree, batch: Batch, key: Key) -> Array:
        return code.encode(Stage.state(frozen), batch, key)

    def init(examples: Batch, frozen: PyTree) -> dict[str, PyTree]:
        codes = encode(frozen, examples, Stage.state(frozen).key)
        scale = jnp.maximum(jnp.std(codes, axis=(0, 1, 2)), SMALLEST_SCALE)
        return {"codes": {"shift": jnp.mean(codes, axis=(0, 1, 2)), "scale": scale}}

    def enter(state: State, batch: Batch, key: Key) -> Array:
        codes = state.variables["codes"]
        return (encode(state.frozen, batch, key) - codes["shift"]) / codes["scale"]

    def leave(state: State, x: Array) -> Array:
        codes = state.variables["codes"]
        return code.decode(Stage.state(state.frozen), x * codes["scale"] + codes["shift"])

    def measures(state: State, batch: Batch, key: Key) -> Scalars:
        x = to_model(batch["image"], stage.spec.value_range)
        return {"psnr": psnr(x, leave(state, enter(state, batch, key)))}

    return model.Domain(code.shape, init, enter, leave, measures=measures)


def latent_config() -> Config:
    """Returns `diffusion_config` for latent diffusion, with an autoencoder that is trained first."""
    config = diffusion_config("latent")
    config.pretrained = ConfigDict({"method": "vae", "network": {"name": "spatial"}, "vae": {"latents": 196}})
    config.sample.clip = False  # codes are unbounded
    return config


OPTIONS = ddpm.OPTIONS._replace(
    defaults=latent_config,
    title="Latent diffusion",
    choices=model.CHOICES,
    moved={},
    measures={**ddpm.OPTIONS.measures, **MEASURES},
)

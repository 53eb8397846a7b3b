"""Super-resolution by diffusion (SR3, Saharia et al. 2021): a DDPM of large pictures that sees the small one.

The network gets the small picture, enlarged bicubically, as additional channels of x_t. Unlike SRResNet and SRGAN it
draws one of the pictures that the small one may come from. All else is as in `ddpm`, so networks, schedules and
samplers differ from the paper's.
"""

from __future__ import annotations

from typing import Any

import jax

from gen_jax.config import Config
from gen_jax.diffusion import ddpm, model
from gen_jax.diffusion.defaults import diffusion_config
from gen_jax.method import (
    Array,
    Batch,
    DataSpec,
    Figure,
    Key,
    Method,
    Scalars,
    Stage,
    State,
    UserError,
    keys_of,
    to_model,
)
from gen_jax.superres import upscaling


def sr3_config() -> Config:
    """Returns `diffusion_config` for super-resolution by 4.

    Example:
      >>> sr3_config().data.reduce
      4
    """
    config = diffusion_config("sr3")
    config.data.reduce = 4
    config.sample.num = 64  # small copies of test pictures, if there are as many
    return config


OPTIONS = ddpm.OPTIONS._replace(
    defaults=sr3_config,
    title="SR3",
    choices=model.CHOICES,
    moved={},
    measures={name: measure for name, measure in upscaling.MEASURES.items() if name != "content"},
)


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns super-resolution by diffusion as a method; see `configs/sr3_t91.py` for its config values.

    `evaluate` also samples: it costs `sample.num_steps` network calls an example.

    Raises:
      UserError: data without smaller copies of its pictures, a model of labels, or `model.make` raises it.
    """
    factor = upscaling.factor_of(config.method, spec)
    if config.diffusion.conditional:
        raise UserError(
            "config.diffusion.conditional is true, but sr3 is conditional on the small picture and on nothing else: "
            "use false"
        )
    beside = model.Beside(
        "small", spec.features["small"].shape, lambda small: to_model(upscaling.enlarged(spec, small), (0, 255))
    )
    base = model.make(config, spec, model.pixels(spec)._replace(grey=False, beside=beside))

    def made(state: State, batch: Batch, key: Key) -> Array:
        return base.sample(state, keys_of(key, batch["index"]), {"small": batch["small"]})

    def evaluate(state: State, batch: Batch, key: Key) -> Scalars:
        assert base.evaluate is not None
        drawn = made(state, batch, jax.random.fold_in(key, 3))
        return {**base.evaluate(state, batch, key), **upscaling.measured(spec, factor, batch, drawn)}

    def pictures(state: State, key: Key, batch: Batch) -> dict[str, Figure]:
        few = {name: values[: upscaling.NUM_PICTURED] for name, values in batch.items()}
        drawn = made(state, few, jax.random.fold_in(key, 3))
        return {**upscaling.figure(spec, factor, few, {"SR3": drawn}), **base.pictures(state, key, batch)}

    return base._replace(evaluate=evaluate, pictures=pictures)

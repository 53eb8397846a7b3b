"""TarFlow (Zhai et al. 2024): causal transformers over patches as a flow, block by block, each in the other direction.

Training on pictures with a little normal noise makes the better samples: one step along the score, which a flow knows
exactly, removes it at the end. Uniform noise gives the better likelihood of grey values; a histogram makes such pixels
about normal first, for blocks only scale and shift.

Training takes one pass. Sampling does not: a block undoes one patch after the other, each from those before it.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_jax.config import Choice, Config, Options, chosen, modules_of
from gen_jax.method import Array, DataSpec, Method, PyTree, Stage, UserError, counted
from gen_jax.nflow import layers, model, noise
from gen_jax.nflow.bijection import Bijection, chain, fixed
from gen_jax.nflow.defaults import nflow_config
from gen_jax.nflow.transformer import CausalTransformer, autoregressive, patches, turn

NETWORKS = {"transformer": (CausalTransformer,)}
GIVEN = ("out_channels", "grid", "num_classes", "dtype")
CHOICES = {"network": Choice(NETWORKS, GIVEN), "tarflow.noise": Choice(noise.NOISES)}


def tarflow_config() -> Config:
    """Returns the config of a TarFlow.

    Example:
      >>> tarflow_config().tarflow.noise.sigma
      0.05
    """
    config = nflow_config("tarflow")
    config.network = ConfigDict(CHOICES["network"].start("transformer"))
    config.tarflow = ConfigDict(
        {
            "patch": 4,  # side of the squares of pixels that are a token
            "blocks": 4,  # each with a network of its own
            "noise": CHOICES["tarflow.noise"].start("gaussian"),  # or uniform
            "conditional": False,  # on the class label
        }
    )
    return config


OPTIONS = Options(tarflow_config, "TarFlow", CHOICES, measures=model.MEASURES)


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns TarFlow as a method; see `configs/tarflow_mnist.py` for its config values.

    Raises:
      UserError: images that the patches do not divide; and as for `model.make`.
    """
    model.refuse_other_than_pictures(config, spec)
    c = config.tarflow
    rows, columns, values = grid(c.patch, spec.image_shape)
    if c.blocks < 1:
        raise UserError(f"config.tarflow.blocks is {c.blocks}; use 1 or more")
    classes = model.classes_of(config, spec)
    given = {
        "out_channels": 2 * values, "grid": (rows, columns), "num_classes": len(classes),
        "dtype": jnp.dtype(config.compute_dtype),
    }  # fmt: skip
    (network,) = modules_of(config.network, NETWORKS, given)
    uniform = c.noise.name == "uniform"
    pixels = layers.histogram(*model.range_of(spec)) if uniform else fixed(lambda x: x, lambda z: z)
    as_patches, block = patches(c.patch, spec.image_shape), autoregressive(network)
    parts: dict[str, Bijection] = {"pixels": pixels, "patches": as_patches}
    for i in range(c.blocks):
        parts |= {f"block_{i}": block, f"turn_{i}": turn()}

    def way(params: PyTree, z: Array, label: Array | None) -> list[Array]:
        states = [z]
        for i in reversed(range(c.blocks)):
            states.append(block.inverse(params[f"block_{i}"], states[-1][:, ::-1], label))
        # The input of block i has been turned i times.
        turned = [s[:, ::-1] if i % 2 else s for i, s in enumerate(states[::-1])][::-1]
        return [pixels.inverse(params.get("pixels", {}), as_patches.inverse({}, s, None), None) for s in turned]

    made = chosen(CHOICES["tarflow.noise"], c.noise)
    order = f"{counted(rows * columns, 'patch', 'patches')} one by one through {counted(c.blocks, 'block')}"
    return model.make(config, spec, chain(parts), made, (rows * columns, values), classes, way, order)


def grid(patch: int, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Returns rows and columns of patches, and the numbers in a patch.

    Raises:
      UserError: the image does not divide into patches.

    Example:
      >>> grid(4, (28, 28, 1))
      (7, 7, 16)
    """
    height, width, channels = image_shape
    common = math.gcd(height, width)
    if patch < 1 or common % patch:
        sides = ", ".join(str(side) for side in range(1, common + 1) if common % side == 0)
        raise UserError(
            f"config.tarflow.patch is {patch}, and images of {height}x{width} do not divide into such patches: "
            f"use one of {sides}"
        )
    return height // patch, width // patch, patch * patch * channels

"""A flow of affine couplings: RealNVP (Dinh et al. 2017) with the steps of Glow (Kingma & Dhariwal 2018).

Grey values with uniform noise first become about normal, by a histogram of all pixels (RealNVP: go through a logit).
Then each level makes squares of pixels channels, takes some steps of ActNorm, 1x1 convolution and coupling, and puts
half of the channels aside. The half that leaves is the one that the
last coupling has just moved, given the other: so the noise that is put aside depends on what stays, as with Glow's
learned prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_jax.config import Choice, Config, Options, modules_of, require_choice
from gen_jax.method import DataSpec, Method, Stage, UserError
from gen_jax.nflow import layers, model, noise
from gen_jax.nflow.bijection import Bijection, chain, logit, multiscale, squeeze
from gen_jax.nflow.defaults import nflow_config

NETWORKS = {"conv": (layers.ConvNet,)}
GIVEN = ("out_channels", "num_classes", "dtype")
PIXELS: dict[str, Callable[[float, float, int], Bijection]] = {
    "histogram": layers.histogram,
    "logit": lambda low, high, levels: logit(low, high),
}
"""Maps the ends of the interval of noisy pixels and the number of grey values to a bijection."""

CHOICES = {"network": Choice(NETWORKS, GIVEN)}


def coupling_config() -> Config:
    """Returns the config of a flow of couplings.

    Example:
      >>> coupling_config().coupling.squeeze
      (2, 2)
    """
    config = nflow_config("coupling")
    config.network = ConfigDict(CHOICES["network"].start("conv"))
    config.coupling = ConfigDict(
        {
            "pixels": "histogram",  # what makes them about normal; or logit
            "squeeze": (2, 2),  # of each level: side of the squares of pixels that become channels
            "steps": 8,  # of each level
            "conditional": False,  # on the class label
        }
    )
    return config


OPTIONS = Options(coupling_config, "Normalizing flow of affine couplings", CHOICES, measures=model.MEASURES)


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns the flow as a method; see `configs/coupling_mnist.py` for its config values.

    Raises:
      UserError: images that the levels do not divide, or unknown pixels; and as for `model.make`.
    """
    model.refuse_other_than_pictures(config, spec)
    c = config.coupling
    shapes = level_shapes(tuple(c.squeeze), spec.image_shape)
    require_choice("coupling.pixels", c.pixels, PIXELS)
    if c.steps < 1:
        raise UserError(f"config.coupling.steps is {c.steps}; use 1 or more")
    classes = model.classes_of(config, spec)

    def network(channels: int) -> Any:
        given = {
            "out_channels": 2 * (channels // 2), "num_classes": len(classes), "dtype": jnp.dtype(config.compute_dtype),
        }  # fmt: skip
        return modules_of(config.network, NETWORKS, given)[0]

    def level(number: int, factor: int) -> Bijection:
        channels, parts = shapes[number][-1], {"squeeze": squeeze(factor)}
        for i in range(c.steps):
            parts |= {
                f"norm_{i}": layers.act_norm(),
                f"mix_{i}": layers.mix(channels, number * c.steps + i),
                f"couple_{i}": layers.couple(network(channels)),
            }
        return chain(parts)

    levels = [level(number, factor) for number, factor in enumerate(c.squeeze)]
    flow = chain({"pixels": PIXELS[c.pixels](*model.range_of(spec)), "levels": multiscale(levels, shapes)})
    return model.make(config, spec, flow, noise.uniform(), (math.prod(spec.image_shape),), classes)


def level_shapes(factors: tuple[int, ...], image_shape: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Returns (h, w, c) of the pictures of each level, before half of their channels leave.

    Raises:
      UserError: there are no levels, one has a single channel, or the image cannot be divided so.

    Example:
      >>> level_shapes((2, 2), (28, 28, 1))
      [(14, 14, 4), (7, 7, 8)]
    """
    height, width, channels = image_shape
    total, common = math.prod(factors), math.gcd(height, width)
    if not factors or min(factors) < 1:
        raise UserError(f"config.coupling.squeeze is {factors}; use a side of 1 or more for each level, such as 2,2")
    if common % total:
        fit = f"images of {_near(height, total)}x{_near(width, total)} (--config.data.image_size for squares)"
        own = f", or levels whose product divides {common}" if common > 1 else ""
        raise UserError(
            f"config.coupling.squeeze {factors} divides height and width by {total}, and images of "
            f"{height}x{width} do not divide so: use {fit}{own}"
        )
    shapes = []
    for factor in factors:
        height, width, channels = height // factor, width // factor, channels * factor**2
        if channels < 2:
            raise UserError(
                f"config.coupling.squeeze {factors} leaves a level with a single channel, and a coupling needs two: "
                "begin with 2 or more"
            )
        shapes.append((height, width, channels))
        channels -= channels // 2
    return shapes


def _near(size: int, multiple: int) -> int:
    return max(1, round(size / multiple)) * multiple

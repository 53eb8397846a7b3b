"""Consistency training (Song et al. 2023; Song & Dhariwal 2023): a network that maps noisy data to where its flow ends.

f(x_t, q) gives the same picture along a trajectory of the probability-flow ODE, and f(x, 0) = x, so f of pure noise is
a sample. Training compares f at two neighbouring noise levels of the same picture and the same noise; the levels lie
closer together as training goes on. This is the improved training of Song & Dhariwal 2023 (iCT): the target has the
current weights, not an average of earlier ones, which their section 3.2 shows to be at fault for data as simple as a
single point. It adds the pseudo-Huber metric, which needs no network trained on ImageNet as LPIPS does, the doubling of
levels, and more training at little noise.

The continuous limit (Lu & Song 2025) has no levels to choose, but takes a forward-mode derivative in every step; for
CIFAR-10 its authors report the same quality.

Departure: c_skip and c_out are those of EDM, with f(x, q) = x at q = 0 and not at 0.002, and the lowest pair of levels
compares with the picture itself. So a sample ends in clean data, as with every other sampler here.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_jax.config import Choice, Config, Options, chosen
from gen_jax.diffusion import few_steps, likelihood, model, prediction, weighting
from gen_jax.diffusion import schedule as schedules
from gen_jax.diffusion.defaults import diffusion_config
from gen_jax.diffusion.objective import Drawn, Losses, Networks, Objective, squared_error
from gen_jax.diffusion.process import TOLD, Process, unit_variance
from gen_jax.diffusion.schedule import Level
from gen_jax.method import Array, DataSpec, Method, PyTree, Stage, UserError

RHO = 7.0  # of the levels: q^(1 / RHO) is even (Karras et al. 2022, eq. 5)

CHOICES = {
    **{key: model.CHOICES[key] for key in ("network", "diffusion.times", "sample.spacing")},
    "sample.sampler": Choice({"renoise": few_steps.renoise}),
    "eval.likelihood": Choice({"none": likelihood.none}),  # x0_hat is no mean, so that it has none
}


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns consistency training as a method; see `configs/consistency_mnist.py` for its config values.

    Raises:
      UserError: an invalid value of `config.consistency`, or `model.make` raises it.
    """
    _check(config.consistency)
    made = process(config.diffusion, config.consistency)
    return model.make(config, spec, model.pixels(spec), objective(made, config.consistency, config.num_steps))


def process(config: Any, c: Any) -> Process:
    """Returns the process of EDM, whose x0_hat is x_t itself at q = 0.

    Args:
      config: `config.diffusion`, of which `times` counts.
      c: `config.consistency`.
    """
    path = schedules.variance_exploding(c.sigma_min, c.sigma_max)
    return Process(
        path,
        prediction.edm(c.sigma_data),
        weighting.edm(c.sigma_data),
        chosen(CHOICES["diffusion.times"], config.times)(path),
        unit_variance(c.sigma_data),
        TOLD["log_snr"],
    )


def objective(process: Process, c: Any, num_steps: int) -> Objective:
    """Returns the distance of f at neighbouring levels, over the difference of the levels.

    It rises when the number of levels does, so what is shown is the squared error of f to the picture behind x_t.

    Args:
      process: from `process`; its times choose the interval.
      c: `config.consistency`.
      num_steps: length of the run.
    """

    def loss(networks: Networks, params: PyTree, drawn: Drawn) -> Losses:
        count = num_intervals(drawn.state.step, num_steps, c.first, c.last)
        low, high = neighbours(process.path.level(drawn.t).sigma, count, c.sigma_min, c.sigma_max)
        found = mapped(process, networks, params, drawn, high)
        target = jax.lax.stop_gradient(mapped(process, networks, jax.lax.stop_gradient(params), drawn, low))
        distance = pseudo_huber(found, target, c.huber) / (high - low)
        return Losses(distance, squared_error(found, drawn.x0) / found[0].size)

    return Objective(process, loss, denoises=False)


def mapped(process: Process, networks: Networks, params: PyTree, drawn: Drawn, q: Array) -> Array:
    """Returns f(x0 + q eps, q), f32 [B, H, W, C], for noise levels q [B] that may be 0."""
    level = Level(1000 * process.path.time_at(q), jnp.ones_like(q), q)
    x_t = schedules.add_noise(drawn.x0, drawn.eps, level)
    return process.denoiser(networks(params, drawn.label))(x_t, level)


def num_intervals(step: Array | int, num_steps: int, first: int, last: int) -> Array:
    """Returns the number of intervals between levels at a step, N(k) - 1: i32 [] (Song & Dhariwal 2023, section 3.4).

    It doubles at equal intervals of training, from `first` up to at most `last`.

    Example:
      >>> [int(num_intervals(step, 800, 10, 1280)) for step in (0, 99, 100, 350, 700, 799)]
      [10, 10, 20, 80, 1280, 1280]
    """
    doublings = math.ceil(math.log2(last / first))
    stage = step // max(1, num_steps // (math.floor(math.log2(last // first)) + 1))
    return jnp.minimum(first * 2 ** jnp.minimum(stage, doublings), last)


def neighbours(q: Array, count: Array, sigma_min: float, sigma_max: float) -> tuple[Array, Array]:
    """Returns the ends of the interval that each noise level q is in, f32 like q.

    The levels are those of Karras et al. 2022 from sigma_min to sigma_max; the lowest counts as 0. For q of the
    log-normal density the intervals have the probabilities of Song & Dhariwal 2023, section 3.5.

    Args:
      q: noise levels from sigma_min to sigma_max.
      count: i32 [], of intervals.
      sigma_min: lowest level.
      sigma_max: highest level.

    Example:
      >>> low, high = neighbours(jnp.array([0.01, 70.0]), jnp.int32(2), 0.002, 80.0)
      >>> low.round(3).tolist(), high.round(3).tolist()
      ([0.0, 2.515000104904175], [2.515000104904175, 80.0])
    """
    bottom, top = sigma_min ** (1 / RHO), sigma_max ** (1 / RHO)
    place = jnp.floor((q ** (1 / RHO) - bottom) / (top - bottom) * count)
    place = jnp.clip(place, 0, count - 1)

    def noise(place: Array) -> Array:
        return (bottom + place / count * (top - bottom)) ** RHO

    return jnp.where(place == 0, 0.0, noise(place)), noise(place + 1)


def pseudo_huber(found: Array, target: Array, share: float) -> Array:
    """Returns sqrt(|found - target|^2 + c^2) - c of each example, f32 [B], with c = share sqrt(number of values).

    Example:
      >>> pseudo_huber(jnp.array([[3.0, 0.0, 0.0, 0.0]]), jnp.zeros((1, 4)), 2.0).tolist()  # c = 4
      [1.0]
    """
    c = share * math.sqrt(found[0].size)
    return jnp.sqrt(squared_error(found, target) + c**2) - c


def consistency_config() -> Config:
    """Returns `diffusion_config` for consistency training, with the values of Song & Dhariwal 2023."""
    config = diffusion_config("consistency")
    for key in ("schedule", "prediction", "weighting", "input_scale", "variance", "told"):  # the method has its own
        del config.diffusion[key]
    config.diffusion.times = {"name": "log_normal", "mean": -1.1, "std": 2.0}
    config.consistency = ConfigDict(
        {
            "first": 10,  # intervals between noise levels at the start of training
            "last": 1280,  # at the end; they double in between
            "sigma_data": 0.5,  # standard deviation of the data
            "sigma_min": 0.002,  # lowest noise level
            "sigma_max": 80.0,  # highest noise level, where samples start
            "huber": 0.00054,  # distances below this, per value, count as squares
        }
    )
    config.sample.sampler = {"name": "renoise"}
    config.sample.num_steps = 1
    config.sample.spacing = CHOICES["sample.spacing"].start("karras") | {"sigma_min": 0.8}  # where a second step starts
    return config


OPTIONS = Options(
    consistency_config,
    "Consistency training",
    CHOICES,
    shares=("network.dropout", "diffusion.label_drop"),
)


def _check(c: Any) -> None:
    if not 2 <= c.first <= c.last:
        raise UserError(
            f"config.consistency.first is {c.first} and last is {c.last}; they must satisfy 2 <= first <= last"
        )
    for key in ("sigma_data", "huber"):
        if c[key] <= 0:
            raise UserError(f"config.consistency.{key} is {c[key]:g}; it must be above 0")
    if not 0 < c.sigma_min < c.sigma_max:
        raise UserError(
            f"config.consistency.sigma_min is {c.sigma_min:g} and sigma_max is {c.sigma_max:g}; they must satisfy "
            "0 < sigma_min < sigma_max"
        )

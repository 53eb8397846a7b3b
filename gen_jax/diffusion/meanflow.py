"""MeanFlow (Geng et al. 2025): a flow whose network gives average velocities, so that one step leads to the data.

Along the straight path x_t = (1 - t) x0 + t eps, w(x_t, r, t) is the average from r to t of the velocity v that flow
matching learns. It satisfies w = v - (t - r) dw/dt, where dw/dt is the derivative along the flow (eq. 6): training
regresses w on the right side, which carries no gradient. At r = t this is flow matching. One network call gives
x0 = x_1 - w(x_1, 0, 1).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_jax.config import Choice, Config, Options, chosen
from gen_jax.diffusion import few_steps, latent, model, prediction, solvers, weighting
from gen_jax.diffusion import guidance as guidances
from gen_jax.diffusion import schedule as schedules
from gen_jax.diffusion.defaults import diffusion_config
from gen_jax.diffusion.likelihood import MEASURES
from gen_jax.diffusion.objective import Drawn, Losses, Networks, Objective, squared_error
from gen_jax.diffusion.process import Network, Process
from gen_jax.diffusion.schedule import Level
from gen_jax.method import Array, DataSpec, Method, PyTree, Stage, UserError, broadcast_to_images

FASTEST = 10.0  # features of time turn by this angle, in radians, over the whole path; or more slowly

CHOICES = {
    **{key: model.CHOICES[key] for key in ("network", "diffusion.times", "diffusion.input_scale", "sample.spacing")},
    "sample.sampler": Choice({"average": few_steps.average} | solvers.SAMPLERS),
    "eval.likelihood": model.CHOICES["eval.likelihood"],
}


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns MeanFlow as a method; see `configs/meanflow_mnist.py` for its config values.

    Samplers other than `average` use the network at r = t, where it is an ordinary flow.

    Raises:
      UserError: an invalid value of `config.meanflow`, or `latent.codes` or `model.make` raises it.
    """
    _check(config)
    if stage and config.sample.clip:
        raise UserError("config.sample.clip is true, and codes of a first stage are unbounded: use false")
    domain = latent.codes(stage) if stage else model.pixels(spec)
    return model.make(config, spec, domain, objective(process(config.diffusion), config.meanflow))


def process(config: Any) -> Process:
    """Returns the straight path with velocity prediction, for networks that are told t and t - r.

    They are told these from 0 to 10, not to 1000: the derivative of sines and cosines of the time grows with their
    frequency, and with it the variance of the target. Lu & Song 2025 saw training diverge for that reason, and used
    slow features.

    Args:
      config: `config.diffusion`: `times` and `input_scale`.
    """
    path = schedules.straight()
    return Process(
        path,
        prediction.velocity(),
        weighting.velocity(),
        chosen(CHOICES["diffusion.times"], config.times)(path),
        chosen(CHOICES["diffusion.input_scale"], config.input_scale),
        lambda level: level.time * (FASTEST / 1000),
        spans=True,
    )


def objective(process: Process, c: Any) -> Objective:
    """Returns the regression on average velocities.

    Args:
      process: from `process`.
      c: `config.meanflow`. `equal` is the share of examples with r = t. The loss is the squared error e, summed over
        pixels, divided by (e + constant)^power; the divisor carries no gradient. For `guidance` and `guidance_mix` see
        `velocity`.

    With a power above 0 the loss is not least at the mean of the targets: those near it count more, so that samples
    favour what is common. Errors that are sums over many pixels vary little, and there it hardly matters.
    """

    def loss(networks: Networks, params: PyTree, drawn: Drawn) -> Losses:
        t, r = ends_of(drawn.t, process.times(drawn.uniform(0)), drawn.uniform(1) < c.equal)
        x_t = schedules.add_noise(drawn.x0, drawn.eps, process.path.level(t))
        v = velocity(process, networks, jax.lax.stop_gradient(params), drawn, x_t, t, c.guidance, c.guidance_mix)
        found, target = regression(process, networks(params, drawn.label), x_t, v, t, r)
        error = squared_error(found, target)
        weight = jax.lax.stop_gradient(error + c.constant) ** -c.power
        return Losses(weight * error, error / found[0].size)

    return Objective(process, loss)


def ends_of(one: Array, other: Array, equal: Array) -> tuple[Array, Array]:
    """Returns (t, r), the later and the earlier of two times [B]; t twice where `equal`.

    Example:
      >>> t, r = ends_of(jnp.array([0.25, 0.25]), jnp.array([0.5, 0.5]), jnp.array([False, True]))
      >>> t.tolist(), r.tolist()
      ([0.5, 0.5], [0.25, 0.5])
    """
    t = jnp.maximum(one, other)
    return t, jnp.where(equal, t, jnp.minimum(one, other))


def regression(process: Process, network: Network, x_t: Array, v: Array, t: Array, r: Array) -> tuple[Array, Array]:
    """Returns w(x_t, r, t) and its target v - (t - r) dw/dt, f32 [B, H, W, C]; only the first carries a gradient.

    The derivative is that along the flow, in which x_t moves with v, t with 1, and r stays: one forward-mode derivative
    of the network.

    Args:
      process: with `spans`.
      network: of average velocities.
      x_t: f32 [B, H, W, C], the noisy data.
      v: of the same shape, the velocity at x_t.
      t: f32 [B], the times of x_t.
      r: f32 [B], where the averages begin.
    """

    def average(x_t: Array, t: Array, r: Array) -> Array:
        return process.output(network, x_t, process.path.level(t), process.path.level(r))

    found, slope = jax.jvp(average, (x_t, t, r), (v, jnp.ones_like(t), jnp.zeros_like(r)))
    return found, jax.lax.stop_gradient(v - broadcast_to_images(t - r, v) * slope)


def velocity(
    process: Process, networks: Networks, params: PyTree, drawn: Drawn, x_t: Array, t: Array, scale: float, mix: float
) -> Array:
    """Returns the velocity that training regresses on, with guidance inside, f32 [B, H, W, C].

    It is scale (eps - x0) + (1 - scale - mix) v_null + mix v_class, with the network's own velocities, those at r = t,
    without a label and with it. Samples are those of guidance scale / (1 - mix), in one call. Examples whose label is
    dropped have eps - x0, and so has a model with scale 1 and mix 0, without further calls.

    Args:
      process: with `spans`.
      networks: of average velocities.
      params: their weights.
      drawn: the batch.
      x_t: the noisy data.
      t: f32 [B], the times of x_t.
      scale: omega in the paper.
      mix: kappa in the paper.
    """
    v = drawn.eps - drawn.x0
    if (scale, mix) == (1, 0) or drawn.label is None:
        return v
    level: Level = process.path.level(t)

    def own(label: Array) -> Array:
        return process.output(networks(params, label), x_t, level)

    guided = scale * v + (1 - scale - mix) * own(guidances.no_label(drawn.label))
    if mix:
        guided += mix * own(drawn.label)
    return jnp.where(broadcast_to_images(drawn.label == guidances.NO_LABEL, v), v, guided)


def meanflow_config(first_stage: Config | None = None) -> Config:
    """Returns `diffusion_config` for MeanFlow, with the paper's values, and one sampling step.

    Args:
      first_stage: the config of an autoencoder, for MeanFlow on its codes instead of pixels.

    Example:
      >>> meanflow_config().pretrained
      ''
    """
    config = diffusion_config("meanflow")
    for key in ("schedule", "prediction", "weighting", "variance", "told"):  # the method has its own
        del config.diffusion[key]
    config.diffusion.times = {"name": "logit_normal", "mean": -0.4, "std": 1.0}
    config.meanflow = ConfigDict(
        {
            "equal": 0.75,  # share of examples with r = t
            "power": 1.0,  # of the adaptive weight; 0: plain squared error
            "constant": 0.01,  # of the adaptive weight, in units of a squared error summed over pixels
            "guidance": 1.0,  # inside the target, for samples with guidance / (1 - guidance_mix); 1: none
            "guidance_mix": 0.0,  # share of the network's own labelled velocity in the guided target
        }
    )
    config.sample.sampler = {"name": "average"}
    config.sample.num_steps = 1
    config.pretrained = first_stage or ""  # a config, or the directory of a run; "": pixels
    return config


OPTIONS = Options(
    meanflow_config,
    "MeanFlow",
    CHOICES,
    read_where={"meanflow.guidance": "diffusion.label_drop", "meanflow.guidance_mix": "diffusion.label_drop"},
    shares=("network.dropout", "diffusion.label_drop", "meanflow.guidance_mix"),
    measures={**MEASURES, **latent.MEASURES},
)


def _check(config: Any) -> None:
    c = config.meanflow
    if not 0 <= c.equal <= 1:
        raise UserError(f"config.meanflow.equal is {c.equal:g}; it is a share, between 0 and 1")
    if c.power < 0:
        raise UserError(f"config.meanflow.power is {c.power:g}; it must not be negative")
    if c.constant <= 0:
        raise UserError(f"config.meanflow.constant is {c.constant:g}; it must be above 0")
    if (c.guidance, c.guidance_mix) != (1, 0) and not config.diffusion.label_drop:
        raise UserError(
            f"config.meanflow.guidance is {c.guidance:g} and guidance_mix is {c.guidance_mix:g}, but no labels are "
            "dropped, so there is no unconditional velocity: set --config.diffusion.label_drop=0.1 and "
            "--config.diffusion.conditional=true, or use 1 and 0"
        )

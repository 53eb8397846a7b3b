"""The diffusion process, shared by training and sampling: path, prediction, weighting, density of times, network input.

A network is a function (x_in, told) -> output. `Process.denoiser` wraps it into the denoiser x0_hat that every sampler
uses, and `Process.loss` trains it. Both use the same levels and conditioning, so they cannot disagree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.config import Choice, chosen, require_choice
from gen_jax.diffusion import bound as bounds
from gen_jax.diffusion import prediction as predictions
from gen_jax.diffusion import schedule as schedules
from gen_jax.diffusion import times as densities
from gen_jax.diffusion import weighting as weightings
from gen_jax.diffusion.sampler import Estimate
from gen_jax.diffusion.schedule import Level, Path, Schedule
from gen_jax.method import Array, Key, UserError, broadcast_to_images

Network = Callable[..., Array]
"""(x_in f32 [B, H, W, C], told f32 [B], 0..1000) -> output f32 [B, H, W, C], or 2 C with learned variances.

Where `Process.spans`, it takes the length of the step as a third argument: told there, minus told where it ends."""


class Variance(NamedTuple):
    """The variances of the reverse steps.

    Attributes:
      outputs: of the network, per channel of the data: 1, or 2 if it predicts the variance as well.
      weight: of the variational bound in the loss.
    """

    outputs: int
    weight: float


def fixed() -> Variance:
    """Returns variances that depend on the step only; the sampler chooses them."""
    return Variance(1, 0.0)


def learned(weight: float = 0.001) -> Variance:
    """Returns variances that the network predicts (Nichol & Dhariwal 2021); sampled with `ancestral("learned")`.

    The second half of the network's channels, v, places the log variance of each pixel (1 + v) / 2 of the way from the
    small to the large one. It is trained by the variational bound, in which x0_hat is held fixed.

    Args:
      weight: of the bound in the loss, lambda in the paper. The bound is in bits per dimension; a term counts T times,
        so that its mean over uniform times is the sum of all terms. Another density of times weights the terms.

    Raises:
      UserError: it is negative.
    """
    if weight < 0:
        raise UserError(f"config.diffusion.variance.weight is {weight}; it must not be negative")
    return Variance(2, weight)


def no_scale() -> Callable[[Level], Any]:
    """Returns the input scale 1, which leaves the network's input unchanged."""
    return lambda level: 1.0


def unit_variance(sigma_data: float = 0.5) -> Callable[[Level], Array]:
    """Returns the input scale that gives the input unit variance (c_in of Karras et al. 2022, table 1, for any path).

    Args:
      sigma_data: standard deviation of the data.

    Raises:
      UserError: it is not positive.

    Example:
      >>> level = Level(time=jnp.array(0.0), alpha=jnp.array(1.0), sigma=jnp.array(1.2))
      >>> round(float(unit_variance()(level)), 6)  # 1 / sqrt(0.25 + 1.44)
      0.769231
    """
    if not sigma_data > 0:
        raise UserError(f"config.diffusion.input_scale.sigma_data is {sigma_data}; a standard deviation is positive")
    return lambda level: 1 / jnp.sqrt((level.alpha * sigma_data) ** 2 + level.sigma**2)


def _log_snr(level: Level) -> Array:
    log_snr = 2 * (jnp.log(level.alpha) - jnp.log(level.sigma))
    return 500 - 25 * jnp.clip(log_snr, -LARGEST_LOG_SNR, LARGEST_LOG_SNR)


MAX_TIMESTEPS = 1_000_000  # of a table: more would cost memory and change nothing
LARGEST_LOG_SNR = 20.0  # the noise conditioning is clipped here
INPUT_SCALES = {"none": no_scale, "unit_variance": unit_variance}
TOLD: dict[str, Callable[[Level], Array]] = {"time": lambda level: level.time, "log_snr": _log_snr}
"""Noise conditioning of the network, 0..1000, rising with noise: the time, or the log SNR from 20 down to -20."""

FIXED = fixed()
VARIANCES: dict[str, Callable[..., Variance]] = {"fixed": fixed, "learned": learned}

CHOICES = {
    # By default a schedule ends in pure noise.
    "diffusion.schedule": Choice(schedules.SCHEDULES, defaults={"zero_terminal_snr": True}),
    "diffusion.prediction": Choice(predictions.PREDICTIONS),
    "diffusion.weighting": Choice(weightings.WEIGHTINGS),
    "diffusion.times": Choice(densities.DENSITIES),
    "diffusion.input_scale": Choice(INPUT_SCALES),
    "diffusion.variance": Choice(VARIANCES),
}


@dataclasses.dataclass(frozen=True)
class Process:
    """A path with everything needed to train a network on it and to sample along it.

    Attributes:
      path: alpha and sigma at each time.
      prediction: the prediction target of the network.
      weighting: of the squared error.
      times: from a number in [0, 1) to a training time; uniform numbers give the density of times.
      input_scale: level -> factor of x_t before the network.
      told: level -> noise conditioning of the network.
      variance: of the reverse steps.
      spans: whether the network is also told how long a step it is to take; otherwise it knows only where it is.
    """

    path: Path
    prediction: predictions.Prediction
    weighting: weightings.Weighting
    times: densities.Times
    input_scale: Callable[[Level], Any]
    told: Callable[[Level], Array]
    variance: Variance = FIXED
    spans: bool = False

    def draw_times(self, key: Key, index: Array, size: int) -> Array:
        """Returns a time for each example, drawn from the density and spread evenly over the global batch.

        A step draws one uniform number and shifts it by each example's relative position in the batch (Kingma et al.
        2021, VDM, appendix I.1): the loss of a batch varies less than with independent times.

        Args:
          key: of this step.
          index: i32 [B], positions in the global batch.
          size: of the global batch.
        """
        u = jax.random.uniform(key) + index / size
        return self.times(u % 1.0)

    def output(self, network: Network, x_t: Array, level: Level, end: Level | None = None) -> Array:
        """Returns the output of the network for x_t [B, ...], levels with leaves [B].

        Args:
          network: see `Network`.
          x_t: the noisy data.
          level: of x_t.
          end: where the step from `level` ends, for a network that is told so; None for the same level.
        """
        scale, told = self.input_scale(level), self.told(level)
        x_in = broadcast_to_images(scale, x_t) * x_t if hasattr(scale, "ndim") else x_t
        return network(x_in, told, told - self.told(end or level)) if self.spans else network(x_in, told)

    def loss(self, network: Network, x0: Array, eps: Array, t: Array) -> Array:
        """Returns the weighted squared error at times t [B], a mean over pixels: f32 [B].

        With learned variances, weight * T times the term of the variational bound at t is added (`learned`).
        """
        level = self.path.level(t)
        x_t = schedules.add_noise(x0, eps, level)
        output, *variance = self._halves(self.output(network, x_t, level))
        target = predictions.target(self.prediction, x0, eps, level)
        error = jnp.mean((output - target) ** 2, axis=(1, 2, 3))
        loss = weightings.on(self.weighting, self.prediction, level, self.path.unit) * error
        if not variance:
            return loss
        assert isinstance(self.path, Schedule)
        x0_hat = predictions.to_x0(self.prediction, jax.lax.stop_gradient(output), x_t, level, self.path.unit)
        rows = bounds.rows_at(bounds.coefficients(self.path), t, x0.dtype)
        term = bounds.term(rows, x0, x0_hat, (1 + variance[0]) / 2, t)
        return loss + self.variance.weight * self.path.num_steps * term

    def denoiser(self, network: Network) -> Callable[..., Array]:
        """Returns (x_t, level with leaves [B]) -> x0_hat; where `spans`, it takes the end of the step as well."""

        def denoise(x_t: Array, level: Level, end: Level | None = None) -> Array:
            output = self._halves(self.output(network, x_t, level, end))[0]
            return predictions.to_x0(self.prediction, output, x_t, level, self.path.unit)

        return denoise

    def estimator(self, network: Network) -> Callable[[Array, Level], Estimate]:
        """Returns (x_t, level with leaves [B]) -> x0_hat and the learned variance, from one network call."""

        def estimate(x_t: Array, level: Level) -> Estimate:
            output, variance = self._halves(self.output(network, x_t, level))
            x0_hat = predictions.to_x0(self.prediction, output, x_t, level, self.path.unit)
            return Estimate(x0_hat, (1 + variance) / 2)

        return estimate

    def _halves(self, output: Array) -> list[Array]:
        """The prediction and, if it is learned, the variance: [B, H, W, C] each."""
        return [output] if self.variance.outputs == 1 else jnp.split(output, 2, axis=-1)


def make(config: Any) -> Process:
    """Returns the process of `config.diffusion`.

    Raises:
      UserError: an unknown name, an invalid value, a prediction that does not determine the data at the path's end,
        learned variances along a continuous path, or a density of noise levels that the path does not have.
    """
    _check_length(config.schedule)
    require_choice("diffusion.told", config.told, TOLD)
    path = chosen(CHOICES["diffusion.schedule"], config.schedule)
    prediction = chosen(CHOICES["diffusion.prediction"], config.prediction)
    predictions.check(prediction, path)
    variance = chosen(CHOICES["diffusion.variance"], config.variance)
    if variance.outputs == 2:
        if not isinstance(path, Schedule):
            raise UserError(
                f"config.diffusion.variance is 'learned', which belongs to the steps of a table, and the {path.name} "
                "path has none: use fixed, or another schedule"
            )
        bounds.coefficients(path)  # refuses a table of one step
    return Process(
        path,
        prediction,
        chosen(CHOICES["diffusion.weighting"], config.weighting),
        chosen(CHOICES["diffusion.times"], config.times)(path),
        chosen(CHOICES["diffusion.input_scale"], config.input_scale),
        TOLD[config.told],
        variance,
    )


def _check_length(schedule: Any) -> None:
    if "num_steps" not in schedule:
        return
    least = 1 + schedule.zero_terminal_snr
    if not least <= schedule.num_steps <= MAX_TIMESTEPS:
        raise UserError(
            f"config.diffusion.schedule.num_steps is {schedule.num_steps}; it must be {least} or more, "
            f"at most {MAX_TIMESTEPS}"
        )

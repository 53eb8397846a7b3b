"""Prediction targets of the network, and the conversion of each into an estimate of the data, with one algebra.

With x_t = alpha x0 + sigma eps, every prediction is linear, p = a eps - b x0, with coefficients that depend only on the
level. With D = a alpha + b sigma:

    x0_hat = (a x_t - sigma p) / D        eps_hat = (b x_t + alpha p) / D        MSE_p = (D / sigma)^2 MSE_x0

Samplers and weightings use only x0_hat. The functions accept numpy arrays of any float type as well as JAX arrays.
Sources: Ho et al. 2020 (eps), Salimans & Ho 2022 (v), Lipman et al. 2023 (velocity), Karras et al. 2022 (F of EDM).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gen_jax.diffusion.schedule import Level, Path
from gen_jax.method import Array, UserError, broadcast_to_images


class Prediction(NamedTuple):
    """One kind of prediction.

    Attributes:
      name: as in `PREDICTIONS`.
      coefficients: level -> (a, b), of the level's shape, or numbers.
      divisor: (level, whether alpha^2 + sigma^2 = 1) -> D, exactly 1 where algebra makes it 1.
      needs_signal: whether x0_hat is undefined where alpha is 0.
    """

    name: str
    coefficients: Callable[[Level], tuple[Any, Any]]
    divisor: Callable[[Level, bool], Any]
    needs_signal: bool = False


def target(prediction: Prediction, x0: Array, eps: Array, level: Level) -> Array:
    """Returns the target of the network, a eps - b x0.

    Args:
      prediction: from `PREDICTIONS`.
      x0: data [B, ...].
      eps: the noise in x_t, of the same shape.
      level: leaves [B] or [].

    Example:
      >>> import jax.numpy as jnp
      >>> level = Level(time=jnp.array(0.0), alpha=jnp.array(0.6), sigma=jnp.array(0.8))
      >>> round(float(target(v(), jnp.array(1.0), jnp.array(0.5), level)), 6)  # 0.6 * 0.5 - 0.8 * 1
      -0.5
    """
    a, b = (_over(value, x0) for value in prediction.coefficients(level))
    return a * eps - b * x0


def to_x0(prediction: Prediction, output: Array, x_t: Array, level: Level, unit: bool) -> Array:
    """Returns x0_hat.

    Args:
      prediction: from `PREDICTIONS`.
      output: of the network, [B, ...].
      x_t: the noisy data, of the same shape.
      level: leaves [B] or [].
      unit: whether alpha^2 + sigma^2 = 1, as in a `Path`.
    """
    (a, _), divisor = prediction.coefficients(level), prediction.divisor(level, unit)
    return _over(a / divisor, x_t) * x_t - _over(level.sigma / divisor, x_t) * output


def to_eps(prediction: Prediction, output: Array, x_t: Array, level: Level, unit: bool) -> Array:
    """Returns eps_hat, which satisfies alpha x0_hat + sigma eps_hat = x_t with `to_x0` of the same arguments."""
    (_, b), divisor = prediction.coefficients(level), prediction.divisor(level, unit)
    return _over(b / divisor, x_t) * x_t + _over(level.alpha / divisor, x_t) * output


def _over(value: Any, images: Array) -> Any:
    return broadcast_to_images(value, images) if hasattr(value, "ndim") else value


def eps() -> Prediction:
    """Returns the prediction of the noise."""
    return Prediction("eps", lambda level: (1.0, 0.0), lambda level, unit: level.alpha, needs_signal=True)


def x() -> Prediction:
    """Returns the prediction of the data."""
    return Prediction("x", lambda level: (0.0, -1.0), lambda level, unit: -level.sigma)


def v() -> Prediction:
    """Returns the prediction of alpha eps - sigma x0 (Salimans & Ho 2022)."""
    return Prediction(
        "v",
        lambda level: (level.alpha, level.sigma),
        lambda level, unit: 1.0 if unit else level.alpha**2 + level.sigma**2,
    )


def velocity() -> Prediction:
    """Returns the prediction of eps - x0, the velocity along the straight path (Lipman et al. 2023)."""
    return Prediction("velocity", lambda level: (1.0, 1.0), lambda level, unit: level.alpha + level.sigma)


def edm(sigma_data: float = 0.5) -> Prediction:
    """Returns F of Karras et al. 2022, table 1: x0_hat = c_skip y + c_out F, with y = x_t / alpha and noise level q.

    With q = sigma / alpha: c_skip = s^2 / (s^2 + q^2) and c_out = q s / sqrt(s^2 + q^2) for s = sigma_data. F is minus
    the v of the data divided by s. The code avoids q and divisions by alpha, so F is also defined at pure noise.

    Args:
      sigma_data: standard deviation of the data.

    Raises:
      UserError: it is not positive.
    """
    if not sigma_data > 0:
        raise UserError(f"config.diffusion.prediction.sigma_data is {sigma_data}; a standard deviation is positive")

    def width(level: Level) -> Any:
        return ((sigma_data * level.alpha) ** 2 + level.sigma**2) ** 0.5  # standard deviation of x_t

    return Prediction(
        "edm",
        lambda level: (-sigma_data * level.alpha / width(level), -level.sigma / (sigma_data * width(level))),
        lambda level, unit: -width(level) / sigma_data,
    )


PREDICTIONS: dict[str, Callable[..., Prediction]] = {"v": v, "x": x, "eps": eps, "velocity": velocity, "edm": edm}


def check(prediction: Prediction, path: Path) -> None:
    """Refuses a prediction that does not determine the data at the last level of a path.

    Raises:
      UserError: the last level is pure noise, where the prediction contains no information about the data.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> check(eps(), schedule.cosine(zero_terminal_snr=True))
      Traceback (most recent call last):
      gen_jax.method.UserError: prediction 'eps' cannot recover the data from pure noise, as at the end of cosine: \
use 'v' or 'x' or 'velocity' or 'edm', or zero_terminal_snr=false if the schedule has it
    """
    if prediction.needs_signal and path.path(path.steps(1)).alpha[0] == 0:
        others = " or ".join(repr(name) for name, make in PREDICTIONS.items() if not make().needs_signal)
        raise UserError(
            f"prediction {prediction.name!r} cannot recover the data from pure noise, as at the end of {path.name}: "
            f"use {others}, or zero_terminal_snr=false if the schedule has it"
        )

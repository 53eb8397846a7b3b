"""What the network predicts (noise, data or velocity), and the conversion of each into an estimate of the data.

Samplers and weightings know only x0_hat: the kind of prediction is wrapped around the network here, and nowhere else.
With x_t = alpha x0 + sigma eps (Ho et al. 2020) and v = alpha eps - sigma x0 (Salimans & Ho 2022). The functions take
numpy arrays of any float type as well as JAX arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gen_jax.diffusion.schedule import Level, Schedule
from gen_jax.method import Array, UserError, broadcast_to_images


class Prediction(NamedTuple):
    """One kind of prediction. Images [B, H, W, C] (any shape [B, ...]), leaves of a level [B] or [].

    Attributes:
      name: as in `PREDICTIONS`.
      target: (x0, eps, level) -> what the network should give.
      to_x0: (output, x_t, level) -> x0_hat.
      needs_signal: whether `to_x0` divides by alpha, so that it is undefined where alpha is 0.
    """

    name: str
    target: Callable[[Array, Array, Level], Array]
    to_x0: Callable[[Array, Array, Level], Array]
    needs_signal: bool = False


def eps_from_x0(x_t: Array, x0_hat: Array, level: Level) -> Array:
    """Returns the noise that x_t holds if the data is x0_hat: (x_t - alpha x0_hat) / sigma.

    Exact where alpha is 0 (x_t is the noise); undefined where sigma is 0, which no level of a schedule is.

    Example:
      >>> import jax.numpy as jnp
      >>> level = Level(time=jnp.array(0.0), alpha=jnp.array(0.6), sigma=jnp.array(0.8))
      >>> round(float(eps_from_x0(jnp.array(1.0), jnp.array(0.5), level)), 6)
      0.875
    """
    return (x_t - broadcast_to_images(level.alpha, x_t) * x0_hat) / broadcast_to_images(level.sigma, x_t)


def check(prediction: Prediction, schedule: Schedule) -> None:
    """Refuses a prediction that cannot give the data at the last level of a schedule.

    Raises:
      UserError: the schedule has zero terminal SNR and the prediction is the noise.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> check(PREDICTIONS["eps"], schedule.cosine(zero_terminal_snr=True))
      Traceback (most recent call last):
      gen_jax.method.UserError: prediction 'eps' says nothing of the data where there is only noise: \
with zero_terminal_snr use 'v' or 'x'
    """
    if prediction.needs_signal and schedule.alpha[-1] == 0:
        others = " or ".join(repr(other.name) for other in PREDICTIONS.values() if not other.needs_signal)
        raise UserError(
            f"prediction {prediction.name!r} says nothing of the data where there is only noise: "
            f"with zero_terminal_snr use {others}"
        )


def _eps_to_x0(output: Array, x_t: Array, level: Level) -> Array:
    return (x_t - broadcast_to_images(level.sigma, x_t) * output) / broadcast_to_images(level.alpha, x_t)


def _v_target(x0: Array, eps: Array, level: Level) -> Array:
    return broadcast_to_images(level.alpha, x0) * eps - broadcast_to_images(level.sigma, x0) * x0


def _v_to_x0(output: Array, x_t: Array, level: Level) -> Array:
    return broadcast_to_images(level.alpha, x_t) * x_t - broadcast_to_images(level.sigma, x_t) * output


PREDICTIONS: dict[str, Prediction] = {
    "v": Prediction("v", target=_v_target, to_x0=_v_to_x0),
    "x": Prediction("x", target=lambda x0, eps, level: x0, to_x0=lambda output, x_t, level: output),
    "eps": Prediction("eps", target=lambda x0, eps, level: eps, to_x0=_eps_to_x0, needs_signal=True),
}

"""Loss weightings: the weight of the squared error at each noise level.

A weighting is defined once, as a weight on the error of x0_hat that depends only on SNR = alpha^2 / sigma^2. The error
of every prediction is a fixed multiple of this error (MSE_p = (D / sigma)^2 MSE_x0, see prediction.py), which fixes its
weight: for every prediction target, the same x0_hat has the same weighted loss.

The definition is a function f(signal, noise) that is homogeneous of degree one: f(c signal, c noise) = c f(signal,
noise). Then f(SNR, 1) is the weight on x0_hat, and f(alpha^2, sigma^2) / D^2 the weight on a prediction. This avoids
divisions by zero for v, x and velocity at pure noise, and for v, velocity and eps at clean data.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from gen_jax.diffusion.prediction import Prediction
from gen_jax.diffusion.schedule import Level
from gen_jax.method import Array

Weighting = Callable[[Array, Array], Array]
"""f(signal, noise), homogeneous of degree one."""


def on(weighting: Weighting, prediction: Prediction, level: Level, unit: bool) -> Array:
    """Returns the weight on the squared error of a prediction, of the level's shape.

    Args:
      weighting: from `WEIGHTINGS`.
      prediction: the prediction target of the network.
      level: the noise level.
      unit: whether alpha^2 + sigma^2 = 1, as in a `Path`.

    Example:
      >>> from gen_jax.diffusion import prediction, schedule
      >>> level = schedule.linear().level(jnp.array(500))
      >>> round(on(eps(), prediction.v(), level, True).item(), 4)  # alpha^2 on v is 1 on eps
      0.0778
    """
    return weighting(level.alpha**2, level.sigma**2) / prediction.divisor(level, unit) ** 2


def eps() -> Weighting:
    """Returns SNR on x, 1 on eps: L_simple of Ho et al. 2020. With zero terminal SNR the last level is not trained.

    Example:
      >>> eps()(0.25, 0.75)
      0.25
    """
    return lambda signal, noise: signal


def x() -> Weighting:
    """Returns 1 on x.

    Example:
      >>> x()(0.25, 0.75)
      0.75
    """
    return lambda signal, noise: noise


def v() -> Weighting:
    """Returns SNR + 1 on x, 1 on v where alpha^2 + sigma^2 = 1 (Salimans & Ho 2022).

    Example:
      >>> v()(0.25, 0.75)
      1.0
    """
    return lambda signal, noise: signal + noise


def velocity() -> Weighting:
    """Returns 1 on the velocity eps - x0, (sqrt(SNR) + 1)^2 on x: flow matching (Lipman et al. 2023).

    Example:
      >>> float(velocity()(0.25, 0.25))
      1.0
    """
    return lambda signal, noise: (jnp.sqrt(signal) + jnp.sqrt(noise)) ** 2


def edm(sigma_data: float = 0.5) -> Weighting:
    """Returns SNR + 1 / sigma_data^2 on x, 1 on F (Karras et al. 2022, table 1).

    Example:
      >>> edm()(0.25, 0.75)
      3.25
    """
    return lambda signal, noise: signal + noise / sigma_data**2


def truncated_snr() -> Weighting:
    """Returns max(SNR, 1) on x (Salimans & Ho 2022).

    Example:
      >>> float(truncated_snr()(0.25, 0.75))
      0.75
    """
    return jnp.maximum


def min_snr(gamma: float = 5.0) -> Weighting:
    """Returns min(SNR, gamma) on x (Hang et al. 2023).

    Example:
      >>> float(min_snr(gamma=0.25)(0.5, 1.0))
      0.25
    """
    return lambda signal, noise: jnp.minimum(signal, gamma * noise)


def p2(k: float = 1.0, gamma: float = 1.0) -> Weighting:
    """Returns SNR / (k + SNR)^gamma on x, (k + SNR)^-gamma on eps (Choi et al. 2022).

    Example:
      >>> p2()(0.25, 0.75)
      0.1875
    """
    return lambda signal, noise: signal * (noise / (k * noise + signal)) ** gamma


WEIGHTINGS: dict[str, Callable[..., Weighting]] = {
    "eps": eps,
    "v": v,
    "x": x,
    "velocity": velocity,
    "edm": edm,
    "truncated_snr": truncated_snr,
    "min_snr": min_snr,
    "p2": p2,
}

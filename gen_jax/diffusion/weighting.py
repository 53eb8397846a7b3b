"""How much the squared error at each noise level counts in the loss.

A weighting is defined once, as a weight on the error of x0_hat that depends on SNR = alpha^2 / sigma^2 alone. The
errors of the three predictions are fixed multiples of each other (MSE_eps = SNR MSE_x, MSE_v = (SNR + 1) MSE_x), so
the weights for eps and v follow: whatever the network predicts, the weighted loss of the same x0_hat is the same.

The definition is a function f(signal, noise) that is homogeneous of degree one: f(c signal, c noise) = c f(signal,
noise). Then f(SNR, 1) is the weight on x, f(1, 1 / SNR) that on eps and f(alpha^2, sigma^2) that on v: nothing is
divided by zero where v and x meet pure noise, nor where v and eps meet clean data.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from gen_jax.diffusion.schedule import Level
from gen_jax.method import Array

Weighting = Callable[
    [Level, str], Array
]  # (level, name of the prediction) -> factor of its squared error, of the level's shape


def eps() -> Weighting:
    """Returns SNR on x, 1 on eps: L_simple of Ho et al. 2020. The last level goes untrained at zero terminal SNR.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> level = schedule.linear().level(jnp.array(500))
      >>> round(eps()(level, "v").item(), 4)
      0.0778
    """
    return _weighting(lambda signal, noise: signal)


def x() -> Weighting:
    """Returns 1 on x.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> level = schedule.linear().level(jnp.array(500))
      >>> round(x()(level, "v").item(), 4)
      0.9222
    """
    return _weighting(lambda signal, noise: noise)


def v() -> Weighting:
    """Returns SNR + 1 on x, 1 on v (Salimans & Ho 2022).

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> level = schedule.linear().level(jnp.array(500))
      >>> round(v()(level, "x").item(), 4)
      1.0844
    """
    return _weighting(lambda signal, noise: signal + noise)


def truncated_snr() -> Weighting:
    """Returns max(SNR, 1) on x (Salimans & Ho 2022).

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> level = schedule.linear().level(jnp.array(500))
      >>> round(truncated_snr()(level, "v").item(), 4)
      0.9222
    """
    return _weighting(jnp.maximum)


def min_snr(gamma: float = 5.0) -> Weighting:
    """Returns min(SNR, gamma) on x (Hang et al. 2023).

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> level = schedule.linear().level(jnp.array(500))
      >>> round(min_snr(gamma=0.05)(level, "x").item(), 4)
      0.05
    """
    return _weighting(lambda signal, noise: jnp.minimum(signal, gamma * noise))


def p2(k: float = 1.0, gamma: float = 1.0) -> Weighting:
    """Returns SNR / (k + SNR)^gamma on x, (k + SNR)^-gamma on eps (Choi et al. 2022).

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> level = schedule.linear().level(jnp.array(500))
      >>> round(p2()(level, "eps").item(), 4)
      0.9222
    """
    return _weighting(lambda signal, noise: signal * (noise / (k * noise + signal)) ** gamma)


WEIGHTINGS: dict[str, Callable[..., Weighting]] = {
    "eps": eps,
    "v": v,
    "x": x,
    "truncated_snr": truncated_snr,
    "min_snr": min_snr,
    "p2": p2,
}

# Signal and noise at which the definition gives the weight on each prediction, from alpha^2 and sigma^2.
_ARGUMENTS: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "x": lambda signal, noise: (signal / noise, jnp.ones_like(noise)),
    "eps": lambda signal, noise: (jnp.ones_like(signal), noise / signal),
    "v": lambda signal, noise: (signal, noise),
}


def _weighting(definition: Callable[[Array, Array], Array]) -> Weighting:
    def weight(level: Level, prediction: str) -> Array:
        return definition(*_ARGUMENTS[prediction](level.alpha**2, level.sigma**2))

    return weight

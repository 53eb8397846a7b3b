"""Rules for a step that remember what the network said in earlier steps: DPM-Solver++ and PLMS.

One network call per step. Sources: Lu et al. 2022 (DPM-Solver++), Liu et al. 2022 (PLMS).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion.sampler import Denoiser, Row, Sampler, pairs, signal_ratio
from gen_jax.diffusion.schedule import Level, Path
from gen_jax.method import Array, PyTree, UserError


class MultistepTransition(NamedTuple):
    """The steps x_s = of_x_t x_t + of_x0 x0_hat + of_change (x0_hat - the previous x0_hat) + of_noise noise: [S]."""

    of_x_t: Any
    of_x0: Any
    of_change: Any
    of_noise: Any


def dpm_solver(order: int = 2, stochastic: str = "none") -> Sampler:
    """Returns DPM-Solver++ (Lu et al. 2022): one call per step; order 2 (2M) also uses the previous step's x0_hat.

    With h the step of log(alpha / sigma), the second order extrapolates x0_hat by its last change, times h / (2 h of
    the previous step). That is omitted in the first step, after a step from pure noise, and in the last step, to clean
    data: there h is infinite, so all of them are defined, and of first order. Order 1 is `ddim`.

    Args:
      order: 1 or 2.
      stochastic: "none" solves the ODE; "midpoint" and "heun" the SDE, which adds fresh noise in each step (two ways to
        weight the change; equal for order 1, which is `ancestral`).

    Raises:
      UserError: there is no such order or kind.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> linear = schedule.linear()
      >>> dpm_solver().plan(linear.path([999, 499, 0]), linear).of_change.round(4).tolist()
      [0.0, 0.76, 0.0]
    """
    if order not in (1, 2):
        raise UserError(f"config.sample.sampler.order is {order}; the DPM-Solver++ here has 1 and 2")
    if stochastic not in _DPM:
        raise UserError(f"config.sample.sampler.stochastic is {stochastic!r}; there are {', '.join(_DPM)}")

    def plan(levels: Level, path: Path) -> MultistepTransition:
        t, s = pairs(levels)
        m = signal_ratio(t, s)
        with np.errstate(divide="ignore"):
            h = -np.log(m)  # inf in a step from pure noise or to clean data
        inner = np.isfinite(h) & np.isfinite(np.roll(h, 1)) & (np.arange(len(h)) > 0) & (order == 2)
        step = np.where(inner, h, 1.0)
        of_x_t, of_x0, of_change, of_noise = _DPM[stochastic](m, step, s)
        return MultistepTransition(
            of_x_t * s.sigma / t.sigma,
            s.alpha * of_x0,
            np.where(inner, s.alpha * of_change * step / np.where(inner, np.roll(h, 1), 1.0), 0.0),
            of_noise,
        )

    def step(carry: PyTree, x_t: Array, denoise: Denoiser, row: Row, noise: Array | None):
        x0_hat, plan = denoise(x_t, row.t), row.plan
        mean = plan.of_x_t * x_t + plan.of_x0 * x0_hat + plan.of_change * (x0_hat - carry)
        return x0_hat, mean if noise is None else mean + plan.of_noise * noise, x0_hat

    return Sampler(plan, jnp.zeros_like, step, noisy=stochastic != "none")


_DPM: dict[str, Callable[[np.ndarray, np.ndarray, Level], tuple[Any, Any, Any, Any]]] = {
    "none": lambda m, h, s: (1.0, 1 - m, (1 - m) / 2, 0.0 * m),
    "midpoint": lambda m, h, s: (m, 1 - m**2, (1 - m**2) / 2, s.sigma * np.sqrt(1 - m**2)),
    "heun": lambda m, h, s: (m, 1 - m**2, 1 - (1 - m**2) / (2 * h), s.sigma * np.sqrt(1 - m**2)),
}
"""Factors of x_t (over sigma_s / sigma_t), of x0_hat and its change (over alpha_s), and of the noise."""


class LinearMultistep(NamedTuple):
    """The steps x_s = of_x_t x_t + of_x0 x0_hat + of_change (eps' - eps_hat), with eps' a weighted mean of eps_hat.

    Leaves [S]; weights [S, 4], of this step's eps_hat and those of the three before it.
    """

    of_x_t: Any
    of_x0: Any
    of_change: Any
    weights: Any


def plms(order: int = 4) -> Sampler:
    """Returns the pseudo linear multistep method (Liu et al. 2022): DDIM with a mean of eps_hat over several steps.

    The weights are those of Adams and Bashforth: 1; (3, -1) / 2; (23, -16, 5) / 12; (55, -59, 37, -9) / 24. The first
    steps have fewer to look back on, and lower orders: there are no Runge-Kutta steps, which cost more calls.

    A step is DDIM's, and alpha_s (q_s - q_t) (eps' - eps_hat) on top, with q = sigma / alpha. From pure noise, where q
    is infinite, the step is DDIM's, as that of any list's first is: nothing is divided by alpha, so that PLMS starts at
    zero terminal SNR too. The last step, to clean data, is x0_hat itself.

    For orders above 1 the error falls with the second power of the step: the weights are for levels evenly spaced in q,
    and the first step is DDIM's. For such levels, and exact values of eps_hat to start from, it is the power `order`.

    Args:
      order: 1 (DDIM) to 4, of the weights.

    Raises:
      UserError: there is no such order.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> linear = schedule.linear()
      >>> plan = plms(2).plan(linear.path([999, 499, 249, 0]), linear)
      >>> plan.weights.tolist()[1], plan.of_change.round(4).tolist()
      ([1.5, -0.5, 0.0, 0.0], [0.0, -1.789, -0.9429, 0.0])
    """
    if order not in range(1, 5):
        raise UserError(f"config.sample.sampler.order is {order}; PLMS has 1 to 4")

    def plan(levels: Level, path: Path) -> LinearMultistep:
        t, s = pairs(levels)
        of_x_t = s.sigma / t.sigma
        with np.errstate(divide="ignore", invalid="ignore"):
            change = s.sigma - s.alpha * t.sigma / t.alpha
        inner = (np.arange(len(change)) > 0) & np.isfinite(change) & (s.sigma > 0)
        return LinearMultistep(
            of_x_t,
            s.alpha - of_x_t * t.alpha,
            np.where(inner, change, 0.0),
            _ADAMS_BASHFORTH[np.minimum(np.arange(len(change)), order - 1)],
        )

    def step(carry: PyTree, x_t: Array, denoise: Denoiser, row: Row, noise: Array | None):
        x0_hat, plan = denoise(x_t, row.t), row.plan
        eps_hat = (x_t - row.t.alpha * x0_hat) / row.t.sigma
        known = jnp.concatenate([eps_hat[None], carry])  # the newest first
        change = jnp.tensordot(plan.weights, known, 1) - eps_hat
        return known[:3], plan.of_x_t * x_t + plan.of_x0 * x0_hat + plan.of_change * change, x0_hat

    return Sampler(plan, lambda x_T: jnp.zeros((3, *x_T.shape), x_T.dtype), step, noisy=False)


_ADAMS_BASHFORTH = np.array(
    [
        [1, 0, 0, 0],
        [3 / 2, -1 / 2, 0, 0],
        [23 / 12, -16 / 12, 5 / 12, 0],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ]
)

"""Rules for a step that remember what the network said in earlier steps: DPM-Solver++.

One network call per step. Source: Lu et al. 2022 (DPM-Solver++).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion.sampler import Denoiser, Row, Sampler, pairs, signal_ratio
from gen_jax.diffusion.schedule import Level
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
      >>> dpm_solver().plan(schedule.linear().path([999, 499, 0])).of_change.round(4).tolist()
      [0.0, 0.76, 0.0]
    """
    if order not in (1, 2):
        raise UserError(f"config.sample.sampler.order is {order}; the DPM-Solver++ here has 1 and 2")
    if stochastic not in _DPM:
        raise UserError(f"config.sample.sampler.stochastic is {stochastic!r}; there are {', '.join(_DPM)}")

    def plan(levels: Level) -> MultistepTransition:
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

"""Rules for a step that look at one step alone: ancestral, DDIM, Euler, Heun; and the table of all samplers.

sampler.py says what a sampler is; multistep.py has those that remember earlier steps. All are written in (alpha,
sigma), for any path. Sources: Ho et al. 2020, Song et al. 2021 (DDIM), Nichol & Dhariwal 2021 (learned variance),
Karras et al. 2022 (Heun).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion.multistep import dpm_solver, plms
from gen_jax.diffusion.sampler import Denoiser, Row, Sampler, pairs, signal_ratio
from gen_jax.diffusion.schedule import Level
from gen_jax.method import Array, PyTree, UserError


class Transition(NamedTuple):
    """The steps x_s = of_x_t x_t + of_x0 x0_hat + of_noise noise: leaves [S], one row per step."""

    of_x_t: Any
    of_x0: Any
    of_noise: Any


class LearnedTransition(NamedTuple):
    """Steps whose noise has the standard deviation small (sigma_t / sigma_s)^fraction: leaves [S]."""

    of_x_t: Any
    of_x0: Any
    small: Any  # 0 in the last step
    log_ratio: Any  # log(sigma_t / sigma_s), of the large standard deviation to the small one; 0 in the last step


def ancestral(variance: str = "small") -> Sampler:
    """Returns the sampler of Ho et al. 2020, for any stride: x_s from q(x_s | x_t, x0_hat).

    The last step, to clean data, is the mean x0_hat itself: the small variance is 0 there, and the large one is
    omitted.

    Args:
      variance: "small" is the variance of q(x_s | x_t, x0), exact for data at a single point; "large" is the variance
        of q(x_t | x_s), exact for standard normal data; "learned" is between them where the network says (Nichol &
        Dhariwal 2021), for models with learned variances.

    Raises:
      UserError: there is no such variance.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> plan = ancestral().plan(schedule.linear().path([500, 480]))
      >>> plan.of_noise.round(6).tolist()
      [0.420265, 0.0]
    """
    if variance not in (*_ANCESTRAL_STD, "learned"):
        raise UserError(
            f"unknown variance {variance!r} of the ancestral sampler; there are {', '.join(_ANCESTRAL_STD)}, learned"
        )
    if variance == "learned":
        return Sampler(_plan_learned, _no_memory, _apply_learned, noisy=True, estimates=True)

    def plan(levels: Level) -> Transition:
        t, s = pairs(levels)
        m = signal_ratio(t, s)
        return Transition(m * s.sigma / t.sigma, s.alpha * (1 - m**2), _ANCESTRAL_STD[variance](t, s))

    return Sampler(plan, _no_memory, _apply_transition, noisy=True)


def ddim(eta: float = 0.0) -> Sampler:
    """Returns the sampler of Song et al. 2021 (eq. 12), which reuses the noise of x_t that x0_hat implies.

    Args:
      eta: share of fresh noise: 0 is deterministic, 1 is `ancestral("small")`.

    Raises:
      UserError: eta is not within 0..1.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> step = ddim().plan(schedule.linear().path([500, 480]))
      >>> round(float(step.of_x_t[0] * 0.7 + step.of_x0[0] * -0.3), 9)
      0.683986188
    """
    if not 0 <= eta <= 1:
        raise UserError(f"eta of the DDIM sampler must be between 0 and 1, not {eta}")

    def plan(levels: Level) -> Transition:
        t, s = pairs(levels)
        fresh = eta**2 * (1 - signal_ratio(t, s) ** 2)  # share of fresh noise in the variance at s
        of_x_t = s.sigma * np.sqrt(1 - fresh) / t.sigma  # from eps_hat = (x_t - alpha_t x0_hat) / sigma_t
        return Transition(of_x_t, s.alpha - of_x_t * t.alpha, s.sigma * np.sqrt(fresh))

    return Sampler(plan, _no_memory, _apply_transition, noisy=eta > 0)


def euler() -> Sampler:
    """Returns Euler's method along the path: x_s = x_t + (alpha_s - alpha_t) x0_hat + (sigma_s - sigma_t) eps_hat.

    It is `ddim` with eta 0, under the name used in flow matching: along the straight path it is
    x_t + (s - t) velocity.
    """
    return ddim(0.0)


def heun() -> Sampler:
    """Returns Heun's method (Karras et al. 2022, algorithm 1, for any path): two calls per step, one in the last.

    It is like `euler`, but with the means of x0_hat and eps_hat at both ends of the step. For alpha 1 it is the
    algorithm of that paper; along the straight path it is Heun's method for the velocity. It is of second order, except
    for the last step, to clean data, which is an Euler step.
    """

    def step(carry: PyTree, x_t: Array, denoise: Denoiser, row: Row, noise: Array | None):
        x0_hat = denoise(x_t, row.t)
        eps_hat = (x_t - row.t.alpha * x0_hat) / row.t.sigma
        x_s = row.s.alpha * x0_hat + row.s.sigma * eps_hat

        def corrected() -> Array:
            x0_there = denoise(x_s, row.s)
            eps_there = (x_s - row.s.alpha * x0_there) / row.s.sigma
            change = (row.s.alpha - row.t.alpha) * (x0_there - x0_hat) + (row.s.sigma - row.t.sigma) * (
                eps_there - eps_hat
            )
            return x_s + change / 2

        # At clean data there is no noise to predict.
        return carry, jax.lax.cond(row.s.sigma > 0, corrected, lambda: x_s), x0_hat

    return Sampler(lambda levels: (), _no_memory, step, noisy=False, calls=_two_but_one_at_the_end)


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "dpm_solver": dpm_solver,
    "plms": plms,
}


def _small_std(t: Level, s: Level) -> np.ndarray:
    return s.sigma * np.sqrt(1 - signal_ratio(t, s) ** 2)


def _large_std(t: Level, s: Level) -> np.ndarray:
    return np.where(s.sigma == 0, 0, t.sigma * np.sqrt(1 - signal_ratio(t, s) ** 2))  # the last step is the mean


_ANCESTRAL_STD: dict[str, Callable[[Level, Level], np.ndarray]] = {"small": _small_std, "large": _large_std}


def _plan_learned(levels: Level) -> LearnedTransition:
    t, s = pairs(levels)
    of_x_t, of_x0, small = ancestral("small").plan(levels)
    return LearnedTransition(of_x_t, of_x0, small, np.log(t.sigma / np.where(s.sigma == 0, t.sigma, s.sigma)))


def _apply_learned(
    carry: PyTree, x_t: Array, denoise: Callable[[Array, Level], Any], row: Row, noise: Array | None
) -> tuple[PyTree, Array, Array]:
    found, plan = denoise(x_t, row.t), row.plan
    std = plan.small * jnp.exp(found.fraction * plan.log_ratio)
    return carry, plan.of_x_t * x_t + plan.of_x0 * found.x0_hat + std * noise, found.x0_hat


def _two_but_one_at_the_end(num_steps: int) -> int:
    return 2 * num_steps - 1


def _no_memory(x_T: Array) -> tuple[()]:
    return ()


def _apply_transition(
    carry: PyTree, x_t: Array, denoise: Denoiser, row: Row, noise: Array | None
) -> tuple[PyTree, Array, Array]:
    x0_hat, plan = denoise(x_t, row.t), row.plan
    mean: Array = plan.of_x_t * x_t + plan.of_x0 * x0_hat
    return carry, mean if noise is None else mean + plan.of_noise * noise, x0_hat

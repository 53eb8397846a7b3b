"""Rules for a step that look at one step alone: ancestral, DDIM, Euler, Heun, EDM; and the table of all samplers.

sampler.py says what a sampler is; multistep.py has those that remember earlier steps. All are written in (alpha,
sigma), for any path. Sources: Ho et al. 2020, Song et al. 2021 (DDIM), Nichol & Dhariwal 2021 (learned variance),
Karras et al. 2022 (Heun, EDM).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion.multistep import dpm_solver, plms
from gen_jax.diffusion.sampler import Denoiser, Row, Sampler, pairs, signal_ratio
from gen_jax.diffusion.schedule import Level, Path
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


class Churn(NamedTuple):
    """The noise added before a step, x_t = of_x_t x_t + of_noise noise, and the level that it leads to: leaves [S]."""

    level: Level
    of_x_t: Any
    of_noise: Any


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
      >>> linear = schedule.linear()
      >>> plan = ancestral().plan(linear.path([500, 480]), linear)
      >>> plan.of_noise.round(6).tolist()
      [0.420265, 0.0]
    """
    if variance not in (*_ANCESTRAL_STD, "learned"):
        raise UserError(
            f"unknown variance {variance!r} of the ancestral sampler; there are {', '.join(_ANCESTRAL_STD)}, learned"
        )
    if variance == "learned":
        return Sampler(_plan_learned, _no_memory, _apply_learned, noisy=True, estimates=True)

    def plan(levels: Level, path: Path) -> Transition:
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
      >>> linear = schedule.linear()
      >>> step = ddim().plan(linear.path([500, 480]), linear)
      >>> round(float(step.of_x_t[0] * 0.7 + step.of_x0[0] * -0.3), 9)
      0.683986188
    """
    if not 0 <= eta <= 1:
        raise UserError(f"eta of the DDIM sampler must be between 0 and 1, not {eta}")

    def plan(levels: Level, path: Path) -> Transition:
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
        return carry, *_heun_step(denoise, x_t, row.t, row.s)

    return Sampler(lambda levels, path: (), _no_memory, step, noisy=False, calls=_two_but_one_at_the_end)


def edm(s_churn: float = 40.0, s_min: float = 0.05, s_max: float = 50.0, s_noise: float = 1.003) -> Sampler:
    """Returns the stochastic sampler of Karras et al. 2022, algorithm 2, for any path: `heun` with churn.

    With q = sigma / alpha, a step first adds noise up to q (1 + min(s_churn / number of steps, sqrt(2) - 1)), as the
    path itself would, and then goes from there to the next level. The raised level is at most that of the path's end. A
    step from pure noise, where q is infinite, has nothing to add. The defaults are the paper's for ImageNet-64.

    Args:
      s_churn: amount of noise added and removed over all steps; 0 is `heun`.
      s_min: smallest q at which noise is added.
      s_max: largest q at which noise is added.
      s_noise: factor of the added noise's standard deviation.

    Raises:
      UserError: a negative value, or s_min above s_max.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> path = schedule.variance_exploding()
      >>> levels = schedule.Level(*(np.array(values) for values in ([0.0, 0.0], [1.0, 1.0], [2.0, 1.0])))
      >>> raised = edm().plan(levels, path)
      >>> raised.level.sigma.round(6).tolist(), raised.of_noise.round(6).tolist()
      ([2.828427], [2.006])
    """
    if min(s_churn, s_min, s_noise) < 0 or not s_min <= s_max:
        raise UserError(
            f"config.sample.sampler has s_churn {s_churn:g}, s_min {s_min:g}, s_max {s_max:g} and s_noise {s_noise:g}; "
            "none may be negative, nor s_min above s_max"
        )

    def plan(levels: Level, path: Path) -> Churn:
        t, _ = pairs(levels)
        with np.errstate(divide="ignore"):
            q = t.sigma / t.alpha
        more = min(s_churn / len(q), math.sqrt(2) - 1)
        churned = (more > 0) & np.isfinite(q) & (q >= s_min) & (q <= s_max)
        raised = path.at_noise(np.where(churned, q * (1 + more), q))
        up = churned & (raised.sigma * t.alpha > t.sigma * raised.alpha)  # not at the end of the path
        level = Level(*(np.where(up, there, here) for there, here in zip(raised, t, strict=True)))
        of_x_t = np.where(up, level.alpha / np.where(up, t.alpha, 1.0), 1.0)
        added = np.sqrt(np.maximum(level.sigma**2 - (of_x_t * t.sigma) ** 2, 0.0))
        return Churn(level, of_x_t, np.where(up, s_noise * added, 0.0))

    def step(carry: PyTree, x_t: Array, denoise: Denoiser, row: Row, noise: Array | None):
        raised = x_t if noise is None else row.plan.of_x_t * x_t + row.plan.of_noise * noise
        return carry, *_heun_step(denoise, raised, row.plan.level, row.s)

    return Sampler(plan, _no_memory, step, noisy=s_churn > 0, calls=_two_but_one_at_the_end)


def _heun_step(denoise: Denoiser, x_t: Array, t: Level, s: Level) -> tuple[Array, Array]:
    """Heun's step from level t to s, and x0_hat of its start."""
    x0_hat = denoise(x_t, t)
    eps_hat = (x_t - t.alpha * x0_hat) / t.sigma
    x_s = s.alpha * x0_hat + s.sigma * eps_hat

    def corrected() -> Array:
        x0_there = denoise(x_s, s)
        eps_there = (x_s - s.alpha * x0_there) / s.sigma
        return x_s + ((s.alpha - t.alpha) * (x0_there - x0_hat) + (s.sigma - t.sigma) * (eps_there - eps_hat)) / 2

    # At clean data there is no noise to predict.
    return jax.lax.cond(s.sigma > 0, corrected, lambda: x_s), x0_hat


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "edm": edm,
    "dpm_solver": dpm_solver,
    "plms": plms,
}


def _small_std(t: Level, s: Level) -> np.ndarray:
    return s.sigma * np.sqrt(1 - signal_ratio(t, s) ** 2)


def _large_std(t: Level, s: Level) -> np.ndarray:
    return np.where(s.sigma == 0, 0, t.sigma * np.sqrt(1 - signal_ratio(t, s) ** 2))  # the last step is the mean


_ANCESTRAL_STD: dict[str, Callable[[Level, Level], np.ndarray]] = {"small": _small_std, "large": _large_std}


def _plan_learned(levels: Level, path: Path) -> LearnedTransition:
    t, s = pairs(levels)
    of_x_t, of_x0, small = ancestral("small").plan(levels, path)
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

"""Samplers: from noise to data, down a list of noise levels, with one denoiser signature for all of them.

A sampler sees a network only as `denoise(x_t [N, ...], level with leaves [N]) -> x0_hat`: prediction kind, guidance,
labels and clipping are wrapped around the network before (only `ancestral("learned")` also asks for a variance, in an
`Estimate`). A step may call it several times. The list of levels is an argument; each step goes to the next level of
the list, and the last level is clean data. Coefficients that depend on the levels are computed in float64 on the host,
for the whole list at once (1 - (alpha_t / alpha_s)^2 loses its digits in float32). Sources: Ho et al. 2020, Song et al.
2021 (DDIM), Nichol & Dhariwal 2021 (learned variance), Lin et al. 2023, Karras et al. 2022 (Heun), Lu et al. 2022
(DPM-Solver++).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion.schedule import Level, Path
from gen_jax.method import Array, PyTree, UserError

Denoiser = Callable[[Array, Level], Array]


class Estimate(NamedTuple):
    """What a denoiser of a model with learned variances returns to those who ask for both.

    Attributes:
      x0_hat: the estimate of the data, [N, ...].
      fraction: where the log variance of a reverse step lies between the small (0) and the large one (1); of x0_hat's
        shape, not limited to 0..1.
    """

    x0_hat: Array
    fraction: Array


def x0_of(found: Any) -> Array:
    """Returns x0_hat of what a denoiser returned: the array itself, or that of an `Estimate`."""
    return found.x0_hat if isinstance(found, Estimate) else found


def with_x0(found: Any, x0_hat: Array) -> Any:
    """Returns what a denoiser returned, with another x0_hat.

    A learned variance stays. If x0_hat was made of several rows, as by guidance, it is that of the first.
    """
    return Estimate(x0_hat, found.fraction[: len(x0_hat)]) if isinstance(found, Estimate) else x0_hat


class Row(NamedTuple):
    """The inputs of one step: leaves f32 []."""

    t: Level  # where it starts
    s: Level  # where it ends: the next, cleaner level; clean data in the last step
    plan: Any  # the sampler's coefficients


class Sampler(NamedTuple):
    """A rule for the step from x_t to x_s, at the next, cleaner level.

    Attributes:
      plan: levels (float64 [S + 1], from noisy to clean) -> what the S steps need besides the levels, leaves [S].
      init: x_T -> the sampler's memory between steps; () if it has none.
      step: (carry, x_t, denoise, row, noise) -> (carry, x_s, x0_hat); `denoise` takes a level with leaves [].
      noisy: whether steps use standard normal noise; otherwise `noise` is None.
      estimates: whether `denoise` must return an `Estimate`, as only models with learned variances can.
    """

    plan: Callable[[Level], PyTree]
    init: Callable[[Array], PyTree]
    step: Callable[[PyTree, Array, Denoiser, Row, Array | None], tuple[PyTree, Array, Array]]
    noisy: bool
    estimates: bool = False


class Transition(NamedTuple):
    """The steps x_s = of_x_t x_t + of_x0 x0_hat + of_noise noise: leaves [S], one row per step."""

    of_x_t: Any
    of_x0: Any
    of_noise: Any


class MultistepTransition(NamedTuple):
    """The steps x_s = of_x_t x_t + of_x0 x0_hat + of_change (x0_hat - the previous x0_hat) + of_noise noise: [S]."""

    of_x_t: Any
    of_x0: Any
    of_change: Any
    of_noise: Any


class LearnedTransition(NamedTuple):
    """Steps whose noise has the standard deviation small (sigma_t / sigma_s)^fraction: leaves [S]."""

    of_x_t: Any
    of_x0: Any
    small: Any  # 0 in the last step
    log_ratio: Any  # log(sigma_t / sigma_s), of the large standard deviation to the small one; 0 in the last step


class Trajectory(NamedTuple):
    """A sampling process: its end, and its state at the K steps that were kept."""

    x0: Array  # f32 [N, H, W, C]
    x_t: Array  # f32 [K, N, H, W, C], input of the denoiser
    x0_hat: Array  # f32 [K, N, H, W, C], output of the denoiser


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
        t, s = _pairs(levels)
        m = _signal_ratio(t, s)
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
        t, s = _pairs(levels)
        fresh = eta**2 * (1 - _signal_ratio(t, s) ** 2)  # share of fresh noise in the variance at s
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

    return Sampler(lambda levels: (), _no_memory, step, noisy=False)


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
        t, s = _pairs(levels)
        m = _signal_ratio(t, s)
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

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "dpm_solver": dpm_solver,
}


def sample(
    denoise: Denoiser,
    path: Path,
    sampler: Sampler,
    steps: Sequence[float] | np.ndarray,
    keys: Array,
    shape: tuple[int, ...],
    start: Array | None = None,
) -> Array:
    """Returns samples, one per key: f32 [N, *shape]. Call it inside jit; the steps are one scan.

    Sampling starts from normal noise (with standard deviation `path.start`), even if a schedule leaves some data in its
    last level. Image i depends only on keys[i] (its initial noise on `fold_in(key, 0)`, the noise of step j on
    `fold_in(key, j + 1)`), so it is the same for every N.

    Args:
      denoise: (x_t [N, *shape], level with leaves [N]) -> x0_hat.
      path: provides the levels of the steps.
      sampler: from `SAMPLERS`.
      steps: strictly decreasing times, as `path.steps` returns them; known when tracing.
      keys: one key per image, [N].
      shape: of one image, (H, W, C).
      start: x_t at the first of the steps, [N, *shape], instead of noise.

    Raises:
      UserError: steps are not strictly decreasing, or leave the path.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> always_half = lambda x_t, level: jnp.full_like(x_t, 0.5)
      >>> linear = schedule.linear()
      >>> keys = jax.random.split(jax.random.key(0), 2)
      >>> sample(always_half, linear, ancestral(), linear.steps(5), keys, (1, 1, 1)).ravel().tolist()
      [0.5, 0.5]
    """
    return trajectory(denoise, path, sampler, steps, keys, shape, keep=(), start=start).x0


def trajectory(
    denoise: Denoiser,
    path: Path,
    sampler: Sampler,
    steps: Sequence[float] | np.ndarray,
    keys: Array,
    shape: tuple[int, ...],
    keep: Sequence[int] | np.ndarray | None = None,
    start: Array | None = None,
) -> Trajectory:
    """Returns the same samples as `sample` with the same arguments, and intermediate states of the process.

    Args:
      denoise, path, sampler, steps, keys, shape, start: as for `sample`.
      keep: increasing positions in `steps` to keep; only these K use memory. None keeps every step.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> always_half = lambda x_t, level: jnp.full_like(x_t, 0.5)
      >>> keys = jax.random.split(jax.random.key(0), 1)
      >>> way = trajectory(always_half, schedule.linear(), ddim(), [999, 499, 0], keys, (4, 4, 1), keep=(0, 2))
      >>> way.x_t.shape, way.x0_hat.shape
      ((2, 1, 4, 4, 1), (2, 1, 4, 4, 1))
    """
    levels = path.path(steps)
    num_steps, num_images = len(levels.sigma) - 1, len(keys)
    keep = np.arange(num_steps) if keep is None else np.asarray(keep, np.int32)
    slots = np.full(num_steps, len(keep), np.int32)  # where a step is stored; the rest share one slot after the last
    slots[keep] = np.arange(len(keep))
    rows = Row(*_pairs(levels), sampler.plan(levels))
    rows = jax.tree.map(lambda values: jnp.asarray(values, jnp.float32), rows)

    def draw_noise(index: Array | int) -> Array:
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), shape))(keys)

    def denoise_all(x_t: Array, level: Level) -> Array:
        return denoise(x_t, Level(*(jnp.full(num_images, value) for value in level)))

    def take_step(state: tuple, inputs: tuple) -> tuple[tuple, None]:
        carry, x_t, stored = state
        index, slot, row = inputs
        noise = draw_noise(index + 1) if sampler.noisy else None
        carry, x_s, x0_hat = sampler.step(carry, x_t, denoise_all, row, noise)
        stored = tuple(store.at[slot].set(x) for store, x in zip(stored, (x_t, x0_hat), strict=True))
        return (carry, x_s, stored), None

    x_T = path.start * draw_noise(0) if start is None else start
    before = (sampler.init(x_T), x_T, (jnp.zeros((len(keep) + 1, *x_T.shape)),) * 2)
    (_, x0, stored), _ = jax.lax.scan(take_step, before, (jnp.arange(num_steps), slots, rows))
    return Trajectory(x0, *(store[:-1] for store in stored))


def clipped(denoise: Denoiser, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """Returns a denoiser whose x0_hat is clipped to the range of the data; samplers derive eps_hat from the result.

    Example:
      >>> clipped(lambda x_t, level: 3 * x_t)(jnp.array([-1.0, 0.1]), None).tolist()
      [-1.0, 0.30000001192092896]
    """

    def denoise_clipped(x_t: Array, level: Level) -> Any:
        found = denoise(x_t, level)
        return with_x0(found, jnp.clip(x0_of(found), low, high))

    return denoise_clipped


def _pairs(levels: Level) -> tuple[Level, Level]:
    """Returns the levels at which the steps start and those at which they end."""
    return Level(*(values[:-1] for values in levels)), Level(*(values[1:] for values in levels))


def _signal_ratio(t: Level, s: Level) -> Any:
    """Returns m = (alpha_t / sigma_t) / (alpha_s / sigma_s), the square root of the SNR ratio: 0..1.

    All steps are written in terms of m, which avoids divisions by zero: m is 0 both if t is pure noise and if s is
    clean data. The variance of q(x_t | x_s), 1 - (alpha_t / alpha_s)^2, is sigma_t^2 (1 - m^2).
    """
    return t.alpha * s.sigma / (t.sigma * s.alpha)


def _small_std(t: Level, s: Level) -> np.ndarray:
    return s.sigma * np.sqrt(1 - _signal_ratio(t, s) ** 2)


def _large_std(t: Level, s: Level) -> np.ndarray:
    return np.where(s.sigma == 0, 0, t.sigma * np.sqrt(1 - _signal_ratio(t, s) ** 2))  # the last step is the mean


_ANCESTRAL_STD: dict[str, Callable[[Level, Level], np.ndarray]] = {"small": _small_std, "large": _large_std}


def _plan_learned(levels: Level) -> LearnedTransition:
    t, s = _pairs(levels)
    of_x_t, of_x0, small = ancestral("small").plan(levels)
    return LearnedTransition(of_x_t, of_x0, small, np.log(t.sigma / np.where(s.sigma == 0, t.sigma, s.sigma)))


def _apply_learned(
    carry: PyTree, x_t: Array, denoise: Callable[[Array, Level], Any], row: Row, noise: Array | None
) -> tuple[PyTree, Array, Array]:
    found, plan = denoise(x_t, row.t), row.plan
    std = plan.small * jnp.exp(found.fraction * plan.log_ratio)
    return carry, plan.of_x_t * x_t + plan.of_x0 * found.x0_hat + std * noise, found.x0_hat


def _no_memory(x_T: Array) -> tuple[()]:
    return ()


def _apply_transition(
    carry: PyTree, x_t: Array, denoise: Denoiser, row: Row, noise: Array | None
) -> tuple[PyTree, Array, Array]:
    x0_hat, plan = denoise(x_t, row.t), row.plan
    mean: Array = plan.of_x_t * x_t + plan.of_x0 * x0_hat
    return carry, mean if noise is None else mean + plan.of_noise * noise, x0_hat

"""Samplers: from noise to data, down a list of noise levels, with one denoiser signature for all of them.

A sampler sees a network only as `denoise(x_t [N, ...], level with leaves [N]) -> x0_hat`: prediction kind, guidance,
labels and clipping are wrapped around the network before (only `ancestral("learned")` also asks for a variance, in an
`Estimate`). A step may call it several times. The list of levels is an argument; each step goes to the next level of
the list, and the last level is clean data. Coefficients that depend on the levels are computed in float64 on the host,
for the whole list at once (1 - (alpha_t / alpha_s)^2 loses its digits in float32). The rules for a step are in
solvers.py and multistep.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion.schedule import Level, Path, start_std
from gen_jax.method import Array, PyTree

Denoiser = Callable[..., Array]
"""(x_t, level) -> x0_hat; that of a `Sampler` that jumps takes (x_t, level, level at the end of the step)."""


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
      plan: (levels, float64 [S + 1], noisy to clean; their path) -> what the S steps need besides, leaves [S, ...].
      init: x_T -> the sampler's memory between steps; () if it has none.
      step: (carry, x_t, denoise, row, noise) -> (carry, x_s, x0_hat); `denoise` takes a level with leaves [].
      noisy: whether steps use standard normal noise; otherwise `noise` is None.
      estimates: whether `denoise` must return an `Estimate`, as only models with learned variances can.
      calls: number of steps -> number of network calls.
      jumps: whether `denoise` must take the end of the step as well, as only models of average velocities can.
    """

    plan: Callable[[Level, Path], PyTree]
    init: Callable[[Array], PyTree]
    step: Callable[[PyTree, Array, Denoiser, Row, Array | None], tuple[PyTree, Array, Array]]
    noisy: bool
    estimates: bool = False
    calls: Callable[[int], int] = lambda num_steps: num_steps
    jumps: bool = False


class Trajectory(NamedTuple):
    """A sampling process: its end, and its state at the K steps that were kept."""

    x0: Array  # f32 [N, H, W, C]
    x_t: Array  # f32 [K, N, H, W, C], input of the denoiser
    x0_hat: Array  # f32 [K, N, H, W, C], output of the denoiser


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

    Sampling starts from normal noise (of `schedule.start_std`), even if some data is left in the first of the levels.
    Image i depends only on keys[i] (its initial noise on `fold_in(key, 0)`, the noise of step j on
    `fold_in(key, j + 1)`), so it is the same for every N.

    Args:
      denoise: (x_t [N, *shape], level with leaves [N]) -> x0_hat.
      path: provides the levels of the steps.
      sampler: from `solvers.SAMPLERS`.
      steps: strictly decreasing times, as `path.steps` returns them; known when tracing.
      keys: one key per image, [N].
      shape: of one image, (H, W, C).
      start: x_t at the first of the steps, [N, *shape], instead of noise.

    Raises:
      UserError: steps are not strictly decreasing, or leave the path.

    Example:
      >>> from gen_jax.diffusion import schedule, solvers
      >>> always_half = lambda x_t, level: jnp.full_like(x_t, 0.5)
      >>> linear = schedule.linear()
      >>> keys = jax.random.split(jax.random.key(0), 2)
      >>> sample(always_half, linear, solvers.ancestral(), linear.steps(5), keys, (1, 1, 1)).ravel().tolist()
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
      >>> from gen_jax.diffusion import schedule, solvers
      >>> always_half = lambda x_t, level: jnp.full_like(x_t, 0.5)
      >>> keys = jax.random.split(jax.random.key(0), 1)
      >>> way = trajectory(always_half, schedule.linear(), solvers.ddim(), [999, 499, 0], keys, (4, 4, 1), keep=(0, 2))
      >>> way.x_t.shape, way.x0_hat.shape
      ((2, 1, 4, 4, 1), (2, 1, 4, 4, 1))
    """
    levels = path.path(steps)
    num_steps, num_images = len(levels.sigma) - 1, len(keys)
    keep = np.arange(num_steps) if keep is None else np.asarray(keep, np.int32)
    slots = np.full(num_steps, len(keep), np.int32)  # where a step is stored; the rest share one slot after the last
    slots[keep] = np.arange(len(keep))
    rows = Row(*pairs(levels), sampler.plan(levels, path))
    rows = jax.tree.map(lambda values: jnp.asarray(values, jnp.float32), rows)

    def draw_noise(index: Array | int) -> Array:
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), shape))(keys)

    def denoise_all(x_t: Array, *levels: Level) -> Array:
        return denoise(x_t, *(Level(*(jnp.full(num_images, value) for value in level)) for level in levels))

    def take_step(state: tuple, inputs: tuple) -> tuple[tuple, None]:
        carry, x_t, stored = state
        index, slot, row = inputs
        noise = draw_noise(index + 1) if sampler.noisy else None
        carry, x_s, x0_hat = sampler.step(carry, x_t, denoise_all, row, noise)
        stored = tuple(store.at[slot].set(x) for store, x in zip(stored, (x_t, x0_hat), strict=True))
        return (carry, x_s, stored), None

    x_T = start_std(path, levels) * draw_noise(0) if start is None else start
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


def pairs(levels: Level) -> tuple[Level, Level]:
    """Returns the levels at which the steps start and those at which they end."""
    return Level(*(values[:-1] for values in levels)), Level(*(values[1:] for values in levels))


def signal_ratio(t: Level, s: Level) -> Any:
    """Returns m = (alpha_t / sigma_t) / (alpha_s / sigma_s), the square root of the SNR ratio: 0..1.

    All steps are written in terms of m, which avoids divisions by zero: m is 0 both if t is pure noise and if s is
    clean data. The variance of q(x_t | x_s), 1 - (alpha_t / alpha_s)^2, is sigma_t^2 (1 - m^2).
    """
    return t.alpha * s.sigma / (t.sigma * s.alpha)

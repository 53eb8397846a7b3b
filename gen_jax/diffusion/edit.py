"""Edits of given pictures with a diffusion model: filling in, variations, and inversion.

All of them are pure functions of a denoiser and of the levels of a path, like the samplers, so they work with every
prediction, guidance and schedule, zero terminal SNR included. x0 is in the space of the model, about [-1, 1]. Sources:
Lugmayr et al. 2022 (RePaint), Meng et al. 2022 (SDEdit), Song et al. 2021 (DDIM and its inversion).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion import sampler as samplers
from gen_jax.diffusion import solvers
from gen_jax.diffusion.schedule import Level, Path, add_noise
from gen_jax.method import Array, PyTree, UserError, keys_of

Steps = Sequence[float] | np.ndarray
_OWN_NOISE = 2**31 - 1  # folded into an image's key; samplers fold in the numbers of steps


class _Plan(NamedTuple):
    """What a step of `keeping` needs: leaves [S]."""

    inner: Any  # the plan of the sampler
    number: Any  # of the step
    of_x_s: Any  # the way back, x_t = of_x_s x_s + of_noise noise, is a draw of q(x_t | x_s)
    of_noise: Any


def inpaint(
    denoise: samplers.Denoiser,
    path: Path,
    sampler: samplers.Sampler,
    steps: Steps,
    keys: Array,
    x0: Array,
    mask: Array,
    resample: int,
) -> Array:
    """Returns pictures with the masked pixels filled in, f32 like x0; the others are those of x0 (Lugmayr et al. 2022).

    Args:
      denoise, path, sampler, steps, keys: as for `sampler.sample`.
      x0: f32 [N, H, W, C]; masked pixels do not matter.
      mask: bool [N, H, W, 1], true where x0 is to be filled.
      resample: how often each step goes back to where it started and is taken again; see `keeping`.
    """
    kept = keeping(sampler, x0, mask, keys, resample)
    return samplers.sample(denoise, path, kept, steps, keys, x0.shape[1:])


def keeping(sampler: samplers.Sampler, x0: Array, mask: Array, keys: Array, resample: int) -> samplers.Sampler:
    """Returns a sampler that replaces the known pixels after each of its steps by those of x0, with the noise of there.

    What was just filled in does not depend on those known pixels. So each step is undone by adding noise, and taken
    again, `resample` times: each time the filled pixels and the known ones fit together better. The last step, to clean
    data, is taken once, as in the paper, and leaves the known pixels as they are in x0.

    For normal data and the exact denoiser the mean of the filled pixels approaches the conditional mean, and with
    `ancestral("large")` their variance the conditional variance. The small variance is too small for steps of a finite
    size, and taking them again adds up what is lost.

    Args:
      sampler: what fills the masked pixels. Its memory, if it has one, is that of before the step each time.
      x0: f32 [N, H, W, C].
      mask: bool [N, H, W, 1], true where x0 is to be filled.
      keys: one key per image, [N]. A step taken once draws the noise that the sampler itself would have.
      resample: 0 or more.
    """

    def plan(levels: Level, path: Path) -> _Plan:
        t, s = (Level(*(values[part] for values in levels)) for part in (slice(None, -1), slice(1, None)))
        ratio = t.alpha / s.alpha  # 0 where t is pure noise; s never is
        fresh = np.sqrt(np.maximum(t.sigma**2 - (ratio * s.sigma) ** 2, 0))
        return _Plan(sampler.plan(levels, path), np.arange(len(ratio)), ratio, fresh)

    own_keys = jax.vmap(lambda key: jax.random.fold_in(key, _OWN_NOISE))(keys)

    def step(carry: PyTree, x_t: Array, denoise: samplers.Denoiser, row: samplers.Row, noise: Array | None):
        number = row.plan.number.astype(jnp.int32)

        def take(time: Array, state: tuple) -> tuple:
            x_t, _ = state
            of_step, of_known, of_return = _noises(own_keys, number, time, x0.shape[1:])
            of_step = None if noise is None else jnp.where(time == 0, noise, of_step)
            memory, filled, x0_hat = sampler.step(carry, x_t, denoise, row._replace(plan=row.plan.inner), of_step)
            x_s = jnp.where(mask, filled, row.s.alpha * x0 + row.s.sigma * of_known)
            return row.plan.of_x_s * x_s + row.plan.of_noise * of_return, (memory, x_s, x0_hat)

        times = jnp.where(row.s.sigma > 0, 1 + resample, 1)
        return jax.lax.fori_loop(0, times, take, (x_t, (carry, x_t, jnp.zeros_like(x_t))))[1]

    def calls(num_steps: int) -> int:
        last = sampler.calls(1)
        return (1 + resample) * (sampler.calls(num_steps) - last) + last

    return sampler._replace(plan=plan, step=step, calls=calls)


def _noises(keys: Array, number: Array, time: Array, shape: tuple[int, ...]) -> Array:
    """Normal numbers [3, N, *shape] of one pass of one step."""

    def draw(key: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, number), time), (3, *shape))

    return jnp.moveaxis(jax.vmap(draw)(keys), 1, 0)


def vary(
    denoise: samplers.Denoiser,
    path: Path,
    sampler: samplers.Sampler,
    steps: Steps,
    keys: Array,
    x0: Array,
    strength: float,
) -> Array:
    """Returns variations of pictures, f32 like x0: noise is added, and the sampler removes it (Meng et al. 2022).

    Args:
      denoise, path, sampler, steps, keys: as for `sampler.sample`.
      x0: f32 [N, H, W, C].
      strength: share of the steps that are taken, 0..1, rounded up to whole steps. At 0 the result is x0; at 1 it is
        `sampler.sample` with the same keys, which knows nothing of x0.
    """
    num = math.ceil(round(strength * len(steps), 6))
    if not num:
        return x0
    if num == len(steps):
        return samplers.sample(denoise, path, sampler, steps, keys, x0.shape[1:])
    rest = steps[-num:]
    first = Level(*(jnp.full(len(keys), values[0], jnp.float32) for values in path.path(rest)))
    eps = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), x0.shape[1:]))(keys)
    return samplers.sample(denoise, path, sampler, rest, keys, x0.shape[1:], start=add_noise(x0, eps, first))


def invert(denoise: samplers.Denoiser, path: Path, steps: Steps, x0: Array) -> Array:
    """Returns the noise at the first of the steps that DDIM leads to x0, f32 like x0: DDIM's steps in reverse.

    Each step takes the estimate of where it starts for that of where it ends, so `render` returns to x0 with an error
    of the order of a step. Clean data has no noise to estimate: the first step asks at the level where it ends.

    Args:
      denoise, path, steps: as for `sampler.sample`.
      x0: f32 [N, H, W, C].

    Raises:
      UserError: there is a single step, from pure noise: it does not depend on where it starts.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> no_idea = lambda x_t, level: jnp.zeros_like(x_t)
      >>> invert(no_idea, schedule.straight(), [0.5], jnp.full((1, 1, 1, 1), 0.8)).ravel().tolist()  # eps_hat 0.8
      [0.800000011920929]
    """
    levels = path.path(steps)
    if levels.alpha[-2] == 0:
        raise UserError("one step from pure noise cannot be inverted: use num_steps of 2 or more")
    upwards = Level(*(np.asarray(values[-2::-1], np.float32) for values in levels))  # without clean data

    def estimates(x_t: Array, level: Level) -> tuple[Array, Array]:
        x0_hat = denoise(x_t, Level(*(jnp.full(len(x_t), value) for value in level)))
        return x0_hat, (x_t - level.alpha * x0_hat) / level.sigma

    def rise(x_s: Array, ends: tuple[Level, Level]) -> tuple[Array, None]:
        s, t = ends
        x0_hat, eps_hat = estimates(x_s, s)
        return t.alpha * x0_hat + t.sigma * eps_hat, None

    lowest = Level(*(values[0] for values in upwards))
    eps_hat = estimates(lowest.alpha * x0, lowest)[1]
    x_t = lowest.alpha * x0 + lowest.sigma * eps_hat
    below, above = (Level(*(values[part] for values in upwards)) for part in (slice(None, -1), slice(1, None)))
    return jax.lax.scan(rise, x_t, (below, above))[0]


def render(denoise: samplers.Denoiser, path: Path, steps: Steps, noise: Array) -> Array:
    """Returns the pictures of given noise by DDIM, f32 of its shape: the inverse of `invert`.

    Args:
      denoise, path, steps: as for `sampler.sample`.
      noise: x_t at the first of the steps, f32 [N, H, W, C].
    """
    keys = keys_of(jax.random.key(0, impl="threefry2x32"), jnp.arange(len(noise)))  # nothing is drawn
    return samplers.sample(denoise, path, solvers.ddim(), steps, keys, noise.shape[1:], start=noise)


def coarse(mask: Array, size: tuple[int, int]) -> Array:
    """Returns a mask for a smaller space, such as codes: true where any pixel below is, bool [N, *size, 1].

    Args:
      mask: bool [N, H, W].
      size: height and width of the space.

    Example:
      >>> coarse(jnp.array([[[True, False, False, False]]]), (1, 2)).ravel().tolist()
      [True, False]
    """
    rows, columns = (_covers(large, small) for large, small in zip(mask.shape[1:], size, strict=True))
    return (jnp.einsum("nhw,ih,jw->nij", mask.astype(jnp.float32), rows, columns) > 0)[..., None]


def _covers(large: int, small: int) -> np.ndarray:
    """Which of `large` pixels lie below each of `small` ones of the same length, f32 [small, large] of 0 and 1."""
    low, high = np.arange(small)[:, None] * large, (np.arange(small)[:, None] + 1) * large
    pixel = np.arange(large) * small
    return ((pixel + small > low) & (pixel < high)).astype(np.float32)

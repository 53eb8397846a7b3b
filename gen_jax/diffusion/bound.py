"""The variational bound of a table `Schedule` in bits per dimension, by its terms (Ho et al. 2020, eq. 5).

The model p draws x_{T-1} from N(0, I), goes down the table by p(x_{t-1} | x_t) = q(x_{t-1} | x_t, x0_hat) with a
variance of its own, and ends with grey values from a discretised normal distribution around the last x0_hat. The bound
on -log p(x0) is a sum of T + 1 terms: the KL divergence of x_{T-1} from the prior; for t = 1..T-1 that of two normal
distributions; the reconstruction at t = 0. The log variance lies `fraction` of the way from the small variance (of
q(x_{t-1} | x_t, x0)) to the large one (of q(x_t | x_{t-1})), as in Nichol & Dhariwal 2021, eq. 15: 0 is small, 1 is
large. Coefficients are computed in float64 on the host. A term holds the whole model of a step, so a continuous path
has no bound of its own here, only one for each table that it is cut into; `ode_likelihood` serves it directly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr

from gen_jax.diffusion.sampler import Estimate, x0_of
from gen_jax.diffusion.schedule import Level, Schedule, add_noise
from gen_jax.method import Array, UserError, broadcast_to_images

HALF_BIN = 1 / 255  # of a grey value, on the scale of [-1, 1]


class Coefficients(NamedTuple):
    """What the terms need besides the levels: float64 [T]; entry 0 belongs to the reconstruction.

    Attributes:
      gain: SNR_{t-1} - SNR_t, the factor of the squared error of x0_hat in units of the small variance; 0 at t = 0.
      log_small: log of the small variance. At t = 0 it would be 0, and that of t = 1 is used (as in Ho et al. 2020).
      log_ratio: log of the large variance, minus `log_small`.
    """

    gain: Any
    log_small: Any
    log_ratio: Any


class Bound(NamedTuple):
    """The bound of each image by its three parts, f32 [B] in bits per dimension; their sum is the bound."""

    prior: Array
    diffusion: Array
    reconstruction: Array


def coefficients(schedule: Schedule) -> Coefficients:
    """Returns the coefficients of a table.

    Raises:
      UserError: the table has only one level.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> round(float(coefficients(schedule.linear()).log_small[1]), 6)
      -9.816725
    """
    if schedule.num_steps < 2:
        raise UserError("the bound needs a schedule of 2 or more steps: set --config.diffusion.schedule.num_steps")
    alpha, sigma = schedule.alpha, schedule.sigma
    fresh = 1 - (alpha[1:] * sigma[:-1] / (sigma[1:] * alpha[:-1])) ** 2  # share of new noise, exact at alpha 0
    small = sigma[:-1] ** 2 * fresh
    small, large = np.append(small[0], small), np.append(sigma[0] ** 2, sigma[1:] ** 2 * fresh)
    return Coefficients(np.append(0, (alpha[:-1] / sigma[:-1]) ** 2 * fresh), np.log(small), np.log(large / small))


def prior(schedule: Schedule, x0: Array) -> Array:
    """Returns the KL divergence of x_{T-1} given x0 from N(0, I), in bits per dimension: [B]; 0 at zero terminal SNR.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> f"{prior(schedule.linear(), jnp.ones((1, 2, 2, 1)))[0]:.2g}"
      '2.9e-05'
    """
    signal = float(schedule.alpha[-1] ** 2)
    return (signal * _mean(x0**2) - (signal + math.log1p(-signal))) / (2 * math.log(2))


def log_prob_of_grey(x0: Array, mean: Array, log_variance: Array | float) -> Array:
    """Returns the log probability of grey values under a discretised normal distribution, in nats, of x0's shape.

    Bins are 2/255 wide; the first extends to -inf and the last to inf (Ho et al. 2020, eq. 13). Both ends of a bin are
    reflected to the lower tail, where no digits cancel.

    Args:
      x0: grey values k as k / 127.5 - 1.
      mean: of the normal distribution, on the same scale.
      log_variance: of the normal distribution.

    Example:
      >>> values = jnp.arange(256) / 127.5 - 1
      >>> round(float(jnp.exp(log_prob_of_grey(values, 0.3, -2.0)).sum()), 5)
      1.0
    """
    inverse = jnp.exp(-0.5 * jnp.asarray(log_variance))
    distance = jnp.abs(x0 - mean)
    near, far = (log_ndtr((half - distance) * inverse) for half in (HALF_BIN, -HALF_BIN))
    inside = near + jnp.log(-jnp.expm1(far - near))
    lowest, highest = (log_ndtr((HALF_BIN + sign * (x0 - mean)) * inverse) for sign in (1, -1))
    return jnp.where(x0 < HALF_BIN - 1, lowest, jnp.where(x0 > 1 - HALF_BIN, highest, inside))


def term(rows: Coefficients, x0: Array, x0_hat: Array, fraction: Array | float, t: Array) -> Array:
    """Returns the terms at times t, one per image, in bits per dimension: [B].

    Args:
      rows: `coefficients` at the times, leaves [B].
      x0: data [B, H, W, C]; grey values where t is 0.
      x0_hat: the estimate, of the same shape.
      fraction: position of the log variance between small and large, of the same shape, or one that broadcasts to it.
      t: i32 [B].
    """
    gain, log_small, log_ratio = (broadcast_to_images(values, x0) for values in rows)
    wider = fraction * log_ratio  # log of the variance, over the small one
    divergence = (wider + jnp.expm1(-wider) + gain * jnp.exp(-wider) * (x0 - x0_hat) ** 2) / 2
    nats = jnp.where(broadcast_to_images(t, x0) == 0, -log_prob_of_grey(x0, x0_hat, log_small + wider), divergence)
    return _mean(nats) / math.log(2)


FRACTIONS: dict[str, Callable[[Any, Array], Any]] = {
    "small": lambda found, t: 0.0,
    "large": lambda found, t: jnp.asarray(t > 0, x0_of(found).dtype)[:, None, None, None],  # small at t = 0
    "learned": lambda found, t: found.fraction,
}
"""The variances of the model, as (what the denoiser returned, t [B]) -> `fraction`."""


def rows_at(table: Coefficients, t: Array, dtype: Any) -> Coefficients:
    """Returns the coefficients at times t [B], in the given type."""
    return Coefficients(*(jnp.asarray(values, dtype)[t] for values in table))


def terms(
    denoise: Callable[[Array, Level], Array | Estimate],
    schedule: Schedule,
    x0: Array,
    keys: Array,
    times: Array | np.ndarray,
    variance: str = "small",
) -> Array:
    """Returns the terms at K times of each image, in bits per dimension: [K, B]. One scan of K network calls.

    Args:
      denoise: (x_t, level with leaves [B]) -> x0_hat, or an `Estimate` for "learned".
      schedule: the table.
      x0: grey values in [-1, 1], [B, H, W, C].
      keys: of the noise, one per image [B].
      times: i32 [K, B], or [K] for all images alike; `np.arange(T)` for all terms but the prior.
      variance: a name in `FRACTIONS`.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> keys, exact = jax.random.split(jax.random.key(0), 1), lambda x_t, level: jnp.ones_like(x_t)
      >>> terms(exact, schedule.linear(), jnp.ones((1, 1, 1, 1)), keys, [1, 500]).tolist()  # data at a single point
      [[0.0], [0.0]]
    """
    times, table = jnp.asarray(times, jnp.int32), coefficients(schedule)
    times = jnp.broadcast_to(times.reshape(len(times), -1), (len(times), len(x0)))

    def at(_: None, row: tuple[Array, Array]) -> tuple[None, Array]:
        j, t = row
        eps = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, j), x0.shape[1:], x0.dtype))(keys)
        values = (schedule.time, schedule.alpha, schedule.sigma)
        level = Level(*(jnp.asarray(value, x0.dtype)[t] for value in values))
        found = denoise(add_noise(x0, eps, level), level)
        return None, term(rows_at(table, t, x0.dtype), x0, x0_of(found), FRACTIONS[variance](found, t), t)

    return jax.lax.scan(at, None, (jnp.arange(len(times)), times))[1]


def strata(num_steps: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns first times and sizes, i64 [num], of a partition of 0..T-1 in which both ends stand alone.

    Args:
      num_steps: T.
      num: K.

    Raises:
      UserError: K is not within 3..T (2 for two steps).

    Example:
      >>> [each.tolist() for each in strata(10, 5)]
      [[0, 1, 3, 6, 9], [1, 2, 3, 3, 1]]
    """
    if not min(3, num_steps) <= num <= num_steps:
        raise UserError(
            f"config.eval.likelihood.terms is {num}; use 0 for all, or {min(3, num_steps)} to {num_steps} "
            "(the steps of the schedule)"
        )
    inner = num - 2
    bounds = 1 + np.arange(inner + 1) * (num_steps - 2) // max(inner, 1)
    starts = np.concatenate([[0], bounds[:inner], [num_steps - 1]])
    return starts, np.append(np.diff(starts), 1)


def estimate(
    denoise: Callable[[Array, Level], Array | Estimate],
    schedule: Schedule,
    x0: Array,
    keys: Array,
    num: int,
    variance: str = "small",
) -> Bound:
    """Returns an unbiased estimate of each image's bound, from K of its T terms.

    The first and the last term are always among them; of the others, one is drawn from each of K - 2 ranges of times
    of (almost) equal length, and counts as often as its range is long. With K = T, no term is drawn.

    Args:
      denoise, schedule, x0, keys, variance: as for `terms`.
      num: K; see `strata`.

    Raises:
      UserError: see `strata`.
    """
    starts, sizes = strata(schedule.num_steps, num)
    u = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, schedule.num_steps), (num,)))(keys)
    within = jnp.minimum((u * sizes).astype(jnp.int32), sizes - 1)  # u * size may round up to size
    found = terms(denoise, schedule, x0, keys, (starts + within).T, variance)
    diffusion = jnp.sum(found[1:] * jnp.asarray(sizes[1:, None], found.dtype), axis=0)
    return Bound(prior(schedule, x0), diffusion, found[0])


def _mean(values: Array) -> Array:
    """Mean over the dimensions of each image."""
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))

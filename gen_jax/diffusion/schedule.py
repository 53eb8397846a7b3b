"""Paths from data to noise: alpha and sigma of x_t = alpha_t x0 + sigma_t eps at each time t.

A `Schedule` is a table over the integer times 0..T-1, with alpha^2 + sigma^2 = 1; a `Continuous` path is a pair of
functions of a real time in 0..1, with their inverse. Both have the same interface, so little else in this package
depends on which one is used. The noise level of a time is q = sigma / alpha, infinite at pure noise. Tables are
computed in float64 numpy and rounded to float32 once; sigma is never recomputed as sqrt(1 - alpha^2) in float32.
Prediction targets are in prediction.py, sampling steps in solvers.py.
Sources: Ho et al. 2020, Nichol & Dhariwal 2021, Rombach et al. 2022, Jabri et al. 2022, Lin et al. 2023; Song et al.
2021 (variance exploding, variance preserving), Lipman et al. 2023 and Liu et al. 2023 (straight).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.method import Array, UserError, broadcast_to_images


class Level(NamedTuple):
    """The noise level at some times, leaves of one shape: JAX arrays f32 on the device, numpy float64 on the host."""

    time: Any  # 0..1000, on one scale for every path: t * 1000 / T of a table, 1000 t of a continuous path
    alpha: Any  # factor of the data
    sigma: Any  # factor of the noise


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """A discrete noise schedule; noise increases with time.

    Training uses the times of the table alone. Samplers may also visit times between them: there the angle
    atan2(sigma, alpha) is linear in the time, so alpha^2 + sigma^2 stays 1, and pure noise is a level like any other.

    Attributes:
      name: as in `SCHEDULES`.
      alpha: float64 [T], decreasing in t; exactly 0 at T-1 with zero terminal SNR.
      sigma: float64 [T], positive and increasing in t; alpha^2 + sigma^2 = 1.
    """

    name: str
    alpha: np.ndarray
    sigma: np.ndarray
    unit = True  # whether alpha^2 + sigma^2 = 1

    @property
    def num_steps(self) -> int:
        """T, the number of times."""
        return len(self.alpha)

    @property
    def time(self) -> np.ndarray:
        """The conditioning input of the network at each time: float64 [T], t * 1000 / T."""
        return np.arange(self.num_steps) * 1000 / self.num_steps

    @property
    def alpha_bar(self) -> np.ndarray:
        """The product of (1 - beta) up to each time, alpha^2: float64 [T]."""
        return self.alpha**2

    @property
    def log_snr(self) -> np.ndarray:
        """2 (log alpha - log sigma): float64 [T], decreasing; -inf where alpha is 0 (clean data would be +inf)."""
        with np.errstate(divide="ignore"):
            return 2 * (np.log(self.alpha) - np.log(self.sigma))

    def steps(self, n: int, spacing: str = "trailing") -> np.ndarray:
        """Returns n evenly spaced times, from noisy to clean: int64 [n].

        Computed with exact integers, ties to even: floating-point strides give a wrong number of steps for some n.
        "trailing" always starts at T-1, the only level that matches pure noise. "leading" ends at 0 but starts below
        T-1; "linspace" includes both ends (n = 1 gives only time 0).

        Args:
          n: number of steps, 1..T.
          spacing: a name in `STRIDES`; config.sample.spacing has more, in spacing.py.

        Raises:
          UserError: n is out of range, or there is no such spacing.

        Example:
          >>> linear().steps(7).tolist()
          [999, 856, 713, 570, 428, 285, 142]
        """
        if not 1 <= n <= self.num_steps:
            raise UserError(f"{n} sampling steps are not possible: this schedule has 1 to {self.num_steps}")
        if spacing not in STRIDES:
            raise UserError(f"unknown spacing of steps {spacing!r}; there are {', '.join(STRIDES)}")
        return np.array(STRIDES[spacing](self.num_steps, n), np.int64)

    def times(self, u: Array) -> Array:
        """Returns the time at each fraction u of the path, f32 in [0, 1): i32 of u's shape, all T equally wide.

        Example:
          >>> linear().times(jnp.array([0.0, 0.5])).tolist()
          [0, 500]
        """
        return jnp.minimum((u * self.num_steps).astype(jnp.int32), self.num_steps - 1)

    def level(self, t: Array) -> Level:
        """Returns the level at times t (integers in 0..T-1, any shape), inside jit too; leaves f32 of t's shape.

        Example:
          >>> level = linear(zero_terminal_snr=True).level(jnp.array([500, 999]))
          >>> level.time.tolist(), level.alpha.tolist()[1], level.sigma.tolist()[1]
          ([500.0, 999.0], 0.0, 1.0)
        """
        return Level(*(jnp.asarray(table, jnp.float32)[t] for table in (self.time, self.alpha, self.sigma)))

    def path(self, steps: Sequence[float] | np.ndarray) -> Level:
        """Returns the levels of `steps` followed by clean data, on the host: leaves float64 [len(steps) + 1].

        At times of the table, and rounded to float32, all but the last entry equal `level(steps)` bit for bit.

        Raises:
          UserError: steps is empty, leaves 0..T-1 or is not strictly decreasing.

        Example:
          >>> linear().path([999, 499]).sigma.round(3).tolist()
          [1.0, 0.96, 0.0]
        """
        steps = np.asarray(steps)
        if steps.size == 0 or np.any(np.diff(steps) >= 0) or steps[0] > self.num_steps - 1 or steps[-1] < 0:
            raise UserError(f"steps of a sampler must fall strictly within {self.num_steps - 1}..0, not {steps}")
        return _with_clean_data(self._between(steps))

    @property
    def noise_range(self) -> tuple[float, float]:
        """The noise levels q of the first and the last time; inf at pure noise."""
        return _noise(self.alpha[0], self.sigma[0]), _noise(self.alpha[-1], self.sigma[-1])

    def time_at(self, q: Any) -> Any:
        """Returns the time, a fraction as a rule, at which sigma / alpha is q; the nearer end if there is none.

        Args:
          q: 0 to inf. Numpy gives float64; a JAX array f32, inside jit too.

        Example:
          >>> float(cosine(zero_terminal_snr=True).time_at(math.inf)), round(float(cosine().time_at(1.0)), 3)
          (999.0, 495.05)
        """
        xp = _numpy_of(q)
        return xp.interp(xp.arctan(q), self._angles, np.arange(self.num_steps))

    def at_noise(self, q: Any) -> Level:
        """Returns the level at which sigma / alpha is q, between two times as a rule; arguments as for `time_at`.

        Example:
          >>> level = cosine().at_noise(0.75)
          >>> round(float(level.alpha), 12), round(float(level.sigma), 12)
          (0.8, 0.6)
        """
        return self._between(self.time_at(q))

    def trained_at(self, q: Array) -> Array:
        """Returns the time of the table whose noise is nearest to q, by its angle: i32 of q's shape."""
        return jnp.round(self.time_at(q)).astype(jnp.int32)

    @functools.cached_property
    def _angles(self) -> np.ndarray:
        return np.arctan2(self.sigma, self.alpha)

    @functools.cached_property
    def _turns(self) -> np.ndarray:
        """The angle from each level to the next [T]; the last has none, and 1 stands there.

        From the sine and cosine of the difference: angles near pi / 2 lose digits where they are subtracted.
        """
        (a, b), (c, d) = ((values[:-1], values[1:]) for values in (self.alpha, self.sigma))
        return np.append(np.arctan2(d * a - c * b, a * b + c * d), 1.0)

    def _between(self, t: Any) -> Level:
        """The levels at times that may be fractions; exact at those of the table."""
        xp = _numpy_of(t)
        kind = np.float64 if xp is np else np.float32
        below = xp.floor(t).astype(np.int32)
        above, part = xp.minimum(below + 1, self.num_steps - 1), t - below
        turn = xp.asarray(self._turns, kind)[below]
        of_below, of_above = xp.sin((1 - part) * turn) / xp.sin(turn), xp.sin(part * turn) / xp.sin(turn)
        alpha, sigma = (xp.asarray(table, kind) for table in (self.alpha, self.sigma))
        alpha, sigma = (of_below * table[below] + of_above * table[above] for table in (alpha, sigma))
        return Level(t * 1000 / self.num_steps, alpha, sigma)


# Where every sampler ends. The network is never evaluated at this level; its time is a placeholder.
CLEAN = Level(time=np.float32(0), alpha=np.float32(1), sigma=np.float32(0))


EARLIEST = 1e-5  # earliest training time of a continuous path: at 0 there is no noise to predict
MOST_STEPS = 100_000  # of a sampler on a continuous path


@dataclasses.dataclass(frozen=True, eq=False)
class Continuous:
    """A path over real times from 0 (data) to 1 (noise).

    Attributes:
      name: as in `SCHEDULES`.
      alpha: from times, numpy float64 or JAX f32, to the factor of the data; 1 at 0.
      sigma: from times to the factor of the noise, likewise; increasing.
      time_of: from the noise level sigma / alpha to the time, the inverse of both, likewise.
      unit: whether alpha^2 + sigma^2 = 1.
    """

    name: str
    alpha: Callable[[Any], Any]
    sigma: Callable[[Any], Any]
    time_of: Callable[[Any], Any]
    unit: bool

    def steps(self, n: int, spacing: str = "trailing") -> np.ndarray:
        """Returns n evenly spaced times, from 1 down to 1 / n: float64 [n].

        Raises:
          UserError: n is out of range, or the spacing is not "trailing".

        Example:
          >>> straight().steps(4).tolist()
          [1.0, 0.75, 0.5, 0.25]
        """
        if not 1 <= n <= MOST_STEPS:
            raise UserError(f"{n} sampling steps are not possible: the {self.name} path has 1 to {MOST_STEPS}")
        if spacing != "trailing":
            known = spacing in STRIDES
            reason = "has no whole times" if known else f"has no such spacing of steps {spacing!r}"
            what = f"config.sample.spacing is {spacing!r}"
            raise UserError(f"{what}: the {self.name} path {reason}; use trailing or karras")
        return np.arange(n, 0, -1) / n

    def times(self, u: Array) -> Array:
        """Returns the time at each fraction u of the path, f32 in [0, 1): u, but no earlier than `EARLIEST`."""
        return jnp.clip(u, EARLIEST, 1.0)

    def level(self, t: Array) -> Level:
        """Returns the level at times t, f32 in 0..1 of any shape; leaves f32 of t's shape.

        Example:
          >>> level = straight().level(jnp.array([0.25]))
          >>> level.time.tolist(), level.alpha.tolist(), level.sigma.tolist()
          ([250.0], [0.75], [0.25])
        """
        t = jnp.asarray(t, jnp.float32)
        return Level(1000 * t, self.alpha(t) * jnp.ones_like(t), self.sigma(t))

    def path(self, steps: Sequence[float] | np.ndarray) -> Level:
        """Returns the levels of `steps` followed by clean data, on the host: leaves float64 [len(steps) + 1].

        Raises:
          UserError: steps is empty, leaves 0..1, reaches a time without noise or is not strictly decreasing.
        """
        t = np.asarray(steps, np.float64)
        if t.size == 0 or np.any(np.diff(t) >= 0) or t[0] > 1 or t[-1] < 0 or self.sigma(t[-1]) <= 0:
            raise UserError(f"steps of a sampler must fall strictly within 1..0, not {steps}")
        return _with_clean_data(Level(1000 * t, self.alpha(t) * np.ones_like(t), self.sigma(t)))

    @property
    def noise_range(self) -> tuple[float, float]:
        """The noise levels q at times 0 and 1; inf at pure noise."""
        return _noise(self.alpha(0.0), self.sigma(0.0)), _noise(self.alpha(1.0), self.sigma(1.0))

    def time_at(self, q: Any) -> Any:
        """Returns the time at which sigma / alpha is q; the nearer end if there is none.

        Args:
          q: 0 to inf. Numpy gives float64; a JAX array f32, inside jit too.

        Example:
          >>> float(straight().time_at(3.0)), float(straight().time_at(math.inf))
          (0.75, 1.0)
        """
        xp = _numpy_of(q)
        with np.errstate(divide="ignore"):  # 1 / q
            return xp.clip(self.time_of(xp.clip(q, *self.noise_range)), 0.0, 1.0)

    def at_noise(self, q: Any) -> Level:
        """Returns the level at which sigma / alpha is q; arguments as for `time_at`.

        Example:
          >>> level = straight().at_noise(3.0)
          >>> float(level.time), float(level.alpha), float(level.sigma)
          (750.0, 0.25, 0.75)
        """
        t = self.time_at(q)
        return Level(1000 * t, self.alpha(t) * _numpy_of(t).ones_like(t), self.sigma(t))

    def trained_at(self, q: Array) -> Array:
        """Returns the time of noise level q, but no earlier than `EARLIEST`: f32 of q's shape."""
        return jnp.maximum(self.time_at(q), EARLIEST)


Path: TypeAlias = Schedule | Continuous


def straight() -> Continuous:
    """Returns x_t = (1 - t) x0 + t eps, the path of flow matching (Lipman et al. 2023, Liu et al. 2023).

    Along this path the velocity of a point is constant, eps - x0.
    """
    return Continuous("straight", lambda t: 1 - t, lambda t: 1.0 * t, lambda q: 1 / (1 + 1 / q), unit=False)


def variance_exploding(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Continuous:
    """Returns x_t = x0 + sigma_t eps, with sigma_t = sigma_min^(1 - t) sigma_max^t (Song et al. 2021).

    Raises:
      UserError: 0 < sigma_min < sigma_max does not hold.

    Example:
      >>> variance_exploding(0.01, 100.0).path([1.0, 0.5]).sigma.round(6).tolist()
      [100.0, 1.0, 0.0]
    """
    if not 0 < sigma_min < sigma_max:
        raise UserError(
            f"config.diffusion.schedule.sigma_min is {sigma_min} and sigma_max is {sigma_max}; "
            "they must satisfy 0 < sigma_min < sigma_max"
        )
    ratio = sigma_max / sigma_min

    def time_of(q: Any) -> Any:
        return _numpy_of(q).log(q / sigma_min) / math.log(ratio)

    return Continuous("variance_exploding", lambda t: 1.0, lambda t: sigma_min * ratio**t, time_of, unit=False)


def variance_preserving(beta_min: float = 0.1, beta_max: float = 20.0) -> Continuous:
    """Returns alpha = exp(-B / 2), sigma = sqrt(1 - alpha^2), where B is the integral of a rate that rises linearly.

    B = beta_min t + (beta_max - beta_min) t^2 / 2: the variance-preserving SDE (Song et al. 2021, appendix B), which is
    `linear` with its 1000 steps made continuous. Like that, it does not end in pure noise: alpha is 0.0066 at the end,
    and samples start from N(0, 1) all the same.

    Args:
      beta_min: rate at which noise is added at time 0; T times the first beta of a table.
      beta_max: that at time 1.

    Raises:
      UserError: 0 < beta_min <= beta_max does not hold.

    Example:
      >>> path = variance_preserving().path([1.0, 0.5])
      >>> path.alpha.round(6).tolist(), path.sigma.round(6).tolist()
      ([0.006572, 0.281183, 1.0], [0.999978, 0.959654, 0.0])
    """
    if not 0 < beta_min <= beta_max:
        raise UserError(
            f"config.diffusion.schedule.beta_min is {beta_min} and beta_max is {beta_max}; "
            "they must satisfy 0 < beta_min <= beta_max"
        )
    rise = beta_max - beta_min

    def integral(t: Any) -> Any:
        return (beta_min + rise * t / 2) * t

    def sigma(t: Any) -> Any:
        xp = _numpy_of(t)
        return xp.sqrt(-xp.expm1(-integral(t)))  # 1 - alpha^2 would lose its digits near the data

    def time_of(q: Any) -> Any:
        xp = _numpy_of(q)
        wanted = xp.log1p(q**2)  # q^2 = exp(B) - 1; then the root of the quadratic without a difference
        return 2 * wanted / (beta_min + xp.sqrt(beta_min**2 + 2 * rise * wanted))

    return Continuous("variance_preserving", lambda t: _numpy_of(t).exp(-integral(t) / 2), sigma, time_of, unit=True)


def start_std(path: Path, levels: Level) -> float:
    """Returns the standard deviation of the noise that sampling starts from, at the first of `levels`.

    It is 1 along paths with alpha^2 + sigma^2 = 1, where data of variance 1 keep it at every level, and sigma of that
    level along the others. Only pure noise is met exactly: elsewhere a trace of the data is missing.

    Example:
      >>> [start_std(path, path.path(path.steps(1))) for path in (linear(), straight(), variance_exploding(0.1, 50.0))]
      [1.0, 1.0, 50.0]
    """
    return 1.0 if path.unit else float(levels.sigma[0])


def add_noise(x0: Array, eps: Array, level: Level) -> Array:
    """Returns x_t = alpha x0 + sigma eps (Ho et al. 2020, eq. 4).

    Args:
      x0: data [B, ...].
      eps: standard normal noise, of the same shape.
      level: leaves [B] or [].

    Example:
      >>> level = linear(zero_terminal_snr=True).level(jnp.array([999]))
      >>> add_noise(jnp.full((1, 1), 5.0), jnp.full((1, 1), -0.5), level).tolist()
      [[-0.5]]
    """
    return broadcast_to_images(level.alpha, x0) * x0 + broadcast_to_images(level.sigma, x0) * eps


def linear(num_steps: int = 1000, zero_terminal_snr: bool = False) -> Schedule:
    """Returns the schedule of Ho et al. 2020, betas from 1e-4 to 0.02.

    Args:
      num_steps: T. The betas have the same end points for every T, so fewer than 1000 steps end with less noise.
      zero_terminal_snr: makes the last level pure noise (Lin et al. 2023, algorithm 1); see `from_betas`.

    Example:
      >>> round(float(linear().alpha[-1]), 12)
      0.006352818088
    """
    return from_betas("linear", np.linspace(1e-4, 0.02, num_steps), zero_terminal_snr)


def scaled_linear(num_steps: int = 1000, zero_terminal_snr: bool = False) -> Schedule:
    """Returns the schedule of latent diffusion (Rombach et al. 2022), which their code calls "linear".

    The square roots of the betas increase linearly from sqrt(0.00085) to sqrt(0.012); arguments as for `linear`.

    Example:
      >>> round(float(scaled_linear().alpha[-1]), 12)
      0.068264914217
    """
    return from_betas("scaled_linear", np.linspace(0.00085**0.5, 0.012**0.5, num_steps) ** 2, zero_terminal_snr)


def cosine(num_steps: int = 1000, zero_terminal_snr: bool = False) -> Schedule:
    """Returns the schedule of Nichol & Dhariwal 2021, eq. 17: alpha_bar is a squared cosine, for every num_steps.

    Its last beta is clipped at 0.999, so a trace of data is left unless `zero_terminal_snr` removes it.

    Example:
      >>> float(cosine().alpha[-1]) > 0, float(cosine(zero_terminal_snr=True).alpha[-1])
      (True, 0.0)
    """
    u = np.linspace(0, 1, num_steps + 1)
    alpha_bar = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return from_betas("cosine", _betas(alpha_bar), zero_terminal_snr)


def sigmoid_beta(num_steps: int = 1000, zero_terminal_snr: bool = False) -> Schedule:
    """Returns the schedule whose betas follow a sigmoid from 1e-4 to 0.02 over -6..6 (Xu et al. 2022, GeoDiff).

    `sigmoid_abar` is another schedule known as "sigmoid". Arguments as for `linear`.

    Example:
      >>> round(float(sigmoid_beta().alpha_bar[500]), 9)
      0.298887628
    """
    betas = _sigmoid(np.linspace(-6, 6, num_steps)) * (0.02 - 1e-4) + 1e-4
    return from_betas("sigmoid_beta", betas, zero_terminal_snr)


def sigmoid_abar(num_steps: int = 1000, zero_terminal_snr: bool = False) -> Schedule:
    """Returns the schedule whose alpha_bar is a sigmoid, for every num_steps (Jabri et al. 2022).

    Start -3, end 3, tau 1; its last beta is clipped at 0.999 as in `cosine`.

    Example:
      >>> round(float(sigmoid_abar().alpha_bar[500]), 9)
      0.498342818
    """
    u = np.linspace(0, 1, num_steps + 1)
    alpha_bar = (_sigmoid(3) - _sigmoid(6 * u - 3)) / (_sigmoid(3) - _sigmoid(-3))
    return from_betas("sigmoid_abar", _betas(alpha_bar), zero_terminal_snr)


def from_betas(name: str, betas: np.ndarray, zero_terminal_snr: bool = False) -> Schedule:
    """Returns the schedule with the given betas, the noise variances of single steps.

    With `zero_terminal_snr`, alpha is shifted to end at exactly 0 and scaled to keep its first value (Lin et al.
    2023, algorithm 1). This applies to every schedule, because clipped betas leave a trace of data in cosine too.

    Args:
      name: of the schedule.
      betas: float64 [T] in (0, 1).
      zero_terminal_snr: whether the last level is pure noise.

    Raises:
      UserError: there are no steps, or only one, which would have to be pure noise.

    Example:
      >>> from_betas("two", np.array([0.19, 0.5]), zero_terminal_snr=True).alpha.round(12).tolist()
      [0.9, 0.0]
    """
    if len(betas) < 1 + zero_terminal_snr:
        raise UserError(f"schedule {name!r} needs num_steps of {1 + zero_terminal_snr} or more, not {len(betas)}")
    log_alpha_bar = np.cumsum(np.log1p(-betas))
    alpha, sigma = np.exp(log_alpha_bar / 2), np.sqrt(-np.expm1(log_alpha_bar))
    if zero_terminal_snr:
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        sigma = np.sqrt((1 - alpha) * (1 + alpha))
    return Schedule(name, alpha, sigma)


SCHEDULES: dict[str, Callable[..., Path]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
    "sigmoid_beta": sigmoid_beta,
    "sigmoid_abar": sigmoid_abar,
    "straight": straight,
    "variance_exploding": variance_exploding,
    "variance_preserving": variance_preserving,
}


def _numpy_of(values: Any) -> Any:
    """The module whose functions take these values: JAX's for its arrays, else numpy."""
    return jnp if isinstance(values, jax.Array) else np


def _noise(alpha: Any, sigma: Any) -> float:
    return float(sigma) / float(alpha) if alpha else math.inf


def _with_clean_data(levels: Level) -> Level:
    return Level(*(np.append(values, clean) for values, clean in zip(levels, CLEAN, strict=True)))


def _sigmoid(x: np.ndarray | float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def _betas(alpha_bar: np.ndarray) -> np.ndarray:
    """Returns the betas [T] of an alpha_bar [T + 1] that starts at clean data, clipped as in Nichol & Dhariwal."""
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


def _round_ratio(numerator: int, denominator: int) -> int:
    """Returns round(numerator / denominator) in exact integers, ties to even."""
    quotient, rest = divmod(numerator, denominator)
    return quotient + (2 * rest > denominator or (2 * rest == denominator and quotient % 2))


def _trailing(num_steps: int, n: int) -> list[int]:
    return [_round_ratio(num_steps * (n - i), n) - 1 for i in range(n)]


def _leading(num_steps: int, n: int) -> list[int]:
    return [i * (num_steps // n) for i in reversed(range(n))]


def _linspace(num_steps: int, n: int) -> list[int]:
    return [_round_ratio((num_steps - 1) * i, max(n - 1, 1)) for i in reversed(range(n))]


STRIDES: dict[str, Callable[[int, int], list[int]]] = {
    "trailing": _trailing,
    "leading": _leading,
    "linspace": _linspace,
}

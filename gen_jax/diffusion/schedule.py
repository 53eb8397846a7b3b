"""Paths from data to noise: alpha and sigma of x_t = alpha_t x0 + sigma_t eps at each time t.

A `Schedule` is a table over the integer times 0..T-1, with alpha^2 + sigma^2 = 1; a `Continuous` path is a pair of
functions of a real time in 0..1. Both have the same interface, so little else in this package depends on which one is
used. Tables are computed in float64 numpy and rounded to float32 once; sigma is never recomputed as
sqrt(1 - alpha^2) in float32. Prediction targets are in prediction.py, sampling steps in solvers.py.
Sources: Ho et al. 2020, Nichol & Dhariwal 2021, Rombach et al. 2022, Jabri et al. 2022, Lin et al. 2023; Song et al.
2021 (variance exploding), Lipman et al. 2023 and Liu et al. 2023 (straight).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

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

    Attributes:
      name: as in `SCHEDULES`.
      alpha: float64 [T], decreasing in t; exactly 0 at T-1 with zero terminal SNR.
      sigma: float64 [T], positive and increasing in t; alpha^2 + sigma^2 = 1.
    """

    name: str
    alpha: np.ndarray
    sigma: np.ndarray
    unit = True  # whether alpha^2 + sigma^2 = 1
    start = 1.0  # standard deviation of the noise that sampling starts from

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
        """Returns the n times that a sampler visits, from noisy to clean: int64 [n].

        Computed with exact integers, ties to even: floating-point strides give a wrong number of steps for some n.
        "trailing" always starts at T-1, the only level that matches pure noise. "leading" ends at 0 but starts below
        T-1; "linspace" includes both ends (n = 1 gives only time 0).

        Args:
          n: number of steps, 1..T.
          spacing: a name in `SPACINGS`.

        Raises:
          UserError: n is out of range, or there is no such spacing.

        Example:
          >>> linear().steps(7).tolist()
          [999, 856, 713, 570, 428, 285, 142]
        """
        if not 1 <= n <= self.num_steps:
            raise UserError(f"{n} sampling steps are not possible: this schedule has 1 to {self.num_steps}")
        if spacing not in SPACINGS:
            raise UserError(f"unknown spacing of steps {spacing!r}; there are {', '.join(SPACINGS)}")
        return np.array(SPACINGS[spacing](self.num_steps, n), np.int64)

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

        Rounded to float32, all but the last entry equal `level(steps)` bit for bit.

        Raises:
          UserError: steps is empty, leaves 0..T-1 or is not strictly decreasing.

        Example:
          >>> linear().path([999, 499]).sigma.round(3).tolist()
          [1.0, 0.96, 0.0]
        """
        steps = np.asarray(steps)
        if steps.size == 0 or np.any(np.diff(steps) >= 0) or steps[0] >= self.num_steps or steps[-1] < 0:
            raise UserError(f"steps of a sampler must fall strictly within {self.num_steps - 1}..0, not {steps}")
        here = (self.time[steps], self.alpha[steps], self.sigma[steps])
        return Level(*(np.append(values, clean) for values, clean in zip(here, CLEAN, strict=True)))


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
      unit: whether alpha^2 + sigma^2 = 1.
      start: standard deviation of the noise that sampling starts from, sigma at 1.
    """

    name: str
    alpha: Callable[[Any], Any]
    sigma: Callable[[Any], Any]
    unit: bool
    start: float

    def steps(self, n: int, spacing: str = "trailing") -> np.ndarray:
        """Returns the n times that a sampler visits, from 1 down to 1 / n: float64 [n].

        Raises:
          UserError: n is out of range, or the spacing is not "trailing".

        Example:
          >>> straight().steps(4).tolist()
          [1.0, 0.75, 0.5, 0.25]
        """
        if not 1 <= n <= MOST_STEPS:
            raise UserError(f"{n} sampling steps are not possible: the {self.name} path has 1 to {MOST_STEPS}")
        if spacing != "trailing":
            known = spacing in SPACINGS
            reason = "has no whole times" if known else f"has no such spacing of steps {spacing!r}"
            raise UserError(f"config.sample.spacing is {spacing!r}: the {self.name} path {reason}; use trailing")
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
          UserError: steps is empty, leaves (0, 1] or is not strictly decreasing.
        """
        t = np.asarray(steps, np.float64)
        if t.size == 0 or np.any(np.diff(t) >= 0) or t[0] > 1 or t[-1] <= 0:
            raise UserError(f"steps of a sampler must fall strictly within 1..0, not {steps}")
        here = (1000 * t, self.alpha(t) * np.ones_like(t), self.sigma(t))
        return Level(*(np.append(values, clean) for values, clean in zip(here, CLEAN, strict=True)))


Path: TypeAlias = Schedule | Continuous


def straight() -> Continuous:
    """Returns x_t = (1 - t) x0 + t eps, the path of flow matching (Lipman et al. 2023, Liu et al. 2023).

    Along this path the velocity of a point is constant, eps - x0.
    """
    return Continuous("straight", lambda t: 1 - t, lambda t: 1.0 * t, unit=False, start=1.0)


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
    return Continuous("variance_exploding", lambda t: 1.0, lambda t: sigma_min * ratio**t, unit=False, start=sigma_max)


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
}


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


SPACINGS: dict[str, Callable[[int, int], list[int]]] = {
    "trailing": _trailing,
    "leading": _leading,
    "linspace": _linspace,
}

"""Spacings: the times that a sampler visits, as a function of a path and the number of steps: `config.sample.spacing`.

Trailing, leading and linspace part the times evenly (Lin et al. 2023, table 2), and the last two need whole times.
Karras et al. 2022 part a root of the noise level, on any path.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gen_jax.diffusion.schedule import Path
from gen_jax.method import UserError

Spacing = Callable[[Path, int], np.ndarray]
"""(path, number of steps n) -> n strictly decreasing times of the path, from noisy to clean."""

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0  # Karras et al. 2022, table 1


def trailing() -> Spacing:
    """Returns the times T - 1, T - 1 - T / n, ... of a table, 1, 1 - 1 / n, ... of a continuous path."""
    return lambda path, n: path.steps(n, "trailing")


def leading() -> Spacing:
    """Returns times of a table that end at 0 and start below T - 1."""
    return lambda path, n: path.steps(n, "leading")


def linspace() -> Spacing:
    """Returns times of a table from T - 1 to 0, both included."""
    return lambda path, n: path.steps(n, "linspace")


def karras(rho: float = 7.0, sigma_min: float = 0.0, sigma_max: float = 0.0) -> Spacing:
    """Returns times at which q^(1 / rho) falls evenly, for q = sigma / alpha (Karras et al. 2022, eq. 5).

    On tables they are fractions as a rule: samplers go between the times of a table (`schedule.Schedule`). On a path
    that ends in pure noise, where q is infinite, the first level is not the end of the path but at sigma_max, and holds
    a trace of the data, 1 / 80 of the noise. Sampling starts there from normal noise too (`schedule.start_std`).

    Args:
      rho: the larger, the more steps at little noise; 1 parts q itself.
      sigma_min: q of the last level; 0 stands for 0.002, or the smallest of the path if that is larger.
      sigma_max: q of the first level; 0 stands for 80, or the largest of the path if that is smaller.

    Raises:
      UserError: rho is not positive. The spacing itself refuses levels that a path does not have.

    Example:
      >>> from gen_jax.diffusion import schedule
      >>> path = schedule.variance_exploding()
      >>> path.path(karras()(path, 5)).sigma.round(6).tolist()
      [80.0, 17.527832, 2.515219, 0.169753, 0.002, 0.0]
    """
    if not rho > 0:
        raise UserError(f"config.sample.spacing.rho is {rho:g}; it must be above 0")

    def times(path: Path, n: int) -> np.ndarray:
        path.steps(n)  # refuses impossible numbers
        least, most = path.noise_range
        low, high = sigma_min or max(SIGMA_MIN, least), sigma_max or min(SIGMA_MAX, most)
        inside = least * (1 - 1e-9) <= low and high <= most * (1 + 1e-9)  # the ends themselves are rounded
        if not (inside and 0 < low < high):
            raise UserError(
                f"config.sample.spacing has noise levels from {high:g} down to {low:g}; they must fall, and lie within "
                f"the {path.name} path's {most:g} to {least:g}"
            )
        even = np.linspace(high ** (1 / rho), low ** (1 / rho), n)
        return path.time_at(np.clip(even**rho, low, high))

    return times


SPACINGS: dict[str, Callable[..., Spacing]] = {
    "trailing": trailing,
    "leading": leading,
    "linspace": linspace,
    "karras": karras,
}

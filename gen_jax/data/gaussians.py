"""Points in the plane around known centres, as images of one pixel: mode collapse can be counted on them.

`gaussians:ring8` and `gaussians:grid25` are equal mixtures of round Gaussians. A point is an image f32 [1, 1, 2] of x
and y. There are no labels. Nothing is downloaded or cached: the points are drawn in a fraction of a second.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gen_jax.data import cache
from gen_jax.data.dataset import Dataset
from gen_jax.method import DataSpec, UserError, did_you_mean

PREFIX = "gaussians"
NUM_EXAMPLES = {"train": 100_000, "test": 10_000}
_SEED = {"train": 0, "test": 1}


class Mixture(NamedTuple):
    """An equal mixture of round Gaussians.

    Attributes:
      centres: f64 [K, 2].
      sigma: standard deviation along each axis.
      extent: points lie between -extent and extent on both axes; pictures show this square.
    """

    centres: np.ndarray
    sigma: float
    extent: float


def ring(num_modes: int, radius: float, sigma: float) -> Mixture:
    """Returns Gaussians on a circle, the first one at (radius, 0).

    Example:
      >>> ring(4, radius=2.0, sigma=0.02).centres.round(9).tolist()
      [[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [-0.0, -2.0]]
    """
    angle = 2 * np.pi * np.arange(num_modes) / num_modes
    return Mixture(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1), sigma, 1.25 * radius)


def square_grid(side: int, spacing: float, sigma: float) -> Mixture:
    """Returns Gaussians on a square grid of side x side points around the origin.

    Example:
      >>> square_grid(2, spacing=2.0, sigma=0.05).centres.tolist()
      [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    line = spacing * (np.arange(side) - (side - 1) / 2)
    centres = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    return Mixture(centres, sigma, spacing * side / 2)


MIXTURES: dict[str, Mixture] = {
    "ring8": ring(8, radius=2.0, sigma=0.02),  # as Metz et al. 2017
    "grid25": square_grid(5, spacing=2.0, sigma=0.05),  # as Lin et al. 2018
}


def names() -> list[str]:
    """Returns the names of the sets, as in `config.data.name`.

    Example:
      >>> names()
      ['gaussians:ring8', 'gaussians:grid25']
    """
    return [f"{PREFIX}:{name}" for name in MIXTURES]


def find(name: str) -> Mixture | None:
    """Returns the mixture that the set `name` is drawn from, or None if it is not a set of this module.

    Example:
      >>> len(find("gaussians:grid25").centres), find("mnist")
      (25, None)
    """
    prefix, _, rest = name.partition(":")
    return MIXTURES.get(rest) if prefix == PREFIX else None


def draw(mixture: Mixture, seed: int, num_points: int) -> np.ndarray:
    """Returns points of a mixture, f32 [num_points, 2], a function of (mixture, seed, row) alone.

    Philox's raw numbers choose the centre and, by the Box-Muller transform (1958) in float64, the offset from it.

    Example:
      >>> points = draw(MIXTURES["grid25"], seed=0, num_points=1_000)
      >>> float(np.abs(points - 2 * np.rint(points / 2)).max()) < 0.25  # five standard deviations
      True
    """
    raw = np.random.Philox(np.random.SeedSequence([seed])).random_raw(3 * num_points).reshape(num_points, 3)
    centre = raw[:, 0] % len(mixture.centres)
    uniform = ((raw[:, 1:] >> 11) + 0.5) / 2**53  # inside (0, 1)
    radius, angle = np.sqrt(-2 * np.log(uniform[:, 0])), 2 * np.pi * uniform[:, 1]
    way = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (mixture.centres[centre] + mixture.sigma * way).astype(np.float32)


def load(name: str, config: Any) -> Dataset:
    """Returns the set of points `name`; see `dataset.load`.

    Raises:
      UserError: there is no such mixture, or the config asks for what points do not have.
    """
    full_name = f"{PREFIX}:{name}"
    if name not in MIXTURES:
        hint = did_you_mean(full_name, names(), 0.8)  # strict, because all names share a prefix
        raise UserError(f"there is no set {full_name}; {hint}there are {', '.join(names())}")
    if config.image_size or config.channels:
        raise UserError(f"{full_name} holds points: config.data.image_size and channels must stay 0")
    for key, allowed in (("train_split", ("train",)), ("test_split", ("test", ""))):
        if config[key] not in allowed:
            raise UserError(f"config.data.{key} is {config[key]!r}; {full_name} has no such split: use {allowed[0]}")
    mixture = MIXTURES[name]
    arrays = {
        split: {"image": draw(mixture, _SEED[split], num).reshape(num, 1, 1, 2)} for split, num in NUM_EXAMPLES.items()
    }
    spec = DataSpec(
        name=full_name,
        image_shape=(1, 1, 2),
        num_examples=NUM_EXAMPLES["train"],
        fingerprint=cache.fingerprint(arrays["train"]),
        kind="points",
        value_range=(-mixture.extent, mixture.extent),
    )
    return Dataset(spec, arrays["train"], arrays["test"] if config.test_split else None)

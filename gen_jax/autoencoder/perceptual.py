"""PERCEPTUAL: distances of images in the features of a frozen network, beside that of their pixels.

The published ones are of a network trained on ImageNet (LPIPS: Zhang et al. 2018). The features here are random:
filters with orthonormal rows or columns, which stay as they are, from a seed that belongs to the config. They need no
download and no labels, and see edges and contrasts at several sizes, but nothing of what a picture shows. Distances of
two seeds are not comparable: their names in the report tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.method import Array, PyTree, UserError
from gen_jax.nn.conv import conv

NUM_EXAMPLES = 64  # whose features are scaled to a variance of one
SMALLEST_VARIANCE = 1e-6  # of a map


class Perceptual(NamedTuple):
    """A term of the loss.

    Attributes:
      name: of the features, as in the names of measures; "" for no term.
      weight: of the distance.
      init: images f32 [N, H, W, C] in [-1, 1] -> what `distance` reads, which no training changes.
      distance: (that, x, x_hat) -> f32 [B].
    """

    name: str
    weight: float
    init: Callable[[Array], PyTree]
    distance: Callable[[PyTree, Array, Array], Array]


def none() -> Perceptual:
    """Returns no term."""
    return Perceptual("", 0.0, lambda examples: {}, lambda frozen, x, x_hat: jnp.zeros(len(x)))


def random(weight: float = 1.0, seed: int = 0, channels: tuple[int, ...] = (16, 32, 64)) -> Perceptual:
    """Returns the squared distance in layers of random orthogonal convolutions, each of half the size.

    A layer's maps have a variance of one over training images, so that the weight means the same for any data and any
    number of layers; the distance is a mean over layers, positions and channels.

    Args:
      weight: of the distance.
      seed: of the filters.
      channels: of the layers.

    Raises:
      UserError: no layers, or a weight that is negative.
    """
    if weight < 0:
        raise UserError(f"config.autoencoder.perceptual.weight is {weight}; it must not be negative")
    if not channels or min(channels) < 1:
        raise UserError(
            f"config.autoencoder.perceptual.channels is {channels}; it needs at least one number of 1 or more"
        )

    def init(examples: Array) -> PyTree:
        kernels = _kernels(seed, examples.shape[-1], channels)
        variances = [jnp.mean(jnp.var(maps, axis=(0, 1, 2))) for maps in features(kernels, examples[:NUM_EXAMPLES])]
        return {"kernels": kernels, "variances": [jnp.maximum(each, SMALLEST_VARIANCE) for each in variances]}

    def distance(frozen: PyTree, x: Array, x_hat: Array) -> Array:
        layers = zip(*(features(frozen["kernels"], images) for images in (x, x_hat)), strict=True)
        terms = [
            jnp.mean((of_x - of_x_hat) ** 2, axis=(1, 2, 3)) / variance
            for (of_x, of_x_hat), variance in zip(layers, frozen["variances"], strict=True)
        ]
        return jnp.mean(jnp.stack(terms), axis=0)

    return Perceptual(f"random_orthogonal_seed_{seed}", weight, init, distance)


def features(kernels: list[Array], x: Array) -> list[Array]:
    """Returns the maps of every layer, f32 [B, h, w, channels], of images [B, H, W, C] of any size.

    Example:
      >>> kernels = [jnp.ones((3, 3, 1, 2)), jnp.ones((3, 3, 2, 4))]
      >>> [maps.shape for maps in features(kernels, jnp.ones((1, 9, 12, 1)))]
      [(1, 9, 12, 2), (1, 5, 6, 4)]
    """
    found = []
    for kernel in kernels:
        if found:
            x = _halved(x)
        x = nn.relu(conv(x, kernel))
        found.append(x)
    return found


def _kernels(seed: int, in_channels: int, channels: tuple[int, ...]) -> list[Array]:
    """Filters [3, 3, C, F] of each layer that keep the variance of what a ReLU has halved (He et al. 2015)."""
    orthogonal = nn.initializers.orthogonal(scale=2**0.5)
    keys = jax.random.split(jax.random.key(seed, impl="threefry2x32"), len(channels))
    inputs = (in_channels, *channels[:-1])
    return [orthogonal(key, (3, 3, c, f)) for key, c, f in zip(keys, inputs, channels, strict=True)]


def _halved(x: Array) -> Array:
    """Means of 2x2 pixels; of an odd side the last pixels count twice."""
    x = jnp.pad(x, ((0, 0), *((0, size % 2) for size in x.shape[1:3]), (0, 0)), mode="edge")
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


PERCEPTUAL: dict[str, Callable[..., Perceptual]] = {"none": none, "random": random}

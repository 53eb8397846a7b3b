"""Differentiable augmentation of what the discriminator sees (DiffAugment: Zhao et al. 2020).

Real and generated images pass through the same random changes in the updates of both players, so that the generator
learns the images and not their changes. Gradients flow through; each example has its own draws. What is missing is an
adaptive strength (Karras et al. 2020): here it is a config value, which a burn-in can raise from 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.method import Array, Key, UserError, keys_of

Augment = Callable[[Array, Array | float, Array, Key], Array]
"""(images f32 [B, H, W, C] in [-1, 1], factor of the strength, index i32 [B], key) -> images of that shape."""


def none() -> Augment:
    """Returns no augmentation."""
    return lambda x, factor, index, key: x


class Change(NamedTuple):
    """The random numbers of one example.

    Attributes:
      brightness: added to every pixel.
      saturation: factor of the differences from the mean of the pixel's channels.
      contrast: factor of the differences from the image's mean.
      shift: i32 [2], rows down and columns right.
      hole: i32 [2], row and column at which a square is cut out.
      cut: whether it is.
    """

    brightness: Array
    saturation: Array
    contrast: Array
    shift: Array
    hole: Array
    cut: Array


def diff_augment(
    strength: float = 1.0, colour: float = 1.0, translation: float = 0.125, cutout: float = 0.5
) -> Augment:
    """Returns colour changes, then a translation, then a cutout; the defaults are the paper's.

    Args:
      strength: probability of each of the three, for each image; 0: the identity.
      colour: 1: brightness +-0.5, saturation times 0 to 2, contrast times 0.5 to 1.5, all uniform; smaller ranges in
        proportion.
      translation: largest shift along each axis, as a share of the side; every whole number of pixels is equally
        likely. What moves in is 0, mid-grey.
      cutout: side of a square that becomes 0, as a share of the image's; its centre is uniform over the image.

    Raises:
      UserError: a value outside [0, 1].

    Example:
      >>> x, index = jnp.ones((2, 8, 8, 3)), jnp.arange(2)
      >>> y = diff_augment(colour=0.0, translation=0.0)(x, 1.0, index, jax.random.key(0))
      >>> sorted({*y.ravel().tolist()}), bool(jnp.all(diff_augment()(x, 0.0, index, jax.random.key(0)) == x))
      ([0.0, 1.0], True)
    """
    for name, value in (("strength", strength), ("colour", colour), ("translation", translation), ("cutout", cutout)):
        if not 0 <= value <= 1:
            raise UserError(f"config.gan.augment.{name} is {value}; it must be in [0, 1]")

    def augment(x: Array, factor: Array | float, index: Array, key: Key) -> Array:
        size = x.shape[1:3]
        most, square = ([round(share * side) for side in size] for share in (translation, cutout))

        def change(key: Key) -> Change:
            on = jax.random.uniform(jax.random.fold_in(key, 0), (3,)) < strength * factor
            wide = jax.random.uniform(jax.random.fold_in(key, 1), (3,), minval=-1.0) * colour * on[0]
            shift = [jax.random.randint(jax.random.fold_in(key, 2 + i), (), -most[i], most[i] + 1) for i in (0, 1)]
            # An even square is centred between pixels, or at an edge of the image.
            hole = [jax.random.randint(jax.random.fold_in(key, 4 + i), (), 0, size[i] + 1 - square[i] % 2)
                    - square[i] // 2 for i in (0, 1)]  # fmt: skip
            return Change(wide[0] / 2, 1 + wide[1], 1 + wide[2] / 2, jnp.stack(shift) * on[1], jnp.stack(hole), on[2])

        changes = jax.vmap(change)(keys_of(key, index))
        x = jax.vmap(coloured)(x, changes.brightness, changes.saturation, changes.contrast)
        x = jax.vmap(shifted)(x, changes.shift)
        return jax.vmap(lambda x, hole, cut: x * (1 - cut * inside(size, hole, square))[..., None])(
            x, changes.hole, changes.cut
        )

    return augment


def coloured(x: Array, brightness: Array, saturation: Array, contrast: Array) -> Array:
    """Returns one image [H, W, C] with another brightness, then saturation, then contrast.

    Example:
      >>> x = jnp.array([[[0.0, 0.5]]])  # one pixel, two channels
      >>> coloured(x, jnp.float32(0.25), jnp.float32(2.0), jnp.float32(1.0)).ravel().tolist()
      [0.0, 1.0]
    """
    x = x + brightness
    mean = x.mean(-1, keepdims=True)
    x = mean + (x - mean) * saturation
    mean = x.mean()
    return mean + (x - mean) * contrast


def shifted(x: Array, shift: Array) -> Array:
    """Returns one image [H, W, C] moved by `shift` i32 [2] rows down and columns right; zeros move in.

    A product with a matrix of zeros and ones for each axis: the gradient of a look-up would be a scatter.

    Example:
      >>> shifted(jnp.array([[[1.0], [2.0], [3.0]]]), jnp.array([0, -1])).ravel().tolist()
      [2.0, 3.0, 0.0]
    """
    rows, columns = (_moved(side, by) for side, by in zip(x.shape[:2], shift, strict=True))
    return jnp.einsum("ij,jlc,kl->ikc", rows, x, columns, precision="highest")


def _moved(side: int, by: Array) -> Array:
    places = jnp.arange(side)
    return (places[:, None] - by == places[None]).astype(jnp.float32)  # [to, from]


def inside(size: tuple[int, ...], corner: Array, square: list[int]) -> Array:
    """Returns bool [H, W]: which pixels are in the square of `square` rows and columns whose first one is `corner`.

    Example:
      >>> inside((2, 3), jnp.array([-1, 1]), [2, 2]).astype(int).tolist()
      [[0, 1, 1], [0, 0, 0]]
    """
    rows, columns = (
        (jnp.arange(side) >= first) & (jnp.arange(side) < first + length)
        for side, first, length in zip(size, corner, square, strict=True)
    )
    return rows[:, None] & columns[None]


AUGMENTS: dict[str, Callable[..., Augment]] = {"none": none, "diff_augment": diff_augment}

"""Differentiable augmentation of what the discriminator sees (DiffAugment: Zhao et al. 2020).

Real and generated images pass through the same random changes in the updates of both players, so that the generator
learns the images and not their changes. Gradients flow through; each example has its own draws.

The strength is the probability of a change. It is constant, or it follows how well the discriminator knows the real
images (Karras et al. 2020); a burn-in raises either from 0. R3GAN's schedule is a burn-in and the strength 0.55.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.method import Array, Key, PyTree, UserError, keys_of

INTERVAL = 4  # updates of the discriminator between two of an adaptive strength (Karras et al. 2020)

ChangeImages = Callable[[Array, "Array | float", Array, Key], Array]
"""(images f32 [B, H, W, C] in [-1, 1], probability of a change, index i32 [B], key) -> images of that shape."""


class Augment(NamedTuple):
    """What the discriminator sees in place of an image, and how strong it is.

    Attributes:
      change: see `ChangeImages`.
      init: () -> what the strength depends on, kept in State.variables; {} if the strength is constant.
      strength: kept -> f32 [], the probability of a change before a burn-in.
      advance: (kept, mean sign of the logits of the real images, their number) -> kept, once per update of the
        discriminator.
    """

    change: ChangeImages
    init: Callable[[], PyTree]
    strength: Callable[[PyTree], Array | float]
    advance: Callable[[PyTree, Array, int], PyTree]


def _constant(change: ChangeImages, strength: float) -> Augment:
    return Augment(change, dict, lambda kept: strength, lambda kept, sign, num: kept)


def none() -> Augment:
    """Returns no augmentation."""
    return _constant(lambda x, probability, index, key: x, 0.0)


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
        likely. What moves in is 0, mid-grey, as in the authors' code. On black images its edge shows, and tells the
        discriminator how far the image has moved.
      cutout: side of a square that becomes 0, as a share of the image's; its centre is uniform over the image.

    Raises:
      UserError: a value outside [0, 1].

    Example:
      >>> x, index = jnp.ones((2, 8, 8, 3)), jnp.arange(2)
      >>> y = diff_augment(colour=0.0, translation=0.0).change(x, 1.0, index, jax.random.key(0))
      >>> sorted({*y.ravel().tolist()}), bool(jnp.all(diff_augment().change(x, 0.0, index, jax.random.key(0)) == x))
      ([0.0, 1.0], True)
    """
    _check_share("strength", strength)
    return _constant(_changes(colour, translation, cutout), strength)


def adaptive(
    target: float = 0.6, images: int = 500_000, colour: float = 1.0, translation: float = 0.125, cutout: float = 0.5
) -> Augment:
    """Returns the changes of `diff_augment`, with a strength that follows the discriminator (Karras et al. 2020).

    The strength starts at 0. After every fourth update of the discriminator it rises if the mean of sign(D(x)) over the
    real images x of these updates, as they were augmented, is above the target: the discriminator has begun to know
    them by heart. It falls if the mean is below. Ours stays in [0, 1]; theirs has no upper bound, and other changes.

    Args:
      target: of the mean sign.
      images: number of real images in which the strength goes from 0 to 1 if it always rises.
      colour: see `diff_augment`, as for the two others.
      translation: largest shift.
      cutout: side of the square.

    Raises:
      UserError: an invalid value.

    Example:
      >>> made = adaptive(images=64)
      >>> kept = made.init()
      >>> for _ in range(INTERVAL):  # 7 of 8 logits are positive
      ...     kept = made.advance(kept, jnp.float32(0.75), 8)
      >>> float(made.strength(kept))
      0.5
    """
    if not -1 < target < 1:
        raise UserError(f"config.gan.augment.target is {target}; a mean of signs is in (-1, 1)")
    if images < 1:
        raise UserError(f"config.gan.augment.images is {images}; it must be at least 1")

    def init() -> PyTree:
        return {"strength": jnp.float32(0), "signs": jnp.int32(0), "updates": jnp.int32(0)}

    def advance(kept: PyTree, sign: Array, num: int) -> PyTree:
        # The sum of signs is a whole number: rounded, it is the same on any number of devices.
        signs = kept["signs"] + jnp.round(sign * num).astype(jnp.int32)
        updates = kept["updates"] + 1
        due, seen = updates == INTERVAL, INTERVAL * num
        moved = kept["strength"] + due * jnp.sign(signs - target * seen) * (seen / images)
        return {
            "strength": jnp.clip(moved, 0.0, 1.0), "signs": jnp.where(due, 0, signs),
            "updates": jnp.where(due, 0, updates),
        }  # fmt: skip

    return Augment(_changes(colour, translation, cutout), init, lambda kept: kept["strength"], advance)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"config.gan.augment.{name} is {value}; it must be in [0, 1]")


def _changes(colour: float, translation: float, cutout: float) -> ChangeImages:
    for name, value in (("colour", colour), ("translation", translation), ("cutout", cutout)):
        _check_share(name, value)

    def changed(x: Array, probability: Array | float, index: Array, key: Key) -> Array:
        size = x.shape[1:3]
        most, square = ([round(share * side) for side in size] for share in (translation, cutout))

        def change(key: Key) -> Change:
            on = jax.random.uniform(jax.random.fold_in(key, 0), (3,)) < probability
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

    return changed


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


AUGMENTS: dict[str, Callable[..., Augment]] = {"none": none, "diff_augment": diff_augment, "adaptive": adaptive}

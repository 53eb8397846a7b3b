"""Pictures of an autoregressive model for the report: temperatures, codes beside pictures, bits of each place."""

from __future__ import annotations

import colorsys
import math

import jax.numpy as jnp
import numpy as np

from gen_jax.method import Array, Picture, to_pixels

NUM_SHOWN = 10  # samples of each temperature
TEMPERATURES = (0.0, 0.5, 0.8, 1.0)


def temperatures(images: Array) -> Picture:
    """Returns samples at several temperatures, one row each; `images` f32 [T N, H, W, C] in [-1, 1]."""
    told = ", ".join(f"{temperature:g}" for temperature in TEMPERATURES)
    return Picture(
        to_pixels(images),
        title="Temperatures",
        caption=f"The same random numbers in all rows, at these temperatures from top to bottom: {told}. At 1 these "
        "are samples of the model; at 0 every place takes its likeliest value.",
        columns=NUM_SHOWN,
    )


def code_maps(integers: Array, num_values: int, images: Array) -> Picture:
    """Returns samples, each column a sample: its codes, and the picture that the first stage makes of them.

    Args:
      integers: i32 [N, h, w].
      num_values: that a code can have.
      images: f32 [N, H, W, C] in [-1, 1].
    """
    maps = jnp.asarray(shades(num_values, images.shape[-1]))[stretched(integers, images.shape[1:3])]
    return Picture(
        jnp.concatenate([maps, to_pixels(images)]),
        title="Codes of samples",
        caption=f"Top: codes sampled by the model, {integers.shape[1]}x{integers.shape[2]} of {num_values}, each in a "
        "shade of its own. Bottom: the pictures that the first stage makes of them.",
        columns=len(images),
    )


def reconstructions(images: Array, again: Array) -> Picture:
    """Returns test images above what the first stage makes of their codes, both f32 [N, H, W, C] in [-1, 1]."""
    return Picture(
        to_pixels(jnp.concatenate([images, again])),
        title="Reconstructions of the first stage",
        caption="Top: test images. Bottom: the same images from their codes alone. Samples can be no sharper.",
        columns=len(images),
    )


def bits_of_places(images: Array, bits: Array, num_values: int) -> Picture:
    """Returns test images above the bits that each of their places costs.

    Args:
      images: f32 [N, H, W, C] in [-1, 1].
      bits: f32 [N, h, w].
      num_values: of a place.
    """
    maps = as_grey(bits, num_values, images.shape[1:])
    return Picture(
        jnp.concatenate([to_pixels(images), maps]),
        title="Bits of test images",
        caption="Top: test images. Bottom: bits that each place costs, given all places before it, row by row: black "
        f"is 0, white {math.log2(num_values):.3g} or more, what a place costs if every value is equally likely.",
        columns=len(images),
    )


def mean_bits(bits: Array, num_values: int, image_shape: tuple[int, ...], num: int) -> Picture:
    """Returns the mean bits of each place, f32 [h, w], over `num` test images."""
    return Picture(
        as_grey(bits[None], num_values, image_shape),
        title="Bits by place",
        caption=f"Bits that a place costs, given all places before it: the mean over {num} test images. Black is 0, "
        f"white {math.log2(num_values):.3g} or more.",
        columns=1,
    )


def as_grey(bits: Array, num_values: int, image_shape: tuple[int, ...]) -> Array:
    """Returns bits [N, h, w] as pictures uint8 [N, H, W, C], from 0 to log2(num_values)."""
    grey = jnp.round(jnp.clip(bits / math.log2(num_values), 0, 1) * 255).astype(jnp.uint8)
    return jnp.broadcast_to(stretched(grey, image_shape[:2])[..., None], (len(bits), *image_shape))


def stretched(values: Array, size: tuple[int, ...]) -> Array:
    """Returns values [N, h, w] as [N, H, W], each repeated.

    Example:
      >>> stretched(jnp.array([[[1, 2]]]), (2, 5))[0].tolist()
      [[1, 1, 1, 2, 2], [1, 1, 1, 2, 2]]
    """
    rows, columns = (np.arange(n) * here // n for n, here in zip(size, values.shape[1:], strict=True))
    return values[:, rows[:, None], columns]


def shades(num: int, channels: int) -> np.ndarray:
    """Returns a shade for each of `num` codes, uint8 [num, channels]: hues for colour, else greys from black to white.

    Example:
      >>> shades(3, 1).tolist()
      [[0], [128], [255]]
    """
    if channels != 3:
        return np.repeat(np.round(np.linspace(0, 255, num)).astype(np.uint8)[:, None], channels, axis=1)
    golden = (math.sqrt(5) - 1) / 2  # neighbouring codes get hues that are far apart
    hues = [colorsys.hsv_to_rgb(i * golden % 1, 0.7, 0.5 + 0.5 * (i % 3) / 2) for i in range(num)]
    return np.round(np.array(hues) * 255).astype(np.uint8)

"""Pictures of a normalizing flow for the report: samples at several temperatures, and ways between two images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from gen_jax.method import Array, Picture, broadcast_to_images, to_pixels

NUM_SHOWN = 10  # samples of each temperature
TEMPERATURES = (0.0, 0.5, 0.7, 0.85, 1.0)
NUM_WAYS, NUM_STEPS = 4, 9  # of an interpolation


def temperatures(image_of: Callable[[Array, Array | None], Array], z: Array, label: Array | None) -> Picture:
    """Returns samples from the same noise at several temperatures, one row each.

    Args:
      image_of: (z, label) -> images f32 [N, H, W, C] in [-1, 1].
      z: f32 [N, ...], noise.
      label: i32 [N], or None.
    """
    rows = len(TEMPERATURES)
    scaled = jnp.concatenate([temperature * z for temperature in TEMPERATURES])  # all at once: compiled once
    told = ", ".join(f"{temperature:g}" for temperature in TEMPERATURES)
    return Picture(
        to_pixels(image_of(scaled, None if label is None else jnp.tile(label, rows))),
        title="Temperatures",
        caption=f"The same noise in all rows, times a temperature, from top to bottom: {told}. At 1 these are samples "
        "of the model; at 0 all noise is gone" + (", and only the class is left." if label is not None else "."),
        columns=len(z),
    )


def way(states: Sequence[Array]) -> Picture:
    """Returns the ways of some pictures from noise, one row each.

    Args:
      states: what lies between noise and pictures, both included: each f32 [N, H, W, C].
    """
    columns = jnp.stack([to_pixels(state[:NUM_WAYS]) for state in states], axis=1)  # [N, steps, H, W, C]
    return Picture(
        columns.reshape(-1, *columns.shape[2:]),
        title="From noise to pictures",
        caption=f"Each row: noise, and what each of {len(states) - 1} blocks makes of it, the last one a picture. "
        "Values outside the range of pictures are cut off.",
        columns=len(states),
    )


def interpolation(
    encode: Callable[[Array, Array | None], Array],
    decode: Callable[[Array, Array | None], Array],
    x: Array,
    label: Array | None,
) -> Picture:
    """Returns ways from images to others: the images of the arcs between their noise.

    Args:
      encode: (x, label) -> z.
      decode: (z, label) -> images f32 [N, H, W, C] in [-1, 1].
      x: images f32 [N, H, W, C] in [-1, 1], of which the first half are starts and the second half ends.
      label: i32 [N], or None; the label changes half way.
    """
    num = max(1, min(NUM_WAYS, len(x) // 2))
    z, half = encode(x, label), len(x) // 2
    shares = jnp.linspace(0.0, 1.0, NUM_STEPS)
    starts, ends = z[:num], z[half : half + num]
    ways = jax.vmap(lambda share: arc(starts, ends, share), out_axes=1)(shares)  # [num, NUM_STEPS, ...]
    told = None
    if label is not None:
        told = jnp.where(shares < 0.5, label[:num, None], label[half : half + num, None]).reshape(-1)
    changes = " The label changes half way." if label is not None else ""
    return Picture(
        to_pixels(decode(ways.reshape(-1, *z.shape[1:]), told)),
        title="Interpolation",
        caption="Left and right: test images. Between them: the images of the noise on the arc from one's to the "
        f"other's. A flow is invertible, so both ends are the images themselves.{changes}",
        columns=NUM_STEPS,
    )


def arc(start: Array, end: Array, share: Array) -> Array:
    """Returns the noise at a share of the way, along the great circle, with a length that changes evenly.

    In many dimensions noise lies near a sphere: the straight way would lead through lengths that no noise has.

    Args:
      start, end: [N, ...].
      share: [], 0 to 1.

    Example:
      >>> half = arc(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 3.0]]), 0.5)
      >>> [round(float(value), 4) for value in half[0]]  # of length 2
      [1.4142, 1.4142]
    """
    norms = [jnp.linalg.norm(z.reshape(len(z), -1), axis=-1) + 1e-12 for z in (start, end)]
    units = [z / broadcast_to_images(n, z) for z, n in zip((start, end), norms, strict=True)]
    cosine = jnp.sum((units[0] * units[1]).reshape(len(start), -1), axis=-1)
    angle = jnp.arccos(jnp.clip(cosine, -1 + 1e-6, 1 - 1e-6))
    length = ((1 - share) * norms[0] + share * norms[1]) / jnp.sin(angle)
    one, other = (length * jnp.sin(part * angle) for part in (1 - share, share))
    return broadcast_to_images(one, start) * units[0] + broadcast_to_images(other, end) * units[1]

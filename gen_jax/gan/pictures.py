"""Pictures of a GAN for the report: samples by class, and interpolations between images."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen_jax.figures.classes import NUM_OF_A_CLASS, by_class
from gen_jax.method import Array, DataSpec, Key, Picture, to_pixels

NUM_WAYS, NUM_BETWEEN = 6, 9

ImageOf = Callable[[Array, Array | None], Array]
"""From z [N, Z] and labels i32 [N] (None without) to images f32 [N, H, W, C] in [-1, 1]."""


def show(image_of: ImageOf, key: Key, latents: int, spec: DataSpec, num_classes: int) -> dict[str, Picture]:
    """Returns the pictures of a generator; none if the data are not pictures.

    Args:
      image_of: the generator.
      key: of the latents.
      latents: Z.
      spec: of the data.
      num_classes: number of classes that condition the generator; 0: none.
    """
    if spec.kind != "image":
        return {}
    key_classes, key_ways = jax.random.split(key)
    shown = {"interpolation": interpolation(image_of, jax.random.normal(key_ways, (2, NUM_WAYS, latents)), num_classes)}
    if not num_classes:
        return shown
    z = jax.random.normal(key_classes, (NUM_OF_A_CLASS, latents))
    return {"classes": by_class(image_of, z, spec.class_names or ())} | shown


def interpolation(image_of: ImageOf, ends: Array, num_classes: int) -> Picture:
    """Returns rows from one latent to another, along great circles.

    Args:
      image_of: the generator.
      ends: f32 [2, rows, Z], where the rows begin and end.
      num_classes: the rows cycle through the classes; 0: none.
    """
    share = jnp.linspace(0.0, 1.0, NUM_BETWEEN)
    z = jax.vmap(jax.vmap(great_circle, (None, None, 0)), (0, 0, None))(ends[0], ends[1], share)  # [rows, columns, Z]
    rows = z.shape[0]
    label = jnp.repeat(jnp.arange(rows) % num_classes, NUM_BETWEEN) if num_classes else None
    return Picture(
        to_pixels(image_of(z.reshape(-1, z.shape[-1]), label)),
        title="Interpolation",
        caption="Each row goes from one latent vector to another along a great circle, on which vectors keep the "
        "lengths typical of the prior. A generator that has not just memorised images changes them gradually.",
        columns=NUM_BETWEEN,
    )


def great_circle(start: Array, end: Array, share: Array) -> Array:
    """Returns the spherical interpolation (slerp) at fraction `share` from `start` to `end`, in direction and length.

    Example:
      >>> halfway = great_circle(jnp.array([1.0, 0.0]), jnp.array([0.0, 3.0]), jnp.float32(0.5))
      >>> [round(float(x), 4) for x in halfway]  # length 2, 45 degrees
      [1.4142, 1.4142]
    """
    lengths = jnp.linalg.norm(start), jnp.linalg.norm(end)
    a, b = start / lengths[0], end / lengths[1]
    angle = jnp.arccos(jnp.clip(a @ b, -1 + 1e-6, 1 - 1e-6))
    direction = (jnp.sin((1 - share) * angle) * a + jnp.sin(share * angle) * b) / jnp.sin(angle)
    return direction * ((1 - share) * lengths[0] + share * lengths[1])

"""The figure of class-conditional models with latents: the same latents in every class."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from gen_jax.method import Array, Picture, to_pixels

MAX_CLASSES, NUM_OF_A_CLASS = 10, 10


def by_class(image_of: Callable[[Array, Array], Array], z: Array, names: tuple[str, ...]) -> Picture:
    """Returns one row per class, at most 10, each from the same latents.

    Args:
      image_of: from z [N, Z] and labels i32 [N] to images f32 [N, H, W, C] in [-1, 1].
      z: [columns, Z].
      names: of the classes.
    """
    names = names[:MAX_CLASSES]
    rows, columns = len(names), len(z)
    images = image_of(jnp.tile(z, (rows, 1)), jnp.repeat(jnp.arange(rows), columns))
    return Picture(
        to_pixels(images),
        title="Classes",
        caption=f"One row per class ({', '.join(names)}), one latent vector per column: images of a column share the "
        "style that the latents encode independently of the class.",
        columns=columns,
    )

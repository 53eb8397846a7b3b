"""What a report shows of a VAE: its images over the latent space, and what passes through the code."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen_jax.method import Array, Picture, UserError, to_pixels

PLANE = 2  # latents of a manifold that can be drawn
MANIFOLD_SIDE = 20  # images
NUM_REACH, REACH = 11, 3.0  # values of a latent that is moved, from -3 to 3
MAX_TRAVERSED = 10  # latents
COLUMNS = 8  # of inputs with their reconstructions

ImageOf = Callable[[Array], Array]
"""From z [N, Z] to images f32 [N, H, W, C] in [-1, 1]."""


def reconstructions(x: Array, x_hat: Array) -> Picture:
    """Returns inputs and what is decoded from their posterior means, in alternate rows.

    Args:
      x: f32 [N, H, W, C] in [-1, 1].
      x_hat: f32 like `x`.
    """
    columns = min(COLUMNS, len(x))
    rows = len(x) // columns
    pairs = jnp.stack([y[: rows * columns].reshape(rows, columns, *x.shape[1:]) for y in (x, x_hat)], axis=1)
    return Picture(
        to_pixels(pairs.reshape(-1, *x.shape[1:])),
        title="Reconstructions",
        caption="Rows in turn: images as the encoder sees them, and below each the mean image of its posterior mean.",
        columns=columns,
    )


def plane(side: int) -> Array:
    """Returns the points of a square grid of equal prior probability, f32 [side^2, 2], row by row from the top left.

    Coordinates are the inverse normal CDF at (i + 1/2) / side; the first grows to the right, the second upwards.

    Example:
      >>> [[round(float(v), 4) for v in z] for z in plane(2)]
      [[-0.6745, 0.6745], [0.6745, 0.6745], [-0.6745, -0.6745], [0.6745, -0.6745]]
    """
    values = jax.scipy.special.ndtri((jnp.arange(side) + 0.5) / side)
    up, right = jnp.meshgrid(-values, values, indexing="ij")
    return jnp.stack([right.ravel(), up.ravel()], axis=-1)


def manifold(image_of: ImageOf, latents: int, side: int = MANIFOLD_SIDE) -> Picture:
    """Returns the images over a plane of latents (Kingma & Welling 2014, figure 4).

    Raises:
      UserError: the latent space is no plane.
    """
    if latents != PLANE:
        raise UserError(f"the manifold can be drawn for {PLANE} latents; this model has {latents}")
    return Picture(
        to_pixels(image_of(plane(side))),
        title="Manifold",
        caption=f"The images of {side} x {side} points of the latent plane, spaced so that the prior gives each the "
        "same share: the inverse normal CDF of an even grid.",
        columns=side,
    )


def traversals(image_of: ImageOf, mean: Array, kl: Array) -> dict[str, Picture]:
    """Returns what one latent after the other does to an image, as a grid and as an animation.

    Args:
      image_of: the decoder.
      mean: f32 [Z], the code that is changed.
      kl: f32 [Z], by which the latents are ordered; at most 10 are shown.
    """
    order = jnp.argsort(-kl)[:MAX_TRAVERSED]
    values = jnp.linspace(-REACH, REACH, NUM_REACH)
    z = jax.vmap(lambda latent: jnp.tile(mean, (NUM_REACH, 1)).at[:, latent].set(values))(order)
    images = to_pixels(image_of(z.reshape(-1, len(mean))))
    by_latent = images.reshape(len(order), NUM_REACH, *images.shape[1:])
    which = f"{len(order)} of {len(mean)} latents, that of the largest KL first"
    return {
        "traversals": Picture(
            images,
            title="Latent traversals",
            caption=f"Each row moves one latent of an image's code from -{REACH:g} to {REACH:g}, the others held: "
            f"{which}.",
            columns=NUM_REACH,
        ),
        "traversal_animation": Picture(
            by_latent.swapaxes(0, 1),
            title="Latent traversals, moving",
            caption=f"One image a latent: {which}.",
            kind="animation",
            labels=tuple(f"z = {REACH * (2 * i / (NUM_REACH - 1) - 1):.1f}" for i in range(NUM_REACH)),
        ),
    }

"""Pictures of codes that are whole numbers: reconstructions, maps of codes, single codes, and the use of a codebook."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from gen_jax.method import Array, Figure, Picture, Scatter, counted, to_pixels
from gen_jax.vae.pictures import in_pairs
from gen_jax.vae.quantizers import shares

NUM_COUNTED = 500  # images whose codes are counted
MOST_CODES_SHOWN = 64


def show(x: Array, codes: Array, image_of: Callable[[Array], Array], size: int) -> dict[str, Figure]:
    """Returns all figures of a model with such codes.

    Args:
      x: f32 [N, H, W, C] in [-1, 1], some images.
      codes: i32 [M, h, w], of these and more images.
      image_of: from codes i32 [..., h, w] to images f32 [..., H, W, C] in [-1, 1].
      size: the number of codes.
    """
    share, some = shares(codes, size), codes[: len(x)]
    return {
        "reconstructions": reconstructions(x, image_of(some)),
        "code_maps": code_maps(x, some, size),
        "single_codes": single_codes(share, image_of, codes.shape[1:]),
        "codebook_usage": usage(share, codes),
    }


def reconstructions(x: Array, x_hat: Array) -> Picture:
    """Returns images and what is left of them after quantization, in alternating rows."""
    images, columns = in_pairs(x, x_hat)
    return Picture(
        to_pixels(images),
        title="Reconstructions",
        caption="Alternating rows: images, and below each what is decoded from its codes.",
        columns=columns,
    )


def code_maps(x: Array, codes: Array, size: int) -> Picture:
    """Returns images f32 [N, H, W, C] and, below each, its codes [N, h, w] as grey levels."""
    height, width = x.shape[1:3]
    grey = 2 * codes[..., None] / (size - 1) - 1
    rows, columns = (-(-whole // part) for whole, part in zip((height, width), codes.shape[1:], strict=True))
    grey = grey.repeat(rows, axis=1).repeat(columns, axis=2)[:, :height, :width]
    images, across = in_pairs(x, jnp.broadcast_to(grey, x.shape))
    return Picture(
        to_pixels(images),
        title="Codes",
        caption=f"Alternating rows: images, and below each its {codes.shape[1]} x {codes.shape[2]} codes: black is 0, "
        f"white {size - 1:,}. Equal grey is the same code; near grey means nothing where codes have no order.",
        columns=across,
    )


def single_codes(share: Array, image_of: Callable[[Array], Array], grid: tuple[int, ...]) -> Picture:
    """Returns the images of the most frequent codes, each at all positions, those with the largest share first."""
    num = min(len(share), MOST_CODES_SHOWN)
    frequent = jnp.argsort(-share)[:num]
    which = f"The {num} most frequent of {len(share):,} codes" if num < len(share) else f"All {num} codes"
    return Picture(
        to_pixels(image_of(jnp.broadcast_to(frequent[:, None, None], (num, *grid)))),
        title="Images of single codes",
        caption=f"{which}, most frequent first: each is decoded from the same code at every position.",
    )


def usage(share: Array, codes: Array) -> Scatter:
    """Returns the part of all positions that the most frequent codes take, by the part of the codes that they are."""
    size = len(share)
    rank = jnp.arange(1, size + 1) / size
    return Scatter(
        jnp.stack([rank, jnp.cumsum(jnp.sort(share)[::-1])], axis=-1),
        None,
        jnp.stack([rank, rank], axis=-1),
        title="Use of the codes",
        caption=f"The {size:,} codes by decreasing frequency among {counted(len(codes), 'image')}, from left to "
        "right: the share of all positions that they and those to their left take. Where it reaches 1, all further "
        "codes are unused.",
        names=("codes",),
        axes=("share of the codes", "share of the positions"),
        background_name="equally frequent codes",
    )

"""Pictures of a sparse-coding autoencoder for the report: which atoms are on, where, and what the decoder draws."""

from __future__ import annotations

import jax.numpy as jnp

from gen_jax.method import Array, Picture, Scatter, to_pixels
from gen_jax.vae.pictures import NUM_SHOWN, ImageOf, in_turns
from gen_jax.vae.sparse import Usage

NUM_IMAGES = NUM_SHOWN  # test images that are shown, and over which the objective is a mean
NUM_ATOMS = 64  # that are shown


def enlarged(values: Array, side: int, image_shape: tuple[int, ...]) -> Array:
    """Returns maps [N, h, w] as images [N, H, W, C]: each position a square of `side` pixels, cut off at the edge.

    Example:
      >>> enlarged(jnp.array([[[1, 2]]]), 2, (2, 3, 1))[0, :, :, 0].tolist()
      [[1, 1, 2], [1, 1, 2]]
    """
    height, width, channels = image_shape
    large = jnp.repeat(jnp.repeat(values, side, axis=1), side, axis=2)[:, :height, :width]
    return jnp.repeat(large[..., None], channels, axis=-1)


def reconstructions(x: Array, x_hat: Array, z: Array, side: int) -> Picture:
    """Returns images, their reconstructions, and the number of atoms that are on at each position, in turns.

    Args:
      x: f32 [N, H, W, C] in [-1, 1].
      x_hat: f32 like `x`.
      z: f32 [N, h, w, K], the codes.
      side: pixels of a position.
    """
    num_on = jnp.sum(z != 0, axis=-1)
    most = jnp.maximum(jnp.max(num_on), 1)
    images, columns = in_turns(x, x_hat, enlarged(2 * num_on / most - 1, side, x.shape[1:]))
    return Picture(
        to_pixels(images),
        title="Reconstructions and sparsity",
        caption=f"Rows in turns: images, their reconstructions, and how many of {z.shape[-1]} atoms are on at each "
        "position (black: none, white: the largest number in these images).",
        columns=columns,
    )


def atoms(image_of: ImageOf, dictionary: Array, usage: Usage, shape: tuple[int, int, int]) -> Picture:
    """Returns what each atom alone changes in the picture of an empty code, when it is on in the middle.

    Args:
      image_of: the decoder, of vectors [N, h, w, d].
      dictionary: f32 [d, K].
      usage: of each atom at each position, f32 [h, w, K].
      shape: (h, w, d).
    """
    rows, columns, _ = shape
    on, positive, size = (jnp.mean(usage[name], axis=(0, 1)) for name in ("on", "positive", "size"))
    order = jnp.argsort(-on)[:NUM_ATOMS]  # stable: atoms that are never on keep their order
    usual = jnp.where(on > 0, size / jnp.maximum(on, jnp.finfo(jnp.float32).tiny), 1.0)
    value = (jnp.where(2 * positive >= on, usual, -usual) * dictionary)[:, order].T
    # The last code stays empty. A single atom changes little, and some far less than others: each difference is shown
    # at full contrast.
    vectors = jnp.zeros((len(order) + 1, *shape)).at[:-1, rows // 2, columns // 2].set(value)
    images = image_of(vectors)
    change = images[:-1] - images[-1]
    most = jnp.maximum(jnp.max(jnp.abs(change), axis=(1, 2, 3), keepdims=True), jnp.finfo(jnp.float32).tiny)
    few = f"{len(order)} of {len(on)} atoms, the most used first" if len(order) < len(on) else f"{len(on)} atoms"
    return Picture(
        to_pixels(change / most),
        title="Atoms",
        caption="What changes in the decoded picture of an empty code when a single atom is on in the middle, with its "
        f"usual sign and size (grey: nothing; white or black: the largest change by this atom): {few}.",
    )


def code_map(image: Array, z: Array, side: int) -> Picture:
    """Returns an image and a map of each atom in its code.

    Args:
      image: f32 [H, W, C] in [-1, 1].
      z: f32 [h, w, K].
      side: pixels of a position.
    """
    scale = jnp.maximum(jnp.max(jnp.abs(z)), jnp.finfo(jnp.float32).tiny)
    num = min(z.shape[-1], NUM_ATOMS - 1)
    maps = enlarged(jnp.moveaxis(z[..., :num], -1, 0) / scale, side, image.shape)
    which = f"each of its {num} atoms" if num == z.shape[-1] else f"the first {num} of {z.shape[-1]} atoms"
    return Picture(
        to_pixels(jnp.concatenate([image[None], maps])),
        title="A sparse code",
        caption=f"An image, and for {which} a map of its values: grey is zero, white the largest absolute value of the "
        "code, black the same below zero.",
    )


def usage_curve(on: Array) -> Scatter:
    """Returns the share of positions at which each atom is on, the most used first.

    Args:
      on: f32 [h, w, K], shares of images.
    """
    shares = -jnp.sort(-jnp.mean(on, axis=(0, 1)))
    num = len(shares)
    return Scatter(
        jnp.stack([jnp.arange(1, num + 1) / num, shares], axis=-1),
        None,
        None,
        title="Use of atoms",
        caption=f"For each of {num} atoms the share of positions at which it is on, averaged over training batches, "
        "the most used first.",
        axes=("atoms, share of all", "on, share of positions"),
    )


def objective_by_step(at_zero: Array, learned: Array, plain: Array) -> Scatter:
    """Returns the sparse coding objective after each step, relative to that of z = 0.

    Args:
      at_zero: f32 [], 1/2 |v|^2, a mean over vectors.
      learned: f32 [n], after each learned step.
      plain: f32 [n], after each step of ISTA with the same dictionary.
    """
    num = len(learned)
    steps = jnp.arange(num + 1) / num
    values = jnp.stack([jnp.concatenate([at_zero[None], of]) for of in (learned, plain)])
    points = jnp.stack([jnp.broadcast_to(steps, values.shape), values / jnp.maximum(at_zero, 1e-12)], axis=-1)
    return Scatter(
        points.reshape(-1, 2),
        jnp.repeat(jnp.arange(2), num + 1),
        None,
        title="Objective by step",
        caption=f"1/2 |v - D z|^2 + lam |z|_1 after each of {num} steps from z = 0, relative to its value there: means "
        "over the vectors v of the images above. ISTA takes its steps with the same dictionary.",
        names=("learned steps", "ISTA"),
        axes=(f"step / {num}", "objective / 1/2 |v|^2"),
    )

"""Pictures of a VAE for the report: reconstructions, and images and codes in the latent space."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen_jax.method import Array, Batch, Figure, Key, Picture, Scatter, UserError, draw, to_pixels
from gen_jax.nn.gaussian import Gaussian
from gen_jax.vae.priors import Density, Mixture

PLANE = 2  # latents of a manifold that can be drawn
MANIFOLD_SIDE, SNAPSHOT_SIDE = 20, 14  # images; fewer in the many frames during training
NUM_REACH, REACH = 11, 3.0  # values of a traversed latent, from -3 to 3
MAX_TRAVERSED = 10  # latents
COLUMNS = 8  # of inputs with their reconstructions
NUM_SHOWN = 16  # inputs with their reconstructions
NUM_COMPONENTS = 40  # of a prior
NUM_TOP, NUM_LOW = 6, 8  # draws of z2, and of z1 given each
NUM_POINTS = 2000  # codes of a scatter
CIRCLES = (1.0, 2.0)  # standard deviations of the prior

ImageOf = Callable[[Array], Array]
"""From z [N, Z] to images f32 [N, H, W, C] in [-1, 1]."""


def reconstructions(x: Array, x_hat: Array) -> Picture:
    """Returns inputs and their reconstructions from the posterior means, in alternating rows.

    Args:
      x: f32 [N, H, W, C] in [-1, 1].
      x_hat: f32 like `x`.
    """
    images, columns = in_turns(x[:NUM_SHOWN], x_hat[:NUM_SHOWN])
    return Picture(
        to_pixels(images),
        title="Reconstructions",
        caption="Alternating rows: images as the encoder sees them, and below each the decoded mean of its posterior.",
        columns=columns,
    )


def in_turns(*images: Array) -> tuple[Array, int]:
    """Returns images [N, ...] of several kinds in rows that take turns, and the number of columns.

    A last row that is not full is left out.

    Example:
      >>> in_turns(jnp.array([1, 2]), jnp.array([3, 4]))[0].tolist()
      [1, 2, 3, 4]
    """
    columns = min(COLUMNS, len(images[0]))
    rows = len(images[0]) // columns
    turns = jnp.stack([x[: rows * columns].reshape(rows, columns, *x.shape[1:]) for x in images], axis=1)
    return turns.reshape(-1, *images[0].shape[1:]), columns


def plane(side: int) -> Array:
    """Returns the points of a square grid of equal prior probability, f32 [side^2, 2], row by row from the top left.

    Coordinates are the inverse normal CDF at (i + 1/2) / side; the first increases to the right, the second upwards.

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
      UserError: the latent space does not have two dimensions.
    """
    if latents != PLANE:
        raise UserError(f"the manifold can be drawn for {PLANE} latents; this model has {latents}")
    return Picture(
        to_pixels(image_of(plane(side))),
        title="Manifold",
        caption=f"The images of {side} x {side} points of the latent plane, spaced so that each has the same prior "
        "probability: the inverse normal CDF of an even grid.",
        columns=side,
    )


def components(image_of: ImageOf, mixture: Mixture, pseudo_inputs: Array | None) -> Picture:
    """Returns the decoded means of a prior's components, those of largest weight first, and its pseudo-inputs, if any.

    Args:
      image_of: the decoder.
      mixture: the prior.
      pseudo_inputs: f32 [K, H, W, C] in [0, 1], in the order of the components, or None.
    """
    means = mixture.components.mean
    shown = jnp.argsort(-mixture.log_weights)[:NUM_COMPONENTS]  # stable: equal weights keep their order
    images, columns = image_of(means[shown]), 0
    if pseudo_inputs is not None:
        images, columns = in_turns(2 * pseudo_inputs[shown] - 1, images)
    num = len(images) if pseudo_inputs is None else len(images) // 2
    which = f"{num} of its {len(means):,} components" if num < len(means) else f"its {num} components"
    if pseudo_inputs is None:
        title, caption = "Components of the prior", f"The decoded means of {which}, in order of decreasing weight."
    else:
        title = "Pseudo-inputs of the prior"
        caption = (
            "Alternating rows: learned pseudo-inputs, and below each the decoded mean of its posterior, a component of "
            f"the prior: {which}."
        )
    return Picture(to_pixels(images), title=title, caption=caption, columns=columns)


def levels(images: Array) -> Picture:
    """Returns samples that share the upper latents, one row of them each.

    Args:
      images: f32 [rows, columns, H, W, C] in [-1, 1]: of one z2 in a row, and of another z1 given it in each column.
    """
    return Picture(
        to_pixels(images.reshape(-1, *images.shape[2:])),
        title="Two levels",
        caption="Each row: one z2 drawn from the prior, and images of several z1 drawn given it. What a row shares is "
        "decided by z2, what differs in it by z1.",
        columns=images.shape[1],
    )


def traversals(image_of: ImageOf, mean: Array, kl: Array) -> dict[str, Picture]:
    """Returns the effect of one latent at a time on an image, as a grid and as an animation.

    Args:
      image_of: the decoder.
      mean: f32 [Z], the code to vary.
      kl: f32 [Z], which orders the latents; at most 10 are shown.
    """
    order = jnp.argsort(-kl)[:MAX_TRAVERSED]
    values = jnp.linspace(-REACH, REACH, NUM_REACH)
    z = jax.vmap(lambda latent: jnp.tile(mean, (NUM_REACH, 1)).at[:, latent].set(values))(order)
    images = to_pixels(image_of(z.reshape(-1, len(mean))))
    by_latent = images.reshape(len(order), NUM_REACH, *images.shape[1:])
    which = f"{len(order)} of {len(mean)} latents, in order of decreasing KL"
    return {
        "traversals": Picture(
            images,
            title="Latent traversals",
            caption=f"Each row varies one latent of an image's code from -{REACH:g} to {REACH:g}, the others fixed: "
            f"{which}.",
            columns=NUM_REACH,
        ),
        "traversal_animation": Picture(
            by_latent.swapaxes(0, 1),
            title="Latent traversals, animated",
            caption=f"One image per latent: {which}.",
            kind="animation",
            labels=tuple(f"z = {REACH * (2 * i / (NUM_REACH - 1) - 1):.1f}" for i in range(NUM_REACH)),
        ),
    }


def latent_space(
    mean: Array, kl: Array, key: Key, label: Array | None, names: tuple[str, ...] | None, standard: bool = True
) -> Scatter:
    """Returns the posterior means of images in the plane of the two latents of largest KL, coloured by class.

    Args:
      mean: f32 [N, Z].
      kl: f32 [Z], which orders the latents.
      key: of the noise that replaces the second latent if there is only one.
      label: i32 [N], or None.
      names: of the classes, or None.
      standard: whether the prior is the standard normal; circles then mark its standard deviations.
    """
    latents = len(kl)
    [(first, second)] = _pairs(latents)[:1]
    coloured = label is not None and names is not None
    which = f"the two of its {latents} latents with the largest KL" if latents > PLANE else "the latent plane"
    return Scatter(
        _plane_of(_ordered(mean, kl, key), first, second),
        label if coloured else None,
        None,
        title="Latent space",
        caption=f"The posterior means of {len(mean):,} images in "
        + ("the single latent, with noise on the y axis" if latents == 1 else which)
        + (", coloured by class" if coloured else "")
        + (". The circles mark one and two standard deviations of the prior." if standard else "."),
        names=names if coloured and names else (),
        axes=_axes(latents),
        circles=CIRCLES if standard else (),
    )


def aggregate_posterior(z: Array, kl: Array, key: Key, prior: Array | None = None) -> Scatter:
    """Returns codes drawn from the posteriors of images over draws from the prior; regions without codes are holes.

    Args:
      z: f32 [N, Z], a draw from q(z | x) for each image.
      kl: f32 [Z], which orders the latents; if there are more than two, pairs of the first ten are frames.
      key: of the draws from a standard normal prior, and of the noise that replaces a second latent.
      prior: f32 [N, Z], draws from another prior, whose latents differ from each other.
    """
    latents = len(kl)
    key_prior, key_noise = jax.random.split(key)
    pairs = _pairs(latents)
    moving = len(pairs) > 1

    def planes(codes: Array, key: Key) -> Array:
        ordered = _ordered(codes, kl, key)
        points = jnp.stack([_plane_of(ordered, *pair) for pair in pairs])
        return points if moving else points[0]

    caption = (
        f"A draw from q(z | x) for each of {len(z):,} images, "
        + ("over as many draws from the prior in grey" if prior is None else "among as many draws from the prior")
        + f". Samples decode the prior: a region with only {'grey points' if prior is None else 'draws from it'} is a "
        "hole, with codes that no image has."
        + (" The x axis is the latent; the y axis is noise." if latents == 1 else "")
        + (f" Pairs of its {latents} latents, in order of decreasing KL." if moving else "")
    )
    figure = Scatter(
        planes(z, key_noise),
        None,
        jax.random.normal(key_prior, (len(z), PLANE)),
        title="Aggregate posterior against prior",
        caption=caption + " The circles mark one and two standard deviations of the prior.",
        names=("codes of images",),
        axes=("", "") if moving else _axes(latents),
        background_name="prior",
        circles=CIRCLES,
        labels=tuple(f"latents {a + 1} (right) and {b + 1} (up) by KL" for a, b in pairs) if moving else (),
    )
    if prior is None:
        return figure
    # A background is the same in every frame; these draws are not, and so they are a class of points.
    return figure.replace(
        points=jnp.concatenate([figure.points, planes(prior, key_prior)], axis=-2),
        classes=jnp.repeat(jnp.arange(2), jnp.array([len(z), len(prior)]), total_repeat_length=len(z) + len(prior)),
        background=None,
        background_name="",
        names=("codes of images", "draws from the prior"),
        circles=(),
        caption=caption,
    )


def codes(
    image_of: ImageOf,
    q: Gaussian,
    z: Array,
    prior: Density,
    key: Key,
    batch: Batch,
    names: tuple[str, ...] | None,
    pseudo_inputs: Array | None,
) -> dict[str, Figure]:
    """Returns the pictures of codes: of images, by class and against the prior; the prior's components; traversals.

    Args:
      image_of: the decoder.
      q: q(z | x) of each image, [N, Z].
      z: f32 [N, Z], drawn from it.
      prior: p(z).
      key: of the draws from the prior.
      batch: the images, of which `index` and `label`, if any, are used.
      names: of the classes, or None.
      pseudo_inputs: of the prior; see `components`.
    """
    kl, mixture = jnp.mean(prior.kl_of_each(q, z), axis=0), prior.mixture
    drawn = None if mixture is None else draw(jax.random.fold_in(key, 1), batch["index"], prior.draw)
    shown: dict[str, Figure] = {
        "latent_space": latent_space(q.mean, kl, key, batch.get("label"), names, standard=mixture is None),
        "aggregate_posterior": aggregate_posterior(z, kl, key, drawn),
    }
    if mixture is not None:
        shown["prior"] = components(image_of, mixture, pseudo_inputs)
    return shown | traversals(image_of, q.mean[0], kl)


def _pairs(latents: int) -> list[tuple[int, int]]:
    """Consecutive latents by KL: (0, 1), (2, 3), ...; if their number is odd, the last but one is shown twice."""
    count = max(min(latents, MAX_TRAVERSED), PLANE)
    return [(first, first + 1) for first in (*range(0, count - 1, 2), *((count - 2,) if count % 2 else ()))]


def _ordered(z: Array, kl: Array, key: Key) -> Array:
    """Codes [N, Z] with the latent of the largest KL first; if there is only one, noise is the second."""
    if len(kl) == 1:
        return jnp.concatenate([z, jax.random.normal(key, z.shape)], axis=-1)
    return z if len(kl) == PLANE else z[:, jnp.argsort(-kl)]


def _plane_of(z: Array, first: int, second: int) -> Array:
    return jnp.stack([z[:, first], z[:, second]], axis=-1)


def _axes(latents: int) -> tuple[str, str]:
    if latents == 1:
        return "z", "noise"
    return ("z1", "z2") if latents == PLANE else ("latent of largest KL", "latent of second largest KL")

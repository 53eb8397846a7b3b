"""Losses of the discriminator and the generator, from logits.

Every loss is a pair of functions of the logits on real and on generated images, with one value per example (example i
is the pair of real image i and generated image i); the training step computes the mean. The step also decides which
weights are updated: nothing here stops a gradient. Gradient penalties are in `penalties`, bounds on the weights in
`constraints`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from gen_jax.method import Array, UserError

softplus = jax.nn.softplus  # log(1 + e^x); softplus(-x) = -log sigmoid(x), stable for any logit


class Loss(NamedTuple):
    """The losses of the two players.

    Attributes:
      discriminator: (real_logits [B], fake_logits [B]) -> f32 [B].
      generator: (real_logits [B], fake_logits [B]) -> f32 [B]; most use only fake_logits.
      score: the meaning of a logit: the probability of being real if logits are log odds, else the logit itself.
    """

    discriminator: Callable[[Array, Array], Array]
    generator: Callable[[Array, Array], Array]
    score: Callable[[Array], Array]


def cross_entropy(real_logits: Array, fake_logits: Array, real_target: float = 1.0) -> Array:
    """Returns -t log D(x) - (1 - t) log(1 - D(x)) - log(1 - D(G(z))): f32 [B], nats.

    Args:
      real_logits: [B].
      fake_logits: [B].
      real_target: t, the target probability for real images. Values below 1 are one-sided label smoothing (Salimans et
        al. 2016, section 3.4): smoothing the other side would reinforce the generator's errors.

    Example:
      >>> r, f = 0.8, -0.4
      >>> round(float(cross_entropy(r, f)), 6), round(float(cross_entropy(r, f, 0.9)), 6)
      (0.884116, 0.964116)
    """
    return real_target * softplus(-real_logits) + (1 - real_target) * softplus(real_logits) + softplus(fake_logits)


def minimax(real_target: float = 1.0) -> Loss:
    """Returns the game of Goodfellow et al. 2014, equation 1: the generator minimises log(1 - D(G(z))).

    Its gradient vanishes where D(G(z)) is near 0, as at the start of training.

    Args:
      real_target: see `cross_entropy`; the default is the paper's.

    Example:
      >>> round(float(minimax().generator(0.0, -0.4)), 6)
      -0.513015
    """
    return Loss(
        lambda real, fake: cross_entropy(real, fake, real_target), lambda real, fake: -softplus(fake), jax.nn.sigmoid
    )


def non_saturating(real_target: float = 1.0) -> Loss:
    """Returns the game of Goodfellow et al. 2014, section 3: the generator minimises -log D(G(z)).

    Args:
      real_target: see `cross_entropy`.

    Example:
      >>> round(float(non_saturating().generator(0.0, -0.4)), 6)
      0.913015
    """
    return Loss(
        lambda real, fake: cross_entropy(real, fake, real_target), lambda real, fake: softplus(-fake), jax.nn.sigmoid
    )


def least_squares(real_target: float = 1.0) -> Loss:
    """Returns squared distances to 1 (real) and 0 (generated); the generator aims at 1 (Mao et al. 2017).

    It omits the factor 1/2 that some sources have.

    Args:
      real_target: the discriminator's target for real images; the generator's target remains 1.

    Example:
      >>> loss, r, f = least_squares(), 0.8, -0.4
      >>> round(float(loss.discriminator(r, f)), 6), round(float(loss.generator(r, f)), 6)
      (0.2, 1.96)
    """
    return Loss(lambda real, fake: (real - real_target) ** 2 + fake**2, lambda real, fake: (fake - 1) ** 2, _unchanged)


def wasserstein() -> Loss:
    """Returns the difference of means (Arjovsky et al. 2017): a bound on the Earth mover's distance if the critic is
    1-Lipschitz, so it needs a constraint or a penalty.

    Example:
      >>> loss, r, f = wasserstein(), 0.8, -0.4
      >>> round(float(loss.discriminator(r, f)), 6), round(float(loss.generator(r, f)), 6)
      (-1.2, 0.4)
    """
    return Loss(lambda real, fake: fake - real, lambda real, fake: -fake, _unchanged)


def hinge() -> Loss:
    """Returns the hinge game (Lim & Ye 2017; Miyato et al. 2018): no gradient beyond a margin of 1.

    Example:
      >>> loss, r, f = hinge(), 0.8, -0.4
      >>> round(float(loss.discriminator(r, f)), 6), round(float(loss.generator(r, f)), 6)
      (0.8, 0.4)
    """
    return Loss(lambda real, fake: jax.nn.relu(1 - real) + jax.nn.relu(1 + fake), lambda real, fake: -fake, _unchanged)


def relativistic() -> Loss:
    """Returns the game on pairs (Jolicoeur-Martineau 2019): is this real image more real than this generated one?

    Both losses use both logits, so the generator also gains when real images lose: dropping a mode has a cost.

    Example:
      >>> loss, r, f = relativistic(), 0.8, -0.4
      >>> round(float(loss.discriminator(r, f)), 6), round(float(loss.generator(r, f)), 6)
      (0.263282, 1.463282)
    """
    return Loss(lambda real, fake: softplus(fake - real), lambda real, fake: softplus(real - fake), _unchanged)


def _unchanged(logits: Array) -> Array:
    return logits


LOSSES: dict[str, Callable[..., Loss]] = {
    "minimax": minimax,
    "non_saturating": non_saturating,
    "least_squares": least_squares,
    "wasserstein": wasserstein,
    "hinge": hinge,
    "relativistic": relativistic,
}

SMOOTHABLE = ("minimax", "non_saturating", "least_squares")
"""The losses with a target for real images, which may be less than 1."""

CENTRED = ("minimax", "non_saturating", "hinge")
"""The losses whose logits are above 0 for what the discriminator takes for real, and below 0 for the rest.

The middle of least squares is 1/2; with pairs, and with Wasserstein's difference of means, only differences count.
"""


def make(name: str, real_target: float = 1.0) -> Loss:
    """Returns the loss with this name.

    Args:
      name: a key of LOSSES.
      real_target: for real images, in (0.5, 1]; 1 for no smoothing.

    Raises:
      UserError: an invalid target, or one for a loss that has none.

    Example:
      >>> make("least_squares", 0.9).discriminator(0.9, 0.0)
      0.0
    """
    if not 0.5 < real_target <= 1:
        raise UserError(f"config.gan.real_target is {real_target}; the target for real images must be in (0.5, 1]")
    if real_target == 1:
        return LOSSES[name]()
    if name not in SMOOTHABLE:
        raise UserError(
            f"config.gan.real_target is {real_target}, but the {name} loss has no target to smooth; use 1.0, or one of "
            f"{', '.join(SMOOTHABLE)}"
        )
    return LOSSES[name](real_target)

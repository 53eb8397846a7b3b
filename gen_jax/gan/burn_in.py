"""Values that move along a cosine over the first part of a run (Huang et al. 2024), all by one clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from gen_jax import optimizer
from gen_jax.method import Array, UserError


class BurnIn(NamedTuple):
    """The first part of a run, in which values move.

    Attributes:
      done: 0-based step -> f32 [], from 0 at the start of the run to 1 at the end of the burn-in; the strength of the
        augmentation is multiplied by it.
      penalty: 0-based step -> f32 [], the factor of the penalty's weight.
      drift: of both optimizers.
    """

    done: Callable[[Array], Array | float]
    penalty: Callable[[Array], Array | float]
    drift: optimizer.Drift


def none(steps: int) -> BurnIn:
    """Returns no burn-in: every value stays what it is."""
    del steps
    return BurnIn(lambda step: 1.0, lambda step: 1.0, optimizer.STILL)


def cosine(
    steps: int, share: float = 0.1, learning_rate: float = 0.25, penalty: float = 0.1, b2: float = 0.99
) -> BurnIn:
    """Returns the burn-in of R3GAN; its defaults are those of CIFAR-10 (Huang et al. 2024).

    At the start the half-life of the moving average and the strength of the augmentation are 0, and the other values
    are those of the config; afterwards both are those of the config, and the others are:

    Args:
      steps: of the run.
      share: of the run that the burn-in takes.
      learning_rate: its factor after the burn-in, for both networks.
      penalty: the factor of the penalty's weight after the burn-in.
      b2: of both optimizers after the burn-in.

    Raises:
      UserError: an invalid value.

    Example:
      >>> moved = cosine(steps=1000, share=0.5, learning_rate=0.25)
      >>> [round(float(moved.drift.rate(step)), 4) for step in (0, 250, 500, 1000)]
      [1.0, 0.625, 0.25, 0.25]
    """
    if not 0 < share <= 1:
        raise UserError(f"config.gan.burn_in.share is {share}; it must be in (0, 1]")
    for name, value in (("learning_rate", learning_rate), ("penalty", penalty)):
        if value < 0:
            raise UserError(f"config.gan.burn_in.{name} is {value}; a factor must not be negative")
    if not 0 <= b2 < 1:
        raise UserError(f"config.gan.burn_in.b2 is {b2}; it must be in [0, 1)")

    def done(step: Array) -> Array:
        passed = jnp.minimum(jnp.asarray(step, jnp.float32) / (share * steps), 1.0)
        return (1 - jnp.cos(jnp.pi * passed)) / 2

    def between(start: float, end: float, step: Array) -> Array:
        return start + (end - start) * done(step)

    def shorter(decay: float, step: Array) -> Array:
        # Half the half-life is the square of the decay; at half-life 0 the decay is 0.
        return jnp.power(decay, 1 / jnp.maximum(done(step), 1e-6))

    drift = optimizer.Drift(
        lambda step: between(1.0, learning_rate, step), lambda start, step: between(start, b2, step), shorter
    )
    return BurnIn(done, lambda step: between(1.0, penalty, step), drift)


BURN_INS: dict[str, Callable[..., BurnIn]] = {"none": none, "cosine": cosine}

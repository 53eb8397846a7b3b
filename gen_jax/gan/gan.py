"""Generative adversarial networks (Goodfellow et al. 2014), unconditional and conditional, with any loss of this room.

DCGAN, conditional GAN, WGAN, WGAN-GP, LSGAN, SNGAN with projection are values of the config, not classes.
"""

from __future__ import annotations

from typing import Any

from gen_jax.config import require_choice
from gen_jax.gan import defaults, game, losses
from gen_jax.method import Array, DataSpec, Method, Scalars, Stage

OPTIONS = defaults.options("gan", "GAN")


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns the GAN as a method; see `configs/cgan_mnist.py` for what it reads of a config.

    Raises:
      UserError: an unknown name, values that do not go together, labels asked of a data set without.
    """
    c = config.gan
    require_choice("gan.loss", c.loss, losses.LOSSES)
    loss = losses.make(c.loss, c.real_target)
    num_classes = game.classes_of(spec, "config.gan.conditional") if c.conditional else 0

    def discriminator(real: Array, fake: Array, label: Array | None) -> tuple[Array, Scalars]:
        return loss.discriminator(real, fake), {"real_score": loss.score(real), "fake_score": loss.score(fake)}

    def generator(real: Array, fake: Array, label: Array | None) -> tuple[Array, Scalars]:
        return loss.generator(real, fake), {}

    objective = game.Objective(
        discriminator, generator, generator_classes=num_classes, discriminator_classes=num_classes
    )
    return game.make(config, spec, objective)

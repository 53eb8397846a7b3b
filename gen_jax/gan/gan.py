"""Generative adversarial networks (Goodfellow et al. 2014), unconditional and conditional, with any loss of `losses`.

DCGAN, conditional GAN, WGAN, WGAN-GP, LSGAN and SNGAN with projection are config values, not classes.
"""

from __future__ import annotations

from typing import Any

from gen_jax.config import require_choice
from gen_jax.gan import defaults, game, losses
from gen_jax.method import Array, DataSpec, Method, Scalars, Stage

OPTIONS = defaults.options("gan", "GAN")


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns the GAN as a method; see `configs/cgan_mnist.py` for its config values.

    Raises:
      UserError: an unknown name, incompatible values, or a conditional GAN on a data set without labels.
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

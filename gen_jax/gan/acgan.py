"""AC-GAN (Odena et al. 2017): the discriminator predicts the class instead of receiving it.

Its first logit is the source, real or generated; the others are the classes. Both networks are rewarded for correctly
classified real and generated images.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gen_jax.config import require_choice
from gen_jax.gan import defaults, game, losses
from gen_jax.method import Array, DataSpec, Method, Scalars, Stage, UserError

OPTIONS = defaults.options("acgan", "AC-GAN")


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns AC-GAN as a method; see `configs/acgan_cifar10.py` for its config values.

    Raises:
      UserError: an unknown name, incompatible values, or data without labels.
    """
    c = config.gan
    require_choice("gan.loss", c.loss, losses.LOSSES)
    if c.class_weight < 0:
        raise UserError(f"config.gan.class_weight is {c.class_weight}; it must not be negative")
    num_classes = game.classes_of(spec, "acgan")
    objective = auxiliary(losses.make(c.loss, c.real_target), c.class_weight, num_classes)
    return game.make(config, spec, objective)


def auxiliary(loss: losses.Loss, class_weight: float, num_classes: int) -> game.Objective:
    """Returns the two losses: -L_S - L_C for the discriminator, and L_S - L_C for the generator.

    L_S is log P(source), L_C is log P(class) over real and generated images (section 3); real images have no effect on
    the gradient of the generator.

    Args:
      loss: of the source.
      class_weight: of the cross-entropy of classes; 1 in the paper.
      num_classes: number of logits after the one of the source.

    Example:
      >>> objective = auxiliary(losses.make("non_saturating"), 1.0, 4)
      >>> values, parts = objective.discriminator(jnp.zeros((1, 5)), jnp.zeros((1, 5)), jnp.array([2]))
      >>> round(float(values[0]), 4)  # 2 log 2 + 2 log 4
      4.1589
    """

    def cross_entropy(output: Array, label: Array | None) -> Array:
        # One-hot labels, because the gradient of a look-up is a scatter, which could gather a sharded batch.
        return optax.softmax_cross_entropy(output[:, 1:], jax.nn.one_hot(label, num_classes))

    def right(output: Array, label: Array | None) -> Array:
        return (jnp.argmax(output[:, 1:], axis=-1) == label).astype(jnp.float32)

    def discriminator(real: Array, fake: Array, label: Array | None) -> tuple[Array, Scalars]:
        source = loss.discriminator(real[:, 0], fake[:, 0])
        classes = cross_entropy(real, label) + cross_entropy(fake, label)
        return source + class_weight * classes, {
            "discriminator_source_loss": source,
            "discriminator_class_loss": classes,
            "real_score": loss.score(real[:, 0]),
            "fake_score": loss.score(fake[:, 0]),
            "real_class_accuracy": right(real, label),
            "fake_class_accuracy": right(fake, label),
        }

    def generator(real: Array, fake: Array, label: Array | None) -> tuple[Array, Scalars]:
        source, classes = loss.generator(real[:, 0], fake[:, 0]), cross_entropy(fake, label)
        return source + class_weight * classes, {"generator_source_loss": source, "generator_class_loss": classes}

    return game.Objective(
        discriminator, generator, lambda output: output[:, 0], num_outputs=1 + num_classes,
        generator_classes=num_classes,
    )  # fmt: skip

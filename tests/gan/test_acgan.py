"""AC-GAN's two losses by hand, and their signs."""

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.gan import acgan, losses

REAL = np.array([[0.8, 1.0, -1.0, 0.5], [0.8, 0.0, 0.0, 0.0]])  # a source logit, then three classes
FAKE = np.array([[-0.4, 0.2, 0.4, -2.0], [-0.4, 5.0, 0.0, 0.0]])
LABEL = np.array([0, 2])
SOURCE = (0.8841159183477303, 0.9130152523999526)  # golden.json, of logits 0.8 and -0.4
OBJECTIVE = acgan.auxiliary(losses.make("non_saturating"), 0.5, 3)


def cross_entropy(output):
    logits = output[:, 1:]
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(2), LABEL]


def test_losses_are_source_and_classes_of_real_and_generated_images():
    arguments = [jnp.asarray(x, jnp.float32) for x in (REAL, FAKE)]
    found, parts = OBJECTIVE.discriminator(*arguments, jnp.asarray(LABEL))
    classes = cross_entropy(REAL) + cross_entropy(FAKE)
    np.testing.assert_allclose(found, SOURCE[0] + 0.5 * classes, rtol=1e-6)
    np.testing.assert_allclose(parts["discriminator_class_loss"], classes, rtol=1e-6)
    np.testing.assert_allclose(parts["real_class_accuracy"], [1, 0])
    found, parts = OBJECTIVE.generator(*arguments, jnp.asarray(LABEL))
    np.testing.assert_allclose(found, SOURCE[1] + 0.5 * cross_entropy(FAKE), rtol=1e-6)
    np.testing.assert_allclose(parts["generator_source_loss"], SOURCE[1], rtol=1e-6)


def test_the_generator_gains_by_the_class_asked_for_and_by_being_taken_for_real():
    def loss(fake):
        return OBJECTIVE.generator(jnp.asarray(REAL), fake, jnp.asarray(LABEL))[0].sum()

    slope = jax.grad(loss)(jnp.asarray(FAKE, jnp.float32))
    assert np.all(slope[:, 0] < 0)
    assert np.all(slope[np.arange(2), 1 + LABEL] < 0)

import jax
import jax.numpy as jnp
import numpy as np

from experiments import generator_gradient as experiment


def test_losses_scale_the_logits_gradient_by_d_and_one_minus_d():
    # The bias of the discriminator's last layer alone sets the probability: here about 1e-3.
    generator = jax.jit(experiment.GENERATOR.init)(jax.random.key(0), jnp.zeros((1, 2)))["params"]
    discriminator = jax.jit(experiment.DISCRIMINATOR.init)(jax.random.key(1), jnp.zeros((1, 1, 1, 2)))["params"]
    (last,) = (name for name, leaf in discriminator.items() if leaf["kernel"].shape[-1] == 1)
    discriminator = discriminator | {last: discriminator[last] | {"bias": jnp.full((1,), -7.0)}}
    found = jax.jit(experiment.gradients)(generator, discriminator, jax.random.normal(jax.random.key(2), (16, 2)))
    p = np.asarray(found["probability"])
    assert p.max() < 0.1
    np.testing.assert_allclose(found["minimax"] / found["logit"], p, rtol=1e-4)
    np.testing.assert_allclose(found["non_saturating"] / found["logit"], 1 - p, rtol=1e-4)
    assert found["non_saturating/batch"] > 10 * found["minimax/batch"]

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.method import UserError
from gen_jax.nflow import noise


def test_uniform_noise_fills_a_grey_value_and_is_not_removed():
    x0, keys = jnp.zeros((2, 20, 20, 1)), jax.random.split(jax.random.key(0), 2)
    x = noise.uniform().add(x0, keys, 0.5)
    assert 0.24 < float(jnp.abs(x).max()) <= 0.25
    np.testing.assert_array_equal(noise.uniform().remove(lambda x: 1 / 0, x), x)


def test_normal_noise_has_its_standard_deviation_whatever_the_width_of_a_grey_value():
    x0, keys = jnp.full((4, 50, 50, 1), 0.5), jax.random.split(jax.random.key(0), 4)
    x = noise.gaussian(0.2).add(x0, keys, 1.0)
    assert [float(x.mean()), float(x.std())] == pytest.approx([0.5, 0.2], abs=0.008)
    np.testing.assert_array_equal(x, noise.gaussian(0.2).add(x0, keys, 2.0))


def test_removing_noise_gives_the_mean_of_what_it_was_added_to():
    # Two pictures, all -1 and all 1, equally likely: the mean of x0 given x is tanh(sum of x / sigma^2).
    sigma = 0.8

    def log_density(x):
        parts = [-jnp.sum(jnp.square(x - centre), axis=(1, 2, 3)) / (2 * sigma**2) for centre in (-1, 1)]
        return jax.nn.logsumexp(jnp.stack(parts), axis=0)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 1, 1)), jnp.float32)
    expected = np.tanh(np.sum(np.asarray(x), axis=(1, 2, 3), keepdims=True) / sigma**2) * np.ones((1, 2, 1, 1))
    np.testing.assert_allclose(noise.gaussian(sigma).remove(log_density, x), expected, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, -1.0])
def test_noise_without_width_is_refused(sigma):
    with pytest.raises(UserError, match=rf"tarflow.noise.sigma is {sigma}: a standard deviation is positive"):
        noise.gaussian(sigma)

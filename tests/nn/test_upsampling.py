"""Every way to grow an image, and that `shuffle` starts as `nearest`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.nn.upsampling import UPSAMPLINGS


class Grow(nn.Module):
    how: str
    size: int = 3
    factor: int = 2

    @nn.compact
    def __call__(self, x):
        options = {"kernel_init": nn.initializers.lecun_normal(), "name": "conv"}
        return UPSAMPLINGS[self.how](x, 3, self.size, self.factor, **options)


@pytest.mark.parametrize("how", UPSAMPLINGS)
def test_images_grow_by_the_factor(how):
    for factor in (1, 2, 3):
        y = jax.eval_shape(Grow(how, 4, factor).init_with_output, jax.random.key(0), jnp.ones((2, 4, 5, 6)))[0]
        assert y.shape == (2, 4 * factor, 5 * factor, 3)


def test_a_kernel_of_one_pixel_shows_what_each_does():
    x = jnp.array([[1.0, 2.0]]).reshape(1, 1, 2, 1)

    def shown(how, kernel):
        return np.asarray(Grow(how, 1).apply({"params": {"conv": {"kernel": kernel, "bias": jnp.zeros(3)}}}, x))[0]

    ones = jnp.ones((1, 1, 1, 3))
    np.testing.assert_array_equal(shown("nearest", ones)[..., 0], [[1, 1, 2, 2]] * 2)
    assert np.count_nonzero(shown("transposed", ones)[..., 0]) == 2  # zeros between the pixels
    parts = jnp.repeat(jnp.array([1.0, 10.0, 100.0, 1000.0]), 3).reshape(1, 1, 1, 12)
    bias = jnp.zeros(12)
    y = Grow("shuffle", 1).apply({"params": {"conv": {"kernel": parts, "bias": bias}}}, x)
    np.testing.assert_array_equal(y[0, :, :, 0], [[1, 10, 2, 20], [100, 1000, 200, 2000]])


def test_all_pixels_of_a_shuffled_one_start_equal():
    x = jax.random.normal(jax.random.key(1), (1, 4, 4, 6))
    y, _ = Grow("shuffle").init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(y[:, ::2, ::2], y[:, 1::2, 1::2], atol=1e-6)

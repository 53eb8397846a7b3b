import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.metrics.likelihood import bits_per_dim, dequantised


@pytest.mark.parametrize(
    ("grey_values", "expected"), [(1, 2.16404256133), (256, 10.1640425613), (127.5, 9.15839599819)]
)
def test_bits_count_grey_values_whatever_the_scale_of_the_density(grey_values, expected):
    assert bits_per_dim(1.5 * 784, 784, grey_values) == pytest.approx(expected, rel=1e-9)  # golden.json, metrics


def test_a_uniform_guess_among_bytes_costs_eight_bits():
    assert bits_per_dim(12 * math.log(256), 12) == pytest.approx(8.0)
    assert bits_per_dim(0.0, 12, 256) == pytest.approx(8.0)  # the uniform density on x / 256


def test_noise_fills_the_bin_of_a_grey_value():
    x0, keys = jnp.zeros((4, 30, 30, 1)), jax.random.split(jax.random.key(0), 4)
    noise = dequantised(x0, keys)
    assert float(jnp.abs(noise).max()) <= 1 / 255
    assert [float(noise.min()) * 255, float(noise.max()) * 255] == pytest.approx([-1, 1], rel=0.02)
    assert not np.allclose(noise[0], noise[1])
    np.testing.assert_allclose(dequantised(x0, keys, width=2.0), 255 * noise, rtol=1e-6)

"""Embeddings against the formulas of the papers in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.nn.embedding import positions, sinusoidal


def test_sines_then_cosines_from_frequency_one_down_to_one_over_the_period():
    values = np.array([0.0, 1.0, 999.0])
    frequencies = np.exp(-np.arange(64) * np.log(1e4) / 63)  # 128 wide, as the CIFAR-10 network of DDPM
    angles = values[:, None] * frequencies
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(sinusoidal(jnp.asarray(values), 128), expected, atol=1e-4)  # f32 sine of 999


@pytest.mark.parametrize("dim", [2, 7])
def test_refuses_widths_without_two_frequencies(dim):
    with pytest.raises(ValueError, match="even"):
        sinusoidal(jnp.zeros(1), dim)


def test_positions_are_sines_and_cosines_of_row_and_column():
    found = positions(3, 4, 8)
    assert found.shape == (12, 8)
    row, column = 2, 3
    expected = [*np.sin([row, row / 100]), *np.cos([row, row / 100]), *np.sin([column, column / 100]),
                *np.cos([column, column / 100])]  # fmt: skip
    np.testing.assert_allclose(found[row * 4 + column], expected, rtol=1e-12)

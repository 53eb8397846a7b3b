"""Dropout masks belong to examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.nn.dropout import Dropout

KEY = jax.random.key(0)


def drop(x, index, rate=0.25, train=True):
    return Dropout(rate).apply({}, x, index, train=train, rngs={"dropout": KEY})


def test_part_of_a_batch_drops_what_the_whole_drops():
    x = jnp.ones((6, 3, 5))
    np.testing.assert_array_equal(drop(x, jnp.arange(6))[4:], drop(x[4:], jnp.arange(4, 6)))


def test_examples_have_masks_of_their_own():
    y = drop(jnp.ones((2, 100)), jnp.arange(2))
    assert (y[0] != y[1]).any()


def test_mean_is_kept_and_the_rate_is_the_share_of_zeros():
    y = np.asarray(drop(jnp.ones((10, 4000)), jnp.arange(10)))
    assert abs((y == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / y.size)
    np.testing.assert_allclose(y[y > 0], 1 / 0.75, rtol=1e-6)


@pytest.mark.parametrize(("rate", "train"), [(0.0, True), (0.5, False)])
def test_identity_without_rate_or_outside_training_needs_neither_key_nor_index(rate, train):
    x = jnp.arange(4.0)
    np.testing.assert_array_equal(Dropout(rate).apply({}, x, None, train=train), x)


def test_training_without_index_is_refused():
    with pytest.raises(ValueError, match="index"):
        drop(jnp.ones((2, 2)), None)

"""The dense layer against flax.linen's: parameters, outputs and gradients, for any number of axes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.nn.dense import Dense


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 3, 5, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_is_flax_s_layer(shape, bias):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    ours, theirs = Dense(6, use_bias=bias), nn.Dense(6, use_bias=bias)
    params = jax.jit(ours.init)(jax.random.key(0), x)
    expected = jax.jit(theirs.init)(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    params = jax.tree.map(lambda p: p + 0.1, params)

    def of(layer):
        return jax.jit(jax.value_and_grad(lambda p, x: jnp.sin(layer.apply(p, x)).sum(), argnums=(0, 1)))

    for found, wanted in zip(jax.tree.leaves(of(ours)(params, x)), jax.tree.leaves(of(theirs)(params, x)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_half_precision_computes_in_it_and_stores_f32():
    x = jnp.ones((2, 3, 4))
    y, params = Dense(6, dtype=jnp.bfloat16).init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}

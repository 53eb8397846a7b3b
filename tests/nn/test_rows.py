"""Sums over rows and broadcast vectors: values, and derivatives of both kinds, as by XLA's own reductions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.nn.rows import spread, sum_of_rows

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), jnp.float32)
V = X[0, 0]


def test_sums_are_those_of_float64():
    large = np.random.default_rng(1).normal(1, 1, (64, 33, 7)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(sum_of_rows)(large), np.float64(large).sum((0, 1)), rtol=1e-5)


@pytest.mark.parametrize(
    ("ours", "plain", "at"),
    [
        (lambda x: jnp.sin(sum_of_rows(x * x)).sum(), lambda x: jnp.sin((x * x).sum((0, 1))).sum(), X),
        (lambda v: jnp.sin(spread(v, X.shape) * X).sum(), lambda v: jnp.sin(v * X).sum(), V),
    ],
    ids=["sum", "spread"],
)
def test_derivatives_are_those_of_the_plain_form(ours, plain, at):
    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        found, expected = jax.jit(derivative(ours))(at), jax.jit(derivative(plain))(at)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    several = jnp.stack([at, 2 * at])
    np.testing.assert_allclose(jax.vmap(jax.grad(ours))(several)[1], jax.grad(plain)(2 * at), rtol=1e-5, atol=1e-5)


def test_on_a_cpu_both_are_products_and_nothing_is_reduced():
    def loss(v):
        return (spread(v, X.shape) * X)[0].max()

    compiled = jax.jit(jax.grad(loss)).lower(V).as_text()
    assert "stablehlo.dot_general" in compiled
    assert "stablehlo.reduce(" not in jax.jit(sum_of_rows).lower(X).as_text()


def test_half_precision_is_kept():
    assert spread(V.astype(jnp.bfloat16), (2, 5)).dtype == jnp.bfloat16
    assert sum_of_rows(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16

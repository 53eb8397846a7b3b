"""Muon beside that of optax, which iterates every matrix by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from gen_jax import parallel
from gen_jax.muon import COEFFICIENTS, muon, orthogonal

SHAPES = {"tall": (3, 3, 4, 8), "the same rows": (8, 40), "equal": (3, 3, 4, 8), "wide": (8, 60), "square": (8, 8),
          "row": (1, 7), "column": (7, 1), "bias": (5,), "scale": ()}  # fmt: skip
PLATFORMS = ["cpu", "tpu"]  # whose forms are used


def kernels(matrix):
    return contrib.MuonDimensionNumbers(tuple(range(matrix.ndim - 1)), matrix.ndim - 1) if matrix.ndim > 1 else None


@pytest.mark.parametrize("platform", PLATFORMS)
def test_steps_and_states_are_those_of_optax(platform):
    rate = optax.linear_schedule(0.1, 0.0, 10)
    theirs = contrib.muon(rate, eps=1e-7, adam_b1=0.8, adam_b2=0.99, adam_learning_rate=lambda s: 0.3 * rate(s),
                          muon_weight_dimension_numbers=lambda p: jax.tree.map(kernels, p))  # fmt: skip
    ours = muon(rate, lambda s: 0.3 * rate(s), 0.8, 0.99, 1e-7)
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}
    states = [each.init(params) for each in (theirs, ours)]
    updates = [jax.jit(each.update) for each in (theirs, ours)]
    with parallel.compiling_for(platform):
        for _ in range(4):
            grads = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}
            (expected, states[0]), (made, states[1]) = (
                u(grads, s, params) for u, s in zip(updates, states, strict=True)
            )
            for name in SHAPES:
                np.testing.assert_allclose(made[name], expected[name], rtol=1e-4, atol=1e-4, err_msg=name)
    assert [path for path, _ in jax.tree.leaves_with_path(states[0])] == [
        path for path, _ in jax.tree.leaves_with_path(states[1])
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *states)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("decades", [2, 4, 8])
def test_singular_values_follow_the_polynomial_even_if_they_span_decades(platform, decades):
    m, n = 24, 40
    rng = np.random.default_rng(decades)
    u, v = (np.linalg.qr(rng.normal(size=(size, m)))[0] for size in (m, n))
    values = np.logspace(0, -decades, m)
    with parallel.compiling_for(platform):
        (made,) = orthogonal([jnp.asarray((u * values) @ v.T, jnp.float32)])
    values /= np.linalg.norm(values)
    a, b, c = COEFFICIENTS
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    assert np.linalg.norm(made - (u * values) @ v.T, 2) < 2e-3


def test_a_gradient_of_zero_gives_a_step_of_zero():
    for made in orthogonal([jnp.zeros((3, 4)), jnp.zeros((5, 3))]):
        np.testing.assert_array_equal(made, 0)

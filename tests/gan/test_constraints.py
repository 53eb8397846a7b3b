"""Clipping bounds everything; the spectral value is that of an exact decomposition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.gan import constraints
from gen_jax.method import UserError

RNG = np.random.default_rng(0)
PARAMS = {
    "conv": {"kernel": RNG.normal(size=(3, 3, 4, 5)).astype(np.float32), "bias": np.ones(5, np.float32)},
    "dense": {"kernel": RNG.normal(size=(7, 1)).astype(np.float32)},
    "embed": {"embedding": RNG.normal(size=(10, 6)).astype(np.float32)},
}


def largest(kernel):
    return np.linalg.svd(np.float64(kernel).reshape(-1, kernel.shape[-1]), compute_uv=False)[0]


def test_clipping_bounds_kernels_and_biases():
    params = constraints.clipped(0.01).project(PARAMS)
    assert max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(params)) <= np.float32(0.01)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, PARAMS)


def test_power_iteration_reaches_the_largest_singular_value():
    spectral = constraints.spectral()
    vectors, advance = spectral.init(jax.random.key(0), PARAMS), jax.jit(spectral.advance)
    for _ in range(50):  # one a step
        vectors = advance(PARAMS, vectors)
    weights = jax.jit(spectral.weights)(PARAMS, vectors)
    for of, leaf in (("conv", "kernel"), ("dense", "kernel"), ("embed", "embedding")):
        assert largest(np.asarray(weights[of][leaf])) == pytest.approx(1, abs=1e-3)
    np.testing.assert_array_equal(weights["conv"]["bias"], PARAMS["conv"]["bias"])


def test_spectral_norms_are_those_of_an_exact_decomposition():
    norms = jax.jit(constraints.spectral_norms)(PARAMS)
    kernels = {"conv/kernel": PARAMS["conv"]["kernel"], "dense/kernel": PARAMS["dense"]["kernel"]}
    kernels["embed/embedding"] = PARAMS["embed"]["embedding"]
    assert norms.keys() == kernels.keys()
    for name, norm in norms.items():
        assert float(norm) == pytest.approx(largest(kernels[name]), rel=1e-3)
        assert float(norm) <= largest(kernels[name]) * (1 + 1e-5)


def test_power_iteration_follows_weights_that_move():
    spectral, params = constraints.spectral(), PARAMS
    vectors, advance = spectral.init(jax.random.key(0), params), jax.jit(spectral.advance)
    for step in range(200):
        moved = RNG.normal(size=(3, 3, 4, 5)).astype(np.float32) * 1e-3
        params = params | {"conv": {"kernel": params["conv"]["kernel"] + moved, "bias": params["conv"]["bias"]}}
        vectors = advance(params, vectors)
        if step > 100:
            value = constraints.singular_value(params["conv"]["kernel"], vectors["conv/kernel"])
            assert float(value) == pytest.approx(largest(params["conv"]["kernel"]), rel=1e-3)


def test_the_gradient_flows_through_the_weight_and_the_vectors_stand_still():
    # d sigma / dW = v u', the exact gradient of a simple singular value: with it, d (W / sigma) is known.
    spectral = constraints.spectral()
    kernel = RNG.normal(size=(6, 4)).astype(np.float32)
    params, cotangent = {"kernel": kernel}, RNG.normal(size=(6, 4)).astype(np.float32)
    vectors = spectral.init(jax.random.key(0), params)
    advance = jax.jit(spectral.advance)
    for _ in range(100):
        vectors = advance(params, vectors)
    slope = jax.jit(jax.grad(lambda p: jnp.sum(cotangent * spectral.weights(p, vectors)["kernel"])))(params)["kernel"]
    left, values, right = np.linalg.svd(np.float64(kernel))
    outer = np.outer(left[:, 0], right[0])
    expected = cotangent / values[0] - np.sum(cotangent * kernel) / values[0] ** 2 * outer
    np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-4)


def test_refusals():
    for bound in (0.0, -0.1, float("nan")):
        with pytest.raises(UserError, match=rf"config\.gan\.constraint\.bound is {bound}"):
            constraints.clipped(bound)

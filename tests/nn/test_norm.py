"""Norms against float64 numpy, with and without a condition; gradients by finite differences."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from flax import linen

from gen_jax import parallel
from gen_jax.nn.norm import BatchNorm, GroupNorm, RMSNorm

RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, (2, 3, 5, 8)).astype(np.float32)
SCALE, SHIFT = RNG.normal(size=(2, 2, 8)).astype(np.float32)
GAIN, BIAS = RNG.normal(size=(2, 8)).astype(np.float32)


def group_norm(x, groups):
    x = np.float64(x).reshape(2, 15, groups, -1)
    return ((x - x.mean((1, 3), keepdims=True)) / np.sqrt(x.var((1, 3), keepdims=True) + 1e-6)).reshape(X.shape)


def rms_norm(x):
    return np.float64(x) / np.sqrt(np.square(np.float64(x)).mean(-1, keepdims=True) + 1e-6)


def film(y):
    return y * (1 + SCALE[:, None, None]) + SHIFT[:, None, None]


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_group_norm_is_the_definition(groups):
    params = {"params": {"scale": GAIN, "bias": BIAS}}
    expected = group_norm(X, groups) * GAIN + BIAS
    layer = GroupNorm(groups)
    np.testing.assert_allclose(layer.apply(params, X), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(layer.apply(params, X, SCALE, SHIFT), film(expected), rtol=1e-4, atol=2e-4)


def test_group_norm_has_the_parameters_and_values_of_flax():
    ours, theirs = GroupNorm(4), linen.GroupNorm(4)
    params = theirs.init(jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, ours.init(jax.random.key(0), X))
    np.testing.assert_allclose(ours.apply(params, X), theirs.apply(params, X), atol=1e-5)


def test_group_norm_refuses_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="8 channels"):
        GroupNorm(3).init(jax.random.key(0), X)


def test_rms_norm_is_the_definition():
    params = {"params": {"scale": GAIN}}
    expected = rms_norm(X) * GAIN
    np.testing.assert_allclose(RMSNorm().apply(params, X), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(RMSNorm().apply(params, X, SCALE, SHIFT), film(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [GroupNorm(4), RMSNorm()])
def test_half_precision_in_and_out_statistics_in_single(layer):
    x = jnp.asarray(X, jnp.bfloat16)
    params = layer.init(jax.random.key(0), x)
    y = layer.apply(params, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), layer.apply(params, x.astype(jnp.float32)), atol=0.04)


@pytest.mark.parametrize("layer", [GroupNorm(4), BatchNorm()], ids=["group", "batch"])
@pytest.mark.parametrize("mean", [3, 10, 30])
def test_half_precision_keeps_its_digits_where_the_mean_is_large(layer, mean):
    x = jnp.asarray(np.random.default_rng(1).normal(mean, 1, (8, 6, 6, 8)), jnp.bfloat16)
    wide, axes = np.float64(x).reshape(8, 36, 4, 2), (1, 3)
    if isinstance(layer, BatchNorm):
        wide, axes = np.float64(x).reshape(288, 8), (0,)
    more = {"train": True} if isinstance(layer, BatchNorm) else {}
    y, _ = layer.init_with_output(jax.random.key(0), x, **more)
    exact = (wide - wide.mean(axes, keepdims=True)) / wide.std(axes, keepdims=True)
    # A result near 1 is rounded to eight binary digits: 2^-9 at most, and less on average.
    error = np.float64(y).reshape(exact.shape) - exact
    assert np.sqrt(np.mean(error**2)) < 2**-9


@pytest.mark.parametrize("layer", [GroupNorm(4), RMSNorm()])
def test_gradient_agrees_with_differences(layer):
    params = layer.init(jax.random.key(0), X)
    apply = jax.jit(lambda x: layer.apply(params, x, SCALE, SHIFT))
    jax.test_util.check_grads(apply, (X,), order=1, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("layer", [GroupNorm(4), RMSNorm()])
def test_finite_with_finite_gradient_on_constants(layer):
    x = jnp.zeros((1, 2, 2, 8))
    params = layer.init(jax.random.key(0), x)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: layer.apply(params, x).sum()))(x)
    assert np.isfinite(value)
    assert np.isfinite(np.asarray(gradient)).all()


def test_batch_norm_is_the_definition_and_keeps_running_averages():
    params = {"params": {"scale": GAIN, "bias": BIAS}, "batch_stats": {"mean": np.ones(8), "var": np.full(8, 2.0)}}
    x = np.float64(X)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = (x - mean) / np.sqrt(var + 1e-5) * GAIN + BIAS
    layer = BatchNorm(momentum=0.9)
    y, updates = layer.apply(params, X, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.9 + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 * 2 + 0.1 * var, rtol=1e-5)
    np.testing.assert_allclose(layer.apply(params, X, SCALE, SHIFT, train=True), film(expected), rtol=1e-4, atol=1e-4)
    running = (x - 1) / np.sqrt(2 + 1e-5) * GAIN + BIAS
    np.testing.assert_allclose(layer.apply(params, X, train=False), running, rtol=1e-4, atol=1e-5)


def test_batch_norm_has_the_parameters_and_values_of_flax():
    theirs = linen.BatchNorm(use_running_average=False, momentum=0.9)
    variables = theirs.init(jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
        jnp.shape, BatchNorm().init(jax.random.key(0), X, train=True)
    )
    expected, _ = theirs.apply(variables, X, mutable=["batch_stats"])
    np.testing.assert_allclose(BatchNorm().apply(variables, X, train=True), expected, atol=1e-5)


def test_batch_norm_takes_the_global_batch_over_a_device_axis():
    x = RNG.normal(3, 2, (8, 2, 4)).astype(np.float32)  # 8 devices, 2 examples each
    variables = BatchNorm().init(jax.random.key(0), x[0], train=True)

    def loss(variables, x):
        y, updates = BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])
        return jnp.mean(jnp.sin(y)), updates

    whole = jax.grad(loss, has_aux=True)(variables, x.reshape(16, 4))

    def on_device(x):
        grads, updates = jax.grad(loss, has_aux=True)(variables, x)
        return parallel.mean_over_devices(grads), updates

    split = jax.pmap(on_device, parallel.AXIS, out_axes=None)(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), split, whole)

"""Shuffles invert each other; blocks start as identity, and every condition reaches the output."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.nn.blocks import (
    AttentionBlock,
    ResidualBlock,
    depth_to_space,
    space_to_depth,
    upsample_nearest,
)
from gen_jax.nn.norm import GroupNorm, RMSNorm

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 4, 6, 8)).astype(np.float32)
CONDITION = RNG.normal(size=(2, 5)).astype(np.float32)
NORMS = [functools.partial(GroupNorm, num_groups=4), RMSNorm]


def test_space_to_depth_puts_the_pixels_of_a_patch_row_by_row_into_channels():
    y = space_to_depth(jnp.asarray(X), 2)
    assert y.shape == (2, 2, 3, 32)
    np.testing.assert_array_equal(y[1, 1, 2].reshape(2, 2, 8), X[1, 2:4, 4:6])


def test_depth_to_space_inverts_space_to_depth():
    np.testing.assert_array_equal(depth_to_space(space_to_depth(jnp.asarray(X), 2), 2), X)


def test_upsample_nearest_repeats_every_pixel():
    np.testing.assert_array_equal(upsample_nearest(jnp.asarray(X)), np.kron(X, np.ones((1, 2, 2, 1))))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("film", [False, True])
def test_residual_block_starts_as_its_shortcut(norm, film):
    block = ResidualBlock(8, norm, film)
    params = block.init(jax.random.key(0), X, CONDITION)
    np.testing.assert_allclose(block.apply(params, X, CONDITION), X, atol=1e-3)


@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize("features", [8, 16])
def test_condition_reaches_only_its_own_example(film, features):
    block = ResidualBlock(features, NORMS[0], film)
    init, apply = jax.jit(block.init), jax.jit(block.apply)
    params = jax.tree.map(lambda p: np.asarray(p) + np.float32(0.1), init(jax.random.key(0), X, CONDITION))
    one, other = (np.asarray(apply(params, X, c)) for c in (CONDITION, CONDITION + np.array([[0.0], [1.0]])))
    np.testing.assert_array_equal(one[0], other[0])
    assert abs(one[1] - other[1]).max() > 1e-3


def test_residual_block_works_without_a_condition():
    block = ResidualBlock(8, RMSNorm)
    params = block.init(jax.random.key(0), X)
    assert "condition" not in params["params"]
    assert block.apply(params, X).shape == X.shape


def test_first_convolution_has_a_bias_only_where_asked():
    shapes = [ResidualBlock(8, RMSNorm, use_bias=b).init(jax.random.key(0), X)["params"]["conv_0"] for b in (0, 1)]
    assert ["bias" in s for s in shapes] == [False, True]


def test_an_attention_block_starts_as_identity():
    block = AttentionBlock(RMSNorm, num_heads=2)
    params = block.init(jax.random.key(0), X)
    np.testing.assert_allclose(block.apply(params, X), X, atol=1e-3)

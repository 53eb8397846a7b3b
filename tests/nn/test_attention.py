"""Self-attention against float64 numpy, its biases, and that it knows no order."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.nn.attention import SelfAttention

X = np.random.default_rng(0).normal(size=(2, 3, 4, 8)).astype(np.float32)


def attention(x, params, heads):
    """One head after the other, in float64."""
    tokens = np.float64(x).reshape(2, 12, 8)
    qkv = tokens @ np.float64(params["qkv"]["kernel"]) + params["qkv"].get("bias", 0)
    q, k, v = np.split(qkv, 3, axis=-1)
    out = []
    for i in range(heads):
        part = slice(i * 8 // heads, (i + 1) * 8 // heads)
        query, key = q[..., part], k[..., part]
        if "query_norm" in params:
            query = query / np.sqrt((query**2).mean(-1, keepdims=True) + 1e-6) * params["query_norm"]["scale"]
            key = key / np.sqrt((key**2).mean(-1, keepdims=True) + 1e-6) * params["key_norm"]["scale"]
        logits = query @ key.swapaxes(1, 2) / np.sqrt(8 / heads)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        out.append(weights / weights.sum(-1, keepdims=True) @ v[..., part])
    mixed = np.concatenate(out, axis=-1) @ np.float64(params["out"]["kernel"]) + params["out"]["bias"]
    return mixed.reshape(x.shape)


@pytest.mark.parametrize(("heads", "bias", "norm"), [(1, True, False), (2, False, True), (4, True, True)])
def test_is_the_definition_head_by_head(heads, bias, norm):
    layer = SelfAttention(heads, bias, norm)
    params = jax.jit(layer.init)(jax.random.key(0), X)["params"]
    assert ("bias" in params["qkv"]) == bias
    assert ("query_norm" in params, "key_norm" in params) == (norm, norm)
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda p: np.asarray(p) + rng.normal(0.1, 0.1, p.shape).astype(np.float32), params)
    np.testing.assert_allclose(jax.jit(layer.apply)({"params": params}, X), attention(X, params, heads), atol=1e-5)


def test_positions_have_no_order():
    layer = SelfAttention(2)
    params, apply = jax.jit(layer.init)(jax.random.key(0), X), jax.jit(layer.apply)
    order = np.random.default_rng(1).permutation(12)
    tokens = X.reshape(2, 12, 8)
    np.testing.assert_allclose(apply(params, tokens[:, order]), np.asarray(apply(params, tokens))[:, order], atol=1e-5)


def test_query_key_and_value_start_like_three_separate_layers():
    """One uniform kernel of [C, 3C] by the mean of the fans would have sqrt(1/2) of the deviation of [C, C]."""
    channels = 128
    layer = SelfAttention(kernel_init=nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"))
    params = jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 2, 2, channels)))["params"]
    query, key, value = np.split(params["qkv"]["kernel"], 3, axis=-1)
    for kernel in (query, key, value):
        assert kernel.std() == pytest.approx(channels**-0.5, rel=0.02)
        assert np.abs(kernel).max() == pytest.approx((3 / channels) ** 0.5, rel=1e-3)
    assert abs(np.corrcoef(query.ravel(), key.ravel())[0, 1]) < 0.03


def test_refuses_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="8 channels"):
        SelfAttention(3).init(jax.random.key(0), jnp.zeros((1, 4, 8)))

"""Forward-mode derivatives of all layers of the diffusion networks, in float64, against finite differences.

The hand-written gradients of the layers (`nn.conv`, `nn.rows`) are rules for the forward mode, from which JAX derives
the reverse mode: both are tried, in the forms for CPUs and in those for other devices.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import parallel
from gen_jax.diffusion.dit import DiT
from gen_jax.diffusion.unet import UNet
from gen_jax.nn import blocks, conv, norm, rows

NETWORKS = {
    # Every layer of the U-Net: both norms, FiLM or addition, both resamplings, attention at a level and in the middle,
    # a patch, padding (7x6), biases, one channel (whose last convolution has a form of its own) and five.
    "paper": UNet(1, 4, (1, 2), 1, (4,), 2, 1, "group", 2, False, False, True, num_classes=3, dtype=np.float64),
    "fast": UNet(5, 4, (1, 2), 1, (), 1, 2, "rms", 2, True, True, False, num_classes=3, dtype=np.float64),
    "dit": DiT(1, 4, 8, 2, 2, 2, num_classes=3, dtype=np.float64),
    "dit with biases": DiT(1, 2, 8, 1, 1, 2, False, True, num_classes=3, dtype=np.float64),
}
CHANNELS = {"fast": 5}
LABEL = jnp.array([0, -1])


@pytest.fixture(params=["cpu", "tpu"])
def wide(request, monkeypatch):
    """Computes all in float64, also where the layers ask for float32; traced for this kind of device."""
    monkeypatch.setattr(jnp, "float32", np.float64)
    monkeypatch.setattr(parallel, "on_cpu", lambda: request.param == "cpu")
    with jax.enable_x64(True):
        yield


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def filled(shapes, seed=1):
    """Random weights: those of the start are zero where it matters."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape)), shapes)


def assert_slope(function, point, direction, h=1e-5):
    """The forward-mode derivative is the central difference, to the error of that: O(h^2) and rounding / h."""
    found = jax.jvp(function, point, direction)[1]
    ahead, behind = (
        function(*(x + sign * h * dx for x, dx in zip(point, direction, strict=True))) for sign in (1, -1)
    )
    assert found.dtype == np.float64
    expected = (ahead - behind) / (2 * h)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-7 * np.abs(expected).max(), rtol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_along_x_time_and_span_at_once(name, wide):
    network, channels = NETWORKS[name], CHANNELS.get(name, 1)
    x, t, span = normal(0, 2, 7, 6, channels), jnp.array([3.0, 8.5]), jnp.array([1.0, 6.0])
    params = filled(jax.eval_shape(network.init, jax.random.key(0), x, t, span, label=LABEL))
    point, direction = (x, t, span), (normal(2, *x.shape), jnp.array([1.0, 0.5]), jnp.array([1.0, -0.25]))
    assert_slope(lambda *point: network.apply(params, *point, label=LABEL), point, direction)


LAYERS = {
    "conv": lambda x, w: conv.conv(x, w),
    "strided": lambda x, w: conv.conv(x, w, (2, 2)),
    "strided, uneven padding": lambda x, w: conv.conv(x, w, (2, 2), ((0, 1), (2, 0))),
    "grouped": lambda x, w: conv.conv(x, w[:, :, :2], groups=2),
    "to an image": lambda x, w: conv.conv(x, w[..., :1]),
    "transposed": lambda x, w: conv.conv_transpose(x, w, (2, 2)),
    "transposed to an image": lambda x, w: conv.conv_transpose(x, w[..., :3], (2, 2)),
    "sum of rows": lambda x, w: rows.sum_of_rows(x**2) * w.sum(),
    "spread": lambda x, w: x**2 * rows.spread(w[0, 0, 0, :4] ** 2, x.shape),
    "resampled": lambda x, w: blocks.depth_to_space(blocks.space_to_depth(x**2, 2) * w.mean(), 2),
    "group norm": lambda x, w: norm.GroupNorm(2).apply(_gains(4), x, w[0, 0, :2], w[0, 1, :2]),
    "rms norm": lambda x, w: norm.RMSNorm().apply(_gains(4, bias=False), x, w[0, 0, :2], w[0, 1, :2]),
    "layer norm": lambda x, w: norm.LayerNorm().apply({}, x, w[0, 0, :2], w[0, 1, :2]),
}


def _gains(channels, bias=True):
    gains = {"scale": 1 + 0.1 * jnp.arange(channels)}
    return {"params": gains | ({"bias": 0.1 * jnp.arange(channels)} if bias else {})}


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_along_their_input_and_their_weights(layer, wide):
    """And the reverse mode over the forward mode, by which what a loss has of a derivative would be trained."""
    function, x, w = LAYERS[layer], normal(3, 2, 6, 4, 4), normal(4, 3, 3, 4, 4)
    dx, dw = normal(5, *x.shape), normal(6, *w.shape)
    assert_slope(function, (x, w), (dx, dw))
    assert_slope(lambda x: function(x, w), (x,), (dx,))
    for other in ((x,), (w,)):
        with contextlib.suppress(AssertionError) if layer in LINEAR else contextlib.nullcontext():
            assert other

    def slope(x):
        return jnp.sum(jnp.sin(jax.jvp(lambda x: function(x, w), (x,), (dx,))[1]) * 0.1)

    found = jnp.vdot(jax.grad(slope)(x), dx)
    h = 1e-5
    np.testing.assert_allclose(found, (slope(x + h * dx) - slope(x - h * dx)) / (2 * h), rtol=1e-5, atol=1e-7)


LINEAR: set[str] = set()

"""Forward-mode derivatives of all layers of the diffusion networks, in float64, against finite differences.

The hand-written gradients of the layers (`nn.conv`, `nn.rows`) are rules for the forward mode, from which JAX derives
the reverse mode. They are tried in the forms for CPUs and in those for other devices.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion.wide import float64

from gen_jax import parallel
from gen_jax.diffusion.dit import DiT
from gen_jax.diffusion.unet import UNet
from gen_jax.nn import blocks, conv, norm, rows

H = 1e-5  # of the differences, whose error is O(H^2) and rounding / H


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def assert_slopes(function, point, direction):
    """The forward-mode derivative of every output is its central difference."""

    def all_at_once(point, direction):
        moved = (jax.tree.map(lambda x, dx, h=h: x + h * dx, point, direction) for h in (H, -H))
        ahead, behind = (function(*each) for each in moved)
        return jax.jvp(function, point, direction)[1], jax.tree.map(lambda a, b: (a - b) / (2 * H), ahead, behind)

    found, expected = jax.jit(all_at_once)(point, direction)
    for (path, slope), difference in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        name, size = jax.tree_util.keystr(path), np.abs(difference).max()
        assert slope.dtype == np.float64, name
        assert size > 1e-3, name
        np.testing.assert_allclose(slope, difference, atol=1e-7 * size, rtol=1e-6, err_msg=name)


NETWORKS = {
    # Every layer of the U-Net: both norms, FiLM or addition, both resamplings, attention at a level and in the middle,
    # with normalised queries and keys and without, a patch, padding (of 7x6), biases; one channel, whose last
    # convolution has a form of its own, and five.
    "paper": (UNet(1, 4, (1, 2), 1, (4,), 2, 1, "group", 2, False, False, True, num_classes=3, dtype=np.float64), 1),
    "fast": (UNet(5, 4, (1, 2), 1, (), 1, 2, "rms", 2, True, True, False, 0.0, 3, np.float64, True), 5),
    "dit": (DiT(1, 4, 8, 1, 2, 2, num_classes=3, dtype=np.float64), 1),
    "dit, paper": (DiT(1, 4, 8, 1, 2, 2, False, True, num_classes=3, dtype=np.float64), 1),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] * n.endswith("paper")) for n in NETWORKS])
def test_networks_along_x_time_and_span_at_once(name, monkeypatch):
    monkeypatch.setattr(parallel, "on_cpu", lambda: True)
    network, channels = NETWORKS[name]
    label = jnp.array([0, -1])
    with float64():
        x, t, span = normal(0, 2, 7, 6, channels), jnp.array([3.0, 8.5]), jnp.array([1.0, 6.0])
        shapes = jax.eval_shape(network.init, jax.random.key(0), x, t, span, label=label)
        rng = np.random.default_rng(1)  # at the start, zeros would hide what lies behind them
        params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape)), shapes)
        direction = normal(2, *x.shape), jnp.array([1.0, 0.5]), jnp.array([1.0, -0.25])
        assert_slopes(lambda *point: network.apply(params, *point, label=label), (x, t, span), direction)


GAINS = {"scale": np.linspace(0.5, 1.5, 4), "bias": np.linspace(-1, 1, 4)}
LAYERS = {
    "conv": conv.conv,
    "strided": lambda x, w: conv.conv(x, w, (2, 2)),
    "strided, uneven padding": lambda x, w: conv.conv(x, w, (2, 2), ((0, 1), (2, 0))),
    "grouped": lambda x, w: conv.conv(x, w[:, :, :2], groups=2),
    "to an image": lambda x, w: conv.conv(x, w[..., :1]),
    "transposed": lambda x, w: conv.conv_transpose(x, w, (2, 2)),
    "transposed to an image": lambda x, w: conv.conv_transpose(x, w[..., :3], (2, 2)),
    "sum of rows": lambda x, w: rows.sum_of_rows(x**2) * w[0, 0, 0],
    "spread": lambda x, w: x**2 * rows.spread(w[0, 0, 0] ** 2, x.shape),
    "shuffled": lambda x, w: blocks.depth_to_space(blocks.space_to_depth(x**2, 2) * w[0, 0, 0, 0], 2),
    "repeated": lambda x, w: blocks.upsample_nearest(x**2) * w[0, 0, 0],
    "group norm": lambda x, w: norm.GroupNorm(2).apply({"params": GAINS}, x, w[0, 0, :2], w[0, 1, :2]),
    "rms norm": lambda x, w: norm.RMSNorm().apply({"params": {"scale": GAINS["scale"]}}, x, w[0, 0, :2], w[0, 1, :2]),
    "layer norm": lambda x, w: norm.LayerNorm().apply({}, x, w[0, 0, :2], w[0, 1, :2]),
}


def all_layers(x, w):
    return {name: jnp.asarray(layer(x, w)) for name, layer in LAYERS.items()}


@pytest.mark.parametrize("device", ["cpu", "tpu"])
def test_layers_along_their_input_and_their_weights(device, monkeypatch):
    monkeypatch.setattr(parallel, "on_cpu", lambda: device == "cpu")
    with float64():
        x, w = normal(3, 2, 6, 4, 4), normal(4, 3, 3, 4, 4)
        dx, dw = normal(5, *x.shape), normal(6, *w.shape)
        assert_slopes(all_layers, (x, w), (dx, dw))

        def summed(x):
            slopes = jax.jvp(all_layers, (x, w), (dx, dw))[1]
            return sum(jnp.sum(jnp.sin(slope)) for slope in slopes.values())

        assert_slopes(jax.grad(summed), (x,), (dx,))  # the reverse mode of the forward mode

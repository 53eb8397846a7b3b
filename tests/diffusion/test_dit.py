"""The diffusion transformer: published sizes, start, tokens in their places, condition, padding, half precision."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu.parameter_overview import count_parameters

from gen_jax.diffusion.dit import SIZES, DiT
from gen_jax.method import UserError

TINY = {"out_channels": 1, "patch": 2, "width": 16, "depth": 2, "num_heads": 2}
X_T = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 1)), jnp.float32)
TIME = jnp.array([3.0, 999.0])


@functools.cache
def network(**fields):
    """Returns a compiled `apply`, and random parameters: at the start, zeros would hide what lies behind them."""
    net, rng = DiT(**TINY, **fields), np.random.default_rng(1)

    def draw(path, leaf):
        return np.float32(jax.tree_util.keystr(path).endswith("['scale']") + 0.2 * rng.normal(size=leaf.shape))

    label = jnp.zeros(2, jnp.int32) if fields.get("num_classes") else None
    shapes = jax.eval_shape(functools.partial(net.init, label=label), jax.random.key(0), X_T, TIME)
    return jax.jit(net.apply), jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize(
    ("size", "patch", "expected"),
    [
        ("XL", 2, 675_129_632),  # as the released code prints it, with 1152 * 256 numbers of its fixed positions
        ("B", 2, None),
        ("S", 2, None),
        ("L", 4, None),
    ],
)
def test_published_sizes_have_their_number_of_parameters(size, patch, expected):
    """Counted from the paper: latents of 32x32x4, noise and variance as output, 1000 classes and none."""
    fields = SIZES[size] | {"patch": patch, "qk_norm": False, "qkv_bias": True, "num_classes": 1001}
    x, label = jnp.zeros((1, 32, 32, 4)), jnp.zeros(1, jnp.int32)
    init = functools.partial(DiT(out_channels=8, **fields).init, label=label)
    counted = count_parameters(jax.eval_shape(init, jax.random.key(0), x, jnp.zeros(1)))
    d, depth = SIZES[size]["width"], SIZES[size]["depth"]
    block = (3 * d * d + 3 * d) + (d * d + d) + (4 * d * d + 4 * d) + (4 * d * d + d) + (6 * d * d + 6 * d)
    ends = (4 * patch**2 * d + d) + (256 * d + d) + (d * d + d) + 1001 * d
    ends += (2 * d * d + 2 * d) + (d + 1) * 8 * patch**2
    assert counted == depth * block + ends
    if expected:
        assert counted + (32 // patch) ** 2 * d == expected


def test_starts_with_a_prediction_of_zero_and_blocks_that_do_nothing():
    net = DiT(**TINY)
    params = jax.jit(net.init)(jax.random.key(0), X_T, TIME)["params"]
    assert not np.any(jax.jit(net.apply)({"params": params}, X_T, TIME))
    for name in ("block_0", "block_1"):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(params[name]["modulation"]))


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 1)])
def test_prediction_has_the_shape_of_the_image_whatever_its_size(size):
    x_t = jnp.ones((2, *size, 1))
    out, _ = jax.eval_shape(DiT(**TINY).init_with_output, jax.random.key(0), x_t, TIME)
    assert (out.shape, out.dtype) == (x_t.shape, jnp.float32)


def test_examples_do_not_see_each_other_and_time_matters():
    apply, params = network()
    out = apply(params, X_T, TIME)
    np.testing.assert_allclose(apply(params, X_T.at[1].add(1), TIME.at[1].add(-100))[0], out[0], atol=1e-5)
    assert np.abs(apply(params, X_T, TIME.at[1].add(-100))[1] - out[1]).max() > 1e-3


def test_every_pixel_sees_every_other_and_knows_its_place():
    apply, params = network()
    out = apply(params, X_T, TIME)
    assert np.abs(apply(params, X_T.at[0, 0, 0].add(1), TIME) - out)[0].min(-1).min() > 0
    rolled = apply(params, jnp.roll(X_T, 2, axis=2), TIME)  # by one token
    assert np.abs(rolled - jnp.roll(out, 2, axis=2)).max() > 1e-2


def test_the_label_matters_and_one_outside_the_classes_means_none():
    apply, params = network(num_classes=3)
    none = apply(params, X_T, TIME)
    for outside in (-1, 3):
        np.testing.assert_allclose(apply(params, X_T, TIME, label=jnp.full(2, outside)), none, atol=1e-6)
    assert np.abs(apply(params, X_T, TIME, label=jnp.array([0, 1])) - none).reshape(2, -1).max(1).min() > 1e-2


def test_half_precision_computes_in_it_and_stays_near():
    apply, params = network()
    half, _ = network(dtype=jnp.bfloat16)
    out = half(params, X_T, TIME)
    assert out.dtype == jnp.float32
    exact = apply(params, X_T, TIME)
    assert 0 < np.abs(out - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 18}, "width is 18; use a multiple of 4"),
        ({"num_heads": 3}, "num_heads, 3"),
        ({"patch": 0}, "patch is 0"),
        ({"depth": 0}, "depth is 0"),
    ],
)
def test_refuses_fields_that_no_network_can_have(fields, message):
    with pytest.raises(UserError, match=message):
        DiT(**TINY | fields).init(jax.random.key(0), X_T, TIME)


def test_refuses_a_label_without_classes():
    with pytest.raises(UserError, match="num_classes"):
        DiT(**TINY).init(jax.random.key(0), X_T, TIME, label=jnp.zeros(2, jnp.int32))


def test_forward_mode_gives_the_slope():
    apply, params = network()
    direction = jnp.asarray(np.random.default_rng(2).normal(size=X_T.shape), jnp.float32)
    _, tangent = jax.jvp(lambda x: apply(params, x, TIME), (X_T,), (direction,))
    step = 1e-2
    ahead, behind = (apply(params, X_T + sign * step * direction, TIME) for sign in (1, -1))
    np.testing.assert_allclose(tangent, (ahead - behind) / (2 * step), atol=0.01 * np.abs(tangent).max())


def test_blocks_that_are_computed_again_have_the_same_parameters_and_gradients():
    _, variables = network()
    kept, again = (DiT(**TINY, remat=remat) for remat in (False, True))

    def loss(net, params):
        return jnp.mean(net.apply({"params": params}, X_T, TIME) ** 2)

    losses = [functools.partial(loss, net) for net in (kept, again)]
    jaxprs = [str(jax.make_jaxpr(each)(variables["params"])) for each in losses]
    assert [len(re.findall(r"(checkpoint|remat2)\[", text)) for text in jaxprs] == [0, TINY["depth"]]
    one, two = (jax.jit(jax.grad(each))(variables["params"]) for each in losses)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), one, two)
    shapes = [jax.eval_shape(net.init, jax.random.key(0), X_T, TIME) for net in (kept, again)]
    assert shapes[0] == shapes[1]

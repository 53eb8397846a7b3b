"""The U-Net: the paper's sizes, padding, labels, dropout, half precision, every option."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu.parameter_overview import count_parameters

from gen_jax.diffusion.unet import UNet
from gen_jax.method import UserError

TINY = {
    "out_channels": 1,
    "channels": 8,
    "multipliers": (1, 2),
    "num_blocks": 1,
    "num_groups": 4,
    "attention_sizes": (4,),
}
OURS = TINY | {"patch": 2, "norm": "rms", "film": True, "shuffle": True, "use_bias": False}
X_T = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 1)), jnp.float32)
TIME = jnp.array([3.0, 999.0])


def num_parameters(shape, **fields):
    shapes = jax.eval_shape(UNet(**fields).init, jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1))
    return count_parameters(shapes)


@functools.cache
def network(name, **fields):
    """Returns a compiled `apply`, and random parameters: at the start, zeros would hide what lies behind them."""
    net, rng = UNet(**{"paper": TINY, "ours": OURS}[name] | fields), np.random.default_rng(1)

    def draw(path, leaf):
        return np.float32(jax.tree_util.keystr(path).endswith("['scale']") + 0.1 * rng.normal(size=leaf.shape))

    params = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(net.init, jax.random.key(0), X_T, TIME))
    return jax.jit(net.apply, static_argnames="train"), params


def test_cifar10_network_of_the_paper_has_its_number_of_parameters():
    assert num_parameters((32, 32, 3)) == 35_746_307


def test_256_network_of_the_paper_has_its_number_of_parameters():
    assert num_parameters((256, 256, 3), multipliers=(1, 1, 2, 2, 4, 4)) == 113_673_219


@pytest.mark.parametrize(  # sizes of the paper's network for MNIST, counted on two independent builds
    ("channels", "multipliers", "attention_size", "expected"),
    [
        (32, (1, 2, 2), 14, 1_623_169),
        (64, (1, 2, 2), 14, 6_469_889),
        (32, (1, 2, 2, 2), 16, 2_244_609),  # padded to 32
        (64, (1, 2, 2, 2), 16, 8_949_761),
        (128, (1, 2, 2, 2), 16, 35_741_697),
    ],
)
def test_mnist_networks_of_the_paper_have_their_number_of_parameters(channels, multipliers, attention_size, expected):
    fields = {"channels": channels, "multipliers": multipliers, "attention_sizes": (attention_size,)}
    assert num_parameters((28, 28, 1), out_channels=1, **fields) == expected


@pytest.mark.parametrize("fields", [TINY, OURS])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_prediction_has_the_shape_of_the_image_whatever_its_size(fields, size):
    x_t = jnp.ones((2, *size, 1))
    out, _ = jax.eval_shape(UNet(**fields).init_with_output, jax.random.key(0), x_t, TIME)
    assert out.shape == x_t.shape
    assert out.dtype == jnp.float32


@pytest.mark.parametrize("name", ["paper", "ours"])
def test_examples_do_not_see_each_other_and_time_matters(name):
    apply, params = network(name)
    out = apply(params, X_T, TIME)
    np.testing.assert_allclose(apply(params, X_T.at[1].add(1), TIME.at[1].add(-100))[0], out[0], atol=1e-5)
    assert abs(apply(params, X_T, TIME + 100) - out).max() > 1e-3


@pytest.mark.parametrize("name", ["paper", "ours"])
def test_every_parameter_gets_a_gradient(name):
    apply, params = network(name)
    gradients = jax.device_get(jax.jit(jax.grad(lambda p: jnp.square(apply(p, X_T, TIME)).sum()))(params))
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


def test_networks_of_our_own_have_no_bias_that_a_norm_or_softmax_takes_away():
    params = jax.eval_shape(UNet(**OURS).init, jax.random.key(0), X_T, TIME)["params"]
    assert "bias" not in params["down_0_0"]["conv_0"]
    assert "bias" not in params["middle_attention"]["attention"]["qkv"]


def test_label_conditions_and_a_label_outside_the_classes_is_none():
    apply, params = network("ours", num_classes=3)
    out, mixed, none = (apply(params, X_T, TIME, label=jnp.array(label)) for label in ([1, 2], [1, -1], [-1, 3]))
    assert abs(out - none).max() > 1e-3
    np.testing.assert_allclose(mixed[0], out[0], atol=1e-5)
    np.testing.assert_allclose(mixed[1], none[1], atol=1e-5)
    np.testing.assert_allclose(apply(params, X_T, TIME), none, atol=1e-5)


def test_dropout_acts_in_training_only_and_by_index():
    apply, params = network("ours", dropout=0.5)
    rngs, index = {"dropout": jax.random.key(1)}, jnp.arange(2)
    out = apply(params, X_T, TIME, index=index, train=True, rngs=rngs)
    turned = apply(params, X_T[::-1], TIME[::-1], index=index[::-1], train=True, rngs=rngs)
    np.testing.assert_allclose(turned[::-1], out, atol=1e-5)
    plain, _ = network("ours")
    assert abs(out - plain(params, X_T, TIME)).max() > 1e-3


@pytest.mark.parametrize("name", ["paper", "ours"])
def test_half_precision_computes_near_single(name):
    single, params = network(name)
    half, _ = network(name, dtype=jnp.bfloat16)
    expected, out = single(params, X_T, TIME), half(params, X_T, TIME)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, atol=0.05 * float(jnp.abs(expected).max()))


def test_parameters_are_single_precision_whatever_the_dtype():
    shapes = jax.eval_shape(UNet(**OURS, dtype=jnp.bfloat16).init, jax.random.key(0), X_T, TIME)
    assert {p.dtype for p in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_mistakes_are_refused_in_one_line():
    with pytest.raises(UserError, match="no norm is called 'batch'; there are"):
        UNet(**TINY | {"norm": "batch"}).init(jax.random.key(0), X_T, TIME)
    with pytest.raises(UserError, match="num_classes"):
        UNet(**TINY).init(jax.random.key(0), X_T, TIME, label=jnp.array([0, 1]))


def first_kernels(**fields):
    """{place: kernel} of a network of the paper at its start; query, key and value apart."""
    net = UNet(channels=64, num_blocks=1, multipliers=(1, 2), attention_sizes=(4,), **fields)
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        place = "/".join(key.key for key in path)
        if place.endswith("qkv/kernel"):
            yield from ((f"{place}_{name}", part) for name, part in zip("qkv", np.split(leaf, 3, -1), strict=True))
        elif place.endswith("kernel"):
            yield place, leaf
        else:
            np.testing.assert_array_equal(leaf, float(place.endswith("scale")), place)  # norms at 1, biases at 0


def test_every_projection_starts_as_in_the_released_code():
    # Uniform with variance scale / ((fan_in + fan_out) / 2); a scale of 0 is 1e-10 there.
    last = 0
    for place, kernel in first_kernels():
        fan_in, fan_out = (kernel.size // kernel.shape[axis] for axis in (-1, -2))
        is_last = place.endswith(("conv_1/kernel", "attention/out/kernel")) or place == "out/kernel"
        last += is_last
        std = np.sqrt((1e-10 if is_last else 1) * 2 / (fan_in + fan_out))
        limit = std * np.sqrt(3)
        kernel = np.asarray(kernel, np.float64)
        assert kernel.std() == pytest.approx(std, rel=5 * np.sqrt(0.2 / kernel.size)), place  # 5 standard errors
        assert abs(kernel.mean()) < 5 * std / np.sqrt(kernel.size), place
        assert 0.98 * limit < np.abs(kernel).max() <= limit * (1 + 1e-6), place
    assert last == 8 + 4 + 1  # residual blocks: 2 down, 2 in the middle, 4 up; attentions: 1 down, 1, 2 up; the end


def test_blocks_that_are_computed_again_have_the_same_parameters_gradients_and_dropout():
    fields: dict[str, Any] = {"multipliers": (1,), "attention_sizes": (8,), "dropout": 0.5}
    _, variables = network("paper", **fields)

    def loss(net, params):
        rngs = {"dropout": jax.random.key(1)}
        return jnp.mean(net.apply({"params": params}, X_T, TIME, index=jnp.arange(2), train=True, rngs=rngs) ** 2)

    kept, again = (UNet(**TINY | fields, remat=remat) for remat in (False, True))
    shapes = [jax.eval_shape(net.init, jax.random.key(0), X_T, TIME) for net in (kept, again)]
    assert shapes[0] == shapes[1]
    losses = [functools.partial(loss, net) for net in (kept, again)]
    # Residual blocks: one down, two in the middle, two up; attention after each, but once in the middle.
    jaxprs = [str(jax.make_jaxpr(each)(variables["params"])) for each in losses]
    assert [len(re.findall(r"(checkpoint|remat2)\[", text)) for text in jaxprs] == [0, 9]
    (one, grads), (two, others) = (jax.jit(jax.value_and_grad(each))(variables["params"]) for each in losses)
    np.testing.assert_allclose(one, two, rtol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), grads, others)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(others))

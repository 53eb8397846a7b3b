"""Convolutions against flax.linen, XLA's own transposed convolution and loops in numpy."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import parallel
from gen_jax.nn.conv import Conv, ConvTranspose, conv, conv_transpose

STRIDES = [(1, 1), (2, 2), (3, 2)]
KERNELS = [(1, 1), (3, 2), (4, 4), (5, 5)]
PADDINGS = ["SAME", "VALID", ((2, 3), (2, 3)), ((0, 0), (1, 4)), ((-1, 2), (1, -1))]
SIZES = [(5, 4), (1, 7)]
DERIVATIVE_CASES = [
    ((2, 2), (4, 4), "SAME"),
    ((3, 2), (3, 2), "VALID"),
    ((2, 2), (5, 5), ((2, 3), (2, 3))),
    ((2, 3), (2, 2), ((-1, 2), (1, 4))),
]


def arrays(kernel, size, channels=3, features=2):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, *size, channels)), rng.normal(size=(*kernel, channels, features))
    return x.astype(np.float32), w.astype(np.float32)


def xla(x, kernel, strides, padding):
    return jax.lax.conv_transpose(x, kernel, strides, padding)


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), actual, expected)


def correlate(x, kernel, padding):
    """In float64 numpy; a negative padding crops."""
    x = np.pad(x.astype(np.float64), [(0, 0), *[(max(a, 0), max(b, 0)) for a, b in padding], (0, 0)])
    (top, bottom), (left, right) = [(max(-a, 0), max(-b, 0)) for a, b in padding]
    x = x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]
    height, width = kernel.shape[:2]
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    return sum(
        x[:, i : i + rows, j : j + columns] @ kernel[i, j].astype(np.float64)
        for i, j in itertools.product(range(height), range(width))
    )


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("strides", STRIDES)
def test_transposed_equals_xla(strides, kernel, padding):
    for size, features in zip(SIZES, (2, 5), strict=True):  # up to three features have a form of their own
        x, w = arrays(kernel, size, features=features)
        expected = jax.eval_shape(lambda x, w: xla(x, w, strides, padding), x, w).shape
        if min(expected) > 0:
            both = jax.jit(lambda x, w: [each(x, w, strides, padding) for each in (conv_transpose, xla)])
            assert_close(*both(x, w))


@pytest.mark.parametrize("padding", [((1, 2), (0, 3)), ((-1, 2), (1, -1))])
def test_transposed_equals_correlation_with_zeros_between_pixels(padding):
    x, w = arrays((3, 4), (4, 5))
    dilated = np.zeros((2, 7, 13, 3))
    dilated[:, ::2, ::3] = x
    assert_close(conv_transpose(x, w, (2, 3), padding), correlate(dilated, w, padding))


def assert_same_derivatives(operation, other, x, w):
    """Forward mode, forward over reverse, and reverse over reverse."""
    dx, dw = np.cos(x), np.cos(w)

    def derivatives(operation, x, w):
        def loss(x, w):
            return jnp.sum(jnp.sin(operation(x, w)))

        def penalty(x, w):  # as a GAN's gradient penalty: reverse over reverse
            return sum(jnp.sum(g**2) for g in jax.grad(loss, (0, 1))(x, w))

        forward = jax.jvp(operation, (x, w), (dx, dw))
        hessian = jax.jvp(jax.grad(loss, (0, 1)), (x, w), (dx, dw))  # forward over reverse
        return forward, hessian, jax.grad(penalty, (0, 1))(x, w)

    actual, expected = jax.jit(lambda x, w: [derivatives(each, x, w) for each in (operation, other)])(x, w)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * scale), actual, expected)


@pytest.mark.parametrize("features", [pytest.param(2, marks=pytest.mark.slow), 5])
@pytest.mark.parametrize(("strides", "kernel", "padding"), DERIVATIVE_CASES)
def test_transposed_has_the_derivatives_of_xla(strides, kernel, padding, features):
    x, w = arrays(kernel, (5, 4), features=features)
    assert_same_derivatives(
        lambda x, w: conv_transpose(x, w, strides, padding), lambda x, w: xla(x, w, strides, padding), x, w
    )


@pytest.mark.parametrize("size", [(5, 4), pytest.param((7, 8), marks=pytest.mark.slow)])
@pytest.mark.parametrize(("strides", "kernel", "padding"), [*DERIVATIVE_CASES, ((2, 2), (1, 1), "SAME")])
def test_strided_has_the_derivatives_of_xla(strides, kernel, padding, size):
    x, w = arrays(kernel, size, features=5)
    pads = padding
    if isinstance(padding, str):
        pads = jax.lax.padtype_to_pads(size, kernel, strides, padding)

    def plain(x, w):  # padded and cropped beforehand: see test_any_padding_is_exact_with_its_gradients
        x = jax.lax.pad(x, 0.0, [(0, 0, 0), *((before, after, 0) for before, after in pads), (0, 0, 0)])
        return jax.lax.conv_general_dilated(x, w, strides, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert_same_derivatives(lambda x, w: conv(x, w, strides, padding), plain, x, w)


@pytest.mark.parametrize("padding", [*PADDINGS, ((4, 0), (0, 5))])
@pytest.mark.parametrize("features", [1, 3])
def test_a_convolution_that_ends_in_an_image_is_the_same_correlation(features, padding):
    x, w = arrays((3, 2), (5, 4), features=features)
    pads = padding
    if isinstance(padding, str):
        pads = jax.lax.padtype_to_pads((5, 4), (3, 2), (1, 1), padding)
    assert_close(jax.jit(lambda x, w: conv(x, w, (1, 1), padding))(x, w), correlate(x, w, pads))


def test_a_convolution_that_ends_in_an_image_has_the_derivatives_of_xla():
    x, w = arrays((3, 3), (5, 4))
    plain = lambda x, w: jax.lax.conv_general_dilated(  # noqa: E731
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert_same_derivatives(conv, plain, x, w)


def test_a_convolution_that_ends_in_an_image_sums_in_single_precision():
    x, w = (jnp.asarray(each, jnp.bfloat16) for each in arrays((3, 3), (5, 4), channels=32))
    y = jax.jit(conv)(x, w)
    assert y.dtype == jnp.bfloat16
    exact = correlate(*(np.asarray(each, np.float64) for each in (x, w)), ((1, 1), (1, 1)))
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, rtol=2**-8)


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 0), ("cuda", 1)])
def test_platform_chooses_the_form_of_an_image(platform, convolutions):
    x, w = arrays((3, 3), (4, 4))
    with parallel.compiling_for(platform):
        text = jax.jit(lambda x, w: conv(x, w)).trace(x, w).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == convolutions


def test_transposed_under_vmap_of_images_and_of_kernels():
    x, w = arrays((4, 4), (3, 3))
    xs, ws = np.stack([x, 2 * x, -x]), np.stack([w, w + 1, w - 1])
    over_images = jax.jit(jax.vmap(lambda x: conv_transpose(x, w, (2, 2))))(xs)
    over_both = jax.jit(jax.vmap(lambda x, w: conv_transpose(x, w, (2, 2))))(xs, ws)
    for i in range(3):
        assert_close(over_images[i], xla(xs[i], w, (2, 2), "SAME"))
        assert_close(over_both[i], xla(xs[i], ws[i], (2, 2), "SAME"))


@pytest.mark.parametrize("operation", [conv, conv_transpose])
@pytest.mark.parametrize(("platform", "dilated"), [("cpu", False), ("cuda", True), ("tpu", True)])
def test_platform_chooses_the_form(operation, platform, dilated):
    x, w = arrays((4, 4), (4, 4), features=5)
    step = jax.jit(jax.grad(lambda x, w: jnp.sum(operation(x, w, (2, 2)) ** 2), (0, 1)))
    with parallel.compiling_for(platform):
        text = step.trace(x, w).lower(lowering_platforms=(platform,)).as_text()
    assert ("lhs_dilate = [2, 2]" in text) == dilated


def test_unknown_padding_is_refused():
    x, w = arrays((3, 3), (4, 4))
    with pytest.raises(ValueError, match="CIRCULAR"):
        conv_transpose(x, w, (2, 2), "CIRCULAR")


@pytest.mark.parametrize("padding", [((-1, 1), (0, 0)), ((3, 0), (3, 0)), ((0, 5), (-2, 1))])
def test_any_padding_is_exact_with_its_gradients(padding):
    """XLA on CPU alone reads foreign memory at the first, and in the input gradient of the second."""
    x, w = arrays((2, 4), (6, 7), features=5)  # fewer have a form of their own
    y, pullback = jax.jit(lambda x, w: jax.vjp(lambda x, w: conv(x, w, padding=padding), x, w))(x, w)
    expected = correlate(x, w, padding)
    assert_close(y, expected)
    dx, dw = pullback(jnp.asarray(expected, jnp.float32))
    for d, array, shifted in [(dx, x, lambda u: (x + u, w)), (dw, w, lambda u: (x, w + u))]:
        direction = np.random.default_rng(1).normal(size=array.shape)
        change = correlate(*shifted(direction), padding) - expected  # exact: linear in each argument
        np.testing.assert_allclose(np.sum(d * direction), np.sum(expected * change), rtol=1e-4)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 2), (0, 1))])
@pytest.mark.parametrize(("ours", "flax"), [(Conv, nn.Conv), (ConvTranspose, nn.ConvTranspose)])
def test_layers_take_the_parameters_of_flax(ours, flax, padding, use_bias):
    x, _ = arrays((3, 3), (5, 6))
    settings = {"strides": (2, 2), "padding": padding, "use_bias": use_bias, "bias_init": nn.initializers.ones}
    theirs = flax(4, (3, 3), **settings)
    y, params = jax.jit(theirs.init_with_output)(jax.random.key(0), x)
    layer = ours(4, (3, 3), **settings)
    assert_close(jax.jit(layer.init_with_output)(jax.random.key(0), x), (y, params))


@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
def test_half_precision_keeps_parameters_in_full(layer):
    init = jax.jit(layer(4, (3, 3), dtype=jnp.bfloat16).init_with_output)
    y, params = init(jax.random.key(0), jnp.ones((1, 4, 4, 2)))
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("layer", [Conv(8, (3, 3), (2, 2)), Conv(8, (1, 1)), ConvTranspose(8, (4, 4), (2, 2))])
def test_compiler_options_change_rounding_only(layer):
    x, _ = arrays((1, 1), (8, 8), channels=8)
    params = layer.init(jax.random.key(0), x)

    def step(params, x):
        return jax.value_and_grad(lambda p: jnp.mean(nn.silu(layer.apply(p, x)) ** 2))(params)

    fast = jax.jit(step, compiler_options=parallel.compiler_options())(params, x)
    plain = jax.jit(step)(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), fast, plain)


@pytest.mark.parametrize(
    ("kernel", "strides", "padding", "channels", "features", "groups"),
    [
        ((3, 3), (1, 1), "SAME", 8, 12, 2),
        ((3, 2), (2, 1), ((1, 0), (2, 1)), 6, 6, 3),
        pytest.param((3, 3), (1, 1), "SAME", 6, 6, 3, marks=pytest.mark.slow),
        pytest.param((3, 2), (2, 1), ((1, 0), (2, 1)), 8, 12, 2, marks=pytest.mark.slow),
    ],
)
def test_groups_equal_xla_s_and_so_do_their_derivatives(kernel, strides, padding, channels, features, groups):
    x, w = arrays(kernel, (5, 4), channels // groups, features)
    x = np.concatenate([x + i for i in range(groups)], axis=-1)

    def grouped_by_xla(x, w):
        return jax.lax.conv_general_dilated(
            x, w, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    assert_close(conv(x, w, strides, padding, groups), grouped_by_xla(x, w))
    assert_same_derivatives(lambda x, w: conv(x, w, strides, padding, groups), grouped_by_xla, x, w)


def test_groups_are_one_convolution_each_on_a_cpu_and_one_for_all_elsewhere():
    layer, x = Conv(8, (3, 3), groups=4), jnp.ones((1, 5, 5, 8))
    assert jax.eval_shape(layer.init, jax.random.key(0), x)["params"]["kernel"].shape == (3, 3, 2, 8)

    def count(platform):
        with parallel.compiling_for(platform):
            text = str(jax.make_jaxpr(lambda x: conv(x, jnp.ones((3, 3, 4, 32)), groups=4))(jnp.ones((1, 5, 5, 16))))
        return text.count("conv_general_dilated["), "feature_group_count=4" in text

    assert count("cpu") == (4, False)
    assert count("tpu") == (1, True)

"""The network of SRGAN: parameters by count, rectifiers, the start of sub-pixel convolutions, and its reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu import parameter_overview

from gen_jax import methods
from gen_jax.gan.convolutional import ConvDiscriminator
from gen_jax.method import UserError
from gen_jax.superres import network
from gen_jax.superres.srgan import srgan_config

X = jnp.zeros((1, 6, 6, 3))


def count(module, x):
    return parameter_overview.count_parameters(jax.eval_shape(module.init, jax.random.key(0), x)["params"])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 1_549_462),
        ({"slopes": "channel"}, 1_550_659),
        ({"conv_bias": False}, 1_547_350),
        ({"slopes": "channel", "blocks": 4}, 660_547),
        ({"slopes": "channel", "blocks": 8}, 957_251),
        # Of factor 2: one convolution to 256 channels and its slope less.
        ({"factor": 2}, 1_549_462 - (9 * 64 * 256 + 256) - 1),
    ],
)
def test_the_generator_has_the_published_number_of_parameters(fields, expected):
    assert count(network.SRResNet(**fields), X) == expected


@pytest.mark.parametrize(("side", "expected"), [(96, 23_565_505), (48, 9_409_729), (32, 6_788_289)])
def test_the_discriminator_has_the_published_number_of_parameters(side, expected):
    fields = {key: value for key, value in srgan_config().network.items() if key != "name"}
    assert count(ConvDiscriminator(**fields), jnp.zeros((1, side, side, 3))) == expected


@pytest.mark.parametrize("factor", [2, 4])
def test_the_values_that_a_pixel_becomes_start_equal(factor):
    # One block of 2x2 pixels at each doubling: the kernels of all four sub-filters are the same.
    module = network.SRResNet(factor=factor, channels=4, blocks=1)
    params = jax.jit(module.init)(jax.random.key(0), X)["params"]
    for number in range(factor // 2):
        kernel = np.asarray(params[f"up_{number}"]["kernel"]).reshape(3, 3, 4, 4, 4)  # of each sub-filter
        assert np.ptp(kernel, axis=3).max() == 0
        assert np.ptp(kernel, axis=4).min() > 0
    assert f"up_{factor // 2}" not in params


@pytest.mark.parametrize(("factor", "blocks"), [(2, 1), (4, 2)])
def test_a_pixel_is_felt_within_the_reach_and_no_further(factor, blocks):
    module = network.SRResNet(factor=factor, channels=4, blocks=blocks)
    side = 2 * module.reach + 7
    x = jax.random.uniform(jax.random.key(1), (1, side, side, 1))
    variables, apply = jax.jit(module.init)(jax.random.key(0), x), jax.jit(module.apply)
    middle = side // 2
    made, moved = (apply(variables, each) for each in (x, x.at[0, middle, middle].add(0.5)))
    rows, columns = np.nonzero(np.abs(np.asarray(moved - made))[0, ..., 0])
    for places in (rows, columns):
        furthest = max(middle - places.min() // factor, places.max() // factor - middle)
        assert module.reach - 2 <= furthest <= module.reach


def test_each_channel_has_a_slope_of_its_own_on_request():
    x = jnp.array([[-1.0, 2.0, -3.0]])
    for slopes, size in (("layer", 1), ("channel", 3)):
        module = network.PReLU(slopes)
        params = module.init(jax.random.key(0), x)["params"]
        assert params["slope"].shape == (size,)
    by_channel = {"params": {"slope": jnp.array([0.5, 0.5, 2.0])}}
    assert network.PReLU("channel").apply(by_channel, x).tolist() == [[-0.5, 2.0, -6.0]]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("network.blocks=0", "config.network.blocks is 0; it must be at least 1"),
        ("network.norm=bach", "did you mean batch?"),
        ("network.slopes=pixel", "allowed: layer, channel"),
    ],
)
def test_what_no_network_can_have_is_refused(word, line):
    config = methods.override(methods.load("srresnet_t91:tiny")[2], [f"--config.{word}"])
    with pytest.raises(UserError) as error:
        network.make(config.network, 4, jnp.float32)
    assert line in str(error.value)

"""Networks: sizes of published ones to the parameter, shapes, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu.parameter_overview import count_parameters

from gen_jax import parallel
from gen_jax.gan import layers, networks
from gen_jax.gan.convolutional import ConvDiscriminator, ConvGenerator
from gen_jax.method import UserError

CATS, CIFAR = (64, 64, 3), (32, 32, 3)
BARE = {"conv_bias": False, "end_bias": False}
BIASED = {"conv_bias": True, "end_bias": True}
SMALL = {
    "dense": {"generator_hidden": (8,), "hidden": (8,)},
    "conv": {"generator_channels": (8, 4), "channels": (4, 8)},
    "residual": {"generator_channels": (8, 4), "channels": (4, 8), "strides": (2, 1)},
    "r3gan": {"widths": (8, 4), "blocks": 1, "cardinality": 2},
}


def size_of(network, *inputs):
    return count_parameters(jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"])


@pytest.mark.parametrize(
    ("shape", "latents", "fields", "expected"),
    [
        (CATS, 128, BARE, 3_806_080),
        (CATS, 128, {**BARE, "generator_channels": (512, 256, 128), "last_stride": 4}, 3_696_384),
        (CATS, 100, {"generator_channels": (1024, 512, 256, 128)}, 12_674_819),
        (CATS, 100, {"generator_channels": (1024, 512, 256, 128), "generator_kernel": 5}, 18_871_427),
        (CIFAR, 100, {**BIASED, "num_classes": 10, "embedding_dim": 50, "generator_norm_first": False}, 3_066_679),
        (CIFAR, 100, {**BIASED, "num_classes": 10, "generator_norm_first": False}, 2_984_259),
        (
            CIFAR,
            100,
            {**BIASED, "num_classes": 10, "generator_norm_first": False, "generator_kernel": 5,
             "generator_channels": (384, 192, 96)},
            2_994_051,
        ),
    ],
)  # fmt: skip
def test_generators_are_of_the_published_sizes(shape, latents, fields, expected):
    generator = ConvGenerator(shape, **fields)
    z, label = jnp.zeros((2, latents)), jnp.zeros(2, jnp.int32) if "num_classes" in fields else None
    assert size_of(generator, z, label) == expected
    image, _ = jax.eval_shape(generator.init_with_output, jax.random.key(0), z, label)
    assert image.shape == (2, *shape)


MIRROR = {"channels": (128, 256, 512, 1024)}
SEED = {**BIASED, "num_classes": 10, "condition": "concat", "hidden": (512,), "kernel": 3, "norm_first": True}


@pytest.mark.parametrize(
    ("shape", "fields", "expected"),
    [
        (CATS, {**BARE, "norm_first": True}, 2_765_696),
        (CATS, {**BARE, "norm_first": True, "channels": (64, 128, 256)}, 675_712),
        (CATS, MIRROR, 11_036_289),
        (CATS, {**MIRROR, "kernel": 5}, 17_232_897),
        (CIFAR, {**SEED, "embedding_dim": 50}, 2_628_597),
        (CIFAR, SEED, 2_607_617),
        (
            CIFAR,
            {**BIASED, "num_outputs": 11, "kernel": 3, "channels": (16, 32, 64, 128, 256, 512),
             "strides": (2, 1, 2, 1, 2, 1), "dropout": 0.5},
            1_664_875,
        ),
    ],
)  # fmt: skip
def test_discriminators_are_of_the_published_sizes(shape, fields, expected):
    discriminator = ConvDiscriminator(**fields)
    label = jnp.zeros(2, jnp.int32) if "num_classes" in fields else None
    assert size_of(discriminator, jnp.zeros((2, *shape)), label) == expected


@pytest.mark.parametrize("upsampling", layers.UPSAMPLINGS)
@pytest.mark.parametrize("name", ["conv", "residual"])
def test_every_way_to_grow_a_picture_makes_images_and_moves_with_its_label(name, upsampling):
    config = {"name": name, "upsampling": upsampling, "generator_norm": "rms", **SMALL[name]}
    generator, _ = networks.make(config, (8, 8, 1), 3, 3, 1, jnp.float32)
    z, label = jax.random.normal(jax.random.key(1), (2, 5)), jnp.array([0, 2])
    variables = jax.jit(generator.init)(jax.random.key(0), z, label)
    apply = jax.jit(generator.apply)
    image, other = (np.asarray(apply(variables, z, labels)) for labels in (label, 2 - label))
    assert image.shape == (2, 8, 8, 1)
    assert np.abs(image).max() <= 1
    assert np.abs(image - other).max() > 1e-4


@pytest.mark.parametrize("condition", ["projection", "concat"])
@pytest.mark.parametrize("name", [name for name in networks.NETWORKS if name != "r3gan"])  # it has one condition
def test_discriminators_see_the_label_and_one_image_a_logit(name, condition):
    config = {"name": name, "condition": condition, **({"norm": "none"} if name == "conv" else {}), **SMALL[name]}
    _, discriminator = networks.make(config, (8, 8, 1), 3, 3, 1, jnp.float32)
    x, label = jax.random.normal(jax.random.key(1), (4, 8, 8, 1)), jnp.array([0, 1, 2, 0])
    variables = jax.jit(discriminator.init)(jax.random.key(0), x, label)
    apply = jax.jit(discriminator.apply)
    logits = np.asarray(apply(variables, x, label))
    assert logits.shape == (4,)
    assert np.all(np.asarray(apply(variables, x, (label + 1) % 3)) != logits)
    np.testing.assert_allclose(apply(variables, x[1:3], label[1:3]), logits[1:3], rtol=1e-4, atol=1e-6)


def test_projection_adds_the_product_with_the_label_s_vector():
    _, discriminator = networks.make({"name": "dense", "hidden": ()}, (1, 1, 2), 0, 3, 1, jnp.float32)
    x, label = jnp.array([[[[2.0, 3.0]]]]), jnp.array([1])
    params = {
        "out": {"kernel": jnp.array([[1.0], [10.0]]), "bias": jnp.array([0.5])},
        "label": {"embedding": jnp.array([[0.0, 0.0], [100.0, 1000.0], [0.0, 0.0]])},
    }
    assert discriminator.apply({"params": params}, x, label).tolist() == [2 + 30 + 0.5 + 200 + 3000]


def test_pixel_shuffle_starts_as_nearest_neighbours():
    layer = layers.Upsample(3, kernel=3, how="shuffle")
    y, _ = layer.init_with_output(jax.random.key(0), jax.random.normal(jax.random.key(1), (1, 4, 4, 2)))
    blocks = np.asarray(y).reshape(1, 4, 2, 4, 2, 3)
    np.testing.assert_allclose(blocks, np.broadcast_to(blocks[:, :, :1, :, :1], blocks.shape), rtol=1e-6)


def test_noise_belongs_to_examples():
    layer, x, rngs = layers.GaussianNoise(1.0), jnp.zeros((8, 3)), {"noise": jax.random.key(0)}
    whole = layer.apply({}, x, jnp.arange(8), train=True, rngs=rngs)
    part = layer.apply({}, x[:2], jnp.arange(3, 5), train=True, rngs=rngs)
    np.testing.assert_array_equal(whole[3:5], part)
    np.testing.assert_array_equal(layer.apply({}, x, None, train=False), x)


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"name": "cov"}, "did you mean conv"),
        ({"name": "conv", "generator_hidden": (3,)}, "not a field of network conv"),
        ({"name": "conv", "norm": "bach"}, "did you mean batch"),
        ({"name": "conv", "upsampling": "cubic"}, "allowed: transposed, nearest, shuffle"),
        ({"name": "conv", "channels": ()}, "channels is empty"),
        ({"name": "conv", "kernel": 0}, "at least 1"),
        ({"name": "conv", "activation_noise": -1.0}, "at least 0"),
    ],
)
def test_what_no_network_has_is_one_line(fields, hint):
    with pytest.raises(UserError, match=hint):
        networks.make(fields, (8, 8, 1), 0, 0, 1, jnp.float32)


def test_a_size_that_the_network_cannot_make_is_one_line():
    with pytest.raises(UserError, match="cannot generate images of 28x28.* multiples of 16"):
        size_of(ConvGenerator((28, 28, 1), generator_channels=(8, 8, 8, 8)), jnp.zeros((1, 3)))
    with pytest.raises(UserError, match="strides"):
        size_of(ConvDiscriminator(channels=(4, 8), strides=(2,)), jnp.zeros((1, 8, 8, 1)))


def test_the_deviation_of_a_batch_is_that_of_all_devices_and_its_running_average_without_a_batch():
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    layer, variables = layers.MinibatchStd(), {"batch_stats": {"std": jnp.float32(0.5)}}
    expected = np.float64(x).std(0).mean()
    whole, kept = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(whole, np.column_stack([x, np.full(16, expected)]), rtol=1e-5)
    assert float(kept["batch_stats"]["std"]) == pytest.approx(0.9 * 0.5 + 0.1 * expected)
    parts = jax.pmap(lambda x: layer.apply(variables, x, train=True), parallel.AXIS)(x.reshape(8, 2, 3))
    np.testing.assert_allclose(parts.reshape(16, 4), whole, rtol=1e-5)
    np.testing.assert_array_equal(layer.apply(variables, x, train=False)[:, 3], np.full(16, np.float32(0.5)))


def test_a_discriminator_told_of_the_deviation_gives_equal_images_another_logit_than_different_ones():
    config = {"name": "conv", "norm": "none", "minibatch_std": True, **SMALL["conv"]}
    _, discriminator = networks.make(config, (8, 8, 1), 0, 0, 1, jnp.float32)
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    variables = discriminator.init(jax.random.key(0), x)
    logits = [discriminator.apply(variables, each, train=True)[0] for each in (x, x[:1].repeat(4, 0))]
    assert abs(float(logits[0] - logits[1])) > 1e-6

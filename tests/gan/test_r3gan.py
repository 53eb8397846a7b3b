"""R3GAN: published sizes by arithmetic, blocks that start as the identity, filters against numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu.parameter_overview import count_parameters

from gen_jax import config as configs
from gen_jax import methods
from gen_jax.gan import networks, r3gan
from gen_jax.method import DataSpec, UserError, labelled

SMALL = {"name": "r3gan", "widths": (8, 4), "blocks": 1, "cardinality": 2, "embedding_dim": 5}


def pair(config, shape, classes=0):
    return networks.make(config, shape, classes, classes, 1, jnp.float32)


def shapes(network, *inputs):
    return jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]


def sizes_by_hand(widths, blocks, groups, latents, classes, channels, places, expansion=2, embedding=64):
    """Parameters of the generator and the discriminator, from the recipe."""

    def block(width):
        inner = expansion * width
        return width * inner + inner + 9 * (inner // groups) * inner + inner + inner * width

    between = sum(a * b for a, b in itertools.pairwise(widths) if a != b)  # 1x1 where widths differ
    body = blocks * sum(map(block, widths)) + between + places * widths[0]
    label = classes * embedding
    made = body + (latents + (embedding if classes else 0)) * widths[0] + label + widths[-1] * channels
    judge = body + channels * widths[-1] + widths[0] * (embedding if classes else 1) + label
    return made, judge


def test_the_networks_of_cifar10_have_the_parameters_of_the_recipe():
    block = 768 * 1536 + 1536 + 9 * 16 * 1536 + 1536 + 1536 * 768
    assert block == 2_583_552
    body = 4 * 2 * block + 16 * 768
    expected = (body + (64 + 64) * 768 + 10 * 64 + 768 * 3, body + 3 * 768 + 768 * 64 + 10 * 64)
    assert expected == (20_781_952, 20_732_800) == sizes_by_hand((768,) * 4, 2, 96, 64, 10, 3, 16)
    generator, discriminator = pair({"name": "r3gan"}, (32, 32, 3), 10)  # the defaults
    label = jnp.zeros(2, jnp.int32)
    assert count_parameters(shapes(generator, jnp.zeros((2, 64)), label)) == expected[0]
    assert count_parameters(shapes(discriminator, jnp.zeros((2, 32, 32, 3)), label)) == expected[1]


@pytest.mark.parametrize(
    ("config", "size", "channels", "classes"),
    [
        ("r3gan_mnist", 28, 1, 10),
        ("r3gan_cats:blocks", 64, 3, 0),
        ("r3gan_cifar10:full", 32, 3, 10),
    ],
)
def test_the_configs_say_how_large_their_networks_are(config, size, channels, classes):
    c = methods.load(config)[2]
    network = c.network
    places = (size // 2 ** (len(network.widths) - 1)) ** 2
    expected = sizes_by_hand(
        network.widths, network.blocks, network.cardinality, c.gan.latents, classes, channels, places
    )
    method = methods.make(c, DataSpec("x", (size, size, channels), 99, labelled("0123456789")))
    params = jax.eval_shape(method.init, jax.random.key(0), {}, {}).params
    assert tuple(count_parameters(params[name]) for name in ("generator", "discriminator")) == expected
    text = configs.file_of(config).read_text()
    assert all(f"{number:,}" in text for number in expected)


@pytest.mark.parametrize(
    ("size", "widths", "smallest"), [(28, (8, 8, 4), 7), (32, (8, 8, 8, 4), 4), (64, (8, 8, 8, 8, 4), 4)]
)
def test_pictures_of_every_size_start_from_a_basis_and_end_in_one(size, widths, smallest):
    generator, discriminator = pair({**SMALL, "widths": widths}, (size, size, 3))
    made, judge = shapes(generator, jnp.zeros((2, 6))), shapes(discriminator, jnp.zeros((2, size, size, 3)))
    assert made["basis"].shape == judge["basis"].shape == (smallest, smallest, 8)
    assert made["in"]["kernel"].shape == (6, 8)
    assert made["out"]["kernel"].shape == (4, 3)
    widened = {name: leaf["kernel"].shape for name, leaf in judge.items() if name.startswith("widen")}
    assert widened == {"widen_1": (4, 8)}  # from the stage of the image to the next; the others have one width
    image, _ = jax.eval_shape(generator.init_with_output, jax.random.key(0), jnp.zeros((2, 6)))
    assert image.shape == (2, size, size, 3)


def test_nothing_is_normalised_and_only_the_activations_have_biases():
    _, discriminator = pair(SMALL, (8, 8, 1))
    paths = jax.tree_util.tree_leaves_with_path(shapes(discriminator, jnp.zeros((2, 8, 8, 1))))
    names = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths}
    biases = {name for name in names if name.endswith("bias")}
    assert biases == {f"block_{stage}_0/{layer}/bias" for stage in (0, 1) for layer in ("in", "grouped")}
    assert all(name.endswith(("kernel", "bias", "basis")) for name in names)  # no scale of a norm


def test_every_block_starts_as_the_identity_and_moves_with_its_last_kernel():
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 8))
    block = r3gan.GroupedBlock(cardinality=4, num_blocks=8)
    y, variables = block.init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(y, x)
    slopes = jax.grad(lambda v: jnp.sum(jnp.sin(block.apply(v, x))))(variables)["params"]
    assert float(jnp.abs(slopes["out"]["kernel"]).min()) > 0  # the only one that moves in the first step
    assert float(jnp.abs(slopes["in"]["kernel"]).max()) == 0.0


def test_a_block_is_three_layers_by_hand():
    # One place, so that only the middle tap of the 3x3 kernel counts; 2 channels, 4 inside, 2 groups of 2.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 1, 1, 2))
    shaped = {"in": (2, 4), "grouped": (3, 3, 2, 4), "out": (4, 2)}
    params = {name: {"kernel": rng.normal(size=shape)} for name, shape in shaped.items()}
    for name in ("in", "grouped"):
        params[name]["bias"] = rng.normal(size=4)

    def leaky(h):
        return np.where(h > 0, h, 0.2 * h)

    h = leaky(x[0, 0, 0] @ params["in"]["kernel"] + params["in"]["bias"])
    middle = params["grouped"]["kernel"][1, 1]
    h = np.concatenate([h[:2] @ middle[:, :2], h[2:] @ middle[:, 2:]]) + params["grouped"]["bias"]
    expected = x[0, 0, 0] + leaky(h) @ params["out"]["kernel"]
    y = r3gan.GroupedBlock(cardinality=2).apply({"params": jax.tree.map(jnp.float32, params)}, jnp.float32(x))
    np.testing.assert_allclose(y[0, 0, 0], expected, rtol=1e-5)


def test_kernels_start_with_the_gain_of_their_activation_reduced_by_the_number_of_blocks():
    config = {"name": "r3gan", "widths": (64, 64), "blocks": 8, "cardinality": 4}  # 16 blocks: 16^(-1/4) is 1/2
    _, discriminator = pair(config, (8, 8, 3))
    params = jax.jit(discriminator.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    gain = np.sqrt(2 / 1.04) / 2
    block = params["block_1_3"]
    for kernel, expected in (
        (block["in"]["kernel"], gain / np.sqrt(64)),
        (block["grouped"]["kernel"], gain / np.sqrt(9 * 32)),
        (params["in"]["kernel"], 1 / np.sqrt(3)),
        (params["basis"], 1 / np.sqrt(16)),
    ):
        assert float(kernel.std()) == pytest.approx(expected, rel=4 / np.sqrt(2 * kernel.size))
        assert abs(float(kernel.mean())) < 4 * expected / np.sqrt(kernel.size)


def blurred(x):
    return np.convolve(x, [0.25, 0.5, 0.25], "same")


def test_the_filters_are_1_2_1_before_means_and_after_repetition():
    # Zeros beyond the border; 3/4 of the only row of pixels, or of two equal ones, is left of it.
    x = np.random.default_rng(0).normal(size=8)
    row = jnp.float32(x).reshape(1, 1, 8, 1)
    wide = np.asarray(r3gan.doubled(row))[0, :, :, 0]
    np.testing.assert_allclose(wide, np.tile(0.75 * blurred(np.repeat(x, 2)), (2, 1)), rtol=1e-5)
    narrow = np.asarray(r3gan.halved(jnp.repeat(row, 2, axis=1)))[0, :, :, 0]
    np.testing.assert_allclose(narrow, [0.75 * blurred(x).reshape(4, 2).mean(1)], rtol=1e-5)


def test_halving_is_the_transpose_of_doubling():
    x, y = jax.random.normal(jax.random.key(0), (1, 3, 5, 2)), jax.random.normal(jax.random.key(1), (1, 6, 10, 2))
    np.testing.assert_allclose(jnp.sum(r3gan.doubled(x) * y), 4 * jnp.sum(x * r3gan.halved(y)), rtol=1e-4)


def test_a_logit_is_the_inner_product_with_the_label_s_vector():
    discriminator = r3gan.GroupedDiscriminator(3, 1, (2,), 1, 1, 1, 4)
    x, label = jax.random.normal(jax.random.key(1), (3, 2, 2, 1)), jnp.array([2, 0, 2])
    params = discriminator.init(jax.random.key(0), x, label)["params"]
    h = np.einsum("bhwc,hwc->bc", np.asarray(x @ params["in"]["kernel"]), params["basis"])  # blocks are the identity
    expected = np.sum((h @ params["out"]["kernel"]) * params["label"]["embedding"][label], axis=-1)
    np.testing.assert_allclose(discriminator.apply({"params": params}, x, label), expected, rtol=1e-5)


def test_samples_are_clipped_and_what_is_trained_is_not():
    generator, _ = pair(SMALL, (8, 8, 1))
    z = 20 * jax.random.normal(jax.random.key(1), (4, 6))
    variables = generator.init(jax.random.key(0), z)
    trained, sampled = (np.asarray(generator.apply(variables, z, train=train)) for train in (True, False))
    assert np.abs(trained).max() > 1
    np.testing.assert_array_equal(sampled, trained.clip(-1, 1))


@pytest.mark.parametrize(
    ("fields", "size", "hint"),
    [
        (
            {"cardinality": 3},
            8,
            "cardinality is 3, which does not divide the inner width 16",
        ),
        ({"widths": (8, 8, 8)}, 10, "cannot generate images of 10x10.* multiples of 4; change config.network.widths"),
        ({"widths": ()}, 8, "widths is empty"),
        ({"blocks": 0}, 8, "blocks is 0; every value must be at least 1"),
        ({"norm": "batch"}, 8, "config.network.norm is not a field of network r3gan"),
    ],
)
def test_what_it_cannot_be_is_one_line(fields, size, hint):
    def build():
        generator, _ = pair({**SMALL, **fields}, (size, size, 1))
        shapes(generator, jnp.zeros((1, 3)))

    with pytest.raises(UserError, match=hint) as error:
        build()
    assert "\n" not in str(error.value)

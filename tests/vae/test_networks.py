import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu.parameter_overview import count_parameters

from gen_jax.method import UserError
from gen_jax.nn.upsampling import UPSAMPLINGS
from gen_jax.vae import networks

MNIST, DSPRITES = (28, 28, 1), (64, 64, 1)
TUTORIAL = {"name": "conv"}
BURGESS = {
    "name": "conv", "channels": (32,) * 4, "kernels": (4,) * 4, "hidden": (256, 256), "decoder_hidden": (256, 256),
    "decoder_channels": (32,) * 3, "decoder_kernel": 4, "last_stride": 2,
}  # fmt: skip
LOCATELLO = {
    "name": "conv", "channels": (32, 32, 64, 64), "kernels": (4, 4, 2, 2), "hidden": (256,), "decoder_hidden": (256,),
    "decoder_channels": (64, 32, 32), "decoder_kernel": 4, "last_stride": 2,
}  # fmt: skip
WELLING = {"name": "dense", "hidden": (500,), "activation": "tanh"}
TOMCZAK = {"name": "dense", "hidden": (300, 300), "activation": "gated"}


def shapes(config, image_shape, latents, num_outputs=1):
    """Parameters of encoder and decoder, and the shapes of what they give for two images."""
    encoder, decoder = networks.make(config, image_shape, latents, num_outputs, jnp.float32)
    inputs = (jnp.zeros((2, *image_shape)), jnp.zeros((2, latents)))
    counts, outputs = [], []
    for network, x in zip((encoder, decoder), inputs, strict=True):
        output, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), x)
        counts.append(count_parameters(variables))
        outputs.append(output.shape)
    return counts, outputs


@pytest.mark.parametrize(
    ("config", "image_shape", "latents", "expected"),
    [
        (TUTORIAL, MNIST, 2, [69_076, 65_089]),
        (WELLING, MNIST, 20, [412_540, 403_284]),
        (TOMCZAK, MNIST, 40, [675_680, 441_184]),  # 1,116,864 in all
        (BURGESS, DSPRITES, 10, [252_052, 249_953]),
        (LOCATELLO, DSPRITES, 10, [309_204, 381_313]),
    ],
)
def test_parameters_are_those_of_the_published_networks(config, image_shape, latents, expected):
    counts, outputs = shapes(config, image_shape, latents)
    assert counts == expected
    assert outputs == [(2, 2 * latents), (2, *image_shape)]


@pytest.mark.parametrize("name", networks.NETWORKS)
@pytest.mark.parametrize("image_shape", [(8, 8, 1), (9, 13, 3)])
def test_every_network_fits_images_of_any_size_and_likelihoods_of_two_outputs(name, image_shape):
    assert shapes({"name": name}, image_shape, 12, num_outputs=2)[1] == [
        (2, 24),
        (2, *image_shape[:2], 2 * image_shape[2]),
    ]


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_a_label_moves_codes_and_pixels_of_every_network_that_is_told_it(name):
    image_shape, latents = (8, 8, 1), 12
    encoder, decoder = networks.make({"name": name}, image_shape, latents, 1, jnp.float32, num_classes=3)
    for network, shape in ((encoder, image_shape), (decoder, (latents,))):
        x = jnp.broadcast_to(jax.random.normal(jax.random.key(0), shape), (3, *shape))  # three times the same
        y, variables = jax.jit(network.init_with_output)(jax.random.key(1), x, jnp.array([0, 1, 1]))
        assert float(jnp.abs(y[0] - y[1]).max()) > 1e-3
        np.testing.assert_array_equal(y[1], y[2])
        untold = network.clone(num_classes=0)
        without = jax.eval_shape(untold.init, jax.random.key(1), x)
        assert count_parameters(without) < count_parameters(variables)


def test_a_latent_moves_every_pixel_of_every_network():
    for name in networks.NETWORKS:
        _, decoder = networks.make({"name": name}, (8, 8, 1), 4, 1, jnp.float32)
        z = jnp.array([[-2.0, 1.0, 1.0, 1.0], [2.0, 1.0, 1.0, 1.0]])
        images, _ = jax.jit(decoder.init_with_output)(jax.random.key(0), z)
        assert float(jnp.min(jnp.abs(images[0] - images[1]))) > 0


@pytest.mark.parametrize("upsampling", ["nearest", "shuffle"])
def test_other_ways_to_grow_start_without_a_checkerboard_and_transposed_convolutions_with_one(upsampling):
    # Of one value everywhere: in the middle, four neighbours are equal, or they see other taps of the kernel.
    def spread(how):
        given = {"name": "conv", "channels": (4, 4), "decoder_channels": (4,), "decoder_kernel": 3, "upsampling": how}
        _, decoder = networks.make(given, (16, 16, 1), 4, 1, jnp.float32)
        apply = jax.jit(decoder.init_with_output)
        variables = apply(jax.random.key(0), jnp.ones((1, 4)))[1]
        hidden = variables["params"]["hidden"]["dense_0"]
        hidden |= {"kernel": jnp.zeros_like(hidden["kernel"]), "bias": jnp.ones_like(hidden["bias"])}
        middle = decoder.apply(variables, jnp.ones((1, 4)))[0, 6:10, 6:10]
        return float(jnp.std(middle))

    assert spread(upsampling) < 1e-6
    assert spread("transposed") > 1e-3


def test_upsampling_changes_no_shape_of_the_outputs():
    for how in UPSAMPLINGS:
        for last_stride in (1, 2):
            config = {"name": "conv", "upsampling": how, "last_stride": last_stride}
            assert shapes(config, (9, 13, 3), 12, num_outputs=2)[1][1] == (2, 9, 13, 6)


def test_refusals_name_what_there_is():
    def make(**config):
        return shapes(config, (8, 8, 1), 2)

    with pytest.raises(UserError, match="did you mean dense"):
        make(name="dens")
    with pytest.raises(UserError, match=r"^config\.network\.activation is not a field of network conv$"):
        make(name="conv", activation="relu")
    with pytest.raises(UserError, match="'gate'; did you mean gated"):
        make(name="dense", activation="gate")
    with pytest.raises(UserError, match="upsampling is 'cubic'; allowed: transposed, nearest, shuffle"):
        make(name="conv", upsampling="cubic")
    with pytest.raises(UserError, match="as many values as channels"):
        make(name="conv", kernels=(3,))
    with pytest.raises(UserError, match="latents is 2, but the code is a picture of 2x2 positions .*: use 4"):
        make(name="spatial")


def test_a_code_that_is_a_picture_keeps_its_places():
    """What an encoder says of one corner depends on that corner alone, as far as its convolutions reach."""
    encoder, decoder = networks.make({"name": "spatial", "channels": (4,)}, (32, 32, 1), 256, 1, jnp.float32)
    assert networks.code_shape({"name": "spatial", "channels": (4,)}, (32, 32, 1), 256) == (16, 16, 1)
    images = jnp.stack([jnp.zeros((32, 32, 1)), jnp.zeros((32, 32, 1)).at[:2, :2].set(1.0)])
    output, _ = jax.jit(encoder.init_with_output)(jax.random.key(0), images)
    mean, log_var = (part.reshape(2, 16, 16) for part in jnp.split(output, 2, axis=-1))
    for part in (mean, log_var):
        moved = jnp.abs(part[0] - part[1]) > 1e-6
        assert bool(moved[0, 0])
        assert not bool(jnp.any(moved[8:, 8:]))
    codes = jnp.zeros((2, 16, 16)).at[1, 0, 0].set(1.0)
    pictures, _ = jax.jit(decoder.init_with_output)(jax.random.key(0), codes.reshape(2, -1))
    moved = jnp.abs(pictures[0] - pictures[1]) > 1e-6
    assert bool(moved[0, 0, 0])
    assert not bool(jnp.any(moved[16:, 16:]))

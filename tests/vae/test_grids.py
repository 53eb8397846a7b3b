import jax
import jax.numpy as jnp
import pytest
from clu.parameter_overview import count_parameters

from gen_jax.method import UserError
from gen_jax.vae import grids


def test_a_network_around_a_quantizer_has_the_published_size():
    # The example code of van den Oord et al. on CIFAR-10: by hand, layer by layer.
    block = 9 * 128 * 32 + 32 + 32 * 128 + 128
    encoder_size = 16 * 3 * 64 + 64 + 16 * 64 * 128 + 128 + 9 * 128**2 + 128 + 2 * block + 128 * 64 + 64
    decoder_size = 9 * 64 * 128 + 128 + 2 * block + 16 * 128 * 64 + 64 + 16 * 64 * 3 + 3
    assert (encoder_size, decoder_size) == (372_416, 290_307)
    encoder, decoder = grids.make({"name": "conv"}, (32, 32, 3), 64, jnp.float32)
    codes, its = jax.eval_shape(encoder.init_with_output, jax.random.key(0), jnp.zeros((2, 32, 32, 3)))
    images, others = jax.eval_shape(decoder.init_with_output, jax.random.key(0), jnp.zeros((2, 8 * 8 * 64)))
    assert (codes.shape, images.shape) == ((2, 8, 8, 64), (2, 32, 32, 3))
    assert (count_parameters(its), count_parameters(others)) == (encoder_size, decoder_size)


@pytest.mark.parametrize("name", grids.NETWORKS)
@pytest.mark.parametrize(("size", "grid"), [((28, 28, 1), (7, 7)), ((9, 14, 3), (3, 4)), ((4, 4, 1), (1, 1))])
def test_around_a_quantizer_images_of_any_size_have_one_code_for_each_place_of_a_grid(name, size, grid):
    config = {"name": name, "channels": (4, 8)}
    assert grids.size(config, size) == grid
    encoder, decoder = grids.make(config, size, 5, jnp.float32)
    codes, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), jnp.zeros((2, *size)))
    assert codes.shape == (2, *grid, 5)
    z = jnp.zeros((2, grid[0] * grid[1] * 5))
    assert jax.eval_shape(decoder.init_with_output, jax.random.key(0), z)[0].shape == (2, *size)


def test_images_smaller_than_one_code_are_refused():
    with pytest.raises(UserError, match="images of 3x8 are smaller than the 4x4 pixels of one code: shorten"):
        grids.size({"name": "spatial", "channels": (4, 8)}, (3, 8, 1))

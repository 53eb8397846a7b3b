import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.diffusion import pictures, sampler, schedule, solvers

COSINE = schedule.cosine(zero_terminal_snr=True)
PATHS = [COSINE, schedule.straight(), schedule.variance_exploding()]


def as_it_is(x):
    return x


def test_the_forward_strip_goes_from_the_image_to_its_noise():
    x0, eps = jnp.full((4, 4, 1), -1.0), jnp.full((4, 4, 1), 0.5)
    strip = pictures.forward(x0, eps, COSINE, "schedule", as_it_is)
    assert strip.labels[:2] == ("x0", "t = 0")
    assert strip.labels[-1] == "t = 999"
    assert len(strip.labels) == len(strip.images) == pictures.NUM_STRIP
    assert np.unique(strip.images[0]).tolist() == [0]
    assert np.unique(strip.images[-1]).tolist() == [191]  # pure noise of 0.5: (0.5 + 1) * 127.5


def test_the_forward_strip_of_a_formula_goes_evenly_through_its_times():
    x0, eps = jnp.full((4, 4, 1), -1.0), jnp.full((4, 4, 1), 0.5)
    strip = pictures.forward(x0, eps, schedule.straight(), "path", as_it_is)
    assert strip.labels == ("x0", *(f"t = {i / 8:g}" for i in range(1, 9)))
    t = np.arange(9) / 8
    np.testing.assert_array_equal(strip.images[:, 0, 0, 0], np.round((t * 1.5) * 127.5))


def test_pictures_show_what_becomes_of_codes():
    """All that is drawn goes through `shown` first, which may change its size."""

    def decode(codes):
        return jnp.repeat(jnp.repeat(codes[..., :1], 2, 1), 2, 2) / 3

    x0, eps = jnp.full((4, 4, 2), -3.0), jnp.zeros((4, 4, 2))
    assert np.unique(pictures.forward(x0, eps, COSINE, "schedule", decode).images[0]).tolist() == [0]
    steps, keys = COSINE.steps(3), jax.random.split(jax.random.key(0), 2)

    @jax.jit
    def reverse(keys):
        def denoise(x_t, level):
            return jnp.full_like(x_t, 3.0)

        return pictures.reverse(denoise, COSINE, solvers.ddim(), steps, keys, (4, 4, 2), "steps", decode)

    shown = reverse(keys)
    assert shown["reverse"].images.shape == (4, 8, 8, 1)
    assert shown["reverse_animation"].images.shape == (4, 2, 8, 8, 1)
    assert np.unique(shown["reverse_animation"].images[-1]).tolist() == [255]
    assert np.unique(shown["x0_hat"].images).tolist() == [255]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_the_reverse_pictures_end_with_the_sample_and_show_no_step_twice(path):
    keys = jax.random.split(jax.random.key(0), 2)
    for n, way in ((1, solvers.ddim()), (5, solvers.heun()), (60, solvers.ddim())):
        steps = path.steps(n)
        args = (lambda x_t, level: 0.9 * jnp.tanh(x_t), path, way, steps)
        shown = jax.jit(lambda keys, args=args: pictures.reverse(*args, keys, (4, 4, 1), "steps", as_it_is))(keys)
        expected = np.asarray(jax.jit(lambda keys, args=args: sampler.sample(*args, keys, (4, 4, 1)))(keys))
        np.testing.assert_array_equal(shown["reverse_animation"].images[-1], np.round((expected + 1) * 127.5))
        np.testing.assert_array_equal(shown["reverse"].images[-1], shown["reverse_animation"].images[-1, 0])
        assert len(shown["reverse_animation"].images) == min(n, pictures.NUM_FRAMES - 1) + 1
        for picture in shown.values():
            assert len(set(picture.labels)) == len(picture.labels) == len(picture.images)
            assert picture.labels[0] == ("t = 999" if path is COSINE else "t = 1")


def test_a_row_of_guidance_is_a_scale_and_a_column_a_class():
    asked = []

    def image_of(scale):
        asked.append(scale)
        return jnp.full((3, 2, 2, 1), scale / 4)

    picture = pictures.guidance(image_of, (0.0, 1.0, 4.0), ("a", "b", "c"))
    assert asked == [0.0, 1.0, 4.0]
    assert picture.columns == 3
    assert picture.images.shape == (9, 2, 2, 1)
    np.testing.assert_array_equal(picture.images[:, 0, 0, 0], np.repeat([128, 159, 255], 3))
    assert "a, b, c" in picture.caption
    assert "0, 1, 4" in picture.caption

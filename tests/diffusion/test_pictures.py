import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion import pictures, sampler, schedule

COSINE = schedule.cosine(zero_terminal_snr=True)


def test_the_forward_strip_goes_from_the_image_to_its_noise():
    x0, eps = jnp.full((4, 4, 1), -1.0), jnp.full((4, 4, 1), 0.5)
    strip = pictures.forward(x0, eps, COSINE, "schedule")
    assert strip.labels[:2] == ("x0", "t = 0")
    assert strip.labels[-1] == "t = 999"
    assert len(strip.labels) == len(strip.images) == pictures.NUM_STRIP
    assert np.unique(strip.images[0]).tolist() == [0]
    assert np.unique(strip.images[-1]).tolist() == [191]  # pure noise of 0.5: (0.5 + 1) * 127.5


def test_the_reverse_pictures_end_with_the_sample_and_show_no_step_twice():
    keys = jax.random.split(jax.random.key(0), 2)
    for n in (1, 5, 60):
        steps = COSINE.steps(n)
        args = (lambda x_t, level: 0.9 * jnp.tanh(x_t), COSINE, sampler.ddim(), steps, keys, (4, 4, 1))
        shown = pictures.reverse(*args, "steps")
        expected = np.asarray(sampler.sample(*args))
        np.testing.assert_array_equal(shown["reverse_animation"].images[-1], np.round((expected + 1) * 127.5))
        np.testing.assert_array_equal(shown["reverse"].images[-1], shown["reverse_animation"].images[-1, 0])
        assert len(shown["reverse_animation"].images) == min(n, pictures.NUM_FRAMES - 1) + 1
        for picture in shown.values():
            assert len(set(picture.labels)) == len(picture.labels) == len(picture.images)
            assert picture.labels[0] == "t = 999"

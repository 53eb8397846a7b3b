import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.nflow import pictures


def test_each_temperature_is_a_row():
    told = []

    def image_of(z, label):
        told.append(label)
        return z

    ones, label = jnp.ones((3, 2, 2, 1)), jnp.array([4, 5, 6])
    assert "only the class is left" in pictures.temperatures(image_of, ones, label).caption
    assert told[0].tolist() == [4, 5, 6] * len(pictures.TEMPERATURES)
    shown = pictures.temperatures(image_of, ones, None)
    assert shown.columns == 3
    rows = np.asarray(shown.images)[:, 0, 0, 0].reshape(len(pictures.TEMPERATURES), 3)
    expected = [round(127.5 * (1 + temperature)) for temperature in pictures.TEMPERATURES]
    np.testing.assert_allclose(rows, np.array(expected)[:, None] * np.ones(3), atol=1)
    assert "0, 0.5, 0.7, 0.85, 1" in shown.caption
    assert "class" not in shown.caption


def test_each_way_from_noise_is_a_row():
    shown = pictures.way([jnp.full((5, 2, 2, 1), step) + jnp.arange(5.0).reshape(5, 1, 1, 1) / 10 for step in (-1, 0)])
    assert shown.columns == 2
    rows = np.asarray(shown.images, int)[:, 0, 0, 0].reshape(4, 2)
    np.testing.assert_allclose(rows, [[12.75 * i, 127.5 + 12.75 * i] for i in range(4)], atol=1)


@pytest.mark.parametrize(("num", "ways"), [(1, 1), (5, 2)])
def test_a_way_begins_and_ends_with_images(num, ways):
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (num, 2, 3, 1)), jnp.float32)

    def encode(x, label):
        return 2 * x.reshape(len(x), -1)

    shown = pictures.interpolation(encode, lambda z, label: z.reshape(-1, 2, 3, 1) / 2, x, None)
    rows = np.asarray(shown.images, int).reshape(ways, pictures.NUM_STEPS, 2, 3, 1)
    pixels = np.round((np.asarray(x) + 1) * 127.5)
    np.testing.assert_allclose(rows[:, 0], pixels[:ways], atol=1)
    np.testing.assert_allclose(rows[:, -1], pixels[num // 2 : num // 2 + ways], atol=1)


def test_the_label_changes_half_way():
    told = []

    def decode(z, label):
        told.append(label)
        return z

    label = jnp.array([7, 8, 1, 2])
    shown = pictures.interpolation(lambda x, label: x, decode, jnp.ones((4, 2, 2, 1)), label)
    assert told[0].reshape(2, -1).tolist() == [[7] * 4 + [1] * 5, [8] * 4 + [2] * 5]
    assert "label changes" in shown.caption


def test_an_arc_between_unit_vectors_stays_on_the_circle_at_even_angles():
    start, end = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    for share in (0.0, 0.25, 0.5, 1.0):
        angle = share * np.pi / 2
        np.testing.assert_allclose(pictures.arc(start, end, share)[0], [np.cos(angle), np.sin(angle)], atol=1e-4)


def test_an_arc_between_the_same_noise_stays_there():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 50)), jnp.float32)
    np.testing.assert_allclose(pictures.arc(z, z, 0.5), z, rtol=1e-3)

import jax.numpy as jnp
import numpy as np

from gen_jax.figures.classes import by_class


def image_of(z, label):
    """The label as grey, the first latent's sign in the corner."""
    image = jnp.broadcast_to((label % 3 - 1.0)[:, None, None, None], (len(z), 2, 2, 1))
    return image.at[:, 0, 0, 0].set(jnp.sign(z[:, 0]))


def test_a_row_is_a_class_and_a_column_a_latent():
    z = jnp.array([[1.0], [-1.0], [1.0]])
    picture = by_class(image_of, z, ("a", "b"))
    assert picture.columns == 3
    images = np.asarray(picture.images).reshape(2, 3, 2, 2)
    assert (images[:, :, 1, 1] == [[0] * 3, [128] * 3]).all()  # -1 and 0 as bytes
    assert (images[:, :, 0, 0] == [255, 0, 255]).all()
    assert "(a, b)" in picture.caption


def test_of_many_classes_the_first_ten_are_shown():
    picture = by_class(image_of, jnp.ones((2, 1)), tuple("abcdefghijkl"))
    assert picture.images.shape == (10 * 2, 2, 2, 1)
    assert "i, j)" in picture.caption

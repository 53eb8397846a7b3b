"""Pictures: what stands where."""

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.gan import pictures
from gen_jax.method import DataSpec


def image_of(z, label):
    """The label as grey, the first latent's sign in the corner."""
    grey = jnp.zeros(len(z)) if label is None else label - 1.0
    image = jnp.broadcast_to(grey[:, None, None, None], (len(z), 2, 2, 1))
    return image.at[:, 0, 0, 0].set(jnp.sign(z[:, 0]))


def test_great_circles_keep_the_length_and_end_where_they_should():
    start, end = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    ways = np.stack([pictures.great_circle(jnp.asarray(start), jnp.asarray(end), jnp.float32(t)) for t in (0, 0.3, 1)])
    np.testing.assert_allclose(ways[[0, 2]], [start, end], atol=1e-4)
    lengths = np.linalg.norm([start, end], axis=1)
    np.testing.assert_allclose(np.linalg.norm(ways[1]), 0.7 * lengths[0] + 0.3 * lengths[1], rtol=1e-4)


def test_points_have_no_pictures_and_unlabelled_images_no_classes():
    plain = DataSpec("plain", (2, 2, 1), 9)
    points = DataSpec("ring", (1, 1, 2), 9, kind="points", value_range=(-1, 1))
    for spec, expected in ((plain, {"interpolation"}), (points, set())):
        shown = jax.jit(lambda key, spec=spec: pictures.show(image_of, key, 3, spec, 0))(jax.random.key(0))
        assert shown.keys() == expected

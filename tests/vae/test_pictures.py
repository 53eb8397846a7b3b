import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gen_jax.method import UserError
from gen_jax.nn.gaussian import Gaussian
from gen_jax.vae import pictures
from gen_jax.vae.priors import Mixture


def code_as_image(z):
    """An image of Z pixels that are the code itself, a tenth of it."""
    return (z / 10)[:, None, :, None]


def pixels(values):
    return np.round((np.asarray(values) / 10 + 1) * 127.5)


def test_the_plane_goes_through_the_inverse_of_the_normal_distribution():
    # golden.json, vae, manifold_10
    values = [-1.6448536269514729, -1.0364333894937898, -0.6744897501960818, -0.3853204664075678, -0.12566134685507407]
    plane = np.asarray(pictures.plane(10)).reshape(10, 10, 2)
    np.testing.assert_allclose(plane[0, :5, 0], values, rtol=1e-5)
    np.testing.assert_allclose(plane[:, 0, 1], plane[0, ::-1, 0], rtol=1e-5)  # the second one grows upwards
    shares = np.diff(stats.norm.cdf(plane[0, :, 0]))
    np.testing.assert_allclose(shares, 0.1, rtol=1e-4)


def test_the_manifold_shows_the_image_of_each_point():
    shown = pictures.manifold(code_as_image, 2, side=4)
    assert shown.columns == 4
    np.testing.assert_array_equal(shown.images[:, 0, :, 0], pixels(pictures.plane(4)))


def test_the_manifold_of_a_latent_space_that_is_no_plane_is_refused():
    with pytest.raises(UserError, match="can be drawn for 2 latents; this model has 40"):
        pictures.manifold(code_as_image, 40)


def test_a_traversal_moves_one_latent_and_holds_the_others():
    mean, kl = jnp.array([0.5, -0.25, 1.0]), jnp.array([0.1, 3.0, 2.0])
    shown = pictures.traversals(code_as_image, mean, kl)
    rows = np.asarray(shown["traversals"].images)[:, 0, :, 0].reshape(3, pictures.NUM_REACH, 3)
    for row, latent in zip(rows, (1, 2, 0), strict=True):  # by their KL
        expected = np.tile(mean, (pictures.NUM_REACH, 1))
        expected[:, latent] = np.linspace(-3, 3, pictures.NUM_REACH)
        np.testing.assert_allclose(row, pixels(expected), atol=1)
    animation = shown["traversal_animation"]
    np.testing.assert_array_equal(np.asarray(animation.images).swapaxes(0, 1)[:, :, 0, :, 0], rows)
    assert animation.labels[0] == "z = -3.0"
    assert animation.labels[-1] == "z = 3.0"


def test_at_most_ten_latents_are_traversed():
    shown = pictures.traversals(code_as_image, jnp.zeros(12), jnp.arange(12.0))
    assert shown["traversal_animation"].images.shape[:2] == (pictures.NUM_REACH, pictures.MAX_TRAVERSED)


@pytest.mark.parametrize("num", [3, 16])
def test_each_reconstruction_lies_below_its_input(num):
    x = jnp.broadcast_to(jnp.linspace(-1, 0, num)[:, None, None, None], (num, 2, 2, 1))
    shown = pictures.reconstructions(x, x + 1)
    rows = np.asarray(shown.images)[:, 0, 0, 0].astype(int).reshape(-1, 2, shown.columns)
    assert rows.size == 2 * num
    np.testing.assert_allclose(rows[:, 1] - rows[:, 0], 127.5, atol=1)


KEY = jax.random.key(0)


def test_the_latent_space_shows_the_two_latents_of_largest_kl():
    mean, kl = jax.random.normal(KEY, (20, 4)), jnp.array([0.1, 3.0, 0.0, 2.0])
    label = jnp.arange(20) % 3
    shown = pictures.latent_space(mean, kl, KEY, label, ("a", "b", "c"))
    np.testing.assert_array_equal(shown.points, mean[:, jnp.array([1, 3])])
    np.testing.assert_array_equal(shown.classes, label)
    assert "the two of its 4 latents with the largest KL, coloured by class" in shown.caption


def test_the_latent_space_of_a_set_without_labels_has_no_colours():
    for label, names in ((None, None), (None, ("a",)), (jnp.zeros(20, int), None)):
        shown = pictures.latent_space(jnp.zeros((20, 2)), jnp.zeros(2), KEY, label, names)
        assert shown.classes is None
        assert shown.names == ()
        assert "class" not in shown.caption


@pytest.mark.parametrize(("latents", "pairs"), [(2, 1), (3, 2), (4, 2), (5, 3), (40, pictures.MAX_TRAVERSED // 2)])
def test_the_aggregate_posterior_is_shown_in_pairs_by_kl(latents, pairs):
    z, kl = jax.random.normal(KEY, (10, latents)), jnp.arange(latents, dtype=float)
    shown = pictures.aggregate_posterior(z, kl, KEY)
    points = np.asarray(shown.points).reshape(pairs, 10, 2)
    drawn = np.unique(np.concatenate([points[..., 0].ravel(), points[..., 1].ravel()]))
    most_used = z if latents == 2 else z[:, -min(latents, pictures.MAX_TRAVERSED) :]
    np.testing.assert_array_equal(drawn, np.unique(most_used))
    assert len(shown.labels) == (pairs if pairs > 1 else 0)


def test_one_latent_is_spread_by_noise_as_the_prior_is():
    z = jnp.linspace(-3, 3, 2000)[:, None]
    for shown in (
        pictures.latent_space(z, jnp.ones(1), KEY, None, None),
        pictures.aggregate_posterior(z, jnp.ones(1), KEY),
    ):
        np.testing.assert_array_equal(shown.points[:, 0], z[:, 0])
        assert stats.kstest(np.asarray(shown.points[:, 1]), "norm").pvalue > 1e-3
    behind = np.asarray(shown.background)
    assert all(stats.kstest(behind[:, i], "norm").pvalue > 1e-3 for i in (0, 1))
    assert abs(np.corrcoef(behind[:, 0], shown.points[:, 1])[0, 1]) < 0.1  # noise of its own


@pytest.mark.parametrize("latents", [1, 2, 5])
def test_draws_of_a_prior_that_is_no_standard_normal_are_points_beside_the_codes(latents):
    z, kl = jax.random.normal(KEY, (10, latents)), jnp.arange(latents, dtype=float)
    shown = pictures.aggregate_posterior(z, kl, KEY, 5 + z)
    assert shown.background is None
    assert shown.circles == ()
    assert "circles" not in shown.caption
    codes, drawn = np.split(np.asarray(shown.points), 2, axis=-2)
    np.testing.assert_array_equal(codes, pictures.aggregate_posterior(z, kl, KEY).points)
    columns = slice(1) if latents == 1 else slice(2)  # a noise of its own is beside the only latent
    np.testing.assert_allclose(drawn[..., columns], codes[..., columns] + 5, rtol=1e-6)
    np.testing.assert_array_equal(shown.classes, [0] * 10 + [1] * 10)
    assert shown.names == ("codes of images", "draws from the prior")
    plain = pictures.latent_space(z, kl, KEY, None, None, standard=False)
    assert plain.circles == ()
    assert "prior" not in plain.caption


def test_components_are_shown_by_weight_and_pseudo_inputs_above_what_they_are_decoded_to():
    means = jnp.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    mixture = Mixture(jnp.log(jnp.array([0.2, 0.5, 0.3])), Gaussian(means, jnp.zeros((3, 2))))
    shown = pictures.components(code_as_image, mixture, None)
    np.testing.assert_array_equal(shown.images[:, 0, 0, 0], pixels([2.0, 3.0, 1.0]))
    assert "its 3 components" in shown.caption
    inputs = jnp.array([0.0, 0.4, 1.0])[:, None, None, None] * jnp.ones((3, 1, 2, 1))
    equal = mixture._replace(log_weights=jnp.full(3, -jnp.log(3.0)))
    shown = pictures.components(code_as_image, equal, inputs)
    np.testing.assert_array_equal(shown.images[:3, 0, 0, 0], [0, 102, 255])
    np.testing.assert_array_equal(shown.images[3:, 0, 0, 0], pixels([1.0, 2.0, 3.0]))
    assert shown.columns == 3
    many = Mixture(jnp.zeros(50), Gaussian(jnp.zeros((50, 2)), jnp.zeros((50, 2))))
    assert "40 of its 50 components" in pictures.components(code_as_image, many, jnp.zeros((50, 1, 2, 1))).caption

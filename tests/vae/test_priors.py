"""Densities, draws and divergences of the priors, against scipy, closed forms and golden values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from gen_jax.method import UserError
from gen_jax.nn.gaussian import Gaussian, kl_to_standard_normal, reparameterise
from gen_jax.vae import priors
from gen_jax.vae.priors import Mixture

RNG = np.random.default_rng(0)
WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = RNG.normal(size=(3, 2)) * 3
LOG_VARS = RNG.normal(size=(3, 2))
THREE = Mixture(jnp.log(jnp.asarray(WEIGHTS)), Gaussian(jnp.asarray(MEANS), jnp.asarray(LOG_VARS)))


def components(z):
    """log of weight times density of each component, [N, K], in float64."""
    logs = [stats.norm(m, np.exp(v / 2)).logpdf(z).sum(-1) for m, v in zip(MEANS, LOG_VARS, strict=True)]
    return np.stack(logs, axis=-1) + np.log(WEIGHTS)


def test_the_log_density_of_two_components_is_the_golden_one():
    # golden.json, vae, vamp_log_prior_z.3_means(0,1)
    two = priors.of_posteriors(Gaussian(jnp.array([[0.0], [1.0]]), jnp.zeros((2, 1))))
    assert float(priors.log_mixture(jnp.array([0.3]), two)) == pytest.approx(-1.058946844383026, rel=1e-6)


def test_the_log_density_of_a_mixture_is_that_of_scipy_also_far_away():
    z = np.concatenate([RNG.normal(size=(50, 2)) * 4, [[60.0, -60.0]]])
    z = z.reshape(3, 17, 2)  # axes before the latents are kept
    found = jax.jit(priors.log_mixture)(jnp.asarray(z, jnp.float32), THREE)
    np.testing.assert_allclose(found, special.logsumexp(components(z), axis=-1), rtol=1e-5)
    slopes = jax.grad(lambda m: priors.log_mixture(jnp.array([60.0, -60.0]), m))(THREE)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(slopes))


def test_marginals_are_the_mixture_with_the_other_latents_integrated_out():
    # Over a grid of the second latent, in float64.
    grid = np.linspace(-40, 40, 40_001)
    for first in (-2.0, 0.5):
        z = np.stack([np.full_like(grid, first), grid], axis=-1)
        integral = np.trapezoid(np.exp(special.logsumexp(components(z), axis=-1)), grid)
        found = priors.log_marginals(jnp.array([first, 0.0]), THREE)[0]
        assert float(found) == pytest.approx(np.log(integral), abs=1e-5)


def test_draws_of_a_mixture_have_its_weights_and_moments():
    num = 40_000
    draw = jax.jit(jax.vmap(functools.partial(priors.draw_mixture, THREE)))
    z = np.asarray(draw(jax.random.split(jax.random.key(0), num)), np.float64)
    mean = WEIGHTS @ MEANS
    second = np.einsum("k,ki,kj->ij", WEIGHTS, MEANS, MEANS) + np.diag(WEIGHTS @ np.exp(LOG_VARS))
    covariance = second - np.outer(mean, mean)
    np.testing.assert_allclose(z.mean(0), mean, atol=5 * np.sqrt(covariance.max() / num))
    np.testing.assert_allclose(np.cov(z.T), covariance, atol=0.03 * covariance.max())
    # The mean responsibility of a component is its weight.
    logs = components(z)
    shares = np.exp(logs - special.logsumexp(logs, axis=1, keepdims=True)).mean(0)
    np.testing.assert_allclose(shares, WEIGHTS, atol=5 * 0.5 / np.sqrt(num))


def test_the_divergence_by_samples_has_the_closed_one_as_its_mean():
    # A mixture of one component, N(0, 1): the standard normal prior.
    q = Gaussian(jnp.array([[0.5, -1.0]]), jnp.array([[0.2, -0.3]]))
    one = priors.mixture_density(Mixture(jnp.zeros(1), Gaussian(jnp.zeros((1, 2)), jnp.zeros((1, 2)))))
    eps = jax.random.normal(jax.random.key(0), (30_000, 1, 2))
    z = reparameterise(q, eps)
    each = -np.asarray(one.log_ratio(q, z), np.float64)
    closed = 0.6561104894209439  # golden.json
    assert abs(each.mean() - closed) < 4 * each.std() / np.sqrt(each.size)
    # Per example [B, 1], as a mean over samples; and the marginals give each latent's.
    assert one.kl(q, z[None, :, 0]).shape == (1, 1)
    np.testing.assert_allclose(one.kl(q, z[None, :, 0]), each.mean(), rtol=1e-4)
    of_each = one.kl_of_each(jax.tree.map(lambda x: jnp.repeat(x, len(z), 0), q), z[:, 0])
    np.testing.assert_allclose(of_each.mean(0), kl_to_standard_normal(q)[0], atol=0.02)


def test_the_standard_prior_is_the_normal_of_scipy_and_knows_its_divergence():
    normal = priors.standard_density(3)
    z = RNG.normal(size=(7, 3))
    np.testing.assert_allclose(normal.log_prob(jnp.asarray(z)), stats.norm.logpdf(z).sum(-1), rtol=1e-5)
    q = Gaussian(jnp.asarray(z), jnp.asarray(z / 3))
    np.testing.assert_array_equal(normal.kl(q, jnp.zeros((7, 1, 3))), kl_to_standard_normal(q))
    one = priors.mixture_density(Mixture(jnp.zeros(1), Gaussian(jnp.zeros((1, 3)), jnp.zeros((1, 3)))))
    np.testing.assert_allclose(normal.log_ratio(q, q.mean), one.log_ratio(q, q.mean), atol=1e-5)


def halves(x):
    """An encoder that is known: the first two pixels are the means, the next two the log variances."""
    flat = x.reshape(len(x), -1)
    return Gaussian(flat[:, :2], flat[:, 2:4])


def test_a_vamp_prior_at_the_data_is_the_aggregate_posterior():
    x = RNG.random((5, 2, 2, 1)).astype(np.float32)
    density = priors.vamp(2, 5).density({"pseudo_inputs": jnp.asarray(x)}, halves)
    flat, z = x.reshape(5, 4).astype(np.float64), RNG.normal(size=(6, 2))
    posteriors = stats.norm(flat[:, None, :2], np.exp(flat[:, None, 2:] / 2)).pdf(z).prod(-1)  # [5, 6]
    np.testing.assert_allclose(density.log_prob(jnp.asarray(z)), np.log(posteriors.mean(0)), rtol=1e-5)


def test_pseudo_inputs_start_near_images_that_differ_and_all_of_them_learn():
    x = jnp.asarray(RNG.integers(0, 2, (20, 2, 2, 1)), jnp.float32)
    prior = priors.vamp(2, 10)
    params = prior.init(jax.random.key(0), lambda: x)
    found = np.asarray(params["pseudo_inputs"])
    assert found.min() > 0
    assert found.max() < 1
    np.testing.assert_array_equal(np.round(found), x[::2])  # spread over the images that there are
    slope = jax.grad(lambda p: prior.density(p, halves).log_prob(jnp.ones(2)))(params)["pseudo_inputs"]
    assert np.all(np.asarray(slope) != 0)


def test_pseudo_inputs_stay_in_the_range_of_images():
    params = {"pseudo_inputs": jnp.array([-3.0, 0.25, 1.5]).reshape(3, 1, 1, 1)}
    inputs = priors.vamp(1, 3).pseudo_inputs
    assert inputs is not None
    assert inputs(params).ravel().tolist() == [0.0, 0.25, 1.0]


def test_a_mixture_starts_as_equal_weights_of_components_that_differ():
    prior = priors.mixture(2, 4)
    mixture = prior.density(prior.init(jax.random.key(0), lambda: jnp.zeros(0)), halves).mixture
    assert mixture is not None
    np.testing.assert_allclose(jnp.exp(mixture.log_weights), 0.25, rtol=1e-6)
    assert len(np.unique(mixture.components.mean)) == 8


@pytest.mark.parametrize("make", [priors.mixture, priors.vamp])
def test_no_components_are_refused(make):
    with pytest.raises(UserError, match="config.vae.prior.num_components is 0; it must be at least 1"):
        make(2, 0)

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, stats

from gen_jax.nn.gaussian import Gaussian, kl_between, kl_to_standard_normal, log_normal, reparameterise, soft_bound


def test_the_divergence_equals_values_by_hand_and_its_integral():
    q = Gaussian(jnp.array([[0.5, -1.0]]), jnp.array([[0.2, -0.3]]))
    kl = kl_to_standard_normal(q)[0]
    np.testing.assert_allclose(kl, [0.13570137908008492, 0.5204091103408589], rtol=1e-6)  # golden.json, vae
    for mean, log_var, found in zip(*(np.asarray(part)[0] for part in q), kl, strict=True):
        normal = stats.norm(mean, np.exp(log_var / 2))
        expected = integrate.quad(lambda z, n=normal: n.pdf(z) * (n.logpdf(z) - stats.norm.logpdf(z)), -12, 12)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_divergence_of_two_gaussians_is_its_integral_and_from_the_standard_one_that_above():
    q = Gaussian(jnp.array([0.5, -1.0]), jnp.array([0.2, -0.3]))
    p = Gaussian(jnp.array([1.5, 0.0]), jnp.array([-1.0, 0.0]))
    found = kl_between(q, p)
    for i, value in enumerate(found):
        of_q, of_p = (stats.norm(float(g.mean[i]), np.exp(float(g.log_var[i]) / 2)) for g in (q, p))
        expected = integrate.quad(lambda z, q=of_q, p=of_p: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -12, 12)[0]
        np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(found[1], kl_to_standard_normal(q)[1], rtol=1e-6)


def test_the_divergence_near_the_prior_keeps_its_digits():
    # KL(N(0, e^l) || N(0, 1)) = l^2 / 4 + l^3 / 12 + ...: in f32 exp(l) - 1 - l would be rounding noise.
    log_var = jnp.array([1e-2, 1e-3])
    found = kl_to_standard_normal(Gaussian(jnp.zeros(2), log_var))
    np.testing.assert_allclose(found, [1e-4 / 4 + 1e-6 / 12, 1e-6 / 4 + 1e-9 / 12], rtol=1e-3)


def test_samples_have_the_moments_of_the_posterior_and_the_density_is_that_of_scipy():
    q = Gaussian(jnp.array([1.0, -2.0]), jnp.log(jnp.array([4.0, 0.25])))
    z = np.asarray(reparameterise(q, jax.random.normal(jax.random.key(0), (20_000, 2))), np.float64)
    np.testing.assert_allclose(z.mean(0), [1.0, -2.0], atol=0.06)
    np.testing.assert_allclose(z.std(0), [2.0, 0.5], rtol=0.03)
    expected = stats.norm([1.0, -2.0], [2.0, 0.5]).logpdf(z[:50])
    np.testing.assert_allclose(log_normal(jnp.asarray(z[:50]), q.mean, q.log_var), expected, rtol=1e-4, atol=1e-5)


def test_the_soft_bound_keeps_small_values_bounds_all_and_never_loses_its_gradient():
    x = jnp.array([-1e30, -50.0, 0.0, 0.3, 12.0, 1e30])
    bounded = soft_bound(x, 10.0)
    assert float(jnp.max(jnp.abs(bounded))) <= 10
    np.testing.assert_allclose(bounded[2:4], x[2:4], atol=1e-3)
    assert bool(jnp.all(jnp.diff(bounded) >= 0))
    assert float(jax.grad(soft_bound)(12.0, 10.0)) > 0.3  # a hard clip would give 0

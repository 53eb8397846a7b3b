"""The bound and the importance-sampled estimate, against models whose likelihood is known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gen_jax.nn.gaussian import Gaussian, kl_to_standard_normal, log_normal, reparameterise
from gen_jax.vae.elbo import importance_sampled_nll

# Probabilistic PCA with orthogonal directions, so that the exact posterior has a diagonal covariance:
# x = W z + b + S eps. log p(x) is that of N(b, W W^T + S^2).
W = np.array([[0.8, 0.3], [0.8, -0.3], [0.0, 0.9], [0.4, 0.0]]) * [1.0, 0.7]
W[:, 1] -= W[:, 0] * (W[:, 0] @ W[:, 1]) / (W[:, 0] @ W[:, 0])
B, S = np.array([0.5, -0.2, 0.1, 0.3]), 0.4
NUM = 2000


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return rng.normal(size=(NUM, 2)) @ W.T + B + S * rng.normal(size=(NUM, 4))


@pytest.fixture(scope="module")
def exact(x):
    return stats.multivariate_normal(B, W @ W.T + S**2 * np.eye(4)).logpdf(x)


def posterior(x, shift=0.0, widen=1.0):
    """The exact posterior (Tipping & Bishop 1999), or one that is off by `shift` and by a factor in its variance."""
    squares = np.diag(W.T @ W) + S**2
    mean = (x - B) @ W / squares + shift
    return Gaussian(jnp.asarray(mean, jnp.float32), jnp.full(mean.shape, jnp.log(widen * S**2 / squares), jnp.float32))


def log_weight(x, q):
    x, w, b = (jnp.asarray(array, jnp.float32) for array in (x, W, B))

    def of(keys):
        z = reparameterise(q, jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys))
        log_joint = log_normal(x, z @ w.T + b, 2 * jnp.log(S)).sum(-1) + log_normal(z).sum(-1)
        return log_joint - log_normal(z, q.mean, q.log_var).sum(-1)

    return of


def nll(x, q, num_samples, key=0, chunk=50):
    return np.asarray(
        importance_sampled_nll(log_weight(x, q), jax.random.key(key), jnp.arange(len(x)), num_samples, chunk),
        np.float64,
    )


def test_the_exact_posterior_gives_the_exact_likelihood_with_any_number_of_samples(x, exact):
    for num_samples in (1, 60):
        np.testing.assert_allclose(-nll(x, posterior(x), num_samples), exact, atol=1e-4)


def test_the_bound_with_the_closed_divergence_reaches_the_likelihood(x, exact):
    # E_q log p(x | z) in closed form: the expected square adds the variance of W z.
    q = posterior(x)
    mean, var = (np.asarray(part, np.float64) for part in (q.mean, jnp.exp(q.log_var)))
    squares = np.square(x - mean @ W.T - B).sum(1) + var @ np.diag(W.T @ W)
    expected = -2 * np.log(2 * np.pi * S**2) - squares / (2 * S**2)
    np.testing.assert_allclose(expected - np.asarray(kl_to_standard_normal(q)).sum(1), exact, atol=1e-4)


def test_bound_below_importance_sampling_below_the_likelihood(x, exact):
    q = posterior(x, shift=0.25, widen=2.0)
    means = [float(np.mean(-nll(x, q, num_samples))) for num_samples in (1, 10, 300)]
    assert means[0] < means[1] < means[2] < exact.mean()
    assert means[0] < exact.mean() - 0.2
    assert exact.mean() - means[2] < 0.01


def test_an_estimate_does_not_depend_on_chunks_or_on_the_other_examples(x):
    q = posterior(x[:6], widen=3.0)
    whole = nll(x[:6], q, 20)
    np.testing.assert_allclose(nll(x[:6], q, 20, chunk=7), whole, rtol=1e-5)
    part = jax.tree.map(lambda a: a[2:4], q)
    estimate = importance_sampled_nll(log_weight(x[2:4], part), jax.random.key(0), jnp.arange(2, 4), 20)
    np.testing.assert_allclose(estimate, whole[2:4], rtol=1e-5)


def test_weights_that_no_float_can_hold_are_averaged_exactly():
    offsets = jnp.log(jnp.array([1.0, 3.0]))

    def of(keys):  # half of the weights are e^-1000, half three times that: their mean is 2 e^-1000
        odd = jax.vmap(lambda key: jax.random.bernoulli(key))(keys).astype(int)
        return -1000 + offsets[odd]

    found = importance_sampled_nll(of, jax.random.key(0), jnp.arange(1), 4000)
    assert float(found[0]) == pytest.approx(1000 - np.log(2), abs=0.05)


def gamma_log_weight(x, theta):
    """log p(x, z) - log q(z) of p(z) = e^-z, p(x | z) = z e^(-x z), q(z) = theta^2 z e^(-theta z)."""

    def of(keys):
        z = jax.vmap(lambda key: jax.random.gamma(key, 2.0))(keys) / theta
        return (jnp.log(z) - z * (x + 1)) - (2 * jnp.log(theta) + jnp.log(z) - theta * z)

    return of


@pytest.mark.long
def test_a_gamma_posterior_is_exact_at_theta_of_x_plus_one():
    # golden.json, vae, gamma_kl_x2: the divergence at theta = 1, 3; the minimum is -log p(x) = 2 log(1 + x).
    index, key, log_evidence = jnp.arange(20_000), jax.random.key(0), -2.1972245773362196

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def mean_nll(theta, num_examples, num_samples):
        return jnp.mean(importance_sampled_nll(gamma_log_weight(2.0, theta), key, index[:num_examples], num_samples))

    assert float(mean_nll(3.0, 1, 1)) == pytest.approx(-log_evidence, rel=1e-5)
    assert float(mean_nll(1.0, 20_000, 1)) == pytest.approx(4.0, abs=0.08)
    assert float(mean_nll(1.0, 100, 2000)) == pytest.approx(-log_evidence, abs=0.02)

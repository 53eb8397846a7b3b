"""Objectives against likelihoods and divergences that are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gen_jax.method import UserError
from gen_jax.nn.gaussian import Gaussian, log_normal, reparameterise
from gen_jax.vae import objectives, priors
from gen_jax.vae.objectives import Draws, Setting

# Probabilistic PCA: x = W z + S eps. With orthogonal directions the exact posterior is diagonal.
W, S, NUM = np.array([[0.8, 0.0], [0.0, 0.6], [0.6, 0.0]]), 0.5, 2000
SQUARES = np.diag(W.T @ W) + S**2


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return rng.normal(size=(NUM, 2)) @ W.T + S * rng.normal(size=(NUM, 3))


@pytest.fixture(scope="module")
def exact(x):
    return stats.multivariate_normal(np.zeros(3), W @ W.T + S**2 * np.eye(3)).logpdf(x)


def draws_of(x, num, shift=0.4, widen=2.0, seed=0):
    """Of a posterior that is off by `shift` and by a factor in its variance."""
    mean = jnp.asarray(x @ W / SQUARES + shift, jnp.float32)
    q = Gaussian(mean, jnp.full(mean.shape, jnp.log(widen * S**2 / SQUARES), jnp.float32))
    eps = jax.random.normal(jax.random.key(seed), (len(x), num, 2))
    z = reparameterise(jax.tree.map(lambda y: y[:, None], q), eps)
    log_likelihood = log_normal(jnp.asarray(x)[:, None], z @ jnp.asarray(W.T), 2 * np.log(S)).sum(-1)
    return Draws(q, z, -log_likelihood, priors.standard_density(2), jnp.arange(len(x)))


def loss_of(objective, draws, weight=1.0, step=0):
    return np.asarray(objective.loss(draws, weight, jnp.int32(step))[0], np.float64)


def bound(x, k):
    objective = objectives.iwae(Setting(), k)
    return -loss_of(objective, draws_of(x, objective.num_samples)).mean()


def test_more_samples_bring_the_bound_closer_to_the_likelihood_from_below(x, exact):
    bounds = [bound(x, k) for k in (1, 2, 10, 100)]
    assert bounds == sorted(bounds)
    assert bounds[-1] < exact.mean() + 0.005
    # One sample: the KL of the wrong posterior is what the bound lacks.
    var = S**2 / SQUARES
    lacks = 0.5 * np.sum(0.4**2 / var + 2 - 1 - np.log(2))
    assert exact.mean() - bounds[0] == pytest.approx(lacks, abs=0.1)
    assert exact.mean() - bounds[-1] < 0.03


def test_one_sample_is_the_elbo_with_its_divergence_in_closed_form(x):
    draws = draws_of(x[:9], 1)
    found = loss_of(objectives.iwae(Setting(), 1), draws, 0.5)
    np.testing.assert_array_equal(found, loss_of(objectives.elbo(Setting()), draws, 0.5))


def test_with_the_exact_posterior_any_number_of_samples_gives_the_likelihood(x, exact):
    draws = draws_of(x[:50], 3, shift=0.0, widen=1.0)
    np.testing.assert_allclose(-loss_of(objectives.iwae(Setting(), 3), draws), exact[:50], atol=1e-5)


def test_the_bound_of_several_samples_is_the_mean_of_their_weights(x):
    draws = draws_of(x[:4], 5)
    z, q = np.asarray(draws.z, np.float64), jax.tree.map(lambda y: np.asarray(y, np.float64)[:, None], draws.q)
    ratio = stats.norm.pdf(z).prod(-1) / stats.norm(q.mean, np.exp(q.log_var / 2)).pdf(z).prod(-1)
    for weight in (1.0, 0.5):
        means = (np.exp(-np.asarray(draws.reconstruction, np.float64)) * ratio**weight).mean(1)
        found = loss_of(objectives.iwae(Setting(), 5), draws, weight)
        np.testing.assert_allclose(found, -np.log(means), rtol=1e-4)


def test_the_capacity_is_a_distance_that_moves(x):
    draws = draws_of(x[:6], 1)
    kl, rec = np.asarray(draws.prior.kl(draws.q, draws.z)).sum(-1), np.asarray(draws.reconstruction)[:, 0]
    objective = objectives.capacity(Setting(), gamma=10.0, nats=4.0, warmup_steps=8)
    for step, allowed in ((0, 0.5), (3, 2.0), (7, 4.0), (100, 4.0)):
        found, shown = objective.loss(draws, 1.0, jnp.int32(step))
        np.testing.assert_allclose(found, rec + 10 * np.abs(kl - allowed), rtol=1e-5)
        np.testing.assert_allclose(shown["capacity"], allowed)


# Codes whose aggregate posterior is known: z = m + T eps with means m of N(0, COV), so q(z) = N(0, COV + T^2).
COV, T = np.array([[1.0, 0.8], [0.8, 1.2]]), 0.5


def gaussian_codes(num, seed=0):
    rng = np.random.default_rng(seed)
    mean = rng.multivariate_normal(np.zeros(2), COV, num)
    z = mean + T * rng.normal(size=mean.shape)
    q = Gaussian(jnp.asarray(mean, jnp.float32), jnp.full(mean.shape, 2 * np.log(T), jnp.float32))
    return Draws(
        q, jnp.asarray(z, jnp.float32)[:, None], jnp.zeros((num, 1)), priors.standard_density(2), jnp.arange(num)
    )


def test_the_three_terms_of_a_gaussian_aggregate_are_those_of_the_closed_form():
    of_z = COV + T**2 * np.eye(2)
    information = 0.5 * np.linalg.slogdet(np.eye(2) + COV / T**2)[1]
    correlation = 0.5 * (np.log(np.diag(of_z)).sum() - np.linalg.slogdet(of_z)[1])
    dimensions = 0.5 * (np.diag(of_z) - 1 - np.log(np.diag(of_z))).sum()
    found = objectives.decompose(gaussian_codes(2000), 2000, "stratified")
    means = [float(np.mean(term)) for term in found]
    np.testing.assert_allclose(means, [information, correlation, dimensions], atol=0.1)
    closed = 0.5 * np.trace(of_z) - 0.5 * 2 - 0.5 * 2 * np.log(T**2)  # the mean KL(q(z | x) || p(z))
    assert sum(means) == pytest.approx(closed, abs=0.1)
    assert information + correlation + dimensions == pytest.approx(closed)


@pytest.mark.parametrize("estimator", objectives.ESTIMATORS)
def test_the_three_terms_add_up_to_the_log_ratio_of_each_example(estimator):
    d = gaussian_codes(40)
    terms = objectives.decompose(d, 1000, estimator)
    np.testing.assert_allclose(sum(terms), -d.prior.log_ratio(d.q, d.z[:, 0]), atol=1e-4)
    objective = objectives.total_correlation(Setting(num_examples=1000), 2.0, 6.0, 0.5, estimator)
    expected = 3.0 * (2 * terms.information + 6 * terms.correlation + 0.5 * terms.dimensions)
    np.testing.assert_allclose(loss_of(objective, d, weight=3.0), expected, rtol=1e-5)
    assert objective.couples


def test_weighted_sampling_is_the_equation_of_the_paper():
    d, num = gaussian_codes(12), 500
    z, mean = np.asarray(d.z, np.float64)[:, 0], np.asarray(d.q.mean, np.float64)
    density = stats.norm(mean, T).pdf(z[:, None])  # [12, 12, 2]
    log_q = np.log(density.prod(-1).sum(1) / (num * 12))
    log_product = np.log(density.sum(1) / (num * 12)).sum(-1)
    terms = objectives.decompose(d, num, "weighted")
    np.testing.assert_allclose(terms.correlation, log_q - log_product, rtol=1e-4)
    np.testing.assert_allclose(terms.dimensions, log_product - stats.norm.logpdf(z).sum(-1), rtol=1e-4)


def test_stratified_shares_have_the_whole_set_as_their_mean_over_batches():
    # All batches of 2 of 3 that hold the first: the mean share of each of the three is 1/3.
    total = np.zeros(3)
    for other in (1, 2):
        shares = np.exp(np.asarray(objectives.stratified_shares(jnp.array([[True, False]]), 3)[0]))
        total[[0, other]] += shares / 2
    np.testing.assert_allclose(total, 1 / 3, rtol=1e-6)


def test_factor_adds_the_log_ratio_of_its_discriminator_to_the_bound():
    d, gamma = gaussian_codes(9), 7.0
    objective = objectives.factor(Setting(latents=2), gamma, width=3, depth=0)
    kernel = jnp.array([[1.0, -0.5], [0.25, 2.0]])
    d = d._replace(second={"out": {"kernel": kernel, "bias": jnp.array([0.5, 0.0])}})
    ratio = np.asarray(d.z)[:, 0] @ np.array([1.5, -1.75]) + 0.5  # the first logit less the second
    found, shown = objective.loss(d, 2.0, jnp.int32(0))
    kl = np.asarray(d.prior.kl(d.q, d.z)).sum(-1)
    np.testing.assert_allclose(shown["total_correlation"], ratio, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found, 2 * (kl + gamma * ratio), rtol=1e-4, atol=1e-4)
    assert objective.couples  # an example alone is judged by its bound


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: objectives.iwae(Setting(), 0), "objective.num_samples is 0; it must be at least 1"),
        (lambda: objectives.iwae(Setting(free_bits=0.5), 2), "free_bits=0.5 has no effect with objective iwae"),
        (lambda: objectives.elbo(Setting(free_bits=0.5, closed_kl=False, prior="vamp")), "prior vamp has no KL of"),
        (lambda: objectives.capacity(Setting(closed_kl=False, prior="vamp")), "closed form, which prior vamp has not"),
        (lambda: objectives.capacity(Setting(), gamma=-1.0), "objective.gamma is -1; it must not be negative"),
        (lambda: objectives.total_correlation(Setting(closed_kl=False, prior="mixture")), "prior mixture has not"),
        (lambda: objectives.total_correlation(Setting(accumulate=2)), "accumulate is 2, but objective total_correl"),
        (lambda: objectives.factor(Setting(accumulate=2)), "accumulate is 2, but objective factor compares the codes"),
        (lambda: objectives.factor(Setting(batch_size=5)), "batch_size is 5, but objective factor .* an even number"),
        (lambda: objectives.factor(Setting(free_bits=0.5)), "free_bits=0.5 has no effect with objective factor"),
        (lambda: objectives.factor(Setting(), gamma=-1.0), "objective.gamma is -1; it must be at least 0"),
        (lambda: objectives.factor(Setting(), width=0), "objective.width is 0; it must be at least 1"),
        (lambda: objectives.factor(Setting(), depth=-1), "objective.depth is -1; it must be at least 0"),
        (lambda: objectives.factor(Setting(), learning_rate=-1.0), "learning_rate is -1; it must not be negative"),
        (lambda: objectives.total_correlation(Setting(), estimator="wieghted"), "did you mean weighted?"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_in_one_line(make, match):
    with pytest.raises(UserError, match=match) as error:
        make()
    assert "\n" not in str(error.value)

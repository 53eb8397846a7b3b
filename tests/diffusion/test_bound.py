"""The variational bound: coefficients, single terms, data whose exact denoiser and entropy are known, estimates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gen_jax.diffusion import bound, schedule
from gen_jax.diffusion.sampler import Estimate
from gen_jax.method import UserError

# Reference sheet, float64, linear schedule: coefficient of x0 in the mean, small and large variance.
POSTERIOR = {
    1: (0.545291499510, 5.45318766130e-5, 1.19919919920e-4),
    500: (0.00305805707563, 0.0100513357789, 0.0100599599600),
    999: (1.28351487172e-4, 0.0199999835266, 0.02),
}
GREY = np.arange(256) / 127.5 - 1
VALUES, PROBABILITY = GREY[[0, 85, 170, 255]], np.array([0.1, 0.2, 0.3, 0.4])  # of a pixel
ENTROPY = -np.sum(PROBABILITY * np.log2(PROBABILITY))  # the exact -log2 p(x), in the mean


def pixels(values):
    return jnp.asarray(values).reshape(-1, 1, 1, 1)


def of_grey(x_t, level):
    """Mean and variance of a pixel given x_t, by the sum over its values."""
    x, alpha, sigma = x_t.reshape(-1, 1), level.alpha[:, None], level.sigma[:, None]
    weight = jax.nn.softmax(jnp.log(PROBABILITY) - 0.5 * ((x - alpha * VALUES) / sigma) ** 2, axis=1)
    mean = jnp.sum(weight * VALUES, axis=1, keepdims=True)
    variance = jnp.sum(weight * (VALUES - mean) ** 2, axis=1)
    return mean.reshape(x_t.shape), variance.reshape(x_t.shape)


def exact(x_t, level):
    return of_grey(x_t, level)[0]


@pytest.mark.parametrize("t", POSTERIOR)
def test_coefficients_are_those_of_the_posterior(t):
    of_x0, small, large = POSTERIOR[t]
    gain, log_small, log_ratio = (values[t] for values in bound.coefficients(schedule.linear()))
    np.testing.assert_allclose(np.exp(log_small), small, rtol=1e-11)
    np.testing.assert_allclose(np.exp(log_small + log_ratio), large, rtol=1e-11)
    np.testing.assert_allclose(gain, of_x0**2 / small, rtol=1e-10)


def test_the_first_step_takes_the_small_variance_of_the_second():
    _, log_small, log_ratio = bound.coefficients(schedule.linear())
    assert log_small[0] == log_small[1] == pytest.approx(-9.81672513530, abs=1e-10)
    assert log_small[0] + log_ratio[0] == pytest.approx(np.log(1e-4), abs=1e-10)  # beta of the first step


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid_abar"])
def test_pure_noise_at_the_end_has_finite_coefficients_and_no_prior_term(name):
    made = schedule.SCHEDULES[name](zero_terminal_snr=True)
    assert all(np.all(np.isfinite(values)) for values in bound.coefficients(made))
    assert bound.prior(made, jnp.full((1, 2, 2, 1), 0.7)).tolist() == [0.0]


def test_prior_is_the_divergence_of_two_normal_distributions():
    path, x0 = schedule.linear(num_steps=50), np.array([-1.0, 0.0, 0.5, 0.9])
    mean, variance = path.alpha[-1] * x0, path.sigma[-1] ** 2
    expected = np.mean(0.5 * (variance + mean**2 - 1 - np.log(variance))) / np.log(2)
    np.testing.assert_allclose(bound.prior(path, jnp.asarray(x0).reshape(1, 2, 2, 1)), expected, rtol=1e-5)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0, 1.2])
@pytest.mark.parametrize("t", [1, 7, 19])
def test_a_term_is_the_divergence_of_the_posterior_from_the_model(t, fraction):
    path, x0, x0_hat = schedule.linear(num_steps=20), 0.6, 0.1
    alpha_bar = path.alpha_bar  # as in Ho et al. 2020, eq. 7
    beta = 1 - alpha_bar[t] / alpha_bar[t - 1]
    small = beta * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
    gap = np.sqrt(alpha_bar[t - 1]) * beta / (1 - alpha_bar[t]) * (x0 - x0_hat)
    variance = beta**fraction * small ** (1 - fraction)
    expected = 0.5 * (np.log(variance / small) + small / variance - 1 + gap**2 / variance) / np.log(2)
    with jax.enable_x64(True):
        t_ = jnp.array([t])
        rows = bound.rows_at(bound.coefficients(path), t_, jnp.float64)
        found = bound.term(rows, pixels([x0]), pixels([x0_hat]), fraction, t_)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("mean", [-1.3, -1.0, 0.1, 0.9])
@pytest.mark.parametrize("std", [1e-3, 0.0074, 0.05, 1.0])
def test_reconstruction_sums_to_one_over_the_grey_values(mean, std):
    log_prob = bound.log_prob_of_grey(jnp.asarray(GREY, jnp.float32), mean, 2 * np.log(std))
    assert np.all(np.isfinite(log_prob))
    assert float(jnp.sum(jnp.exp(log_prob))) == pytest.approx(1, abs=2e-4)


def test_reconstruction_is_the_mass_of_a_bin_even_far_away():
    with jax.enable_x64(True):
        found = np.asarray(bound.log_prob_of_grey(jnp.asarray(GREY), 0.1, 2 * np.log(0.02)))
    low, high = GREY - 1 / 255, GREY + 1 / 255
    near = np.abs(GREY - 0.1) < 0.12
    mass = stats.norm.cdf(high, 0.1, 0.02) - stats.norm.cdf(low, 0.1, 0.02)
    np.testing.assert_allclose(found[near], np.log(mass[near]), rtol=1e-6)
    # Far in a tail, log Phi(-u) is close to -u^2 / 2 - log(u sqrt(2 pi)), and the near edge of a bin has all its mass.
    u = (GREY[250] - 1 / 255 - 0.1) / 0.02
    assert found[250] == pytest.approx(-(u**2) / 2 - np.log(u * np.sqrt(2 * np.pi)), abs=1e-3)


@pytest.mark.parametrize("values", [(1.0, -1.0), (0.2, 0.7)])
def test_reconstruction_has_finite_slopes(values):
    x0, mean = values
    slopes = jax.grad(lambda m, v: bound.log_prob_of_grey(jnp.float32(x0), m, v), (0, 1))(mean, -9.8)
    assert np.all(np.isfinite(slopes))


def all_terms(denoise, path, x0, variance="small", seed=0):
    keys = jax.random.split(jax.random.key(seed), len(x0))
    return bound.terms(denoise, path, x0, keys, np.arange(path.num_steps), variance)


def drawn(num):
    """As many pixels, in the exact shares of their values."""
    return pixels(np.repeat(VALUES, np.round(num * PROBABILITY).astype(int)).astype(np.float32))


def mean_and_error(values):
    return float(np.mean(values)), float(np.std(values) / np.sqrt(len(values)))


@pytest.mark.long
def test_bound_of_the_exact_denoiser_is_close_above_the_entropy():
    """At low noise the pixel is known, and the small variance is the exact one. What is lost, is lost at the end: that
    variance is wide beside a bin. Half of the pixels are black or white, whose bins are open on one side."""
    path, num = schedule.linear(), 4000
    inside = stats.norm.cdf(1 / 255 / np.sqrt(POSTERIOR[1][1]))
    lost = -np.log2(inside) / 2 - np.log2(2 * inside - 1) / 2
    keys = jax.random.split(jax.random.key(0), num)
    parts = jax.jit(lambda x0: bound.estimate(exact, path, x0, keys, 1000))(drawn(num))
    total, error = mean_and_error(sum(parts[1:], parts[0]))
    assert error < 0.02
    assert float(parts.reconstruction.mean()) == pytest.approx(lost, rel=1e-3)
    assert ENTROPY - 3 * error < total - lost < ENTROPY + 0.03 + 3 * error


def test_bound_is_far_above_the_entropy_with_few_steps():
    path, num = schedule.cosine(num_steps=5), 10_000
    keys = jax.random.split(jax.random.key(0), num)
    parts = jax.jit(lambda x0: bound.estimate(exact, path, x0, keys, 5))(drawn(num))
    total, error = mean_and_error(sum(parts[1:], parts[0]))
    assert total > ENTROPY + 0.1 + 3 * error


def test_parts_are_the_sums_of_the_terms():
    path, x0 = schedule.linear(num_steps=40, zero_terminal_snr=True), pixels(GREY[[10, 128, 255]].astype(np.float32))
    keys = jax.random.split(jax.random.key(0), 3)
    single, parts = all_terms(exact, path, x0), bound.estimate(exact, path, x0, keys, 40)
    np.testing.assert_allclose(parts.diffusion, np.sum(single[1:], axis=0), rtol=1e-5)
    np.testing.assert_allclose(parts.reconstruction, single[0], rtol=1e-6)
    assert parts.prior.tolist() == [0, 0, 0]


def test_terms_are_never_negative():
    path = schedule.linear(num_steps=100)
    single = all_terms(exact, path, pixels(GREY[::16].astype(np.float32)), "large")
    assert float(jnp.min(single)) > -1e-6


@pytest.mark.parametrize(("num_steps", "num"), [(2, 2), (3, 3), (10, 3), (10, 7), (1000, 20), (1000, 999)])
def test_strata_are_a_partition_with_both_ends_alone(num_steps, num):
    starts, sizes = bound.strata(num_steps, num)
    assert (len(starts), sizes.sum()) == (num, num_steps)
    assert sizes.min() >= 1
    np.testing.assert_array_equal(starts, np.cumsum(sizes) - sizes)
    assert sizes[0] == sizes[-1] == 1


@pytest.mark.parametrize("num", [-1, 1, 2, 11])
def test_an_impossible_number_of_terms_is_refused(num):
    with pytest.raises(UserError, match=f"terms is {num}; use 0 for all, or 3 to 10"):
        bound.strata(10, num)


def test_few_terms_are_unbiased():
    path, num = schedule.cosine(num_steps=60), 20_000
    x0, keys = drawn(num), jax.random.split(jax.random.key(3), num)
    few, few_error = mean_and_error(jax.jit(lambda: bound.estimate(exact, path, x0, keys, 8, "large"))().diffusion)
    full, full_error = mean_and_error(jnp.sum(all_terms(exact, path, x0, "large", seed=4)[1:], axis=0))
    assert few_error < 0.02 * full
    assert abs(few - full) < 4 * np.hypot(few_error, full_error)


def test_the_exact_variance_beats_small_and_large():
    """The variance of x_s given x_t is the small one plus (coefficient of x0)^2 Var(x0 | x_t)."""
    path, num = schedule.cosine(num_steps=12), 10_000
    gain, _, log_ratio = bound.coefficients(path)

    def learned(x_t, level):
        mean, variance = of_grey(x_t, level)
        t = jnp.searchsorted(jnp.asarray(path.time), level.time)[:, None, None, None]
        at = jnp.maximum(t, 1)  # the reconstruction is left at the small variance
        fraction = jnp.log1p(jnp.asarray(gain)[at] * variance) / jnp.asarray(log_ratio)[at]
        return Estimate(mean, jnp.where(t > 0, fraction, 0.0))

    found = {
        name: mean_and_error(jnp.sum(all_terms(denoise, path, drawn(num), name), axis=0))
        for name, denoise in {"small": exact, "large": exact, "learned": learned}.items()
    }  # with the same noise
    total, error = found["learned"]
    assert total < min(found["small"][0], found["large"][0]) - 3 * error
    assert total > ENTROPY - 3 * error


def test_a_table_of_one_step_is_refused():
    with pytest.raises(UserError, match="2 or more steps"):
        bound.coefficients(schedule.cosine(num_steps=1))

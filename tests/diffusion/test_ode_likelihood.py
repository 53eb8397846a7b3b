"""The likelihood of the probability-flow ODE, against data whose density is known at every level."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gen_jax.diffusion import ode_likelihood, schedule
from gen_jax.method import UserError

PATHS = {
    "table": schedule.cosine(),
    "zero terminal SNR": schedule.cosine(zero_terminal_snr=True),
    "straight": schedule.straight(),
    "exploding": schedule.variance_exploding(0.01, 2000.0),  # so much noise hides the data's mean in the prior
}
MEAN = np.array([0.3, -0.2, 0.1, 0.4])
MANY = {"table": 300, "zero terminal SNR": 300, "straight": 400, "exploding": 400}  # steps
_ROOT = np.array([[0.5, 0, 0, 0], [0.3, 0.4, 0, 0], [-0.2, 0.1, 0.3, 0], [0.1, 0.3, -0.1, 0.6]])
COVARIANCE = _ROOT @ _ROOT.T


def keys_for(x):
    return jax.random.split(jax.random.key(0), len(x))


def of_normal(mean, covariance):
    """The exact denoiser of normal data, from [B, 2, 2, 1] or [B, 1]."""
    values, axes = np.linalg.eigh(covariance)

    def denoise(x_t, level):
        alpha, sigma = level.alpha[:, None], level.sigma[:, None]
        rest = (x_t.reshape(len(x_t), -1) - alpha * mean) @ axes
        return (mean + (rest * alpha * values / (alpha**2 * values + sigma**2)) @ axes.T).reshape(x_t.shape)

    return denoise


def first_level(path, steps):
    levels = path.path(steps)
    return levels.alpha[-2], levels.sigma[-2]


@functools.cache
def found_and_exact(name, num_steps, probes=0, num=8):
    """Both log densities of four-pixel images of normal data, at the first level."""
    path = PATHS[name]
    steps = ode_likelihood.times(path, num_steps)
    alpha, sigma = first_level(path, steps)
    at_first = stats.multivariate_normal(alpha * MEAN, alpha**2 * COVARIANCE + sigma**2 * np.eye(4))
    points = at_first.rvs(num, random_state=np.random.default_rng(0))
    with jax.enable_x64(True):
        x = jnp.asarray(points).reshape(-1, 2, 2, 1)
        directions = ode_likelihood.hutchinson(probes) if probes else ode_likelihood.exact(4)
        denoise = of_normal(MEAN, COVARIANCE)
        found = ode_likelihood.log_density(denoise, path, steps, x, directions, keys_for(x))
    return np.asarray(found), at_first.logpdf(points)


@pytest.mark.parametrize(("name", "steps"), MANY.items())
def test_density_of_a_normal_image_is_exact(name, steps):
    found, exact = found_and_exact(name, steps)
    np.testing.assert_allclose(found, exact, atol=1e-3)


@pytest.mark.parametrize("name", PATHS)
def test_error_falls_with_the_square_of_the_step(name):
    coarse, fine = (np.abs(np.subtract(*found_and_exact(name, n))).mean() for n in (50, 100))
    assert coarse / fine > 3


@pytest.mark.parametrize("name", PATHS)
def test_random_directions_are_unbiased(name):
    found, exact = found_and_exact(name, 300, probes=1, num=400)
    error = np.std(found - exact) / 20
    assert error > 1e-3  # the data's axes are not the pixels', so that one probe is uncertain
    assert abs(np.mean(found - exact)) < 4 * error + 1e-3


def test_more_probes_are_more_certain():
    one, nine = (np.std(np.subtract(*found_and_exact("table", 100, probes, 400))) for probes in (1, 9))
    assert one / nine == pytest.approx(3, rel=0.3)


@pytest.mark.parametrize("name", PATHS)
def test_density_of_a_normal_variable_is_exact(name):
    path = PATHS[name]
    steps = ode_likelihood.times(path, MANY[name])
    alpha, sigma = first_level(path, steps)
    with jax.enable_x64(True):
        x = jnp.linspace(-1.5, 1.5, 7)[:, None]
        denoise = of_normal(np.array([0.2]), np.array([[0.25]]))
        found = ode_likelihood.log_density(denoise, path, steps, x, ode_likelihood.exact(1), keys_for(x))
    exact = stats.norm.logpdf(x[:, 0], alpha * 0.2, np.sqrt(0.25 * alpha**2 + sigma**2))
    np.testing.assert_allclose(found, exact, atol=1e-3)


WEIGHTS, MEANS, STD = np.array([0.3, 0.7]), np.array([-0.6, 0.4]), 0.15


def of_mixture(x_t, level, std=STD):
    alpha, sigma = level.alpha[:, None], level.sigma[:, None]
    variance = alpha**2 * std**2 + sigma**2
    share = jax.nn.softmax(jnp.log(WEIGHTS) - (x_t - alpha * MEANS) ** 2 / (2 * variance), axis=1)
    means = MEANS + alpha * std**2 / variance * (x_t - alpha * MEANS)
    return jnp.sum(share * means, axis=1, keepdims=True)


def log_density_of_mixture(x, std, noise):
    """At x [N, 1], blurred."""
    each = stats.norm.pdf(x, MEANS, np.sqrt(std**2 + noise**2))
    return np.log(each @ WEIGHTS)


@pytest.mark.parametrize("name", PATHS)
def test_density_of_a_mixture_is_exact_and_integrates_to_one(name):
    path = PATHS[name]
    steps = ode_likelihood.times(path, MANY[name])
    alpha, sigma = first_level(path, steps)
    with jax.enable_x64(True):
        x = jnp.linspace(-2, 2, 401)[:, None]
        found = ode_likelihood.log_density_of_data(of_mixture, path, steps, x, ode_likelihood.exact(1), keys_for(x))
    density = np.exp(np.asarray(found))
    exact = np.exp(log_density_of_mixture(np.asarray(x), STD, sigma / alpha))
    assert np.sum(density) * 0.01 == pytest.approx(1, abs=2e-3)
    np.testing.assert_allclose(density, exact, atol=2e-3)


def even_in_time(path, num_steps):
    return (
        path.steps(num_steps + 1, "linspace")
        if isinstance(path, schedule.Schedule)
        else np.linspace(1, ode_likelihood.FIRST, num_steps + 1)
    )


@pytest.mark.parametrize("name", ["table", "zero terminal SNR", "straight"])
def test_fifty_steps_are_better_than_two_hundred_that_are_even_in_time(name):
    """For narrow data, as most directions of pictures are."""
    path, std = PATHS[name], 0.02
    x0 = np.concatenate([MEANS + std * z for z in (-1.5, -0.5, 0, 0.5, 1.5)])[:, None]
    errors = []
    for steps in (ode_likelihood.times(path, 50), even_in_time(path, 200)):
        alpha, sigma = first_level(path, steps)
        with jax.enable_x64(True):
            x = jnp.asarray(x0)
            denoise = functools.partial(of_mixture, std=std)
            found = ode_likelihood.log_density_of_data(denoise, path, steps, x, ode_likelihood.exact(1), keys_for(x))
        errors.append(np.abs(np.asarray(found) - log_density_of_mixture(x0, std, sigma / alpha)).mean())
    assert errors[0] < errors[1]
    assert errors[0] < 0.01


@pytest.mark.parametrize("name", schedule.SCHEDULES)
@pytest.mark.parametrize("num", [1, 2, 50, 999])
def test_times_fall_from_one_end_to_the_other(name, num):
    path = schedule.SCHEDULES[name]()
    found = ode_likelihood.times(path, num)
    assert len(found) == num + 1
    assert np.all(np.diff(found) < 0)
    assert (found[0], found[-1]) == pytest.approx(
        (999, 0) if isinstance(path, schedule.Schedule) else (1, ode_likelihood.FIRST)
    )
    assert np.all(np.isfinite(path.path(found).sigma))


@pytest.mark.parametrize("name", ["straight", "exploding"])
def test_times_are_even_in_log_snr_where_data_is_seen(name):
    levels = PATHS[name].path(ode_likelihood.times(PATHS[name], 200))
    with np.errstate(divide="ignore"):
        log_snr = 2 * np.log(levels.alpha[:-1] / levels.sigma[:-1])
    steps = np.diff(log_snr)[log_snr[1:] > 0]
    assert steps.max() / steps.min() < 1.3


def test_uniform_data_have_the_bits_of_their_grey_values():
    # 256 equally likely values fill 256 bins of width 2 / 255: their dequantised density is 255 / 512.
    assert float(ode_likelihood.bits_per_dim(np.log(255 / 512) * 3, 3)) == pytest.approx(8)


@pytest.mark.parametrize("num", [0, 1000])
def test_an_impossible_number_of_steps_is_refused(num):
    with pytest.raises(UserError, match=f"num_steps is {num}; use 1 to 999 along cosine"):
        ode_likelihood.times(PATHS["table"], num)

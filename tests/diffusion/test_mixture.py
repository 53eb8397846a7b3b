"""Every sampler on mixtures of normal distributions, whose denoiser is known: where its samples go, and how precisely.

The samplers are those of the table, at their defaults, and others of their kinds: a new one is tested by itself.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from gen_jax.diffusion import sampler, schedule
from gen_jax.diffusion.solvers import SAMPLERS

MADE = {
    **{name: make() for name, make in SAMPLERS.items()},
    "ancestral, large": SAMPLERS["ancestral"]("large"),
    "ddim, eta 0.5": SAMPLERS["ddim"](0.5),
    "dpm_solver, midpoint": SAMPLERS["dpm_solver"](2, "midpoint"),
}
PATH = schedule.cosine(zero_terminal_snr=True)  # the default of every config; it starts from pure noise
NUM = 16_000


class Mixture(NamedTuple):
    """Weights [K], means [K, D] and standard deviations [K], the same in every direction."""

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray


LINE = Mixture(np.array([0.3, 0.7]), np.array([[-0.8], [0.5]]), np.array([0.25, 0.4]))
PLANE = Mixture(
    np.array([0.2, 0.3, 0.5]), np.array([[-0.8, -0.5], [0.6, -0.7], [0.1, 0.8]]), np.array([0.15, 0.1, 0.2])
)


def exact(data, estimates=False):
    """E[x0 | x_t] of a mixture, for x_t [N, 1, 1, D]; with a variance of the smallest, if a sampler wants one."""

    def denoise(x_t, level) -> Any:
        alpha, sigma = level.alpha[:, None], level.sigma[:, None]
        variance = (alpha * data.stds) ** 2 + sigma**2
        off = x_t.reshape(len(x_t), 1, -1) - alpha[..., None] * data.means
        log_density = -jnp.sum(off**2, axis=2) / (2 * variance) - data.means.shape[1] / 2 * jnp.log(variance)
        share = jax.nn.softmax(jnp.log(data.weights) + log_density, axis=1)
        means = data.means + (alpha * data.stds**2 / variance)[..., None] * off
        x0_hat = jnp.sum(share[..., None] * means, axis=1).reshape(x_t.shape)
        return sampler.Estimate(x0_hat, jnp.zeros_like(x0_hat)) if estimates else x0_hat

    return denoise


def samples(name, data, n, keys, start=None):
    """[N, D]."""
    made = MADE[name]
    denoise, shape = exact(data, made.estimates), (1, 1, data.means.shape[1])
    draw = jax.jit(lambda keys, start: sampler.sample(denoise, PATH, made, PATH.steps(n), keys, shape, start=start))
    return np.asarray(draw(keys, start)).reshape(len(keys), -1)


@pytest.mark.parametrize("name", MADE)
def test_samples_have_the_weights_and_moments_of_the_mixture(name):
    """To 4.5 standard errors, and the bias of 100 steps: ancestral ones make components a tenth too narrow."""
    found = samples(name, PLANE, 100, jax.random.split(jax.random.key(0), NUM))
    nearest = np.argmin(np.linalg.norm(found[:, None] - PLANE.means, axis=2), axis=1)
    for k, (weight, mean, std) in enumerate(zip(*PLANE, strict=True)):
        mine = found[nearest == k]
        assert len(mine) / NUM == pytest.approx(weight, abs=4.5 * np.sqrt(weight * (1 - weight) / NUM) + 0.005)
        np.testing.assert_allclose(mine.mean(axis=0), mean, atol=4.5 * std / np.sqrt(len(mine)) + 0.005)
        np.testing.assert_allclose(mine.std(axis=0), std, rtol=4.5 / np.sqrt(2 * len(mine)) + 0.1)
    mean = PLANE.weights @ PLANE.means
    spread = (PLANE.weights * PLANE.stds**2).sum() * np.eye(2)
    covariance = spread + (PLANE.weights[:, None] * PLANE.means).T @ PLANE.means - np.outer(mean, mean)
    np.testing.assert_allclose(found.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(found.T), covariance, atol=0.02)


def quantile(data, p):
    """The quantile function of a mixture in one dimension, by bisection."""
    low, high = np.full_like(p, -10), np.full_like(p, 10)
    for _ in range(60):
        middle = (low + high) / 2
        below = special.ndtr((middle[:, None] - data.means[:, 0]) / data.stds) @ data.weights < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return low


@pytest.mark.parametrize("name", [name for name, made in MADE.items() if not made.noisy])
def test_the_error_of_a_way_without_noise_falls_with_the_number_of_steps(name):
    """In one dimension the flow from noise to data keeps quantiles, so that the end of every point is known."""
    p = (np.arange(32) + 0.5) / 32
    start = jnp.float32(special.ndtri(p)).reshape(-1, 1, 1, 1)
    keys = jax.random.split(jax.random.key(0), len(p))
    errors = [
        np.sqrt(np.mean((samples(name, LINE, n, keys, start)[:, 0] - quantile(LINE, p)) ** 2)) for n in (20, 40, 80)
    ]
    assert errors[0] > 1.6 * errors[1] > 1.6**2 * errors[2]
    assert errors[2] < 0.02

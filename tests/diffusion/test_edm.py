"""EDM's stochastic sampler: the algorithm as the paper writes it, its levels on every path, normal data, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion.normal_data import MEAN, STD, exact

from gen_jax.diffusion import sampler, schedule, solvers
from gen_jax.method import UserError

PATHS = {
    "linear": schedule.linear(),
    "cosine": schedule.cosine(zero_terminal_snr=True),
    "straight": schedule.straight(),
    "variance_exploding": schedule.variance_exploding(),
    "variance_preserving": schedule.variance_preserving(),
}


def rows_of(made, path, steps):
    levels = path.path(steps)
    t, s = sampler.pairs(levels)
    rows = sampler.Row(t, s, made.plan(levels, path))
    return [jax.tree.map(lambda leaf, i=i: leaf[i], rows) for i in range(len(steps))]


def algorithm_2(denoise, x, q, noise, s_churn, s_min, s_max, s_noise):
    """Karras et al. 2022, algorithm 2, line by line; q has N + 1 levels, the last of them 0."""
    n = len(q) - 1
    for i in range(n):
        gamma = min(s_churn / n, np.sqrt(2) - 1) if s_min <= q[i] <= s_max else 0
        eps = s_noise * noise[i]
        t_hat = q[i] + gamma * q[i]
        x_hat = x + np.sqrt(t_hat**2 - q[i] ** 2) * eps
        d = (x_hat - denoise(x_hat, t_hat)) / t_hat
        x = x_hat + (q[i + 1] - t_hat) * d
        if q[i + 1] != 0:
            d_there = (x - denoise(x, q[i + 1])) / q[i + 1]
            x = x_hat + (q[i + 1] - t_hat) * (d / 2 + d_there / 2)
    return x


@pytest.mark.parametrize("words", [(40, 0.05, 50, 1.003), (3, 0.0, 70, 0.9), (0.5, 1.0, 2.0, 1.0)])
def test_where_alpha_is_one_it_is_the_algorithm_of_the_paper(words):
    path, steps = PATHS["variance_exploding"], np.array([0.95, 0.8, 0.6, 0.5, 0.2, 0.01])
    noise = np.random.default_rng(0).normal(size=(6, 5))
    x = start = path.sigma(0.95) * np.random.default_rng(1).normal(size=5)
    with jax.enable_x64(True):
        for row, eps in zip(rows_of(solvers.edm(*words), path, steps), noise, strict=True):
            _, x, _ = solvers.edm(*words).step((), x, lambda x, level: jnp.tanh(x / (1 + level.sigma)), row, eps)
    q = np.append(path.sigma(steps), 0)
    expected = algorithm_2(lambda x, q: np.tanh(x / (1 + q)), start, q, noise, *words)
    np.testing.assert_allclose(x, expected, rtol=1e-10)


def test_the_churn_of_the_reference_sheet():
    """Noise of 2, as in one of 18 steps with a churn of 40: float64."""
    path = PATHS["variance_exploding"]
    steps = path.time_at(np.linspace(70, 2, 18))
    plan = solvers.edm().plan(path.path(steps), path)
    assert plan.level.sigma[-1] / 2 - 1 == pytest.approx(0.41421356237309515, rel=1e-9)
    assert plan.level.sigma[-1] == pytest.approx(2.8284271247461903, rel=1e-9)
    assert plan.of_noise[-1] == pytest.approx(2.006, rel=1e-9)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("n", [1, 7])
def test_without_churn_it_is_heun(path, n):
    keys, steps = jax.random.split(jax.random.key(0), 3), PATHS[path].steps(n)
    for still in (solvers.edm(s_churn=0.0), solvers.edm(s_min=0.0, s_max=0.0)):
        found, expected = (
            sampler.sample(exact, PATHS[path], way, steps, keys, (2,)) for way in (still, solvers.heun())
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)  # two programs: equal to rounding
        assert still.calls(n) == solvers.heun().calls(n) == 2 * n - 1
    assert not solvers.edm(s_churn=0.0).noisy


@pytest.mark.parametrize("path", PATHS)
def test_raised_levels_lie_on_the_path_and_are_reached_as_along_it(path):
    """Also on tables, between their times: the network is told the time that belongs to the noise."""
    made, n = PATHS[path], 6
    levels = made.path(made.steps(n))
    plan = solvers.edm(s_churn=0.6, s_min=0.0, s_max=1e9, s_noise=1.0).plan(levels, made)
    t, _ = sampler.pairs(levels)
    with np.errstate(divide="ignore"):
        q = t.sigma / t.alpha
    last = made.noise_range[1]
    expected = np.minimum(1.1 * q, last)
    np.testing.assert_allclose(plan.level.time[1:], made.at_noise(expected[1:]).time, rtol=1e-9)
    np.testing.assert_allclose(plan.level.sigma[1:] / plan.level.alpha[1:], expected[1:], rtol=1e-9)
    np.testing.assert_allclose(plan.of_x_t[1:], plan.level.alpha[1:] / t.alpha[1:], rtol=1e-12)
    np.testing.assert_allclose(  # the variance of q(x at the raised level | x_t)
        plan.of_noise[1:] ** 2, (plan.level.sigma**2 - (plan.of_x_t * t.sigma) ** 2)[1:], rtol=1e-9
    )
    assert np.all(plan.of_noise[1:] > 0)
    # The first step starts at the end of the path, which nothing can raise.
    assert (plan.of_x_t[0], plan.of_noise[0]) == (1, 0)
    assert [leaf[0] for leaf in plan.level] == [leaf[0] for leaf in t]


def test_noise_is_added_between_its_limits_alone():
    made = PATHS["straight"]
    steps = made.time_at(np.array([60.0, 50.0, 10.0, 0.5, 0.05, 0.04]))
    plan = solvers.edm(s_min=0.0501, s_max=49.9).plan(made.path(steps), made)
    assert (plan.of_noise > 0).tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("s_churn", [5.0, 40.0])
@pytest.mark.parametrize("path", PATHS)
def test_with_churn_normal_data_have_their_mean_and_variance(path, s_churn):
    """Every step is linear in x_t and the noise, so that both are known without drawing; from their exact start."""
    made = PATHS[path]
    way = solvers.edm(s_churn, 0.0, 1e9, 1.0)
    step = jax.jit(lambda x, row, noise: way.step((), x, exact, row, noise)[1])
    found = {}
    for n in (50, 200):
        levels = made.path(made.steps(n))
        m, variance = levels.alpha[0] * MEAN, (levels.alpha[0] * STD) ** 2 + levels.sigma[0] ** 2
        with jax.enable_x64(True):
            x, noise = jnp.array([0.0, 1.0, 0.0]), jnp.array([0.0, 0.0, 1.0])
            for row in rows_of(way, made, made.steps(n)):
                offset, one, noisy = (float(value) for value in step(x, row, noise))
                m, variance = offset + (one - offset) * m, (one - offset) ** 2 * variance + (noisy - offset) ** 2
        found[n] = abs(m - MEAN), abs(np.sqrt(variance) - STD)
    assert max(found[200]) < 0.01
    assert found[200][1] < found[50][1] / 2  # at least of first order


@pytest.mark.parametrize("path", ["cosine", "straight", "variance_exploding"])
def test_samples_with_churn_reach_mean_and_variance(path):
    keys = jax.random.split(jax.random.key(0), 4_000)
    x0 = np.asarray(sampler.sample(exact, PATHS[path], solvers.edm(), PATHS[path].steps(60), keys, (1,)))
    assert x0.mean() == pytest.approx(MEAN, abs=4.5 * STD / np.sqrt(4_000) + 0.01)
    assert x0.std() == pytest.approx(STD, rel=4.5 / np.sqrt(8_000) + 0.03)


@pytest.mark.parametrize(
    "words", [{"s_churn": -1.0}, {"s_min": -0.1}, {"s_noise": -1.0}, {"s_min": 2.0, "s_max": 1.0}, {"s_max": -1.0}]
)
def test_wrong_values_are_refused_in_one_line(words):
    with pytest.raises(
        UserError, match=r"^config\.sample\.sampler has s_churn .*; none may be negative, nor s_min above"
    ):
        solvers.edm(**words)

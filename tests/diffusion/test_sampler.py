"""Samplers: single steps in closed form, data whose exact denoiser is known, ends, keys.

That data is normal, or a mixture of two normal distributions, in one dimension. The way from noise to it keeps the
quantiles, so that the exact end of every point is known without a solver: the samplers' errors, and with which power
of the step they fall, are measured against that.
"""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from gen_jax import method
from gen_jax.diffusion import prediction, sampler, schedule, solvers

MADE = {
    "small": solvers.ancestral("small"),
    "large": solvers.ancestral("large"),
    "ddim 0": solvers.ddim(eta=0.0),
    "ddim 0.5": solvers.ddim(eta=0.5),
    "ddim 1": solvers.ddim(eta=1.0),
    "euler": solvers.euler(),
    "heun": solvers.heun(),
}
LINEAR_IN_X0_HAT = ("small", "large", "ddim 0", "ddim 0.5", "ddim 1", "euler")  # steps that ask once, by a plan
TABLES = [name for name, make in schedule.SCHEDULES.items() if isinstance(make(), schedule.Schedule)]
PATHS = {
    **{name: schedule.SCHEDULES[name](zero_terminal_snr=True) for name in TABLES},
    "straight": schedule.straight(),
    "variance_exploding": schedule.variance_exploding(),
    "variance_preserving": schedule.variance_preserving(),
}
KINDS = {name: make() for name, make in prediction.PREDICTIONS.items()}
X_T, X0_HAT = 0.7, -0.3
# (t, s or None for clean data, zero terminal SNR): eps_hat, mean of the ancestral step, its small and large variance,
# then mean and standard deviation of DDIM for eta 0.5, mean for eta 0. Linear schedule: reference sheet, float64.
SINGLE_STEPS = {
    (999, 979, False): (
        0.7019200097175248,
        0.5722771123234625,
        0.3298025155562465,
        0.32980906609465965,
        0.6700106430777765,
        0.28714217539236836,
        0.6995708458272393,
    ),
    (500, 480, False): (
        0.81606224918355,
        0.604128841988859,
        0.17662303428009873,
        0.1799543910082939,
        0.6648118187083223,
        0.2101327165627111,
        0.6839861883324098,
    ),
    (20, 0, False): (
        12.622500116480449,
        -0.28408647575481544,
        9.84135629651402e-05,
        0.006165187946595485,
        -0.19038229001156715,
        0.004960180514989858,
        -0.17375999846018372,
    ),
    (500, 499, False): (
        0.81606224918355,
        0.6949556284070193,
        0.010051335778909756,
        0.010059959959960119,
        0.6981710483586766,
        0.05012817515856167,
        0.6992399220118206,
    ),
    (0, None, False): (
        99.99849996250363,
        -0.30000000000000004,
        0.0,
        9.999999999998899e-05,
        -0.3,
        0.0,
        -0.3,
    ),
    (999, 949, True): (
        0.7,
        -0.0012210215938697059,
        0.9999834345140811,
        1.0,
        0.6049917398883715,
        0.4999958586113692,
        0.6987731804620471,
    ),
}
# t: factors of x0_hat and x_t, small and large variance of the step to t - 1 as Ho et al. write them: reference sheet.
POSTERIOR = {
    1: (0.5452914995102903, 0.4547084989905303, 5.4531876613021935e-05, 0.00011991991991991993),
    500: (0.003058057075629619, 0.9941043507567258, 0.010051335778909593, 0.010059959959959959),
    999: (0.00012835148717224682, 0.9899486782675173, 0.01999998352656061, 0.02),
}
MEAN, STD = 0.3, 0.5  # of the normal data with a known denoiser
NORMAL = ((1.0,), (MEAN,), (STD,))  # weights, means, standard deviations
MIXTURE = ((0.3, 0.7), (-0.8, 0.5), (0.25, 0.4))
SHAPE = (1, 1, 1)


def keys(n: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), n)


def walk(denoise, made, name, steps, keys, shape, **options):
    """One compiled `trajectory`, as numpy arrays."""
    run = jax.jit(lambda keys: sampler.trajectory(denoise, made, MADE[name], steps, keys, shape, **options))
    return jax.tree.map(np.asarray, run(keys))


def eps_of(x_t, x0_hat, level):
    """The noise that x0_hat leaves in x_t."""
    return (x_t - level.alpha * x0_hat) / level.sigma


def gaussian_denoiser(x_t, level):
    """E[x0 | x_t] for x0 ~ N(MEAN, STD^2): one weight a level between x_t and the mean."""
    alpha, sigma = (method.broadcast_to_images(leaf, x_t) for leaf in (level.alpha, level.sigma))
    return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x_t - alpha * MEAN)


def denoiser_of(data):
    """E[x0 | x_t] of a mixture, for x_t [N] and a level with leaves []."""
    weights, means, stds = (jnp.asarray(values) for values in data)

    def denoise(x_t, level):
        variance = (level.alpha * stds) ** 2 + level.sigma**2
        off = x_t[:, None] - level.alpha * means
        responsible = jax.nn.softmax(jnp.log(weights / jnp.sqrt(variance)) - off**2 / (2 * variance), axis=1)
        return jnp.sum(responsible * (means + level.alpha * stds**2 / variance * off), axis=1)

    return denoise


def flow(data, x, t, s):
    """Where the probability flow takes x [N] from level t to s: to the same quantile, in one dimension.

    By bisection of the smaller of the two tails, so that no quantile near 1 is rounded.
    """
    weights, means, stds = (np.asarray(values) for values in data)

    def tail(x, level, sign):
        z = (x[:, None] - level.alpha * means) / np.sqrt((level.alpha * stds) ** 2 + level.sigma**2)
        return np.sum(weights * special.ndtr(sign * z), axis=1)

    sign = np.where(tail(x, t, 1) < 0.5, 1, -1)[:, None]
    wanted = tail(x, t, sign)
    low, high = np.full_like(x, -1e3), np.full_like(x, 1e3)
    for _ in range(70):
        middle = (low + high) / 2
        below = sign[:, 0] * (tail(middle, s, sign) - wanted) < 0
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def at(levels, i):
    return schedule.Level(*(leaf[i] for leaf in levels))


def stacked_rows_of(way, levels, path=PATHS["linear"]):
    """The rows of all steps in float64, which `trajectory` rounds. Only EDM's churn depends on the path."""
    return sampler.Row(at(levels, slice(-1)), at(levels, slice(1, None)), way.plan(levels, path))


def rows_of(way, levels, path=PATHS["linear"]):
    rows = stacked_rows_of(way, levels, path)
    return [jax.tree.map(lambda leaf, i=i: leaf[i], rows) for i in range(len(levels.sigma) - 1)]


@functools.cache
def float64_step(name, data):
    denoise = denoiser_of(data)
    return jax.jit(lambda x, row: MADE[name].step((), x, denoise, row, None)[1])


def walk_in_float64(name, data, levels, x):
    """Where a sampler without noise goes from x [N], down the given levels."""
    with jax.enable_x64(True):
        step = float64_step(name, data)
        x = jnp.asarray(x)
        for row in rows_of(MADE[name], levels):
            x = step(x, row)
        return np.asarray(x)


@functools.cache
def affine_steps(name):
    """(rows, mean, std) -> where each step takes x_t = 0 and 1 without noise, and 0 with noise of 1: three [S]."""

    def of_row(mean, std, row):
        def denoise(x_t, level):
            gain = level.alpha * std**2 / (level.alpha**2 * std**2 + level.sigma**2)
            return mean + gain * (x_t - level.alpha * mean)

        starts = [(jnp.float64(x), jnp.float64(noise)) for x, noise in ((0, 0), (1, 0), (0, 1))]
        return [MADE[name].step((), x, denoise, row, noise)[1] for x, noise in starts]

    return jax.jit(lambda rows, mean, std: jax.lax.map(functools.partial(of_row, mean, std), rows))


def moments(name, made, steps, mean=MEAN, std=STD, start=None):
    """Mean and standard deviation of x after every step with the exact denoiser of N(mean, std^2), in float64.

    Every step is linear in x_t, whatever it asks, so that both are known without drawing samples.
    """
    levels = made.path(steps)
    m, variance = (0.0, schedule.start_std(made, levels) ** 2) if start is None else (start[0], start[1] ** 2)
    after = []
    with jax.enable_x64(True):
        rows = jax.tree.map(jnp.asarray, stacked_rows_of(MADE[name], levels))
        made_of = np.array(affine_steps(name)(rows, jnp.float64(mean), jnp.float64(std)))
    for offset, one, noisy in made_of.T:
        m, variance = offset + (one - offset) * m, (one - offset) ** 2 * variance + (noisy - offset) ** 2
        after.append((m, np.sqrt(variance)))
    return np.array(after)


@pytest.mark.parametrize(("t", "s", "rescaled"), SINGLE_STEPS)
def test_single_steps_are_those_of_the_closed_form(t, s, rescaled):
    eps_hat, mean, small, large, half_mean, half_std, ddim_mean = SINGLE_STEPS[t, s, rescaled]
    path = schedule.linear(zero_terminal_snr=rescaled).path([t] if s is None else [t, s])
    x_t, x0_hat = np.array([X_T]), np.array([X0_HAT])
    np.testing.assert_allclose(eps_of(x_t, x0_hat, at(path, 0)), eps_hat, rtol=1e-10)
    if s is None:
        large = 0  # the variance of q(x_t | clean data) is not added: the last step is the mean
    expected = {
        "small": (mean, np.sqrt(small)),
        "large": (mean, np.sqrt(large)),
        "ddim 0": (ddim_mean, 0),
        "ddim 0.5": (half_mean, half_std),
        "ddim 1": (mean, np.sqrt(small)),
        "euler": (ddim_mean, 0),
    }
    assert expected.keys() == set(LINEAR_IN_X0_HAT)
    for name, (expected_mean, expected_std) in expected.items():
        way, row = MADE[name], rows_of(MADE[name], path)[0]
        assert way.noisy == (expected_std > 0 or (s is None and name not in ("ddim 0", "euler")))
        carry, x_s, seen = way.step((), x_t, lambda x_t, level: x0_hat, row, None)
        np.testing.assert_allclose(x_s, expected_mean, rtol=1e-10)
        assert (carry, seen) == ((), x0_hat)
        np.testing.assert_allclose(row.plan.of_noise, expected_std, rtol=1e-10)
        noisy = way.step((), x_t, lambda x_t, level: x0_hat, row, np.array([2.0]))[1]
        np.testing.assert_allclose(noisy, expected_mean + 2 * expected_std, rtol=1e-10)


def test_single_steps_of_edm_are_those_of_the_closed_form():
    """Noise of 2 falls to 1; the data is N(0, 0.5^2). Reference sheet, float64: Karras et al. 2022, algorithm 1."""
    levels = schedule.Level(*np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 1.0]]))
    for name, expected in (("euler", 0.3705882352941176), ("heun", 0.38705882352941173)):
        x_s = walk_in_float64(name, ((1.0,), (0.0,), (0.5,)), levels, np.array([0.7]))
        np.testing.assert_allclose(x_s, expected, rtol=1e-12)
    np.testing.assert_allclose(
        flow(((1.0,), (0.0,), (0.5,)), np.array([0.7]), at(levels, 0), at(levels, 1)), 0.3796283011826483, rtol=1e-12
    )


def test_heun_along_the_straight_path_is_that_of_the_velocity():
    """x + (s - t) (v(x, t) + v(x + (s - t) v, s)) / 2, for any estimate; the last step is Euler's."""
    t = np.array([1.0, 0.6, 0.35])
    levels = schedule.straight().path(t)

    def denoise(x_t, level):
        return jnp.sin(3 * x_t) + level.alpha

    def velocity(x, t):
        return (x - (np.sin(3 * x) + 1 - t)) / t  # eps_hat - x0_hat, as x = (1 - t) x0 + t eps

    x = np.array([0.7, -1.1])
    for row, (here, there) in zip(rows_of(MADE["heun"], levels), itertools.pairwise([*t, 0.0]), strict=True):
        with jax.enable_x64(True):
            _, made, x0_hat = MADE["heun"].step((), jnp.asarray(x), denoise, row, None)
        slope = velocity(x, here)
        predicted = x + (there - here) * slope
        expected = predicted if there == 0 else x + (there - here) * (slope + velocity(predicted, there)) / 2
        np.testing.assert_allclose(x0_hat, np.sin(3 * x) + 1 - here, rtol=1e-14)
        np.testing.assert_allclose(made, expected, rtol=1e-13)
        x = expected


@pytest.mark.parametrize("t", POSTERIOR)
def test_neighbouring_steps_are_the_posterior_of_the_paper(t):
    of_x0, of_x_t, small, large = POSTERIOR[t]
    for name, variance in (("small", small), ("large", large)):
        path = schedule.linear()
        plan = MADE[name].plan(path.path([t, t - 1]), path)
        made = (plan.of_x0[0], plan.of_x_t[0], plan.of_noise[0] ** 2)
        np.testing.assert_allclose(made, (of_x0, of_x_t, variance), rtol=1e-9)


@pytest.mark.parametrize("name", LINEAR_IN_X0_HAT)
@pytest.mark.parametrize("path", ["linear", "straight"])
def test_all_but_the_mean_is_forgotten_only_where_it_must_be(name, path):
    """From pure noise an ancestral step forgets x_t; to clean data every step gives x0_hat itself."""
    levels = PATHS[path].path([999, 500] if path == "linear" else [1.0, 0.5])
    plan = MADE[name].plan(levels, PATHS[path])
    assert (plan.of_x_t[0] == 0) == (name in ("small", "large", "ddim 1"))
    assert [leaf[-1] for leaf in plan] == [0, 1, 0]


@pytest.mark.parametrize("name", ["small", "ddim 0", "ddim 0.5", "ddim 1", "euler", "heun"])
@pytest.mark.parametrize("path", ["cosine", "straight", "variance_exploding"])
@pytest.mark.parametrize("n", [2, 7, 50])
def test_data_at_one_point_has_its_exact_marginals_along_the_way(name, path, n):
    """With x0 known, q(x_t | x0) = N(alpha x0, sigma^2) must hold at every level, for any stride."""
    made = schedule.SCHEDULES[path]()
    levels = made.path(made.steps(n))
    start = (levels.alpha[0] * MEAN, levels.sigma[0])
    after = moments(name, made, made.steps(n), std=0.0, start=start)
    np.testing.assert_allclose(after, np.stack([levels.alpha * MEAN, levels.sigma], axis=1)[1:], atol=1e-12)


@pytest.mark.parametrize("n", [2, 7, 50])
def test_large_variance_is_exact_for_standard_normal_data(n):
    made = schedule.cosine()
    after = moments("large", made, made.steps(n), mean=0.0, std=1.0)
    np.testing.assert_allclose(after[:-1, 1], 1, rtol=1e-12)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("path", PATHS)
def test_gaussian_data_is_reached(name, path):
    made = PATHS[path]
    mean, std = moments(name, made, made.steps(1000))[-1]
    if path.startswith("variance"):
        # There is data left where the way starts, as from N(0, 80^2) and not N(MEAN, STD^2 + 80^2): the mean is off by
        # MEAN STD / 80, or that over sigma / alpha at the end of any such path.
        np.testing.assert_allclose(mean, MEAN, atol=1.1 * MEAN * STD / made.noise_range[1])
    else:
        np.testing.assert_allclose(mean, MEAN, atol=1e-12)
    np.testing.assert_allclose(std, STD, rtol=0.011)  # the error of 1000 steps of first order


# Numbers of steps.
COUNTS = {
    "straight": [20, 40, 80, 160],
    "cosine": [20, 50, 100, 200],
    "variance_exploding": [40, 80, 160, 320],
}


def errors(name, data, made, ways, end):
    """Root mean squares of the errors at 16 quantiles, walking down several lists of levels to the same end."""
    levels = made.path(made.steps(1))
    first = at(levels, 0)
    x = schedule.start_std(made, levels) * special.ndtri((np.arange(16) + 0.5) / 16)
    exact = flow(data, x, first, end)
    return np.array([np.sqrt(np.mean((walk_in_float64(name, data, way, x) - exact) ** 2)) for way in ways])


def order(counts, errors):
    """The power of the step with which the error falls."""
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


@pytest.mark.parametrize("data", [NORMAL, MIXTURE], ids=["normal", "mixture"])
@pytest.mark.parametrize("path", COUNTS)
def test_error_falls_with_the_first_power_of_the_step_of_euler_and_the_second_of_heun(path, data):
    made, counts = PATHS[path], COUNTS[path]
    ways = [made.path(made.steps(n)) for n in counts]
    of_euler, of_heun = (errors(name, data, made, ways, schedule.CLEAN) for name in ("euler", "heun"))
    assert 0.93 < order(counts, of_euler) < 1.05
    if path == "cosine":
        # Its noise falls to nothing as a root of the time (the offset 0.008 of Nichol & Dhariwal): the last step, which
        # is Euler's for Heun too, is long however many there are.
        assert 1.1 < order(counts, of_heun) < 1.7
        assert np.all(of_heun < of_euler / 4)
    else:
        assert 1.95 < order(counts, of_heun) < 2.15
        assert np.all(of_heun < of_euler / (np.array(counts) / 7))


@pytest.mark.parametrize("data", [NORMAL, MIXTURE], ids=["normal", "mixture"])
@pytest.mark.parametrize("path", COUNTS)
def test_before_the_last_step_heun_is_of_second_order_on_every_path(path, data):
    """From noise down to the same tenth of the path."""
    made, counts = PATHS[path], COUNTS[path]
    first, last = (999, 99) if path == "cosine" else (1.0, 0.1)
    ways = []
    for n in counts:
        steps = np.linspace(first, last, n + 1)
        levels = made.path(steps.round().astype(int) if path == "cosine" else steps)
        ways.append(schedule.Level(*(leaf[:-1] for leaf in levels)))
    end = at(ways[0], -1)
    assert 0.93 < order(counts, errors("euler", data, made, ways, end)) < 1.07
    assert 1.85 < order(counts, errors("heun", data, made, ways, end)) < 2.2


@pytest.mark.parametrize("name", ["ddim 0", "euler"])
def test_error_of_ddim_falls_with_the_first_power_of_the_step(name):
    """On a table that is fine enough for any number of steps: the spread of normal data."""
    made = schedule.cosine(num_steps=16000, zero_terminal_snr=True)
    counts = [100, 200, 400, 800]
    found = [abs(moments(name, made, made.steps(n))[-1, 1] - STD) for n in counts]
    np.testing.assert_allclose(order(counts, found), 1, atol=0.02)


# Draws cost most. Every sampler is drawn from on one path and one sampler on every path; that moments are right in all
# pairs is seen without drawing anything, by the tests above.
def each_pair(names, paths):
    return pytest.mark.parametrize(
        ("path", "name"),
        [
            pytest.param(path, name, marks=[pytest.mark.slow] * (name != "small" and path != "straight"))
            for path in paths
            for name in names
        ],
    )


@each_pair(MADE, ["linear", "straight", "variance_exploding"])
def test_samples_have_the_moments_that_the_steps_predict(name, path):
    n = 16384
    made = schedule.SCHEDULES[path]()
    samples = walk(gaussian_denoiser, made, name, made.steps(20), keys(n), SHAPE, keep=()).x0
    mean, std = moments(name, made, made.steps(20))[-1]
    np.testing.assert_allclose(samples.mean(), mean, atol=4 * std / np.sqrt(n))
    np.testing.assert_allclose(samples.std(), std, atol=4 * std / np.sqrt(2 * n))


@each_pair(["small", "ddim 0", "heun"], ["cosine", "straight", "variance_exploding"])
def test_samples_of_gaussian_data_reach_its_mean_and_variance(name, path):
    n = 4096
    made = PATHS[path]
    samples = walk(gaussian_denoiser, made, name, made.steps(1000), keys(n), SHAPE, keep=()).x0
    np.testing.assert_allclose(samples.mean(), MEAN, atol=0.002 + 4 * STD / np.sqrt(n))
    np.testing.assert_allclose(samples.std(), STD, atol=0.006 * STD + 4 * STD / np.sqrt(2 * n))


@each_pair(["small", "euler", "heun"], ["cosine", "straight", "variance_exploding"])
def test_samples_of_a_mixture_are_distributed_as_it_is(name, path):
    n = 4096
    made = PATHS[path]
    one = denoiser_of(MIXTURE)

    def denoise(x_t, level):
        return one(x_t[:, 0, 0, 0], schedule.Level(*(leaf[0] for leaf in level))).reshape(x_t.shape)

    samples = walk(denoise, made, name, made.steps(200), keys(n), SHAPE, keep=()).x0
    assert samples.dtype == np.float32
    weights, means, stds = map(np.array, MIXTURE)
    quantiles = np.sum(weights * special.ndtr((np.sort(samples.ravel())[:, None] - means) / stds), axis=1)
    distance = np.abs(quantiles - (np.arange(n) + 0.5) / n).max()
    assert distance < 1.95 / np.sqrt(n) + 0.005  # Kolmogorov: chance 0.001, and an error of 200 steps


@pytest.mark.parametrize("name", ["ddim 0", "euler", "heun"])
@pytest.mark.parametrize("path", ["linear", "straight", "variance_exploding"])
def test_float32_scan_agrees_with_float64_steps(name, path):
    made = PATHS[path]
    steps = made.steps(50)
    way = walk(gaussian_denoiser, made, name, steps, keys(3), (2, 2, 1), keep=[0])
    exact = walk_in_float64(name, NORMAL, made.path(steps), np.asarray(way.x_t[0], np.float64).ravel())
    np.testing.assert_allclose(way.x0.ravel(), exact, atol=3e-6)


def test_heun_asks_twice_a_step_but_once_at_the_end_and_never_of_clean_data():
    made = schedule.straight()
    asked = []

    def denoise(x_t, level):
        jax.debug.callback(lambda time, sigma: asked.append((time[0].item(), sigma[0].item())), level.time, level.sigma)
        return gaussian_denoiser(x_t, level)

    for name, n in (("heun", 1), ("heun", 7), ("euler", 7)):
        asked.clear()
        walk(denoise, made, name, made.steps(n), keys(3), (2, 2, 1), keep=())
        jax.effects_barrier()
        times = [np.float32(1000 * (n - i) / n).item() for i in range(n)]
        expected = [*times, *times[1:]] if name == "heun" else times
        assert len(asked) == len(expected) == MADE[name].calls(n) == (2 * n - 1 if name == "heun" else n)
        assert collections.Counter(time for time, _ in asked) == collections.Counter(expected)
        assert all(sigma > 0 for _, sigma in asked)


@pytest.mark.parametrize(
    ("name", "kind", "path"),
    [("small", "v", "cosine"), ("large", "x", "cosine"), ("ddim 0", "v", "cosine"), ("ddim 1", "x", "cosine"),
     ("heun", "v", "cosine"), ("euler", "velocity", "straight"), ("heun", "velocity", "straight"),
     ("heun", "edm", "variance_exploding")],
)  # fmt: skip
def test_gradients_through_sampling_from_pure_noise_are_finite(name, kind, path):
    made = PATHS[path]

    def mean_sample(scale):
        def denoise(x_t, level):
            wide = schedule.Level(*(leaf[:, None, None, None] for leaf in level))
            return prediction.to_x0(KINDS[kind], scale * jnp.sin(x_t), x_t, wide, made.unit)

        return jnp.mean(sampler.sample(denoise, made, MADE[name], made.steps(7), keys(2), (2, 2, 1)))

    value, gradient = jax.jit(jax.value_and_grad(mean_sample))(0.5)
    assert np.isfinite(value)
    assert np.isfinite(gradient)
    assert gradient != 0


@pytest.mark.parametrize("name", ["small", "ddim 0", "heun"])
def test_an_image_is_the_same_however_many_are_drawn(name):
    made = schedule.linear()
    seven = walk(gaussian_denoiser, made, name, made.steps(7), keys(7), (4, 4, 1), keep=()).x0
    four = walk(gaussian_denoiser, made, name, made.steps(7), keys(7)[:4], (4, 4, 1), keep=()).x0
    np.testing.assert_allclose(seven[:4], four, atol=1e-6)  # two programs: equal to rounding
    assert len(np.unique(seven[:, 0, 0, 0])) == 7


@pytest.mark.parametrize("n", [1, 10])
@each_pair(MADE, ["linear", "straight"])
def test_the_last_step_gives_x0_hat_itself(name, n, path):
    """No noise at the end, and clean data as the last target: one step from T gives x0_hat of pure noise."""
    made = schedule.SCHEDULES[path]()
    way = walk(gaussian_denoiser, made, name, made.steps(n), keys(3), (2, 2, 1))
    np.testing.assert_allclose(way.x0, way.x0_hat[-1], atol=1e-6)  # the compiler may round the two differently


def test_trajectories_keep_what_was_asked_for_of_the_same_process():
    made = schedule.linear()
    arguments = (gaussian_denoiser, made, "small", made.steps(10), keys(3), (4, 4, 2))
    every = walk(*arguments)
    sample = jax.jit(
        lambda keys: sampler.sample(gaussian_denoiser, made, MADE["small"], made.steps(10), keys, (4, 4, 2))
    )
    assert every.x_t.shape == every.x0_hat.shape == (10, 3, 4, 4, 2)
    np.testing.assert_allclose(every.x0, sample(keys(3)), atol=1e-6)
    some = walk(*arguments, keep=[0, 3, 9])
    np.testing.assert_allclose(some.x_t, every.x_t[[0, 3, 9]], atol=1e-6)
    np.testing.assert_allclose(some.x0_hat, every.x0_hat[[0, 3, 9]], atol=1e-6)
    first_noise = [jax.random.normal(jax.random.fold_in(key, 0), (4, 4, 2)) for key in keys(3)]
    np.testing.assert_array_equal(every.x_t[0], np.stack(first_noise))


@pytest.mark.parametrize("name", ["ddim 0", "heun"])
def test_where_variance_explodes_the_way_starts_from_noise_of_sigma_max(name):
    made = schedule.variance_exploding(0.01, 50.0)
    way = walk(gaussian_denoiser, made, name, made.steps(3), keys(3), (4, 4, 2), keep=[0])
    first_noise = [50 * jax.random.normal(jax.random.fold_in(key, 0), (4, 4, 2)) for key in keys(3)]
    np.testing.assert_allclose(way.x_t[0], np.stack(first_noise), rtol=1e-6)


@pytest.mark.parametrize("path", ["cosine", "straight", "variance_exploding"])
def test_the_denoiser_is_told_the_levels_of_the_list(path):
    """The same leaves, of a table to the last bit, as training gets from `level`."""
    made = schedule.cosine(num_steps=50) if path == "cosine" else PATHS[path]
    steps = made.steps(7, "linspace") if path == "cosine" else made.steps(7)
    for leaf in range(3):
        way = walk(
            lambda x_t, level, leaf=leaf: jnp.broadcast_to(level[leaf][:, None, None, None], x_t.shape),
            *(made, "ddim 0", steps, keys(2), (1, 1, 1)),
        )
        trained = jax.jit(made.level)(jnp.asarray(steps))[leaf]
        told = way.x0_hat[:, :, 0, 0, 0]
        np.testing.assert_allclose(told, np.stack([trained, trained], axis=1), rtol=0 if path == "cosine" else 5e-6)


def test_noise_is_derived_from_the_clipped_estimate():
    made = schedule.linear()
    denoise = sampler.clipped(lambda x_t, level: 10 * x_t)
    way = walk(denoise, made, "ddim 0", [800, 700], keys(4), (4, 4, 1))
    assert np.abs(way.x0_hat).max() == 1
    before, after, _ = (at(made.path([800, 700]), i) for i in range(3))
    again = schedule.add_noise(way.x0_hat[0], eps_of(way.x_t[0], way.x0_hat[0], before), after)
    np.testing.assert_allclose(way.x_t[1], again, atol=1e-6)


@pytest.mark.parametrize("name", ["small", "heun"])
def test_samples_are_float32_whatever_the_network_computes_in(name):
    made = schedule.linear()

    def low_precision(x_t, level):
        return gaussian_denoiser(x_t, level).astype(jnp.bfloat16)

    way = walk(low_precision, made, name, made.steps(3), keys(2), (2, 2, 1))
    assert {leaf.dtype for leaf in way} == {jnp.dtype(jnp.float32)}


def test_wrong_choices_are_refused_in_one_line():
    with pytest.raises(method.UserError, match=r"^unknown variance 'medium' .* there are small, large, learned$"):
        solvers.ancestral("medium")
    with pytest.raises(method.UserError, match=r"^eta of the DDIM sampler must be between 0 and 1, not 1\.5$"):
        solvers.ddim(1.5)
    with pytest.raises(method.UserError, match="must fall strictly"):
        sampler.sample(gaussian_denoiser, schedule.linear(), MADE["small"], [5, 7], keys(1), (1, 1, 1))

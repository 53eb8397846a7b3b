"""Samplers: single steps in closed form, data whose exact denoiser is known, ends, keys, finite values everywhere."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import method
from gen_jax.diffusion import prediction, sampler, schedule

MADE = {
    "small": sampler.ancestral("small"),
    "large": sampler.ancestral("large"),
    "ddim 0": sampler.ddim(eta=0.0),
    "ddim 0.5": sampler.ddim(eta=0.5),
    "ddim 1": sampler.ddim(eta=1.0),
}
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
MEAN, STD = 0.3, 0.5  # of the data with a known denoiser


def keys(n: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), n)


def walk(denoise, made, name, steps, keys, shape, **options):
    """One compiled `trajectory`, as numpy arrays."""
    run = jax.jit(lambda keys: sampler.trajectory(denoise, made, MADE[name], steps, keys, shape, **options))
    return jax.tree.map(np.asarray, run(keys))


def gaussian_denoiser(x_t, level):
    """E[x0 | x_t] for x0 ~ N(MEAN, STD^2): one weight a level between x_t and the mean."""
    alpha, sigma = (method.broadcast_to_images(leaf, x_t) for leaf in (level.alpha, level.sigma))
    return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x_t - alpha * MEAN)


def moments(name_of_sampler, made, steps, mean=MEAN, std=STD, start=(0.0, 1.0)):
    """Mean and standard deviation of x after every step with the exact denoiser of N(mean, std^2), in float64.

    Every step is linear in x_t, so that both are known without drawing samples.
    """
    path = made.path(steps)
    (m, variance), after = (start[0], start[1] ** 2), []
    for alpha, sigma, of_x_t, of_x0, of_noise in zip(
        path.alpha, path.sigma, *MADE[name_of_sampler].plan(path), strict=False
    ):
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        slope = of_x_t + of_x0 * gain
        m = slope * m + of_x0 * (1 - gain * alpha) * mean
        variance = slope**2 * variance + of_noise**2
        after.append((m, np.sqrt(variance)))
    return np.array(after)


@pytest.mark.parametrize(("t", "s", "rescaled"), SINGLE_STEPS)
def test_single_steps_are_those_of_the_closed_form(t, s, rescaled):
    eps_hat, mean, small, large, half_mean, half_std, ddim_mean = SINGLE_STEPS[t, s, rescaled]
    path = schedule.linear(zero_terminal_snr=rescaled).path([t] if s is None else [t, s])
    x_t, x0_hat = np.array([X_T]), np.array([X0_HAT])
    first = schedule.Level(*(leaf[:1] for leaf in path))
    np.testing.assert_allclose(prediction.eps_from_x0(x_t, x0_hat, first), eps_hat, rtol=1e-10)
    if s is None:
        large = 0  # the variance of q(x_t | clean data) is not added: the last step is the mean
    expected = {
        "small": (mean, np.sqrt(small)),
        "large": (mean, np.sqrt(large)),
        "ddim 0": (ddim_mean, 0),
        "ddim 0.5": (half_mean, half_std),
        "ddim 1": (mean, np.sqrt(small)),
    }
    for name, (expected_mean, expected_std) in expected.items():
        row = sampler.Transition(*(leaf[0] for leaf in MADE[name].plan(path)))
        np.testing.assert_allclose(MADE[name].step((), x_t, x0_hat, row, None)[1], expected_mean, rtol=1e-10)
        np.testing.assert_allclose(row.of_noise, expected_std, rtol=1e-10)
        noisy = MADE[name].step((), x_t, x0_hat, row, np.array([2.0]))[1]
        np.testing.assert_allclose(noisy, expected_mean + 2 * expected_std, rtol=1e-10)


@pytest.mark.parametrize("t", POSTERIOR)
def test_neighbouring_steps_are_the_posterior_of_the_paper(t):
    of_x0, of_x_t, small, large = POSTERIOR[t]
    for name, variance in (("small", small), ("large", large)):
        plan = MADE[name].plan(schedule.linear().path([t, t - 1]))
        made = (plan.of_x0[0], plan.of_x_t[0], plan.of_noise[0] ** 2)
        np.testing.assert_allclose(made, (of_x0, of_x_t, variance), rtol=1e-9)


@pytest.mark.parametrize("name", MADE)
def test_all_but_the_mean_is_forgotten_only_where_it_must_be(name):
    """From pure noise an ancestral step forgets x_t; to clean data every step gives x0_hat itself."""
    plan = MADE[name].plan(schedule.linear(zero_terminal_snr=True).path([999, 500]))
    assert (plan.of_x_t[0] == 0) == (name in ("small", "large", "ddim 1"))
    assert [leaf[-1] for leaf in plan] == [0, 1, 0]


@pytest.mark.parametrize("name", ["small", "ddim 0", "ddim 0.5", "ddim 1"])
@pytest.mark.parametrize("n", [2, 7, 50])
def test_data_at_one_point_has_its_exact_marginals_along_the_way(name, n):
    """With x0 known, q(x_t | x0) = N(alpha x0, sigma^2) must hold at every level, for any stride."""
    made = schedule.cosine()
    path = made.path(made.steps(n))
    start = (path.alpha[0] * MEAN, path.sigma[0])
    after = moments(name, made, made.steps(n), std=0.0, start=start)
    np.testing.assert_allclose(after, np.stack([path.alpha * MEAN, path.sigma], axis=1)[1:], atol=1e-12)


@pytest.mark.parametrize("n", [2, 7, 50])
def test_large_variance_is_exact_for_standard_normal_data(n):
    made = schedule.cosine()
    after = moments("large", made, made.steps(n), mean=0.0, std=1.0)
    np.testing.assert_allclose(after[:-1, 1], 1, rtol=1e-12)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("schedule_name", schedule.SCHEDULES)
def test_gaussian_data_is_reached(name, schedule_name):
    made = schedule.SCHEDULES[schedule_name](zero_terminal_snr=True)
    mean, std = moments(name, made, made.steps(made.num_steps))[-1]
    np.testing.assert_allclose(mean, MEAN, atol=1e-12)
    np.testing.assert_allclose(std, STD, rtol=0.011)  # the error of 1000 steps of first order


def test_error_of_ddim_falls_with_the_first_power_of_the_step():
    made = schedule.cosine(num_steps=16000, zero_terminal_snr=True)
    counts = [100, 200, 400, 800]
    errors = [abs(moments("ddim 0", made, made.steps(n))[-1, 1] - STD) for n in counts]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    np.testing.assert_allclose(slope, -1, atol=0.02)


@pytest.mark.parametrize("name", MADE)
def test_samples_have_the_moments_that_the_steps_predict(name):
    n = 16384
    made = schedule.linear()
    samples = walk(gaussian_denoiser, made, name, made.steps(20), keys(n), (1, 1, 1), keep=()).x0
    mean, std = moments(name, made, made.steps(20))[-1]
    np.testing.assert_allclose(samples.mean(), mean, atol=4 * std / np.sqrt(n))
    np.testing.assert_allclose(samples.std(), std, atol=4 * std / np.sqrt(2 * n))


@pytest.mark.parametrize("name", ["small", "ddim 0"])
def test_samples_of_gaussian_data_reach_its_mean_and_variance(name):
    n = 4096
    made = schedule.cosine(zero_terminal_snr=True)
    steps = made.steps(made.num_steps)
    samples = walk(gaussian_denoiser, made, name, steps, keys(n), (1, 1, 1), keep=()).x0
    np.testing.assert_allclose(samples.mean(), MEAN, atol=4 * STD / np.sqrt(n))
    np.testing.assert_allclose(samples.std(), STD, atol=0.005 * STD + 4 * STD / np.sqrt(2 * n))


def test_float32_scan_agrees_with_float64_steps():
    made = schedule.linear()
    steps = made.steps(50)
    way = walk(gaussian_denoiser, made, "ddim 0", steps, keys(3), (2, 2, 1), keep=[0])
    path = made.path(steps)
    plan = MADE["ddim 0"].plan(path)
    x = np.asarray(way.x_t[0], np.float64)
    for i in range(len(steps)):
        level, row = schedule.Level(*(leaf[i] for leaf in path)), sampler.Transition(*(leaf[i] for leaf in plan))
        _, x = MADE["ddim 0"].step((), x, gaussian_denoiser(x, level), row, None)
    np.testing.assert_allclose(way.x0, x, atol=2e-6)


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("name", schedule.SCHEDULES)
def test_values_are_finite_everywhere(name, rescaled):
    """Prediction x sampler x spacing x number of steps, float32 numpy; a network that is bounded and else arbitrary."""
    made = schedule.SCHEDULES[name](zero_terminal_snr=rescaled)
    kinds = [kind for kind in prediction.PREDICTIONS.values() if not (rescaled and kind.needs_signal)]
    x_T = np.array([[-3.0], [0.1], [2.0]], np.float32)
    for way, spacing, n in itertools.product(MADE.values(), schedule.SPACINGS, (1, 2, 7, 50, made.num_steps)):
        path = made.path(made.steps(n, spacing))
        rows = np.stack([*path[1:], *(np.append(leaf, 0) for leaf in way.plan(path))], axis=1).astype(np.float32)
        assert np.all(np.isfinite(rows))
        for kind in kinds:
            x = x_T
            for alpha, sigma, *row in rows[:-1]:
                level = schedule.Level(None, alpha, sigma)
                x0_hat = np.clip(kind.to_x0(np.sin(3 * x), x, level), -1, 1)
                _, x = way.step((), x, x0_hat, sampler.Transition(*row), x_T if way.noisy else None)
            assert np.all(np.abs(x) <= 1), (way, spacing, n, kind.name)  # the last x0_hat; also False for NaN


@pytest.mark.parametrize(("name", "kind"), [("small", "v"), ("large", "x"), ("ddim 0", "v"), ("ddim 1", "x")])
def test_gradients_through_sampling_from_pure_noise_are_finite(name, kind):
    made = schedule.cosine(zero_terminal_snr=True)

    def mean_sample(scale):
        def denoise(x_t, level):
            return prediction.PREDICTIONS[kind].to_x0(scale * jnp.sin(x_t), x_t, level)

        return jnp.mean(sampler.sample(denoise, made, MADE[name], made.steps(7), keys(2), (2, 2, 1)))

    value, gradient = jax.jit(jax.value_and_grad(mean_sample))(0.5)
    assert np.isfinite(value)
    assert np.isfinite(gradient)
    assert gradient != 0


@pytest.mark.parametrize("name", ["small", "ddim 0"])
def test_an_image_is_the_same_however_many_are_drawn(name):
    made = schedule.linear()
    seven = walk(gaussian_denoiser, made, name, made.steps(7), keys(7), (4, 4, 1), keep=()).x0
    four = walk(gaussian_denoiser, made, name, made.steps(7), keys(7)[:4], (4, 4, 1), keep=()).x0
    np.testing.assert_allclose(seven[:4], four, atol=1e-6)  # two programs: equal to rounding
    assert len(np.unique(seven[:, 0, 0, 0])) == 7


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("n", [1, 10])
def test_the_last_step_gives_x0_hat_itself(name, n):
    """No noise at the end, and clean data as the last target: one step from T gives x0_hat of pure noise."""
    made = schedule.linear()
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


def test_the_denoiser_is_told_the_levels_of_the_list():
    """The same leaves, to the last bit, as training gets from `Schedule.level`."""
    made = schedule.cosine(num_steps=50)
    steps = made.steps(7, "linspace")
    for leaf in range(3):
        way = walk(
            lambda x_t, level, leaf=leaf: jnp.broadcast_to(level[leaf][:, None, None, None], x_t.shape),
            *(made, "ddim 0", steps, keys(2), (1, 1, 1)),
        )
        trained = jax.jit(made.level)(jnp.asarray(steps))[leaf]
        np.testing.assert_array_equal(way.x0_hat[:, :, 0, 0, 0], np.stack([trained, trained], axis=1))


def test_noise_is_derived_from_the_clipped_estimate():
    made = schedule.linear()
    denoise = sampler.clipped(lambda x_t, level: 10 * x_t)
    way = walk(denoise, made, "ddim 0", [800, 700], keys(4), (4, 4, 1))
    assert np.abs(way.x0_hat).max() == 1
    before, after, _ = (schedule.Level(*leaves) for leaves in zip(*made.path([800, 700]), strict=True))
    eps_hat = prediction.eps_from_x0(way.x_t[0], way.x0_hat[0], before)
    again = schedule.add_noise(way.x0_hat[0], eps_hat, after)
    np.testing.assert_allclose(way.x_t[1], again, atol=1e-6)


def test_samples_are_float32_whatever_the_network_computes_in():
    made = schedule.linear()

    def low_precision(x_t, level):
        return gaussian_denoiser(x_t, level).astype(jnp.bfloat16)

    way = walk(low_precision, made, "small", made.steps(3), keys(2), (2, 2, 1))
    assert {leaf.dtype for leaf in way} == {jnp.dtype(jnp.float32)}


def test_wrong_choices_are_refused_in_one_line():
    with pytest.raises(method.UserError, match=r"^unknown variance 'medium' .* there are small, large$"):
        sampler.ancestral("medium")
    with pytest.raises(method.UserError, match=r"^eta of the DDIM sampler must lie within 0 and 1, not 1\.5$"):
        sampler.ddim(1.5)
    with pytest.raises(method.UserError, match="must fall strictly"):
        sampler.sample(gaussian_denoiser, schedule.linear(), MADE["small"], [5, 7], keys(1), (1, 1, 1))

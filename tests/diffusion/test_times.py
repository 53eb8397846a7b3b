"""Times of training: densities against scipy's, and a batch that covers the path."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gen_jax import methods
from gen_jax.diffusion import process, schedule, times
from gen_jax.method import UserError

CONFIG = methods.load("flow_mnist")[2]
KEYS = jax.random.split(jax.random.key(0), 50)


def made(*words: str) -> process.Process:
    return process.make(methods.override(CONFIG, words).diffusion)


def of_schedule(name: str) -> process.Process:
    return made(f"--config.diffusion.schedule={name}")


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.7), (1.0, 2.0)])
def test_logit_normal_is_that_of_scipy(mean, std):
    """Its quantiles are sigmoids of those of a normal distribution; and drawn times are spread as it says."""
    density = times.logit_normal(mean, std)(schedule.straight())
    u = np.linspace(0.001, 0.999, 500)
    normal = stats.norm(mean, std)
    np.testing.assert_allclose(density(jnp.asarray(u, jnp.float32)), 1 / (1 + np.exp(-normal.ppf(u))), rtol=2e-5)
    drawn = np.asarray(density(jax.random.uniform(jax.random.key(0), (5000,))), np.float64)
    logit = np.log(drawn) - np.log1p(-drawn)
    assert stats.kstest(logit, normal.cdf).pvalue > 0.01


def test_uniform_is_uniform():
    u = jax.random.uniform(jax.random.key(1), (5000,))
    np.testing.assert_allclose(times.uniform()(schedule.straight())(u), u, atol=schedule.EARLIEST)


def test_densities_have_their_ends_within_the_path():
    every = (times.uniform(), times.logit_normal(), times.logit_normal(3.0, 0.1), times.log_normal())
    u = jnp.array([0.0, np.nextafter(np.float32(1), np.float32(0))])
    for density, make in itertools.product(every, schedule.SCHEDULES.values()):
        path = make()
        for ends in (density(path)(u), jax.jit(density(path))(u)):
            level = path.level(ends)
            assert np.all(np.isfinite(jnp.stack(level)))
            assert np.all(level.sigma > 0)


def test_a_density_without_a_width_is_refused():
    for std in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match=r"^config\.diffusion\.times\.std is .* is positive$"):
            times.logit_normal(std=std)


@pytest.mark.parametrize("name", ["cosine", "straight", "variance_exploding"])
def test_times_of_a_batch_are_spread_over_the_whole_path(name):
    """One time in each of as many equal parts as there are examples; of a step as of any other."""
    size, path = 16, of_schedule(name)
    draw = jax.jit(lambda key: path.draw_times(key, jnp.arange(size), size))
    for key in KEYS[:10]:
        t = np.sort(np.asarray(draw(key), np.float64))
        scale = path.path.num_steps if isinstance(path.path, schedule.Schedule) else 1
        if scale == 1:
            np.testing.assert_array_equal(np.floor(t * size), np.arange(size))
            np.testing.assert_allclose(np.diff(t), 1 / size, atol=1e-6)
        else:
            assert set(np.diff(t)) <= {scale // size, -(-scale // size)}
    first = np.array([draw(key)[0] for key in KEYS]) / scale
    assert stats.kstest(first, "uniform").pvalue > 0.01  # the times of one example, over the steps


def test_times_of_a_batch_are_spread_over_a_density():
    path = made("--config.diffusion.times=logit_normal", "--config.diffusion.times.mean=-0.5")
    t = np.sort(np.asarray(path.draw_times(KEYS[0], jnp.arange(64), 64), np.float64))
    shares = stats.norm(-0.5, 1).cdf(np.log(t) - np.log1p(-t))
    np.testing.assert_array_equal(np.floor(shares * 64), np.arange(64))


@pytest.mark.parametrize("num_steps", [1, 7, 10, 1000])
def test_times_of_a_table_are_all_drawn_and_no_others(num_steps):
    path = schedule.linear(num_steps)
    u = jnp.linspace(0, np.nextafter(np.float32(1), np.float32(0)), 20 * num_steps + 1)
    drawn, counts = np.unique(path.times(u), return_counts=True)
    np.testing.assert_array_equal(drawn, np.arange(num_steps))
    assert counts.max() - counts.min() <= 2  # all as wide as each other
    # A batch of the size of the table has each once, whatever the shift.
    whole = process.Process(path, None, None, times.uniform()(path), None, None)
    np.testing.assert_array_equal(
        np.sort(whole.draw_times(KEYS[0], jnp.arange(num_steps), num_steps)), np.arange(num_steps)
    )


def test_times_of_a_formula_leave_out_only_where_there_is_no_noise():
    path = schedule.straight()
    t = path.times(jnp.array([0.0, 1e-7, 0.3, 1.0]))
    np.testing.assert_allclose(t, [schedule.EARLIEST, schedule.EARLIEST, 0.3, 1.0], rtol=1e-6)


def test_times_belong_to_positions_in_the_batch():
    path = of_schedule("straight")
    whole = path.draw_times(KEYS[3], jnp.arange(12), 12)
    halves = [path.draw_times(KEYS[3], index, 12) for index in (jnp.arange(6), jnp.arange(6, 12))]
    np.testing.assert_array_equal(np.concatenate(halves), whole)


@pytest.mark.parametrize("path", [schedule.variance_exploding(), schedule.straight(), schedule.variance_preserving()])
def test_log_normal_noise_is_that_of_scipy(path):
    density = jax.jit(times.log_normal()(path))
    u = np.linspace(0.001, 0.999, 500)
    level = path.level(density(jnp.asarray(u, jnp.float32)))
    q = np.asarray(level.sigma, np.float64) / np.asarray(level.alpha, np.float64)
    low, high = (np.log([0.002, 80]) + 1.2) / 1.2  # where noise explodes the path ends there, which cuts off 2e-5
    ends = (low, high) if path.name == "variance_exploding" else (-np.inf, np.inf)
    np.testing.assert_allclose(np.log(q), stats.truncnorm(*ends, loc=-1.2, scale=1.2).ppf(u), atol=1e-3)
    level = path.level(density(jax.random.uniform(jax.random.key(2), (5000,))))
    drawn = np.log(np.asarray(level.sigma, np.float64) / np.asarray(level.alpha, np.float64))
    assert stats.kstest(drawn, stats.norm(-1.2, 1.2).cdf).pvalue > 0.01


def test_log_normal_noise_is_cut_off_at_the_ends_of_a_path_and_not_piled_up_there():
    path = schedule.variance_exploding(0.1, 1.0)
    density = times.log_normal()(path)
    level = path.level(density(jnp.linspace(0, 1, 4001)[:-1]))
    log_q = np.log(np.asarray(level.sigma, np.float64))
    low, high = (np.log([0.1, 1.0]) + 1.2) / 1.2
    expected = stats.truncnorm(low, high, loc=-1.2, scale=1.2).ppf(np.arange(4000) / 4000)
    np.testing.assert_allclose(log_q, expected, atol=1e-4)  # time is no earlier than 1e-5: 2e-5 of this log
    assert len(np.unique(log_q)) > 3900


def test_log_normal_noise_of_a_table_is_that_of_the_nearest_time():
    path = schedule.cosine(100, zero_terminal_snr=True)
    t = times.log_normal()(path)(jnp.linspace(0, 1, 50_001)[:-1])
    assert t.dtype == jnp.int32
    counts = np.bincount(t, minlength=100) / 50_000
    angles = np.arctan2(path.sigma, path.alpha)
    edges = np.concatenate([angles[:1], (angles[1:] + angles[:-1]) / 2, angles[-1:]])  # of the table's own range
    shares = np.diff(stats.norm(-1.2, 1.2).cdf(np.log(np.tan(np.minimum(edges, np.pi / 2 - 1e-12)))))
    np.testing.assert_allclose(counts, shares / shares.sum(), atol=2e-4)


def test_log_normal_noise_of_a_batch_is_spread_over_the_density():
    process = made("--config.diffusion.schedule=variance_exploding", "--config.diffusion.times=log_normal")
    t = np.sort(np.asarray(process.draw_times(KEYS[0], jnp.arange(64), 64), np.float64))
    shares = stats.norm(-1.2, 1.2).cdf(np.log(process.path.sigma(t)))
    np.testing.assert_array_equal(np.floor(shares * 64), np.arange(64))


def test_a_density_that_is_elsewhere_than_the_path_is_refused():
    with pytest.raises(
        UserError, match=r"mean 20 and std 1\.2, and less than 1% .* variance_exploding path, 0.002 to 80$"
    ):
        times.log_normal(mean=20.0)(schedule.variance_exploding())
    with pytest.raises(UserError, match=r"std is 0.0; a standard deviation is positive$"):
        times.log_normal(std=0.0)

"""PLMS: steps in closed form, its orders on data whose exact flow is known, its ends, its refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion.normal_data import MEAN, STD, exact

from gen_jax.diffusion import multistep, sampler, schedule, solvers
from gen_jax.method import UserError

X_T, X0_HAT = 0.7, -0.3
EARLIER = (0.5, 0.4, 0.3)  # eps_hat of the steps before, the newest first
# From 500 to 480 of the linear schedule, by order: eps' and where the step ends. Reference sheet, float64.
STEPS = {
    1: (0.81606224918355, 0.6839861883324099),
    2: (0.974093373775325, 0.666748748358029),
    3: (1.0641193109351375, 0.6569290581423306),
    4: (1.1451426543789684, 0.6480913369482022),
}
PATHS = {
    "cosine": schedule.cosine(zero_terminal_snr=True),
    "straight": schedule.straight(),
    "variance_exploding": schedule.variance_exploding(),
    "variance_preserving": schedule.variance_preserving(),
}


def at(levels, i):
    return schedule.Level(*(values[i] for values in levels))


def on_the_flow(level, z):
    """The point of the probability flow that is z standard deviations from the mean, and its eps_hat."""
    width = np.sqrt((level.alpha * STD) ** 2 + level.sigma**2)
    return level.alpha * MEAN + z * width, z * level.sigma / width


@pytest.mark.parametrize("order", STEPS)
def test_a_step_with_enough_behind_it_is_that_of_the_closed_form(order):
    eps, ends_at = STEPS[order]
    path = schedule.linear()
    levels = path.path([560, 540, 520, 500, 480])
    made = multistep.plms(order)
    plan = made.plan(levels, path)
    row = sampler.Row(at(levels, 3), at(levels, 4), type(plan)(*(values[3] for values in plan)))
    with jax.enable_x64(True):
        x_t, carry = jnp.array([X_T]), jnp.array(EARLIER)[:, None]
        carry, x_s, x0_hat = made.step(carry, x_t, lambda x_t, level: jnp.array([X0_HAT]), row, None)
    assert float(x_s[0]) == pytest.approx(ends_at, rel=1e-12)
    assert float(x0_hat[0]) == X0_HAT
    np.testing.assert_allclose(carry[:, 0], [STEPS[1][0], *EARLIER[:2]], rtol=1e-12)
    assert plan.weights[3] @ [STEPS[1][0], *EARLIER] == pytest.approx(eps, rel=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_the_first_order_is_ddim(path):
    levels = PATHS[path].path(PATHS[path].steps(7))
    plan, other = multistep.plms(1).plan(levels, PATHS[path]), solvers.ddim().plan(levels, PATHS[path])
    np.testing.assert_allclose(plan.of_x_t, other.of_x_t, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(plan.of_x0, other.of_x0, rtol=1e-12, atol=1e-14)
    assert np.all(plan.weights == [1, 0, 0, 0])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_orders_rise_from_step_to_step_and_the_weights_sum_to_one(order):
    path = PATHS["cosine"]
    plan = multistep.plms(order).plan(path.path([999, 600, 300, 200, 100]), path)
    assert np.count_nonzero(plan.weights, axis=1).tolist() == [min(i + 1, order) for i in range(5)]
    np.testing.assert_allclose(plan.weights.sum(axis=1), 1, rtol=1e-12)
    assert (plan.of_change == 0).tolist() == [True, False, False, False, True]
    assert all(np.isfinite(values).all() for values in plan)
    assert (plan.of_x_t[-1], plan.of_x0[-1]) == (0, 1)


def error(order, path, levels, known):
    """How far from the exact flow it ends, in float64; with `known`, the first three steps are told exact eps_hat."""
    z, n = 1.3, len(levels.sigma) - 1
    made = multistep.plms(order)
    plan = made.plan(levels, path)
    with jax.enable_x64(True):
        x, carry, start = jnp.array([on_the_flow(at(levels, 0), z)[0]]), jnp.zeros((3, 1)), 0
        if known:
            start = 3
            x = jnp.array([on_the_flow(at(levels, start), z)[0]])
            carry = jnp.array([[on_the_flow(at(levels, i), z)[1]] for i in (2, 1, 0)])
        take = jax.jit(lambda carry, x, row: made.step(carry, x, exact, row, None)[:2])
        for i in range(start, n):
            carry, x = take(carry, x, sampler.Row(at(levels, i), at(levels, i + 1), type(plan)(*(v[i] for v in plan))))
    return abs(float(x[0]) - on_the_flow(at(levels, n), z)[0])


def slope(order, made, times_of, known):
    counts = np.array([40, 80, 160])
    found = [error(order, made, schedule.Level(*(v[:-1] for v in made.path(times_of(n)))), known) for n in counts]
    return -np.polyfit(np.log(counts), np.log(found), 1)[0]


def even_in_noise(made, most, least):
    return lambda n: made.time_at(np.linspace(most, least, n + 1))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("path", ["straight", "variance_exploding", "variance_preserving"])
def test_at_levels_evenly_spaced_in_noise_the_error_falls_with_the_power_of_the_order(path, order):
    """With exact values of eps_hat to start from, as the weights of Adams and Bashforth have them."""
    made = PATHS[path]
    assert slope(order, made, even_in_noise(made, 2.0, 1.0), known=True) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("path", ["straight", "variance_exploding", "variance_preserving"])
def test_from_its_own_start_and_at_other_levels_the_error_falls_with_the_second_power(path, order):
    """Both the first step, which is DDIM's, and levels that are not evenly spaced in noise leave the second power."""
    made = PATHS[path]
    top, bottom = made.time_at(np.array([2.0, 1.0]))
    for times_of in (even_in_noise(made, 2.0, 1.0), lambda n: np.linspace(top, bottom, n + 1)):
        assert slope(order, made, times_of, known=False) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("path", PATHS)
def test_samples_of_normal_data_reach_its_mean_and_variance(path):
    keys = jax.random.split(jax.random.key(0), 4_000)
    x0 = np.asarray(sampler.sample(exact, PATHS[path], multistep.plms(), PATHS[path].steps(100), keys, (1,)))
    assert x0.mean() == pytest.approx(MEAN, abs=4.5 * STD / np.sqrt(4_000) + 0.01)
    assert x0.std() == pytest.approx(STD, rel=4.5 / np.sqrt(8_000) + 0.02)


def test_an_order_that_it_does_not_have_is_refused_in_one_line():
    for order in (0, 5):
        with pytest.raises(UserError, match=f"order is {order}; PLMS has 1 to 4"):
            multistep.plms(order)

"""DPM-Solver++: single steps in closed form, its order on data whose exact flow is known, its ends, its refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion.normal_data import MEAN, STD, exact

from gen_jax.diffusion import multistep, sampler, schedule, solvers
from gen_jax.method import UserError

X_T, X0_HAT, BEFORE = 0.7, -0.3, -0.2
# From 520 or 40 (x0_hat -0.2) to 500 or 20 (x_t 0.7, x0_hat -0.3), then to 480 or 0: means of the second step on the
# linear schedule. Reference sheet, float64.
SECOND_STEPS = {
    (520, 500, 480): {"none": 0.682437642183, "midpoint": 0.601191029213, "heun": 0.601084822023},
    (40, 20, 0): {"none": -0.326368018046, "midpoint": -0.455916061748, "heun": -0.550349719585},
}
KINDS = ("none", "midpoint", "heun")
PATHS = {
    "cosine": schedule.cosine(zero_terminal_snr=True),
    "straight": schedule.straight(),
    "variance_exploding": schedule.variance_exploding(),
}


def width(level):
    return np.sqrt((level.alpha * STD) ** 2 + level.sigma**2)


@pytest.mark.parametrize("steps", SECOND_STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_second_step_is_that_of_the_closed_form(steps, kind):
    path = schedule.linear()
    plan = multistep.dpm_solver(2, kind).plan(path.path(steps), path)
    mean = plan.of_x_t[1] * X_T + plan.of_x0[1] * X0_HAT + plan.of_change[1] * (X0_HAT - BEFORE)
    assert mean == pytest.approx(SECOND_STEPS[steps][kind], abs=1e-11)


@pytest.mark.parametrize("path", PATHS)
def test_the_first_order_is_ddim_and_of_the_sde_the_ancestral_step(path):
    levels = PATHS[path].path(PATHS[path].steps(7))
    for made, same in (("none", solvers.ddim()), ("midpoint", solvers.ancestral()), ("heun", solvers.ancestral())):
        plan, other = multistep.dpm_solver(1, made).plan(levels, PATHS[path]), same.plan(levels, PATHS[path])
        for name in other._fields:
            np.testing.assert_allclose(getattr(plan, name), getattr(other, name), rtol=1e-12, atol=1e-14)
        assert not plan.of_change.any()


@pytest.mark.parametrize("kind", KINDS)
def test_steps_from_noise_and_to_data_are_of_first_order_and_the_next_too(kind):
    path = PATHS["cosine"]
    plan = multistep.dpm_solver(2, kind).plan(path.path([999, 600, 300, 100]), path)
    assert (plan.of_change == 0).tolist() == [True, True, False, True]  # the second has no finite step before it
    assert all(np.isfinite(values).all() for values in plan)
    assert (plan.of_x_t[-1], plan.of_x0[-1], plan.of_noise[-1]) == (0, 1, 0)


@pytest.mark.parametrize(("order", "power"), [(1, 1), (2, 2)])
@pytest.mark.parametrize("path", ["straight", "variance_exploding"])
def test_the_error_falls_with_the_power_of_the_order(order, power, path):
    counts, errors = (40, 80, 160, 320), []
    top, bottom = {"straight": (0.9, 0.1), "variance_exploding": (0.75, 0.35)}[path]
    with jax.enable_x64(True):
        for n in counts:
            levels = PATHS[path].path(np.linspace(top, bottom, n + 1))
            made = multistep.dpm_solver(order)
            plan = made.plan(levels, PATHS[path])
            first, last = (schedule.Level(*(values[i] for values in levels)) for i in (0, n))
            x = jnp.array([first.alpha * MEAN + 1.3 * width(first)])
            carry = made.init(x)
            for i in range(n):
                t, s = (schedule.Level(*(values[j] for values in levels)) for j in (i, i + 1))
                row = sampler.Row(t, s, type(plan)(*(values[i] for values in plan)))
                carry, x, _ = made.step(carry, x, exact, row, None)
            errors.append(abs(float(x[0]) - (last.alpha * MEAN + 1.3 * width(last))))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(power, abs=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
def test_samples_of_normal_data_reach_its_mean_and_variance(kind, path):
    keys = jax.random.split(jax.random.key(0), 4_000)
    steps = PATHS[path].steps(100)
    sample = jax.jit(lambda keys: sampler.sample(exact, PATHS[path], multistep.dpm_solver(2, kind), steps, keys, (1,)))
    x0 = np.asarray(sample(keys))
    assert x0.mean() == pytest.approx(MEAN, abs=4.5 * STD / np.sqrt(4_000) + 0.01)
    assert x0.std() == pytest.approx(STD, rel=4.5 / np.sqrt(8_000) + 0.02)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 7, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("path", PATHS)
def test_values_are_finite_and_the_last_step_gives_x0_hat_itself(kind, n, path):
    keys = jax.random.split(jax.random.key(1), 3)
    made = multistep.dpm_solver(2, kind)

    def once(x_t, level):
        # Otherwise JAX 0.12 compiles the denoiser into each of the two outputs, and they may round differently.
        return jax.lax.optimization_barrier(exact(x_t, level))

    way = sampler.trajectory(once, PATHS[path], made, PATHS[path].steps(n), keys, (2,))
    assert np.isfinite(way.x_t).all()
    np.testing.assert_array_equal(way.x0, way.x0_hat[-1])


def test_wrong_choices_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"order is 3; the DPM-Solver\+\+ here has 1 and 2"):
        multistep.dpm_solver(3)
    with pytest.raises(UserError, match="stochastic is 'no'; there are none, midpoint, heun"):
        multistep.dpm_solver(stochastic="no")

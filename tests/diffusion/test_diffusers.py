"""Schedules, lists of steps, samplers and guidance beside diffusers, an independent implementation.

diffusers_golden.json holds its numbers (make_diffusers_golden.py). Where it differs by definition, or is wrong, a test
says so by name, and how.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion import make_diffusers_golden as theirs

from gen_jax.diffusion import guidance, prediction, sampler, schedule
from gen_jax.diffusion.solvers import SAMPLERS

GOLDEN = json.loads(theirs.FILE.read_text())
Row = sampler.Row
KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x"}
OURS = {
    "ddpm small": SAMPLERS["ancestral"]("small"),
    "ddpm large": SAMPLERS["ancestral"]("large"),
    "ddim 0": SAMPLERS["ddim"](0.0),
    "ddim 0.5": SAMPLERS["ddim"](0.5),
    "dpm 1": SAMPLERS["dpm_solver"](1),
    "dpm 2 midpoint": SAMPLERS["dpm_solver"](2),
    "sde 1": SAMPLERS["dpm_solver"](1, "midpoint"),
    "sde 2 midpoint": SAMPLERS["dpm_solver"](2, "midpoint"),
    "sde 2 heun": SAMPLERS["dpm_solver"](2, "heun"),
}
LINEAR, ZERO_SNR = schedule.linear(), schedule.linear(zero_terminal_snr=True)
STEPS = LINEAR.steps(theirs.NUM_STEPS)
PLAIN = [name for name in theirs.WALKS if name.split(", ")[0] in OURS and "SNR" not in name and "steps" not in name
         and "clipped" not in name]  # fmt: skip


def states_of(name):
    return np.array(GOLDEN[f"walk, {name}"])[:, None]


def denoiser_of(name):
    kind = prediction.PREDICTIONS[KINDS[theirs.WALKS[name].config.get("prediction_type", "epsilon")]]()
    return lambda x, level: prediction.to_x0(kind, theirs.output(x, level.time), x, level, unit=True)


def steps_between(made, levels, denoise, states=None):
    """x after each step in float64: from x after the one before, or from the given states."""
    with jax.enable_x64(True):
        x, found, plan = jnp.array(theirs.START), [], made.plan(levels, LINEAR)
        carry = made.init(x)
        for i in range(len(levels.sigma) - 1):
            t, s = (schedule.Level(*(values[j] for values in levels)) for j in (i, i + 1))
            row = Row(t, s, jax.tree.map(lambda values, i=i: values[i], plan))
            x = x if states is None else jnp.asarray(states[i])
            carry, x, _ = made.step(carry, x, denoise, row, theirs.noise(i) if made.noisy else None)
            found.append(np.asarray(x))
        return np.array(found)


@pytest.mark.parametrize("name", PLAIN)
def test_steps_and_walks_are_those_of_diffusers(name):
    """Its float64 tables to 1e-9, its own to 1e-5; it adds noise to the last step of the large variance (below)."""
    made, states = OURS[name.split(", ")[0]], states_of(name)
    num = len(states) - 1 - name.startswith("ddpm large")
    tolerance = 1e-9 if theirs.WALKS[name].float64 else 1e-5
    for given in (states, None):
        found = steps_between(made, LINEAR.path(STEPS), denoiser_of(name), given)
        np.testing.assert_allclose(found[:num], states[1 : num + 1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_adds_noise_to_the_last_step_of_the_large_variance(kind):
    """Unless it starts at time 0, which trailing steps never do. Ours is the mean."""
    name = f"ddpm large, {kind}"
    states = states_of(name)
    found = steps_between(OURS["ddpm large"], LINEAR.path(STEPS), denoiser_of(name), states)
    added = np.sqrt(1 - LINEAR.alpha_bar[STEPS[-1]]) * theirs.noise(theirs.NUM_STEPS - 1)
    np.testing.assert_allclose(found[-1] + added, states[-1], rtol=1e-9)
    assert np.abs(added).min() > 0.1


def test_ddim_of_diffusers_goes_to_a_fixed_distance_and_not_to_the_next_step_of_its_list():
    """To t - T // n: for 7 steps from 999 to 857, told 856 next; in the end to time 0, whose noise it leaves."""
    name = "ddim 0, 7 steps"
    states, denoise, steps = states_of(name), denoiser_of(name), LINEAR.steps(7)
    ours = steps_between(OURS["ddim 0"], LINEAR.path(steps), denoise, states)
    there_too = [t - 1000 // 7 == s for t, s in zip(steps, [*steps[1:], None], strict=True)]
    for i, t in enumerate(steps):
        there = LINEAR.path([t, t - 1000 // 7])
        made = steps_between(OURS["ddim 0"], there, denoise, [states[i], states[i]])[0]
        np.testing.assert_allclose(made, states[i + 1], rtol=1e-9)
    assert steps[-1] - 1000 // 7 == 0
    differences = np.abs(ours - states[1:]).max(axis=(1, 2))
    assert (differences < 1e-9).tolist() == there_too
    assert sum(there_too) == 1
    assert differences[-1] > 1e-3


def test_from_pure_noise_ddim_is_that_of_diffusers():
    name = "ddim 0, zero SNR"
    found = steps_between(OURS["ddim 0"], ZERO_SNR.path(STEPS), denoiser_of(name))
    np.testing.assert_allclose(found, states_of(name)[1:], rtol=1e-9)


def test_the_multistep_solver_of_diffusers_puts_a_trace_of_data_into_pure_noise():
    """alpha_bar of 2^-24 at the end, so that its second step extrapolates; with that level ours is the same."""
    assert GOLDEN["alpha_bar, linear, zero SNR, multistep"][-1] == pytest.approx(2**-24, rel=1e-9)
    name = "dpm 2 midpoint, zero SNR"
    states, levels = states_of(name), ZERO_SNR.path(STEPS)
    patched = schedule.Level(levels.time, levels.alpha.copy(), levels.sigma.copy())
    patched.alpha[0], patched.sigma[0] = 2**-12, np.sqrt(1 - 2**-24)
    with_trace, ours = (steps_between(OURS["dpm 2 midpoint"], each, denoiser_of(name)) for each in (patched, levels))
    np.testing.assert_allclose(with_trace, states[1:], rtol=2e-5, atol=2e-5)
    assert np.abs(ours[0] - states[1]).max() < 1e-3
    assert np.abs(ours[1] - states[2]).max() > 1e-3


def test_ddim_of_diffusers_keeps_the_noise_of_the_estimate_before_it_was_clipped():
    """Unless it is told use_clipped_model_output: then it is ours, which derives both from one estimate."""
    clipped = sampler.clipped(denoiser_of("ddim 0, clipped"))
    levels = LINEAR.path(STEPS)
    derived = steps_between(OURS["ddim 0"], levels, clipped)
    np.testing.assert_allclose(derived, states_of("ddim 0, clipped and derived")[1:], rtol=1e-9)
    assert np.abs(derived[0] - states_of("ddim 0, clipped")[1]).min() > 0.1


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_euler_of_diffusers_is_ours_scaled_by_alpha(kind):
    name = f"euler, {kind}"
    levels = LINEAR.path(STEPS)
    found = steps_between(SAMPLERS["euler"](), levels, denoiser_of(name))
    scaled = states_of(name) * levels.alpha[:, None, None]
    np.testing.assert_allclose(found, scaled[1:], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_heun_of_diffusers_is_ours_where_alpha_is_1_and_another_method_along_a_table(kind):
    """It takes the mean of the slopes of x / alpha, ours of x0_hat and eps_hat. Both are of second order."""
    name = f"heun, {kind}"
    calls, levels, denoise = states_of(name), LINEAR.path(STEPS), denoiser_of(name)
    ends = [*range(0, len(calls) - 1, 2), len(calls) - 1]  # two calls a step, but one in the last
    scaled = schedule.Level(levels.time, np.ones_like(levels.alpha), levels.sigma / levels.alpha)

    def denoise_scaled(y, level):
        alpha = 1 / jnp.sqrt(1 + level.sigma**2)
        return denoise(alpha * y, schedule.Level(level.time, alpha, alpha * level.sigma))

    states = calls[ends]
    found = steps_between(SAMPLERS["heun"](), scaled, denoise_scaled, states)
    np.testing.assert_allclose(found, states[1:], rtol=2e-5, atol=2e-5)
    ours = steps_between(SAMPLERS["heun"](), levels, denoise, states * levels.alpha[:, None, None])
    assert np.abs(ours[:-1] - (states * levels.alpha[:, None, None])[1:-1]).max() > 1e-3
    np.testing.assert_allclose(ours[-1], states[-1], rtol=2e-5)  # an Euler step


@pytest.mark.parametrize("name", theirs.SCHEDULES)
@pytest.mark.parametrize("rescaled", [False, True])
def test_alpha_bars_are_those_of_diffusers_to_the_precision_of_its_float32_tables(name, rescaled):
    """That is 1e-6, but where a product of 999 factors loses digits: by 1e-5 at the end of cosine, 4e-5 before zero."""
    exact = getattr(schedule, name)(zero_terminal_snr=rescaled).alpha_bar[list(theirs.TIMES)]
    found = np.array(GOLDEN[f"alpha_bar, {name}{', zero SNR' if rescaled else ''}"])
    np.testing.assert_allclose(found[:4], exact[:4], rtol=2e-6)
    np.testing.assert_allclose(found[4:], exact[4:], rtol=5e-5, atol=0)
    assert (found[-1] == 0) == rescaled


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("n", [1, 7, 10])
def test_lists_of_steps_are_those_of_diffusers(spacing, n):
    assert GOLDEN[f"steps, DDIM, {spacing}, {n}"] == LINEAR.steps(n, spacing).tolist()


def test_a_floating_stride_gives_diffusers_a_step_after_the_last():
    found = GOLDEN["steps, DDIM, trailing, 61"]
    assert (len(found), found[-1]) == (62, -1)
    assert found[:-1] == LINEAR.steps(61).tolist()


def test_a_floating_stride_breaks_ties_of_diffusers_unevenly():
    """1000 (48 - i) / 48 - 1 lies in the middle of two times every sixth step; ours takes the even quotient."""
    found, ours = np.array(GOLDEN["steps, DDIM, trailing, 48"]), LINEAR.steps(48)
    different = np.flatnonzero(found != ours)
    assert (found[3], ours[3]) == (936, 937)
    assert different.size
    assert not np.any(different % 6 != 3)
    assert np.all(np.abs(found - ours)[different] == 1)


def test_lists_of_the_multistep_solver_of_diffusers_leave_out_their_clean_end():
    assert GOLDEN["steps, DPMSolverMultistep, trailing, 10"] == LINEAR.steps(10).tolist()
    assert GOLDEN["steps, DPMSolverMultistep, linspace, 10"] == LINEAR.steps(11, "linspace")[:-1].tolist()
    assert GOLDEN["steps, DPMSolverMultistep, leading, 10"] == LINEAR.steps(11, "leading")[:-1].tolist()


def test_lists_of_euler_and_heun_of_diffusers_have_fractions_and_heuns_every_time_twice():
    assert GOLDEN["steps, EulerDiscrete, trailing, 5"] == STEPS.tolist()
    assert GOLDEN["steps, EulerDiscrete, linspace, 5"] == [999, 749.25, 499.5, 249.75, 0]
    assert LINEAR.steps(5, "linspace").tolist() == [999, 749, 500, 250, 0]
    assert GOLDEN["steps, HeunDiscrete, trailing, 5"] == [STEPS[0], *np.repeat(STEPS[1:], 2)]


def test_guidance_is_rescaled_as_in_diffusers():
    guided, conditional = (jnp.asarray(theirs.pictures(shift)) for shift in (0.3, 1.1))
    found = guidance.rescaled(guided, conditional, 0.7)
    np.testing.assert_allclose(np.ravel(found), GOLDEN["rescale_noise_cfg, 0.7"], rtol=1e-5)


def test_the_dynamic_threshold_of_diffusers_is_ours_if_it_is_told_a_large_maximum_and_else_a_clip():
    x0_hat = theirs.pictures(0.3)
    ours = guidance.thresholded(lambda x_t, level: x_t, 0.7)(jnp.asarray(x0_hat), schedule.CLEAN)
    np.testing.assert_allclose(np.ravel(ours), GOLDEN["threshold 0.7, at most 100"], rtol=1e-5)
    np.testing.assert_allclose(np.clip(x0_hat, -1, 1).ravel(), GOLDEN["threshold 0.7, at most 1"], rtol=1e-9)
    assert np.abs(np.ravel(ours) - GOLDEN["threshold 0.7, at most 1"]).max() > 0.05


@pytest.mark.slow
def test_the_numbers_are_those_of_the_installed_diffusers():
    pytest.importorskip("torch", reason="PyTorch is in the extra others")
    pytest.importorskip("diffusers", reason="diffusers is in the extra others")
    made = theirs.make()
    assert made.keys() == GOLDEN.keys()
    for name, values in made.items():
        np.testing.assert_allclose(values, GOLDEN[name], rtol=1e-6, atol=1e-7, err_msg=name)

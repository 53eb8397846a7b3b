"""Predictions: conversions against closed forms, their inverses and limits, and the refused pair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import method
from gen_jax.diffusion import prediction, schedule

X0, EPS = 0.6, -1.1
# alpha, sigma, x_t and v at some times of the linear schedule: reference sheet, float64 closed form.
CONVERSIONS = {
    0: (0.9999499987499375, 0.009999999999999449, 0.5889699992499632, -1.105944998624931),
    500: (0.2789205233843933, 0.9603141890209558, -0.8889932938924155, -0.8830010891354061),
    999: (0.006352818087570016, 0.99997982064757, -1.096166111859785, -0.606975992284869),
}
ENDS = {"noise": (0.0, 1.0), "clean": (1.0, 0.0)}


def exact_level(alpha: float, sigma: float) -> schedule.Level:
    return schedule.Level(np.float64(0), np.float64(alpha), np.float64(sigma))


@pytest.mark.parametrize("t", CONVERSIONS)
def test_conversions_are_those_of_the_closed_form(t):
    alpha, sigma, x_t, v = CONVERSIONS[t]
    level = exact_level(schedule.linear().alpha[t], schedule.linear().sigma[t])
    np.testing.assert_allclose((level.alpha, level.sigma), (alpha, sigma), rtol=1e-12)
    x0, eps = np.full((1, 2, 2, 1), X0), np.full((1, 2, 2, 1), EPS)
    np.testing.assert_allclose(schedule.add_noise(x0, eps, level), x_t, rtol=1e-12)
    outputs = {"eps": EPS, "x": X0, "v": v}
    for name, output in outputs.items():
        kind = prediction.PREDICTIONS[name]
        np.testing.assert_allclose(kind.target(x0, eps, level), output, rtol=1e-12)
        x0_hat = kind.to_x0(np.full_like(x0, output), np.full_like(x0, x_t), level)
        np.testing.assert_allclose(x0_hat, X0, rtol=1e-11)
    np.testing.assert_allclose(prediction.eps_from_x0(np.full_like(x0, x_t), x0, level), EPS, rtol=1e-11)


@pytest.mark.parametrize(("end", "name"), [("noise", "v"), ("noise", "x"), ("clean", "v"), ("clean", "eps")])
def test_conversions_are_exact_where_data_or_noise_is_gone(end, name):
    level = exact_level(*ENDS[end])
    x0, eps = np.full((1, 1), X0), np.full((1, 1), EPS)
    x_t = schedule.add_noise(x0, eps, level)
    assert x_t.item() == {"noise": EPS, "clean": X0}[end]
    kind = prediction.PREDICTIONS[name]
    output = kind.target(x0, eps, level)
    assert (
        output.item()
        == {("noise", "v"): -X0, ("noise", "x"): X0, ("clean", "v"): EPS, ("clean", "eps"): EPS}[end, name]
    )
    assert kind.to_x0(output, x_t, level).item() == X0
    if end == "noise":
        assert prediction.eps_from_x0(x_t, x0, level).item() == EPS


@pytest.mark.parametrize("name", prediction.PREDICTIONS)
@pytest.mark.parametrize("scalar_level", [False, True])
def test_conversions_invert_each_other_under_jit(name, scalar_level):
    kind = prediction.PREDICTIONS[name]
    assert kind.name == name
    t = jnp.array(500) if scalar_level else jnp.array([1, 400, 800])
    level = schedule.cosine(zero_terminal_snr=True).level(t)
    output, x_t = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))

    @jax.jit
    def there_and_back(output, x_t):
        x0_hat = kind.to_x0(output, x_t, level)
        eps_hat = prediction.eps_from_x0(x_t, x0_hat, level)
        return kind.target(x0_hat, eps_hat, level), schedule.add_noise(x0_hat, eps_hat, level)

    again, noisy = there_and_back(output, x_t)
    np.testing.assert_allclose(again, output, atol=2e-4)  # t = 1: eps_hat divides by sigma = 0.009
    np.testing.assert_allclose(noisy, x_t, atol=1e-5)


@pytest.mark.parametrize("name", prediction.PREDICTIONS)
def test_gradients_are_finite_at_every_level_that_is_allowed(name):
    made = schedule.cosine(zero_terminal_snr=name != "eps")
    level = made.level(jnp.arange(made.num_steps))
    x_t = jnp.ones((made.num_steps, 1))
    gradient = jax.grad(lambda output: jnp.sum(prediction.PREDICTIONS[name].to_x0(output, x_t, level)))(x_t)
    assert np.all(np.isfinite(gradient))


def test_eps_is_refused_where_the_last_level_is_pure_noise():
    made = schedule.linear(zero_terminal_snr=True)
    with pytest.raises(method.UserError, match=r"'eps'.*zero_terminal_snr use 'v' or 'x'$") as refusal:
        prediction.check(prediction.PREDICTIONS["eps"], made)
    assert "\n" not in str(refusal.value)
    prediction.check(prediction.PREDICTIONS["v"], made)
    prediction.check(prediction.PREDICTIONS["x"], made)
    prediction.check(prediction.PREDICTIONS["eps"], schedule.linear())

"""Predictions: one algebra against closed forms on every path, inverses and limits, EDM's F by its table, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import method
from gen_jax.diffusion import prediction, schedule

KINDS = {name: make() for name, make in prediction.PREDICTIONS.items()} | {"edm, 1.3": prediction.edm(1.3)}
SIGMA_DATA = {"edm": 0.5, "edm, 1.3": 1.3}
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


def levels(path: schedule.Path, steps: list) -> schedule.Level:
    """Levels in float64, without the clean one at the end of a sampler's way."""
    return schedule.Level(*(leaf[:-1] for leaf in path.path(steps)))


# Those of a table, of flow matching and of EDM, from much noise to little; none is pure noise, where eps says nothing.
LEVELS = {
    "linear": levels(schedule.linear(), [999, 700, 500, 20, 0]),
    "cosine": levels(schedule.cosine(zero_terminal_snr=True), [990, 700, 500, 20, 0]),
    "straight": levels(schedule.straight(), [0.99, 0.7, 0.5, 0.1, 0.01]),
    "variance_exploding": levels(schedule.variance_exploding(), [1.0, 0.7, 0.5, 0.2, 0.01]),
}


def drawn(seed: int = 0) -> list[np.ndarray]:
    """x0, eps and an x0_hat that is neither, float64, one row a level."""
    return list(np.random.default_rng(seed).normal(size=(3, 5, 4, 3)))


def columns(level: schedule.Level) -> tuple[np.ndarray, np.ndarray]:
    return level.alpha[:, None, None], level.sigma[:, None, None]


def unit_of(path: str) -> tuple[bool, ...]:
    return (True, False) if path in ("linear", "cosine") else (False,)


@pytest.mark.parametrize("path", LEVELS)
@pytest.mark.parametrize("name", KINDS)
def test_data_and_noise_are_recovered_from_the_true_prediction(name, path):
    level, kind = LEVELS[path], KINDS[name]
    x0, eps, _ = drawn()
    alpha, sigma = columns(level)
    x_t = alpha * x0 + sigma * eps
    p = prediction.target(kind, x0, eps, level)
    assert p.dtype == np.float64
    for unit in unit_of(path):
        np.testing.assert_allclose(prediction.to_x0(kind, p, x_t, level, unit), x0, rtol=0, atol=1e-12)
        np.testing.assert_allclose(prediction.to_eps(kind, p, x_t, level, unit), eps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", LEVELS)
@pytest.mark.parametrize("name", KINDS)
def test_both_estimates_make_up_x_t_and_give_the_prediction_back_whatever_it_is(name, path):
    level, kind = LEVELS[path], KINDS[name]
    p, x_t, _ = drawn(1)
    alpha, sigma = columns(level)
    for unit in unit_of(path):
        x0_hat = prediction.to_x0(kind, p, x_t, level, unit)
        eps_hat = prediction.to_eps(kind, p, x_t, level, unit)
        size = 1 + np.abs(alpha * x0_hat) + np.abs(sigma * eps_hat)  # of what is added up
        np.testing.assert_array_less(np.abs(alpha * x0_hat + sigma * eps_hat - x_t) / size, 1e-12)
        a, b = (np.reshape(value, (*np.shape(value), 1, 1)) for value in kind.coefficients(level))
        size = 1 + np.abs(a * eps_hat) + np.abs(b * x0_hat)
        again = prediction.target(kind, x0_hat, eps_hat, level)
        np.testing.assert_array_less(np.abs(again - p) / size, 1e-12)


@pytest.mark.parametrize("path", LEVELS)
@pytest.mark.parametrize("name", KINDS)
def test_squared_errors_are_multiples_of_that_of_x0_hat(name, path):
    level, kind = LEVELS[path], KINDS[name]
    x0, eps, x0_hat = drawn(2)
    alpha, sigma = columns(level)
    eps_hat = eps + alpha / sigma * (x0 - x0_hat)  # the same x_t
    p, p_hat = (prediction.target(kind, *pair, level) for pair in ((x0, eps), (x0_hat, eps_hat)))
    ratio = np.mean((p_hat - p) ** 2, axis=(1, 2)) / np.mean((x0_hat - x0) ** 2, axis=(1, 2))
    q = level.sigma / level.alpha
    s = SIGMA_DATA.get(name)
    by_hand = {
        "eps": lambda: q**-2.0,
        "x": lambda: np.ones(5),
        "v": lambda: (level.alpha**2 + level.sigma**2) ** 2 / level.sigma**2,
        "velocity": lambda: (level.alpha + level.sigma) ** 2 / level.sigma**2,
        "edm": lambda: (s**2 + q**2) / (q * s) ** 2,  # 1 / c_out^2
    }[kind.name]()
    np.testing.assert_allclose(ratio, by_hand, rtol=1e-12)
    for unit in unit_of(path):
        np.testing.assert_allclose((kind.divisor(level, unit) / level.sigma) ** 2 * np.ones(5), by_hand, rtol=1e-12)
    # D is a alpha + b sigma, also where it is written as something simpler.
    a, b = kind.coefficients(level)
    np.testing.assert_allclose(a * level.alpha + b * level.sigma, kind.divisor(level, False) * np.ones(5), rtol=1e-12)


@pytest.mark.parametrize("name", SIGMA_DATA)
@pytest.mark.parametrize("path", LEVELS)
def test_f_of_edm_is_that_of_its_table(name, path):
    """Karras et al. 2022, table 1: D(y; q) = c_skip y + c_out F, for data plus noise of standard deviation q."""
    level, s = LEVELS[path], SIGMA_DATA[name]
    x0, eps, output = drawn(3)
    alpha, sigma = columns(level)
    q = sigma / alpha
    y = x0 + q * eps
    c_skip = s**2 / (q**2 + s**2)
    c_out = q * s / np.sqrt(s**2 + q**2)
    np.testing.assert_allclose(
        prediction.target(KINDS[name], x0, eps, level), (x0 - c_skip * y) / c_out, rtol=0, atol=1e-12
    )
    made = prediction.to_x0(KINDS[name], output, alpha * y, level, False)
    np.testing.assert_allclose(made, c_skip * y + c_out * output, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SIGMA_DATA)
@pytest.mark.parametrize("path", LEVELS)
def test_f_of_edm_is_minus_the_v_of_the_normalised_process(name, path):
    """Data divided by s, and x_t by its standard deviation: alpha^2 + sigma^2 is 1 there."""
    level, s = LEVELS[path], SIGMA_DATA[name]
    x0, eps, _ = drawn(4)
    width = np.sqrt((level.alpha * s) ** 2 + level.sigma**2)
    normalised = schedule.Level(level.time, level.alpha * s / width, level.sigma / width)
    np.testing.assert_allclose(normalised.alpha**2 + normalised.sigma**2, 1, rtol=1e-14)
    v = prediction.target(prediction.v(), x0 / s, eps, normalised)
    np.testing.assert_allclose(prediction.target(KINDS[name], x0, eps, level), -v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", KINDS)
def test_a_divisor_that_is_one_by_algebra_changes_nothing_but_rounding(name):
    made = schedule.cosine()
    level = made.level(jnp.arange(1000))
    output, x_t = jax.random.normal(jax.random.key(0), (2, 1000, 3))
    for convert, atol in ((prediction.to_x0, 4e-6), (prediction.to_eps, 4e-6)):
        exact, rounded = (np.asarray(convert(KINDS[name], output, x_t, level, unit)) for unit in (True, False))
        assert np.all(np.isfinite(exact))
        np.testing.assert_allclose(rounded, exact, rtol=1e-6, atol=atol)


def test_v_where_squares_add_up_to_one_is_nothing_but_two_products():
    """Bit for bit alpha x_t - sigma v, as in the versions before there was a divisor."""
    level = schedule.cosine(zero_terminal_snr=True).level(jnp.arange(0, 1000, 37))
    output, x_t = jax.random.normal(jax.random.key(0), (2, len(level.alpha), 3))
    made = prediction.to_x0(prediction.v(), output, x_t, level, True)
    np.testing.assert_array_equal(made, level.alpha[:, None] * x_t - level.sigma[:, None] * output)
    made = prediction.target(prediction.v(), x_t, output, level)
    np.testing.assert_array_equal(made, level.alpha[:, None] * output - level.sigma[:, None] * x_t)


@pytest.mark.parametrize("t", CONVERSIONS)
def test_conversions_are_those_of_the_closed_form(t):
    alpha, sigma, x_t, v = CONVERSIONS[t]
    level = exact_level(schedule.linear().alpha[t], schedule.linear().sigma[t])
    np.testing.assert_allclose((level.alpha, level.sigma), (alpha, sigma), rtol=1e-12)
    x0, eps = np.full((1, 2, 2, 1), X0), np.full((1, 2, 2, 1), EPS)
    np.testing.assert_allclose(schedule.add_noise(x0, eps, level), x_t, rtol=1e-12)
    outputs = {"eps": EPS, "x": X0, "v": v, "velocity": EPS - X0}
    for name, output in outputs.items():
        kind = KINDS[name]
        np.testing.assert_allclose(prediction.target(kind, x0, eps, level), output, rtol=1e-12)
        given = (np.full_like(x0, output), np.full_like(x0, x_t), level, True)
        np.testing.assert_allclose(prediction.to_x0(kind, *given), X0, rtol=1e-11)
        np.testing.assert_allclose(prediction.to_eps(kind, *given), EPS, rtol=1e-11)


@pytest.mark.parametrize(
    ("end", "name"),
    [("noise", "v"), ("noise", "x"), ("noise", "velocity"), ("clean", "v"), ("clean", "eps"), ("clean", "velocity")],
)
@pytest.mark.parametrize("unit", [True, False])
def test_conversions_are_exact_where_data_or_noise_is_gone(end, name, unit):
    level = exact_level(*ENDS[end])
    x0, eps = np.full((1, 1), X0), np.full((1, 1), EPS)
    x_t = schedule.add_noise(x0, eps, level)
    assert x_t.item() == {"noise": EPS, "clean": X0}[end]
    kind = KINDS[name]
    output = prediction.target(kind, x0, eps, level)
    expected = {("noise", "v"): -X0, ("noise", "x"): X0, ("clean", "v"): EPS, ("clean", "eps"): EPS}
    assert output.item() == expected.get((end, name), EPS - X0)
    if name == "velocity":  # eps - x0 has been rounded
        np.testing.assert_allclose(prediction.to_x0(kind, output, x_t, level, unit), X0, rtol=1e-15)
        np.testing.assert_allclose(prediction.to_eps(kind, output, x_t, level, unit), EPS, rtol=1e-15)
    else:
        assert prediction.to_x0(kind, output, x_t, level, unit).item() == X0
        assert prediction.to_eps(kind, output, x_t, level, unit).item() == EPS


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("path", ["cosine", "straight", "variance_exploding"])
@pytest.mark.parametrize("scalar_level", [False, True])
def test_conversions_invert_each_other_under_jit(name, path, scalar_level):
    kind, made = KINDS[name], schedule.SCHEDULES[path]()
    u = jnp.array(0.5) if scalar_level else jnp.array([0.02, 0.4, 0.8])
    level = made.level(made.times(u))
    output, x_t = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))

    @jax.jit
    def there_and_back(output, x_t):
        x0_hat = prediction.to_x0(kind, output, x_t, level, made.unit)
        eps_hat = prediction.to_eps(kind, output, x_t, level, made.unit)
        return prediction.target(kind, x0_hat, eps_hat, level), schedule.add_noise(x0_hat, eps_hat, level)

    again, noisy = there_and_back(output, x_t)
    assert again.dtype == jnp.float32
    # Variance exploding: at its sigmas of 0.002 to 12, x0_hat and eps_hat may be a thousand times as large.
    atol = 1e-3 if path == "variance_exploding" else 1e-5
    np.testing.assert_allclose(again, output, atol=atol)
    np.testing.assert_allclose(noisy, x_t, atol=atol)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("path", ["cosine", "straight", "variance_exploding"])
def test_gradients_are_finite_at_every_level_that_is_allowed(name, path):
    kind = KINDS[name]
    made = schedule.cosine(zero_terminal_snr=not kind.needs_signal) if path == "cosine" else schedule.SCHEDULES[path]()
    largest = 0.999 if kind.needs_signal and path == "straight" else 1.0
    level = made.level(made.times(jnp.linspace(0, largest, 1000)))
    x_t = jnp.ones((1000, 1))
    gradient = jax.grad(lambda output: jnp.sum(prediction.to_x0(kind, output, x_t, level, made.unit)))(x_t)
    assert np.all(np.isfinite(gradient))
    assert np.all(gradient != 0)


@pytest.mark.parametrize("made", [schedule.linear(zero_terminal_snr=True), schedule.straight()], ids=lambda m: m.name)
def test_what_needs_a_signal_is_refused_where_the_last_level_is_pure_noise(made):
    pattern = rf"'eps'.*at the end of {made.name}: use 'v' or 'x' or 'velocity' or 'edm', or zero_terminal_snr=false"
    with pytest.raises(method.UserError, match=pattern) as refusal:
        prediction.check(KINDS["eps"], made)
    assert "\n" not in str(refusal.value)
    for other in ("v", "x", "velocity", "edm"):
        prediction.check(KINDS[other], made)


@pytest.mark.parametrize("name", KINDS)
def test_every_prediction_is_allowed_where_some_data_is_left(name):
    for made in (schedule.linear(), schedule.cosine(), schedule.variance_exploding()):
        prediction.check(KINDS[name], made)


@pytest.mark.parametrize("sigma_data", [0.0, -0.5, float("nan")])
def test_data_without_a_width_is_refused(sigma_data):
    with pytest.raises(method.UserError, match=r"^config\.diffusion\.prediction\.sigma_data is .* positive$"):
        prediction.edm(sigma_data)

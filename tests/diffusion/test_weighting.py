"""Weightings: values in closed form, the same loss for every prediction on every path, finite ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.diffusion import prediction, schedule, weighting

MADE = {
    **{name: factory() for name, factory in weighting.WEIGHTINGS.items()},
    "p2, gamma 0.5": weighting.p2(gamma=0.5),
    "edm, 1.3": weighting.edm(1.3),
}
KINDS = {name: make() for name, make in prediction.PREDICTIONS.items()}
# Weights on x, eps and v at times of the linear schedule (gamma 5 of min-SNR, k 1 of P2): reference sheet, float64
# closed form.
WEIGHTS = {
    (0, "eps"): (9999.0000000011, 1.0, 0.9999),
    (0, "truncated_snr"): (9999.0000000011, 1.0, 0.9999),
    (0, "v"): (10000.0000000011, 1.000100010001, 1.0),
    (0, "min_snr"): (5.0, 0.000500050005000445, 0.0004999999999999449),
    (0, "p2"): (0.9999, 9.9999999999989e-05, 9.998999999998899e-05),
    (0, "p2, gamma 0.5"): (99.99000000000551, 0.00999999999999945, 0.009998999999999451),
    (0, "x"): (1.0, 0.00010001000100008901, 9.9999999999989e-05),
    (250, "eps"): (1.0895280466430102, 1.0, 0.5214230306185276),
    (250, "truncated_snr"): (1.0895280466430102, 1.0, 0.5214230306185276),
    (250, "v"): (2.08952804664301, 1.9178285984295136, 1.0),
    (250, "min_snr"): (1.0895280466430102, 1.0, 0.5214230306185276),
    (250, "p2"): (0.5214230306185276, 0.47857696938147265, 0.24954105375911773),
    (250, "p2, gamma 0.5"): (0.7537274149349238, 0.6917925768476217, 0.3607165819792875),
    (250, "x"): (1.0, 0.9178285984295138, 0.4785769693814726),
    (500, "eps"): (0.0843595494103264, 1.0, 0.07779665836502389),
    (500, "truncated_snr"): (1.0, 11.854022537934402, 0.9222033416349761),
    (500, "v"): (1.0843595494103264, 12.854022537934402, 1.0),
    (500, "min_snr"): (0.0843595494103264, 1.0, 0.07779665836502389),
    (500, "p2"): (0.07779665836502389, 0.9222033416349762, 0.07174433831225965),
    (500, "p2, gamma 0.5"): (0.08101167227815086, 0.9603141890209559, 0.07470923488634827),
    (500, "x"): (1.0, 11.854022537934402, 0.9222033416349761),
    (999, "eps"): (4.0359926511684205e-05, 1.0, 4.035829765375676e-05),
    (999, "truncated_snr"): (1.0, 24777.052052126503, 0.9999596417023462),
    (999, "v"): (1.0000403599265117, 24778.052052126506, 1.0),
    (999, "min_snr"): (4.0359926511684205e-05, 1.0, 4.035829765375676e-05),
    (999, "p2"): (4.035829765375676e-05, 0.9999596417023462, 4.035666886156725e-05),
    (999, "p2, gamma 0.5"): (4.035911207450307e-05, 0.9999798206475699, 4.035748324944492e-05),
    (999, "x"): (1.0, 24777.052052126503, 0.9999596417023462),
}


def on(name: str, kind: str, level: schedule.Level, unit: bool = True) -> jax.Array:
    return weighting.on(MADE[name], KINDS[kind], level, unit)


@pytest.mark.parametrize(("t", "name"), WEIGHTS)
def test_weights_are_those_of_the_closed_form(t, name):
    level = schedule.linear().level(jnp.array([t]))
    made = [on(name, kind, level).item() for kind in ("x", "eps", "v")]
    np.testing.assert_allclose(made, WEIGHTS[t, name], rtol=1e-6)


@pytest.mark.parametrize("name", MADE)
def test_definitions_are_homogeneous_of_degree_one(name):
    signal, noise = np.random.default_rng(0).uniform(0.1, 2, (2, 20))
    for c in (0.01, 7.0):
        np.testing.assert_allclose(MADE[name](c * signal, c * noise), c * MADE[name](signal, noise), rtol=1e-5)


@pytest.mark.parametrize("path", ["linear", "straight", "variance_exploding"])
@pytest.mark.parametrize("name", MADE)
def test_the_loss_of_one_estimate_is_the_same_for_every_prediction(name, path):
    made = schedule.SCHEDULES[path]()
    x0, eps, x0_hat = np.random.default_rng(0).normal(size=(3, 4, 8, 8, 1))
    with jax.enable_x64(True):
        steps = [950, 700, 300, 5] if path == "linear" else [0.95, 0.7, 0.3, 0.005]
        level = schedule.Level(*(jnp.asarray(leaf[:-1]) for leaf in made.path(steps)))
        x_t = schedule.add_noise(x0, eps, level)
        alpha, sigma = (leaf[:, None, None, None] for leaf in (level.alpha, level.sigma))
        eps_hat = (x_t - alpha * x0_hat) / sigma
        losses = {}
        for kind_name, kind in KINDS.items():
            error = prediction.target(kind, x0_hat, eps_hat, level) - prediction.target(kind, x0, eps, level)
            mean_square = jnp.mean(error**2, axis=(1, 2, 3))
            losses[kind_name] = np.asarray(on(name, kind_name, level, made.unit) * mean_square)
    # By hand: f(SNR, 1) on x0_hat.
    snr = np.asarray((level.alpha / level.sigma) ** 2)
    expected = np.array([float(MADE[name](s, 1.0)) for s in snr]) * np.mean((x0_hat - x0) ** 2, axis=(1, 2, 3))
    for kind_name, loss in losses.items():
        assert loss.dtype == np.float64
        np.testing.assert_allclose(loss, losses["x"], rtol=1e-11, err_msg=kind_name)
    np.testing.assert_allclose(losses["x"], expected, rtol=1e-6)  # of jnp functions of numbers: float32


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_lambda_of_edm_is_that_of_its_table(sigma_data):
    """Karras et al. 2022, table 1: lambda = (q^2 + s^2) / (q s)^2 on the denoised image, which is 1 on F."""
    made = weighting.edm(sigma_data)
    for path in (schedule.variance_exploding(), schedule.straight()):
        level = path.level(jnp.array([0.1, 0.5, 0.9]))
        q = np.asarray(level.sigma, np.float64) / np.asarray(level.alpha, np.float64)
        of_x = weighting.on(made, prediction.x(), level, path.unit)
        np.testing.assert_allclose(of_x, (q**2 + sigma_data**2) / (q * sigma_data) ** 2, rtol=1e-5)
        np.testing.assert_allclose(weighting.on(made, prediction.edm(sigma_data), level, path.unit), 1, rtol=1e-5)


@pytest.mark.parametrize("path", ["linear", "straight", "variance_exploding"])
def test_a_weighting_is_one_on_the_prediction_that_it_is_named_after(path):
    made = schedule.SCHEDULES[path]()
    level = made.level(made.times(jnp.array([0.01, 0.3, 0.8, 0.99])))
    for name in ("eps", "x", "velocity", "edm"):
        np.testing.assert_allclose(on(name, name, level, made.unit), 1, rtol=1e-5, err_msg=name)
    # That of v is (SNR + 1) on x0_hat, which is 1 on v where squares add up to one.
    squares = np.asarray(level.alpha, np.float64) ** 2 + np.asarray(level.sigma, np.float64) ** 2
    np.testing.assert_allclose(on("v", "v", level, made.unit), 1 / squares, rtol=1e-5)


def test_the_velocity_counts_alike_all_along_the_straight_path():
    level = schedule.straight().level(jnp.array([1e-5, 0.2, 0.5, 1.0]))
    np.testing.assert_allclose(on("velocity", "velocity", level, False), 1, rtol=1e-6)
    np.testing.assert_allclose(on("velocity", "x", level, False), [1e10, 25, 4, 1], rtol=1e-5)  # 1 / t^2
    np.testing.assert_allclose(on("x", "velocity", level, False), [1e-10, 0.04, 0.25, 1], rtol=1e-5)


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("name", MADE)
def test_weights_are_finite_at_pure_noise_and_at_clean_data(name, unit):
    noise = schedule.linear(zero_terminal_snr=True).level(jnp.array([999]))
    at_noise = [on(name, kind, noise, unit).item() for kind in ("x", "v", "velocity")]
    # Reference sheet, "v at SNR = 0": what the weighting on x gives there, as all errors are the same.
    expected = {"v": 1, "x": 1, "truncated_snr": 1, "velocity": 1, "edm": 4, "edm, 1.3": 1 / 1.69}.get(name, 0)
    np.testing.assert_allclose(at_noise, expected, rtol=1e-6)
    clean = schedule.Level(*(jnp.array([value]) for value in schedule.CLEAN))
    at_clean = [on(name, kind, clean, unit).item() for kind in ("eps", "v", "velocity")]
    # There eps, v and velocity have the same errors and x_0 is known: weights of the limit SNR = inf.
    expected = {"x": 0, "min_snr": 0, "p2": 0, "p2, gamma 0.5": 0}.get(name, 1)
    np.testing.assert_allclose(at_clean, expected, rtol=1e-6)


def test_weights_of_one_level_have_its_shape():
    level = schedule.linear().level(jnp.array(500))
    assert on("min_snr", "v", level).shape == ()

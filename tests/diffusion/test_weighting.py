"""Weightings: values in closed form, the same loss for every prediction, finite ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.diffusion import prediction, schedule, weighting

MADE = {
    **{name: factory() for name, factory in weighting.WEIGHTINGS.items()},
    "p2, gamma 0.5": weighting.p2(gamma=0.5),
}
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


@pytest.mark.parametrize(("t", "name"), WEIGHTS)
def test_weights_are_those_of_the_closed_form(t, name):
    level = schedule.linear().level(jnp.array([t]))
    made = [MADE[name](level, kind).item() for kind in ("x", "eps", "v")]
    np.testing.assert_allclose(made, WEIGHTS[t, name], rtol=1e-6)


@pytest.mark.parametrize("name", MADE)
def test_the_loss_of_one_estimate_is_the_same_for_every_prediction(name):
    level = schedule.linear().level(jnp.array([5, 300, 700, 950]))
    x0, eps, x0_hat = jax.random.normal(jax.random.key(0), (3, 4, 8, 8, 1))
    x_t = schedule.add_noise(x0, eps, level)
    eps_hat = prediction.eps_from_x0(x_t, x0_hat, level)

    def loss(kind_name):
        kind = prediction.PREDICTIONS[kind_name]
        error = kind.target(x0_hat, eps_hat, level) - kind.target(x0, eps, level)
        return MADE[name](level, kind_name) * jnp.mean(error**2, axis=(1, 2, 3))

    of_v, of_x, of_eps = (jax.jit(loss, static_argnums=0)(kind_name) for kind_name in ("v", "x", "eps"))
    np.testing.assert_allclose(of_v, of_x, rtol=1e-4)
    np.testing.assert_allclose(of_eps, of_x, rtol=1e-4)


@pytest.mark.parametrize("name", MADE)
def test_weights_are_finite_at_pure_noise_and_at_clean_data(name):
    noise = schedule.linear(zero_terminal_snr=True).level(jnp.array([999]))
    at_noise = [MADE[name](noise, kind).item() for kind in ("x", "v")]
    # Reference sheet, "v at SNR = 0": what the weighting on x gives there, as both errors are the same.
    expected = {"v": 1, "x": 1, "truncated_snr": 1}.get(name, 0)
    assert at_noise == [expected, expected]
    clean = schedule.Level(*(jnp.array([value]) for value in schedule.CLEAN))
    at_clean = [MADE[name](clean, kind).item() for kind in ("eps", "v")]
    # There eps and v are the same and x_0 is known: weights of the limit SNR = inf.
    expected = {"eps": 1, "v": 1, "truncated_snr": 1}.get(name, 0)
    assert at_clean == [expected, expected]


def test_weights_of_one_level_have_its_shape():
    level = schedule.linear().level(jnp.array(500))
    assert weighting.min_snr()(level, "v").shape == ()

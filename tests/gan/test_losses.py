"""Losses against values worked out in float64, and their gradients against the closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.gan import losses
from gen_jax.method import UserError

R, F = 0.8, -0.4  # golden.json, gan_losses
GOLDEN = {  # discriminator's loss, the generator's: golden.json
    "minimax": (0.8841159183477303, -0.5130152523999526),
    "non_saturating": (0.8841159183477303, 0.9130152523999526),
    "least_squares": (0.2, 1.96),
    "wasserstein": (-1.2, 0.4),
    "hinge": (0.8, 0.4),
    "relativistic": (0.2632824673380311, 1.4632824673380314),
}


def s(x):
    return 1 / (1 + np.exp(-np.float64(x)))


# By logit, (d discriminator / d real, d discriminator / d fake, d generator / d real, d generator / d fake).
SLOPES = {
    "minimax": lambda r, f: (-s(-r), s(f), 0, -s(f)),
    "non_saturating": lambda r, f: (-s(-r), s(f), 0, -s(-f)),
    "least_squares": lambda r, f: (2 * (r - 1), 2 * f, 0, 2 * (f - 1)),
    "wasserstein": lambda r, f: (-1, 1, 0, -1),
    "hinge": lambda r, f: (-(r < 1), f > -1, 0, -1),
    "relativistic": lambda r, f: (-s(f - r), s(f - r), s(r - f), -s(r - f)),
}


def test_every_loss_is_proved():
    assert losses.LOSSES.keys() == GOLDEN.keys() == SLOPES.keys()


@pytest.mark.parametrize("name", losses.LOSSES)
def test_values_are_those_of_the_definitions(name):
    loss = losses.make(name)
    real, fake = jnp.full(3, R), jnp.full(3, F)
    found = jax.jit(loss.discriminator)(real, fake), jax.jit(loss.generator)(real, fake)
    for values, golden in zip(found, GOLDEN[name], strict=True):
        assert values.shape == (3,)
        np.testing.assert_allclose(values, golden, rtol=1e-6)


@pytest.mark.parametrize("name", losses.LOSSES)
@pytest.mark.parametrize(("real", "fake"), [(R, F), (-3.0, 2.5), (40.0, -40.0), (-200.0, 200.0)])
def test_gradients_are_the_closed_forms_and_finite_at_any_logit(name, real, fake):
    loss = losses.make(name)
    found = [jax.grad(lambda r, f, fn=fn: fn(r, f), (0, 1))(real, fake) for fn in (loss.discriminator, loss.generator)]
    np.testing.assert_allclose(np.ravel(found), np.float64(SLOPES[name](real, fake)), rtol=1e-5, atol=1e-7)


def test_minimax_vanishes_where_the_discriminator_is_sure_and_non_saturating_does_not():
    slope = {name: float(jax.grad(losses.make(name).generator, 1)(0.0, -20.0)) for name in GOLDEN}
    assert abs(slope["minimax"]) < 1e-8
    assert slope["non_saturating"] == pytest.approx(-1)


def test_smoothing_touches_real_images_alone():
    # golden.json, d_bce_smooth0.9
    smooth, plain = losses.make("non_saturating", 0.9), losses.make("non_saturating")
    assert float(smooth.discriminator(R, F)) == pytest.approx(0.9641159183477304, rel=1e-6)
    assert jax.grad(smooth.discriminator, 1)(R, F) == jax.grad(plain.discriminator, 1)(R, F)
    assert smooth.generator(R, F) == plain.generator(R, F)
    # The best answer to a real image is the target itself: its logit is log(0.9 / 0.1).
    assert float(jax.grad(smooth.discriminator)(float(np.log(9)), F)) == pytest.approx(0, abs=1e-6)
    assert float(losses.make("least_squares", 0.9).discriminator(0.9, 0.0)) == pytest.approx(0, abs=1e-7)


def test_scores_are_probabilities_where_logits_are_log_odds():
    assert float(losses.make("minimax").score(0.0)) == 0.5
    assert float(losses.make("hinge").score(-3.0)) == -3.0


def test_refusals():
    for target in (0.0, 0.5, 1.1, float("nan")):
        with pytest.raises(UserError, match=r"must be in \(0.5, 1\]"):
            losses.make("minimax", target)
    with pytest.raises(UserError, match="hinge loss has no target"):
        losses.make("hinge", 0.9)

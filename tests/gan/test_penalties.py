"""Penalties of known critics, in closed form; and the root at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.gan import penalties
from gen_jax.method import UserError

W = np.array([[3.0, 0.0], [4.0, 0.0]])[..., None]  # one image [2, 2, 1], of norm 5
REAL = np.random.default_rng(0).normal(size=(6, 2, 2, 1)).astype(np.float32)
FAKE = np.random.default_rng(1).normal(size=(6, 2, 2, 1)).astype(np.float32)
U = np.linspace(0, 0.9, 6).astype(np.float32)


def linear(x):
    return jnp.sum(W * x, axis=(1, 2, 3))


def square(x):
    return jnp.sum(x**2, axis=(1, 2, 3)) / 2  # its gradient is x itself


@pytest.mark.parametrize(("name", "weight", "expected"), [("none", 10, 0), ("wgan_gp", 10, 160), ("r1", 10, 125)])
def test_linear_critics(name, weight, expected):
    # golden.json, gp_linear_w=(3,4) and r1_linear_w=(3,4). A norm over the last axis alone would give other numbers.
    penalty = penalties.PENALTIES[name](**({} if name == "none" else {"weight": weight}))
    value, shown = jax.jit(lambda: penalty(linear, REAL, FAKE, U))()
    assert float(value) == pytest.approx(expected, rel=1e-6)
    assert {key: float(value) for key, value in shown.items()} == ({} if name == "none" else {"penalty": expected / 10})


def test_penalties_are_taken_where_they_should_be():
    def square_norm(x):
        return np.sum(np.float64(x) ** 2, axis=(1, 2, 3))

    between = U[:, None, None, None] * REAL + (1 - U[:, None, None, None]) * FAKE
    expected = {
        "wgan_gp": (np.sqrt(square_norm(between)) - 1) ** 2,
        "r1": square_norm(REAL) / 2,
        "r2": square_norm(FAKE) / 2,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(penalties, name)(square, REAL, FAKE, U), values, rtol=1e-5)
        mean, shown = penalties.PENALTIES[name](weight=3.0)(square, REAL, FAKE, U)
        np.testing.assert_allclose([mean, shown["penalty"]], [3 * values.mean(), values.mean()], rtol=1e-5)


@pytest.mark.parametrize("name", ["wgan_gp", "r1", "r2"])
@pytest.mark.parametrize("w", [0.0, 1e-30])
def test_a_flat_critic_has_a_finite_penalty_and_a_finite_gradient(name, w):
    def penalty(w):
        return jnp.mean(getattr(penalties, name)(lambda x: w * jnp.sum(x, axis=(1, 2, 3)), REAL, FAKE, U))

    value, slope = jax.value_and_grad(penalty)(w)
    assert float(value) == pytest.approx(1.0 if name == "wgan_gp" else 0.0)
    assert bool(jnp.isfinite(slope))


def test_the_gradient_in_the_critic_is_the_closed_form():
    # Of 10 (|w| - 1)^2 in w: 20 (1 - 1 / |w|) w.
    def penalty(w):
        return 10 * jnp.mean(penalties.wgan_gp(lambda x: jnp.sum(w * x, axis=(1, 2, 3)), REAL, FAKE, U))

    np.testing.assert_allclose(jax.grad(penalty)(W), 20 * (1 - 1 / 5) * W, rtol=1e-5)


@pytest.mark.parametrize("name", ["wgan_gp", "r1", "r2"])
def test_a_weight_that_rewards_steep_slopes_is_refused(name):
    with pytest.raises(UserError, match=r"penalty\.weight\) is -1\.0; it must not be negative"):
        penalties.PENALTIES[name](weight=-1.0)


def test_a_lazy_penalty_is_taken_in_every_so_many_steps_with_as_many_times_the_weight():
    lazy = penalties.PENALTIES["r1"](weight=3.0, every=4)

    def slope(step):  # in the critic's only parameter, at 2: its gradient is 2 x
        return jax.value_and_grad(lambda w: lazy(lambda x: w * square(x), REAL, FAKE, U, step)[0])(2.0)

    mean = np.mean(np.sum(np.float64(REAL) ** 2, axis=(1, 2, 3)))
    for step in range(9):
        expected = (4 * 3 * 2 * mean, 4 * 3 * 2 * mean) if step in (0, 4, 8) else (0, 0)  # w^2 / 2 and w, times these
        np.testing.assert_allclose(jax.jit(slope)(step), expected, rtol=1e-5)
    with pytest.raises(UserError, match=r"penalty\.every\) is 0; it must be at least 1"):
        penalties.PENALTIES["r1"](every=0)


def test_the_penalty_of_r3gan_is_the_sum_of_both():
    expected = (np.sum(np.float64(REAL) ** 2, axis=(1, 2, 3)) + np.sum(np.float64(FAKE) ** 2, axis=(1, 2, 3))) / 2
    np.testing.assert_allclose(penalties.r1_r2(square, REAL, FAKE, U), expected, rtol=1e-5)

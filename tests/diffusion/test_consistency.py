"""Consistency training: levels, metric and boundary by hand, and normal data, whose consistency function is known."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion.wide import float64
from ml_collections import ConfigDict
from scipy import special, stats

from gen_jax import methods
from gen_jax.diffusion import consistency, few_steps, sampler
from gen_jax.diffusion.objective import Drawn
from gen_jax.method import DataSpec, State, UserError, labelled

CONFIG = methods.load("consistency_mnist")[2]
SPEC = DataSpec("made_up", (4, 4, 1), 64, labelled("abc"))
MEAN, STD = 0.3, 0.5
PROCESS = consistency.process(CONFIG.diffusion, CONFIG.consistency)


def consistent(x_t, q, factor=1.0):
    """Where the flow of normal data through x_t at noise q ends; other factors than 1 spread it, but for q = 0."""
    spread = 1 + (factor - 1) * q / (1 + q)
    return MEAN + spread * STD / jnp.sqrt(STD**2 + q**2) * (x_t - MEAN)


def network_of(function):
    """The network whose f is `function` of (x_t, q): the inverse of c_skip, c_out and c_in."""
    s = CONFIG.consistency.sigma_data

    def network(x_in, told):
        q = jnp.exp((told - 500) / 50)[:, None, None, None]
        width = jnp.sqrt(s**2 + q**2)
        y = x_in * width
        return (function(y, q) - s**2 / width**2 * y) * width / (q * s)

    return network


def drawn(num=256, step=0, seed=0):
    rng = np.random.default_rng(seed)
    x0, eps = jnp.asarray(MEAN + STD * rng.normal(size=(num, 1, 1, 1))), jnp.asarray(rng.normal(size=(num, 1, 1, 1)))
    state: Any = State(jnp.int32(step), jax.random.key(0), {}, {}, {}, {}, {})
    t = PROCESS.times(jnp.asarray((np.arange(num) + 0.5) / num))
    return Drawn(x0, eps, t, lambda purpose: t, None, state)


def test_levels_are_those_of_the_paper_and_their_probabilities_too():
    """Song & Dhariwal 2023, sections 3.4 and 3.5, with N(k) = min(s0 2^floor(k / K'), s1) + 1, in numpy."""
    total, first, last = 4500, 10, 160
    length = total // (np.log2(last // first) + 1)
    for step in (0, 899, 900, 1799, 1800, 3600, 4499, 4500, 9000):
        expected = min(first * 2 ** np.floor(step / length), last)
        assert int(consistency.num_intervals(step, total, first, last)) == expected
    count = 10
    levels = (0.002 ** (1 / 7) + np.arange(count + 1) / count * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    u = (np.arange(200_000) + 0.5) / 200_000
    q = PROCESS.path.level(PROCESS.times(jnp.asarray(u, jnp.float32))).sigma
    low, high = consistency.neighbours(q, jnp.int32(count), 0.002, 80.0)
    place = np.searchsorted(levels, np.asarray(high) * (1 - 1e-3))
    np.testing.assert_allclose(high, levels[place], rtol=1e-4)
    np.testing.assert_allclose(low, np.where(place == 1, 0, levels[place - 1]), rtol=1e-4)
    share = np.diff(special.erf((np.log(levels) + 1.1) / (np.sqrt(2) * 2.0)))
    np.testing.assert_allclose(np.bincount(place, minlength=count + 1)[1:] / len(u), share / share.sum(), atol=2e-4)


def test_f_at_no_noise_is_the_picture_whatever_the_network():
    batch = drawn(4)
    found = consistency.mapped(PROCESS, lambda params, label: lambda x, told: jnp.sin(x) + 3, {}, batch, jnp.zeros(4))
    np.testing.assert_array_equal(found, batch.x0.astype(found.dtype))
    noisy = consistency.mapped(PROCESS, lambda params, label: lambda x, told: jnp.sin(x), {}, batch, jnp.full(4, 2.0))
    s = 0.616  # c_skip y + c_out F(c_in y), EDM's table 1
    y = np.asarray(batch.x0 + 2 * batch.eps)
    width = np.sqrt(s**2 + 4)
    np.testing.assert_allclose(noisy, s**2 / width**2 * y + 2 * s / width * np.sin(y / width), rtol=1e-4, atol=1e-5)


def test_the_exact_function_is_a_fixed_point_in_the_limit():
    """Loss and slope of the loss per difference of levels fall to 0 with that difference; of another function, not.

    The mean over all data, noise and levels, by Gauss' rule: nothing is drawn. A large c makes the pseudo-Huber
    distance a square: the exact function is the mean of what single examples say.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    weights = weights / weights.sum()
    of_x0, of_eps, of_u = (index.ravel() for index in np.meshgrid(np.arange(12), np.arange(12), np.arange(32)))
    share = weights[of_x0] * weights[of_eps] / 32

    def measured(count):
        c = ConfigDict({**CONFIG.consistency.to_dict(), "first": count, "last": count, "huber": 1e3})
        process = consistency.process(CONFIG.diffusion, c)
        loss = consistency.objective(process, c, 100).loss
        batch = drawn(1)._replace(
            x0=jnp.asarray(MEAN + STD * nodes[of_x0]).reshape(-1, 1, 1, 1),
            eps=jnp.asarray(nodes[of_eps]).reshape(-1, 1, 1, 1),
            t=process.times(jnp.asarray((of_u + 0.5) / 32)),
        )

        def networks(factor, label):
            return network_of(functools.partial(consistent, factor=factor))

        def mean_loss(factor):
            return 1e3 * jnp.sum(share * loss(networks, factor, batch).trained)

        both = jax.jit(jax.vmap(jax.value_and_grad(mean_loss)))(jnp.asarray([1.0, 1.5]))
        return np.abs(np.asarray(both)).tolist()

    with float64():
        found = np.array([measured(count) for count in (20, 80, 320)])  # [count, loss and slope, factor]
    losses, slopes = found[:, 0], found[:, 1]
    assert np.all(losses[:-1, 0] > 2 * losses[1:, 0])
    assert np.all(slopes[:-1, 0] > 2 * slopes[1:, 0])
    assert slopes[2, 1] > 20 * slopes[2, 0]
    assert slopes[2, 1] > 0.5 * slopes[1, 1]


def test_along_one_trajectory_the_exact_function_has_no_distance():
    with float64():
        q = jnp.asarray([0.0, 0.002, 0.5, 3.0, 80.0])
        process = consistency.process(CONFIG.diffusion, CONFIG.consistency)
        x0 = jnp.full((5, 1, 1, 1), -0.4)
        way = MEAN + jnp.sqrt(1 + (q / STD) ** 2)[:, None, None, None] * (x0 - MEAN)
        batch = drawn(5)._replace(x0=x0, eps=(way - x0) / jnp.maximum(q, 1e-9)[:, None, None, None])
        found = consistency.mapped(process, lambda params, label: network_of(consistent), {}, batch, q)
        np.testing.assert_allclose(found, x0, atol=1e-10)
        np.testing.assert_allclose(consistency.pseudo_huber(found, x0, 0.00054), 0, atol=1e-8)


def test_the_target_has_the_current_weights_and_no_gradient():
    c = ConfigDict({**CONFIG.consistency.to_dict(), "first": 10, "last": 10})
    batch = drawn(64)
    low, high = consistency.neighbours(PROCESS.path.level(batch.t).sigma, jnp.int32(10), 0.002, 80.0)

    def networks(params, label):
        return lambda x, told: jnp.sin(params * x) + params * told[:, None, None, None] / 1000

    loss = consistency.objective(PROCESS, c, 100).loss
    found = jax.grad(lambda params: jnp.mean(loss(networks, params, batch).trained))(jnp.asarray(0.8))
    target = consistency.mapped(PROCESS, networks, jnp.asarray(0.8), batch, low)

    def by_hand(params):
        distance = consistency.mapped(PROCESS, networks, params, batch, high) - target
        huber = jnp.sqrt(jnp.sum(distance**2, axis=(1, 2, 3)) + 0.00054**2) - 0.00054
        return jnp.mean(huber / (high - low))

    np.testing.assert_allclose(found, jax.grad(by_hand)(jnp.asarray(0.8)), rtol=1e-4)
    at_high = consistency.mapped(PROCESS, networks, jnp.asarray(0.8), batch, high)
    shown = loss(networks, jnp.asarray(0.8), batch).shown
    np.testing.assert_allclose(shown, (at_high - batch.x0)[:, 0, 0, 0] ** 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2])
def test_samples_of_the_exact_function_have_the_moments_of_the_data(n):
    """One step, and two: the second adds noise of 0.8 and maps it back."""
    calls = []

    def network(x_in, told):
        jax.debug.callback(lambda _: calls.append(len(x_in)), x_in[0, 0, 0, 0])
        return network_of(consistent)(x_in, told)

    config = methods.override(CONFIG, [f"--config.sample.num_steps={n}"])
    steps = consistency.model.spacings.SPACINGS["karras"](sigma_min=config.sample.spacing.sigma_min)(PROCESS.path, n)
    np.testing.assert_allclose(PROCESS.path.path(steps).sigma, [*(80.0, 0.8)[:n], 0.0], rtol=1e-6)
    keys = jax.random.split(jax.random.key(0), 4000)
    draw = functools.partial(sampler.sample, PROCESS.denoiser(network), PROCESS.path, few_steps.renoise(), steps)
    found = np.asarray(jax.jit(draw, static_argnums=1)(keys, (1, 1, 1))).ravel()
    jax.effects_barrier()
    assert calls == [4000] * n
    assert found.mean() == pytest.approx(MEAN, abs=4.5 * STD / np.sqrt(4000) + 0.01)
    assert found.std() == pytest.approx(STD, rel=4.5 / np.sqrt(8000) + 0.01)
    assert stats.kstest(found, stats.norm(MEAN, STD).cdf).pvalue > 1e-4


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["consistency.first=1"], "first is 1 and last is 160; they must satisfy 2 <= first <= last"),
        (["consistency.last=5"], "first is 10 and last is 5"),
        (["consistency.sigma_data=0"], "config.consistency.sigma_data is 0; it must be above 0"),
        (["consistency.huber=-1"], "config.consistency.huber is -1"),
        (["consistency.sigma_min=100"], "they must satisfy 0 < sigma_min < sigma_max"),
        (["sample.guidance=2"], "cannot be guided while it samples"),
        (["sample.sampler=heun"], "allowed: renoise"),
        (["eval.likelihood=ode"], "allowed: none"),
    ],
)
def test_mistakes_are_refused_in_one_line(words, line):
    with pytest.raises(UserError) as refusal:
        methods.make(methods.override(CONFIG, [f"--config.{word}" for word in words]), SPEC)
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)

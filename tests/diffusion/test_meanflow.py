"""MeanFlow: its target against closed forms, flow matching at r = t, guidance inside, one call a step."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion.wide import float64
from ml_collections import ConfigDict
from scipy import special

from gen_jax import methods
from gen_jax.diffusion import few_steps, meanflow, model, sampler, schedule
from gen_jax.diffusion import process as processes
from gen_jax.diffusion.guidance import NO_LABEL
from gen_jax.diffusion.objective import Drawn
from gen_jax.method import DataSpec, UserError, labelled

CONFIG = methods.load("meanflow_mnist")[2]
SPEC = DataSpec("made_up", (4, 4, 1), 64, labelled("abc"))
PROCESS = meanflow.process(CONFIG.diffusion)


class Mixture(NamedTuple):
    """Weights, means and standard deviations of normal distributions on a line, [K]."""

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    def below(self, x, t):
        """The probability, and its density, that x_t is below x."""
        off, width = self._standard(x, t)
        below = jax.scipy.special.ndtr(off) @ self.weights
        return below, (jnp.exp(-(off**2) / 2) / (np.sqrt(2 * np.pi) * width)) @ self.weights

    def velocity(self, x, t):
        """E[eps - x0 | x_t]."""
        off, width = self._standard(x, t)
        share = self.weights * jnp.exp(-(off**2) / 2) / width
        t = jnp.asarray(t)[..., None]
        slope = (t - (1 - t) * self.stds**2) / width
        return jnp.sum(share * (slope * off - self.means), -1) / jnp.sum(share, -1)

    def flowed(self, x, t, r):
        """x_r of the flow through x at t: the flow on a line keeps quantiles. By bisection, and a step of Newton's."""
        p = self.below(x, t)[0]
        low, high = jnp.full_like(x, -12.0), jnp.full_like(x, 12.0)

        def halve(_, ends):
            middle = (ends[0] + ends[1]) / 2
            under = self.below(middle, r)[0] < p
            return jnp.where(under, middle, ends[0]), jnp.where(under, ends[1], middle)

        found = jax.lax.stop_gradient(jax.lax.fori_loop(0, 80, halve, jax.lax.stop_gradient((low, high)))[0])
        here, density = self.below(found, r)
        return found - (here - p) / jax.lax.stop_gradient(density)

    def _standard(self, x, t):
        t = jnp.asarray(t)[..., None]
        width = jnp.sqrt(((1 - t) * self.stds) ** 2 + t**2)
        return (x[..., None] - (1 - t) * self.means) / width, width


NORMAL = Mixture(np.array([1.0]), np.array([0.3]), np.array([0.5]))
MIXTURE = Mixture(np.array([0.3, 0.7]), np.array([-0.8, 0.5]), np.array([0.25, 0.4]))
DATA = {"normal": NORMAL, "mixture": MIXTURE}


def exact(data):
    """The network that gives the average velocity of a mixture, from what networks are told."""

    def network(x_in, told, span):
        x = x_in.reshape(-1)
        t, apart = told / meanflow.FASTEST, span / meanflow.FASTEST
        r = t - apart
        moved = (x - data.flowed(x, t, r)) / jnp.where(apart > 1e-9, apart, 1.0)
        return jnp.where(apart > 1e-9, moved, data.velocity(x, t)).reshape(x_in.shape)

    return network


T, R = np.array([0.9, 0.7, 0.5, 1.0, 0.31, 0.6]), np.array([0.1, 0.5, 0.5, 0.0, 0.3, 0.6])


@pytest.mark.parametrize("name", DATA)
def test_the_exact_average_velocity_is_its_own_target(name):
    """With the velocity at x_t, in float64: the identity of which MeanFlow makes a loss, at r < t and at r = t."""
    data = DATA[name]
    with float64():
        x, t, r = jnp.linspace(-1.2, 1.4, 6), jnp.asarray(T), jnp.asarray(R)
        shape = (-1, 1, 1, 1)
        regress = jax.jit(functools.partial(meanflow.regression, PROCESS, exact(data)))
        found, target = regress(x.reshape(shape), data.velocity(x, t).reshape(shape), t, r)
        np.testing.assert_allclose(found, target, atol=1e-8)
        # As far as what it is to be the average of: Gauss' rule along the flow, 40 places.
        nodes, weights = np.polynomial.legendre.leggauss(40)
        places = r[:, None] + (t - r)[:, None] * (nodes + 1) / 2
        from_x, from_t = (jnp.broadcast_to(value[:, None], places.shape) for value in (x, t))
        along = jax.jit(lambda: data.velocity(data.flowed(from_x, from_t, places), places))()
        np.testing.assert_allclose(found.reshape(-1), along @ (weights / 2), atol=1e-8)


def test_with_the_velocity_of_single_examples_the_error_of_the_exact_one_has_mean_zero():
    """As in training: v = eps - x0. The error, times any function of x_t, is zero to 4.5 standard errors."""
    num, (t, r) = 100_000, (0.8, 0.3)
    rng = np.random.default_rng(0)
    x0, eps = (jnp.asarray(v.reshape(-1, 1, 1, 1)) for v in (0.3 + 0.5 * rng.normal(size=num), rng.normal(size=num)))
    with float64():
        times = jnp.full(num, t), jnp.full(num, r)
        x_t = (1 - t) * x0 + t * eps
        found, target = jax.jit(functools.partial(meanflow.regression, PROCESS, exact(NORMAL)))(x_t, eps - x0, *times)
        error, x = np.asarray(found - target).ravel(), np.asarray(x_t).ravel()
    assert error.std() > 0.1
    for weight in (np.ones_like(x), x, np.sin(3 * x)):
        assert abs(np.mean(weight * error)) < 4.5 * np.std(weight * error) / np.sqrt(num)


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("name", DATA)
def test_any_number_of_steps_gives_the_data_of_the_exact_one(name, n):
    """Every sample, to rounding: the one of its noise's quantile; so the moments are those of the data."""
    data, path = DATA[name], schedule.straight()
    p = (np.arange(64) + 0.5) / 64
    with float64():
        start = jnp.asarray(special.ndtri(p)).reshape(-1, 1, 1, 1)
        keys = jax.random.split(jax.random.key(0), len(p))
        draw = functools.partial(
            sampler.sample, PROCESS.denoiser(exact(data)), path, few_steps.average(), path.steps(n), keys, (1, 1, 1)
        )
        found = jax.jit(draw)(start=start).reshape(-1)
        np.testing.assert_allclose(data.below(found, jnp.zeros(64))[0], p, atol=1e-5)
    mean = data.weights @ data.means
    std = np.sqrt(data.weights @ (data.stds**2 + data.means**2) - mean**2)
    assert np.mean(found) == pytest.approx(mean, abs=1e-3)
    assert np.std(found) == pytest.approx(std, rel=0.03)  # 64 quantiles lack the ends


class Bent(nn.Module):
    """A small network that depends on all that it is told."""

    out_channels: int = 1
    num_classes: int = 0
    dtype: Any = None

    @nn.compact
    def __call__(self, x, time, span, *, label=None, index=None, train=False):
        scale = self.param("scale", nn.initializers.constant(0.7), (3,))
        time, span = (value[:, None, None, None] for value in (time, span))
        named = 0.0 if label is None else 0.3 * label[:, None, None, None]
        return jnp.sin(scale[0] * x + 0.2 * time * scale[1]) + 0.1 * scale[2] * span**2 + named


PARAMS = {"scale": jnp.array([0.7, 1.1, -0.4])}


def networks(params, label):
    return functools.partial(Bent().apply, {"params": params}, label=label)


def drawn(label=None, num=16):
    rng = np.random.default_rng(1)
    x0, eps = rng.normal(size=(2, num, 4, 4, 1)).astype(np.float32)
    one, other, share = (jnp.asarray(u, jnp.float32) for u in rng.uniform(0.05, 0.95, (3, num)))
    state: Any = None
    return Drawn(jnp.asarray(x0), jnp.asarray(eps), one, lambda purpose: (other, share)[purpose], label, state)


def settings(**changes):
    return ConfigDict({**CONFIG.meanflow.to_dict(), **changes})


def test_at_r_equal_to_t_it_is_flow_matching_bit_by_bit():
    batch = drawn()
    loss = meanflow.objective(PROCESS, settings(equal=1.0, power=0.0)).loss
    t = jnp.maximum(batch.t, PROCESS.times(batch.uniform(0)))

    def ours(params):
        found = loss(networks, params, batch)
        return jnp.sum(found.trained) / 16, found.shown  # 16 pixels: a power of two

    def flow_matching(params):
        found = PROCESS.loss(networks(params, None), batch.x0, batch.eps, t)
        return jnp.sum(found), found

    (one, other) = (jax.grad(each, has_aux=True)(PARAMS) for each in (ours, flow_matching))
    for found, expected in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert np.abs(other[0]["scale"][:2]).min() > 0.1


@pytest.mark.parametrize(
    ("pixels", "power", "least", "most"), [(1, 0.0, -0.006, 0.006), (1, 1.0, -0.06, -0.03), (256, 1.0, -0.006, 0.006)]
)
def test_the_divisor_moves_the_fitted_velocity_of_few_pixels_alone(pixels, power, least, most):
    """At the exact velocity a squared error is least. Divided by itself it is not, unless it is the sum of many pixels.

    What is found is the shift of the output that one Newton step with the divisor held would take, in float64; its
    standard error is 0.0013. All pixels are independent, and t = 0.9.
    """
    num, t = 400_000 // pixels, 0.9
    rng = np.random.default_rng(0)
    kind = rng.choice(2, size=(num, pixels, 1, 1), p=MIXTURE.weights)
    x0, eps = (rng.normal(size=kind.shape) for _ in range(2))
    x0 = MIXTURE.means[kind] + MIXTURE.stds[kind] * x0

    def networks(shift, label):
        return lambda x, told, span: shift + MIXTURE.velocity(x, jnp.full_like(x, t))

    with float64():
        state: Any = None
        batch = Drawn(jnp.asarray(x0), jnp.asarray(eps), jnp.full(num, t), lambda purpose: jnp.zeros(num), None, state)
        loss = meanflow.objective(PROCESS, settings(equal=1.0, power=power)).loss
        zero = jnp.asarray(0.0)
        slope = jax.jit(jax.grad(lambda shift: jnp.mean(loss(networks, shift, batch).trained)))(zero)
        error = pixels * np.asarray(jax.jit(lambda: loss(networks, zero, batch).shown)())
    curvature = np.mean(2 * pixels * (error + CONFIG.meanflow.constant) ** -power)
    assert least < -float(slope) / curvature < most


def test_the_share_of_examples_with_r_equal_to_t_and_the_order_of_the_two():
    u = jnp.linspace(0, 1, 1000, endpoint=False)
    t, r = meanflow.ends_of(PROCESS.times(u), PROCESS.times(jnp.roll(u, 300)), jnp.arange(1000) % 4 > 0)
    assert np.sum(np.asarray(t) == np.asarray(r)) == 750
    assert np.all(np.asarray(r) <= np.asarray(t))
    assert 0 < float(r.min()) < float(t.max()) < 1
    middle = meanflow.process(CONFIG.diffusion).times(jnp.array([0.5]))
    np.testing.assert_allclose(middle, 1 / (1 + np.exp(0.4)), rtol=1e-5)  # logit-normal around -0.4


def test_only_the_target_is_stopped():
    """The gradient is that of the regression on a constant, with a divisor that is constant too."""
    batch, c = drawn(), settings()
    t, r = meanflow.ends_of(batch.t, PROCESS.times(batch.uniform(0)), batch.uniform(1) < c.equal)
    assert 0 < np.mean(t == r) < 1
    x_t = schedule.add_noise(batch.x0, batch.eps, PROCESS.path.level(t))
    v = batch.eps - batch.x0

    def target_of(params):
        return meanflow.regression(PROCESS, networks(params, None), x_t, v, t, r)[1]

    constant = target_of(PARAMS)
    slopes = jax.jacrev(lambda params: jnp.sum(target_of(params) * v))(PARAMS)
    np.testing.assert_array_equal(slopes["scale"], 0)

    def output(params, x_t, t, r):
        told = (1000 * t * (meanflow.FASTEST / 1000), meanflow.FASTEST * (t - r))
        return networks(params, None)(x_t, *told)

    # The target itself, with the derivative by a difference in float64.
    with float64():
        wide = [jnp.asarray(np.asarray(value, np.float64)) for value in (x_t, t, r, v)]
        params, h = {"scale": jnp.asarray(np.float64([0.7, 1.1, -0.4]))}, 1e-5
        ahead, behind = (output(params, wide[0] + s * h * wide[3], wide[1] + s * h, wide[2]) for s in (1, -1))
        expected = wide[3] - (wide[1] - wide[2])[:, None, None, None] * (ahead - behind) / (2 * h)
    np.testing.assert_allclose(constant, expected, atol=2e-4)

    error = jnp.sum((output(PARAMS, x_t, t, r) - constant) ** 2, axis=(1, 2, 3))

    def by_hand(params):
        return jnp.mean(jnp.sum((output(params, x_t, t, r) - constant) ** 2, axis=(1, 2, 3)) / (error + 0.01))

    loss = meanflow.objective(PROCESS, c).loss
    found = jax.grad(lambda params: jnp.mean(loss(networks, params, batch).trained))(PARAMS)
    np.testing.assert_allclose(found["scale"], jax.grad(by_hand)(PARAMS)["scale"], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(loss(networks, PARAMS, batch).shown, error / 16, rtol=1e-4)


def test_guidance_stands_inside_the_target():
    """As the paper writes it; where the label is dropped, and at scale 1 without a mix, the velocity is eps - x0."""
    label = jnp.arange(16) % 4 - 1
    batch = drawn(label)
    t = batch.t
    x_t = schedule.add_noise(batch.x0, batch.eps, PROCESS.path.level(t))
    v = batch.eps - batch.x0

    def own(label):
        return networks(PARAMS, label)(x_t, 10 * t, jnp.zeros_like(t))

    found = meanflow.velocity(PROCESS, networks, PARAMS, batch, x_t, t, 1.5, 0.25)
    expected = 1.5 * v + (1 - 1.5 - 0.25) * own(jnp.full(16, NO_LABEL)) + 0.25 * own(label)
    keep = np.asarray(label) >= 0
    np.testing.assert_allclose(found[keep], expected[keep], atol=1e-5)
    np.testing.assert_array_equal(found[~keep], v[~keep])
    np.testing.assert_array_equal(meanflow.velocity(PROCESS, networks, PARAMS, batch, x_t, t, 1.0, 0.0), v)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_step_of_sampling_costs_one_network_call(n, monkeypatch):
    calls = []

    class Counted(Bent):
        def __call__(self, x, *told, **given):
            jax.debug.callback(lambda _: calls.append(len(x)), x[0, 0, 0, 0])
            return Bent.__call__(self, x, *told, **given)

    monkeypatch.setitem(model.NETWORKS, "counted", (Counted,))
    words = ("--config.network=counted", f"--config.sample.num_steps={n}")
    method = methods.make(methods.override(CONFIG, words), SPEC)
    state = method.init(jax.random.key(0), {}, {})
    calls.clear()
    images = jax.jit(method.sample)(state, jax.random.split(jax.random.key(1), 3), {"label": jnp.array([0, 1, 2])})
    jax.block_until_ready(images)
    jax.effects_barrier()
    assert calls == [3] * n
    assert np.abs(images).max() <= 1


def test_other_samplers_take_it_as_a_flow(monkeypatch):
    monkeypatch.setitem(model.NETWORKS, "bent", (Bent,))
    words = ("--config.network=bent", "--config.sample.sampler=euler", "--config.sample.num_steps=5",
             "--config.sample.clip=false")  # fmt: skip
    method = methods.make(methods.override(CONFIG, words), SPEC)
    state, keys = method.init(jax.random.key(0), {}, {}), jax.random.split(jax.random.key(1), 2)
    label = jnp.array([1, 2])
    found = jax.jit(method.sample)(state, keys, {"label": label})
    x = np.stack([jax.random.normal(jax.random.fold_in(key, 0), (4, 4, 1)) for key in keys])
    for i in range(5):
        t = jnp.full(2, 1 - i / 5)
        x = x - 0.2 * networks(state.ema["denoiser"], label)(x, 10 * t, jnp.zeros(2))
    np.testing.assert_allclose(found, x, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["meanflow.equal=1.5"], "config.meanflow.equal is 1.5; it is a share"),
        (["meanflow.power=-1"], "config.meanflow.power is -1"),
        (["meanflow.constant=0"], "config.meanflow.constant is 0; it must be above 0"),
        (["sample.guidance=2"], "sampled by average cannot be guided while it samples: use 1"),
        (["meanflow.guidance=2"], "config.meanflow.guidance=2.0 has no effect with diffusion.label_drop=0.0"),
        (["diffusion.conditional=false", "diffusion.label_drop=0.1"], "the model is not conditional"),
        (["eval.likelihood=bound"], "the straight path has none: use ode"),
    ],
)
def test_mistakes_are_refused_in_one_line(words, line):
    with pytest.raises(UserError) as refusal:
        methods.make(methods.override(CONFIG, [f"--config.{word}" for word in words]), SPEC)
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_guidance_without_an_unconditional_velocity_is_refused_also_in_a_file():
    config = methods.override(CONFIG, [])
    config.meanflow.guidance_mix = 0.5
    with pytest.raises(UserError, match="guidance_mix is 0.5, but no labels are dropped"):
        methods.make(config, SPEC)


def test_the_network_is_told_of_spans_only_by_this_method():
    assert not processes.make(methods.load("flow_mnist")[2].diffusion).spans
    shapes = {
        name: jax.eval_shape(
            methods.make(methods.load(f"{name}:tiny")[2], DataSpec("x", (8, 8, 1), 64, labelled("ab"))).init,
            jax.random.key(0), {}, {},
        ).params["denoiser"].keys()
        for name in ("flow_mnist", "meanflow_mnist")
    }  # fmt: skip
    assert shapes["meanflow_mnist"] - shapes["flow_mnist"] == {"span_0", "span_1"}

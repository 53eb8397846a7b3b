"""Denoising diffusion GANs: noise levels and the way back in closed form, both updates by hand, network calls."""

import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import methods
from gen_jax.ddgan import denoisers, denoising
from gen_jax.ddgan import model as ddgan
from gen_jax.method import DataSpec, UserError, broadcast_to_images, labelled

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
SPEC = DataSpec("made_up", (8, 8, 1), 64, labelled("0123456789"))
MEAN, STD = 0.3, 0.5


def alpha_bar(u, low=0.1, high=20.0):
    return np.exp(-(0.5 * u**2 * (high - low) + low * u))


@pytest.mark.parametrize("num_steps", [1, 4, 7])
def test_alpha_bar_is_that_of_the_variance_preserving_path_relative_to_its_first_level(num_steps):
    u = np.arange(num_steps + 1) / num_steps * (1 - 1e-3) + 1e-3
    expected = alpha_bar(u[1:]) / alpha_bar(u[0])
    np.testing.assert_allclose(denoising.denoising_schedule(num_steps).alpha_bar, expected, rtol=1e-9)


def test_steps_have_the_coefficients_of_the_posterior_that_ddpm_has():
    # Ho et al. 2020, equations 6 and 7, from betas alone.
    u = np.arange(5) / 4 * (1 - 1e-3) + 1e-3
    betas = 1 - alpha_bar(u[1:]) / alpha_bar(u[:-1])
    bar = np.cumprod(1 - betas)
    before = np.append(1.0, bar[:-1])
    chain = denoising.chain_of(denoising.denoising_schedule())
    near: Any = {"rtol": 2e-6, "atol": 1e-7}
    np.testing.assert_allclose(chain.of_x0, betas * np.sqrt(before) / (1 - bar), **near)
    np.testing.assert_allclose(chain.kept, np.sqrt(1 - betas), **near)
    np.testing.assert_allclose(chain.added, np.sqrt(betas), **near)
    np.testing.assert_allclose(chain.alpha_s, np.sqrt(before), **near)
    np.testing.assert_allclose(chain.sigma_s, np.sqrt(1 - before), **near)


def test_a_generated_x_s_comes_from_the_posterior_of_its_own_x0_and_from_the_noise_of_the_real_one():
    # Linear in both noises, so that the columns of its coefficients tell the joint distribution with x_t; the posterior
    # of x0_hat is that of Ho et al. 2020, equations 6 and 7.
    schedule = denoising.denoising_schedule()
    chain, t = denoising.chain_of(schedule), jnp.arange(4)
    bar = np.asarray(schedule.alpha_bar, np.float64)
    before = np.append(1.0, bar[:-1])
    betas = 1 - bar / before
    images = {
        name: jnp.full((4, 1, 1, 1), value) for name, value in (("x0", 0.7), ("x0_hat", -0.4), ("1", 1), ("0", 0))
    }

    def drawn(eps_s, eps_t):
        x_s, x_t = chain.pair(images["x0"], t, images[eps_s], images[eps_t])
        return np.ravel(chain.instead(x_s, images["x0"], images["x0_hat"], t)), np.ravel(x_t)

    (mean_s, mean_t), of_s, of_t = drawn("0", "0"), drawn("1", "0"), drawn("0", "1")
    columns = np.array([[a - mean_s, b - mean_t] for a, b in (of_s, of_t)], np.float64)  # [noise, x_s or x_t, t]
    covariance = np.einsum("nit,njt->ijt", columns, columns)
    slope = covariance[0, 1] / covariance[1, 1]
    near: Any = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(slope, (1 - before) * np.sqrt(1 - betas) / (1 - bar), **near)
    of_x0 = betas * np.sqrt(before) / (1 - bar)
    np.testing.assert_allclose(mean_s, slope * mean_t + of_x0 * -0.4, **near)
    left = covariance[0, 0] - slope * covariance[0, 1]
    np.testing.assert_allclose(left, betas * (1 - before) / (1 - bar), **near)


def test_pairs_of_training_have_the_levels_of_the_path():
    schedule = denoising.denoising_schedule()
    chain, t = denoising.chain_of(schedule), jnp.arange(4)
    one, none = jnp.ones((4, 1, 1, 1)), jnp.zeros((4, 1, 1, 1))
    x_s, x_t = (np.ravel(x) for x in chain.pair(one, t, none, none))
    np.testing.assert_allclose(x_t, schedule.alpha, rtol=1e-5)
    np.testing.assert_allclose(x_s, [1.0, *schedule.alpha[:-1]], rtol=1e-5)
    of_s, of_t = (np.ravel(chain.pair(none, t, *eps)[1]) for eps in ((one, none), (none, one)))
    np.testing.assert_allclose(of_s**2 + of_t**2, schedule.sigma**2, rtol=1e-5)


def perfect(keys, calls):
    """x0 drawn from p(x0 | x_t) of normal data: what a generator has learnt that fools every discriminator."""

    def draw(x_t, level):
        jax.debug.callback(lambda: calls.append(1))
        alpha, sigma = (broadcast_to_images(values, x_t) for values in (level.alpha, level.sigma))
        total = (alpha * STD) ** 2 + sigma**2
        mean = MEAN + alpha * STD**2 / total * (x_t - alpha * MEAN)
        z = jax.vmap(lambda key, time: jax.random.normal(jax.random.fold_in(key, 7 + time), x_t.shape[1:]))
        return mean + STD * sigma / jnp.sqrt(total) * z(keys, level.time.astype(jnp.int32))

    return draw


def test_a_perfect_generator_reaches_the_moments_of_normal_data_in_four_calls():
    calls, num = [], 4000
    keys, schedule = jax.random.split(jax.random.key(0), num), denoising.denoising_schedule()
    images = jax.jit(lambda keys: ddgan.sampled(perfect(keys, calls), schedule, keys, (5, 5, 1)))(keys)
    jax.effects_barrier()
    assert len(calls) == 4
    # Sampling starts from N(0, 1) where alpha is 0.0066: that is seen in neither moment.
    values = np.asarray(images, np.float64)
    error = STD / np.sqrt(values.size)
    assert values.mean() == pytest.approx(MEAN, abs=4 * error)
    assert values.std() == pytest.approx(STD, abs=4 * error / np.sqrt(2))
    skew, excess = (((values - MEAN) / STD) ** 3).mean(), (((values - MEAN) / STD) ** 4).mean() - 3
    assert abs(skew) < 4 * np.sqrt(6 / values.size) + 0.01
    assert abs(excess) < 4 * np.sqrt(24 / values.size) + 0.02


def test_means_in_place_of_draws_are_too_narrow():
    # The same with z = 0: what the test above would not forgive.
    keys, schedule = jax.random.split(jax.random.key(0), 4000), denoising.denoising_schedule()

    def mean(x_t, level):
        alpha, sigma = (broadcast_to_images(values, x_t) for values in (level.alpha, level.sigma))
        return MEAN + alpha * STD**2 / ((alpha * STD) ** 2 + sigma**2) * (x_t - alpha * MEAN)

    values = np.asarray(jax.jit(lambda keys: ddgan.sampled(mean, schedule, keys, (5, 5, 1)))(keys))
    assert values.std() < 0.9 * STD


class Constant(nn.Module):
    """Gives b everywhere."""

    out_channels: int
    num_classes: int = 0
    dtype: Any = None

    @nn.compact
    def __call__(self, x_t, z, time, label=None):
        return jnp.broadcast_to(self.param("b", nn.initializers.constant(0.4), ()), x_t.shape)


class Linear(nn.Module):
    """D = w x_s + v."""

    num_classes: int = 0
    dtype: Any = None

    @nn.compact
    def __call__(self, x_s, x_t, t, label=None):
        w, v = (self.param(name, nn.initializers.constant(value), ()) for name, value in (("w", 0.5), ("v", -0.1)))
        return w * x_s[:, 0, 0, 0] + v


def s(x):
    return 1 / (1 + np.exp(-np.float64(x)))


@pytest.mark.parametrize("game", ["non_saturating", "relativistic"])
def test_both_updates_are_the_closed_form_with_a_penalty_every_other_step_that_counts_twice(monkeypatch, game):
    # One step of almost nothing but noise: x_s is the data, and the generator's is tanh(b).
    monkeypatch.setitem(denoisers.NETWORKS, "toy", (Constant, Linear))
    rate, judge_rate, weight, every = 0.3, 0.2, 0.7, 2
    words = (
        "network=toy", "gan.denoising_steps=1", "gan.beta_max=60", "gan.conditional=false", "optimizer=sgd",
        "optimizer.b1=0", f"optimizer.learning_rate={rate}", f"discriminator_optimizer.learning_rate={judge_rate}",
        "optimizer.decay=none", f"gan.loss={game}", f"gan.penalty.weight={weight}", f"gan.penalty.every={every}",
    )  # fmt: skip
    config = methods.override(methods.load("ddgan_mnist")[2], [f"--config.{word}" for word in words])
    method = methods.make(config, DataSpec("dot", (1, 1, 1), 64))
    state, step = method.init(jax.random.key(0), {}, {}), jax.jit(method.step)
    image = np.array([0, 60, 200, 255, 31], np.uint8).reshape(5, 1, 1, 1)
    x, (w, v), b = image.ravel() / 127.5 - 1, (0.5, -0.1), 0.4
    for number in range(3):
        state, scalars = step(state, {"image": image, "index": np.arange(5, dtype=np.int32)})
        fake, counted = np.tanh(b), every * weight * (number % every == 0)
        if game == "relativistic":
            loss = np.mean(np.logaddexp(0, w * (fake - x)))
            slope_w, slope_v = np.mean(s(w * (fake - x)) * (fake - x)), 0
        else:
            loss = np.mean(np.logaddexp(0, -(w * x + v))) + np.logaddexp(0, w * fake + v)
            real_slope, fake_slope = -s(-(w * x + v)), s(w * fake + v)
            slope_w, slope_v = np.mean(real_slope * x) + fake_slope * fake, np.mean(real_slope) + fake_slope
        np.testing.assert_allclose(scalars["loss"], loss + counted * w**2 / 2, rtol=1e-5)
        np.testing.assert_allclose(scalars["discriminator_loss"], loss, rtol=1e-5)
        w, v = w - judge_rate * (slope_w + counted * w), v - judge_rate * slope_v
        gain = np.mean(s(w * (x - fake))) if game == "relativistic" else s(-(w * fake + v))
        b += rate * gain * w * (1 - fake**2)
        found = [float(state.params["discriminator"][name]) for name in ("w", "v")]
        np.testing.assert_allclose([*found, float(state.params["generator"]["b"])], [w, v, b], rtol=1e-5)


def make(*words, spec=SPEC):
    words = [f"--config.{word}" for word in ("network.multipliers=(1,)", *words)]
    config = methods.override(methods.load(str(FOLDER / "ddgan_mnist.py:tiny"))[2], words)
    methods.check(config)
    return methods.make(config, spec)


def test_what_is_left_of_the_data_in_x_t_passes_by_the_network(monkeypatch):
    monkeypatch.setitem(denoisers.NETWORKS, "toy", (Constant, Linear))
    config = methods.override(methods.load("ddgan_mnist")[2], ["--config.network=toy"])
    model = ddgan._assemble(config, SPEC)
    x_t, t = jnp.full((3, 8, 8, 1), 0.5), jnp.array([0, 1, 3])
    x0 = ddgan._x0(model, {"b": jnp.float32(0.25)}, x_t, jnp.zeros((3, 5)), t, None)
    np.testing.assert_allclose(x0[:, 0, 0, 0], np.tanh(0.5 * model.schedule.alpha[np.asarray(t)] + 0.25), rtol=1e-5)


@pytest.mark.long
def test_z_time_and_label_reach_both_networks():
    generator = denoisers.UNetGenerator(1, 3, channels=4, multipliers=(1,), patch=1, mapping_width=4, mapping_depth=1)
    judge = denoisers.PairDiscriminator(3, num_times=4, discriminator_channels=(4,), hidden=(8,))
    x, z, time, label = jnp.full((2, 4, 4, 1), 0.5), jnp.ones((2, 6)), jnp.zeros(2), jnp.array([0, 1])
    t = jnp.zeros(2, jnp.int32)
    other = {"x": -x, "z": z * jnp.linspace(-1, 1, 6), "time": time + 500, "t": t + 3, "label": label + 1}

    def differs(call, *told):
        # Branches end in layers that start near zero: filled, they pass on what they were told.
        params = jax.jit(call.init)(jax.random.key(0), *told)
        params = jax.tree.map(lambda p: jnp.where(jnp.abs(p) < 1e-3, 0.1, p), params)
        apply = jax.jit(call.apply)
        for place, value in enumerate(told):
            name = {id(x): "x", id(z): "z", id(time): "time", id(t): "t", id(label): "label"}[id(value)]
            changed = [*told[:place], other[name], *told[place + 1 :]]
            assert float(jnp.abs(apply(params, *told) - apply(params, *changed)).max()) > 1e-3, (name, place)

    differs(generator, x, z, time, label)
    differs(judge, x, x, t, label)


@pytest.mark.parametrize(
    ("words", "spec", "hint"),
    [
        (("gan.denoising_steps=0",), SPEC, "denoising_steps is 0; it must be in 1..1000"),
        (("gan.beta_min=0",), SPEC, "beta_min is 0.0 and beta_max is 20.0"),
        (("gan.loss=relativist",), SPEC, "did you mean relativistic?"),
        (("gan.latents=0",), SPEC, "gan.latents is 0; it must be at least 1"),
        (("gan.penalty.every=0",), SPEC, "penalty.every) is 0; it must be at least 1"),
        (("discriminator_optimizer.learning_rate=-1",), SPEC, "use 0 or more"),
        ((), DataSpec("plain", (8, 8, 1), 64), "config.gan.conditional needs labels"),
        ((), DataSpec("plane", (1, 1, 2), 64, kind="points", value_range=(-1, 1)), "ddgan needs pictures"),
    ],
)
def test_what_cannot_be_is_one_line(words, spec, hint):
    with pytest.raises(UserError) as error:
        make(*words, spec=spec)
    assert hint in str(error.value)
    assert "\n" not in str(error.value)


def test_the_page_tells_the_number_of_calls():
    assert make().describe["sampler"] == "4 steps of the generator (4 network calls)"
    assert make("gan.denoising_steps=2").describe["sampler"] == "2 steps of the generator (2 network calls)"
    assert make("gan.denoising_steps=1").describe["sampler"] == "1 step of the generator (1 network call)"

"""The process: what a network is given and asked for, the same in training and in sampling."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import methods
from gen_jax.diffusion import process, schedule, weighting
from gen_jax.method import UserError

CONFIG = methods.load("ddpm_mnist")[2]
PATHS = ("cosine", "straight", "variance_exploding")
EDM = (
    "schedule=variance_exploding", "prediction=edm", "weighting=edm", "input_scale=unit_variance", "told=log_snr",
)  # fmt: skip


def made(*words: str) -> process.Process:
    return process.make(methods.override(CONFIG, [f"--config.diffusion.{word}" for word in words]).diffusion)


def drawn(n: int, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    x0, eps = jax.random.normal(jax.random.key(seed), (2, n, 4, 4, 1))
    return x0, eps


class Recorder:
    """A network that remembers what it was given."""

    def __init__(self):
        self.given = []

    def __call__(self, x_in, told):
        self.given.append((np.asarray(x_in), np.asarray(told)))
        return jnp.sin(x_in)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("input_scale", process.INPUT_SCALES)
@pytest.mark.parametrize("told", process.TOLD)
def test_the_network_sees_the_same_in_training_and_in_sampling(path, input_scale, told):
    one = made(f"schedule={path}", f"input_scale={input_scale}", f"told={told}")
    x0, eps = drawn(8)
    t = one.path.times(jnp.linspace(0, 1, 8))
    level = one.path.level(t)
    network = Recorder()
    loss = one.loss(network, x0, eps, t)
    one.denoiser(network)(schedule.add_noise(x0, eps, level), level)
    (x_trained, told_trained), (x_sampled, told_sampled) = network.given
    assert loss.shape == told_trained.shape == (8,)
    np.testing.assert_array_equal(x_sampled, x_trained)
    np.testing.assert_array_equal(told_sampled, told_trained)
    assert x_trained.dtype == told_trained.dtype == np.float32
    assert np.all((told_trained >= 0) & (told_trained <= 1000))
    # A sampler's levels are made on the host; those of a table are the same bits.
    steps = np.asarray(t, np.float64)[::-1] if path != "cosine" else np.asarray(t)[::-1]
    walked = schedule.Level(*(jnp.asarray(leaf[:-1], jnp.float32) for leaf in one.path.path(steps)))
    one.denoiser(network)(schedule.add_noise(x0, eps, level)[::-1], walked)
    for found, expected in zip(network.given[2], network.given[1], strict=True):
        if path == "cosine":
            np.testing.assert_array_equal(found[::-1], expected)
        else:
            np.testing.assert_allclose(found[::-1], expected, rtol=1e-5, atol=1e-3 if told == "log_snr" else 1e-6)


@pytest.mark.parametrize(
    ("path", "prediction"),
    [*itertools.product(PATHS, ("v", "x", "velocity", "edm")), ("variance_exploding", "eps")],
)
def test_a_network_that_knows_has_no_loss_and_gives_the_data(path, prediction):
    one = made(f"schedule={path}", f"prediction={prediction}", "input_scale=unit_variance", "told=log_snr")
    x0, eps = drawn(8)
    t = one.path.times(jnp.linspace(0.1, 1, 8))
    level = one.path.level(t)
    a, b = one.prediction.coefficients(level)
    known = (jnp.ones(8) * a)[:, None, None, None] * eps - (jnp.ones(8) * b)[:, None, None, None] * x0

    def network(x_in, told):
        return known

    np.testing.assert_allclose(one.loss(network, x0, eps, t), 0, atol=1e-6)
    np.testing.assert_allclose(one.denoiser(network)(schedule.add_noise(x0, eps, level), level), x0, atol=2e-4)


@pytest.mark.parametrize("path", PATHS)
def test_the_loss_is_the_weight_on_x0_hat_times_its_error(path):
    """As the paper writes it, in numpy: whatever is predicted, f(SNR, 1) times the squared error of the estimate."""
    x0, eps = drawn(6)
    for prediction, weight in itertools.product(("v", "x", "velocity", "edm"), ("v", "velocity", "edm", "min_snr")):
        one = made(f"schedule={path}", f"prediction={prediction}", f"weighting={weight}")
        t = one.path.times(jnp.linspace(0.2, 0.9, 6))
        level = one.path.level(t)
        x_t = schedule.add_noise(x0, eps, level)
        x0_hat = np.asarray(one.denoiser(lambda x_in, told: jnp.sin(x_in))(x_t, level), np.float64)
        error = np.mean((x0_hat - np.asarray(x0, np.float64)) ** 2, axis=(1, 2, 3))
        snr = (np.asarray(level.alpha, np.float64) / np.asarray(level.sigma, np.float64)) ** 2
        expected = [float(weighting.WEIGHTINGS[weight]()(s, 1.0)) for s in snr] * error
        loss = one.loss(lambda x_in, told: jnp.sin(x_in), x0, eps, t)
        np.testing.assert_allclose(loss, expected, rtol=2e-4, err_msg=f"{prediction} {weight}")


def test_edm_gives_and_asks_as_its_table_says():
    """Karras et al. 2022, table 1, at a noise of 2 for data of width 0.5: reference sheet, float64."""
    c_skip, c_out, c_in, weight = 0.058823529411764705, 0.48507125007266594, 0.48507125007266594, 4.25
    one = made(*EDM)
    u = np.log(2 / 0.002) / np.log(80 / 0.002)
    level = one.path.level(jnp.array([u]))
    np.testing.assert_allclose(level.sigma, 2, rtol=1e-5)
    x0, eps = (0.5 * x for x in drawn(1))
    x_t = schedule.add_noise(x0, eps, level)
    network = Recorder()
    x0_hat = one.denoiser(network)(x_t, level)
    x_in, told = network.given[0]
    np.testing.assert_allclose(x_in, c_in * np.asarray(x_t), rtol=1e-5)
    np.testing.assert_allclose(told, 500 + 50 * np.log(2), rtol=1e-5)
    np.testing.assert_allclose(x0_hat, c_skip * np.asarray(x_t) + c_out * np.sin(x_in), rtol=1e-4, atol=1e-6)
    loss = one.loss(network, x0, eps, jnp.array([u]))
    np.testing.assert_allclose(loss, weight * np.mean((np.asarray(x0_hat) - np.asarray(x0)) ** 2), rtol=1e-4)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_unit_variance_is_the_variance_of_what_the_network_is_given(path, sigma_data):
    one = made(f"schedule={path}", "input_scale=unit_variance", f"input_scale.sigma_data={sigma_data}")
    t = one.path.times(jnp.array([0.0, 0.3, 0.6, 1.0]))
    level = one.path.level(t)
    variance = (np.asarray(level.alpha) * sigma_data) ** 2 + np.asarray(level.sigma) ** 2
    np.testing.assert_allclose(np.asarray(one.input_scale(level)) ** 2 * variance, 1, rtol=1e-5)
    x0, eps = jax.random.normal(jax.random.key(0), (2, 4, 100, 100, 1))
    network = Recorder()
    one.loss(network, sigma_data * x0, eps, t)
    # 10,000 numbers a level: the standard deviation of their variance is sqrt(2) / 100.
    np.testing.assert_allclose(network.given[0][0].var(axis=(1, 2, 3)), 1, atol=4 * 2**0.5 / 100)


@pytest.mark.parametrize("name", process.TOLD)
@pytest.mark.parametrize("path", PATHS)
def test_what_the_network_is_told_is_finite_and_rises_with_the_noise(path, name):
    one = made(f"schedule={path}", f"told={name}")
    t = jnp.arange(1000) if path == "cosine" else one.path.times(jnp.linspace(0, 1, 1001))
    level = one.path.level(t)
    told = np.asarray(one.told(level), np.float64)
    assert np.all(np.isfinite(told))
    assert np.all((told >= 0) & (told <= 1000))
    assert np.all(np.diff(told) >= 0)
    assert told[1] > told[0]
    assert told[-1] > told[-2]
    assert told[-1] - told[0] > 500
    if name == "log_snr":
        alpha, sigma = (np.asarray(leaf, np.float64)[100:-100] for leaf in (level.alpha, level.sigma))
        np.testing.assert_allclose(told[100:-100], 500 - 50 * np.log(alpha / sigma), rtol=1e-4)
        ends = {"cosine": (247.6, 1000), "straight": (0, 1000), "variance_exploding": (189.3, 719.1)}[path]
        np.testing.assert_allclose(told[[0, -1]], ends, atol=0.1)


def test_mistakes_are_refused_in_one_line():
    for words, pattern in (
        (["told=sigma"], "'sigma'.*time, log_snr"),
        (["schedule=straight", "prediction=eps"], "'eps' cannot recover.*straight"),
        (["input_scale=unit_variance", "input_scale.sigma_data=0.0"], r"input_scale\.sigma_data is 0.0"),
        (["schedule=variance_exploding", "schedule.sigma_min=0.0"], "0 < sigma_min"),
        (["times=logit_normal", "times.std=0.0"], r"times\.std is 0.0"),
        (["schedule=bent"], "'bent'"),
        (["prediction=score"], "'score'"),
        (["weighting=heavy"], "'heavy'"),
    ):
        with pytest.raises(UserError, match=pattern) as refusal:
            made(*words)
        assert "\n" not in str(refusal.value)

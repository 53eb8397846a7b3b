"""Flow matching: a sampler's step along the straight path is a solver's step of the velocity."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import methods
from gen_jax.diffusion import model, process, sampler, schedule, solvers
from gen_jax.method import DataSpec, labelled

CONFIG = methods.load("flow_mnist")[2]
SPEC = DataSpec("made_up", (4, 4, 1), 64, labelled("abc"))


def velocity(x, time, numpy=jnp):
    """Made up, and not linear: what a network may give at a time of 0..1000."""
    return numpy.sin(2 * x) - x * (time / 1000) + 0.3


@dataclasses.dataclass
class Bent:
    """A network that gives `velocity`, shifted by its one parameter."""

    out_channels: int = 1
    num_classes: int = 0
    dtype: Any = None

    def init(self, key, x, time, *, label=None):
        return {"params": {"shift": jnp.zeros(())}}

    def apply(self, variables, x_t, time, *, label=None, index=None, train=False, rngs=None):
        return velocity(x_t, time[:, None, None, None]) + variables["params"]["shift"]


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setitem(model.NETWORKS, "bent", (Bent,))

    def make(*words):
        words = ("--config.network=bent", "--config.batch_size=16", *words)
        return methods.make(methods.override(CONFIG, words), SPEC)

    return make


def solve(x, n, order):
    """Euler's or Heun's method for dx/dt = velocity, from t = 1 to 0, in float64; the last step is Euler's."""
    for i in range(n):
        t, s = (n - i) / n, (n - i - 1) / n
        slope = velocity(x, 1000 * t, np)
        if order == 2 and s > 0:
            slope = (slope + velocity(x + (s - t) * slope, 1000 * s, np)) / 2
        x = x + (s - t) * slope
    return x


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2)])
@pytest.mark.parametrize("n", [1, 2, 13])
def test_steps_along_the_straight_path_are_those_of_a_solver_of_the_velocity(name, order, n):
    """In float64, to rounding: nothing of the straight path is approximate."""
    path, way = process.make(CONFIG.diffusion), solvers.SAMPLERS[name]()
    assert path.path.name == "straight"
    x = start = np.random.default_rng(0).normal(size=(3, 4, 4, 1))
    levels = path.path.path(path.path.steps(n))
    plan = way.plan(levels, path.path)
    with jax.enable_x64(True):
        denoise = path.denoiser(velocity)
        for i in range(n):
            t, s = (schedule.Level(*(leaf[j] for leaf in levels)) for j in (i, i + 1))
            row = sampler.Row(t, s, jax.tree.map(lambda leaf, i=i: leaf[i], plan))
            x = way.step((), x, denoise, row, None)[1]
        np.testing.assert_allclose(x, solve(start, n, order), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2)])
def test_samples_of_the_method_are_those_of_the_solver(make, name, order):
    method = make(f"--config.sample.sampler={name}", "--config.sample.clip=false", "--config.sample.num_steps=9")
    keys = jax.random.split(jax.random.key(0), 4)
    samples = method.sample(method.init(jax.random.key(1), {}, {}), keys, {"label": jnp.zeros(4, jnp.int32)})
    noise = np.stack([jax.random.normal(jax.random.fold_in(key, 0), (4, 4, 1)) for key in keys])
    np.testing.assert_allclose(samples, solve(noise.astype(np.float64), 9, order), atol=2e-6)


def test_the_loss_is_the_squared_error_of_the_velocity():
    """Lipman et al. 2023: the mean of |output - (eps - x0)|^2, at every time alike."""
    path = process.make(CONFIG.diffusion)
    x0, eps = np.random.default_rng(1).normal(size=(2, 5, 4, 4, 1)).astype(np.float32)
    t = np.array([1e-5, 0.2, 0.5, 0.9, 1.0], np.float32)
    wide = np.float64(t)[:, None, None, None]
    error = velocity((1 - wide) * x0 + wide * eps, 1000 * wide, np) - (eps - x0)
    loss = path.loss(lambda x, time: velocity(x, time[:, None, None, None]), x0, eps, jnp.asarray(t))
    np.testing.assert_allclose(loss, np.mean(error**2, axis=(1, 2, 3)), rtol=1e-5)


def test_training_finds_the_mean_velocity(make):
    """On black images (-1) the one parameter goes to where the mean of output - (eps + 1) is 0."""
    method = make("--config.optimizer=adam", "--config.optimizer.learning_rate=0.1", "--config.num_steps=150",
                  "--config.optimizer.warmup_steps=0", "--config.optimizer.decay=linear")  # fmt: skip
    state = method.init(jax.random.key(0), {}, {})
    batch = {"image": np.zeros((16, 4, 4, 1), np.uint8), "index": np.arange(16, dtype=np.int32),
             "label": np.zeros(16, np.int32)}  # fmt: skip
    step = jax.jit(method.step)
    for _ in range(150):
        state, _ = step(state, batch)
    eps = np.random.default_rng(2).normal(size=100_000)
    t = (np.arange(100_000) + 0.5) / 100_000
    expected = np.mean(eps + 1 - velocity(t * eps - (1 - t), 1000 * t, np))
    np.testing.assert_allclose(state.params["denoiser"]["shift"], expected, atol=0.1)


def test_flow_is_ddpm_with_other_defaults():
    flow, ddpm = CONFIG, methods.load("ddpm_mnist")[2]
    names = {key: flow.diffusion[key].name for key in ("schedule", "prediction", "weighting", "times")}
    assert names == {"schedule": "straight", "prediction": "velocity", "weighting": "velocity", "times": "uniform"}
    assert flow.sample.sampler.name == "heun"
    assert flow.network.to_dict() == ddpm.network.to_dict()
    assert 2 * flow.sample.num_steps - 1 == ddpm.sample.num_steps  # network calls
    assert methods.load("flow_mnist:logit_normal")[2].diffusion.times.name == "logit_normal"

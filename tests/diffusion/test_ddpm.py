"""What is DDPM's own: the times it trains at, and what it tells the network, seen by a network that echoes it."""

import pathlib
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import methods
from gen_jax.diffusion import ddpm
from gen_jax.method import DataSpec, UserError, labelled

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs/ddpm_mnist.py")
SPEC = DataSpec("made_up", (4, 4, 1), 64, labelled("abc"))


class Echo:
    """A network without parameters: its output is the time that it is told, in thousands, everywhere."""

    seen_labels: ClassVar[list] = []

    def __init__(self, **fields):
        self.num_classes = fields["num_classes"]

    def init(self, key, x, time, *, label=None):
        return {"params": {"none": jnp.zeros(1)}}

    def apply(self, variables, x_t, time, *, label=None, index=None, train=False, rngs=None):
        Echo.seen_labels.append(label)
        return jnp.broadcast_to((time / 1000)[:, None, None, None], x_t.shape) + 0 * variables["params"]["none"][0]


def make(monkeypatch, *words, spec=SPEC):
    monkeypatch.setattr(ddpm, "UNet", Echo)
    config = methods.load(CONFIG)[2]
    words = ["--config.diffusion.prediction=x", "--config.diffusion.weighting=x", "--config.diffusion.num_timesteps=10",
             "--config.sample.num_steps=10", *words]  # fmt: skip
    return ddpm.make(methods.override(config, words), spec)


def times_trained_at(method, batch_size, step):
    """Each example's time, from its loss: on black images (-1) the error of the echo is (time / 1000 + 1)^2."""
    state = method.init(jax.random.key(0)).replace(step=jnp.int32(step))
    batch = {
        "image": np.zeros((batch_size, 4, 4, 1), np.uint8),
        "index": np.arange(batch_size, dtype=np.int32),
        "label": np.zeros(batch_size, np.int32),
    }
    loss = method.evaluate(state, batch, jax.random.key(step))["loss"]
    return (np.sqrt(np.asarray(loss, np.float64)) - 1) * 1000


def test_training_and_sampling_tell_the_network_the_same_times(monkeypatch):
    trained = np.concatenate([times_trained_at(make(monkeypatch), 50, step) for step in range(4)])
    assert {round(t) for t in trained} == set(range(0, 1000, 100))
    np.testing.assert_allclose(trained, trained.round(-2), atol=0.01)
    keys = jax.random.split(jax.random.key(0), 2)
    for n, last_told in ((1, 0.9), (10, 0.0)):  # a sample is x0_hat of the last step: t = T - 1 for n = 1, 0 for n = T
        method = make(monkeypatch, f"--config.sample.num_steps={n}")
        samples = method.sample(method.init(jax.random.key(0)), keys, jnp.array([0, 1]))
        np.testing.assert_allclose(samples, last_told, atol=1e-6)


def test_a_batch_of_the_size_of_the_schedule_trains_at_every_time_once(monkeypatch):
    # The loss of a step: mean over the batch of (t / 10 + 1)^2, t = 0..9 each once.
    method = make(monkeypatch, "--config.batch_size=10")
    expected = np.mean([(t / 10 + 1) ** 2 for t in range(10)])
    numbers = np.arange(10, dtype=np.int32)
    batch = {"image": np.zeros((10, 4, 4, 1), np.uint8), "index": numbers, "label": numbers % 3}
    state = method.init(jax.random.key(0))
    for _ in range(3):
        state, scalars = method.step(state, batch)
        assert float(scalars["loss"]) == pytest.approx(expected, rel=1e-5)


def test_labels_reach_the_network_where_it_is_conditional(monkeypatch):
    method = make(monkeypatch)
    assert method.conditional
    Echo.seen_labels.clear()
    state = method.init(jax.random.key(0))
    times_trained_at(method, 4, 0)
    assert Echo.seen_labels[-1] is not None
    method.sample(state, jax.random.split(jax.random.key(0), 3), jnp.array([2, 0, 1]))
    assert Echo.seen_labels[-1].shape == (3,)
    unconditional = make(monkeypatch, "--config.diffusion.conditional=false")
    times_trained_at(unconditional, 4, 0)
    assert Echo.seen_labels[-1] is None


def test_refusals(monkeypatch):
    with pytest.raises(UserError, match="made_up has none"):
        make(monkeypatch, spec=DataSpec("made_up", (4, 4, 1), 64))
    with pytest.raises(UserError, match="'v' or 'x'"):
        make(monkeypatch, "--config.diffusion.prediction=eps")
    with pytest.raises(UserError, match="has float32"):
        make(monkeypatch, spec=DataSpec("points", (1, 1, 2), 64, labelled("a"), kind="points"))

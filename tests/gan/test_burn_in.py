"""The burn-in: where values start and end, on the way between, and what they do in a step."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import methods, optimizer
from gen_jax.gan import burn_in
from gen_jax.gan.defaults import gan_config, r3gan_config
from gen_jax.method import DataSpec, State, UserError, labelled

SPEC = DataSpec("made_up", (8, 8, 1), 64, labelled("0123456789"))
NETWORK = ("network=dense", "network.hidden=4", "network.generator_hidden=4")


def made(*words, config=r3gan_config, spec=SPEC):
    config = methods.override(methods.complete(config()), [f"--config.{word}" for word in words])
    methods.check(config)
    return methods.make(config, spec)


@pytest.mark.parametrize(("step", "done"), [(0, 0.0), (50, 0.25), (75, 0.5), (100, 0.75), (150, 1.0), (999, 1.0)])
def test_every_value_goes_from_its_start_to_its_end_by_one_clock(step, done):
    # A third of the way along a half-turn of the cosine is a quarter of the way.
    moved = burn_in.cosine(steps=1000, share=0.15, learning_rate=0.2, penalty=3.0, b2=0.99)
    assert float(moved.done(step)) == pytest.approx(done, abs=1e-6)
    assert float(moved.drift.rate(step)) == pytest.approx(1 - 0.8 * done, abs=1e-6)
    assert float(moved.penalty(step)) == pytest.approx(1 + 2 * done, abs=1e-5)
    assert float(moved.drift.b2(0.9, step)) == pytest.approx(0.9 + 0.09 * done, abs=1e-6)
    decay = float(moved.drift.ema(0.999, step))
    half_life = math.log(0.5) / math.log(decay) if decay else 0.0
    assert half_life == pytest.approx(done * math.log(0.5) / math.log(0.999), rel=1e-3)


def test_without_a_burn_in_nothing_moves():
    still = burn_in.none(steps=1000)
    assert [still.done(5), still.penalty(5), still.drift.rate(5), still.drift.ema(0.7, 5)] == [1.0, 1.0, 1.0, 0.7]
    assert still.drift.b2 is None


def optimized(name, drift, step, grads, **values):
    """One update of a single number that starts at 0, at some step, with a moving average that starts at 5."""
    words = {"name": name, "learning_rate": 0.1} | values
    words = [f"--config.optimizer.{key}={value}" for key, value in words.items()]
    config = methods.override(methods.complete(gan_config()), words)
    made = optimizer.make(config.optimizer, 1000, 0.9, drift)
    state = State(
        step=jnp.int32(step), key=jax.random.key(0), params={"net": jnp.zeros(())}, variables={},
        opt_state={"net": made.init(jnp.zeros(()))}, ema={"net": jnp.float32(5)}, frozen={},
    )  # fmt: skip
    for grad in grads:
        state, scalars = made.apply(state, "net", jnp.float32(grad))
    return state, scalars


def test_the_rate_is_a_factor_of_the_update_and_of_what_is_reported():
    drift = optimizer.Drift(lambda step: step / 100, None, lambda decay, step: 0.25)
    state, scalars = optimized("sgd", drift, 50, [2.0], b1=0.0)
    assert float(state.params["net"]) == pytest.approx(-0.1 * 0.5 * 2)
    assert float(scalars["learning_rate"]) == pytest.approx(0.05)
    assert float(state.ema["net"]) == pytest.approx(0.25 * 5 + 0.75 * -0.1)


def test_b2_is_that_of_the_step():
    # Adam with b1 = 0 by hand: v = b2 v + (1 - b2) g^2, divided by 1 - b2^n.
    drift = optimizer.STILL._replace(b2=lambda start, step: start / 2 + 0 * step)
    state, _ = optimized("adam", drift, 3, [2.0, 1.0], b1=0.0, b2=0.8, eps=0.0)
    b2, v, x = 0.4, 0.0, 0.0
    for n, grad in enumerate((2.0, 1.0), 1):
        v = b2 * v + (1 - b2) * grad**2
        x -= 0.1 * grad / math.sqrt(v / (1 - b2**n))
    assert float(state.params["net"]) == pytest.approx(x, rel=1e-5)


@pytest.mark.parametrize("name", [name for name in optimizer.OPTIMIZERS if name != "sgd"])
def test_a_moved_b2_counts_like_one_of_the_config(name):
    drift = optimizer.STILL._replace(b2=lambda start, step: start - 0.3 + 0.0 * step)
    grads = [2.0, 1.0, -3.0]
    found, expected = (optimized(name, each, 3, grads, b2=b2)[0] for each, b2 in ((drift, 0.9), (optimizer.STILL, 0.6)))
    assert float(found.params["net"]) == pytest.approx(float(expected.params["net"]), rel=1e-5)
    other, _ = optimized(name, optimizer.STILL, 3, grads, b2=0.9)
    assert float(found.params["net"]) != pytest.approx(float(other.params["net"]), rel=1e-2)


def test_a_step_at_the_end_of_the_burn_in_is_one_of_the_values_after_it():
    words = (*NETWORK, "num_steps=100", "gan.penalty.weight=4.0")
    moving = made(*words, "gan.burn_in.share=0.5", "gan.augment=diff_augment", "gan.augment.strength=0.5")
    still = made(
        *words, "gan.burn_in=none", "gan.augment=diff_augment", "gan.augment.strength=0.5", "gan.penalty.weight=0.4",
        "optimizer.b2=0.99", "optimizer.learning_rate=5e-5", "discriminator_optimizer.learning_rate=5e-5",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (8, 8, 8, 1)).astype(np.uint8), "index": np.arange(8, dtype=np.int32)}
    state = moving.init(jax.random.key(0), {}, {}).replace(step=jnp.int32(50))
    found, expected = (jax.jit(method.step)(state, batch) for method in (moving, still))
    same = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7)
    jax.tree.map(same, found[0].params, expected[0].params)
    jax.tree.map(same, found[0].ema, expected[0].ema)
    same(found[1]["loss"], expected[1]["loss"])
    early = jax.jit(moving.step)(state.replace(step=jnp.int32(0)), batch)[1]
    assert float(early["learning_rate"]) == pytest.approx(2e-4)
    assert float(found[1]["learning_rate"]) == pytest.approx(5e-5)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("gan.burn_in.share=0",), "share is 0.0; it must be in"),
        (("gan.burn_in.share=1.5",), "share is 1.5; it must be in"),
        (("gan.burn_in.learning_rate=-1",), "learning_rate is -1.0; a factor must not be negative"),
        (("gan.burn_in.b2=1",), "b2 is 1.0; it must be in"),
        (("optimizer=sgd",), "moves b2, but optimizer sgd has none: use adam"),
        (("gan.penalty=none",), "there is no penalty to weaken: set config.gan.penalty, or use .*burn_in.penalty=1"),
        (("gan.burn_in=cosin",), "did you mean cosine"),
    ],
)
def test_what_cannot_move_is_one_line(words, hint):
    with pytest.raises(UserError, match=hint) as error:
        made(*NETWORK, *words)
    assert "\n" not in str(error.value)


def test_a_burn_in_without_a_penalty_is_possible():
    method = made(*NETWORK, "gan.penalty=none", "gan.burn_in.penalty=1")
    state = jax.eval_shape(method.init, jax.random.key(0), {}, {})
    scalars = jax.eval_shape(method.step, state, SPEC.abstract_batch(8))[1]
    assert "penalty" not in scalars
    assert "penalty" in jax.eval_shape(made(*NETWORK).step, state, SPEC.abstract_batch(8))[1]

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import config as configs
from gen_jax import optimizer
from gen_jax.method import State, UserError


def make(ema=0.9, num_steps=100, **values):
    config = configs.base_config().optimizer
    config.update(values)
    return optimizer.make(config, num_steps, ema)


def state_of(params, optimize, ema=True):
    return State(
        step=jnp.zeros((), jnp.int32), key=jax.random.key(0), params={"net": params}, variables={},
        opt_state={"net": optimize.init(params)}, ema={"net": params} if ema else {}, frozen={},
    )  # fmt: skip


def test_sgd_by_hand():
    optimize = make(name="sgd", b1=0.0, learning_rate=0.5, clip_norm=0.0)
    state, scalars = optimize.apply(state_of(jnp.array([1.0, 2.0]), optimize), "net", jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(state.params["net"], [-0.5, 0.0])
    assert float(scalars["grad_norm"]) == 5.0
    assert float(scalars["learning_rate"]) == 0.5


def test_clipping_keeps_the_direction_and_bounds_the_norm():
    optimize = make(name="sgd", b1=0.0, learning_rate=1.0, clip_norm=1.0)
    state, scalars = optimize.apply(state_of(jnp.zeros(2), optimize), "net", jnp.array([30.0, 40.0]))
    np.testing.assert_allclose(state.params["net"], [-0.6, -0.8], rtol=1e-6)
    assert float(scalars["grad_norm"]) == 50.0  # as it was before clipping
    small, _ = optimize.apply(state_of(jnp.zeros(2), optimize), "net", jnp.array([0.3, 0.4]))
    np.testing.assert_allclose(small.params["net"], [-0.3, -0.4], rtol=1e-6)


def test_adams_first_step_is_the_learning_rate():
    optimize = make(name="adam", learning_rate=0.01, clip_norm=0.0)
    state, _ = optimize.apply(state_of(jnp.zeros(3), optimize), "net", jnp.array([5.0, -0.1, 100.0]))
    np.testing.assert_allclose(state.params["net"], [-0.01, 0.01, -0.01], rtol=1e-5)


def test_ema_forgets_the_start_and_equals_a_constant():
    optimize = make(name="sgd", b1=0.0, learning_rate=1.0, clip_norm=0.0, ema=0.999)
    state = state_of(jnp.zeros(1), optimize)
    state, _ = optimize.apply(state, "net", jnp.array([-7.0]))  # params become 7 and stay there
    for step in range(1, 20):
        state, _ = optimize.apply(state.replace(step=jnp.int32(step)), "net", jnp.zeros(1))
    np.testing.assert_allclose(state.ema["net"], [7.0], rtol=1e-6)


def test_ema_by_hand():
    # decays 0/10, 1/11, 2/12 over params 1, 2, 3: ((0 + 1) * 1/11 + 2 * 10/11) * 2/12 + 3 * 10/12
    optimize = make(name="sgd", b1=0.0, learning_rate=1.0, clip_norm=0.0)
    state = state_of(jnp.zeros(1), optimize)
    for step in range(3):
        state, _ = optimize.apply(state.replace(step=jnp.int32(step)), "net", jnp.array([-1.0]))
    np.testing.assert_allclose(state.ema["net"], [(1 / 11 + 20 / 11) * 2 / 12 + 30 / 12], rtol=1e-6)


def test_a_network_without_an_average_keeps_none():
    optimize = make(name="sgd", b1=0.0)
    state, _ = optimize.apply(state_of(jnp.zeros(1), optimize, ema=False), "net", jnp.ones(1))
    assert state.ema == {}


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_pieces_of_a_batch_give_the_gradient_of_the_whole(pieces):
    x = jnp.arange(8.0)

    def loss_fn(w, batch):
        loss = jnp.mean((w * batch["x"] - 1) ** 2)
        return loss, {"loss": loss}

    batch = {"x": x if pieces == 1 else x.reshape(pieces, -1)}
    scalars, grad = jax.jit(lambda w: optimizer.value_and_grad(loss_fn, w, batch, pieces))(jnp.float32(0.3))
    np.testing.assert_allclose(grad, jnp.mean(2 * (0.3 * x - 1) * x), rtol=1e-6)
    np.testing.assert_allclose(scalars["loss"], jnp.mean((0.3 * x - 1) ** 2), rtol=1e-6)


@pytest.mark.parametrize("decay", ["none", "linear", "cosine"])
def test_the_learning_rate_warms_up_and_ends_as_it_says(decay):
    config = configs.base_config().optimizer
    config.update(learning_rate=2.0, warmup_steps=10, decay={"name": decay, "share": 0.5})
    rate = optimizer.learning_rate(config, 100)
    assert float(rate(0)) == pytest.approx(0.2)
    assert float(rate(9)) == float(rate(30)) == pytest.approx(2.0)
    assert float(rate(75)) == pytest.approx(2.0 if decay == "none" else 1.0)  # cos(pi / 2) = 0: half-way, too
    assert float(rate(100)) == pytest.approx(2.0 if decay == "none" else 0.0, abs=1e-6)


def test_a_decay_over_the_whole_run_begins_after_the_warm_up_and_ends_at_zero():
    config = configs.base_config().optimizer
    config.update(learning_rate=1.0, warmup_steps=20, decay={"name": "linear", "share": 1.0})
    rate = optimizer.learning_rate(config, 100)
    assert [float(rate(s)) for s in (19, 20, 60, 100)] == pytest.approx([1.0, 1.0, 0.5, 0.0])


def test_impossible_values_are_refused():
    with pytest.raises(UserError, match=r"config.ema is 1.5.*\[0, 1\)"):
        make(ema=1.5)
    with pytest.raises(UserError, match="decay.share is 0"):
        make(decay={"name": "linear", "share": 0.0})


def test_muon_steps_are_orthogonal_for_kernels_and_adams_for_the_rest():
    # The nearest orthogonal matrix of a gradient G = U S V' is U V'; five Newton-Schulz steps of the source bring the
    # singular values to within 0.7..1.2. A tall kernel [inputs, outputs] is seen with its rows joined.
    optimize = make(name="muon", learning_rate=0.1, clip_norm=0.0, eps=1e-8)
    rng = np.random.default_rng(0)
    grads = {"kernel": jnp.asarray(rng.normal(size=(3, 3, 4, 8)), jnp.float32), "bias": jnp.array([2.0, -3.0])}
    params = jax.tree.map(jnp.zeros_like, grads)
    state, _ = jax.jit(lambda s, g: optimize.apply(s, "net", g))(state_of(params, optimize), grads)
    step = -np.asarray(state.params["net"]["kernel"]).reshape(36, 8) / 0.1
    u, _, v = np.linalg.svd(np.asarray(grads["kernel"]).reshape(36, 8), full_matrices=False)
    spread = np.diag(u.T @ step @ v.T)
    assert spread.min() > 0.6
    assert spread.max() < 1.3
    np.testing.assert_allclose(u.T @ step @ v.T, np.diag(spread), atol=0.02)
    # The rest: Adam with Nesterov's momentum, whose first step is 1 + b1 / (1 + b1) of its rate, 0.01.
    np.testing.assert_allclose(state.params["net"]["bias"], np.array([-0.01, 0.01]) * (1 + 0.9 / 1.9), rtol=1e-5)

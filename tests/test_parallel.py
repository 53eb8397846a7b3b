"""Devices: rows go where they belong and come back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import parallel
from gen_jax.method import State, UserError


@pytest.mark.parametrize("lead", [0, 1, 2])
@pytest.mark.parametrize("devices", [1, 8])
def test_rows_are_sharded_on_their_axis_and_fetched_whole(lead, devices):
    mesh = parallel.make_mesh(devices)
    rows = np.arange(2**lead * 16 * 3).reshape(*[2] * lead, 16, 3)
    placed = parallel.put_rows({"x": rows}, mesh, lead)["x"]
    assert {shard.data.shape[lead] for shard in placed.addressable_shards} == {16 // devices}
    np.testing.assert_array_equal(parallel.fetch(placed), rows)


def test_a_mean_over_devices_is_that_of_the_whole_batch_and_nothing_without_an_axis():
    x = np.arange(16.0, dtype=np.float32).reshape(8, 2)
    means = jax.pmap(lambda x: parallel.mean_over_devices(jnp.mean(x)), parallel.AXIS)(x)
    np.testing.assert_allclose(means, np.full(8, x.mean()))
    assert float(parallel.mean_over_devices(jnp.float32(3))) == 3


def test_gathering_over_devices_gives_the_global_batch():
    x = np.arange(16.0, dtype=np.float32).reshape(8, 2)
    whole = jax.pmap(parallel.gather_over_devices, parallel.AXIS, out_axes=None)(x)
    np.testing.assert_array_equal(whole, x.ravel())
    np.testing.assert_array_equal(parallel.gather_over_devices(x), x)


@pytest.mark.parametrize("turns", [1, 3])
def test_a_loop_is_unrolled_on_a_cpu(turns):
    # A rolled loop around a convolution's gradient is 50 times slower there, or worse, though it be of one turn.
    def loop(x):
        return parallel.loop(lambda c, b: (c + b["x"], {"twice": 2 * b["x"]}), x, {"x": jnp.arange(1.0, turns + 1)})

    assert "while" not in jax.jit(loop).lower(0.0).as_text()
    total, ys = loop(jnp.float32(5))
    assert float(total) == 5 + turns * (turns + 1) / 2
    assert ys["twice"].tolist() == [2.0 * (i + 1) for i in range(turns)]


def test_the_compiler_options_change_results_by_rounding_alone():
    a, b = (np.random.default_rng(i).normal(size=(64, 64)).astype(np.float32) for i in range(2))

    def f(a, b):
        return jax.nn.silu(a @ b).sum(axis=0)

    fast = jax.jit(f, compiler_options=parallel.compiler_options())(a, b)
    np.testing.assert_allclose(fast, jax.jit(f)(a, b), rtol=1e-4, atol=1e-4)


def test_a_state_is_made_on_every_device_with_the_examples_and_the_first_stage_that_it_starts_from():
    def init(key, examples, frozen):
        params = {"net": {"mean": jnp.mean(examples["image"]), "noise": jax.random.normal(key, (3,))}}
        return State(jnp.zeros((), jnp.int32), key, params, {}, {}, params, frozen)

    mesh = parallel.make_mesh(8)
    examples, frozen = {"image": np.arange(6.0, dtype=np.float32)}, {"vae": {"kernel": np.ones((2, 3), np.float32)}}
    state = parallel.init_state(init, 7, mesh, examples, frozen)
    assert all(leaf.sharding == parallel.replicated(mesh) for leaf in jax.tree.leaves(state))
    assert float(state.params["net"]["mean"]) == 2.5
    np.testing.assert_array_equal(state.frozen["vae"]["kernel"], np.ones((2, 3)))
    alone = init(parallel.make_key(7), examples, frozen)
    np.testing.assert_allclose(state.params["net"]["noise"], alone.params["net"]["noise"], rtol=1e-6)

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (examples, frozen))
    abstract = parallel.abstract_state(init, mesh, *shapes)
    assert jax.tree.structure(abstract) == jax.tree.structure(state)
    for expected, found in zip(jax.tree.leaves(abstract), jax.tree.leaves(state), strict=True):
        assert (expected.shape, expected.dtype, expected.sharding) == (found.shape, found.dtype, found.sharding)


def test_refusals():
    with pytest.raises(UserError, match="has 8"):
        parallel.make_mesh(9)
    with pytest.raises(UserError, match="process_id below it"):
        parallel.set_up_processes("localhost:1", 2, 2)
    with pytest.raises(UserError, match="need --coordinator"):
        parallel.set_up_processes("", 2, 0)

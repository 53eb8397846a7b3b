"""A State in parts: what each device holds, that results do not depend on it, and checkpoints that move."""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_methods import (
    ADAM,
    LIKE,
    SEED,
    SGD,
    assert_near,
    batch_of,
    bits,
    condition_of,
    make,
    make_anew,
    params_of,
    slow_where,
    train,
)

from gen_jax import methods, muon, parallel, sample
from gen_jax.checkpoint import Checkpoints
from gen_jax.method import UserError
from gen_jax.run import Run

FSDP = "--config.sharding=fsdp"


@pytest.mark.parametrize(
    ("shape", "devices", "part"),
    [
        ((3, 3, 128, 256), 8, (3, 3, 128, 32)),  # the largest of the axes that all devices can share
        ((4096, 6), 8, (512, 6)),
        ((3, 3, 100, 12), 8, (3, 3, 25, 12)),  # 4 parts, each on 2 devices
        ((64, 36, 5), 8, (8, 36, 5)),  # more parts come before a larger axis
        ((2048,), 8, (256,)),
        ((1023,), 8, (1023,)),
        ((8, 8), 8, (8, 8)),  # too small to be worth the sending
        ((), 8, ()),
        ((4096, 8), 1, (4096, 8)),
        ((5, 7, 99), 2, (5, 7, 99)),
    ],
)
def test_the_axis_with_the_most_parts_is_split(shape, devices, part):
    mesh = parallel.make_mesh(devices)
    sharding = parallel.spread(mesh, shape)
    assert sharding.shard_shape(shape) == part
    assert sharding.device_set == set(mesh.devices.flat)
    assert sharding.is_fully_replicated == (part == shape)


@pytest.fixture
def all_in_parts(monkeypatch):
    """The arrays of tiny networks are small."""
    monkeypatch.setattr(parallel, "SMALL", 1)


def test_a_state_starts_in_parts_with_the_values_that_it_has_whole(all_in_parts):
    made = make("vae", *SGD)
    rows = batch_of(0, made.spec, 64)
    init = functools.partial(parallel.init_state, made.method.init, 3, parallel.make_mesh(8), rows, {})
    whole, parts = init(), init("fsdp")
    assert bits(parts) == bits(whole)
    told = methods.abstract_state(made.method, made.spec, None, parallel.make_mesh(8), "fsdp")
    assert parallel.shardings(parts) == parallel.shardings(told)
    assert parallel.bytes_per_device(parts) < 0.2 * parallel.bytes_per_device(whole)


def in_parts(made, devices=8):
    """The method, and shapes of its State, for so many devices."""
    mesh = parallel.make_mesh(devices)
    method = methods.spread(made.method, mesh, "fsdp")
    return mesh, method, methods.abstract_state(made.method, made.spec, made.stage, mesh, "fsdp")


def put(state, abstract):
    return jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), state, abstract)


def trained_in_parts(made, num_steps=10):
    """The State after as many steps as in test_methods, and the compiled step."""
    mesh, method, abstract = in_parts(made)
    run = parallel.make_executor("jit", mesh)

    def feed(step):
        batches = [batch_of(1000 * step + number, made.spec) for number in range(method.batches_per_step)]
        several = len(batches) > 1
        rows = {k: np.stack([b[k] for b in batches]) for k in batches[0]} if several else batch_of(step, made.spec)
        return run.put(rows, int(several))

    state = put(made.init(SEED), abstract)
    update: Any = run.compile_step(method.step, abstract, feed(0), int(method.batches_per_step > 1))
    for step in range(num_steps):
        state, _ = update(state, feed(step))
    assert parallel.shardings(state) == parallel.shardings(abstract)
    return state, update


@pytest.mark.parametrize(
    "name",
    [
        "vae",
        *(
            pytest.param(each.values[0], marks=[pytest.mark.long, *each.marks])
            for each in slow_where([n for n in methods.METHODS if n != "vae"], LIKE)
        ),
    ],
)
def test_a_state_in_parts_is_trained_as_a_whole_one(name, all_in_parts):
    # SGD: under Adam a leaf whose exact gradient is zero turns rounding noise into full steps.
    state, update = trained_in_parts(make(name, *SGD))
    assert_near(params_of(state), params_of(train(name, *SGD).state))
    text = update.as_text()
    assert "all-gather" in text  # of weights
    assert "all-to-all" not in text


@pytest.mark.long
@pytest.mark.parametrize("name", ["vae", "gan"])
def test_moments_and_averages_of_adam_are_in_parts(name, all_in_parts):
    made, mesh = make(name, *ADAM), parallel.make_mesh(8)
    state, update = trained_in_parts(made)
    assert_near(params_of(state), params_of(train(name, *ADAM).state))
    whole = parallel.bytes_per_device(methods.abstract_state(made.method, made.spec, made.stage, mesh))
    rows = sum(np.asarray(x).nbytes for x in batch_of(0, made.spec).values()) * made.method.batches_per_step / 8
    # A few arrays, such as a vector of 2, have no axis for 8 parts.
    assert update.memory_analysis().argument_size_in_bytes - rows < 1.3 * whole / 8


@pytest.mark.parametrize("devices", [2, 8])
def test_orthogonal_steps_of_kernels_in_parts_are_those_of_whole_ones(devices, all_in_parts):
    rng, mesh = np.random.default_rng(0), parallel.make_mesh(devices)
    kernels = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 3, 8, 16), (24, 8), (8, 24), (7, 5))]
    parts = [jax.device_put(x, parallel.spread(mesh, x.shape)) for x in kernels]
    found = jax.jit(muon.orthogonal, out_shardings=[x.sharding for x in parts])(parts)
    for one, other in zip(found, jax.jit(muon.orthogonal)(kernels), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("name", slow_where(["vae", "gan", "latent"], {"latent"}))
def test_what_reads_a_state_in_parts_finds_what_it_finds_in_a_whole_one(name, all_in_parts):
    made = make(name, *SGD)
    whole, (_, method, abstract) = made.init(0), in_parts(make(name, *SGD))
    parts, key = put(whole, abstract), jax.random.key(3)
    given = {
        "sample": (jax.random.split(key, 8), condition_of(made, 8)),
        "evaluate": (batch_of(0, made.spec), key),
        "pictures": (key, batch_of(0, made.spec)),
        "snapshots": (key,),
        "gauges": (),
    }
    for function, rest in given.items():
        if getattr(made.method, function) is None:
            assert getattr(method, function) is None
            continue
        found, expected = (
            jax.tree.leaves(jax.jit(getattr(each, function))(state, *rest))
            for each, state in ((method, parts), (made.method, whole))
        )
        for a, b in zip(found, expected, strict=True):
            assert a.is_fully_replicated, function
            a, b, limit = np.asarray(a, np.float32), np.asarray(b, np.float32), 1 if a.dtype == jnp.uint8 else 1e-5
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=limit, err_msg=function)


def test_a_checkpoint_moves_between_parts_and_wholes(tmp_path, all_in_parts):
    made = make_anew("vae", *ADAM)
    first = made.init(5)
    path = [(8, "fsdp"), (1, "replicated"), (4, "fsdp"), (8, "replicated"), (1, "fsdp")]
    for number, (devices, sharding) in enumerate(path):
        like = methods.abstract_state(made.method, made.spec, None, parallel.make_mesh(devices), sharding)
        with Checkpoints(tmp_path) as checkpoints:
            state = put(first, like) if number == 0 else checkpoints.restore(like)
            assert state is not None
            assert bits(state) == bits(first.replace(step=jnp.int32(max(0, number - 1))))
            assert parallel.shardings(state) == parallel.shardings(like)
            checkpoints.save(state.replace(step=jax.device_put(jnp.int32(number), like.step.sharding)))


def test_a_run_is_sampled_in_parts(tmp_path, all_in_parts):
    from gen_jax.method import DataSpec, labelled

    config = methods.override(methods.load("vae_mnist:tiny")[2], [FSDP])
    spec, run = DataSpec("made_up", (8, 8, 1), 64, labelled("0123456789")), Run(tmp_path)
    method, mesh = methods.make(config, spec), parallel.make_mesh(8)
    run.write_config({"config": config.to_dict(), "data": spec.to_dict(), "versions": {"gen_jax": "0.2.0"}})
    state = parallel.init_state(method.init, 0, mesh, batch_of(0, spec, 64), {}, "fsdp")
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(state)
    parts, whole = sample.load(tmp_path), sample.load(tmp_path, ("--config.sharding=replicated",))
    assert not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(parts.state.ema))
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(whole.state))
    one, two = (model.sample(12).astype(int) for model in (parts, whole))
    np.testing.assert_allclose(one, two, atol=1)


def test_runs_before_it_are_replicated_and_pmap_stays_so():
    config = methods.load("vae_mnist:tiny")[2]
    old = json.loads(config.to_json())
    del old["sharding"]
    assert methods.stored({"config": old, "versions": {"gen_jax": "0.2.0"}}).sharding == "replicated"
    with pytest.raises(UserError, match=r"sharding is fsdp, but with executor pmap .*use --config\.executor=jit"):
        methods.check(methods.override(config, [FSDP, "--config.executor=pmap"]))

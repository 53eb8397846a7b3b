"""Devices: rows go where they belong and come back."""

import os
import subprocess
import sys
import time
import types

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
    with pytest.raises(UserError, match="need --coordinator"):
        parallel.set_up_processes("", 0, -2)
    for address in ("localhost", "localhost:", ":8476", "localhost:port", "localhost:0", "localhost:65536"):
        with pytest.raises(UserError, match=r"is not <host>:<port>; to run alone, leave out --coordinator"):
            parallel.set_up_processes(address, 2, 0)
    with pytest.raises(UserError, match=r"gives the host 'no\.such\.invalid', which cannot be resolved"):
        parallel.set_up_processes("no.such.invalid:8476", 2, 1)


STEP = {"SLURM_JOB_ID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, "SLURM_STEP_NUM_TASKS=2 says that there are several processes, but SLURM_STEP_NODELIST is not set"),
        ({"SLURM_STEP_NODELIST": "[1-2]"}, r"SLURM_STEP_NODELIST is '\[1-2\]'"),
        ({"SLURM_STEP_NODELIST": "no-such.invalid,b"}, "SLURM_STEP_NODELIST=.* gives the host 'no-such.invalid'"),
        ({"SLURM_STEP_NODELIST": "no-such[07-09].invalid"}, "gives the host 'no-such07'"),
        ({"SLURM_STEP_NODELIST": "no-such[1,4],b"}, "gives the host 'no-such1'"),
        ({"SLURM_STEP_NODELIST": "a", "SLURM_JOB_ID": ""}, "SLURM_JOB_ID is not set"),
        ({"SLURM_STEP_NODELIST": "a", "JAX_COORDINATOR_PORT": "x"}, "'a:x', which is not <host>:<port>"),
        ({"SLURM_STEP_NUM_TASKS": "two"}, "SLURM_STEP_NUM_TASKS is 'two'"),
        ({"SLURM_PROCID": "first"}, "SLURM_PROCID is 'first'"),
        ({"SLURM_PROCID": "2"}, "SLURM_PROCID=2 is not below SLURM_STEP_NUM_TASKS=2"),
        ({"SLURM_STEP_NUM_TASKS": "1", "TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_HOSTNAMES=a,b"),
    ],
)
def test_a_scheduler_s_variables_that_name_no_run_are_one_line_and_alone_is_a_way_out(monkeypatch, variables, line):
    monkeypatch.setattr(parallel.command, "watch", lambda line: None)
    for name, value in (STEP | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=line) as error:
        parallel.set_up_processes()
    assert "\n" not in str(error.value)
    assert "to run alone, give --num_processes=1" in str(error.value)
    parallel.set_up_processes(num_processes=1)
    parallel.set_up_processes(num_processes=1, process_id=0)
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(("nodes", "all_devices"), [("2", True), ("1", False)])
def test_the_only_task_of_a_host_gets_all_of_its_devices(monkeypatch, nodes, all_devices):
    # JAX's detection of SLURM makes only the device of number SLURM_LOCALID visible to each task.
    asked = {}
    monkeypatch.setattr(parallel.command, "watch", lambda line: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: asked.update(given))
    for name, value in (STEP | {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": nodes}).items():
        monkeypatch.setenv(name, value)
    parallel.set_up_processes()
    assert (asked.get("cluster_detection_method") == "deactivate") == all_devices
    asked.clear()
    parallel.set_up_processes("localhost:8476", 2, 1)  # as given, inside SLURM too
    assert asked["cluster_detection_method"] == "deactivate"


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_waits_for_others_says_so_within_seconds(process):
    variables = STEP | {"SLURM_STEP_NODELIST": "localhost", "SLURM_PROCID": str(process)}
    waiting = subprocess.Popen(
        [sys.executable, "-c", "from gen_jax import parallel; print(flush=True); parallel.set_up_processes()"],
        env=os.environ | variables | {"JAX_COORDINATOR_PORT": str(40_000 + os.getpid() % 9000)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert waiting.stdout is not None
        assert waiting.stderr is not None
        waiting.stdout.readline()
        began = time.monotonic()
        said = waiting.stderr.readline()
    finally:
        waiting.kill()
        waiting.communicate()
    whom = "process 0 at localhost" if process else r"1 other(s) to connect to localhost"
    assert f"process {process} of 2 (SLURM_STEP_NUM_TASKS=2" in said
    assert f"is waiting for {whom}" in said
    assert time.monotonic() - began < 20


def _device(process, number):
    return types.SimpleNamespace(process_index=process, id=number, platform="cpu")


def test_a_mesh_lists_the_devices_of_a_process_side_by_side_whatever_order_jax_gives(monkeypatch):
    found = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda: [*found[1::2], *found[::2]])
    assert list(parallel.make_mesh().devices) == found
    assert list(parallel.make_mesh(3).devices) == found[:3]
    of_two = [_device(number // 2 % 2, number) for number in range(8)]  # 0-1, 4-5 of one, 2-3, 6-7 of the other
    monkeypatch.setattr(jax, "devices", lambda: of_two)
    assert [each.id for each in parallel.devices()] == [0, 1, 4, 5, 2, 3, 6, 7]


@pytest.mark.parametrize(
    ("owners", "num_devices", "shares"),
    [([0] * 4 + [1] * 4, 4, "4, 0"), ([0] * 4 + [1] * 4, 6, "4, 2"), ([0, 1], 1, "1, 0"), ([0, 0, 1], 0, "2, 1")],
)
def test_a_process_without_a_device_or_with_fewer_than_others_is_refused(monkeypatch, owners, num_devices, shares):
    monkeypatch.setattr(jax, "devices", lambda: [_device(owner, number) for number, owner in enumerate(owners)])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=f"the 2 processes would have {shares} devices.*use 0 for all") as error:
        parallel.make_mesh(num_devices)
    assert ("config.num_devices" in str(error.value)) == bool(num_devices)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("platforms", "error", "line"),
    [
        ("cuda", AssertionError(), r"JAX_PLATFORMS=cuda: unset it, or install the extra: .*\[cuda\]"),
        ("tpu", RuntimeError("no tpu\nmore"), r"JAX_PLATFORMS=tpu \(no tpu\): unset it, or .*\[tpu\]"),
        ("banana", RuntimeError("not known"), r"JAX_PLATFORMS=banana \(not known\): unset it$"),
        (None, RuntimeError("none at all"), r"JAX finds no device \(none at all\)$"),
    ],
)
def test_a_platform_that_is_not_there_is_one_line(monkeypatch, platforms, error, line):
    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", platforms)
    try:
        with pytest.raises(UserError, match=line) as refused:
            parallel.make_mesh()
    finally:
        jax.config.update("jax_platforms", before)
    assert "\n" not in str(refused.value)


def test_64_bits_are_refused_in_python():
    with jax.enable_x64(True), pytest.raises(UserError, match="unset JAX_ENABLE_X64"):
        parallel.make_mesh()

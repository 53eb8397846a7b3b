"""Devices: the mesh, the two executors, set-up of several processes, and means over devices.

The default executor is `jit` over a one-axis mesh: state replicated, batch sharded, and a mean over the
batch is a mean over the world. The other is `pmap`. Both take and return the same State; which one runs
is one config value. The rest of the package meets devices only through this file.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gen_jax import command
from gen_jax.method import Array, Batch, PyTree, Scalars, State, UserError

AXIS = "device"
HEARTBEAT = 20  # seconds without a sign of life until a process counts as lost; JAX would wait for 100


def set_up_processes(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Joins the processes of one run; a no-op for a single process.

    With a coordinator address the three values are taken as given. Without, several processes are
    recognised on SLURM (more than one task in the step) and on TPU pods (more than one worker), where
    JAX finds the rest by itself. Must run before the first use of a device.

    When one of the processes is lost, the others notice within `HEARTBEAT` seconds and end, each with a line that says
    how to go on.

    Raises:
      UserError: the three values do not fit together, or the others are not to be found.
    """
    if coordinator:
        if num_processes < 1 or not 0 <= process_id < num_processes:
            raise UserError(
                f"--coordinator={coordinator} needs --num_processes >= 1 and --process_id below it; "
                f"got {num_processes} and {process_id}"
            )
        _join(coordinator_address=coordinator, num_processes=num_processes, process_id=process_id)
    elif num_processes or process_id >= 0:
        raise UserError("--num_processes and --process_id need --coordinator=<host>:<port> as well")
    elif _is_slurm_step() or _is_tpu_pod():
        _join()


def _join(**where: Any) -> None:
    command.watch(
        f"process {os.getpid()} on {socket.gethostname()} was ended from outside: killed, or another process of the "
        "run is gone or not to be reached; the same command in every process goes on from the newest checkpoint"
    )
    try:
        jax.distributed.initialize(**where, heartbeat_timeout_seconds=HEARTBEAT)
    except RuntimeError as error:
        at = where.get("coordinator_address", "the address that JAX found")
        raise UserError(f"cannot join the other processes at {at}: {str(error).splitlines()[0]}") from error


def _is_slurm_step() -> bool:
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in os.environ


def _is_tpu_pod() -> bool:
    return len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1


@functools.cache
def compiler_options(fast: bool = True) -> dict[str, str | bool | int | float]:
    """Returns the options under which this project compiles train steps and samplers on this platform.

    On a CPU: matrix products go to XLA's library of fused kernels, which makes a small U-Net's train step and sampler
    faster (`benchmarks/ddpm.py` says by how much); results change in the last digits. Elsewhere, where the installed
    jaxlib does not know the option, and where `fast` is false: nothing.
    """
    if not fast or jax.default_backend() != "cpu":
        return {}
    options: dict[str, str | bool | int | float] = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    }
    try:  # an unknown option fails when a program is compiled; the smallest program is the probe
        jax.jit(lambda x: x + 1, compiler_options=options).lower(np.float32(0)).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def loop(body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: PyTree) -> tuple[Any, Any]:
    """`jax.lax.scan` for bodies that hold a gradient: unrolled on a CPU.

    There a convolution's gradient inside a rolled loop is 50 times slower, or worse, than in straight code. A loop of
    one turn is none on any device: scan would leave it rolled.
    """
    if len(jax.tree.leaves(xs)[0]) == 1:
        carry, y = body(carry, jax.tree.map(lambda x: x[0], xs))
        return carry, jax.tree.map(lambda leaf: leaf[None], y)
    return jax.lax.scan(body, carry, xs, unroll=jax.default_backend() == "cpu")


def _in_device_axis() -> bool:
    try:
        jax.lax.axis_index(AXIS)
    except NameError:
        return False
    return True


def mean_over_devices(tree: PyTree) -> PyTree:
    """Returns the mean over the device axis where one is bound (pmap), else the tree itself (jit)."""
    return jax.lax.pmean(tree, AXIS) if _in_device_axis() else tree


def gather_over_devices(tree: PyTree) -> PyTree:
    """Returns leaves [B, ...] of the global batch where a device axis is bound, else the tree itself."""
    if not _in_device_axis():
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), tree)


class Executor(NamedTuple):
    """How a program runs over the devices of a run.

    Attributes:
      mesh: one axis, `AXIS`.
      compile_step: from a pure step, an abstract State and an abstract batch to the compiled, donating call.
      put: from this process's rows of a batch (numpy, rows on axis `lead`) to what the compiled step takes.
    """

    mesh: Mesh
    compile_step: Callable[[Callable[[State, Batch], tuple[State, Scalars]], State, PyTree, int], Callable]
    put: Callable[[dict[str, np.ndarray], int], PyTree]


def make_mesh(num_devices: int = 0) -> Mesh:
    """Returns a mesh over the first `num_devices` devices (0: all of them).

    Raises:
      UserError: there are fewer devices than that.
    """
    devices = jax.devices()
    if num_devices > len(devices):
        raise UserError(
            f"config.num_devices is {num_devices}, but this machine has {len(devices)} {devices[0].platform} "
            f"device(s); use at most {len(devices)}, or 0 for all"
        )
    return Mesh(np.array(devices[: num_devices or len(devices)]), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh, lead: int = 0) -> NamedSharding:
    """Returns the sharding of a batch whose rows stand on axis `lead`."""
    return NamedSharding(mesh, PartitionSpec(*[None] * lead, AXIS))


def put_rows(rows: dict[str, np.ndarray], mesh: Mesh, lead: int = 0) -> PyTree:
    """Returns the global, sharded batch of which this process brings its rows (on axis `lead`)."""
    sharding = sharded(mesh, lead)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in rows.items()}


def rows_at_a_time(size: int, num: int, mesh: Mesh) -> int:
    """Returns the rows of a batch where `num` are wanted and `size` fit at a time: a multiple of the devices."""
    devices = mesh.devices.size
    return -(-min(size, num) // devices) * devices


def padded_batches(start: int, num: int, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields for rows start..num, `size` at a time, the first one's number and the numbers of this process's rows.

    The last batch is padded with row num - 1, so that all are of one size and compiled once.

    Example:
      >>> [(first, rows.tolist()) for first, rows in padded_batches(0, 5, 3)]
      [(0, [0, 1, 2]), (3, [3, 4, 4])]
    """
    for first in range(start, num, size):
        rows = np.minimum(np.arange(first, first + size, dtype=np.int32), num - 1)
        yield first, np.split(rows, jax.process_count())[jax.process_index()]


def fetch(array: Array) -> np.ndarray:
    """Returns the whole of a possibly sharded array as numpy, on every process."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def from_first_process(value: int) -> int:
    """Returns what process 0 gave, in every process: what it alone found out, on a disk for example.

    Example:
      >>> from_first_process(3)
      3
    """
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def in_any_process(value: bool) -> bool:
    """Returns whether `value` holds in some process of the run; all of them must ask together.

    Example:
      >>> in_any_process(False)
      False
    """
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array(value))))


def init_state(
    init: Callable[[Array, Batch, PyTree], State], seed: int, mesh: Mesh, examples: PyTree, frozen: PyTree
) -> State:
    """Returns the initial State, replicated: made under jit, which works with several processes too.

    Args:
      init: of a Method.
      seed: of the run.
      mesh: of the run.
      examples: of the training split, the same in every process.
      frozen: parameters of a first stage, or {}.
    """
    # It runs once: on a CPU, code that is not optimised is there four times sooner.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    call = jax.jit(
        lambda s, *given: init(make_key(s), *given), out_shardings=replicated(mesh), compiler_options=options
    )
    return call(np.uint32(seed), examples, frozen)


def abstract_state(
    init: Callable[[Array, Batch, PyTree], State], mesh: Mesh, examples: PyTree, frozen: PyTree
) -> State:
    """Returns shapes, dtypes and shardings of the State without computing it; `examples` and `frozen` are shapes."""
    sharding = replicated(mesh)
    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    shapes = jax.eval_shape(lambda s, *given: init(make_key(s), *given), seed, examples, frozen)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def make_key(seed: Array | int) -> Array:
    """Returns the run's root key. threefry, always: `method.draw` rests on it."""
    return jax.random.key(seed, impl="threefry2x32")


def _jit_executor(mesh: Mesh, options: dict) -> Executor:
    def compile_step(step, state, batch, lead):
        # Inputs keep the shardings they come with; what comes out is replicated, as what went in.
        call = jax.jit(step, donate_argnums=0, out_shardings=replicated(mesh), compiler_options=options)
        return call.lower(state, batch).compile()

    return Executor(mesh, compile_step, lambda rows, lead: put_rows(rows, mesh, lead))


def _pmap_executor(mesh: Mesh, options: dict) -> Executor:
    del options  # pmap takes none
    local = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]

    def put(rows, lead):
        def split(x):
            return x.reshape(*x.shape[:lead], len(local), x.shape[lead] // len(local), *x.shape[lead + 1 :])

        return {k: split(v) for k, v in rows.items()}

    def compile_step(step, state, batch, lead):
        def per_device(state, batch):
            state, scalars = step(state, batch)
            return state, mean_over_devices(scalars)

        call = jax.pmap(
            per_device, AXIS, in_axes=(None, lead), out_axes=None, donate_argnums=0, devices=list(mesh.devices.flat)
        )
        return call.lower(state, batch).compile()

    return Executor(mesh, compile_step, put)


EXECUTORS: dict[str, Callable[[Mesh, dict], Executor]] = {"jit": _jit_executor, "pmap": _pmap_executor}


def make_executor(name: str, mesh: Mesh, fast_compile_options: bool = True) -> Executor:
    """Returns the executor of that name over a mesh.

    Args:
      name: "jit" or "pmap".
      mesh: see `make_mesh`.
      fast_compile_options: whether `compiler_options` are used (jit only).
    """
    return EXECUTORS[name](mesh, compiler_options(fast_compile_options))

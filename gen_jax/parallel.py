"""Devices: the mesh, the two executors, setting up several processes, and means over devices.

The default executor is `jit` over a one-axis mesh: the batch is sharded, so that a mean over the batch is a mean over
all devices, and the state is replicated, or spread over them as well (`SHARDINGS`). The other is `pmap`. Both take and
return the same State; a config value selects one. The rest of the package uses devices only through this file.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gen_jax import command
from gen_jax.method import Array, Batch, PyTree, Scalars, State, UserError

AXIS = "device"
WAIT = 3  # seconds until a process prints that it is waiting for the others
HEARTBEAT = 20  # seconds without a heartbeat until a process counts as lost; JAX's default is 100


ALONE = "to run alone, give --num_processes=1"


class _Cluster(NamedTuple):
    """The processes of a run, and the address of process 0.

    Attributes:
      address: host:port, or "" if JAX finds all of them by itself.
      processes: how many there are.
      process: the number of this one.
      source: the flag or environment variables that specify them, with their values.
      shares_host: whether other tasks run on this host, so that JAX gives each of them one device.
    """

    address: str
    processes: int
    process: int
    source: str
    shares_host: bool = False

    @property
    def alone(self) -> str:
        """How to run without the others."""
        if self.source.startswith("--"):
            return "to run alone, leave out --coordinator, --num_processes and --process_id"
        return ALONE


def set_up_processes(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Joins the processes of one run; a no-op for a single process.

    With a coordinator address the three values are used as given. Without one, several processes are detected on
    SLURM (more than one task in the step) and on TPU pods (more than one worker), where JAX finds the rest by itself;
    with `num_processes` 1 this process runs alone there. Must be called before the first use of a device.

    A process that has waited `WAIT` seconds for the others prints a line. If one of the processes is lost, the others
    notice within `HEARTBEAT` seconds and exit, each with a line that explains how to resume.

    Raises:
      UserError: the three values, or SLURM's variables, are inconsistent, or the others cannot be reached.
    """
    if coordinator:
        if num_processes < 1 or not 0 <= process_id < num_processes:
            raise UserError(
                f"--coordinator={coordinator} needs --num_processes >= 1 and --process_id below it; "
                f"got {num_processes} and {process_id}"
            )
        _join(_Cluster(coordinator, num_processes, process_id, f"--coordinator={coordinator}"))
    elif num_processes == 1 and process_id in (-1, 0):
        return
    elif num_processes or process_id != -1:
        raise UserError("--num_processes and --process_id need --coordinator=<host>:<port> as well")
    elif (cluster := _slurm_step() or _tpu_pod()) is not None:
        _join(cluster)


def _join(cluster: _Cluster) -> None:
    where: dict[str, Any] = {}
    if cluster.address:
        _check_address(cluster)
        where = {"coordinator_address": cluster.address, "num_processes": cluster.processes,
                 "process_id": cluster.process}  # fmt: skip
        if not cluster.shares_host:  # on SLURM, JAX would use a single device of those on the host
            where["cluster_detection_method"] = "deactivate"
    command.watch(
        f"process {os.getpid()} on {socket.gethostname()} was killed, or another process of the run was lost or is "
        "unreachable; the same command in every process resumes from the newest checkpoint"
    )
    try:
        with _told_of_waiting(cluster):
            jax.distributed.initialize(**where, heartbeat_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError, TypeError, LookupError) as error:  # the last three if JAX finds too little
        at = cluster.address or "the address that JAX found"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot join the other processes at {at} ({cluster.source}): {reason}; {cluster.alone}"
        ) from error


def _check_address(cluster: _Cluster) -> None:
    """Refuses an invalid address at once; JAX would try it for five minutes."""
    host, _, port = cluster.address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(
            f"{cluster.source} gives the address {cluster.address!r}, which is not <host>:<port>; {cluster.alone}"
        )
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as error:
        raise UserError(
            f"{cluster.source} gives the host {host!r}, which cannot be resolved ({error.strerror}); {cluster.alone}"
        ) from error


@contextlib.contextmanager
def _told_of_waiting(cluster: _Cluster) -> Iterator[None]:
    others = f"process 0 at {cluster.address}" if cluster.process else f"{cluster.processes - 1} other(s)"
    if not cluster.process and cluster.address:
        others += f" to connect to {cluster.address}"
    this = f"process {cluster.process} of {cluster.processes} ({cluster.source})"
    line = f"gen_jax: {this} is waiting for {others}; {cluster.alone}\n"
    timer = threading.Timer(WAIT, lambda: (sys.stderr.write(line), sys.stderr.flush()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _slurm_step() -> _Cluster | None:
    """The tasks of a SLURM step, if there are several."""
    if "SLURM_PROCID" not in os.environ or _slurm_number("SLURM_STEP_NUM_TASKS", "1") < 2:
        return None
    tasks = _slurm_number("SLURM_STEP_NUM_TASKS")
    process, job = _slurm_number("SLURM_PROCID"), _slurm_number("SLURM_JOB_ID")
    if process >= tasks:
        raise UserError(f"SLURM_PROCID={process} is not below SLURM_STEP_NUM_TASKS={tasks}; {ALONE}")
    hosts = os.environ.get("SLURM_STEP_NODELIST", "")
    first = re.match(r"([^,\[]+)(?:\[([^,\]-]*))?", hosts)  # of node1,node2 or node[01-04,07] or node[1,2],other
    if first is None:
        raise UserError(_slurm_lacks("SLURM_STEP_NODELIST"))
    # As in JAX, which derives the port from the job.
    port = os.environ.get("JAX_COORDINATOR_PORT") or str(2**16 - 2**12 + job % 2**12)
    address = os.environ.get("JAX_COORDINATOR_ADDRESS") or f"{first[1]}{first[2] or ''}:{port}"
    source = f"SLURM_STEP_NUM_TASKS={tasks}, SLURM_STEP_NODELIST={hosts}"
    return _Cluster(address, tasks, process, source, shares_host=tasks != _slurm_number("SLURM_STEP_NUM_NODES", "1"))


def _slurm_number(name: str, default: str = "") -> int:
    text = os.environ.get(name) or default
    if not text.isdecimal():
        raise UserError(_slurm_lacks(name))
    return int(text)


def _slurm_lacks(name: str) -> str:
    text, tasks = os.environ.get(name), os.environ.get("SLURM_STEP_NUM_TASKS", "")
    what = f"{name} is {text!r}" if text else f"{name} is not set"
    if name == "SLURM_STEP_NUM_TASKS":
        return f"{what}, which is not a number of tasks; {ALONE}"
    return f"SLURM_STEP_NUM_TASKS={tasks} says that there are several processes, but {what}; {ALONE}"


def _tpu_pod() -> _Cluster | None:
    """The workers of a TPU pod, if there are several."""
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    if len(hosts.split(",")) < 2:
        return None
    process = os.environ.get("TPU_WORKER_ID", "")
    number = int(process) if process.isdecimal() else 0
    return _Cluster("", len(hosts.split(",")), number, f"TPU_WORKER_HOSTNAMES={hosts}")


_target: contextvars.ContextVar[str] = contextvars.ContextVar("target", default="")


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Traces programs inside this block for a platform that this machine may not have.

    JAX keeps what it traced by function and shapes, so a function traced before must be wrapped anew.
    """
    token = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(token)


def on_cpu() -> bool:
    """Returns whether programs traced now are for a CPU: JAX's default platform, or the one of `compiling_for`.

    Code that has a form of its own for CPUs asks here instead of using `jax.lax.platform_dependent`, which traces both
    forms: that takes half as long again to trace a train step. Both forms are correct everywhere.
    """
    return (_target.get() or jax.default_backend()) == "cpu"


@functools.cache
def compiler_options(fast: bool = True) -> dict[str, str | bool | int | float]:
    """Returns the XLA options with which this project compiles train steps and samplers on this platform.

    On a CPU, matrix products use XLA's library of fused kernels, which speeds up the train step and the sampler of a
    small U-Net (`python -m benchmarks` measures by how much); results change in the last digits. Empty on other
    platforms, if the installed jaxlib does not know the option, and if `fast` is false.
    """
    if not fast or jax.default_backend() != "cpu":
        return {}
    options: dict[str, str | bool | int | float] = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    }
    try:  # an unknown option fails at compilation; a tiny program tests it
        jax.jit(lambda x: x + 1, compiler_options=options).lower(np.float32(0)).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def loop(body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: PyTree) -> tuple[Any, Any]:
    """`jax.lax.scan` for bodies that contain a gradient: unrolled on a CPU.

    There, a convolution's gradient is at least 50 times slower inside a rolled loop than in straight-line code. A
    single iteration runs without a loop on any device: scan would leave it rolled.
    """
    if len(jax.tree.leaves(xs)[0]) == 1:
        carry, y = body(carry, jax.tree.map(lambda x: x[0], xs))
        return carry, jax.tree.map(lambda leaf: leaf[None], y)
    return jax.lax.scan(body, carry, xs, unroll=on_cpu())


def _in_device_axis() -> bool:
    try:
        jax.lax.axis_index(AXIS)
    except NameError:
        return False
    return True


_step_in_parts: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("step_in_parts", default=None)


@contextlib.contextmanager
def step_in_parts(mesh: Mesh) -> Iterator[None]:
    """Traces the step of a State in parts: inside this block, `whole` gathers."""
    token = _step_in_parts.set(mesh)
    try:
        yield
    finally:
        _step_in_parts.reset(token)


def whole(tree: PyTree) -> PyTree:
    """Returns arrays that every device holds in full inside `step_in_parts`, else the tree itself.

    What is in parts spreads to all that is computed from it, and to what it is computed from: the compiler may gather
    the activations of a batch, to compute a part of a gradient on each device.
    """
    mesh = _step_in_parts.get()
    return tree if mesh is None else gathered(tree, mesh)


def mean_over_devices(tree: PyTree) -> PyTree:
    """Returns the mean over the device axis if one is bound (pmap), else the tree itself (jit), `whole`."""
    return jax.lax.pmean(tree, AXIS) if _in_device_axis() else whole(tree)


def gather_over_devices(tree: PyTree) -> PyTree:
    """Returns leaves [B, ...] of the global batch if a device axis is bound, else the tree itself."""
    if not _in_device_axis():
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), tree)


def previous_rows(x: jax.Array, lead: int = 0) -> jax.Array:
    """Returns the rows of a batch moved by one: each example gets the row of the one before it in the global batch.

    Args:
      x: rows [B, ...] of this device or, with lead 1, [k, B / k, ...].
      lead: the axis of the rows.

    Example:
      >>> previous_rows(jnp.arange(4)).tolist(), previous_rows(jnp.arange(4).reshape(2, 2), lead=1).tolist()
      ([3, 0, 1, 2], [[3, 0], [1, 2]])
    """
    bound = _in_device_axis()
    whole = jax.lax.all_gather(x, AXIS, axis=lead, tiled=True) if bound else x
    moved = jnp.roll(whole.reshape(-1, *x.shape[lead + 1 :]), 1, axis=0).reshape(whole.shape)
    if not bound:
        return moved
    return jax.lax.dynamic_slice_in_dim(moved, jax.lax.axis_index(AXIS) * x.shape[lead], x.shape[lead], lead)


class Executor(NamedTuple):
    """How a program runs over the devices of a run.

    Attributes:
      mesh: one axis, `AXIS`.
      compile_step: maps a pure step, an abstract State, an abstract batch and the axis of its rows to the compiled
        call, which donates the State.
      put: maps this process's rows of a batch (numpy, rows on axis `lead`) to the input of the compiled step.
    """

    mesh: Mesh
    compile_step: Callable[[Callable[[State, Batch], tuple[State, Scalars]], State, PyTree, int], Callable]
    put: Callable[[dict[str, np.ndarray], int], PyTree]


def devices() -> list[Any]:
    """Returns the devices of all processes, grouped by process, in a fixed order.

    Raises:
      UserError: JAX finds no device of the requested platform.
    """
    try:
        found = jax.devices()
    except (RuntimeError, AssertionError) as error:
        if command.tells_of_a_lost_process(error):
            raise
        asked = jax.config.jax_platforms  # pyright: ignore  of JAX_PLATFORMS
        reason = f" ({str(error).splitlines()[0][:200]})" if str(error) else ""
        if not asked:
            named = os.environ.get("JAX_PLATFORM_NAME")
            way_out = f": unset JAX_PLATFORM_NAME={named}" if named else ""
            raise UserError(f"JAX finds no device{reason}{way_out}") from error
        extra = next((e for e in ("cuda", "tpu") if e in asked), "cuda" if "gpu" in asked else "")
        install = f", or install the extra: pip install -e '.[{extra}]'" if extra else ""
        raise UserError(f"JAX finds no device for JAX_PLATFORMS={asked}{reason}: unset it{install}") from error
    return sorted(found, key=lambda device: (device.process_index, device.id))


def make_mesh(num_devices: int = 0) -> Mesh:
    """Returns a mesh over the first `num_devices` of `devices()` (0: all of them).

    Raises:
      UserError: there are fewer devices; the processes would have unequal numbers of them; JAX is set to 64 bits.
    """
    if jax.config.jax_enable_x64:  # pyright: ignore  set by someone who uses this from Python
        raise UserError(
            "JAX is set to 64 bits, but models use 32: unset JAX_ENABLE_X64, or call "
            'jax.config.update("jax_enable_x64", False)'
        )
    found = devices()
    if num_devices > len(found):
        raise UserError(
            f"config.num_devices is {num_devices}, but this machine has {len(found)} {found[0].platform} "
            f"device(s); use at most {len(found)}, or 0 for all"
        )
    chosen = found[: num_devices or len(found)]
    shares = [sum(each.process_index == process for each in chosen) for process in range(jax.process_count())]
    if len(set(shares)) > 1:
        what = f"config.num_devices is {num_devices}: " if num_devices else ""
        raise UserError(
            f"{what}the {len(shares)} processes would have {', '.join(map(str, shares))} devices, but all must "
            "have the same number; use 0 for all, and start the processes on identical machines"
        )
    return Mesh(np.array(chosen), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh, lead: int = 0) -> NamedSharding:
    """Returns the sharding of a batch whose rows are on axis `lead`."""
    return NamedSharding(mesh, PartitionSpec(*[None] * lead, AXIS))


SMALL = 2**10  # values: whatever is smaller is on every device, since sending it would take longer than holding it


def spread(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Returns the sharding of an array of a State that is spread over the devices: one axis is split into equal parts.

    An axis of size s can be split over n devices into gcd(s, n) parts, of which each is on n / gcd(s, n) devices. The
    axis with the most parts is split; of several, the largest. Arrays below `SMALL` values stay whole.

    Example:
      >>> mesh = make_mesh()
      >>> spread(mesh, (3, 3, 128, 256)).shard_shape((3, 3, 128, 256))[3] * mesh.size
      256
      >>> spread(mesh, (7,)) == replicated(mesh)
      True
    """
    num = mesh.size
    parts, _, axis = max(((math.gcd(size, num), size, axis) for axis, size in enumerate(shape)), default=(1, 0, 0))
    if parts == 1 or math.prod(shape) < SMALL:
        return replicated(mesh)
    if parts == num:
        return sharded(mesh, axis)
    # Devices in the same order: a program may hold arrays of both meshes.
    return sharded(Mesh(mesh.devices.reshape(num // parts, parts), ("copy", AXIS)), axis)


SHARDINGS: dict[str, Callable[[Mesh, tuple[int, ...]], NamedSharding]] = {
    "replicated": lambda mesh, shape: replicated(mesh),
    "fsdp": spread,
}
"""From a name to (mesh, shape of an array of a State) -> its sharding."""


def put_rows(rows: dict[str, np.ndarray], mesh: Mesh, lead: int = 0) -> PyTree:
    """Returns the global, sharded batch, to which this process contributes its rows (on axis `lead`)."""
    sharding = sharded(mesh, lead)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in rows.items()}


def rows_at_a_time(size: int, num: int, mesh: Mesh) -> int:
    """Returns the batch size for `num` rows, at most `size` at a time, rounded up to a multiple of the devices."""
    devices = mesh.devices.size
    return -(-min(size, num) // devices) * devices


def padded_batches(start: int, num: int, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields, for rows start..num in batches of `size`, the index of the first row and those of this process's rows.

    The last batch is padded with row num - 1, so that all have the same size and compile once.

    Example:
      >>> [(first, rows.tolist()) for first, rows in padded_batches(0, 5, 3)]
      [(0, [0, 1, 2]), (3, [3, 4, 4])]
    """
    for first in range(start, num, size):
        rows = np.minimum(np.arange(first, first + size, dtype=np.int32), num - 1)
        yield first, np.split(rows, jax.process_count())[jax.process_index()]


def fetch(array: Array) -> np.ndarray:
    """Returns a possibly sharded array in full, as numpy, in every process."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def from_first_process(value: int) -> int:
    """Returns the `value` of process 0 in every process, for example one that only process 0 reads from disk.

    Example:
      >>> from_first_process(3)
      3
    """
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def in_any_process(value: bool) -> bool:
    """Returns whether `value` is true in any process of the run; all processes must call this together.

    Example:
      >>> in_any_process(False)
      False
    """
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array(value))))


def init_state(
    init: Callable[[Array, Batch, PyTree], State],
    seed: int,
    mesh: Mesh,
    examples: PyTree,
    frozen: PyTree,
    sharding: str = "replicated",
) -> State:
    """Returns the initial State on its devices; computed under jit, which also works with several processes.

    Args:
      init: `Method.init`.
      seed: of the run.
      mesh: of the run.
      examples: from the training split, the same in every process.
      frozen: parameters of a first stage, or {}.
      sharding: a name in `SHARDINGS`.
    """
    held = shardings(abstract_state(init, mesh, examples, frozen, sharding))
    # It runs once: on a CPU, it is ready four times sooner without optimisation.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    call = jax.jit(_from_seed(init), out_shardings=held, compiler_options=options)
    return call(np.uint32(seed), examples, frozen)


def abstract_state(
    init: Callable[[Array, Batch, PyTree], State],
    mesh: Mesh,
    examples: PyTree,
    frozen: PyTree,
    sharding: str = "replicated",
) -> State:
    """Returns shapes, dtypes and shardings of the State without computing it; `examples` and `frozen` are shapes."""
    place, seed = SHARDINGS[sharding], jax.ShapeDtypeStruct((), jnp.uint32)
    shapes = jax.eval_shape(_from_seed(init), seed, examples, frozen)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(mesh, x.shape)), shapes)


def shardings(state: PyTree) -> PyTree:
    """Returns the sharding of every leaf."""
    return jax.tree.map(lambda leaf: leaf.sharding, state)


def gathered(tree: PyTree, mesh: Mesh) -> PyTree:
    """Returns, inside a compiled program, arrays that every device holds in full, gathered from their parts.

    The compiler would choose by itself, too, but not always the parameters: it may gather a batch instead. Arrays that
    the program does not use are not gathered.
    """
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, replicated(mesh)), tree)


def bytes_per_device(state: PyTree) -> int:
    """Returns the memory of a State, with shardings, on each device.

    Example:
      >>> mesh = make_mesh()
      >>> x = jax.ShapeDtypeStruct((8, 512), jnp.float32, sharding=spread(mesh, (8, 512)))
      >>> bytes_per_device({"x": x}) * mesh.size
      16384
    """
    arrays = [leaf for leaf in jax.tree.leaves(state) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in arrays)


@functools.lru_cache(maxsize=1)
def _from_seed(init: Callable[[Array, Batch, PyTree], State]) -> Callable[[Array, Batch, PyTree], State]:
    """One function for both uses above, so that JAX traces it only once."""
    return lambda seed, *given: init(make_key(seed), *given)


def make_key(seed: Array | int) -> Array:
    """Returns the run's root key. It is always threefry: `method.draw` relies on it."""
    return jax.random.key(seed, impl="threefry2x32")


def _jit_executor(mesh: Mesh, options: dict) -> Executor:
    def compile_step(step, state, batch, lead):
        # Inputs keep their shardings; the State that comes out has those of the one that went in.
        held = (shardings(state), replicated(mesh))
        call = jax.jit(step, donate_argnums=0, out_shardings=held, compiler_options=options)
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


def rehearsing(mesh: Mesh) -> Executor:
    """Returns executor `jit` over a mesh of devices that need not exist: `put` returns the shapes of a batch."""

    def put(rows: dict[str, np.ndarray], lead: int) -> PyTree:
        sharding = sharded(mesh, lead)
        return {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=sharding) for k, v in rows.items()}

    return _jit_executor(mesh, {})._replace(put=put)


EXECUTORS: dict[str, Callable[[Mesh, dict], Executor]] = {"jit": _jit_executor, "pmap": _pmap_executor}


def make_executor(name: str, mesh: Mesh, fast_compile_options: bool = True) -> Executor:
    """Returns the executor of that name over a mesh.

    Args:
      name: "jit" or "pmap".
      mesh: see `make_mesh`.
      fast_compile_options: whether to use `compiler_options` (jit only).
    """
    return EXECUTORS[name](mesh, compiler_options(fast_compile_options))

"""`--mode=rehearse`: compiles a run's train step for a TPU slice, on a machine that has none, and prints what it needs.

The program is the one that the slice would run: the method's step on the run's batch, sharded over all chips. XLA's TPU
compiler comes with `libtpu`. Memory, FLOPs and collectives are those of the compiled program; the step time is an
estimate from published peaks, and a lower bound, because nothing reaches its peak.
"""

from __future__ import annotations

import collections
import importlib.util
import math
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from gen_jax import methods, parallel, train
from gen_jax.data import dataset
from gen_jax.method import Stage, UserError, counted, did_you_mean
from gen_jax.text import texts

GIB = 2**30


class Chip(NamedTuple):
    """Published figures of a TPU chip.

    Attributes:
      memory: bytes of HBM.
      flops: per second, in bfloat16.
      bandwidth: bytes per second from and to HBM.
      links: bytes per second to other chips of the slice, all links together, one way.
      options: for XLA's description of a slice.
    """

    memory: int
    flops: float
    bandwidth: float
    links: float
    options: dict[str, str] = {}  # noqa: RUF012  never changed


# https://cloud.google.com/tpu/docs: v4, v5e, v5p, v6e; interconnect figures there count both directions, in bits.
CHIPS = {
    "v4": Chip(32 * GIB, 275e12, 1228e9, 150e9, {"chip_config_name": "megacore"}),  # two cores as one device
    "v5e": Chip(16 * GIB, 197e12, 819e9, 100e9),
    "v5p": Chip(95 * GIB, 459e12, 2765e9, 300e9),
    "v6e": Chip(32 * GIB, 918e12, 1640e9, 224e9),
}
DEFAULT = "v5e:4x4"

_ITEM = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
_COLLECTIVE = re.compile(
    r"%\S+ = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_TOO_LARGE = re.compile(
    r"(?:Used |required for .*?\()([\d.]+)([KMGT]?)\)? (?:of|exceeds available HBM) \(?([\d.]+)([KMGT]?)"
)


class Needs(NamedTuple):
    """What one chip needs for one call of the step.

    Attributes:
      batch: of the run.
      memory: bytes, with a part for state and batch, and a part for temporaries.
      limit: bytes that a chip has for the program if that is too little; 0 if the program fits. XLA may not say how
        much a program needs that does not fit: `memory` is 0 then.
      state, temporaries: these parts; 0 if the program was not compiled.
      flops, bytes: of the compiled program, as XLA estimates them.
      collectives: by kind, how many, and bytes of their results.
    """

    batch: int
    memory: int
    limit: int = 0
    state: int = 0
    temporaries: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    collectives: dict[str, tuple[int, int]] = {}  # noqa: RUF012  never changed


def rehearse(config: Any, topology: str) -> None:
    """Prints what the config's train step needs on every chip of a slice.

    Args:
      config: complete and checked.
      topology: type and shape of the slice, such as v5e:16x16 or v4:4x4x4.

    Raises:
      UserError: libtpu is missing; there is no such slice; the batch does not divide over the chips, or needs
        more memory than they have.
    """
    chip, mesh = _slice(topology)
    if config.executor != "jit":
        raise UserError(f"--mode=rehearse compiles for executor jit, but config.executor is {config.executor!r}")
    data, _ = texts.load(config)
    needs, abstract = _needs(config, data, mesh, chip)
    if needs.limit:
        print(f"batch {config.batch_size} does not fit: looking for the largest that does", flush=True)

        def attempt(batch: int) -> Needs:
            needs, _ = _needs(_with_batch(config, batch), data, mesh, chip)
            print(f"  batch {batch} {'does not fit' if needs.limit else 'fits'}", flush=True)
            return needs

        fits = largest(attempt, needs, mesh.size * config.accumulate)
        way_out = (
            f"the largest that fits is about {fits}"
            if fits
            else "not even one image a chip fits: use a smaller network"
        )
        raise UserError(
            f"config.batch_size {config.batch_size} does not fit {topology}: "
            + (
                f"a chip would need {needs.memory / GIB:.1f} GiB and has {needs.limit / GIB:.1f}; "
                if needs.memory
                else ""
            )
            + way_out
        )
    print(describe(config, topology, chip, mesh.size, needs, _parameters(abstract)))


def describe(config: Any, topology: str, chip: Chip, num_chips: int, needs: Needs, parameters: int) -> str:
    """Returns the lines that `rehearse` prints."""
    sent = sum(size * _passes(kind) for kind, (_, size) in needs.collectives.items())
    peaks = {"compute": chip.flops, "memory traffic": chip.bandwidth, "collectives": chip.links}
    amounts = (needs.flops, needs.bytes, sent)
    ms = {name: 1000 * amount / peak for (name, peak), amount in zip(peaks.items(), amounts, strict=True)}
    limit = max(ms, key=ms.__getitem__)
    found = ", ".join(
        f"{counted(number, kind)} of {size / 2**20:,.1f} MiB" for kind, (number, size) in needs.collectives.items()
    )
    share = counted(config.batch_size // num_chips, "image")
    lines = [
        f"rehearsal on {topology}: {counted(num_chips, 'chip')}, {share} each",
        f"  parameters   {parameters:,}",
        f"  memory       {needs.memory / GIB:.2f} of {chip.memory / GIB:.0f} GiB a chip: "
        f"{needs.state / GIB:.2f} for state and batch, {needs.temporaries / GIB:.2f} for the step",
        f"  a step       {needs.flops / 1e9:,.1f} GFLOP and {needs.bytes / 1e9:,.2f} GB of memory traffic a chip",
        f"  collectives  {found or 'none'}",
        f"  estimate     at least {ms[limit]:,.3g} ms a step, at most {1000 * config.batch_size / ms[limit]:,.0f} "
        f"images/s, limited by {limit}",
        f"               (at published peaks: {', '.join(f'{name} {value:,.3g} ms' for name, value in ms.items())})",
    ]
    return "\n".join(lines)


def largest(attempt: Callable[[int], Needs], needs: Needs, unit: int) -> int:
    """Returns about the largest batch that fits, a multiple of `unit`; 0 if there is none.

    A program that does not fit is refused in seconds, with the bytes that it needs; one that fits is compiled to its
    end, for minutes. So the search comes from above: memory is nearly linear in the batch, and each try is 1% above the
    batch at which the line through the last two tries meets the limit (at first, the line through the origin). The
    answer is that batch itself, once one at most 3% larger was refused, or a try that nearly fills the chip.

    Args:
      attempt: maps a batch to what it needs; a call compiles the step.
      needs: of a batch that does not fit.
      unit: what a batch must be a multiple of.

    Example:
      >>> def attempt(batch):
      ...     memory = 20 + 3 * batch // 4
      ...     return Needs(batch, memory, limit=100 if memory > 100 else 0)
      >>> largest(attempt, attempt(400), unit=4)
      104
    """
    below, above, limit = 0, needs.batch // unit, needs.limit  # batches in units
    points = [(0, 0), (above, needs.memory)]  # tries and their bytes
    while above - below > 1:
        full = _meets(points, limit)
        if not below < full < above:  # no figures, or not linear
            full = (below + above) // 2
        elif len(points) > 2 and above - full <= max(1, 0.03 * full):
            return int(full) * unit
        guess = min(max(math.ceil(1.01 * full), below + 1), above - 1)
        tried = attempt(guess * unit)
        if tried.limit:
            above, limit = guess, tried.limit
        elif tried.memory > 0.95 * limit:
            return guess * unit
        else:
            below = guess
        points.append((guess, tried.memory))
    return below * unit


def _meets(points: list[tuple[int, int]], limit: int) -> float:
    """The batch at which the line through the last two tries meets the limit; 0 if it does not rise."""
    (first, before), (last, bytes_of_last) = points[-2:]
    rise = (bytes_of_last - before) / (last - first)
    return last + (limit - bytes_of_last) / rise if rise > 0 else 0


def _passes(kind: str) -> float:
    """How often the bytes of a collective's result leave a chip, in a ring of many chips."""
    return 2.0 if kind == "all-reduce" else 1.0


def _slice(topology: str) -> tuple[Chip, Mesh]:
    """Returns the chip and a mesh over the chips of a slice."""
    kind, _, shape = topology.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise UserError(
            f"--topology is {topology!r}; {did_you_mean(kind, CHIPS)}use <type>:<shape> such as v5e:16x16 or v4:4x4x4, "
            f"with a type of {', '.join(CHIPS)}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "--mode=rehearse needs libtpu, which compiles for TPUs on any Linux machine: pip install -e '.[rehearse]'"
        )
    from jax.experimental import topologies

    # libtpu asks for the host's place in a pod, logs at length, and lets one process in at a time.
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3", "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    }.items():  # fmt: skip
        os.environ.setdefault(name, value)
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology, **CHIPS[kind].options)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"--topology is {topology!r}, which libtpu does not know: {str(error).splitlines()[0]}"
        ) from error
    return CHIPS[kind], Mesh(np.array(described.devices), (parallel.AXIS,))


def _with_batch(config: Any, batch: int) -> Any:
    other = config.copy_and_resolve_references()
    other.batch_size = batch
    return other


def _needs(config: Any, data: dataset.Dataset, mesh: Mesh, chip: Chip) -> tuple[Needs, Any]:
    """Compiles the train step; returns what it needs, and the shapes of the State."""
    whole = methods.whole_stage(config)
    stage: Stage | None = None if whole is None else methods.make_stage(whole, data.spec)
    method = methods.make(config, data.spec, stage)
    train.check_batch(config, mesh, goes_on=False)
    method = methods.spread(method, mesh, config.sharding)
    abstract = methods.abstract_state(method, data.spec, stage, mesh, config.sharding)
    single = config.copy_and_resolve_references()
    single.steps_per_call = 1
    executor = parallel.rehearsing(mesh)
    feed, lead = train.make_feed(single, method, data, executor)
    with parallel.compiling_for("tpu"):
        try:
            step: Any = executor.compile_step(method.step, abstract, feed(0), lead)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            needed, limit = memory_of(str(error)) or (0, chip.memory)
            return Needs(config.batch_size, needed, limit), abstract
    memory, cost = step.memory_analysis(), step.cost_analysis()
    state = memory.argument_size_in_bytes
    temporaries = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    temporaries += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Needs(
        config.batch_size,
        state + temporaries,
        state=state,
        temporaries=temporaries,
        flops=cost.get("flops", 0.0),
        bytes=cost.get("bytes accessed", 0.0),
        collectives=collectives(step.as_text()),
    ), abstract


def collectives(program: str) -> dict[str, tuple[int, int]]:
    """Returns by kind how many collectives a compiled program has, and the bytes of their results.

    Example:
      >>> collectives("  %x.1 = (f32[8,2]{1,0}, /*index=1*/bf16[]) all-reduce(%a, %b), channel_id=1")
      {'all-reduce': (1, 66)}
    """
    number, size = collections.Counter(), collections.Counter()
    for shapes, kind in _COLLECTIVE.findall(program):
        number[kind] += 1
        for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            size[kind] += _ITEM.get(dtype, 4) * math.prod(int(dim) for dim in dims.split(",") if dim)
    return {kind: (number[kind], size[kind]) for kind in number}


def memory_of(refusal: str) -> tuple[int, int] | None:
    """Returns the bytes that a program needs and those that there are, where XLA finds too little memory and says how
    much; else None.

    Example:
      >>> [size / GIB for size in memory_of("Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm.")]
      [17.5, 15.75]
      >>> [size / GIB for size in memory_of("required for HLO temporaries (34.50G) exceeds available HBM (15.75G).")]
      [34.5, 15.75]
    """
    found = _TOO_LARGE.search(refusal)
    if found is None:
        return None
    needed, needed_unit, limit, limit_unit = found.groups()
    return _bytes(needed, needed_unit), _bytes(limit, limit_unit)


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))


def _parameters(abstract: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(abstract.params))

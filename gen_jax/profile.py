"""`--mode=profile`: a trace of a few train steps, a table of the costliest operations, and what share each sort takes.

The trace opens in Perfetto or in TensorBoard's profile page; the table is computed here from the same file.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gen_jax import config as configs
from gen_jax import memory, methods, parallel, train
from gen_jax.data import dataset
from gen_jax.method import NUM_EXAMPLES, DataSpec, Stage, UserError
from gen_jax.run import Run, write_json, writing

NUM_STEPS = 5
NUM_ROWS = 25
PRODUCTS = {"conv", "convolution", "cudnn", "dot", "gemm", "matmul", "ynn"}  # words of products and convolutions
# Words of operations that only move numbers.
MOVES = {
    *("broadcast", "bitcast", "concatenate", "copy", "dynamic", "fusion", "gather", "pad", "parameter", "reshape"),
    *("reverse", "slice", "transpose", "tuple", "update", "wrapped"),
}


def profile(workdir: str | pathlib.Path, overrides: tuple[str, ...] = ()) -> None:
    """Traces the train step of a run's config on this machine; checkpoints and metrics stay unchanged.

    It needs no data: a step takes equally long on random values of the same shapes.

    Writes profile/ (the trace) and profile.json (the table), and prints the table.

    Raises:
      UserError: there is no run, or an override names other data, whose shapes the run does not know.
    """
    run = Run(workdir)
    record = run.read_config()
    trained = methods.stored(record)
    config = methods.override(trained, overrides)
    methods.check(config)
    others = configs.changes(trained.to_dict(), config.to_dict(), configs.JUDGING)
    if of_data := [line for line in others if line.startswith("data.")]:
        raise UserError(
            f"--mode=profile reads no data and takes the shapes that {run.workdir} was trained on: leave out "
            f"{'; '.join(of_data)}, or profile a run trained on that data"
        )
    data = _made_up(DataSpec.from_dict(record["data"]))
    stage = _stage(config, record)
    method = methods.make(config, data.spec, stage)
    # All available devices, if there are fewer than the run was trained on.
    asked = any(word.startswith("--config.num_devices=") for word in overrides)
    mesh = parallel.make_mesh(config.num_devices if asked or config.num_devices <= len(parallel.devices()) else 0)
    train.check_batch(config, mesh, goes_on=True)
    method = methods.spread(method, mesh, config.sharding)
    executor = parallel.make_executor(config.executor, mesh, config.fast_compile_options)
    frozen = train.initial_state(stage.config, stage.method, _made_up(stage.spec), mesh, {}).ema if stage else {}
    state = train.initial_state(config, method, data, mesh, frozen)
    feed, lead = train.make_feed(config, method, data, executor)
    update = executor.compile_step(train.many_steps(method.step, config.steps_per_call), state, feed(0), lead)
    state, _ = jax.block_until_ready(update(state, feed(0)))

    folder = run.workdir / "profile"
    with tempfile.TemporaryDirectory() as traced:  # JAX rejects paths that are not UTF-8
        with jax.profiler.trace(traced):
            for step in range(1, NUM_STEPS + 1):
                state, _ = jax.block_until_ready(update(state, feed(step)))
        with writing(folder):
            for name in os.listdir(traced):
                shutil.rmtree(folder / name, ignore_errors=True)  # of an earlier profile
                shutil.copytree(pathlib.Path(traced, name), folder / name)
    rows = operations(folder)
    write_json(run.workdir / "profile.json", rows)
    sys.stdout.write(_table(rows, NUM_STEPS * config.steps_per_call))
    print("; ".join(f"{sort} {share:.0%}" for sort, share in shares(rows).items()))
    print(memory.describe())
    print(f"trace: {folder}; table: {run.workdir / 'profile.json'}")


def _stage(config: Any, record: Mapping[str, Any]) -> Stage | None:
    """The first stage of a run, rebuilt from the run's config alone."""
    whole = methods.whole_stage(config)
    return (
        methods.stored_stage(record) if whole is None else methods.make_stage(whole, DataSpec.from_dict(record["data"]))
    )


def _made_up(spec: DataSpec) -> dataset.Dataset:
    """A few random examples in the shapes of a data set."""
    num, rng = min(spec.num_examples, NUM_EXAMPLES), np.random.default_rng(0)
    low, high = spec.value_range
    images = rng.uniform(low, high, (num, *spec.image_shape)).astype(spec.dtype)
    arrays: dict[str, np.ndarray] = {"image": images}
    for name, feature in spec.features.items():
        if feature.dtype == "float32":  # embeddings
            arrays[name] = rng.normal(size=(num, *feature.shape)).astype(np.float32)
            continue
        values = np.asarray(feature.sizes or len(feature.names) or 2)  # values per component, or of the whole
        arrays[name] = rng.integers(0, values, (num, *feature.shape)).astype(feature.dtype)
    return dataset.Dataset(dataclasses.replace(spec, num_examples=num), arrays, None)


def operations(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the operations of a trace, costliest first: kind, number of calls and total milliseconds.

    An operation's kind is its name without the number that the compiler appends ("dot.12" -> "dot"). Only
    leaves count: the operations of the compiled program, not the calls around them.

    Raises:
      UserError: the folder holds no trace.
    """
    files = sorted(folder.rglob("*.xplane.pb"))
    if not files:
        raise UserError(f"{folder} holds no trace")
    calls: collections.Counter[str] = collections.Counter()
    nanoseconds: collections.Counter[str] = collections.Counter()
    for plane in jax.profiler.ProfileData.from_serialized_xspace(files[-1].read_bytes()).planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" not in stats:
                    continue
                kind = re.sub(r"[.\d]+$", "", str(stats["hlo_op"]))
                calls[kind] += 1
                nanoseconds[kind] += int(event.duration_ns)
    return [{"operation": kind, "calls": calls[kind], "ms": ns / 1e6} for kind, ns in nanoseconds.most_common()]


def sort_of(operation: str) -> str:
    """Returns the sort of an operation, by the name that XLA gives it: a fusion is named after its last operations.

    Example:
      >>> [sort_of(name) for name in ("dot", "multiply_reduce_fusion", "transpose_copy_fusion", "convert_add_fusion")]
      ['products and convolutions', 'sums', 'copies and transposes', 'other arithmetic']
    """
    words = set(re.findall("[a-z]+", operation))
    if words & PRODUCTS:
        return "products and convolutions"
    if "reduce" in words:
        return "sums"
    return "copies and transposes" if MOVES.issuperset(words) else "other arithmetic"


def shares(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Returns the share of the total time of `operations` that each sort takes, largest first.

    Example:
      >>> shares([{"operation": "dot", "ms": 3.0}, {"operation": "copy", "ms": 1.0}])
      {'products and convolutions': 0.75, 'copies and transposes': 0.25}
    """
    times: collections.Counter[str] = collections.Counter()
    for row in rows:
        times[sort_of(row["operation"])] += row["ms"]
    total = sum(times.values()) or 1.0
    return {sort: ms / total for sort, ms in times.most_common()}


def _table(rows: list[dict[str, Any]], steps: int) -> str:
    total = sum(row["ms"] for row in rows) or 1.0
    lines = [f"{'operation':50} {'calls/step':>10} {'ms/step':>9} {'share':>6}"]
    for row in rows[:NUM_ROWS]:
        share = row["ms"] / total
        lines.append(f"{row['operation'][:50]:50} {row['calls'] / steps:10.1f} {row['ms'] / steps:9.3f} {share:6.1%}")
    return "\n".join(lines) + "\n"

"""`--mode=profile`: a trace of a few train steps, and a table of the costliest operations.

The trace opens in Perfetto or in TensorBoard's profile page; the table is made here, from the same file.
"""

from __future__ import annotations

import collections
import pathlib
import re
import shutil
import sys
from typing import Any

import jax

from gen_jax import methods, parallel, stages, train
from gen_jax.data import dataset
from gen_jax.method import UserError
from gen_jax.run import Run, write_json

NUM_STEPS = 5
NUM_ROWS = 25


def profile(workdir: str | pathlib.Path, overrides: tuple[str, ...] = ()) -> None:
    """Traces the train step of a run's config on this machine; training itself is not touched.

    Writes profile/ (the trace) and profile.json (the table), and prints the table.
    """
    run = Run(workdir)
    config = methods.override(methods.stored(run.read_config()), overrides)
    methods.check(config)
    data = dataset.load(config.data)
    first = stages.find(config, run, data.spec)
    method = methods.make(config, data.spec, first.stage if first else None)
    mesh = parallel.make_mesh(config.num_devices)
    executor = parallel.make_executor(config.executor, mesh, config.fast_compile_options)
    frozen = first.params(mesh, train.train) if first else {}
    state = train.initial_state(config, method, data, mesh, frozen)
    feed, lead = train.make_feed(config, method, data, executor)
    update = executor.compile_step(train.many_steps(method.step, config.steps_per_call), state, feed(0), lead)
    state, _ = jax.block_until_ready(update(state, feed(0)))

    folder = run.workdir / "profile"
    shutil.rmtree(folder, ignore_errors=True)
    with jax.profiler.trace(str(folder)):
        for step in range(1, NUM_STEPS + 1):
            state, _ = jax.block_until_ready(update(state, feed(step)))
    rows = operations(folder)
    write_json(run.workdir / "profile.json", rows)
    sys.stdout.write(_table(rows, NUM_STEPS * config.steps_per_call))
    print(f"trace: {folder}; table: {run.workdir / 'profile.json'}")


def operations(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the operations of a trace, costliest first: kind, its number of calls and milliseconds in all.

    An operation's kind is its name without the number that the compiler gives ("dot.12" -> "dot"). Only
    leaves count: the operations of the compiled program, not the calls around them.

    Raises:
      UserError: the folder holds no trace.
    """
    files = sorted(folder.rglob("*.xplane.pb"))
    if not files:
        raise UserError(f"{folder} holds no trace")
    calls: collections.Counter[str] = collections.Counter()
    nanoseconds: collections.Counter[str] = collections.Counter()
    for plane in jax.profiler.ProfileData.from_file(str(files[-1])).planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" not in stats:
                    continue
                kind = re.sub(r"[.\d]+$", "", str(stats["hlo_op"]))
                calls[kind] += 1
                nanoseconds[kind] += int(event.duration_ns)
    return [{"operation": kind, "calls": calls[kind], "ms": ns / 1e6} for kind, ns in nanoseconds.most_common()]


def _table(rows: list[dict[str, Any]], steps: int) -> str:
    total = sum(row["ms"] for row in rows) or 1.0
    lines = [f"{'operation':50} {'calls/step':>10} {'ms/step':>9} {'share':>6}"]
    for row in rows[:NUM_ROWS]:
        share = row["ms"] / total
        lines.append(f"{row['operation'][:50]:50} {row['calls'] / steps:10.1f} {row['ms'] / steps:9.3f} {share:6.1%}")
    return "\n".join(lines) + "\n"

"""The training loop, the same for every method: it draws batch `step`, calls one compiled function, and runs hooks.

Resuming needs only the newest checkpoint: batch n and the random numbers of step n are functions of (seed, n).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib.metadata
import os
import pathlib
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview

from gen_jax import (
    __version__,
    best,
    finish,
    judges,
    methods,
    parallel,
    sample,
    stages,
    trackers,
    validation,
    warm,
)
from gen_jax import config as configs
from gen_jax.checkpoint import Checkpoints
from gen_jax.command import end_as_stopped
from gen_jax.data import dataset, streaming
from gen_jax.method import NUM_EXAMPLES, Method, PyTree, State, UserError
from gen_jax.run import Run, write_text
from gen_jax.text import texts
from gen_jax.writers import Copy, Progress, Writer

T = TypeVar("T")
Rows: TypeAlias = dict[str, np.ndarray]

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")

ROUNDING = ("jax", "jaxlib", "flax", "optax")  # packages that decide the order of operations


def train(config: Any, run: Run, name: str, variant: str, command: str) -> None:
    """`--mode=train`: starts or resumes training, until `config.num_steps`; then samples, judges and reports.

    A first stage given as a config is trained first, in a subfolder of this run.

    Args:
      config: resolved and checked.
      run: the directory that everything is written to.
      name, variant: of the config.
      command: the command that reproduces this run, for config.json and the report.

    Raises:
      UserError: a mistake that the user can fix; one line.
    """
    chief = jax.process_index() == 0
    run.refuse_other_files()
    trackers.check(config.trackers)
    with run.lock() if chief else contextlib.nullcontext(), contextlib.ExitStack() as stack:
        mesh = parallel.make_mesh(config.num_devices)
        refuse_changes(run, config)
        check_batch(config, mesh, run.config_path.is_file())
        data, words = texts.load(config, run)
        before = run.read_config() if run.config_path.is_file() else {}
        if before:
            dataset.refuse_other(dataset.DataSpec.from_dict(before["data"]), data.spec, run.workdir)
        first = stages.find(config, run, data.spec)
        method = methods.make(config, data.spec, first.stage if first else None)
        judges.check_tracked(config, data.spec)
        judges.check_networks(config)
        method = methods.spread(method, mesh, config.sharding)
        abstract = methods.abstract_state(method, data.spec, first.stage if first else None, mesh, config.sharding)
        validation.check_best(config, method, abstract, data)
        record = describe(config, data.spec, abstract, mesh, name, variant, command, first)
        with Checkpoints(run.checkpoints, about=about(data.spec)) as checkpoints:
            checkpoints.clean()
            state = checkpoints.restore(abstract)
            start = 0 if state is None else int(state.step)
            early = best.stopped_early(config, best.scores_of(run, config, start), start)
            if (start >= config.num_steps or early) and run.finished_step == start:
                print(_finished(run, start, early))
                return
            weights = warm.find(config, abstract, mesh) if config.warm_start and state is None else None
            _check_calls(config, run, config.num_steps - start)
            if chief:
                run.write_config(record)
                write_text(run.parameters, overview(abstract, data.spec.name))
                if words is not None:
                    words.save(run.text)
            frozen = first.params(mesh, config.sharding, train) if first and state is None else {}
            if chief:
                print(_headline(record, run, start) + (other_rounding(before, record) if start else ""))
                if weights is not None:
                    print(weights.told)
                if untracked := judges.untracked(config, data.spec):
                    print(untracked)
            shown = configs.flatten(config) | {"trained_on": data.spec.name}
            tracked = stack.enter_context(trackers.tracking(config.trackers if chief else "", run, shown))
            begin = functools.partial(_first_state, state, weights, config, method, data, mesh, frozen)
            if start >= config.num_steps or early:
                trained = begin()
            else:
                trained, early = _loop(
                    config, run, method, data, mesh, checkpoints, abstract, start, begin, words, [tracked]
                )
        if chief and early:
            print(f"{run.workdir}: {early}")
        model = sample.Model(config, data.spec, method, trained, mesh, words)
        finish.finish(model, data, run, config.sample.num, trained=True, stopped_early=early)
        tracked.pictures(int(trained.step), {"samples": run.workdir / "samples.png"})
        tracked.files([run.report_html, run.report_json, run.config_path])


def _check_calls(config: Any, run: Run, left: int) -> None:
    if left % config.steps_per_call:
        raise UserError(
            f"the {left} remaining steps of {run.workdir} are not a multiple of config.steps_per_call="
            f"{config.steps_per_call}; use --config.steps_per_call=1"
        )


def _first_state(restored: State | None, weights: warm.Weights | None, config: Any, *given: Any) -> State:
    """What this start begins with: a checkpoint, or a new State, with the weights of a warm start if there is one."""
    if restored is not None:
        return restored
    state = initial_state(config, *given)
    return state if weights is None else weights.into(state)


def _loop(
    config: Any,
    run: Run,
    method: Method,
    data: dataset.Dataset,
    mesh: jax.sharding.Mesh,
    checkpoints: Checkpoints,
    abstract: State,
    start: int,
    begin: Callable[[], State],
    words: texts.Texts | None = None,
    copies: Sequence[Copy] = (),
) -> tuple[State, str]:
    """Trains from step `start`, with the State of `begin`; returns the last State, and why it ended early, or ""."""
    chief, alone = jax.process_index() == 0, jax.process_count() == 1
    executor = parallel.make_executor(config.executor, mesh, config.fast_compile_options)
    feed, lead = make_feed(config, method, data, executor)
    with concurrent.futures.ThreadPoolExecutor(1) as side:
        # Both take seconds on a CPU, mostly on one core, so they run in parallel.
        first = side.submit(begin)
        update = executor.compile_step(many_steps(method.step, config.steps_per_call), abstract, feed(start), lead)
        state = first.result()
    look = _make_look(config, run, method, data, mesh, checkpoints, words)
    _print_memory(update, state)
    window_step, in_flight, scalars, saved, early = start, {}, {}, start, ""
    steps = range(start, config.num_steps, config.steps_per_call)
    with contextlib.ExitStack() as stack:
        if chief:
            validation.forget_snapshots(run, start)
        writer = stack.enter_context(Writer(run.workdir, start, data.spec.name, copies)) if chief else None
        progress = stack.enter_context(Progress(config.num_steps, start)) if chief else None
        stop_requested = stack.enter_context(StopRequests())
        kept = stack.enter_context(validation.BestCheckpoints(run, start, about(data.spec), config))
        batches = stack.enter_context(batches_of(steps, config, method, data, executor))
        timed = _timed(batches, len(steps), config.steps_per_call, progress.say) if progress else batches
        began = window = time.perf_counter()
        for step, batch in zip(steps, timed, strict=True):  # a batch is drawn and sent while the device computes
            jax.block_until_ready(in_flight)  # at most two calls at once: bounded memory, quick signals
            in_flight = scalars
            state, scalars = update(state, batch)
            done = step + config.steps_per_call
            # All processes must stop at the same step: they agree on it when they log.
            stop = (alone or done % config.log_every == 0) and parallel.in_any_process(stop_requested())
            last = done == config.num_steps or stop

            if done % config.log_every == 0 or last:
                values = {k: float(v) for k, v in scalars.items()}
                now = time.perf_counter()
                speed = config.batch_size * (done - window_step) / (now - window)
                _stop_if_not_finite(config, values, state, done, checkpoints)
                if writer and progress:
                    scores = {f"train/{k}": v for k, v in values.items()}
                    writer.write(done, scores | {"speed/images_per_second": speed, "seconds": now - began})
                    progress.update(done, values["loss"], speed)
                window, window_step = now, done

            pause = time.perf_counter()
            if _is_evaluated(config, done):
                early = look(state, done, writer, kept)
            if done % config.checkpoint_every == 0 or last or early:
                _stop_if_not_finite(config, {}, state, done, checkpoints)
                checkpoints.save(state)
                saved = done
            window += time.perf_counter() - pause  # speed counts training only
            if stop or early:
                break
    checkpoints.wait()
    if saved < config.num_steps and not early:
        end_as_stopped(f"stopped at step {saved} of {config.num_steps}, saved; the same command resumes from here")
    return state, early


def _is_evaluated(config: Any, done: int) -> bool:
    """Whether a run looks at its model at this step; after the last one only to rank checkpoints."""
    ranks = config.eval.track or config.eval.best != configs.DISTANCE
    return done % config.eval_every == 0 and (done < config.num_steps or ranks)


def _make_look(
    config: Any,
    run: Run,
    method: Method,
    data: dataset.Dataset,
    mesh: jax.sharding.Mesh,
    checkpoints: Checkpoints,
    words: texts.Texts | None,
) -> Callable[[State, int, Writer | None, validation.BestCheckpoints], str]:
    """Returns the hook that runs every `eval_every` steps: it measures, draws, and keeps the best states so far. It
    returns why training stops early, or ""."""
    validate = validation.make(config, method, data, mesh, words)

    def look(state: State, done: int, writer: Writer | None, kept: validation.BestCheckpoints) -> str:
        scores, frames = validate(state)
        if writer:
            writer.write(done, scores)
            writer.pictures(done, validation.save_snapshots(run, done, frames, data.spec.name))
        if kept.takes(done, scores):
            _stop_if_not_finite(config, {}, state, done, checkpoints)
            kept.save(state)
        return kept.stopped_early(done)

    return look


def initial_state(config: Any, method: Method, data: dataset.Dataset, mesh: jax.sharding.Mesh, frozen: PyTree) -> State:
    """Returns the State before the first step; its training examples are the same in every process."""
    rows = dataset.spread(data.spec.num_examples, NUM_EXAMPLES)
    examples = {name: np.asarray(array[rows]) for name, array in data.train.items()}
    examples["index"] = np.arange(len(rows), dtype=np.int32)
    return parallel.init_state(method.init, config.seed, mesh, examples, frozen, config.sharding)


def make_feed(
    config: Any, method: Method, data: dataset.Dataset, executor: parallel.Executor
) -> tuple[Callable[[int], PyTree], int]:
    """Returns a function from step to the batches of one call, on the devices; and their batch axis."""
    draw, lead = _make_draw(config, method, data)
    return lambda step: executor.put(draw(step), lead), lead


@contextlib.contextmanager
def batches_of(
    steps: range, config: Any, method: Method, data: dataset.Dataset, executor: parallel.Executor
) -> Iterator[Iterator[PyTree]]:
    """Yields an iterator over the same batches as `make_feed`, for `steps`; a streamed set is read ahead."""
    draw, lead = _make_draw(config, method, data)
    ahead = streaming.ahead(draw, steps, config.data.workers) if data.streamed else None
    with ahead or contextlib.nullcontext(map(draw, steps)) as drawn:
        yield (executor.put(rows, lead) for rows in drawn)


def _make_draw(config: Any, method: Method, data: dataset.Dataset) -> tuple[Callable[[int], Rows], int]:
    """Returns a function from step to this process's rows of one call's batches, on the host; and their batch axis.

    Leaves are [B, ...], with a leading axis for each of these that exceeds one, outermost first:
    `steps_per_call`, the method's batches per step, `accumulate`.
    """
    batches = dataset.Batches(
        data.train, config.batch_size, config.seed, jax.process_index(), jax.process_count(), method.batches_per_step
    )
    pieces, calls = config.accumulate, config.steps_per_call
    several = int(method.batches_per_step > 1)
    lead = several + (pieces > 1) + (calls > 1)

    def rows(step: int) -> Rows:
        batch = batches.batch(step)
        if pieces > 1:
            batch = {k: np.stack(np.split(v, pieces, several), several) for k, v in batch.items()}
        return batch

    def draw(step: int) -> Rows:
        if calls == 1:
            return rows(step)
        ahead = [rows(s) for s in range(step, step + calls)]
        return {k: np.stack([r[k] for r in ahead]) for k in ahead[0]}

    return draw, lead


def many_steps(step: Callable, calls: int) -> Callable:
    """Returns a step that takes `calls` batches, stacked along a leading axis; its scalars are those of the last."""
    if calls == 1:
        return step

    def steps(state: State, batches: PyTree) -> tuple[State, PyTree]:
        state, scalars = parallel.loop(step, state, batches)
        return state, jax.tree.map(lambda x: x[-1], scalars)

    return steps


def about(spec: dataset.DataSpec) -> dict[str, str]:
    """Returns what a checkpoint records about its data."""
    return {"data": spec.name, "fingerprint": spec.fingerprint}


def refuse_changes(run: Run, config: Any) -> None:
    """Raises a UserError that names each changed key if the directory holds a run with another config, and one if it
    holds a run that was converted from published weights."""
    if not run.config_path.is_file():
        return
    record = run.read_config()
    if "converted" in record:
        raise UserError(
            f"{run.workdir} was converted from {record['converted']['file']}, which holds no state of an optimizer: it "
            "can be sampled, judged and edited, but not trained further"
        )
    before = stages.with_absolute_paths(methods.stored(record)).to_dict()
    now = config.to_dict()
    lines = configs.changes(before, now)
    if config.eval.track:  # distances of different classifiers are not comparable, nor is "best" then
        lines += [line for line in configs.changes(before, now, ()) if line.startswith("eval.classifier_steps:")]
    if lines:
        raise UserError(
            f"{run.workdir} holds a run with another config ({'; '.join(lines)}); "
            "restore these values, choose another --workdir, or delete the directory to start afresh"
        )


def describe(
    config: Any,
    spec: dataset.DataSpec,
    abstract: State,
    mesh: jax.sharding.Mesh,
    name: str,
    variant: str,
    command: str,
    first: stages.First | None = None,
) -> dict[str, Any]:
    """Returns the content of config.json: the resolved config, the data, the machine and the parameters by module.

    It includes the config and data of a first stage, whose parameters are in the checkpoint: the run is self-contained.
    """
    device = mesh.devices.flat[0]
    return {
        "name": name,
        "variant": variant,
        "config": config.to_dict(),
        "data": spec.to_dict(),
        "versions": {"gen_jax": __version__, "python": platform.python_version()}
        | {p: importlib.metadata.version(p) for p in PACKAGES},
        "devices": {"platform": device.platform, "kind": device.device_kind, "count": mesh.devices.size},
        "processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "git_commit": _git_commit(),
        "command": command,
        "parameters": {network: _modules(params) for network, params in abstract.params.items()},
        **({"pretrained": first.record()} if first else {}),
    }


def other_rounding(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Returns a line on what differs between two starts of a run and changes the last digits of its steps, or "".

    Args:
      before: config.json as it was; that of an older version may lack a part, which then counts as equal.
      now: as `describe` returns it.

    Example:
      >>> other_rounding({"versions": {"jax": "0.10.2"}}, {"versions": {"jax": "0.12.0"}, "xla_flags": ""})
      '\\n  changed     jax 0.10.2 -> 0.12.0: equal up to rounding from here on, not bit by bit'
    """

    def parts(record: dict[str, Any]) -> dict[str, Any]:
        versions = {name: version for name, version in record.get("versions", {}).items() if name in ROUNDING}
        devices = {f"device {name}": value for name, value in record.get("devices", {}).items()}
        return versions | devices | ({"XLA_FLAGS": repr(record["xla_flags"])} if "xla_flags" in record else {})

    old, new = parts(before), parts(now)
    changes = [f"{name} {old[name]} -> {value}" for name, value in new.items() if old.get(name, value) != value]
    if not changes:
        return ""
    return f"\n  changed     {', '.join(changes)}: equal up to rounding from here on, not bit by bit"


def _modules(params: PyTree) -> list[dict[str, Any]]:
    """One row per module: its name and its number of scalars."""
    return [
        {"module": module, "parameters": parameter_overview.count_parameters({module: tree})}
        for module, tree in params.items()
    ]


def overview(abstract: State, data: str) -> str:
    """Returns a table of all arrays of the networks, with their shapes; like every file of a run it names the data."""
    return f"A model trained on {data}\n\n" + "\n".join(
        f"{network}\n{parameter_overview.get_parameter_overview(params, include_stats=False)}\n"
        for network, params in abstract.params.items()
    )


def _git_commit(file: str | pathlib.Path = __file__) -> str | None:
    """The commit of the checkout that this package runs from, or None. A repository that merely contains the package
    untracked, as in a virtual environment, does not count."""
    path = pathlib.Path(file).resolve()
    # Git sets these to its own repository if one of its hooks starts a run.
    others = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE")
    environment = {name: value for name, value in os.environ.items() if name not in others}

    def git(*words: str) -> str:
        call = ["git", "-C", str(path.parent), *words]
        return subprocess.run(call, capture_output=True, text=True, check=True, env=environment).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", path.name)
        return git("describe", "--always", "--dirty", "--abbrev=12") or None
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def check_batch(config: Any, mesh: jax.sharding.Mesh, goes_on: bool) -> None:
    """Refuses a batch that does not divide over the devices; a run that `goes_on` can change only the devices."""
    size, devices = config.batch_size // config.accumulate, mesh.devices.size
    if size % devices == 0:
        return
    pieces = f" in {config.accumulate} pieces" if config.accumulate > 1 else ""
    processes = jax.process_count()
    if goes_on and processes == 1:
        way_out = f"use --config.num_devices={max(n for n in range(1, devices) if size % n == 0)}"
    elif goes_on:
        way_out = "use another number of devices or processes"
    else:
        near = max(1, round(size / devices)) * devices * config.accumulate
        way_out = f"the nearest that does is {near}"
    raise UserError(
        f"config.batch_size {config.batch_size}{pieces} does not divide over {devices} devices of "
        f"{processes} process(es); {way_out}"
    )


@jax.jit
def _all_finite(state: State) -> jax.Array:
    leaves = jax.tree.leaves((state.params, state.ema, state.variables))
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]))


def _stop_if_not_finite(
    config: Any, values: dict[str, float], state: State, done: int, checkpoints: Checkpoints
) -> None:
    """Raises a UserError that names what is not finite: among the values given, or else in the state."""
    bad = [k for k, v in values.items() if not np.isfinite(v)]
    if not bad and (values or bool(_all_finite(state))):
        return
    with contextlib.suppress(UserError):  # the disk may be full as well
        checkpoints.wait()
    newest = checkpoints.latest()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        if not np.all(np.isfinite(parallel.fetch(leaf))):
            bad.append("params" + jax.tree_util.keystr(path))
            break
    good = "no checkpoint has been written yet" if newest is None else f"the newest checkpoint is from step {newest}"
    clip = "" if config.optimizer.clip_norm else ", or with --config.optimizer.clip_norm=1, which clips gradients"
    raise UserError(
        f"not finite at step {done}: {', '.join(bad)}; {good}; start afresh in another --workdir, with a smaller "
        f"--config.optimizer.learning_rate than {config.optimizer.learning_rate:g}{clip}"
    )


class StopRequests:
    """Turns the first stop signal into a request to save and stop; a second Ctrl-C acts at once.

    A signal that was ignored at the start stays ignored: SIGHUP under nohup, Ctrl-C in a background job of a script.
    """

    def __enter__(self) -> Callable[[], bool]:
        self._asked = False
        asking = [s for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]
        self._before = {s: signal.signal(s, self._ask) for s in asking}
        return lambda: self._asked

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = True
        if signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _headline(record: dict[str, Any], run: Run, start: int) -> str:
    devices, data, config = record["devices"], record["data"], record["config"]
    total = sum(row["parameters"] for rows in record["parameters"].values() for row in rows)
    spec = dataset.DataSpec.from_dict(data)
    shown = "points in the plane" if spec.kind == "points" else f"images of {'x'.join(map(str, spec.image_shape))}"
    frozen = record.get("pretrained", {}).get("parameters")
    beside = f", and {frozen:,} frozen ones of the first stage" if frozen else ""
    doing = f"resuming at step {start}" if start else "starting"
    return (
        f"{run.workdir}: {doing}\n"
        f"  data        {data['name']}, {spec.num_examples:,} {shown}\n"
        f"  parameters  {total:,} ({', '.join(record['parameters'])}){beside}\n"
        f"  batch       {config['batch_size']} = {record['processes']} process(es) x "
        f"{devices['count'] // record['processes']} {devices['platform']} device(s) x "
        f"{config['batch_size'] // devices['count']}"
    )


def _print_memory(update: Any, state: State) -> None:
    """Prints the memory of the state, and what a step needs in addition."""
    analysis = update.memory_analysis()
    memory = f"{parallel.bytes_per_device(state) / 2**20:,.0f} MiB of state"
    if analysis is not None:
        memory += f", {analysis.temp_size_in_bytes / 2**20:,.0f} MiB for a step (per device)"
    if jax.process_index() == 0:
        print(f"  memory      {memory}", flush=True)


def _timed(batches: Iterable[T], num: int, steps_per_call: int, say: Callable[[str], None]) -> Iterator[T]:
    """Yields the `num` batches of a run, and estimates its duration once a few calls have been timed.

    It times the run's own calls: trial calls on a copy of the state need memory that a large model does not leave.
    """
    moments: list[float] = []
    for batch in batches:
        yield batch
        if len(moments) < 8:
            moments.append(time.perf_counter())
            if len(moments) == 8:  # the first calls fill the queue; after that each batch waits for one call
                call = (moments[-1] - moments[3]) / 4
                step = f"{1000 * call / steps_per_call:,.1f} ms a step, measured"
                say(f"  time        about {_minutes(call * num)} ({step})")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds"


def _finished(run: Run, step: int, early: str) -> str:
    further = "a larger --config.eval.patience, or with 0" if early else f"--config.num_steps={2 * step}"
    return (
        f"{run.workdir} has finished at step {step}: {run.report_html}\n"
        f"{early[:1].upper()}{early[1:]}{'. ' * bool(early)}To train further, run the same command with {further}. "
        f"To start afresh, use another --workdir or delete {run.workdir}."
    )

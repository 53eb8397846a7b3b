"""`python -m gen_jax.sweep --config=<config> seed=0,1,2 optimizer.learning_rate=1e-3,2e-3`: one run per combination.

A sweep is a folder. Each run has a sub-folder, named after its values, and a process of its own. What has become of
the runs is in `sweep.json`, written anew whenever that changes; whether a run has finished, its own folder says. So the
same command continues after any interruption.

Like main.py this is a program. Experiments use its parts.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

from gen_jax import best, command, methods, stages, train
from gen_jax import config as configs
from gen_jax import search as searching
from gen_jax.compare import LEDGER
from gen_jax.method import UserError, counted
from gen_jax.report import duration
from gen_jax.run import InUseError, Run, directory, write_json, writing

LOGS = "logs"
_LONGEST = 150  # characters of a folder's name
_PAUSE = 0.2  # seconds between two looks at the processes
_PROGRAM = ("python", "-m", "gen_jax.main")

ABOUT = """\
Train one run for each combination of values. Example:

  python -m gen_jax.sweep --config=ddpm_mnist seed=0,1,2 optimizer.learning_rate=1e-3,2e-3 --config.num_steps=4000

Words without dashes are swept over, and the last one varies fastest. --config.<key>=<value> holds for every run. A
value that contains commas goes into brackets: network.multipliers=[1,2],[1,2,2]. The same command continues a sweep
that was interrupted: it resumes what was cut short, tries again what failed, and repeats nothing that has finished.

With --search, Optuna chooses the values of each run by the results of those before, from lists and from ranges:

  python -m gen_jax.sweep --config=ddpm_mnist:tiny optimizer.learning_rate=1e-4..1e-2:log network.channels=8,16 \\
      --search=20 --metric=frechet_distance
"""


class Trial(NamedTuple):
    """One run of a sweep.

    Attributes:
      name: of its folder.
      words: of its command line, from --config on and without --workdir.
      config: what these resolve to.
    """

    name: str
    words: tuple[str, ...]
    config: Any


class Place(NamedTuple):
    """Where the process of a run computes.

    Attributes:
      cores: the only ones that it may use; empty for no limit.
      gpu: number or name of the only GPU that it sees; empty for all of them.
    """

    cores: tuple[int, ...] = ()
    gpu: str = ""


class Process(Protocol):
    """What a sweep asks of a run's process: the part of `subprocess.Popen` that it uses."""

    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def split(text: str) -> list[str]:
    """Returns values that are separated by commas; those in brackets belong to a value.

    Example:
      >>> split("1e-3,2e-3"), split("[1,2],[1,2,2]")
      (['1e-3', '2e-3'], ['[1,2]', '[1,2,2]'])
    """
    return re.split(r",(?![^\[(]*[\])])", text)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Returns for each dotted key the shortest end of it that no other key has.

    Example:
      >>> short_names(["seed", "sample.seed", "optimizer.learning_rate"])
      {'seed': 'seed', 'sample.seed': 'sample.seed', 'optimizer.learning_rate': 'learning_rate'}
    """
    keys = list(keys)
    found = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[start:]) for start in reversed(range(len(parts)))]
        unique = (end for end in ends if not any(f".{each}".endswith(f".{end}") for each in keys if each != key))
        found[key] = next(unique, key)
    return found


def name_of(values: Mapping[str, Any]) -> str:
    """Returns the name of the folder of a run.

    Example:
      >>> name_of({"learning_rate": 0.001, "multipliers": (1, 2), "seed": 0})
      'learning_rate=0.001,multipliers=1x2,seed=0'
      >>> name_of({"name": "image_folder:/cats"})
      'name=image_folder_cats-a0751303'
    """
    whole = ",".join(f"{key}={_shown(value)}" for key, value in values.items())
    clean = re.sub(r"[^\w.,=+-]+", "_", whole, flags=re.ASCII)
    if clean == whole and len(whole) <= _LONGEST:
        return whole
    return f"{clean[:_LONGEST]}-{hashlib.sha256(whole.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(configs.as_text, value)) or "none"
    return configs.as_text(value) or "none"


def combinations(axes: Sequence[Sequence[str]], num: int | None = None, seed: int = 0) -> list[tuple[str, ...]]:
    """Returns one value of each axis, in all combinations: the last axis varies fastest.

    Args:
      axes: the values of each.
      num: draw so many of them without repeats; None takes them all.
      seed: of the draw. A larger `num` continues a smaller one.

    Raises:
      UserError: there are not that many.

    Example:
      >>> combinations([["a", "b"], ["1", "2"]])
      [('a', '1'), ('a', '2'), ('b', '1'), ('b', '2')]
    """
    total = math.prod(map(len, axes))
    if num is not None and num > total:
        raise UserError(f"--random={num}: there are only {counted(total, 'combination')} of these values")
    places: Iterable[int] = range(total)
    if num is not None:
        draw, drawn = random.Random(seed), dict[int, None]()
        while len(drawn) < num:
            drawn[draw.randrange(total)] = None
        places = drawn
    return [_combination(axes, place) for place in places]


def _combination(axes: Sequence[Sequence[str]], place: int) -> tuple[str, ...]:
    values = []
    for axis in reversed(axes):
        place, index = divmod(place, len(axis))
        values.append(axis[index])
    return tuple(reversed(values))


def trials_of(path: str, fixed: Sequence[str], words: Sequence[str], num: int | None, seed: int) -> list[Trial]:
    """Returns the runs of a sweep, whose configs are complete and checked.

    Args:
      path: of the config.
      fixed: `--config.<key>=<value>` words, of every run.
      words: `<key>=<value>,<value>`.
      num: see `combinations`.
      seed: see `combinations`.

    Raises:
      UserError: a mistake in any of them, or two that are equal.
    """
    base = methods.load(path)[2]
    axes = _axes(base, fixed, words)
    for key, text in axes:
        if searching.read_range(text):
            raise UserError(f"{key}={text} is a range: --search=<number of runs> chooses from it")
    found: dict[str, Trial] = {}
    for values in combinations([split(text) for _, text in axes], num, seed):
        trial = _trial(path, base, fixed, {key: value for (key, _), value in zip(axes, values, strict=True)})
        if trial.name in found:
            raise UserError(f"two of the runs would be {trial.name}: give each value once")
        found[trial.name] = trial
    return [*found.values()]


def _axes(base: Any, fixed: Sequence[str], words: Sequence[str]) -> list[tuple[str, str]]:
    """The key and the text of each word to sweep over; none is given twice."""
    axes = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"{word!r} has no values: write them as in seed=0,1,2 (see --help)")
        axes.append((key, text))
    keys = [key for key, _ in axes] + [word.partition("=")[0].removeprefix("--config.") for word in fixed]
    places = [methods.options(base).place(key) for key in keys]
    for key, place in zip(keys, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{key} is given more than once")
    return axes


def space_of(base: Any, path: str, fixed: Sequence[str], words: Sequence[str]) -> searching.Space:
    """Returns what a search chooses from. The arguments are those of `trials_of`, and the config of the path.

    Raises:
      UserError: a mistake in any of the words; a value of a list, or an end of a range, that the config refuses.
    """
    space = {key: searching.read_range(text) or split(text) for key, text in _axes(base, fixed, words)}
    ends = {
        key: list(map(str, values[:2])) if isinstance(values, searching.Range) else values
        for key, values in space.items()
    }
    first = {key: texts[0] for key, texts in ends.items()}
    for key, texts in ends.items():
        for text in texts:
            _trial(path, base, fixed, first | {key: text})
    return space


def _trial(path: str, base: Any, fixed: Sequence[str], texts: Mapping[str, str]) -> Trial:
    """The run of one combination: {key: text}."""
    words = [*fixed, *(f"--config.{key}={_unbracketed(text)}" for key, text in texts.items())]
    told = " ".join(f"{key}={text}" for key, text in texts.items())
    try:
        config = methods.override(base, words)
        methods.check(config)
    except UserError as error:
        lists = (word for word in fixed if "," in word and repr(word.partition("=")[2]) in str(error))
        hint = next((f"; to sweep over it, write {word.removeprefix('--config.')}" for word in lists), "")
        raise UserError(f"{told}: {error}{hint}") from error
    flat, options, short = configs.flatten(config), methods.options(config), short_names(texts)
    values = {key: flat[options.place(key)] for key in texts}
    for key, value in values.items():
        if isinstance(value, tuple) and _unbracketed(texts[key]) == texts[key] != "()":
            raise UserError(f"{key} is a list: put each of its values into brackets, as in {key}=[1,2],[1,2,2]")
    name = name_of({short[key]: value for key, value in values.items()})
    return Trial(name, (f"--config={path}", *words), stages.with_absolute_paths(config))


def _unbracketed(text: str) -> str:
    """A value without the brackets around it: a run's command line takes lists without them, too."""
    return text[1:-1] if re.fullmatch(r"\[.+\]|\(.+\)", text) else text


def is_finished(run: Run, config: Any) -> bool:
    """Returns whether a directory holds a finished run of this config.

    Raises:
      UserError: it holds one that was trained for more steps.
    """
    finished = run.finished_step or 0
    if finished > config.num_steps:
        raise UserError(
            f"{run.workdir} was trained for {finished:,} steps, but {config.num_steps:,} are asked for: delete it, or "
            "keep these runs in another folder"
        )
    if finished < config.num_steps and not best.stopped_early(config, best.scores_of(run, config, finished), finished):
        return False
    before = stages.with_absolute_paths(methods.stored(run.read_config()))
    return not configs.changes(before.to_dict(), stages.with_absolute_paths(config).to_dict())


class Ledger:
    """What has become of the runs of a sweep: the file `sweep.json`, which is written anew at each change.

    Attributes:
      runs: by name, a dict of `words` and `state`: "waiting", "in use" (by another process), "running", "finished",
        "failed" or "stopped". Where they are known, also `seconds`, over all starts that ended, and `code` and
        `message` of a failure.
    """

    def __init__(self, path: pathlib.Path, command: str):
        self._path, self._command = path, command
        self.runs: dict[str, dict[str, Any]] = {}
        try:
            self.runs = json.loads(path.read_text())["runs"] if path.is_file() else {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"cannot read {path} ({type(error).__name__}: {error}): delete it, and it is made anew from the runs"
            ) from error

    def note(self, trial: Trial, state: str, seconds: float = 0.0, **failure: Any) -> None:
        """Writes the new state of a run."""
        spent = self.runs.get(trial.name, {}).get("seconds", 0.0) + seconds
        known = {"words": list(trial.words), "state": state} | ({"seconds": round(spent, 1)} if spent else {})
        self.runs[trial.name] = known | failure
        write_json(self._path, {"command": self._command, "runs": self.runs})


def places(parallel: int, gpus: Sequence[str] = (), cores: Sequence[int] | None = None) -> list[Place]:
    """Returns the places of so many runs side by side: each has its share of the GPUs, or else of the cores.

    Processes that share all cores get in each other's way (docs/sweeps.md has a measurement).

    Args:
      parallel: number of runs.
      gpus: of the machine; a run gets one of them, several runs the same one if there are too few.
      cores: of the machine; None stands for those that this process may use. Too few are not divided.

    Example:
      >>> places(2, cores=[0, 1, 2, 3])
      [Place(cores=(0, 2), gpu=''), Place(cores=(1, 3), gpu='')]
      >>> places(2, gpus=["0", "1"])
      [Place(cores=(), gpu='0'), Place(cores=(), gpu='1')]
    """
    if gpus:
        return [Place(gpu=gpus[n % len(gpus)]) for n in range(parallel)]
    if cores is None:  # macOS and Windows have no such call
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not 1 < parallel <= len(cores):
        return [Place()] * parallel
    return [Place(cores=tuple(cores[n::parallel])) for n in range(parallel)]


def start_process(trial: Trial, folder: pathlib.Path, place: Place) -> Process:
    """Starts the process of a run. It appends what it prints to a file in `logs`."""
    path = log_of(trial, folder)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("ab")
    words = [sys.executable, *_PROGRAM[1:], *trial.words, f"--workdir={folder / trial.name}"]
    seen = {"CUDA_VISIBLE_DEVICES": place.gpu} if place.gpu else {}
    with log:  # in a session of its own: a terminal's Ctrl-C reaches only the sweep, which asks its runs to stop
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=os.environ | seen
        )
    if place.cores:
        with contextlib.suppress(OSError):  # it has ended already
            os.sched_setaffinity(process.pid, place.cores)
    return process


def log_of(trial: Trial, folder: pathlib.Path) -> pathlib.Path:
    """Returns the file of what a run prints."""
    return folder / LOGS / f"{trial.name}.log"


def reason(code: int, log: pathlib.Path) -> str:
    """Returns one line on why a process ended with an exit code other than 0: the last that it printed, if any."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    with contextlib.suppress(OSError):
        lines = log.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1].removeprefix("gen_jax: ") if lines else f"ended with code {code}"
    return f"ended with code {code}"


def is_free(run: Run) -> bool:
    """Returns whether no process trains in a directory: one may live on after its sweep was killed."""
    if not run.workdir.is_dir():
        return True
    try:
        with run.lock():
            return True
    except InUseError:
        return False


def seconds_left(ended: Sequence[tuple[int, float]], steps: Sequence[int], parallel: int) -> float:
    """Returns an estimate of the time that runs still take, side by side.

    Args:
      ended: (steps, seconds) of finished runs.
      steps: of each run that is left.
      parallel: how many run at a time.

    Example:
      >>> seconds_left([(100, 20.0), (100, 40.0)], [200, 200, 100], parallel=2)
      75.0
    """
    rate = sum(seconds for _, seconds in ended) / sum(each for each, _ in ended)
    return rate * sum(steps) / min(parallel, len(steps) or 1)


def train_all(
    trials: Sequence[Trial],
    folder: pathlib.Path,
    ledger: Ledger,
    places: Sequence[Place] = (Place(),),
    start: Callable[[Trial, pathlib.Path, Place], Process] = start_process,
) -> None:
    """Trains what has not finished, in order, and prints a line whenever a run starts or ends; passes over failures.

    Args:
      trials: the runs.
      folder: of their folders.
      ledger: of the sweep.
      places: of the runs side by side, at most one run in each.
      start: starts the process of a run.

    Raises:
      UserError: at the end, if any failed.
      SystemExit: after a stop signal, when all runs have stopped.
    """
    waiting = [trial for trial in trials if not is_finished(Run(folder / trial.name), trial.config)]
    for trial in trials:
        ledger.note(trial, "waiting" if trial in waiting else "finished")
    print(f"{folder}: {counted(len(trials), 'run')}, {len(trials) - len(waiting)} of them finished before", flush=True)
    runner = _Runner(folder, ledger, places, start, waiting)
    with train.StopRequests() as stopped:
        try:
            while (runner.waiting or runner.running) and not stopped():
                runner.start_more()
                time.sleep(_PAUSE)
                runner.collect()
            runner.stop()
        finally:  # after a second Ctrl-C, or a full disk
            for each in runner.running:
                each.process.kill()
    if left := sum(ledger.runs[trial.name]["state"] in ("waiting", "in use", "stopped") for trial in trials):
        command.end_as_stopped(f"stopped with {counted(left, 'run')} left; the same command continues")
    _raise_if_any_failed(trials, folder, ledger)


class _Running(NamedTuple):
    trial: Trial
    process: Process
    place: int  # index
    began: float


@dataclasses.dataclass
class _Runner:
    """The runs of a sweep that are still to end."""

    folder: pathlib.Path
    ledger: Ledger
    places: Sequence[Place]
    start: Callable[[Trial, pathlib.Path, Place], Process]
    waiting: list[Trial]
    running: list[_Running] = dataclasses.field(default_factory=list)
    ended: list[tuple[int, float]] = dataclasses.field(default_factory=list)  # steps and seconds of those that finished

    def start_more(self) -> None:
        """Starts as many of the waiting runs as there is room for."""
        for trial in self.waiting[:]:
            free = {*range(len(self.places))} - {each.place for each in self.running}
            if not free:
                return
            if is_free(Run(self.folder / trial.name)):
                self.waiting.remove(trial)
                self.ledger.note(trial, "running")
                print(f"{trial.name}: starts; its lines are in {log_of(trial, self.folder)}", flush=True)
                process = self.start(trial, self.folder, self.places[min(free)])
                self.running.append(_Running(trial, process, min(free), time.monotonic()))
            elif self.ledger.runs[trial.name]["state"] != "in use":
                self.ledger.note(trial, "in use")
                print(f"{trial.name}: another process trains there; it comes later", flush=True)

    def collect(self, stopped: bool = False) -> None:
        """Writes down and prints which runs have ended, and how."""
        for each in self.running[:]:
            if (code := each.process.poll()) is None:
                continue
            self.running.remove(each)
            seconds = time.monotonic() - each.began
            why = reason(code, log_of(each.trial, self.folder)) if code else ""
            if code == 0:
                state = "finished"
                self.ended.append((each.trial.config.num_steps, seconds))
            elif "is in use by" in why:  # by a process of a killed sweep, which began there just before
                state = "in use"
            else:
                state = "stopped" if stopped else "failed"
            if state in ("in use", "stopped"):
                self.waiting.insert(0, each.trial)
            self.ledger.note(
                each.trial, state, seconds, **({"code": code, "message": why} if state == "failed" else {})
            )
            told = f" ({why})" if state == "failed" else ""
            print(f"{each.trial.name}: {state} after {duration(seconds)}{told}; {self._left()}", flush=True)

    def stop(self) -> None:
        """Asks all runs to save and stop, and waits for them."""
        for each in self.running:
            each.process.terminate()
        while self.running:
            time.sleep(_PAUSE)
            self.collect(stopped=True)

    def _left(self) -> str:
        steps = [trial.config.num_steps for trial in (*self.waiting, *(each.trial for each in self.running))]
        time_left = (
            f", about {duration(seconds_left(self.ended, steps, len(self.places)))}" if self.ended and steps else ""
        )
        return f"{counted(len(steps), 'run')} left{time_left}"


class FailedError(UserError):
    """Runs of a sweep failed; all others ended well."""


def _raise_if_any_failed(trials: Sequence[Trial], folder: pathlib.Path, ledger: Ledger) -> None:
    failed = [trial for trial in trials if ledger.runs[trial.name]["state"] == "failed"]
    for trial in failed:
        entry = ledger.runs[trial.name]
        print(f"gen_jax: {trial.name} failed: {entry['message']}; see {log_of(trial, folder)}", file=sys.stderr)
    if failed:
        raise FailedError(f"{len(failed)} of {counted(len(trials), 'run')} failed; the same command tries them again")


def check(trials: Sequence[Trial], folder: pathlib.Path) -> list[bool]:
    """Returns whether each of the runs has finished.

    Raises:
      UserError: the folder of one holds other files, a run with another config, or one of more steps.
    """
    finished = []
    for trial in trials:
        run = Run(folder / trial.name)
        run.refuse_other_files()
        train.refuse_changes(run, trial.config)
        finished.append(is_finished(run, trial.config))
    return finished


def train_in(folder: pathlib.Path, trials: Sequence[Trial], line: str, places: Sequence[Place]) -> None:
    """Trains what has not finished, with the ledger of the folder; no other process may train there.

    Args:
      folder: of the runs' folders.
      trials: the runs.
      line: the command, which continues the sweep.
      places: of the runs side by side.

    Raises:
      UserError: another sweep trains there, or runs failed.
      SystemExit: after a stop signal, when all runs have stopped.
    """
    with Run(folder).lock():
        train_all(trials, folder, Ledger(folder / LEDGER, line), places)


def search(
    folder: pathlib.Path,
    flags: argparse.Namespace,
    fixed: Sequence[str],
    words: Sequence[str],
    line: str,
    places: Sequence[Place],
) -> None:
    """Runs a sweep whose values Optuna chooses, and prints the best run.

    Raises:
      UserError: see `space_of`, `searching.Search` and `searching.run`.
    """
    base = methods.load(flags.config)[2]
    space = space_of(base, flags.config, fixed, words)

    def made(texts: Mapping[str, str]) -> Trial:
        return _trial(flags.config, base, fixed, texts)

    def train_some(proposed: Sequence[Mapping[str, str]]) -> list[pathlib.Path | None]:
        trials = [made(texts) for texts in proposed]
        check(trials, folder)
        with contextlib.suppress(FailedError):
            train_all([*{trial.name: trial for trial in trials}.values()], folder, ledger, places)
        done = [ledger.runs[trial.name]["state"] == "finished" for trial in trials]
        return [folder / trial.name if good else None for trial, good in zip(trials, done, strict=True)]

    with Run(folder).lock():
        study = searching.Search(folder, space, flags.random_seed)
        ledger = Ledger(folder / LEDGER, line)
        best = folder / made(searching.run(study, flags.search, flags.metric, len(places), train_some)).name
    found = searching.score(best, flags.metric)
    print(f"best of {counted(study.num_ended, 'run')}: {found.name} {found.value:.4g} in {best}")


def main(argv: list[str]) -> None:
    """Runs a sweep.

    Raises:
      UserError: a user's mistake, or runs that failed.
    """
    flags, fixed, words = parse(argv)
    jax.config.update("jax_platforms", "cpu")  # of this process: an accelerator is for the runs
    name, variant, _ = methods.load(flags.config)
    folder = directory(flags.workdir or pathlib.Path("runs") / "-".join(filter(None, (name, variant, "sweep"))))
    if Run(folder).config_path.is_file():
        raise UserError(f"{folder} holds a run: choose another --workdir for the sweep")
    gpus = flags.gpus.split(",") if flags.gpus else []
    where = places(flags.parallel or len(gpus) or 1, gpus)
    line = shlex.join(["python", "-m", "gen_jax.sweep", *argv])
    if flags.search is not None:
        search(folder, flags, fixed, words, line, where)
        return
    trials = trials_of(flags.config, fixed, words, flags.random, flags.random_seed)
    finished = check(trials, folder)
    if flags.dry_run:
        for trial, done in zip(trials, finished, strict=True):
            command_line = shlex.join([*_PROGRAM, *trial.words, f"--workdir={folder / trial.name}"])
            print(f"{command_line}  # finished" if done else command_line)
        return
    train_in(folder, trials, line, where)
    print(f"to compare them: {shlex.join([*_PROGRAM, '--mode=compare', str(folder)])}")


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str], list[str]]:
    """Returns the flags, the words of every run, and those to sweep over.

    Raises:
      UserError: a flag that does not exist or has an invalid value, or nothing to sweep over.
    """
    parser = command.Parser(
        prog="python -m gen_jax.sweep",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage="%(prog)s --config=FILE[:VARIANT] KEY=VALUE,VALUE [KEY=VALUE,VALUE ...] [options]",
    )
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="as of gen_jax.main")
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder of the sweep; default: runs/<config>[-<variant>]-sweep"
    )
    parser.add_argument("--random", type=int, metavar="N", help="train N combinations drawn at random, instead of all")
    parser.add_argument("--random_seed", type=int, default=0, metavar="SEED", help="of the draw or search; default: 0")
    parser.add_argument("--search", type=int, metavar="N", help="let Optuna choose the values of N runs")
    parser.add_argument("--metric", metavar="NAME", help="of the report, to choose by: frechet_distance")
    parser.add_argument(
        "--parallel", type=int, metavar="N", help="runs side by side, each with its share of the cores; default: 1"
    )
    parser.add_argument(
        "--gpus", default="", metavar="0,1", help="each run sees one of these; as many run side by side"
    )
    parser.add_argument("--dry_run", action="store_true", help="check the configs and print the runs' commands")
    flags, rest = parser.parse_known_args(argv)
    fixed = [word for word in rest if word.startswith("--config.")]
    words = [word for word in rest if not word.startswith("-")]
    for word in rest:
        if word not in fixed and word not in words:
            parser.error(f"unknown argument {word!r}: values are written without dashes, as in seed=0,1,2")
    if not words:
        parser.error("nothing to sweep over: give values such as seed=0,1,2")
    if (flags.search is None) != (flags.metric is None):
        parser.error("--search=<number of runs> and --metric=<name> go together")
    if flags.search is not None and (flags.random is not None or flags.dry_run):
        parser.error(f"--search does not go with --{'dry_run' if flags.dry_run else 'random'}")
    for name in ("random", "parallel", "search"):
        if (number := getattr(flags, name)) is not None and number < 1:
            parser.error(f"--{name} is {number}; it must be at least 1")
    return flags, fixed, words


if __name__ == "__main__":
    command.run(main, "the same command continues")

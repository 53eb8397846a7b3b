"""One table for many variants of a model: runs that differ in training, and ways to sample from each, over seeds.

An experiment is an `Ablation`: words of the command line for every run, and a row for every way to sample. `main` does
the rest: it trains what is missing as a sweep, measures every row once, and writes table, figure and verdict.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import record, runs
from gen_jax import config as configs
from gen_jax import evaluate, judges, sample
from gen_jax.data import dataset
from gen_jax.figures.curve import Axis
from gen_jax.figures.markup import number
from gen_jax.method import DataSpec, UserError, counted
from gen_jax.run import Run, directory, write_bytes, write_json
from gen_jax.writers import read_metrics, training_seconds

BATCH = 250  # samples drawn at a time
Values = Mapping[str, float]
Found = dict[tuple[str, int], Values]
"""The metrics of each (row, seed)."""


class Row(NamedTuple):
    """One way to sample from one of the runs.

    Attributes:
      run: key of `Ablation.runs`.
      words: command line arguments in addition to the run's own config.
      seeds: measure only the first so many seeds, for a row that is dear; None measures all.
    """

    run: str
    words: tuple[str, ...] = ()
    seeds: int | None = None


def by_classifier(samples: judges.Samples, data: dataset.Dataset, config: Any) -> tuple[Values, Values]:
    """Returns the classifier's metrics of samples by their plain names, and those of as many real test images."""
    return plain(judges.judge_by_classifier(config, data, samples).rows, len(samples.images))


def plain(rows: Sequence[Mapping[str, Any]], num: int) -> tuple[Values, Values]:
    """Returns the metrics of `num` samples among the rows of a report by their plain names, and those of real images.

    Example:
      >>> row = {"name": "recall/classifier_2k", "value": 0.5, "reference": None}
      >>> plain([row, row | {"name": "recall/classifier_270", "reference": 0.9}], 2_000)
      ({'recall': 0.5}, {})
    """
    kept = {r["name"].partition("/")[0]: r for r in rows if r["name"].endswith(f"_{judges.short(num)}")}
    real = {name: row["reference"] for name, row in kept.items() if row["reference"] is not None}
    return {name: row["value"] for name, row in kept.items()}, real


def losses(model: sample.Model, data: dataset.Dataset) -> Values:
    """Returns the model's mean losses over held-out images by their plain names, such as `nll`."""
    found = evaluate.make_losses(model.config, model.method, data, model.mesh)(model.state)
    return {name.partition("/")[0]: value for name, (value, _) in found.items()}


def draw(model: sample.Model, spec: DataSpec, num: int) -> tuple[judges.Samples, float]:
    """Returns samples, drawn in batches, and images per second. Labels follow the shares of the training images; texts
    are the captions of test pictures.
    """
    texts = model.texts
    asked = evaluate.asked(model.method, spec, num) | ({} if texts is None else texts.conditions(num))
    condition = sample.conditions(model.method, model.spec, num, asked)
    generated, seconds, before = [], [], time.perf_counter()
    for images in model.batches(model.state, condition, 0, num):
        seconds.append((time.perf_counter() - before) / len(images))
        generated.append(images)
        before = time.perf_counter()
    captions = () if texts is None else texts.captions(num)
    samples = judges.Samples(np.concatenate(generated), condition.get("label"), evaluate.described(model), captions)
    return samples, 1 / statistics.median(seconds[1:] or seconds)  # the first batch compiles


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Returns mean, smallest and largest value.

    Example:
      >>> spread([1.0, 2.0, 6.0]), spread([2.0])
      ('3 (1 to 6)', '2')
    """
    told = [number(value, digits) for value in (statistics.fmean(values), min(values), max(values))]
    return told[0] if len(values) == 1 else f"{told[0]} ({told[1]} to {told[2]})"


def means(found: Found, measure: str) -> dict[str, float]:
    """Returns the mean of a measure over the seeds, by row.

    Example:
      >>> means({("a", 0): {"loss": 1.0}, ("a", 1): {"loss": 2.0}}, "loss")
      {'a': 1.5}
    """
    names = dict.fromkeys(name for name, _ in found)
    return {name: statistics.fmean(v[measure] for (each, _), v in found.items() if each == name) for name in names}


def lowest(found: Found) -> str:
    """Returns one line: the row with the lowest mean Frechet distance, and those whose seeds overlap with its seeds.

    Example:
      >>> distances = {("a", 0): 2.0, ("a", 1): 3.0, ("b", 0): 2.9, ("b", 1): 4.0, ("c", 0): 5.0, ("c", 1): 6.0}
      >>> lowest({key: {"frechet_distance": value} for key, value in distances.items()})
      'Lowest Frechet distance: a (2.5). Not apart from it over these seeds: b (3.45).'
    """
    values = means(found, "frechet_distance")
    best = min(values, key=values.__getitem__)
    worst_of_best = max(v["frechet_distance"] for (name, _), v in found.items() if name == best)
    close = [
        name
        for name in sorted(values, key=values.__getitem__)
        if name != best
        and min(v["frechet_distance"] for (each, _), v in found.items() if each == name) <= worst_of_best
    ]
    told = f"Lowest Frechet distance: {best} ({values[best]:.3g})."
    others = ", ".join(f"{name} ({values[name]:.3g})" for name in close)
    return f"{told} Not apart from it over these seeds: {others}." if close else told


def panels(*told: tuple[str, str, str]) -> Callable[[Found, Values, Mapping[str, np.ndarray]], str]:
    """Returns a figure, as SVG: samples, and (measure, title, label of the axis) side by side, one dot per seed."""

    def figure(found: Found, real: Values, shown: Mapping[str, np.ndarray]) -> str:
        drawn = [panel(found, real, *each) for each in told]
        return record.dots(drawn, shown, "the first, of seed 0", "real test images")

    return figure


QUALITY = ("frechet_distance", "Quality", "Frechet distance, left is better")
AGREEMENT = ("class_agreement", "Agreement", "with the class, right is better")
DIVERSITY = ("recall", "Diversity", "recall, right is better")
quality_and_diversity = panels(QUALITY, AGREEMENT, DIVERSITY)


def last_and_best(names: Mapping[str, str]) -> dict[str, Row]:
    """Returns two rows for each run, by its name in the table: of its last checkpoint, and of its best one.

    Example:
      >>> list(last_and_best({"DCGAN": "dcgan"}))
      ['DCGAN', 'DCGAN, best checkpoint']
    """
    kept = {"": (), ", best checkpoint": ("--config.sample.checkpoint=best",)}
    return {name + which: Row(run, words) for name, run in names.items() for which, words in kept.items()}


def panel(found: Found, real: Values, measure: str, title: str, told: str, log: bool = False) -> record.Panel:
    """Returns the values of one measure, a line of dots per row, with that of real data if it is known."""
    names = dict.fromkeys(name for name, _ in found)
    values = {name: [v[measure] for (each, _), v in found.items() if each == name] for name in names}
    every = [value for some in values.values() for value in some] + ([real[measure]] if measure in real else [])
    if log:
        return record.Panel(title, told, values, Axis(min(every) / 1.5, max(every) * 1.5, log=True), real.get(measure))
    room = 0.1 * (max(every) - min(every)) or 0.1
    return record.Panel(title, told, values, Axis(min(every) - room, max(every) + room), real.get(measure))


class Ablation(NamedTuple):
    """An experiment.

    Attributes:
      name: of its module, and of the folder of its results.
      about: one line.
      folder: of its runs, in runs/; experiments with the same runs share it.
      runs: words of each run in addition to `words`, by name.
      rows: by name, in the order of the table.
      words: of every run.
      config: file in configs/, with a variant if there is one.
      configs: those of the runs that have another one.
      measures: names of values in the table; `images_per_second` is that of sampling.
      measure: (samples, data, config) -> values, and those of real data.
      of_run: (its directory, model, data) -> more values, which need no samples.
      verdict: one line on the values.
      figure: (values of all rows and seeds, real values, first samples by row) -> SVG.
      seeds: number of seeds.
      num: samples per row.
    """

    name: str
    about: str
    folder: str
    runs: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, Row]
    words: tuple[str, ...]
    config: str = "ddpm_mnist.py"
    configs: Mapping[str, str] = types.MappingProxyType({})
    measures: tuple[str, ...] = ("frechet_distance", "class_agreement", "confident_share", "precision", "recall")
    measure: Callable[[judges.Samples, dataset.Dataset, Any], tuple[Values, Values]] = by_classifier
    of_run: Callable[[pathlib.Path, sample.Model, dataset.Dataset], Values] = lambda workdir, model, data: {}
    verdict: Callable[[Found], str] = lowest
    figure: Callable[[Found, Values, Mapping[str, np.ndarray]], str] = quality_and_diversity
    seeds: int = 3
    num: int = 2_000


def words(ablation: Ablation, run: str) -> list[str]:
    """Returns the command line of a run, without its seed and --workdir."""
    file = runs.ROOT / "configs" / ablation.configs.get(run, ablation.config)
    return [f"--config={file}", *ablation.words, *ablation.runs[run]]


def table(ablation: Ablation, found: Found, minutes: Mapping[tuple[str, int], float], real: Values) -> list[dict]:
    """Returns one row per way to sample, with mean, minimum and maximum over the seeds, and one row of real data."""
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        seeds = [seed for each, seed in found if each == name]
        only = ablation.rows[name].seeds
        told = {
            "": name if only is None else f"{name} ({counted(only, 'seed')})",
            "minutes of training": spread([minutes[ablation.rows[name].run, s] for s in seeds], 2),
        }
        measured = {m: [found[name, s][m] for s in seeds if m in found[name, s]] for m in ablation.measures}
        rows.append(told | {m.replace("_", " "): spread(v) if v else "" for m, v in measured.items()})
    known = {m.replace("_", " "): number(real[m], 3) if m in real else "" for m in ablation.measures}
    return [*rows, {"": "real test images", "minutes of training": ""} | known]


def parse(ablation: Ablation, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the flags of an experiment, and the words that go to every run.

    Raises:
      UserError: a number below 1.
    """
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{ablation.name}", description=ablation.about)
    parser.add_argument("--seeds", type=int, default=ablation.seeds, help="number of seeds, from 0")
    parser.add_argument(
        "--rows", nargs="+", choices=list(ablation.rows), default=list(ablation.rows), help="of the table"
    )
    parser.add_argument("--num", type=int, default=ablation.num, help=f"samples per row (default {ablation.num:,})")
    folder = pathlib.Path("runs") / ablation.folder
    parser.add_argument("--runs", type=directory, default=folder, help="folder of the runs")
    parser.add_argument("--parallel", type=int, default=1, help="runs side by side (default 1)")
    parser.add_argument("--out", type=directory, default=record.RESULTS / ablation.name, help="of table and figure")
    flags, more = parser.parse_known_args(argv)
    if min(flags.seeds, flags.num, flags.parallel) < 1:
        raise UserError("--seeds, --num and --parallel must be at least 1")
    return flags, more


def measured(ablation: Ablation, workdir: pathlib.Path, name: str, num: int, steps: int) -> dict[str, Any]:
    """Returns what was measured of a row: taken from the run's folder, or measured and stored there.

    It holds `values`, `real` and the `first` ten samples.
    """
    row = ablation.rows[name]
    slug = "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
    path = workdir / f"{ablation.name}-{slug}-{num}.json"
    made = {"words": list(row.words), "num": num, "step": steps}
    if path.is_file() and (stored := json.loads(path.read_text()))["made"] == made:
        return stored | {"first": np.array(stored["first"], np.uint8)}
    more = (f"--config.sample.num={num}", f"--config.sample.batch_size={min(BATCH, num)}")
    model = sample.load(workdir, (*row.words, *more), configs.JUDGING)
    data = dataset.load(model.config.data)
    samples, speed = draw(model, data.spec, num)
    values, real = ablation.measure(samples, data, model.config)
    values, first = {**values, **ablation.of_run(workdir, model, data), "images_per_second": speed}, samples.images[:10]
    write_json(path, {"made": made, "values": values, "real": dict(real), "first": first.tolist()})
    return {"values": values, "real": real, "first": first}


def main(ablation: Ablation, argv: Sequence[str]) -> None:
    """Trains and measures what is missing, and writes table, figure and verdict.

    Raises:
      UserError: a user's mistake.
    """
    flags, more = parse(ablation, argv)
    line, folder = record.command(ablation.name, argv), flags.runs.absolute()
    asked = [
        (name, ablation.rows[name].run, seed)
        for seed in range(flags.seeds)  # all of one seed first, so that early results are comparable
        for name in flags.rows
        if seed < (ablation.rows[name].seeds or flags.seeds)
    ]
    lines = {f"{run}-seed{n}": [*words(ablation, run), f"--config.seed={n}", *more] for _, run, n in asked}
    runs.train(folder, lines, line, flags.parallel)

    found, real, minutes, shown = {}, {}, {}, {}
    for name, run, seed in asked:
        workdir = folder / f"{run}-seed{seed}"
        stages = [each for each in (workdir / "pretrained", workdir) if Run(each).metrics.is_file()]
        minutes[run, seed] = sum(training_seconds(read_metrics(each)) for each in stages) / 60
        one = measured(ablation, workdir, name, flags.num, runs.resolve(lines[workdir.name]).num_steps)
        found[name, seed], real = one["values"], one["real"]
        shown.setdefault(name, one["first"])
        told = ", ".join(f"{m} {number(one['values'][m])}" for m in ablation.measures if m in one["values"])
        print(f"{name}, seed {seed}: {told}", flush=True)
    flags.out.mkdir(parents=True, exist_ok=True)
    write_bytes(flags.out / f"{ablation.name}.svg", ablation.figure(found, real, shown).encode())
    report = {
        "command": line,
        "verdict": ablation.verdict(found),
        "words": {"every run": [*ablation.words, *more]} | {name: list(own) for name, own in ablation.runs.items()},
        "minutes": {f"{run}, seed {seed}": value for (run, seed), value in minutes.items()},
        "values": {f"{name}, seed {seed}": dict(values) for (name, seed), values in found.items()},
        "real": dict(real),
        "versions": record.versions(),
    }
    seeds = "1 seed" if flags.seeds == 1 else f"{flags.seeds} seeds: mean (smallest to largest)"
    record.write(flags.out, report, {f"{flags.num:,} samples a row, {seeds}": table(ablation, found, minutes, real)})

"""Quality, speed and diversity of a VAE, a GAN and a diffusion model on the same digits, trained for equally long.

    python -m experiments.trilemma    # hours on two cores, mostly the 1,000 steps of ancestral sampling

Generative models are said to have only two of the three (Xiao et al. 2022). Each family is trained with a config of
this project, with a number of steps chosen to take about five minutes on two cores; the table reports the actual time.
Then 2,000 samples per row are judged by the same classifier. Speed is that of the compiled sampler on the available
device. Runs are in runs/trilemma; finished training and measurements are not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import ablation, record, runs
from gen_jax import command, evaluate, judges, sample
from gen_jax.data import dataset
from gen_jax.figures.curve import Axis
from gen_jax.figures.markup import number
from gen_jax.method import UserError
from gen_jax.run import Run, directory, write_bytes, write_json
from gen_jax.writers import read_metrics, training_seconds

NAME = "trilemma"
NUM_SAMPLES = 2_000  # per row: more from the slowest sampler take hours
BATCH = 100  # samples drawn at a time


class Family(NamedTuple):
    """A model and its training.

    Attributes:
      config: file in configs/.
      num_steps: chosen to take about five minutes on two cores; on other machines, use --vae_steps and the like.
    """

    config: str
    num_steps: int


class Row(NamedTuple):
    """One way to sample.

    Attributes:
      family: key of FAMILIES.
      words: command line arguments in addition to the run's own config.
    """

    family: str
    words: tuple[str, ...] = ()


FAMILIES = {
    "VAE": Family("vae_mnist_dense", 30_000),
    "GAN": Family("cgan_mnist", 4_000),
    "DDPM": Family("ddpm_mnist", 3_000),
}
ROWS = {
    "VAE": Row("VAE"),
    "GAN": Row("GAN"),
    "DDPM, ancestral, 1,000 steps": Row(
        "DDPM", ("--config.sample.sampler=ancestral", "--config.sample.num_steps=1000")
    ),
    "DDPM, DDIM, 50 steps": Row(
        "DDPM", ("--config.sample.sampler=ddim", "--config.sample.sampler.eta=0", "--config.sample.num_steps=50")
    ),
    "DDPM, DDIM, 10 steps": Row(
        "DDPM", ("--config.sample.sampler=ddim", "--config.sample.sampler.eta=0", "--config.sample.num_steps=10")
    ),
}
QUALITY, SPEED, DIVERSITY = "frechet_distance", "images_per_second", "recall"
MEASURES = (QUALITY, "precision", SPEED, DIVERSITY, "coverage")
REAL = "real test images"
NUM_SHOWN = 10  # samples of a row, in the figure


class Measured(NamedTuple):
    """The metrics of samples, and, where possible, of equally many real test images."""

    values: Mapping[str, float]
    real: Mapping[str, float]


def words(family: str, seed: int, num_steps: int, more: Sequence[str] = ()) -> list[str]:
    """Returns the command line of one run, without its --workdir.

    Example:
      >>> words("GAN", 1, 3000)[1:]
      ['--config.num_steps=3000', '--config.seed=1']
    """
    file = runs.ROOT / "configs" / f"{FAMILIES[family].config}.py"
    return [f"--config={file}", f"--config.num_steps={num_steps}", f"--config.seed={seed}", *more]


def measure(workdir: pathlib.Path, row: Row, data: dataset.Dataset, num: int) -> Measured:
    """Returns the metrics of `num` samples of a run by name, and images_per_second."""
    more = (f"--config.sample.num={num}", f"--config.sample.batch_size={min(BATCH, num)}")
    model = sample.load(workdir, (*row.words, *more))
    generated, seconds = [], []
    condition = sample.conditions(model.method, model.spec, num, evaluate.asked(model.method, data.spec, num))
    before = time.perf_counter()
    for images in model.batches(model.state, condition, 0, num):
        seconds.append((time.perf_counter() - before) / len(images))
        generated.append(images)
        before = time.perf_counter()
    samples = judges.Samples(np.concatenate(generated), condition.get("label"), evaluate.described(model))
    values, real = ablation.by_classifier(samples, data, model.config)
    speed = 1 / statistics.median(seconds[1:] or seconds)  # the first batch compiles
    return Measured({**values, SPEED: speed}, real)


def first_samples(workdir: pathlib.Path, row: Row) -> np.ndarray:
    """Returns the first samples of a run, uint8 [NUM_SHOWN, H, W, C]; they do not depend on the number of samples."""
    return sample.load(workdir, row.words).sample(NUM_SHOWN)


def remembered(path: pathlib.Path, made: Mapping[str, Any]) -> Measured | None:
    """Returns earlier measurements under the same conditions, or None."""
    if not path.is_file():
        return None
    stored = json.loads(path.read_text())
    return Measured(stored["values"], stored["real"]) if stored["made"] == made else None


def table(
    found: Mapping[tuple[str, int], Mapping[str, float]],
    minutes: Mapping[tuple[str, int], float],
    real: Mapping[str, float],
) -> list[dict]:
    """Returns one row per way to sample, with mean, minimum and maximum over the seeds, and one row of real data."""
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        seeds = [seed for each, seed in found if each == name]
        shown = {
            "model": name,
            "minutes of training": ablation.spread([minutes[ROWS[name].family, s] for s in seeds], 2),
        }
        rows.append(
            shown | {m.replace("_", " "): ablation.spread([found[name, s][m] for s in seeds]) for m in MEASURES}
        )
    known = {m.replace("_", " "): number(real[m], 3) if m in real else "" for m in MEASURES}
    return [*rows, {"model": REAL, "minutes of training": ""} | known]


def verdict(found: Mapping[tuple[str, int], Mapping[str, float]]) -> str:
    """Returns one line: the best way to sample in each of the three categories, by means over the seeds.

    Example:
      >>> one = {"frechet_distance": 2.0, "images_per_second": 10.0, "recall": 0.8}
      >>> verdict({("GAN", 0): one, ("VAE", 0): one | {"recall": 0.9}})
      'Quality: GAN (Frechet distance 2). Speed: GAN (10 images/s). Diversity: VAE (recall 0.9). No row leads in all.'
    """
    names = list(dict.fromkeys(name for name, _ in found))
    means = {
        name: {m: statistics.fmean(v[m] for (each, _), v in found.items() if each == name) for m in found[name, 0]}
        for name in names
    }
    best = min(names, key=lambda name: means[name][QUALITY])
    fast = max(names, key=lambda name: means[name][SPEED])
    wide = max(names, key=lambda name: means[name][DIVERSITY])
    told = (
        f"Quality: {best} (Frechet distance {number(means[best][QUALITY], 3)}). "
        f"Speed: {fast} ({number(means[fast][SPEED], 3)} images/s). "
        f"Diversity: {wide} (recall {number(means[wide][DIVERSITY], 3)})."
    )
    return told + (" One row leads in all three." if best == fast == wide else " No row leads in all.")


def figure(
    found: Mapping[tuple[str, int], Mapping[str, float]], real: Mapping[str, float], shown: Mapping[str, np.ndarray]
) -> str:
    """Returns samples and the three metrics side by side, one dot per seed, as SVG; dashed lines mark real data."""
    names = list(dict.fromkeys(name for name, _ in found))

    def values(measure: str) -> dict[str, list[float]]:
        return {name: [v[measure] for (each, _), v in found.items() if each == name] for name in names}

    def ends(measure: str) -> tuple[float, float]:
        every = [value for some in values(measure).values() for value in some]
        every += [real[measure]] if measure in real else []
        return min(every), max(every)

    def around(measure: str) -> Axis:
        low, high = ends(measure)
        return Axis(low / 1.5, high * 1.5, log=True)

    lowest = max(0.0, math.floor(10 * ends(DIVERSITY)[0] - 0.5) / 10)
    panels = [
        record.Panel(
            "Quality", "Frechet distance, left is better", values(QUALITY), around(QUALITY), real.get(QUALITY)
        ),
        record.Panel("Speed", "images/s, right is better", values(SPEED), around(SPEED)),
        record.Panel("Diversity", "recall, right is better", values(DIVERSITY), Axis(lowest, 1.0), real.get(DIVERSITY)),
    ]
    return record.dots(panels, shown, "the first, of seed 0", REAL)


def main(argv: list[str]) -> None:
    """Trains and measures what is missing, and writes table, figure and verdict.

    Raises:
      UserError: a user's mistake.
    """
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{NAME}", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="ways to sample")
    for name, family in FAMILIES.items():
        parser.add_argument(
            f"--{name.lower()}_steps",
            type=int,
            default=family.num_steps,
            help=f"training steps (default {family.num_steps:,})",
        )
    parser.add_argument("--num", type=int, default=NUM_SAMPLES, help=f"samples per row (default {NUM_SAMPLES:,})")
    parser.add_argument("--runs", type=directory, default=pathlib.Path("runs") / NAME, help="folder of the runs")
    parser.add_argument("--out", type=directory, default=record.RESULTS / NAME, help="folder of table and figure")
    flags, more = parser.parse_known_args(argv)
    if flags.seeds < 1 or flags.num < 1:
        raise UserError("--seeds and --num must be at least 1")
    found, real, minutes, stored, shown = {}, {}, {}, {}, {}
    for seed in range(flags.seeds):  # all of one seed first, so that early results are comparable
        for name in flags.rows:
            row = ROWS[name]
            workdir = flags.runs.absolute() / f"{row.family.lower()}-seed{seed}"
            line = words(row.family, seed, getattr(flags, f"{row.family.lower()}_steps"), more)
            runs.train(workdir, line)
            minutes[row.family, seed] = training_seconds(read_metrics(workdir)) / 60
            stored[row.family] = Run(workdir).read_config()
            path = workdir / f"{NAME}-{'-'.join(name.lower().replace(',', '').split())}.json"
            made = {"words": list(row.words), "num": flags.num, "step": runs.resolve(line).num_steps}
            measured = remembered(path, made)
            if measured is None:
                measured = measure(workdir, row, dataset.load(runs.resolve(line).data), flags.num)
                write_json(path, {"made": made, "values": measured.values, "real": measured.real})
            found[name, seed], real = measured
            if seed == 0:
                shown[name] = first_samples(workdir, row)
            print(
                f"{name}, seed {seed}: {', '.join(f'{m} {number(found[name, seed][m])}' for m in MEASURES)}", flush=True
            )
    flags.out.mkdir(parents=True, exist_ok=True)
    write_bytes(flags.out / "trilemma.svg", figure(found, real, shown).encode())
    report = {
        "command": record.command(NAME, argv),
        "verdict": verdict(found),
        "configs": {family: one["config"] for family, one in stored.items()},
        "data": next(iter(stored.values()))["data"],
        "minutes": {f"{family}, seed {seed}": value for (family, seed), value in minutes.items()},
        "values": {f"{name}, seed {seed}": values for (name, seed), values in found.items()},
        "real": real,
        "versions": record.versions(),
    }
    seeds = "1 seed" if flags.seeds == 1 else f"{flags.seeds} seeds: mean (smallest to largest)"
    record.write(flags.out, report, {f"{flags.num:,} samples a row, {seeds}": table(found, minutes, real)})


if __name__ == "__main__":
    command.run(main, "the same command resumes from here")

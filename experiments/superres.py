"""Photographs made four times as large: bicubic interpolation, SRResNet, SRGAN and SR3, on pictures of other sets.

    python -m experiments.superres --photos=<folder such as T91> --test=<folder such as Set5>

Three seeds of SRGAN on --photos, each with the SRResNet that it continues; one of SR3, the diffusion model. Pictures of
--test are made smaller as for published results. SRResNet and SRGAN make whole pictures larger; SR3 draws pictures of
one size, so there is a second table, of the central crop of each picture. Runs are in runs/superres; what is finished
is not repeated. Arguments such as --config.batch_size=8 apply to every run.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

import gen_jax
from experiments import record, runs
from experiments.ablation import spread
from gen_jax import command, sample
from gen_jax.data import bicubic, image_folder
from gen_jax.figures.grid import grid, save_png
from gen_jax.method import UserError, counted
from gen_jax.metrics import upscaled
from gen_jax.run import Run, directory
from gen_jax.writers import read_metrics, training_seconds

NAME = "superres"
FACTOR = 4
MEASURES = tuple(upscaled.name_of(measure, FACTOR) for measure in ("psnr", "ssim", "sharpness"))
PSNR, _, SHARPNESS = MEASURES
RUNS = {"srgan": ("srgan_t91.py:small",), "sr3": ("sr3_t91.py:small",)}
ROWS = ("bicubic", "SRResNet", "SRGAN", "SR3")
SEEDS = {"sr3": 1}  # runs that have fewer seeds than --seeds
SHOWN = 5  # pictures of the figure

Found = dict[tuple[str, int], Mapping[str, float]]
"""The measures of each (row, seed), means over the pictures."""


def lines_of(photos: pathlib.Path, seeds: int, more: Sequence[str]) -> dict[str, list[str]]:
    """Returns the command line of each run, by the name of its folder."""
    return {
        f"{run}-seed{seed}": [
            f"--config={runs.ROOT / 'configs' / words[0]}", *words[1:], f"--config.data.name=image_folder:{photos}",
            f"--config.seed={seed}", *more,
        ]
        for seed in range(seeds)
        for run, words in RUNS.items()
        if seed < SEEDS.get(run, seeds)
    }  # fmt: skip


def pictures_of(folder: pathlib.Path) -> list[np.ndarray]:
    """Returns the pictures of a folder in colour, uint8 [H, W, 3], without the last rows and columns that the factor
    does not divide.

    Raises:
      UserError: there are none, or one cannot be read.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in image_folder.SUFFIXES)
    if not files:
        raise UserError(f"--test={folder} holds no pictures")
    found = []
    for file in files:
        picture = image_folder.read_file(file, 3)
        if isinstance(picture, str):
            raise UserError(f"cannot read {file}: it {picture}")
        height, width = (length // FACTOR * FACTOR for length in picture.shape[:2])
        found.append(picture[:height, :width])
    return found


def central(picture: np.ndarray, side: int) -> np.ndarray:
    """Returns the central square of a picture; its corner lies on a multiple of the factor.

    Raises:
      UserError: the picture is smaller.
    """
    height, width = picture.shape[:2]
    if min(height, width) < side:
        raise UserError(f"a picture of --test has {width}x{height} pixels, and crops have {side}x{side}: leave it out")
    top, left = ((length - side) // 2 // FACTOR * FACTOR for length in (height, width))
    return picture[top : top + side, left : left + side]


def measured(truths: Sequence[np.ndarray], made: Sequence[np.ndarray]) -> dict[str, float]:
    """Returns the means of `upscaled.compared` over pictures."""
    each = [
        upscaled.compared(jnp.asarray(truth[None]), jnp.asarray(one[None]), FACTOR)
        for truth, one in zip(truths, made, strict=True)
    ]
    return {name: float(np.mean([float(values[name][0]) for values in each])) for name in MEASURES}


def enlargers(folder: pathlib.Path, seed: int) -> dict[str, sample.Model]:
    """Returns the models of a seed, by row."""
    srgan = folder / f"srgan-seed{seed}"
    places = {"SRResNet": srgan / "pretrained", "SRGAN": srgan}
    if seed < SEEDS["sr3"]:
        places["SR3"] = folder / f"sr3-seed{seed}"
    return {name: gen_jax.load(place) for name, place in places.items()}


def made_by(name: str, model: sample.Model | None, smalls: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns what a row makes of small pictures, which have one size if it is SR3."""
    if model is None:
        return [bicubic.enlarged(small, FACTOR) for small in smalls]
    if name == "SR3":
        return [*model.sample(condition={"small": np.stack(smalls)})]
    return [model.upscale(small[None])[0] for small in smalls]


def verdict(found: Found) -> str:
    """Returns one line: what SRResNet gains on bicubic interpolation, and whether SRGAN is sharper at a lower PSNR.

    Example:
      >>> def values(psnr, sharpness): return {PSNR: psnr, SHARPNESS: sharpness}
      >>> rows = {"bicubic": values(28.0, 50.0), "SRResNet": values(29.5, 80.0), "SRGAN": values(29.0, 200.0)}
      >>> verdict({(name, 0): each for name, each in rows.items()})
      'SRResNet: 1.50 dB above bicubic (1.50 to 1.50). SRGAN: lower PSNR and sharper than SRResNet in 1 of 1 seeds.'
    """
    seeds = sorted({seed for _, seed in found})
    gains = [found["SRResNet", seed][PSNR] - found["bicubic", seed][PSNR] for seed in seeds]
    traded = sum(
        found["SRGAN", seed][PSNR] < found["SRResNet", seed][PSNR]
        and found["SRGAN", seed][SHARPNESS] > found["SRResNet", seed][SHARPNESS]
        for seed in seeds
    )
    return (
        f"SRResNet: {np.mean(gains):.2f} dB above bicubic ({min(gains):.2f} to {max(gains):.2f}). SRGAN: lower PSNR "
        f"and sharper than SRResNet in {traded} of {len(seeds)} seeds."
    )


def table(found: Found, minutes: Mapping[tuple[str, int], float]) -> list[dict[str, Any]]:
    """Returns one row per way to make pictures larger: means over the pictures, their mean and range over the seeds."""
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        seeds = [seed for each, seed in found if each == name]
        spent = [minutes[name, seed] for seed in seeds if (name, seed) in minutes]
        few = len(seeds) < len({seed for _, seed in found})
        told = {
            "": f"{name} ({counted(len(seeds), 'seed')})" if few else name,
            "minutes of training": spread(spent, 2) if spent else "",
        }
        rows.append(told | {m: spread([found[name, seed][m] for seed in seeds], 4) for m in MEASURES})
    return rows


def minutes_of(workdir: pathlib.Path) -> float:
    """Returns the minutes of training of a run."""
    return training_seconds(read_metrics(workdir)) / 60 if Run(workdir).metrics.is_file() else 0.0


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the flags, and the words of every run.

    Raises:
      UserError: a number below 1.
    """
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{NAME}", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--photos", type=directory, required=True, help="folder of pictures to train on")
    parser.add_argument("--test", type=directory, required=True, help="folder of pictures to be judged by")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--parallel", type=int, default=1, help="runs side by side (default 1)")
    parser.add_argument("--runs", type=directory, default=pathlib.Path("runs") / NAME, help="folder of the runs")
    parser.add_argument("--out", type=directory, default=record.RESULTS / NAME, help="folder of tables and figure")
    flags, more = parser.parse_known_args(argv)
    if min(flags.seeds, flags.parallel) < 1:
        raise UserError("--seeds and --parallel must be at least 1")
    return flags, more


def main(argv: list[str]) -> None:
    """Trains what is missing, and writes tables, figure and verdict.

    Raises:
      UserError: a user's mistake.
    """
    flags, more = parse(argv)
    line, folder, pictures = record.command(NAME, argv), flags.runs.absolute(), pictures_of(flags.test)
    lines = lines_of(flags.photos.absolute(), flags.seeds, more)
    side = runs.resolve(next(iter(lines.values()))).data.crop
    crops = [central(picture, side) for picture in pictures]
    runs.train(folder, lines, line, flags.parallel)

    whole, part, minutes, shown = {}, {}, {}, {}
    for seed in range(flags.seeds):
        minutes["SRResNet", seed] = minutes_of(folder / f"srgan-seed{seed}" / "pretrained")
        minutes["SRGAN", seed] = minutes["SRResNet", seed] + minutes_of(folder / f"srgan-seed{seed}")
        if seed < SEEDS["sr3"]:
            minutes["SR3", seed] = minutes_of(folder / f"sr3-seed{seed}")
        for name, model in ({"bicubic": None} | enlargers(folder, seed)).items():
            made = made_by(name, model, [bicubic.reduced(crop, FACTOR) for crop in crops])
            part[name, seed] = measured(crops, made)
            shown.setdefault(name, made[:SHOWN])
            if name != "SR3":
                whole[name, seed] = measured(
                    pictures, made_by(name, model, [bicubic.reduced(picture, FACTOR) for picture in pictures])
                )
    write(flags.out, line, lines, whole, part, minutes, shown, crops, len(pictures))


def write(
    out: pathlib.Path,
    line: str,
    lines: Mapping[str, Sequence[str]],
    whole: Found,
    part: Found,
    minutes: Mapping[tuple[str, int], float],
    shown: Mapping[str, Sequence[np.ndarray]],
    crops: Sequence[np.ndarray],
    num: int,
) -> None:
    """Writes the results: whole pictures and central crops each as a table, and the crops of the first seed."""
    columns = [*shown.values(), crops[:SHOWN]]
    images = np.stack([np.stack(column) for column in columns], axis=1).reshape(-1, *crops[0].shape)
    out.mkdir(parents=True, exist_ok=True)
    words = f"From left to right: {', '.join(shown)}, truth; central crops, four times as large, seed 0"
    save_png(out / "crops.png", grid(images, len(columns)), words)
    side = crops[0].shape[0]
    report = {
        "command": line,
        "verdict": verdict(whole),
        "words": {name: list(words) for name, words in lines.items()},
        "minutes": {f"{name}, seed {seed}": value for (name, seed), value in minutes.items()},
        "whole": {f"{name}, seed {seed}": dict(values) for (name, seed), values in whole.items()},
        "crops": {f"{name}, seed {seed}": dict(values) for (name, seed), values in part.items()},
        "versions": record.versions(),
    }
    tables = {
        f"Whole pictures ({num}), mean over them": table(whole, minutes),
        f"Their central {side}x{side} pixels": table(part, minutes),
    }
    record.write(out, report, tables)


if __name__ == "__main__":
    command.run(main, "the same command resumes from here")

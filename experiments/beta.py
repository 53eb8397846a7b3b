"""The effect of the KL weight: beta-VAEs on dSprites at beta 1, 8 and 20 (Higgins et al. 2017).

    python -m experiments.beta

Each run uses configs/beta_vae_dsprites.py:dense and has a directory under runs/beta; finished runs are not repeated,
and interrupted runs continue. The table compares MIG with the values of a report that specifies neither network, epochs
nor bins: only the order is comparable. `--full` uses `:full`, with the network, learning rate and 300,000 steps of
Locatello et al. 2019. Arguments such as --config.num_steps=2000 apply to every run.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from experiments import record, runs
from gen_jax import command, methods
from gen_jax.data import dataset
from gen_jax.figures.curve import Axis
from gen_jax.figures.grid import grid, save_png
from gen_jax.figures.pictures import load_picture
from gen_jax.method import Picture, UserError
from gen_jax.metrics.disentanglement import require_factors
from gen_jax.run import Run, directory, write_bytes

NAME = "beta"
BETAS = (1, 8, 20)
REPORTED: dict[float, float] = {1: 0.001, 8: 0.1431, 20: 0.3764}  # MIG in the report, which omits its settings
Found: TypeAlias = dict[tuple[float, int], dict[str, float]]
"""The metrics of each run, by (beta, seed)."""
CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "beta_vae_dsprites.py"


def words(beta: float, seed: int, full: bool, more: Sequence[str] = ()) -> list[str]:
    """Returns the command line of one run, without its --workdir.

    Example:
      >>> words(8, 0, full=True)[1:]
      ['--config.vae.beta=8', '--config.seed=0']
    """
    variant = "full" if full else "dense"  # on two cores, dense steps take a fraction of the time
    return [f"--config={CONFIG}:{variant}", f"--config.vae.beta={beta}", f"--config.seed={seed}", *more]


def measured(workdir: pathlib.Path) -> dict[str, float]:
    """Returns the metrics of a finished run by name, without their protocols.

    Raises:
      UserError: the run has no MIG.
    """
    rows = json.loads(Run(workdir).report_json.read_text())["metrics"]
    values = {row["name"].partition("/")[0]: row["value"] for row in rows}
    if "mig" not in values:
        raise UserError(f"{workdir} has no MIG in its report.json: --mode=eval measures it")
    return values


def table(found: Found) -> list[dict[str, Any]]:
    """Returns one row per beta, from the metrics of each (beta, seed)."""
    rows = []
    for beta in sorted({beta for beta, _ in found}):
        runs = [values for (each, _), values in sorted(found.items()) if each == beta]
        migs = [values["mig"] for values in runs]
        rows.append(
            {
                "beta": beta,
                "MIG, mean": float(np.mean(migs)),
                "each seed": ", ".join(f"{value:.3f}" for value in migs),
                "MIG reported": REPORTED.get(beta, ""),
                "reconstruction, nats": _mean(runs, "training_reconstruction"),
                "KL, nats": _mean(runs, "training_kl"),
                "active units": _mean(runs, "active_units"),
                "SAP, correlation": _mean(runs, "sap_correlation"),
            }
        )
    return rows


def _mean(runs: Sequence[dict[str, float]], name: str) -> float:
    return float(np.mean([values[name] for values in runs]))


def verdict(found: Found) -> str:
    """Returns one line: the number of seeds in which MIG rises from the smallest beta to the best of the larger ones.

    Example:
      >>> verdict({(1, 0): {"mig": 0.1}, (8, 0): {"mig": 0.2}, (1, 1): {"mig": 0.1}, (8, 1): {"mig": 0.05}})
      'MIG rises from beta 1 to beta 8 in 1 of 2 seeds; its means are 0.100, 0.125 at beta 1, 8.'
    """
    betas, seeds = sorted({beta for beta, _ in found}), sorted({seed for _, seed in found})
    first, *larger = betas
    rises = sum(max(found[beta, seed]["mig"] for beta in larger) > found[first, seed]["mig"] for seed in seeds)
    means = ", ".join(f"{np.mean([found[beta, seed]['mig'] for seed in seeds]):.3f}" for beta in betas)
    to = " or ".join(f"{beta:g}" for beta in larger)
    return (
        f"MIG rises from beta {first:g} to beta {to} in {rises} of {len(seeds)} seeds; its means are {means} at beta "
        f"{', '.join(f'{beta:g}' for beta in betas)}."
    )


def figure(found: Found) -> str:
    """Returns MIG over beta, one line per seed, as SVG."""
    betas = sorted({beta for beta, _ in found})
    lines = [
        record.Line(f"seed {seed}", np.array(betas), np.array([found[beta, seed]["mig"] for beta in betas]))
        for seed in sorted({seed for _, seed in found})
    ]
    top = max(values["mig"] for values in found.values())
    return record.plot(lines, "beta", "MIG", Axis(float(betas[0]), float(betas[-1])), Axis(0.0, 1.1 * top))


def traversals(workdirs: Sequence[pathlib.Path]) -> np.ndarray:
    """Returns the latent traversals of runs side by side, uint8 [H, W, 1], at half their height and width."""
    grids = []
    for workdir in workdirs:
        (path,) = Run(workdir).pictures.glob("*_traversals.npz")
        picture = load_picture(path)
        assert isinstance(picture, Picture)
        small = np.asarray(picture.images)[:, ::2, ::2]
        grids.append(grid(small, columns=picture.columns, background=128))
    gap = np.full((len(grids[0]), 12, 1), 255, np.uint8)
    return np.concatenate([part for each in grids for part in (gap, each)][1:], axis=1)


def main(argv: list[str]) -> None:
    """Trains the missing runs, and writes table, figures and verdict.

    Raises:
      UserError: a user's mistake.
    """
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{NAME}", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--betas", type=float, nargs="+", default=BETAS, help="weights of the KL, smallest first")
    parser.add_argument("--full", action="store_true", help="300,000 steps each: for an accelerator")
    parser.add_argument("--runs", type=directory, help="folder of the runs; default: runs/beta[-full]")
    parser.add_argument("--parallel", type=int, default=1, help="runs side by side (default 1)")
    parser.add_argument("--out", type=directory, default=record.RESULTS / NAME, help="folder of table and figures")
    flags, more = parser.parse_known_args(argv)
    betas: list[float] = [int(beta) if float(beta).is_integer() else beta for beta in flags.betas]
    if flags.seeds < 1 or flags.parallel < 1 or len(betas) < 2:
        raise UserError("the experiment needs at least one of --seeds and of --parallel, and two --betas")
    lines: dict[tuple[float, int], list[str]] = {
        (beta, seed): words(beta, seed, flags.full, more) for seed in range(flags.seeds) for beta in betas
    }  # all of one seed first, so that early results are comparable
    resolved = runs.resolve(lines[betas[0], 0])
    methods.check(resolved)
    require_factors(dataset.load(resolved.data).spec)

    folder = (flags.runs or pathlib.Path("runs") / (NAME + ("-full" if flags.full else ""))).absolute()
    workdirs = {pair: folder / f"beta{pair[0]:g}-seed{pair[1]}" for pair in lines}
    named = {workdirs[pair].name: line for pair, line in lines.items()}
    runs.train(folder, named, record.command(NAME, argv), flags.parallel)
    found = {pair: measured(workdir) for pair, workdir in workdirs.items()}

    flags.out.mkdir(parents=True, exist_ok=True)
    write_bytes(flags.out / "mig.svg", figure(found).encode())
    description = f"Latent traversals at beta {', '.join(f'{beta:g}' for beta in betas)} from left to right, seed 0"
    save_png(flags.out / "traversals.png", traversals([workdirs[beta, 0] for beta in betas]), description)
    stored = Run(workdirs[betas[0], 0]).read_config()
    report = {
        "command": record.command(NAME, argv),
        "verdict": verdict(found),
        "config": stored["config"],
        "data": stored["data"],
        "runs": {f"beta {beta:g}, seed {seed}": values for (beta, seed), values in found.items()},
        "versions": record.versions(),
    }
    seeds = "1 seed" if flags.seeds == 1 else f"{flags.seeds} seeds"
    title = (
        f"{resolved.num_steps:,} steps of {resolved.batch_size} images, {seeds}, MIG of {resolved.eval.num_codes:,} "
        "mean codes in 20 bins"
    )
    record.write(flags.out, report, {title: table(found)})


if __name__ == "__main__":
    command.run(main, "the same command resumes from here")

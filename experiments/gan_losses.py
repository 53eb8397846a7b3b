"""Which GAN losses find all 25 Gaussians, how the others fail, and the effect of each remedy.

    python -m experiments.gan_losses    # about a quarter of an hour on two cores; --only=<part of a name> for some

A grid of 5 x 5 Gaussians (spacing 2, sigma 0.05), dense networks, five seeds in one program: the method's own step,
vmapped over States. All games have the same networks, batches and optimizer, except for the changes in their names. The
metrics use 10,000 points from the generator's moving average: a mode is covered by at least 20 points within three
sigma of its centre, and such points are good. A seed solves the task with at least 24 modes and 90% good points.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import record
from gen_jax import methods, parallel
from gen_jax.data import dataset, gaussians
from gen_jax.figures import animation, scatter
from gen_jax.figures.grid import contact_sheet, save_png
from gen_jax.gan.defaults import gan_config
from gen_jax.method import Array, DataSpec, Method, PyTree, State, stream, to_data
from gen_jax.metrics import modes
from gen_jax.run import directory

NAME, DATA = "gan_losses", "gaussians:grid25"
NUM_STEPS, NUM_LOOKS, NUM_JUDGED, NUM_SHOWN = 18_000, 12, 10_000, 2_500
ENOUGH_MODES, ENOUGH_GOOD, ENOUGH_SEEDS = 24, 0.9, 4
SIDE = 112  # pixels of a picture of points
MAX_PICTURED = 12  # seeds per game
VANISHED = 0.01  # relative to the largest gradient of the generator during the run
_DATA_STREAM = 1_000  # distinct from the streams of `method.stream`


class Game(NamedTuple):
    """One row of the table.

    Attributes:
      changes: {dotted key of the config: value}, relative to `config`.
      base: name of the game that it remedies, or "".
      steps: as a fraction of NUM_STEPS, if a step costs more.
    """

    changes: Mapping[str, Any]
    base: str = ""
    steps: float = 1.0


CRITIC = {"gan.loss": "wasserstein", "gan.critic_steps": 5}
R1 = {"gan.penalty": {"name": "r1", "weight": 0.02}}
SPECTRAL = {"gan.constraint": {"name": "spectral"}}
# Initially the noise is as wide as half the distance between two modes: the discriminator sees one cloud with 25 peaks.
NOISE = {"gan.instance_noise": 1.0, "gan.instance_noise_steps": 0.2}  # the second as a fraction of the steps
TWO_TIME_SCALES = {"optimizer.learning_rate": 1e-3}  # of the generator: a quarter of the discriminator's

GAMES: dict[str, Game] = {
    "minimax": Game({"gan.loss": "minimax"}),
    "non-saturating": Game({"gan.loss": "non_saturating"}),
    "least squares": Game({"gan.loss": "least_squares"}),
    "hinge": Game({"gan.loss": "hinge"}),
    "relativistic": Game({"gan.loss": "relativistic"}),
    "Wasserstein": Game(CRITIC, steps=0.4),
    "Wasserstein, clipping": Game(CRITIC | {"gan.constraint": {"name": "clip", "bound": 0.1}}, "Wasserstein", 0.4),
    "Wasserstein, gradient penalty": Game(
        CRITIC | {"gan.penalty": {"name": "wgan_gp", "weight": 1.0}}, "Wasserstein", 0.25
    ),
    "minimax, R1": Game({"gan.loss": "minimax"} | R1, "minimax"),
    "non-saturating, R1": Game(R1, "non-saturating"),
    "non-saturating, spectral norm": Game(SPECTRAL, "non-saturating"),
    "non-saturating, instance noise": Game(NOISE, "non-saturating"),
    "non-saturating, two time scales": Game(TWO_TIME_SCALES, "non-saturating"),
    "non-saturating, R1 and instance noise": Game(R1 | NOISE, "non-saturating"),
    "hinge, spectral norm": Game({"gan.loss": "hinge"} | SPECTRAL, "hinge"),
    "hinge, R1 and instance noise": Game({"gan.loss": "hinge"} | R1 | NOISE, "hinge"),
    "relativistic, R1": Game({"gan.loss": "relativistic"} | R1, "relativistic"),
    "relativistic, R1 and instance noise": Game({"gan.loss": "relativistic"} | R1 | NOISE, "relativistic"),
}


class Trace(NamedTuple):
    """The record of one game.

    Attributes:
      points: f32 [T, seeds, N, 2], samples at each evaluation.
      scalars: by name f32 [T, seeds], means over the steps before each evaluation.
      seconds: of training, without compilation.
      num_steps: of the generator.
    """

    points: np.ndarray
    scalars: dict[str, np.ndarray]
    seconds: float
    num_steps: int


def config(game: Game, num_steps: int) -> Any:
    """Returns the config of a game, also valid for a normal run."""
    c = gan_config(learning_rate=4e-3, discriminator_rate=4e-3)
    c.num_steps = max(NUM_LOOKS, round(num_steps * game.steps / NUM_LOOKS) * NUM_LOOKS)
    c.batch_size = 128
    c.ema = 0.995
    c.data.name = DATA
    c.optimizer.b1, c.optimizer.b2 = 0.0, 0.99
    c.optimizer.decay = {"name": "linear", "share": 0.5}
    c.gan.latents = 2
    width = (64, 64, 64)
    c.network = ConfigDict({"name": "dense", "generator_hidden": width, "hidden": width, "output": "linear"})
    c.update_from_flattened_dict(dict(game.changes) | _noise_steps(game, c.num_steps))
    c = methods.complete(c)
    methods.check(c)
    return c


def _noise_steps(game: Game, num_steps: int) -> dict[str, int]:
    key = "gan.instance_noise_steps"
    return {key: round(game.changes[key] * num_steps)} if key in game.changes else {}


def train(c: Any, spec: DataSpec, real: Array, seeds: Sequence[int]) -> Trace:
    """Returns the record of training, with all seeds in one program.

    Args:
      c: from `config`.
      spec: of the data.
      real: f32 [N, 1, 1, 2], the training set.
      seeds: one per run.
    """
    method = methods.make(c, spec)
    options = parallel.compiler_options(c.fast_compile_options)
    states = start(method, seeds)
    block = c.num_steps // NUM_LOOKS
    run = jax.jit(many_steps(method, c, real, block), donate_argnums=0, compiler_options=options)
    run = run.lower(states).compile()
    look = jax.jit(jax.vmap(lambda state: _generate(method, spec, state)), compiler_options=options)
    looks, scalars, seconds = [], [], 0.0
    for _ in range(NUM_LOOKS):
        before = time.perf_counter()
        states, means = jax.block_until_ready(run(states))
        seconds += time.perf_counter() - before
        looks.append(np.asarray(look(states)))
        scalars.append(jax.device_get(means))
    return Trace(
        np.stack(looks), {k: np.stack([each[k] for each in scalars]) for k in scalars[0]}, seconds, c.num_steps
    )


def start(method: Method, seeds: Sequence[int]) -> State:
    """Returns the States before the first step, leaves [seeds, ...]. The initial state does not depend on the data."""
    return jax.jit(jax.vmap(lambda key: method.init(key, {}, {})))(jax.vmap(jax.random.key)(jnp.array(seeds)))


def many_steps(method: Method, c: Any, real: Array, num: int) -> Callable[[State], tuple[State, PyTree]]:
    """Returns states -> (states after `num` steps, scalars' means f32 [seeds]), with separate batches for each seed."""
    shape = (c.batch_size,) if method.batches_per_step == 1 else (method.batches_per_step, c.batch_size)
    index = jnp.broadcast_to(jnp.arange(c.batch_size), shape)

    def step(state: State) -> tuple[State, PyTree]:
        key = jax.random.fold_in(jax.random.fold_in(state.key, _DATA_STREAM), state.step)
        rows = jax.random.randint(key, shape, 0, len(real))
        return method.step(state, {"image": real[rows], "index": index})

    def steps(states: State) -> tuple[State, PyTree]:
        # Rolled: only gradients of convolutions are slow in loops on a CPU, and there are none here.
        states, scalars = jax.lax.scan(lambda states, _: jax.vmap(step)(states), states, None, length=num)
        return states, jax.tree.map(lambda x: x.mean(axis=0), scalars)

    return steps


def _generate(method: Method, spec: DataSpec, state: State) -> Array:
    key = stream(state.key, "sample")
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(NUM_JUDGED))
    return to_data(method.sample(state, keys, {}), spec).reshape(NUM_JUDGED, 2)


def outcome(found: modes.Scores, inside: float, gradients: np.ndarray) -> str:
    """Returns the outcome of a seed in a word or two.

    Args:
      found: scores of its last samples.
      inside: share of them within the square of the data.
      gradients: [T], norm of the generator's gradient over the run.

    Example:
      >>> outcome(modes.Scores(25, 0.95, 0.01), 1.0, np.ones(3)), outcome(modes.Scores(3, 0.1, 2.0), 1.0, np.ones(3))
      ('solved', 'collapse')
    """
    if not np.isfinite(gradients).all() or inside < 0.5:
        return "divergence"
    if found.covered >= ENOUGH_MODES and found.good >= ENOUGH_GOOD:
        return "solved"
    if gradients[-1] < VANISHED * gradients.max():
        return "vanishing gradient"
    return "collapse" if found.covered < ENOUGH_MODES else "points between modes"


def judge(name: str, trace: Trace) -> dict[str, Any]:
    """Returns a row of the table, with the values of every seed."""
    mixture = gaussians.MIXTURES[DATA.partition(":")[2]]
    last = trace.points[-1]
    found = [modes.scores(each, mixture.centres, mixture.sigma) for each in last]
    best = [
        max(modes.scores(look, mixture.centres, mixture.sigma).covered for look in seed)
        for seed in trace.points.swapaxes(0, 1)
    ]
    inside = (np.abs(last) <= mixture.extent).all(axis=-1).mean(axis=-1)  # NaN counts as outside
    outcomes = [
        outcome(each, share, norms)
        for each, share, norms in zip(found, inside, trace.scalars["grad_norm"].T, strict=True)
    ]
    return {
        "game": name,
        "steps": trace.num_steps,
        "seconds": trace.seconds,
        "modes": [each.covered for each in found],
        "most modes on the way": best,
        "good": [each.good for each in found],
        "reverse_kl": [each.reverse_kl for each in found],
        "outcome": outcomes,
        "gradient": trace.scalars["grad_norm"].T.tolist(),
        "fake_score": trace.scalars["fake_score"].T.tolist(),
    }


def summary(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row in readable form: medians and ranges over the seeds."""
    failures = Counter(word for word in row["outcome"] if word != "solved")
    return {
        "game": row["game"],
        "modes": _range(row["modes"], "{:.0f}"),
        "most on the way": _range(row["most modes on the way"], "{:.0f}"),
        "good points": _range(row["good"], "{:.0%}"),
        "reverse KL, nats": _range(row["reverse_kl"], "{:.2f}"),
        "solved": f"{row['outcome'].count('solved')} of {len(row['outcome'])}",
        "failures": ", ".join(f"{word} {count}" for word, count in failures.items()) or "none",
        "steps": row["steps"],
        "seconds": round(row["seconds"], 1),
    }


def _range(values: Sequence[float], form: str) -> str:
    low, middle, high = (form.format(each) for each in (min(values), float(np.median(values)), max(values)))
    return f"{middle} ({low} to {high})"


def remedies(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the effect of each remedy, as medians over the seeds, if the game without it was played too."""
    changed = []
    for name, row in rows.items():
        base = rows.get(GAMES[name].base)
        if base is not None:
            both = [(np.median(each["modes"]), np.median(each["good"]), each["outcome"]) for each in (base, row)]
            changed.append(
                {
                    "game": base["game"],
                    "with": name.removeprefix(f"{base['game']}, "),
                    "modes": " -> ".join(f"{each[0]:.0f}" for each in both),
                    "good points": " -> ".join(f"{each[1]:.0%}" for each in both),
                    "solved": " -> ".join(str(each[2].count("solved")) for each in both),
                }
            )
    return changed


def verdict(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the experiment's result in one line."""
    plain = {name: row for name, row in rows.items() if not GAMES[name].base}
    solved = {name: row["outcome"].count("solved") for name, row in rows.items()}
    reached = [name for name in rows if solved[name] >= ENOUGH_SEEDS]
    num_seeds = len(next(iter(rows.values()))["outcome"])
    told = "; ".join(f"{name} ({solved[name]} of {num_seeds} seeds, {rows[name]['seconds']:.0f} s)" for name in reached)
    without = [solved[name] for name in plain]
    best = f" The best loss without a remedy solves {max(without)} of {num_seeds} seeds." if without else ""
    return (
        f"At least {ENOUGH_MODES} of 25 modes and {ENOUGH_GOOD:.0%} good points in at least {ENOUGH_SEEDS} seeds: "
        f"{told or 'none'}." + best
    )


def main() -> None:
    """Trains all games, and writes table, figures and verdict."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{NAME}", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="parts of game names, separated by semicolons; default: all games")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help=f"of training (default {NUM_STEPS:,})")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=directory, default=record.RESULTS / NAME)
    flags = parser.parse_args()
    wanted = [part.strip() for part in flags.only.split(";")]
    names = [name for name in GAMES if any(part in name for part in wanted)]
    if not names:
        parser.error(f"--only={flags.only} matches no game; there are: {'; '.join(GAMES)}")
    data_config = gan_config().data
    data_config.name = DATA
    data = dataset.load(data_config)
    unscaled = dataclasses.replace(data.spec, value_range=(-1.0, 1.0))  # networks see the units of the plane
    real = jnp.asarray(data.train["image"])
    rows, pictures = {}, []
    for name in names:
        trace = train(config(GAMES[name], flags.steps), unscaled, real, range(flags.seeds))
        rows[name] = judge(name, trace)
        pictures.append(_drawn(trace.points, data.spec))
        print(summary(rows[name]), flush=True)
    flags.out.mkdir(parents=True, exist_ok=True)
    last = [drawn[-1, :MAX_PICTURED] for drawn in pictures]  # of each game [seeds, H, W, 1]
    save_png(flags.out / "points.png", contact_sheet(last, names))
    frames = np.stack([drawn[:, 0] for drawn in pictures], axis=1)  # seed 0 of each game, [T, games, H, W, 1]
    animation.write_gif(
        flags.out / "training.gif", animation.draw_frames(frames, columns=4), milliseconds=500, factor=1,
        description=f"Seed 0 of each game, row by row: {'; '.join(names)}",
    )  # fmt: skip
    words = [
        f"--{key}={getattr(flags, key)}"
        for key in ("only", "steps", "seeds")
        if getattr(flags, key) != parser.get_default(key)
    ]
    report = {
        "command": record.command(NAME, words),
        "verdict": verdict(rows),
        "data": data.spec.to_dict(),
        "num_judged": NUM_JUDGED,
        "seeds": flags.seeds,
        "versions": record.versions(),
        "games": rows,
    }
    tables = {"Median over the seeds (smallest to largest)": [summary(row) for row in rows.values()]}
    if changed := remedies(rows):
        tables["What each remedy changes"] = changed
    record.write(flags.out, report, tables)


def _drawn(samples: np.ndarray, spec: DataSpec) -> np.ndarray:
    """Pictures uint8 [T, seeds, SIDE, SIDE, 1] of the first samples [T, seeds, N, 2]."""
    shown = samples[:, :, :NUM_SHOWN]
    return np.array([[scatter.density(each, spec.value_range, SIDE) for each in seeds] for seeds in shown])


if __name__ == "__main__":
    main()

"""Progressive distillation (Salimans & Ho 2022): a student takes in one DDIM step what its teacher takes in two.

The teacher is a first stage, a diffusion or flow model; the student has its network, and starts from its weights. A run
has rounds: in each the student learns to halve the number of steps, and then becomes the teacher of the next round.

Why this one of the ways to distil: its targets are computed, not estimated, so that a student that fits them gives the
teacher's samples, noise for noise, whatever the network; it needs one network, and its loss is a squared error. Methods
with better published FID in one step train further networks against each other (distribution matching, adversarial
distillation) or do without a teacher altogether (MeanFlow, consistency training: meanflow.py, consistency.py).
"""

from __future__ import annotations

import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gen_jax import optimizer
from gen_jax.config import Config, Options, base_config
from gen_jax.diffusion import model
from gen_jax.diffusion import process as processes
from gen_jax.diffusion import schedule as schedules
from gen_jax.diffusion.objective import Drawn, Losses, Networks, Objective, squared_error
from gen_jax.diffusion.process import Process
from gen_jax.diffusion.schedule import Level, Path, Schedule
from gen_jax.method import Array, Batch, DataSpec, Key, Method, PyTree, Scalars, Stage, State, UserError
from gen_jax.method import broadcast_to_images as over

TEACHERS = ("ddpm", "flow")


class Rounds(NamedTuple):
    """The rounds of a run.

    Attributes:
      counts: the student's steps in each round, each half of the one before.
      length: of a round, in training steps; the last may be shorter.
    """

    counts: tuple[int, ...]
    length: int

    def number(self, step: Array) -> Array:
        """Returns the round of a training step, i32 []; the last one for later steps."""
        return jnp.minimum(step // self.length, len(self.counts) - 1)


class Plan(NamedTuple):
    """The student's steps of every round: leaves [rounds, counts[0]], of which a round uses its first ones.

    Attributes:
      t, middle: the levels at which the teacher's two steps start; leaves likewise.
      first, second: (of_x_t, of_x0) of these steps.
      one: (of_x_t, of_x0) of the student's, from t to where the second ends.
    """

    t: Level
    middle: Level
    first: tuple[Any, Any]
    second: tuple[Any, Any]
    one: tuple[Any, Any]


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns progressive distillation as a method; see `configs/distilled_mnist.py` for its config values.

    Raises:
      UserError: there is no first stage, or none that can be a teacher; numbers of steps that do not halve; or
        `model.make` raises it.
    """
    if stage is None:
        raise UserError("config.pretrained is empty: distillation needs a teacher, as a run's directory or a config")
    teacher, c = stage.config, config.distillation
    if teacher.method not in TEACHERS:
        raise UserError(f"config.pretrained names a {teacher.method}; a teacher is a {' or a '.join(TEACHERS)}")
    if "text" in stage.method.condition:
        raise UserError("config.pretrained names a model of texts; a teacher is a model of classes, or of no condition")
    process = processes.make(teacher.diffusion)
    if process.variance.outputs == 2:
        raise UserError("config.pretrained names a model with learned variances, which DDIM's steps do not use")
    rounds = rounds_of(c.start, c.steps, config.num_steps)
    _check_table(process.path, c.steps)
    made = model.make(_student(config, teacher), spec, model.pixels(spec), objective(process, rounds))

    def init(key: Key, examples: Batch, frozen: PyTree) -> State:
        state, start = made.init(key, examples, frozen), frozen["denoiser"]
        params, ema, kept = (jax.tree.map(jnp.copy, start) for _ in range(3))
        return state.replace(params={"denoiser": params}, ema={"denoiser": ema}, variables={"teacher": kept})

    def step(state: State, batch: Batch) -> tuple[State, Scalars]:
        return made.step(begin(state, rounds), batch)

    return made._replace(init=init, step=step)


def rounds_of(start: int, steps: int, num_steps: int) -> Rounds:
    """Returns the rounds from a student of `start` steps to one of `steps`, in equal parts of `num_steps`.

    Raises:
      UserError: `start` is not `steps` times a power of two; or there are fewer training steps than rounds.

    Example:
      >>> rounds_of(16, 4, 3000)
      Rounds(counts=(16, 8, 4), length=1000)
    """
    ratio = start // max(steps, 1)
    if steps < 1 or start != steps * ratio or ratio < 1 or ratio & (ratio - 1):
        raise UserError(
            f"config.distillation.start is {start} and steps is {steps}; start must be steps times a power of two, "
            "such as 16 and 4"
        )
    counts = tuple(start >> number for number in range(ratio.bit_length()))
    if num_steps < len(counts):
        raise UserError(f"config.num_steps is {num_steps}, but there are {len(counts)} rounds of distillation")
    return Rounds(counts, -(-num_steps // len(counts)))


def begin(state: State, rounds: Rounds) -> State:
    """Returns the state in which a step starts: at the start of a round, the averaged student is teacher and student.

    Args:
      state: before the step.
      rounds: of the run.
    """
    new = (state.step % rounds.length == 0) & (state.step > 0) & (state.step // rounds.length < len(rounds.counts))

    def taken(old: PyTree) -> PyTree:
        return jax.tree.map(lambda old, average: jnp.where(new, average, old), old, state.ema["denoiser"])

    return state.replace(
        params={"denoiser": taken(state.params["denoiser"])}, variables={"teacher": taken(state.variables["teacher"])}
    )


def objective(process: Process, rounds: Rounds) -> Objective:
    """Returns the squared error of x0_hat, weighted by max(SNR, 1), against the x0 that the teacher's two steps imply.

    In each round the learning rate falls to zero, and the moving average starts anew.

    Args:
      process: of the teacher.
      rounds: of the run.
    """
    plan = jax.tree.map(lambda values: jnp.asarray(values, jnp.float32), plan_of(process.path, rounds))

    def loss(networks: Networks, params: PyTree, drawn: Drawn) -> Losses:
        number = rounds.number(drawn.state.step)
        count = jnp.asarray(rounds.counts)[number]
        place = jnp.minimum((drawn.uniform(0) * count).astype(jnp.int32), count - 1)
        rows = jax.tree.map(lambda values: values[number, place], plan)
        x_t = schedules.add_noise(drawn.x0, drawn.eps, rows.t)
        teach = process.denoiser(networks(drawn.state.variables["teacher"], drawn.label, still=True))
        target = jax.lax.stop_gradient(implied_x0(teach, x_t, rows))
        found = process.denoiser(networks(params, drawn.label))(x_t, rows.t)
        weight = jnp.maximum((rows.t.alpha / rows.t.sigma) ** 2, 1.0)
        error = weight * squared_error(found, target) / found[0].size
        return Losses(error, error)

    length = rounds.length
    drift = optimizer.Drift(
        lambda step: 1 - (step % length) / length, None, lambda decay, step: optimizer.ema_decay(step % length, decay)
    )
    return Objective(process, loss, denoises=False, drift=drift)


def plan_of(path: Path, rounds: Rounds) -> Plan:
    """Returns the steps of all rounds, float64."""
    plans = []
    for count in rounds.counts:
        levels = path.path(_even_times(path, 2 * count))
        t, middle, end = (Level(*(values[part] for values in levels)) for part in _PARTS)
        plan = Plan(t, middle, _ddim(t, middle), _ddim(middle, end), _ddim(t, end))
        plans.append(jax.tree.map(lambda values: np.pad(values, (0, rounds.counts[0] - len(values)), "edge"), plan))
    return jax.tree.map(lambda *values: np.stack(values), *plans)


_PARTS = slice(None, -1, 2), slice(1, None, 2), slice(2, None, 2)  # of 2 n + 1 levels


def _ddim(t: Level, s: Level) -> tuple[np.ndarray, np.ndarray]:
    """(of_x_t, of_x0) of the steps from the levels t to the levels s, as in `solvers.ddim`."""
    of_x_t = s.sigma / t.sigma
    return of_x_t, s.alpha - of_x_t * t.alpha


def _even_times(path: Path, count: int) -> np.ndarray:
    """`path.steps(count)`, which are rounded to whole times on tables, unrounded: half steps lie in the middle."""
    if isinstance(path, Schedule):
        return path.num_steps * np.arange(count, 0, -1) / count - 1
    return path.steps(count)


def implied_x0(teach: Any, x_t: Array, rows: Plan) -> Array:
    """Returns the x0_hat with which one DDIM step leads from x_t to where two steps of the teacher lead.

    Salimans & Ho 2022, algorithm 2.

    Args:
      teach: (x_t, level with leaves [B]) -> x0_hat.
      x_t: f32 [B, H, W, C].
      rows: of the plan, leaves [B].
    """

    def step(x: Array, level: Level, way: tuple[Array, Array]) -> Array:
        of_x, of_x0 = (over(value, x) for value in way)
        return of_x * x + of_x0 * teach(x, level)

    x_s = step(step(x_t, rows.t, rows.first), rows.middle, rows.second)
    of_x_t, of_x0 = (over(value, x_t) for value in rows.one)
    return (x_s - of_x_t * x_t) / of_x0


def _student(config: Any, teacher: Any) -> Any:
    """A diffusion model's config, with the teacher's network and process, and the steps that the student is for."""
    sample = {
        "sampler": {"name": "ddim", "eta": 0.0}, "spacing": {"name": "trailing"},
        "num_steps": config.distillation.steps, "guidance": 1.0, "guidance_rescale": 0.0, "guidance_interval": "0,1",
        "clip": config.sample.clip, "dynamic_threshold": 0.0,
    }  # fmt: skip
    return types.SimpleNamespace(
        method=config.method, data=config.data, network=teacher.network, diffusion=teacher.diffusion,
        sample=ConfigDict(sample), eval=types.SimpleNamespace(likelihood={"name": "none"}),
        optimizer=config.optimizer, ema=config.ema, num_steps=config.num_steps, batch_size=config.batch_size,
        accumulate=config.accumulate, compute_dtype=config.compute_dtype,
    )  # fmt: skip


def _check_table(path: Path, steps: int) -> None:
    if isinstance(path, Schedule) and path.num_steps % steps:
        raise UserError(
            f"config.distillation.steps is {steps}, but the teacher's schedule has {path.num_steps} times, which "
            "do not part into as many equal steps: use a divisor of that"
        )


def distilled_config() -> Config:
    """Returns a config for distillation, with a flow as teacher, that is trained first."""
    config = base_config()
    config.method = "distilled"
    config.pretrained = ConfigDict({"method": "flow"})
    config.distillation = ConfigDict(
        {
            "start": 16,  # steps of the student in the first round; the teacher takes twice as many
            "steps": 4,  # in the last round, and when sampling
        }
    )
    config.sample.clip = True  # x0_hat stays in [-1, 1] while sampling
    return config


OPTIONS = Options(distilled_config, "Progressive distillation")

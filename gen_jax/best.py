"""Which checkpoints are the best, by what a run measures every `eval_every` steps, and when training stops early.

All of it is read from the record, metrics.jsonl: a resumed run decides as one that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from gen_jax import methods
from gen_jax.config import DISTANCE
from gen_jax.method import UserError
from gen_jax.run import Run
from gen_jax.writers import read_metrics


class Scores:
    """The values of `config.eval.best` so far.

    Args:
      config: of the run.
      records: of its metrics.jsonl, in order; those without a value do not count.

    Example:
      >>> config = methods.load("vae_mnist")[2]
      >>> scores = Scores(config, [{"step": 5 * i, "eval/frechet_distance/x": v} for i, v in enumerate((4, 2, 3, 2))])
      >>> scores.ranked, scores.since_best
      ([5, 15, 10, 0], 2)
    """

    def __init__(self, config: Any, records: Iterable[Mapping[str, Any]] = ()):
        self.measure: str = config.eval.best
        self._sign = -1 if methods.options(config).ranking[self.measure] == "higher" else 1
        self._by_name: dict[str, dict[int, float]] = {}  # another judge, or number of samples, cannot be compared
        self._latest: dict[int, float] = {}
        for record in records:
            self.add(record["step"], record)

    def add(self, step: int, scores: Mapping[str, Any]) -> int | None:
        """Returns how many earlier values are at least as good; None if there is no value, or it is not finite."""
        name = next((key for key in scores if key.split("/")[:2] == ["eval", self.measure]), None)
        if name is None:
            return None
        value = scores[name]  # the file stores NaN as null
        score = math.inf if value is None or not math.isfinite(value) else self._sign * value
        self._latest = self._by_name.setdefault(name, {})
        rank = sum(each <= score for each in self._latest.values())
        self._latest[step] = score
        return None if score == math.inf else rank

    @property
    def ranked(self) -> list[int]:
        """The steps of all values, the best first."""
        return sorted(self._latest, key=lambda step: (self._latest[step], step))

    @property
    def since_best(self) -> int:
        """How many evaluations there were after the best one."""
        steps = list(self._latest)
        return len(steps) - 1 - steps.index(self.ranked[0]) if steps else 0


def scores_of(run: Run, config: Any, until: float = math.inf) -> Scores:
    """Returns the scores in the record of a run, up to a step."""
    return Scores(config, (record for record in read_metrics(run.workdir) if record["step"] <= until))


def stopped_early(config: Any, scores: Scores, step: int) -> str:
    """Returns why training ends at a step before `num_steps`, or "": `eval.patience` evaluations were no better.

    Example:
      >>> config = methods.load("vae_mnist")[2]
      >>> config.eval.best, config.eval.patience, config.num_steps = "loss", 2, 1000
      >>> scores = Scores(config, [{"step": step, "eval/loss": step} for step in (100, 200, 300)])
      >>> stopped_early(config, scores, 300)
      'stopped early at step 300 of 1,000: eval/loss was best at step 100, 2 evaluations before'
    """
    patience = config.eval.patience
    if not patience or scores.since_best < patience or step >= config.num_steps:
        return ""
    return (
        f"stopped early at step {step:,} of {config.num_steps:,}: eval/{scores.measure} was best at step "
        f"{scores.ranked[0]:,}, {scores.since_best} evaluations before"
    )


def check(config: Any, measured: Iterable[str]) -> None:
    """Refuses to rank checkpoints by what a run does not measure, before training.

    Args:
      config: of the run.
      measured: names of what it measures at every evaluation.

    Raises:
      UserError: names what can be used instead.
    """
    name, measured = config.eval.best, {each.partition("/")[0] for each in measured}
    if name in measured:
        return
    known = [each for each in methods.options(config).ranking if each in measured]
    ways = [f"use --config.eval.best={known[0]}"] if known else []
    ways += [] if DISTANCE in measured else ["set --config.eval.track=1000 for the Frechet distance of samples"]
    raise UserError(f"config.eval.best is {name!r}, which this run does not measure: {', or '.join(ways)}")

"""Values for the next runs of a sweep, proposed by Optuna from the results of the runs before.

The study is `optuna.log` in the sweep's folder. It holds what was proposed and how it ended, so the same command
continues it; other programs of Optuna can open it, too.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gen_jax.method import UserError, counted, did_you_mean
from gen_jax.run import Run

STUDY = "optuna.log"
_NAME = "sweep"  # of the study
_SIGN = {"lower": 1, "higher": -1}


class Range(NamedTuple):
    """Numbers from `low` to `high`, whole ones if both are written so; `log`: uniform in their logarithm."""

    low: float
    high: float
    log: bool


Space = Mapping[str, "Range | list[str]"]
"""What each dotted key may be."""


def read_range(text: str) -> Range | None:
    """Returns the range of a text; None if it is written otherwise.

    Raises:
      UserError: there is nothing between its ends; a logarithm of numbers that are not positive.

    Example:
      >>> read_range("1e-4..1e-2:log"), read_range("2..8"), read_range("image_folder:../cats")
      (Range(low=0.0001, high=0.01, log=True), Range(low=2, high=8, log=False), None)
    """
    found = re.fullmatch(r"(.+?)\.\.(.+?)(:log)?", text)
    low, high = (_number(found[1]), _number(found[2])) if found else (None, None)
    if found is None or low is None or high is None:
        return None
    if not low < high:
        raise UserError(f"{text!r} is no range: write the smaller number first, as in 1e-4..1e-2:log or 2..8")
    if found[3] and low <= 0:
        raise UserError(f"{text!r}: a logarithmic range starts above 0")
    return Range(low, high, log=bool(found[3]))


def _number(text: str) -> float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return None


class Score(NamedTuple):
    """A metric of a run: its full name, its value, and the number to minimise."""

    name: str
    value: float
    loss: float


def score(workdir: pathlib.Path, metric: str) -> Score:
    """Returns a metric of a finished run.

    Args:
      workdir: of the run.
      metric: its name, with or without the protocol after the slash.

    Raises:
      UserError: the run has no such metric, more than one, or one that does not say which way is better.
    """
    rows = {row["name"]: row for row in json.loads(Run(workdir).report_json.read_text())["metrics"]}
    names = [name for name in rows if metric in (name, name.partition("/")[0])]
    ranked = [name for name, row in rows.items() if row["better"] in _SIGN and row["value"] is not None]
    if not names:
        hint = did_you_mean(metric, ranked)
        raise UserError(f"--metric={metric}: {workdir} has no such metric; {hint}it has {', '.join(ranked)}")
    if len(names) > 1:
        raise UserError(f"--metric={metric} may be {' or '.join(names)}: give the whole name")
    if names[0] not in ranked:
        raise UserError(f"--metric={metric} does not rank runs: choose one of {', '.join(ranked)}")
    row = rows[names[0]]
    return Score(row["name"], row["value"], _SIGN[row["better"]] * row["value"])


class Search:
    """A study of Optuna: its tree-structured Parzen estimator proposes, and is told the scores, less being better.

    Proposals follow from the seed and the scores before them, wherever the study was interrupted.

    Args:
      folder: of the sweep.
      space: what each key may be.
      seed: of the proposals.

    Raises:
      UserError: Optuna is not installed; the study is damaged, or one of another space.
    """

    def __init__(self, folder: pathlib.Path, space: Space, seed: int):
        try:
            import optuna
            from optuna.storages import JournalStorage, journal
        except ImportError as error:
            raise UserError('--search needs Optuna: pip install "gen-jax[search]"') from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._seed, self._path = optuna, seed, folder / STUDY
        self._space = {key: _distribution(optuna, values) for key, values in space.items()}
        try:
            storage = JournalStorage(journal.JournalFileBackend(str(self._path)))
            self._study = optuna.create_study(study_name=_NAME, storage=storage, load_if_exists=True)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"cannot read {self._path} ({type(error).__name__}: {error}): delete it to begin the search anew; "
                "runs that have finished are not repeated"
            ) from error
        for trial in self._study.trials:
            if trial.distributions != self._space:
                raise UserError(
                    f"{self._path} is a search over other values; choose another --workdir, or delete the file"
                )

    @property
    def num_ended(self) -> int:
        """Number of proposals that were scored or failed."""
        return sum(trial.state.is_finished() for trial in self._study.trials)

    def propose(self, num: int) -> dict[int, dict[str, str]]:
        """Returns so many proposals by their number, {key: text}; first those of which nothing was told yet."""
        running = self._study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.RUNNING,))
        found = {trial.number: trial.params for trial in running[:num]}
        while len(found) < num:
            place = len(self._study.trials)
            self._study.sampler = self._optuna.samplers.TPESampler(seed=self._seed + place, constant_liar=True)
            trial = self._study.ask(fixed_distributions=self._space)
            found[trial.number] = trial.params
        return {number: _texts(params) for number, params in found.items()}

    def tell(self, number: int, value: float | None) -> None:
        """Notes the score of a proposal; None stands for a failure."""
        if value is None:
            self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(number, value)

    @property
    def best(self) -> dict[str, str] | None:
        """The proposal with the lowest score, {key: text}, if any was scored."""
        scored = [trial for trial in self._study.trials if trial.value is not None]
        return _texts(min(scored, key=lambda trial: (trial.value, trial.number)).params) if scored else None


def _distribution(optuna: Any, values: Range | list[str]) -> Any:
    if not isinstance(values, Range):
        return optuna.distributions.CategoricalDistribution(values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return optuna.distributions.IntDistribution(values.low, values.high, log=values.log)
    return optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)


def _texts(params: Mapping[str, Any]) -> dict[str, str]:
    """Proposed values as words, with at most four digits: more only make the names of folders long."""
    return {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in params.items()}


def run(
    search: Search,
    num: int,
    metric: str,
    side_by_side: int,
    train: Callable[[Sequence[Mapping[str, str]]], list[pathlib.Path | None]],
) -> Mapping[str, str]:
    """Trains what a search proposes until `num` proposals have ended; returns the best, {key: text}.

    Args:
      search: the study.
      num: of proposals, with those of earlier commands.
      metric: see `score`.
      side_by_side: number of runs that are trained before the next ones are proposed.
      train: ({key: text} of each run) -> the folder of each, None where it failed.

    Raises:
      UserError: see `score`; or all runs failed.
    """
    while (left := num - search.num_ended) > 0:
        proposed = search.propose(min(side_by_side, left))
        for number, workdir in zip(proposed, train([*proposed.values()]), strict=True):
            found = None if workdir is None else score(workdir, metric)
            search.tell(number, found and found.loss)
            if found:
                print(f"{workdir}: {found.name} {found.value:.4g}", flush=True)
    if search.best is None:
        raise UserError(f"all of {counted(num, 'run')} failed: see the lines above")
    return search.best

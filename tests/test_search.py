import json
import sys

import pytest

from gen_jax import search, sweep
from gen_jax.method import UserError
from gen_jax.run import Run

pytest.importorskip("optuna")

SPACE = {"x": search.Range(-1.0, 1.0, log=False), "kind": ["a", "b"]}
RATE = {"rate": search.Range(1e-4, 1e-1, log=True), "depth": search.Range(1, 3, log=False)}


def loss(texts) -> float:
    """Least at x = 0.3 with kind b, where it is 0."""
    return (float(texts["x"]) - 0.3) ** 2 + (texts["kind"] == "a")


def searched(folder, num: int, reopen: bool = False) -> list[dict[str, str]]:
    found, study = [], search.Search(folder, SPACE, seed=0)
    for _ in range(num):
        study = search.Search(folder, SPACE, seed=0) if reopen else study
        ((number, texts),) = study.propose(1).items()
        study.tell(number, loss(texts))
        found.append(texts)
    assert study.num_ended == num
    assert study.best == min(found, key=loss)
    return found


def test_the_minimum_of_a_parabola_is_found(tmp_path):
    best = min(searched(tmp_path, 40), key=loss)
    assert best["kind"] == "b"
    assert float(best["x"]) == pytest.approx(0.3, abs=0.05)


def test_an_interrupted_search_proposes_what_an_undisturbed_one_does(tmp_path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    assert searched(tmp_path / "parts", 15, reopen=True) == searched(tmp_path / "whole", 15)


def test_what_was_proposed_and_not_told_is_proposed_again(tmp_path):
    first = search.Search(tmp_path, RATE, seed=0).propose(3)
    for texts in first.values():
        assert 1e-4 <= float(texts["rate"]) <= 1e-1
        assert texts["depth"] in ("1", "2", "3")
    again = search.Search(tmp_path, RATE, seed=0)
    assert again.propose(2) == dict([*first.items()][:2])
    again.tell(1, None)
    assert [*again.propose(3)] == [0, 2, 3]
    assert again.num_ended == 1
    assert again.best is None


def test_a_study_of_other_values_and_a_damaged_one_are_refused(tmp_path):
    search.Search(tmp_path, SPACE, seed=0).propose(1)
    with pytest.raises(UserError, match="is a search over other values; choose another --workdir"):
        search.Search(tmp_path, RATE, seed=0)
    (tmp_path / search.STUDY).write_text("no journal\n")
    with pytest.raises(UserError, match="delete it to begin the search anew"):
        search.Search(tmp_path, SPACE, seed=0)


def test_without_optuna_the_line_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r'pip install "gen-jax\[search\]"'):
        search.Search(tmp_path, SPACE, seed=0)


def report(workdir, **values: tuple[float | None, str | None]):
    """The report of a finished run with metrics {name: (value, which way is better)}."""
    rows = [{"name": name, "value": value, "better": better} for name, (value, better) in values.items()]
    Run(workdir).workdir.mkdir(parents=True, exist_ok=True)
    Run(workdir).report_json.write_text(json.dumps({"metrics": rows}))


def test_scores_are_less_the_better_and_have_one_name(tmp_path):
    metrics = {"distance/a": (2.0, "lower"), "recall/a": (0.7, "higher"), "recall/b": (0.6, "higher"),
               "test_kl": (3.0, None), "fidelity/a": (0.5, "reference"), "bound": (None, "lower")}  # fmt: skip
    report(tmp_path, **metrics)
    assert search.score(tmp_path, "distance") == ("distance/a", 2.0, 2.0)
    assert search.score(tmp_path, "recall/b") == ("recall/b", 0.6, -0.6)
    for metric, told in {
        "recall": "may be recall/a or recall/b: give the whole name",
        "test_kl": "does not rank runs: choose one of distance/a, recall/a, recall/b",
        "fidelity": "does not rank runs",
        "bound": "does not rank runs",
        "distanse": "has no such metric; did you mean distance/a?",
    }.items():
        with pytest.raises(UserError) as caught:
            search.score(tmp_path, metric)
        assert told in str(caught.value)


def test_failures_are_passed_over_unless_all_fail(tmp_path):
    study, asked = search.Search(tmp_path, SPACE, seed=0), []

    def train(proposed):
        asked.append(len(proposed))
        folders = []
        for texts in proposed:
            folder = tmp_path / f"{texts['kind']}{texts['x']}"
            report(folder, **{"loss/a": (loss(texts), "lower")})
            folders.append(folder if texts["kind"] == "b" else None)
        return folders

    best = search.run(study, 11, "loss", 2, train)
    assert best["kind"] == "b"
    assert asked == [2, 2, 2, 2, 2, 1]
    assert search.run(study, 11, "loss", 2, lambda proposed: pytest.fail("there is nothing left")) == best
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="all of 3 runs failed"):
        search.run(search.Search(tmp_path / "other", SPACE, 0), 3, "loss", 1, lambda proposed: [None] * len(proposed))


def test_a_sweep_trains_what_the_search_proposes_and_tells_the_best(tmp_path, monkeypatch, capsys):
    trained: dict[str, float] = {}

    def train_all(trials, folder, ledger, places):
        assert len(places) == 2
        for trial in trials:
            rate = trial.config.optimizer.learning_rate
            if (failed := len(trained) == 1) is False:
                report(folder / trial.name, recall=(1 - abs(rate - 0.004), "higher"))
            trained[trial.name] = rate
            ledger.note(trial, "failed" if failed else "finished")
        if len(trained) == 2:
            raise sweep.FailedError("one")

    monkeypatch.setattr(sweep, "train_all", train_all)
    words = ["--config=vae_mnist_dense:tiny", "optimizer.learning_rate=1e-4..1e-2:log", "--config.num_steps=7",
             "--search=6", "--metric=recall", "--parallel=2", f"--workdir={tmp_path}"]  # fmt: skip
    sweep.main(words)
    scored = {name: rate for place, (name, rate) in enumerate(trained.items()) if place != 1}
    best = min(scored, key=lambda name: abs(scored[name] - 0.004))
    assert len(trained) == 6
    assert capsys.readouterr().out.splitlines()[-1].endswith(f" in {tmp_path / best}")
    sweep.main(words)
    assert len(trained) == 6

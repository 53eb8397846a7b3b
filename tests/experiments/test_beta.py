import json
import pathlib
import subprocess
import types

import numpy as np
import PIL.Image
import pytest

from experiments import beta, runs
from gen_jax import methods
from gen_jax.figures.pictures import save_picture
from gen_jax.method import Picture, UserError
from gen_jax.run import Run

MIG = {(1, 0): 0.1, (8, 0): 0.3, (20, 0): 0.2, (1, 1): 0.2, (8, 1): 0.1, (20, 1): 0.15}


def _pretend(workdir: pathlib.Path, line, mig: float, step: int | None = None) -> None:
    """What a run that has finished leaves behind, as far as the experiment reads it."""
    run, config = Run(workdir), runs.resolve(line)
    run.write_config({"config": config.to_dict(), "data": {"name": "dsprites:drawn"}})
    measures = {"mig/20_bins_10000_samples": mig, "sap_correlation/10000_samples": 0.5, "active_units/2048_examples": 4}
    measures |= {"training_reconstruction": 30.0, "training_kl": 15.0}
    rows = [{"name": name, "value": value} for name, value in measures.items()]
    finished = config.num_steps if step is None else step
    run.report_json.write_text(json.dumps({"metrics": rows, "finished_step": finished}))
    run.report_html.touch()
    images = np.full((20, 8, 8, 1), int(255 * mig), np.uint8)
    picture = Picture(images, "Latent traversals", "", columns=10)  # pyright: ignore
    save_picture(run.pictures / "02_traversals.npz", picture, "dsprites")


def test_every_run_is_in_the_table_the_figures_and_the_verdict(tmp_path, monkeypatch, capsys):
    def train(folder, lines, command, parallel):
        assert (command, parallel) == (f"python -m experiments.beta --seeds=2 --out={tmp_path}/out", 1)
        for name, line in lines.items():
            _pretend(folder / name, line, MIG[int(line[-2].partition("=")[2]), int(line[-1].partition("=")[2])])

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.chdir(tmp_path)
    beta.main(["--seeds=2", f"--out={tmp_path}/out"])
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["verdict"] == (
        "MIG rises from beta 1 to beta 8 or 20 in 1 of 2 seeds; its means are 0.150, 0.200, 0.175 at beta 1, 8, 20."
    )
    ((title, rows),) = report["tables"].items()
    assert "2 seeds, MIG of 10,000 mean codes in 20 bins" in title
    assert [row["MIG reported"] for row in rows] == [0.001, 0.1431, 0.3764]
    assert [row["each seed"] for row in rows] == ["0.100, 0.200", "0.300, 0.100", "0.200, 0.150"]
    assert report["command"] == f"python -m experiments.beta --seeds=2 --out={tmp_path}/out"
    assert report["verdict"] in capsys.readouterr().out
    # Three grids of 2 x 10 pictures of 4x4 pixels, two pixels between these and 12 between those.
    traversals = np.asarray(PIL.Image.open(tmp_path / "out/traversals.png"))[..., None]
    assert traversals.shape == (10, 3 * 58 + 2 * 12, 1)
    assert traversals[0, [0, 70, 140], 0].tolist() == [25, 76, 51]
    drawn = (tmp_path / "out/mig.svg").read_text()
    assert [drawn.count(f">seed {seed}<") for seed in range(3)] == [1, 1, 0]
    assert drawn.count("<path") == 2 * 2  # each line, and what it looks like beside its name
    assert sorted(path.name for path in (tmp_path / "runs/beta").iterdir()) == [
        "beta1-seed0", "beta1-seed1", "beta20-seed0", "beta20-seed1", "beta8-seed0", "beta8-seed1",
    ]  # fmt: skip


def test_a_run_that_has_finished_is_not_run_again_and_one_that_was_cut_short_is(tmp_path, monkeypatch):
    started = []

    def start(words, **_):
        started.append(words[1:])
        return types.SimpleNamespace(poll=lambda: 0 if len(started) == 1 else 1)

    monkeypatch.setattr(subprocess, "Popen", start)
    line, other = beta.words(8, 0, full=False), beta.words(8, 1, full=False)
    _pretend(tmp_path / "whole", line, 0.2)
    runs.train(tmp_path, {"whole": line}, "python -m experiments.beta")
    assert not started
    _pretend(tmp_path / "part", line, 0.2, step=3)
    runs.train(tmp_path, {"whole": line, "part": line}, "python -m experiments.beta")
    assert started == [["-m", "gen_jax.main", *line, f"--workdir={tmp_path}/part"]]
    with pytest.raises(UserError, match="1 of 1 run failed; the same command tries them again"):
        runs.train(tmp_path, {"fails": other}, "python -m experiments.beta")
    ledger = json.loads((tmp_path / "sweep.json").read_text())
    assert ledger["command"] == "python -m experiments.beta"
    states = {name: each["state"] for name, each in ledger["runs"].items()}
    assert states == {"whole": "finished", "part": "finished", "fails": "failed"}


def test_runs_that_do_not_fit_are_refused_before_any_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    line, other = beta.words(8, 0, full=False), beta.words(8, 1, full=False)
    _pretend(tmp_path / "long", line, 0.2, step=300_000)
    with pytest.raises(UserError, match="long was trained for 300,000 steps, but 8,000 are asked for"):
        runs.train(tmp_path, {"new": other, "long": line}, "")
    _pretend(tmp_path / "whole", line, 0.2)
    with pytest.raises(UserError, match="whole holds a run with another config .*seed: 0 -> 1"):
        runs.train(tmp_path, {"new": line, "whole": other}, "")
    with pytest.raises(UserError, match="batch_size"):
        runs.train(tmp_path, {"new": line, "none": [*line, "--config.batch_size=0"]}, "")


def test_the_full_setting_is_one_word_away():
    resolved = [runs.resolve(beta.words(20, 2, full)) for full in (False, True)]
    assert resolved[1].num_steps == 300_000
    assert resolved[0].num_steps < 10_000
    for config in resolved:
        methods.check(config)
        assert (config.vae.beta, config.seed) == (20, 2)


def test_a_set_without_factors_is_refused_before_any_run(made_up_tfds, monkeypatch):
    monkeypatch.setattr(runs, "train", None)
    with pytest.raises(UserError, match="^'made_up_digits' has no factors of variation .*dsprites has$"):
        beta.main(["--config.data.name=made_up_digits", f"--config.data.data_dir={made_up_tfds}"])
    for words in (["--seeds=0"], ["--betas", "4"], ["--config.vae.beta2=3"], ["--out"]):
        with pytest.raises((UserError, SystemExit)):
            beta.main(words)

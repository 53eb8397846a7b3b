"""Runs that released versions wrote stay readable: they are loaded, sampled, resumed and reported as they were.

tests/old_runs/<version>/ holds one run a family, packed, the pictures that it was trained on, and the losses with which
that version itself went on. Nothing there is ever made anew.
"""

import json
import pathlib
import tarfile

import numpy as np
import pytest

import gen_jax
from gen_jax import main
from gen_jax.run import Run
from gen_jax.writers import read_metrics

RUNS = sorted((pathlib.Path(__file__).parent / "old_runs").glob("*/*.tar.xz"))
RUNS = [path for path in RUNS if not path.name.startswith("pictures.")]


@pytest.fixture(params=RUNS, ids=lambda path: f"{path.parent.name}-{path.name.partition('.')[0]}")
def old_run(request, tmp_path, monkeypatch):
    """A run's directory as it was, beside its pictures; versions before 0.2 named these from where they ran."""
    for path in (request.param, request.param.parent / "pictures.tar.xz"):
        with tarfile.open(path) as archive:
            archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path / request.param.name.partition(".")[0]


def test_every_archive_is_small():
    assert len(RUNS) >= 3
    assert all(path.stat().st_size < 300_000 for path in RUNS)


def test_an_old_run_gives_the_samples_that_it_gave(old_run):
    stored = np.load(Run(old_run).samples_npz)["arr_0"]
    model = gen_jax.load(old_run)
    assert int(model.state.step) == 8
    # Other compiler options than those of the run: to rounding, which may turn a grey value into its neighbour.
    difference = np.abs(model.sample(len(stored)).astype(int) - stored)
    assert difference.max() <= 2
    assert np.mean(difference > 0) < 0.01


def test_an_old_run_goes_on_as_the_version_that_wrote_it_did_and_is_reported(old_run):
    main.main([f"--workdir={old_run}", "--mode=report"])
    before = Run(old_run).report_html.read_text()
    assert "How it was measured" in before

    main.main([f"--workdir={old_run}", "--config.num_steps=16"])
    (archive,) = [path for path in RUNS if path.name.startswith(f"{old_run.name}.")]
    expected = json.loads((archive.parent / "resumed.json").read_text())[old_run.name]
    found = {str(line["step"]): line["train/loss"] for line in read_metrics(old_run) if "train/loss" in line}
    assert found.keys() > expected.keys()
    np.testing.assert_allclose([found[step] for step in expected], list(expected.values()), rtol=1e-3)
    run = Run(old_run)
    assert run.finished_step == 16
    record = run.read_config()
    assert record["versions"]["gen_jax"] == gen_jax.__version__
    assert pathlib.Path(record["config"]["data"]["name"].partition(":")[2]).is_absolute()

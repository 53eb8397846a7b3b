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

pytestmark = pytest.mark.long

RUNS = sorted((pathlib.Path(__file__).parent / "old_runs").glob("*/*.tar.xz"))
RUNS = [path for path in RUNS if not path.name.startswith("pictures.")]


def name_of(path):
    return f"{path.parent.name}-{path.name.partition('.')[0]}"


@pytest.fixture
def unpack(tmp_path, monkeypatch):
    """Lays out a run as it was, beside its pictures; versions before 0.2 named these from where they ran."""

    def unpacked(path):
        for each in (path, path.parent / "pictures.tar.xz"):
            with tarfile.open(each) as archive:
                archive.extractall(tmp_path, filter="data")
        monkeypatch.chdir(tmp_path)
        return tmp_path / path.name.partition(".")[0]

    return unpacked


def test_every_archive_is_small():
    assert len(RUNS) >= 3
    assert all(path.stat().st_size < 300_000 for path in RUNS)


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_an_old_run_gives_the_samples_that_it_gave(path, unpack):
    old_run = unpack(path)
    stored = np.load(Run(old_run).samples_npz)["arr_0"]
    model = gen_jax.load(old_run)
    assert int(model.state.step) == 8
    # Other compiler options than those of the run: to rounding, which may turn a grey value into its neighbour.
    difference = np.abs(model.sample(len(stored)).astype(int) - stored)
    assert difference.max() <= 2
    assert np.mean(difference > 0) < 0.01


# The families share all of this but their own step, and each takes half a minute: one at once, the rest slowly.
GOING_ON = [pytest.param(p, marks=[] if "ddpm" in p.name else pytest.mark.slow, id=name_of(p)) for p in RUNS]


@pytest.mark.parametrize("path", GOING_ON)
def test_an_old_run_goes_on_as_the_version_that_wrote_it_did_and_is_reported(path, unpack):
    old_run = unpack(path)
    main.main([f"--workdir={old_run}", "--mode=report"])
    before = Run(old_run).report_html.read_text()
    assert "How it was measured" in before

    main.main([f"--workdir={old_run}", "--config.num_steps=16", "--config.num_devices=1"])
    expected = json.loads((path.parent / "resumed.json").read_text())[old_run.name]
    found = {str(line["step"]): line["train/loss"] for line in read_metrics(old_run) if "train/loss" in line}
    assert found.keys() > expected.keys()
    np.testing.assert_allclose([found[step] for step in expected], list(expected.values()), rtol=1e-3)
    run = Run(old_run)
    assert run.finished_step == 16
    record = run.read_config()
    assert record["versions"]["gen_jax"] == gen_jax.__version__
    assert pathlib.Path(record["config"]["data"]["name"].partition(":")[2]).is_absolute()

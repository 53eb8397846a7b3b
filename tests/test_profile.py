import json

import numpy as np
import pytest

from gen_jax import command, main, methods, profile
from gen_jax.data import dataset
from gen_jax.method import DataSpec, Feature, UserError, labelled, with_factors
from gen_jax.run import Run

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def _no_data(monkeypatch):
    """No set is at hand."""

    def load(config):
        raise AssertionError("data was asked for")

    monkeypatch.setattr(dataset, "load", load)


def test_the_trace_names_the_costliest_operations_and_needs_no_data(tiny_run, tmp_path, capsys):
    copy = tmp_path / "caf\udce9 [a]"
    copy.mkdir()
    record = json.loads((tiny_run / "config.json").read_text())
    record["config"]["num_devices"] = 16  # more than there are
    (copy / "config.json").write_text(json.dumps(record))
    (copy / "profile/mine").mkdir(parents=True)
    command._secure_streams()  # which show any name
    main.main([f"--workdir={copy}", "--mode=profile"])
    assert (copy / "profile/mine").is_dir()
    rows = json.loads((copy / "profile.json").read_text())
    assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)
    kinds = " ".join(row["operation"] for row in rows)
    assert "conv" in kinds or "dot" in kinds
    printed = capsys.readouterr().out
    assert "ms/step" in printed
    assert "freed memory: " in printed
    shown = next(line for line in printed.splitlines() if "products and convolutions" in line)
    assert 98 <= sum(int(word[:-1]) for word in shown.replace(";", "").split() if word.endswith("%")) <= 102


def test_devices_that_cannot_share_a_batch_are_one_line(tiny_run):
    with pytest.raises(UserError, match=r"does not divide over 3 devices .* --config\.num_devices=2"):
        profile.profile(tiny_run, ("--config.num_devices=3",))


def test_another_data_set_than_that_of_the_run_is_refused(tiny_run):
    with pytest.raises(UserError, match=f"that {tiny_run} was trained on.*data.name: made_up_digits -> mnist"):
        profile.profile(tiny_run, ("--config.data.name=mnist",))


@pytest.mark.slow
def test_a_run_with_a_first_stage_is_profiled_without_that_stage_s_run(tmp_path):
    config = methods.load("latent_mnist:tiny")[2]
    spec = DataSpec("digits", (28, 28, 1), 600, labelled("0123456789"))
    Run(tmp_path).write_config({"config": config.to_dict(), "data": spec.to_dict(), "versions": {"gen_jax": "0.2.0"}})
    profile.profile(tmp_path)
    assert (tmp_path / "profile.json").is_file()
    assert not (tmp_path / "pretrained").exists()


@pytest.mark.parametrize(
    "spec",
    [
        DataSpec("digits", (8, 8, 1), 600, labelled("01")),
        DataSpec("points", (1, 1, 2), 40, kind="points", value_range=(-1, 1)),
        DataSpec("shapes", (8, 8, 1), 10, with_factors((3, 1, 4)), value_range=(0, 1)),
        DataSpec("pairs", (8, 8, 3), 10, {"small": Feature((4, 4, 3), "float32")}),
    ],
)
def test_made_up_examples_are_like_the_data(spec):
    data = profile._made_up(spec)
    num = min(spec.num_examples, 512)
    shapes = {name: (array.shape, str(array.dtype)) for name, array in data.train.items()}
    expected = spec.abstract_batch(num)
    del expected["index"]
    assert shapes == {name: (leaf.shape, str(leaf.dtype)) for name, leaf in expected.items()}
    low, high = spec.value_range
    assert low <= data.train["image"].min() <= data.train["image"].max() <= high
    if spec.num_classes:
        assert set(np.unique(data.train["label"])) == set(range(spec.num_classes))
    if spec.factor_sizes:
        assert (data.train["factors"].max(0) < spec.factor_sizes).all()

"""Trackers: copies of a run in other programs, which never stop it."""

import glob
import json
import math
import pathlib
import struct
import threading

import pytest
from conftest import tiny_words

from gen_jax import main, trackers
from gen_jax.method import UserError
from gen_jax.run import Run
from gen_jax.writers import Writer, read_metrics


@pytest.fixture
def fake(monkeypatch):
    """A tracker that keeps its calls: (id, function, values)."""
    calls, ids = [], []

    def start(workdir, id, settings):
        id = id or f"run-{len(ids)}"
        ids.append(id)
        calls.append((id, "start", workdir.name, dict(settings)))

        def record(function):
            return lambda *values: calls.append((id, function, *values))

        return trackers.Tracker(id, *map(record, ("scalars", "picture", "files", "end")))

    monkeypatch.setitem(trackers.TRACKERS, "fake", trackers.Kind("json", start))
    return calls


def failing(monkeypatch, name, start):
    monkeypatch.setitem(trackers.TRACKERS, name, trackers.Kind("json", start))


def functions(calls):
    return [call[1] for call in calls]


def test_every_line_goes_on_in_order_without_what_is_no_number(fake, tmp_path):
    with trackers.tracking("fake", Run(tmp_path), {"seed": 3}) as tracked:
        with Writer(tmp_path, 0, "mnist", [tracked]) as writer:
            writer.write(1, {"loss": 0.5, "norm": math.nan, "worst": math.inf})
            writer.pictures(1, {"samples": tmp_path / "a.png"})
            writer.write(2, {"loss": 0.25})
        tracked.files([tmp_path / "report.html"])
    assert fake[0] == ("run-0", "start", tmp_path.name, {"seed": 3})
    times = [record["time"] for record in read_metrics(tmp_path)]
    assert fake[1:] == [
        ("run-0", "scalars", 1, {"loss": 0.5}, times[0]),
        ("run-0", "picture", 1, "samples", tmp_path / "a.png"),
        ("run-0", "scalars", 2, {"loss": 0.25}, times[1]),
        ("run-0", "files", [tmp_path / "report.html"]),
        ("run-0", "end", True),
    ]


def test_a_resumed_run_continues_the_same_one_and_knows_how_it_ended(fake, tmp_path):
    with pytest.raises(SystemExit), trackers.tracking("fake", Run(tmp_path), {}):
        raise SystemExit(75)
    with trackers.tracking("fake", Run(tmp_path), {}):
        pass
    assert [(call[0], call[1]) for call in fake] == [("run-0", "start"), ("run-0", "end")] * 2
    assert [call[2] for call in fake if call[1] == "end"] == [False, True]
    assert json.loads(Run(tmp_path).trackers.read_text()) == {"fake": "run-0"}


@pytest.mark.parametrize("damage", ["", "[1]", '{"fake": 7}', "\x00"])
def test_an_unreadable_list_of_ids_starts_a_new_one(fake, tmp_path, damage):
    Run(tmp_path).trackers.write_text(damage)
    with trackers.tracking("fake", Run(tmp_path), {}):
        pass
    assert functions(fake) == ["start", "end"]


def test_one_that_fails_is_off_with_one_warning_and_the_others_go_on(fake, monkeypatch, tmp_path, caplog):
    def refuse(*_):
        raise OSError("the server\nis gone")

    failing(monkeypatch, "broken", lambda *_: trackers.Tracker("id", refuse, refuse, refuse, refuse))
    failing(monkeypatch, "absent", refuse)
    with (
        trackers.tracking("broken,fake,absent", Run(tmp_path), {}) as tracked,
        Writer(tmp_path, 0, "mnist", [tracked]) as writer,
    ):
        for step in range(1, 6):
            writer.write(step, {"loss": 1.0})
    assert functions(fake) == ["start", *["scalars"] * 5, "end"]
    assert len(read_metrics(tmp_path)) == 5
    said = sorted(record.getMessage() for record in caplog.records)
    assert said == [
        f"tracker {name} is off from here on, while the run goes on: OSError: the server is gone"
        for name in ("absent", "broken")
    ]


def test_one_that_hangs_holds_up_neither_the_run_nor_its_end(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(trackers, "PATIENCE", 0.05)
    monkeypatch.setattr(trackers, "MOST_WAITING", 3)
    released = threading.Event()

    def wait(*_):
        released.wait()

    failing(monkeypatch, "slow", lambda *_: trackers.Tracker("id", wait, wait, wait, wait))
    for reports, reason in ((1, "after 0.05 seconds"), (10, "3 reports behind")):
        caplog.clear()
        with trackers.tracking("slow", Run(tmp_path), {}) as tracked:
            for step in range(reports):
                tracked.write({"step": step, "time": 0.0, "loss": 1.0})
        (record,) = caplog.records
        assert reason in record.getMessage()
    released.set()


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("wandbb", "did you mean wandb?"),
        ("fake,fake", "'fake' more than once"),
        ("missing", "names missing, which is not installed: pip install 'gen_jax[missing]'"),
    ],
)
def test_what_cannot_be_is_one_line(fake, monkeypatch, value, part):
    monkeypatch.setitem(trackers.TRACKERS, "missing", trackers.Kind("no_such_package", lambda *_: None))
    with pytest.raises(UserError) as error:
        trackers.check(value)
    assert part in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.long
def test_a_run_and_its_continuation_report_scalars_pictures_and_the_page(fake, made_up_tfds, tmp_path):
    words = [*tiny_words(made_up_tfds), f"--workdir={tmp_path / 'run'}", "--config.trackers=fake"]
    main.main(words)
    main.main([*words, "--config.num_steps=16"])
    run = Run(tmp_path / "run")
    start, again = (call for call in fake if call[1] == "start")
    assert start[0] == again[0]
    assert start[3]["diffusion.schedule.name"] == "cosine"
    assert start[3]["trained_on"] == "made_up_digits"
    assert [start[3]["num_steps"], again[3]["num_steps"]] == [12, 16]
    reported = [(call[2], call[3]) for call in fake if call[1] == "scalars"]
    losses = [(step, values["train/loss"]) for step, values in reported if "train/loss" in values]
    assert losses == [(line["step"], line["train/loss"]) for line in read_metrics(run.workdir) if "train/loss" in line]
    pictures = [call[2:] for call in fake if call[1] == "picture"]
    assert (6, "samples", run.training / "samples/00000006.png") in pictures
    assert all(path.is_file() for _, _, path in pictures)
    files = [call[2] for call in fake if call[1] == "files"]
    assert files == [[run.report_html, run.report_json, run.config_path]] * 2


# The real ones: pip install -e '.[wandb,mlflow]'.


def reported_run(name, tmp_path, workdir, first=1):
    """Two steps of a run with one picture, and its page at the end."""
    (workdir / "a.png").write_bytes(pathlib.Path(__file__).parent.parent.joinpath("docs/digits.png").read_bytes())
    (workdir / "report.html").write_text("the page")
    settings = {"seed": 3, "optimizer.learning_rate": 0.001, "network.multipliers": (1, 2), "trained_on": "mnist"}
    with trackers.tracking(name, Run(workdir), settings) as tracked:
        for step in (first, first + 1):
            tracked.write({"step": step, "time": 1_700_000_000.5, "data": "mnist", "loss": 1 / 2**step})
            tracked.write({"step": step, "time": 1_700_000_000.5, "eval/fd (n=5)": 2.0 * step})
        tracked.pictures(first + 1, {"samples": workdir / "a.png"})
        tracked.files([workdir / "report.html"])


def in_log(content, block=2**15, header=7):
    """The records of a file of W&B, which has the format of LevelDB's log behind seven bytes of its own."""
    position, record = header, b""
    while position < len(content):
        if (left := block - position % block) < header:  # too few for a header: filled with zeros
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + header : position + header + length]
        position += header + length
        if kind in (1, 4):  # whole, or the last of its parts
            yield record
            record = b""


@pytest.mark.slow
def test_wandb_keeps_it_offline(tmp_path, monkeypatch, caplog):
    pytest.importorskip("wandb", reason="wandb is an extra")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    trackers.check("wandb")
    for first in (1, 3):
        reported_run("wandb", tmp_path, tmp_path, first)
    assert not caplog.records
    id = json.loads(Run(tmp_path).trackers.read_text())["wandb"]
    records = []
    for file in sorted(glob.glob(f"{tmp_path}/wandb/offline-run-*-{id}/run-{id}.wandb")):
        records += map(wandb_internal_pb2.Record.FromString, in_log(pathlib.Path(file).read_bytes()))
    history = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [line["loss"] for line in history] == [0.5, 0.25, 0.125, 0.0625]
    assert [line["_step"] for line in history] == [1, 2, 3, 4]
    assert [line["eval/fd (n=5)"] for line in history] == [2, 4, 6, 8]
    assert any(item.key == "seed" and item.value_json == "3" for r in records for item in r.run.config.update)
    kept = [path.path for record in records if record.HasField("files") for path in record.files.files]
    assert any(path.startswith("media/images/samples") for path in kept)
    names = [entry.path for r in records if r.HasField("artifact") for entry in r.artifact.manifest.contents]
    assert "report.html" in names


@pytest.mark.slow
def test_mlflow_keeps_it_in_a_local_store(tmp_path, monkeypatch, caplog):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is an extra")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    trackers.check("mlflow")
    for first in (1, 3):
        reported_run("mlflow", tmp_path, tmp_path, first)
    assert not caplog.records
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("gen_jax")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == json.loads(Run(tmp_path).trackers.read_text())["mlflow"]
    assert (run.info.status, run.info.run_name) == ("FINISHED", tmp_path.name)
    assert run.data.params["optimizer.learning_rate"] == "0.001"
    assert run.data.params["trained_on"] == "mnist"
    found = [(each.step, each.value, each.timestamp) for each in client.get_metric_history(run.info.run_id, "loss")]
    assert sorted(found) == [(step, 1 / 2**step, 1_700_000_000_500) for step in (1, 2, 3, 4)]
    assert run.data.metrics["eval/fd _n_5_"] == 8.0
    kept = pathlib.Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    assert (kept / "report.html").read_text() == "the page"
    assert (kept / "pictures/samples/a.png").stat().st_size > 0

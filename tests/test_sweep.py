import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
from test_train import without_times

from gen_jax import methods, sweep
from gen_jax.method import UserError
from gen_jax.run import Run
from gen_jax.writers import read_metrics

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = "vae_mnist_dense:tiny"


def trials(*words: str, fixed: tuple[str, ...] = (), num: int | None = None, seed: int = 0) -> list[sweep.Trial]:
    return sweep.trials_of(CONFIG, fixed, words, num, seed)


def test_every_combination_is_a_run_named_after_its_values():
    found = trials("seed=0,1", "optimizer.learning_rate=1e-3,0.01", fixed=("--config.num_steps=7",))
    assert [trial.name for trial in found] == [
        "seed=0,learning_rate=0.001",
        "seed=0,learning_rate=0.01",
        "seed=1,learning_rate=0.001",
        "seed=1,learning_rate=0.01",
    ]
    assert [(trial.config.seed, trial.config.optimizer.learning_rate) for trial in found] == [
        (0, 0.001), (0, 0.01), (1, 0.001), (1, 0.01),
    ]  # fmt: skip
    assert {trial.config.num_steps for trial in found} == {7}
    assert found[1].words == (
        f"--config={CONFIG}", "--config.num_steps=7", "--config.seed=0", "--config.optimizer.learning_rate=0.01",
    )  # fmt: skip


def test_the_words_of_a_run_give_its_config():
    for trial in trials("network.hidden=[8,4],[16],(32,8)", "optimizer=sgd,adam", "eval.judges=,[pixels,turns]"):
        again = methods.override(methods.load(CONFIG)[2], trial.words[1:])
        assert again.to_dict() == trial.config.to_dict()


def test_lists_choices_and_texts_keep_readable_names():
    found = trials("network.hidden=[8,4],[16]", "optimizer=sgd,adam")
    assert [trial.name for trial in found] == [
        "hidden=8x4,optimizer=sgd", "hidden=8x4,optimizer=adam", "hidden=16,optimizer=sgd", "hidden=16,optimizer=adam",
    ]  # fmt: skip
    assert found[0].config.network.hidden == (8, 4)
    assert [trial.name for trial in trials("eval.judges=,[pixels,turns]")] == ["judges=none", "judges=pixels,turns"]
    path, same = (trials(f"data.name=image_folder:{name}")[0].name for name in ("a/b", "a_b"))
    assert path.startswith("name=image_folder_")
    assert path != same
    assert "/" not in path


def test_a_name_is_a_folder_however_long_its_values_are():
    name = sweep.name_of({"hidden": (512,) * 100})
    assert len(name) < 200
    assert name != sweep.name_of({"hidden": (512,) * 101})


def test_a_draw_has_no_repeats_and_a_larger_one_continues_it():
    axes = [["a", "b", "c"], ["1", "2", "3", "4"]]
    whole = sweep.combinations(axes)
    drawn = [sweep.combinations(axes, num, 5) for num in (4, 12)]
    assert drawn[1][:4] == drawn[0]
    assert sorted(drawn[1]) == sorted(whole)
    assert drawn[0] != sweep.combinations(axes, 4, 6)
    with pytest.raises(UserError, match="only 12 combinations"):
        sweep.combinations(axes, 13)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("seed=0,0",), "would be seed=0: give each value once"),
        (("ema=0.5,5e-1",), "would be ema=0.5"),
        (("seed=0", "seed=1"), "seed is given more than once"),
        (("optimizer=sgd", "optimizer.name=adam"), "optimizer is given more than once"),
        (("seed",), "has no values"),
        (("sede=0,1",), "sede=0: no config value 'sede'; did you mean seed?"),
        (("seed=0,one",), "seed=one: config.seed must be a whole number"),
        (("seed=0", "ema=0.5,2"), "seed=0 ema=2: config.ema is 2.0: the decay of a moving average must be in [0, 1)"),
        (("network.hidden=8,4",), "network.hidden is a list: put each of its values into brackets"),
        (("optimizer=adam,sgd", "optimizer.b2=0.9"), "optimizer=sgd optimizer.b2=0.9: config.optimizer.b2"),
    ],
)
def test_mistakes_are_found_before_anything_trains(words, part):
    with pytest.raises(UserError) as caught:
        trials(*words)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_commas_in_a_value_of_every_run_are_explained():
    with pytest.raises(UserError, match="not '0,1'; to sweep over it, write seed=0,1"):
        trials("ema=0.5", fixed=("--config.seed=0,1",))


class Stub:
    """Processes that end after some looks at them, with the exit codes of `codes` by name (default 0)."""

    def __init__(self, codes: dict[str, int] | None = None, looks: int = 2):
        self.codes, self.looks, self.reason = codes or {}, looks, "a reason"
        self.started: list[str] = []
        self.places: list[sweep.Place] = []
        self.alive = self.most = 0

    def __call__(self, trial: sweep.Trial, folder: pathlib.Path, place: sweep.Place):
        self.started.append(trial.name)
        self.places.append(place)
        self.alive += 1
        self.most = max(self.most, self.alive)
        return StubProcess(self, trial, folder)


class StubProcess:
    def __init__(self, stub: Stub, trial: sweep.Trial, folder: pathlib.Path):
        self.stub, self.trial, self.folder, self.left, self.code = stub, trial, folder, stub.looks, None

    def poll(self) -> int | None:
        self.left -= 1
        if self.left <= 0 and self.code is None:
            self.code = self.stub.codes.get(self.trial.name, 0)
            self.stub.alive -= 1
            if self.code == 0:
                finish(self.folder / self.trial.name, self.trial.config)
            else:
                log = sweep.log_of(self.trial, self.folder)
                log.parent.mkdir(exist_ok=True)
                log.write_text(f"starting\ngen_jax: {self.stub.reason}\n\n")
        return self.code

    def terminate(self) -> None:
        self.stub.codes[self.trial.name], self.left = 75, 0

    kill = terminate


def finish(workdir: pathlib.Path, config) -> None:
    """What a run that has finished leaves behind, as far as a sweep reads it."""
    run = Run(workdir)
    run.write_config({"config": config.to_dict(), "data": {}, "versions": {"gen_jax": "0.2.0"}})
    run.report_json.write_text(json.dumps({"finished_step": config.num_steps}))
    run.report_html.touch()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(sweep, "_PAUSE", 0.001)


def run_all(folder: pathlib.Path, found: list[sweep.Trial], stub: Stub, parallel: int = 1) -> dict:
    folder.mkdir(exist_ok=True)
    side_by_side = sweep.places(parallel, cores=[3, 5])
    sweep.train_all(found, folder, sweep.Ledger(folder / "sweep.json", "the command"), side_by_side, stub)
    return json.loads((folder / "sweep.json").read_text())


def states(folder: pathlib.Path) -> dict[str, str]:
    runs = json.loads((folder / "sweep.json").read_text())["runs"]
    return {name: entry["state"] for name, entry in runs.items()}


def test_runs_come_in_order_and_none_is_repeated(tmp_path, capsys):
    found, stub = trials("seed=0,1,2"), Stub()
    ledger = run_all(tmp_path / "s", found, stub)
    assert stub.started == ["seed=0", "seed=1", "seed=2"]
    assert stub.most == 1
    assert ledger["command"] == "the command"
    assert ledger["runs"]["seed=1"]["words"] == [f"--config={CONFIG}", "--config.seed=1"]
    assert set(states(tmp_path / "s").values()) == {"finished"}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}/s: 3 runs, 0 of them finished before"
    assert lines[-1] == "seed=2: finished after 0 s; 0 runs left"
    assert lines[2] == "seed=0: finished after 0 s; 2 runs left, about 0 s"
    run_all(tmp_path / "s", trials("seed=0,1,2,3"), stub)
    assert stub.started[3:] == ["seed=3"]


def test_several_run_side_by_side_but_no_more(tmp_path):
    stub = Stub(looks=4)
    run_all(tmp_path / "s", trials("seed=0,1,2,3,4"), stub, parallel=2)
    assert stub.most == 2
    assert len(stub.started) == 5
    assert stub.places == [
        sweep.Place((3,)),
        sweep.Place((5,)),
        sweep.Place((3,)),
        sweep.Place((5,)),
        sweep.Place((3,)),
    ]


def test_runs_side_by_side_share_the_cores_or_the_gpus():
    assert sweep.places(1, cores=[0, 1]) == [sweep.Place()]
    assert sweep.places(3, cores=[0, 1, 2, 3, 4, 5, 6]) == [
        sweep.Place((0, 3, 6)), sweep.Place((1, 4)), sweep.Place((2, 5)),
    ]  # fmt: skip
    assert sweep.places(3, cores=[0, 1]) == [sweep.Place()] * 3
    assert [each.gpu for each in sweep.places(3, ["0", "2"])] == ["0", "2", "0"]


@pytest.mark.parametrize("words", [("--gpus=0,1",), ("--gpus=0,1", "--parallel=1"), ("--parallel=2",)])
def test_the_places_of_a_command_line(words, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(sweep, "train_all", lambda trials, folder, ledger, places: asked.extend(places))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    sweep.main([f"--config={CONFIG}", "seed=0,1", f"--workdir={tmp_path / 's'}", *words])
    expected = {
        ("--gpus=0,1",): [sweep.Place(gpu="0"), sweep.Place(gpu="1")],
        ("--gpus=0,1", "--parallel=1"): [sweep.Place(gpu="0")],
        ("--parallel=2",): [sweep.Place((0,)), sweep.Place((1,))],
    }
    assert asked == expected[words]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not tell cores")
@pytest.mark.parametrize("place", [sweep.Place(gpu="7"), sweep.Place((min(os.sched_getaffinity(0)),))])
def test_a_process_has_its_place(place, tmp_path, monkeypatch):
    asked = "import os; print(sorted(os.sched_getaffinity(0)), os.environ.get('CUDA_VISIBLE_DEVICES', ''))"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(sweep, "_PROGRAM", ("python", "-c", "import time; time.sleep(0.3); " + asked))
    trial = sweep.Trial("seed=0", (), None)
    process = sweep.start_process(trial, tmp_path, place)
    while process.poll() is None:
        time.sleep(0.05)
    cores = place.cores or sorted(os.sched_getaffinity(0))
    assert sweep.log_of(trial, tmp_path).read_text() == f"{sorted(cores)} {place.gpu}\n"


def test_a_failure_is_passed_over_told_and_tried_again(tmp_path, capsys):
    found, stub = trials("seed=0,1,2"), Stub({"seed=1": 2})
    with pytest.raises(UserError, match="1 of 3 runs failed"):
        run_all(tmp_path / "s", found, stub)
    assert states(tmp_path / "s") == {"seed=0": "finished", "seed=1": "failed", "seed=2": "finished"}
    told = capsys.readouterr()
    assert "seed=1: failed after 0 s (a reason); 1 run left" in told.out
    assert told.err == f"gen_jax: seed=1 failed: a reason; see {tmp_path}/s/logs/seed=1.log\n"
    again = Stub()
    ledger = run_all(tmp_path / "s", found, again)
    assert again.started == ["seed=1"]
    assert "message" not in ledger["runs"]["seed=1"]


def test_a_run_that_another_process_trains_waits_while_others_start(tmp_path, capsys):
    found, stub = trials("seed=0,1"), Stub()
    folder = tmp_path / "s"
    holder = Run(folder / "seed=0").lock()
    holder.__enter__()

    def start(trial, where, place):
        if trial.name == "seed=1":
            holder.__exit__(None, None, None)
        return stub(trial, where, place)

    sweep.train_all(found, folder, sweep.Ledger(folder / "sweep.json", ""), start=start)
    assert stub.started == ["seed=1", "seed=0"]
    assert capsys.readouterr().out.count("seed=0: another process trains there; it comes later") == 1


def test_a_run_that_another_process_took_just_before_is_no_failure(tmp_path):
    stub = Stub({"seed=0": 2})
    stub.reason = "runs/s/seed=0 is in use by process 1 on host"

    def start(trial, where, place):
        if len(stub.started) == 1:
            assert states(tmp_path / "s")["seed=0"] == "running"
            stub.codes.clear()
        return stub(trial, where, place)

    (tmp_path / "s").mkdir()
    found = trials("seed=0")
    sweep.train_all(found, tmp_path / "s", sweep.Ledger(tmp_path / "s/sweep.json", ""), start=start)
    assert stub.started == ["seed=0", "seed=0"]
    assert states(tmp_path / "s") == {"seed=0": "finished"}


def test_a_stop_signal_stops_the_runs_and_starts_no_more(tmp_path, capsys):
    stub = Stub(looks=10**9)
    found, folder = trials("seed=0,1"), tmp_path / "s"

    def start(trial, where, place):
        os.kill(os.getpid(), signal.SIGTERM)
        return stub(trial, where, place)

    folder.mkdir()
    with pytest.raises(SystemExit) as end:
        sweep.train_all(found, folder, sweep.Ledger(folder / "sweep.json", ""), start=start)
    assert end.value.code == 75
    assert states(folder) == {"seed=0": "stopped", "seed=1": "waiting"}
    assert "2 runs left; the same command continues" in capsys.readouterr().err


def test_what_was_trained_otherwise_is_refused_before_anything_trains(tmp_path):
    finish(tmp_path / "seed=0", trials("seed=0", fixed=("--config.ema=0.5",))[0].config)
    words = [f"--config={CONFIG}", "seed=0,1", f"--workdir={tmp_path}", "--dry_run"]
    with pytest.raises(UserError, match="seed=0 holds a run with another config .ema: 0.5 -> "):
        sweep.main(words)
    finish(tmp_path / "seed=0", trials("seed=0", fixed=("--config.num_steps=400",))[0].config)
    with pytest.raises(UserError, match="was trained for 400 steps, but"):
        sweep.main(words)


def test_a_ledger_cut_short_is_one_line(tmp_path):
    (tmp_path / "sweep.json").write_text('{"runs": {"se')
    with pytest.raises(UserError, match="delete it, and it is made anew from the runs"):
        sweep.Ledger(tmp_path / "sweep.json", "")


def test_a_killed_process_and_a_silent_one_have_a_reason(tmp_path):
    (tmp_path / "log").write_text("\n")
    assert sweep.reason(-9, tmp_path / "log") == "killed by SIGKILL"
    assert sweep.reason(3, tmp_path / "log") == "ended with code 3"
    assert sweep.reason(3, tmp_path / "none") == "ended with code 3"


def test_a_process_that_is_refused_leaves_its_line_in_the_log(tmp_path):
    trial = sweep.Trial("seed=0", ("--config=no_such_config", "--config.seed=0"), None)
    process = sweep.start_process(trial, tmp_path, sweep.Place())
    while process.poll() is None:
        time.sleep(0.05)
    assert process.poll() == 2
    assert sweep.reason(2, sweep.log_of(trial, tmp_path)).startswith("no config no_such_config;")


@pytest.mark.slow
def test_a_sweep_killed_at_random_moments_equals_an_undisturbed_one(tmp_path, made_up_tfds):
    values = ["num_steps=20", "log_every=2", "eval_every=10", "checkpoint_every=4", "batch_size=16", "sample.num=20",
              "sample.batch_size=20", "eval.num_examples=20", "eval.classifier_steps=10"]  # fmt: skip
    fixed = [f"--config.{each}" for each in (*values, "data.name=made_up_mnist", f"data.data_dir={made_up_tfds}")]
    words = [sys.executable, "-m", "gen_jax.sweep", f"--config={CONFIG}", "seed=0,1", *fixed]

    def start(folder: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*words, f"--workdir={tmp_path / folder}"], cwd=ROOT)

    began = time.monotonic()
    assert start("whole").wait() == 0
    duration = time.monotonic() - began
    moments, kills = random.Random(0), 0
    for _ in range(3):
        process = start("killed")
        try:
            process.wait(moments.uniform(0.05, 0.6) * duration)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
    assert kills
    assert start("killed").wait() == 0
    ledgers = [json.loads((tmp_path / folder / "sweep.json").read_text())["runs"] for folder in ("whole", "killed")]
    for entry in (*ledgers[0].values(), *ledgers[1].values()):
        entry.pop("seconds", None)
    assert ledgers[0] == ledgers[1]
    assert len(ledgers[0]) == 2
    for name in ledgers[0]:
        whole, killed = (Run(tmp_path / folder / name) for folder in ("whole", "killed"))
        assert without_times(read_metrics(whole.workdir)) == without_times(read_metrics(killed.workdir))
        assert whole.read_report() == killed.read_report()

"""The loop: a run from end to end, and what survives its death."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from conftest import tiny_words

from gen_jax import config as configs
from gen_jax import evaluate, finish, judges, main, methods, optimizer, parallel, sample, train
from gen_jax.checkpoint import Checkpoints
from gen_jax.data import dataset
from gen_jax.method import DataSpec, Method, State, UserError
from gen_jax.run import Run
from gen_jax.writers import read_metrics

pytestmark = pytest.mark.long


def final_state(workdir):
    run = Run(workdir)
    record = run.read_config()
    spec = DataSpec.from_dict(record["data"])
    method = methods.make(methods.stored(record), spec)
    with Checkpoints(run.checkpoints) as checkpoints:
        return checkpoints.restore(methods.abstract_state(method, spec, None, parallel.make_mesh()))


def assert_same_bits(one, two):
    def compare(a, b):
        if jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()

    jax.tree.map(compare, one, two)


def command(words, workdir):
    return [sys.executable, "-m", "gen_jax.main", *words, f"--workdir={workdir}"]


def without_times(records):
    clocks = ("time", "seconds", "speed/images_per_second")
    return [{k: v for k, v in record.items() if k not in clocks} for record in records]


def test_a_run_leaves_what_it_promises(tiny_run):
    assert (tiny_run / "report.html").stat().st_size > 10_000
    steps = sorted(int(p.name) for p in (tiny_run / "checkpoints").iterdir() if p.name.isdigit())
    assert steps == [4, 8, 12]
    records = read_metrics(tiny_run)
    assert [r["step"] for r in records if "train/loss" in r] == [2, 4, 6, 8, 10, 12]
    assert [r["step"] for r in records if "eval/loss" in r] == [6, 12]
    frames = [f"{step:08}{suffix}" for step in (6, 12) for suffix in (".npz", ".png")]
    assert sorted(p.name for p in (tiny_run / "training/samples").iterdir()) == frames
    assert np.load(tiny_run / "samples.npz")["arr_0"].shape == (70, 8, 8, 1)
    names = {row["name"] for row in json.loads((tiny_run / "report.json").read_text())["metrics"]}
    assert {"test_loss", "frechet_distance/classifier_70", "recall/classifier_70"} <= names
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["data"]["name"] == "made_up_digits"
    total = sum(row["parameters"] for row in config["parameters"]["denoiser"])
    assert total > 1000
    assert f"Total: {total:,}" in (tiny_run / "parameters.txt").read_text()
    assert list((tiny_run / "tensorboard").glob("events*"))


def said_of_itself(path):
    """What a file of a run says without another one beside it."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return str(file["meta"] if "meta" in file else file["data"])
    if path.suffix in (".png", ".gif"):
        with PIL.Image.open(path) as opened:
            return str(opened.info)
    return path.read_text(errors="replace")


def test_every_file_names_the_data_really_used(tiny_run):
    checkpoints = tiny_run / "checkpoints"
    kept = {checkpoints, tiny_run / "best"}
    whole = [path for path in tiny_run.rglob("*") if path.is_file() and not kept & {*path.parents}]
    silent = [path.name for path in whole if "made_up_digits" not in said_of_itself(path)]
    assert silent == ["lock"]
    assert {path.suffix for path in whole} >= {".npz", ".png", ".gif", ".json", ".jsonl", ".html"}
    about = [json.loads(path.read_text()) for folder in kept for path in folder.glob("[0-9]*/about.json")]
    assert [said["data"] for said in about] == ["made_up_digits"] * 4


def test_the_best_checkpoint_stays_beside_the_last(tiny_run):
    name = "eval/frechet_distance/classifier_70"
    distances = {record["step"]: record[name] for record in read_metrics(tiny_run) if name in record}
    assert distances.keys() == {6, 12}
    model = sample.load(tiny_run, ("--config.sample.checkpoint=best",))
    assert int(model.state.step) == min(distances, key=distances.__getitem__)
    data = dataset.load(model.config.data)
    track = judges.make_tracker(model.config, data)
    assert track is not None
    asked = evaluate.asked(model.method, data.spec, 70)
    tracked = track(model.generate(model.state, 70, asked, 2**32 - 1)[0])
    assert tracked == {name.removeprefix("eval/"): pytest.approx(min(distances.values()), rel=1e-4)}
    # The best of many looks is judged by other samples than those that it was chosen by.
    judged = model.generate(model.state, 70, asked, 0)[0]
    assert track(judged) != tracked


def test_a_finished_run_says_so_and_how_to_go_on(tiny_run, made_up_tfds, capsys):
    before = (tiny_run / "report.html").stat().st_mtime_ns
    main.main([*tiny_words(made_up_tfds), f"--workdir={tiny_run}"])
    said = capsys.readouterr().out
    assert "finished at step 12" in said
    assert "--config.num_steps=24" in said
    assert (tiny_run / "report.html").stat().st_mtime_ns == before


def test_another_checkpoint_that_was_judged_leaves_the_run_finished(tiny_run, made_up_tfds, tmp_path, capsys):
    run = Run(tmp_path / "run")
    shutil.copytree(tiny_run, run.workdir)
    evaluate.write_report(run, {"metrics": [], "facts": {"checkpoint_step": 6}})  # --mode=eval of the best, say
    main.main([*tiny_words(made_up_tfds), f"--workdir={run.workdir}"])
    assert "finished at step 12" in capsys.readouterr().out
    assert run.read_report()["facts"]["checkpoint_step"] == 6


def test_a_run_that_went_on_and_was_killed_before_its_page_gets_the_new_page(
    tiny_run, made_up_tfds, tmp_path, monkeypatch
):
    def killed(workdir):
        raise KeyboardInterrupt

    run = Run(tmp_path / "run")
    shutil.copytree(tiny_run, run.workdir)
    words = [*tiny_words(made_up_tfds), f"--workdir={run.workdir}", "--config.num_steps=13"]
    with monkeypatch.context() as patched:
        patched.setattr(finish.report, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            main.main(words)
    assert run.read_report()["finished_step"] == 13
    main.main(words)
    assert "step 13" in run.report_html.read_text()


@pytest.mark.parametrize("lost", ["report.html", "report.json"])
def test_a_run_whose_report_is_lost_or_damaged_is_judged_again(tiny_run, made_up_tfds, tmp_path, lost):
    run = Run(tmp_path / "run")
    shutil.copytree(tiny_run, run.workdir)
    (run.workdir / lost).unlink() if lost == "report.html" else run.report_json.write_text("{cut sh")
    main.main([*tiny_words(made_up_tfds), f"--workdir={run.workdir}"])
    assert run.report_html.is_file()
    assert run.finished_step == run.read_report()["facts"]["checkpoint_step"] == 12


def test_the_classifier_of_tracked_distances_stays_the_same(tiny_run, made_up_tfds):
    with pytest.raises(UserError, match="eval.classifier_steps: 10 -> 11"):
        main.main([*tiny_words(made_up_tfds), "--config.eval.classifier_steps=11", f"--workdir={tiny_run}"])


def test_killed_and_resumed_is_the_same_run_bit_by_bit(tiny_run, made_up_tfds, tmp_path):
    words = tiny_words(made_up_tfds)
    process = subprocess.Popen(command(words, tmp_path / "run"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while process.poll() is None and not any((tmp_path / "run/checkpoints").glob("[0-9]*")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_at = max([r["step"] for r in read_metrics(tmp_path / "run")], default=0)
    assert not (tmp_path / "run/report.html").exists()

    main.main([*words, f"--workdir={tmp_path / 'run'}"])
    assert killed_at < 12
    assert_same_bits(final_state(tmp_path / "run"), final_state(tiny_run))
    assert without_times(read_metrics(tmp_path / "run")) == without_times(read_metrics(tiny_run))
    for name in ("samples.npz", "training/samples/00000006.npz"):
        first, second = (np.load(w / name) for w in (tmp_path / "run", tiny_run))
        np.testing.assert_array_equal(*[file[file.files[0]] for file in (first, second)])


def test_what_changes_the_rounding_of_a_resumed_run_is_named():
    now = {
        "versions": {"jax": "0.12.0", "optax": "0.2.8", "numpy": "2.4"},
        "devices": {"platform": "cpu", "kind": "cpu", "count": 8},
        "xla_flags": "--xla_a=1",
    }
    before = {
        "versions": {"jax": "0.12.0", "optax": "0.2.6", "numpy": "2.1"},
        "devices": {"platform": "cpu", "kind": "cpu", "count": 1},
        "xla_flags": "",
    }
    assert train.other_rounding(now, now) == ""
    line = train.other_rounding(before, now)
    assert line.count("\n") == 1
    assert "optax 0.2.6 -> 0.2.8, device count 1 -> 8, XLA_FLAGS '' -> '--xla_a=1'" in line
    assert train.other_rounding({"config": {}, "data": {}}, now) == ""  # of a version that recorded none of them


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_a_signal_saves_and_the_same_command_goes_on(tiny_run, made_up_tfds, tmp_path, number):
    words = [*tiny_words(made_up_tfds), "--config.num_steps=100000", "--config.checkpoint_every=100000",
             "--config.optimizer.decay=none"]  # fmt: skip
    before = signal.signal(number, signal.SIG_DFL)  # nohup has these tests ignore one, and what they start
    process = subprocess.Popen(command(words, tmp_path), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    signal.signal(number, before)
    deadline = time.monotonic() + 200
    while process.poll() is None and len(read_metrics(tmp_path)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert "saved; the same command resumes from here" in said
    assert process.returncode == 75
    (saved,) = [int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
    assert saved == max(r["step"] for r in read_metrics(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_every_signal_that_asks_for_an_end_is_heard_unless_it_was_ignored(number):
    other = signal.SIGTERM if number != signal.SIGTERM else signal.SIGHUP
    before = signal.getsignal(number)
    before_other = signal.signal(other, signal.SIG_DFL)  # nohup may have these tests ignore it
    try:
        signal.signal(number, signal.SIG_DFL)
        with train.StopRequests() as asked:
            assert not asked()
            signal.raise_signal(number)
            assert asked()
            if number == signal.SIGINT:
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(number)
        assert signal.getsignal(number) == signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)  # as nohup does, and a script for what it starts in the background
        with train.StopRequests() as asked:
            signal.raise_signal(number)
            assert not asked()
            signal.raise_signal(other)
            assert asked()
            assert signal.getsignal(number) == signal.SIG_IGN
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)
        signal.signal(other, before_other)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("--config.batch_size=12", "does not divide over 8 devices"),
        ("--config.num_devices=9", "has 8"),
        ("--config.data.name=made_up_digit", "made_up_digits"),
        ("--config.method=dpm", "did you mean ddpm?"),
        ("--config.diffusion.prediction=eps", "use 'v' or 'x'"),
        ("--config.diffusion.schedule=cosin", "did you mean cosine?"),
        ("--config.sample.sampler=ddimm", "did you mean ddim?"),
        ("--config.sample.num_steps=0", "0"),
        ("--config.sample.num_steps=1001", "1000"),
        ("--config.sample.spacing=even", "trailing"),
        ("--config.sample.variance=medium", "small"),
        ("--config.network.norm=batch", "rms"),
        ("--config.ema=1.5", "[0, 1)"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_any_work(made_up_tfds, tmp_path, word, line):
    sampler = ["--config.sample.sampler=ancestral"] if "variance" in word else []
    with pytest.raises(UserError) as error:
        main.main([*tiny_words(made_up_tfds), *sampler, word, f"--workdir={tmp_path}"])
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "config.json").exists()


def test_another_config_in_the_same_directory_is_refused_and_nothing_is_lost(tiny_run, made_up_tfds):
    def files():
        return sorted((p, p.stat().st_mtime_ns) for p in tiny_run.rglob("*") if p.is_file() and p.name != "lock")

    before = files()
    with pytest.raises(UserError, match=r"\(seed: 0 -> 5\); restore these values"):
        main.main([*tiny_words(made_up_tfds), "--config.seed=5", f"--workdir={tiny_run}"])
    with pytest.raises(UserError, match="data.name"):
        main.main([*tiny_words(made_up_tfds), "--config.data.name=made_up_unlabelled", f"--workdir={tiny_run}"])
    assert files() == before


def test_loss_that_is_not_finite_stops_the_run_and_is_never_saved(made_up_tfds, tmp_path):
    words = [*tiny_words(made_up_tfds), "--config.optimizer.name=sgd", "--config.optimizer.learning_rate=1e30",
             "--config.optimizer.clip_norm=0", "--config.optimizer.warmup_steps=0"]  # fmt: skip
    with pytest.raises(UserError, match="not finite at step .*; no checkpoint has been written yet; ") as error:
        main.main([*words, f"--workdir={tmp_path}"])
    assert "start afresh in another --workdir" in str(error.value)  # this one takes no other config
    assert "--config.optimizer.learning_rate than 1e+30, or with --config.optimizer.clip_norm=1" in str(error.value)
    assert not [p for p in (tmp_path / "checkpoints").glob("*") if p.name.isdigit()]


def test_a_loss_that_is_not_finite_names_the_newest_checkpoint_that_there_is(tmp_path):
    config = methods.load("ddpm_mnist:tiny")[2]  # which clips gradients: there is nothing to advise
    state = State(jnp.int32(4), parallel.make_key(0), {"net": jnp.ones(2)}, {}, {}, {}, {})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)  # it may still be on its way
        with pytest.raises(UserError, match=r"at step 9: loss; the newest checkpoint is from step 4; .* than 0\.02$"):
            train._stop_if_not_finite(config, {"loss": float("nan")}, state, 9, checkpoints)


def test_a_run_that_goes_on_with_other_devices_is_told_what_it_can_change(tiny_run, made_up_tfds, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    words = [*tiny_words(made_up_tfds), f"--workdir={tmp_path / 'run'}"]
    with pytest.raises(UserError, match=r"batch_size 16 does not divide over 7 .* use --config\.num_devices=4$"):
        main.main([*words, "--config.num_devices=7"])
    main.main([*words, "--config.num_devices=4"])


@pytest.mark.slow
def test_several_steps_a_call_train_as_single_steps_do(tiny_run, made_up_tfds, tmp_path, monkeypatch):
    monkeypatch.setattr(finish, "finish", lambda *_, **__: None)  # its samples and page would tell nothing more
    main.main([*tiny_words(made_up_tfds), "--config.steps_per_call=2", f"--workdir={tmp_path}"])
    one, two = final_state(tiny_run), final_state(tmp_path)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), one.params, two.params)


def critic(pieces):
    """A method of two steps of descent on |w - x|^2 a call, each on a batch of its own in `pieces`: as a critic has."""

    def step(state, batch):
        w = state.params
        for number in range(2):
            share = jax.tree.map(lambda leaf, number=number: leaf[number], batch)

            def loss(w, share):
                x = share["image"].astype(jnp.float32).mean((1, 2)) + share["index"][:, None]
                return jnp.mean(jnp.sum((w - x) ** 2, -1)), {"loss": jnp.float32(0)}

            _, gradient = optimizer.value_and_grad(loss, w, share, pieces)
            w = w - 0.1 * parallel.mean_over_devices(gradient)
        return state.replace(params=w, step=state.step + 1), {"loss": jnp.sum(w)}

    return Method(lambda key, examples, frozen: None, step, None, None, None, batches_per_step=2)  # type: ignore


@pytest.mark.parametrize("executor", ["jit", "pmap"])
@pytest.mark.parametrize("calls", [1, 2])
def test_pieces_of_a_batch_and_several_batches_a_step_go_together(executor, calls):
    """Against the descent in numpy on whole batches: every row counts once, in its own batch."""
    config = configs.base_config()
    config.update(batch_size=8, accumulate=2, steps_per_call=calls, seed=3)
    images = np.random.default_rng(0).integers(0, 256, (11, 2, 2, 3), np.uint8)
    data = dataset.Dataset(DataSpec("made_up", (2, 2, 3), 11), {"image": images}, None)
    mesh, method = parallel.make_mesh(4), critic(2)
    run = parallel.make_executor(executor, mesh)
    feed, lead = train.make_feed(config, method, data, run)
    state = State(jnp.int32(0), parallel.make_key(0), jnp.zeros(3), {}, {}, {}, {})
    state = jax.jit(lambda: state, out_shardings=parallel.replicated(mesh))()
    update = run.compile_step(train.many_steps(method.step, calls), state, feed(0), lead)
    for step in range(0, 2, calls):
        state, _ = update(state, feed(step))

    batches, w = dataset.Batches(data.train, 8, seed=3, batches_per_step=2), np.zeros(3)
    for step in range(2):
        for rows, index in zip(*(batches.batch(step)[k] for k in ("image", "index")), strict=True):
            w = w - 0.1 * 2 * (w - (rows.mean((1, 2)) + index[:, None]).mean(0))
    np.testing.assert_allclose(state.params, w, rtol=1e-5)


PATIENCE = 900  # seconds, for processes that share a machine with whatever else runs there


@pytest.fixture
def start():
    """Starts a process that trains, with so many devices of its own; none outlives its test."""
    started = []

    def start(words, workdir, devices, *more):
        environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        line = [*command(words, workdir), *more]
        started.append(subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def start_two(start):
    """Starts two processes of one run, that find each other on this machine."""

    def start_two(words, workdir, devices=1):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"--coordinator=localhost:{free.getsockname()[1]}"
        return [start(words, workdir, devices, address, "--num_processes=2", f"--process_id={i}") for i in range(2)]

    return start_two


def end(*processes):
    for process in processes:
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said


def wait_for(sign, processes):
    deadline = time.monotonic() + PATIENCE
    while not sign():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


def vae_words(data_dir):
    """A VAE of 1,900 parameters on 8x8 digits: of all methods it starts the soonest."""
    config = main.pathlib.Path(main.__file__).parents[1] / "configs/vae_mnist.py"
    values = {"data.name": "made_up_digits", "data.data_dir": data_dir, "batch_size": 16, "num_steps": 100_000,
              "log_every": 2, "eval_every": 100_000, "checkpoint_every": 4, "sample.num": 20, "sample.batch_size": 20,
              "eval.num_examples": 20, "eval.classifier_steps": 10, "optimizer.decay": "none"}  # fmt: skip
    return [f"--config={config}:tiny", *(f"--config.{key}={value}" for key, value in values.items())]


@pytest.mark.slow
def test_two_processes_train_one_run_as_a_single_one_does(made_up_tfds, tmp_path, start, start_two):
    # Plain descent: Adam and Muon turn a difference in the last digit of a small gradient into a step.
    words = [*tiny_words(made_up_tfds), "--config.optimizer.name=sgd", "--config.optimizer.learning_rate=0.1"]
    end(*start_two(words, tmp_path / "two", devices=2), start(words, tmp_path / "one", 4))
    one, two = final_state(tmp_path / "one"), final_state(tmp_path / "two")
    assert int(one.step) == int(two.step) == 12
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one.params, two.params)
    samples = [np.load(tmp_path / name / "samples.npz")["arr_0"].astype(int) for name in ("one", "two")]
    np.testing.assert_allclose(*samples, atol=2)
    assert (tmp_path / "two/report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("shardings", [("replicated",) * 4, ("fsdp",) * 4, ("fsdp", "replicated", "fsdp", "fsdp")])
def test_a_run_goes_on_with_any_number_of_devices_and_processes(made_up_tfds, tmp_path, start, start_two, shardings):
    """8 devices, then 2 processes of 2, then 1 device, then 2 of 2 again: as one device all the way."""
    words = [
        *vae_words(made_up_tfds),
        "--config.optimizer.name=sgd",
        "--config.optimizer.learning_rate=1e-3",
        "--config.network.hidden=64",
    ]  # fmt: skip  arrays that are large enough to be spread
    moved, straight = tmp_path / "moved", tmp_path / "straight"
    for num_steps, devices, sharding in zip((4, 6, 8, 12), (8, None, 1, None), shardings, strict=True):
        more = [*words, f"--config.num_steps={num_steps}", f"--config.sharding={sharding}"]
        end(*(start_two(more, moved, devices=2) if devices is None else [start(more, moved, devices)]))
        assert Checkpoints(moved / "checkpoints").latest() == num_steps
    end(start([*words, "--config.num_steps=12"], straight, 1))
    one, other = final_state(straight), final_state(moved)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one.params, other.params)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_loses_another_ends_with_one_line_and_the_run_goes_on(made_up_tfds, tmp_path, start_two, lost):
    words = vae_words(made_up_tfds)
    processes = start_two(words, tmp_path)
    wait_for(lambda: any((tmp_path / "checkpoints").glob("[0-9]*")), processes)
    processes[lost].send_signal(signal.SIGKILL)
    _, said = processes[1 - lost].communicate(timeout=PATIENCE)
    assert processes[1 - lost].returncode not in (0, None)
    assert "another process of the run was lost" in said  # by Python, or by the watcher of one that JAX aborted
    assert "resumes from the newest checkpoint" in said
    assert "Traceback" not in said
    assert "was killed, or another process of the run was lost" in processes[lost].communicate()[1]

    saved = Checkpoints(tmp_path / "checkpoints").latest()
    end(*start_two([*words, f"--config.num_steps={saved + 4}"], tmp_path))
    assert Checkpoints(tmp_path / "checkpoints").latest() == saved + 4


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_one_step(made_up_tfds, tmp_path, start_two):
    processes = start_two([*vae_words(made_up_tfds), "--config.checkpoint_every=100000"], tmp_path)
    wait_for(lambda: len(read_metrics(tmp_path)) > 1, processes)
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        assert "saved; the same command resumes from here" in process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 75
    assert Checkpoints(tmp_path / "checkpoints").latest() == max(r["step"] for r in read_metrics(tmp_path))


def test_a_rest_that_calls_cannot_divide_is_refused(tiny_run, made_up_tfds, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    words = [f"--config.{key}=20" for key in ("num_steps", "log_every", "eval_every", "checkpoint_every")]
    with pytest.raises(UserError, match=r"the 8 remaining steps.*--config.steps_per_call=1"):
        main.main([*tiny_words(made_up_tfds), *words, "--config.steps_per_call=5", f"--workdir={tmp_path / 'run'}"])


def test_the_command_line_ends_a_mistake_with_one_line(tmp_path):
    for words, code in ((["--config.seed=1"], 2), (["--config=nowhere.py"], 2), (["--mode=dream"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "gen_jax.main", *words], cwd=tmp_path, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(main.pathlib.Path(main.__file__).parents[1])}, timeout=100,
        )  # fmt: skip
        assert done.returncode == code
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_the_time_that_is_left_is_told_from_the_first_calls_of_the_run_itself(monkeypatch):
    clock = iter([0.0, 1.0, 2.0, 3.0, 7.0, 9.0, 13.0, 15.0])  # the last four calls take 4, 2, 4 and 2 s
    monkeypatch.setattr(train.time, "perf_counter", lambda: next(clock))
    lines = []
    assert list(train._timed(range(20), 20, steps_per_call=4, say=lines.append)) == list(range(20))
    assert lines == ["  time        about 1.0 minutes (750.0 ms a step, measured)"]


@pytest.mark.parametrize("name", main.SWITCHES)
def test_what_jax_is_set_to_in_the_environment_has_no_effect_and_is_named(name):
    others = {True: "0", False: "1", "standard": "strict", "allow": "disallow"}
    value = "raise" if "rank" in name else others[main.SWITCHES[name]]
    code = f"import jax; from gen_jax import main; main._set_switches(); print(jax.config.{name})"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {name.upper(): value}, capture_output=True, text=True, check=True
    )
    assert str(main.SWITCHES[name]) in ended.stdout.lower().replace("true", "True").replace("false", "False")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"gen_jax: ignoring {name.upper()}: ")


def test_a_switch_that_jax_itself_refuses_is_one_line():
    ended = subprocess.run(
        [sys.executable, "-m", "gen_jax.main"], env=os.environ | {"JAX_ENABLE_X64": "perhaps"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("gen_jax: JAX cannot be imported: ")
    assert "JAX_ENABLE_X64" in line


def test_nothing_is_said_of_switches_as_they_are(capsys):
    main._set_switches()
    assert capsys.readouterr().err == ""


def test_a_platform_that_is_not_there_is_one_line_but_for_a_report(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    for words, code in ((["--config=ddpm_mnist:tiny"], 2), ([f"--workdir={run}", "--mode=report"], 0)):
        ended = subprocess.run(
            [sys.executable, "-m", "gen_jax.main", *words], env=os.environ | {"JAX_PLATFORMS": "cuda"},
            capture_output=True, text=True,
        )  # fmt: skip
        assert (ended.returncode, ended.stdout.count("\n")) == (code, 1 - code // 2)
        lines = ["gen_jax: JAX finds no device for JAX_PLATFORMS=cuda"] if code else []
        assert [line.partition(":")[0] + line.partition(":")[2].partition(":")[0].join([":", ""])
                for line in ended.stderr.splitlines()] == lines  # fmt: skip


def test_what_a_killed_process_left_of_a_compiled_program_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "gen_jax/compiled"
    folder.mkdir(parents=True)
    whole = ["jit_a-00-cache", "jit_a-00-atime", "notes", ".lockfile"]
    orphans = ["jit_b-00-cache", "jit_c-00-atime", "jit_d-00-cache", "jit_d-00-atime", "jit_e-00-cache"]
    for name in whole + orphans:
        (folder / name).write_bytes(b"" if name == "jit_d-00-cache" else b"12345678")
    main._use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert sorted(os.listdir(folder)) == sorted(whole)


def test_a_compilation_cache_of_the_user_s_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/jit_b-00-cache").write_bytes(b"1")  # without a limit on its size JAX keeps no times
    limit = jax.config.jax_compilation_cache_max_size
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    main._use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "theirs")
    assert jax.config.jax_compilation_cache_max_size == limit
    assert os.listdir(tmp_path) == ["theirs"]
    assert os.listdir(tmp_path / "theirs") == ["jit_b-00-cache"]


def test_a_cache_folder_that_cannot_be_made_leaves_compiled_programs_unkept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    main._use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_user_whom_the_system_does_not_know_has_no_compiled_programs_kept(tmp_path, monkeypatch):
    def owner(self):
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(pathlib.Path, "owner", owner)
    main._use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_commit_is_named_only_by_a_repository_that_holds_the_package(tmp_path, monkeypatch):
    def git(*words):
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *author, "-C", tmp_path, *words], check=True, capture_output=True)

    git("init", "--quiet", ".")
    package = tmp_path / ".venv/site-packages/gen_jax"
    package.mkdir(parents=True)
    (package / "train.py").write_text("")
    (tmp_path / "mine.py").write_text("")
    git("add", "mine.py")
    git("commit", "--quiet", "-m", "mine")
    assert train._git_commit(package / "train.py") is None
    (tmp_path / ".gitignore").write_text(".venv\n")
    assert train._git_commit(package / "train.py") is None
    git("add", "--force", ".venv")
    git("commit", "--quiet", "-m", "the package as well")
    commit = train._git_commit(package / "train.py")
    assert commit is not None
    assert len(commit) == 12
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # as in a hook of that repository
    other = tmp_path.parent / f"{tmp_path.name}-installed/train.py"
    other.parent.mkdir()
    other.write_text("")
    assert train._git_commit(other) is None

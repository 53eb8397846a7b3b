"""Runs at an address: what is there at any moment, which machine may write, and what happens when it fails."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from conftest import tiny_words

import gen_jax
from gen_jax import main, remote
from gen_jax.checkpoint import Checkpoints
from gen_jax.method import State, UserError
from gen_jax.run import InUseError, Run
from gen_jax.writers import read_metrics

fsspec = pytest.importorskip("fsspec")
ADDRESS = "memory://bucket/run"


@pytest.fixture
def on(monkeypatch, tmp_path):
    """Returns a function from the name of a machine to its `Mirror` of `ADDRESS`, in a store that starts empty."""
    monkeypatch.setitem(remote.PACKAGES, "memory", "fsspec")
    store = fsspec.filesystem("memory").store
    store.clear()

    def machine(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return remote.Mirror(ADDRESS)

    yield machine
    store.clear()


def there():
    """What is at the address, by name, but for the version."""
    files = fsspec.filesystem("memory")
    found = {path.removeprefix("/bucket/run/"): files.cat_file(path) for path in files.find("/bucket/run")}
    found.pop(".version", None)
    return found


def version():
    return fsspec.filesystem("memory").cat_file("/bucket/run/.version")


def write(mirror, **contents):
    """Writes files, named with `__` for `/`."""
    for name, content in contents.items():
        path = mirror.folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def content(mirror):
    return {p.relative_to(mirror.folder).as_posix(): p.read_bytes() for p in mirror.folder.rglob("*") if p.is_file()}


def test_an_address_is_one_of_a_bucket():
    assert [remote.is_address(p) for p in ("s3://a/b", "gs://a/b", "http://a/b", "s3:/a/b", "runs/s3")] == [
        True, True, False, False, False,
    ]  # fmt: skip


def test_what_is_written_is_copied_and_another_machine_has_it(on):
    a = on("a")
    a.fetch()
    write(a, config="1", tensorboard__events="2", lock="no", checkpoints__unfinished__3="no")
    (a.folder / ".report.html.12@host.tmp").write_text("no")
    a.push()
    assert there() == {"config": b"1", "tensorboard/events": b"2"}
    b = on("b")
    b.fetch()
    assert content(b) == there() | {"lock": b""}


def test_only_what_changed_is_copied_again_and_what_was_removed_is_removed(on, monkeypatch):
    a = on("a")
    write(a, config="1", metrics="1", old="1")
    a.push()
    copied, put = [], a._files.put_file
    monkeypatch.setattr(a._files, "put_file", lambda here, there: (copied.append(there), put(here, there)))
    write(a, metrics="1 2")
    (a.folder / "old").unlink()
    before = version()
    a.push()
    assert copied == ["/bucket/run/metrics"]
    assert there() == {"config": b"1", "metrics": b"1 2"}
    assert version() != before
    before = version()
    a.push()
    assert (len(copied), version()) == (1, before)  # nothing changed, so nothing is written


def test_a_machine_that_has_the_newest_state_keeps_what_is_not_copied_yet(on):
    a = on("a")
    write(a, config="1")
    a.push()
    write(a, config="2")  # killed before the next copy
    again = on("a")
    again.fetch()
    assert content(again)["config"] == b"2"


def test_another_machine_takes_over_and_the_first_one_cannot_write(on):
    a = on("a")
    write(a, metrics="1")
    a.push()
    b = on("b")
    b.fetch()
    write(b, metrics="1 2")
    b.push()
    write(a, metrics="1 3")
    with pytest.raises(remote.TakenError, match=r"another process writes to memory://bucket/run; this one stops"):
        a.push()
    assert there() == {"metrics": b"1 2"}
    again = on("a")
    again.fetch()  # its own line was lost with its place
    assert content(again)["metrics"] == b"1 2"


def test_a_command_that_is_refused_takes_nothing_over(on):
    a = on("a")
    write(a, metrics="1")
    a.push()
    before = version()
    on("b")
    with pytest.raises(UserError, match="no"), remote.working_in(ADDRESS, training=True):
        raise UserError("no")
    assert version() == before
    assert there() == {"metrics": b"1"}
    write(a, metrics="1 2")
    a.push()


def test_evaluating_elsewhere_does_not_stop_a_training(on):
    a = on("a")
    write(a, metrics="1")
    a.push()
    on("b")
    with remote.working_in(ADDRESS, training=False) as folder:
        (pathlib.Path(folder) / "report.json").write_text("{}")
        (pathlib.Path(folder) / "metrics").unlink()  # not its own to remove
        on("a")
        write(a, metrics="1 2")
        a.push()
        on("b")
    assert there() == {"metrics": b"1 2", "report.json": b"{}"}
    write(a, metrics="1 2 3")
    a.push()
    assert there() == {"metrics": b"1 2 3", "report.json": b"{}"}


def test_a_checkpoint_without_its_list_and_what_leaves_the_folder_are_not_fetched(on):
    on("a")
    files = fsspec.filesystem("memory")
    names = ["config.json", "checkpoints/5/arrays", "checkpoints/4/arrays", "checkpoints/4/files.json"]
    names += ["pretrained/checkpoints/7/arrays", "best/2/files.json", "checkpoints/damaged/4/x"]
    for name in [*names, "../outside", ".version"]:
        files.pipe_file(f"/bucket/run/{name}", b"x")
    b = on("b")
    b.fetch()
    assert content(b).keys() - {"lock"} == {
        "config.json", "checkpoints/4/arrays", "checkpoints/4/files.json", "best/2/files.json",
        "checkpoints/damaged/4/x",
    }  # fmt: skip


class Killed(BaseException):
    pass


def until(left, do):
    """Does what `do` does, as often as `left` says; then raises Killed."""

    def one(*given):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return do(*given)

    return one


def state(step):
    return State(jax.numpy.int32(step), jax.random.key(0), {"net": jax.numpy.full(3, step)}, {}, {}, {}, {})


def test_whenever_a_copy_is_cut_off_what_is_there_leads_to_the_last_checkpoint_or_the_one_before(on, monkeypatch):
    """All operations on the store are counted; the copy after step 2 is killed at each of them."""
    a = on("a")
    with Checkpoints(a.folder / "checkpoints", keep=1) as checkpoints:
        write(a, **{"metrics.jsonl": '{"step": 1}\n'})
        checkpoints.save(state(1))
        checkpoints.wait()
        a.push()
        first, recorded = dict(fsspec.filesystem("memory").store), a._record.read_text()
        write(a, **{"metrics.jsonl": '{"step": 1}\n{"step": 2}\n'})
        checkpoints.save(state(2))
    found = []
    for cut in range(100):
        fsspec.filesystem("memory").store.clear()
        fsspec.filesystem("memory").store.update(first)
        a._record.write_text(recorded)
        left = [cut]
        with monkeypatch.context() as patch:
            for name in ("put_file", "rm_file", "pipe_file"):
                patch.setattr(a._files, name, until(left, getattr(a._files, name)))
            try:
                a.push()
            except Killed:
                pass
            else:
                break
        b = on(f"b{cut}")
        b.fetch()
        with Checkpoints(b.folder / "checkpoints") as there_:
            restored = there_.restore(state(0))
        step = int(restored.step)
        assert restored.params["net"].tolist() == [step] * 3
        assert {record["step"] for record in read_metrics(b.folder)} >= set(range(1, step + 1))
        found.append(step)
    assert 10 < cut < 99
    assert found == sorted(found)
    assert {*found} == {1, 2}


def test_a_copy_that_fails_is_tried_again_and_told_once(on, monkeypatch, capfd):
    monkeypatch.setattr(remote, "SECONDS", 0.01)
    a = on("a")
    put, tries, works = a._files.put_file, [], threading.Event()

    def put_file(*given):
        tries.append(given)
        if len(tries) < 4:
            raise OSError("no route to host")
        put(*given)
        works.set()

    monkeypatch.setattr(a._files, "put_file", put_file)
    with a.copying():
        write(a, config="1")
        assert works.wait(20)
    assert there() == {"config": b"1"}
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("gen_jax: cannot write memory://bucket/run: no route to host; the local copy is ")


def test_a_last_copy_that_fails_says_where_the_run_is(on, monkeypatch):
    a = on("a")
    monkeypatch.setattr(a._files, "put_file", lambda *given: (_ for _ in ()).throw(OSError("no route to host")))
    with pytest.raises(UserError, match=rf"no route to host; the local copy is {a.folder}"), a.copying():
        write(a, config="1")
    monkeypatch.undo()


def test_training_that_another_machine_took_over_is_asked_to_stop(on, monkeypatch, capfd):
    monkeypatch.setattr(remote, "SECONDS", 0.01)
    a = on("a")
    write(a, config="1")
    a.push()
    asked = threading.Event()
    fsspec.filesystem("memory").pipe_file("/bucket/run/.version", b"theirs")
    write(a, config="2")
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        with pytest.raises(remote.TakenError), a.copying():
            assert asked.wait(20)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "another process writes to memory://bucket/run" in capfd.readouterr().err
    assert there() == {"config": b"1"}


def test_a_run_that_is_gone_at_the_address_is_not_removed_here(on):
    a = on("a")
    write(a, config="1")
    a.push()
    fsspec.filesystem("memory").store.clear()
    with pytest.raises(UserError, match=r"no run at memory://bucket/run any more; .* is the last copy"):
        on("a").fetch()
    assert content(a)["config"] == b"1"


def test_a_run_that_was_copied_to_the_address_by_hand_is_found(on):
    on("a")
    files = fsspec.filesystem("memory")
    for name in ("config.json", "checkpoints/4/arrays", "checkpoints/4/files.json", "checkpoints/5/arrays"):
        files.pipe_file(f"/bucket/run/{name}", b"x")
    b = on("b")
    b.fetch()
    assert content(b).keys() - {"lock"} == {"config.json", "checkpoints/4/arrays", "checkpoints/4/files.json"}
    write(b, metrics="1")
    b.push()
    c = on("c")
    c.fetch()
    assert content(c)["metrics"] == b"1"


def test_a_folder_in_use_is_not_replaced(on):
    a = on("a")
    write(a, config="1")
    a.push()
    fsspec.filesystem("memory").pipe_file("/bucket/run/.version", b"theirs")
    with Run(a.folder).lock(), pytest.raises(InUseError):
        on("a").fetch()
    assert content(a)["config"] == b"1"


def test_an_address_that_cannot_be_written_is_told_before_the_work(on, monkeypatch):
    a = on("a")
    monkeypatch.setattr(type(a._files), "pipe_file", lambda *_: (_ for _ in ()).throw(PermissionError("Access Denied")))
    with (
        pytest.raises(UserError, match="cannot write memory://bucket/run: Access Denied"),
        remote.working_in(ADDRESS, training=True),
    ):
        raise AssertionError("it began")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_missing_package_is_named(scheme, monkeypatch):
    for name in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"needs the package \w+: pip install 'gen_jax\[{scheme}\]'"):
        remote.Mirror(f"{scheme}://bucket/run")


def test_a_bucket_alone_is_no_run():
    with pytest.raises(UserError, match=r"names no folder of a bucket: give s3://<bucket>/<run>"):
        remote.Mirror("s3://bucket")


@pytest.mark.long
def test_a_run_goes_on_on_another_machine_bit_by_bit(on, made_up_tfds, tiny_run):
    words = [*tiny_words(made_up_tfds), f"--workdir={ADDRESS}"]
    on("a")
    main.main([*words, "--config.num_steps=4"])
    on("b")
    main.main(words)
    c = on("c")
    np.testing.assert_array_equal(gen_jax.load(ADDRESS).sample(8), gen_jax.load(tiny_run).sample(8))
    assert [r["loss"] for r in losses(c.folder)] == [r["loss"] for r in losses(tiny_run)]
    main.main([f"--workdir={ADDRESS}", "--mode=sample", "--config.sample.num=3"])
    with np.load(c.folder / "samples.npz") as file:
        assert len(file["arr_0"]) == 3
    assert there()["samples.npz"] == (c.folder / "samples.npz").read_bytes()


def losses(workdir):
    return [{"step": r["step"], "loss": r["train/loss"]} for r in read_metrics(workdir) if "train/loss" in r]


@pytest.mark.slow
def test_a_run_in_an_s3_bucket_killed_and_continued_elsewhere_equals_one_on_disk(
    made_up_tfds, tiny_run, tmp_path, monkeypatch
):
    """Against an emulator of S3 in this process; the runs are processes of their own."""
    pytest.importorskip("s3fs", reason="s3fs is in the extra s3")
    server = pytest.importorskip("moto.server", reason="moto is not needed otherwise").ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        values = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
        values |= {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        address = "s3://bucket/runs/tiny"
        command = [sys.executable, "-m", "gen_jax.main", *tiny_words(made_up_tfds), f"--workdir={address}"]

        def start(machine, *more):
            environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / machine)}
            return subprocess.run([*command, *more], env=environment, capture_output=True, text=True, check=False)

        refused = start("a")
        assert refused.returncode == 2
        assert "cannot write s3://bucket/runs/tiny" in refused.stderr
        fsspec.filesystem("s3").mkdir("bucket")
        done = start("a", "--config.num_steps=4")
        assert done.returncode == 0, done.stderr
        done = start("b")
        assert done.returncode == 0, done.stderr
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
        np.testing.assert_array_equal(gen_jax.load(address).sample(8), gen_jax.load(tiny_run).sample(8))
        report = json.loads((remote.Mirror(address).folder / "report.json").read_text())
        assert report["finished_step"] == 12
    finally:
        server.stop()

"""A run's directory: files are whole or absent, and one process trains in it at a time."""

import contextlib
import json
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import numpy as np
import pytest

import gen_jax
from gen_jax import report
from gen_jax import run as run_module
from gen_jax.method import UserError
from gen_jax.run import Run, to_json, write_bytes, write_json

pytestmark = pytest.mark.long

HOLD = """
    import sys, time
    from gen_jax.run import Run
    with Run(sys.argv[1]).lock():
        print("held", flush=True)
        time.sleep(60)
"""


def _hold_lock(workdir: pathlib.Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(workdir)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A full disk that needs no file system of its own: no file of this process may grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_second_process_is_told_who_holds_the_lock_and_a_killed_holder_leaves_none(tmp_path):
    first = _hold_lock(tmp_path)
    try:
        with pytest.raises(UserError, match=rf"in use by process {first.pid} on ") as error, Run(tmp_path).lock():
            pass
        assert "\n" not in str(error.value)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert json.loads((tmp_path / "lock").read_text())["pid"] == first.pid  # left behind, and harmless
    with Run(tmp_path).lock():
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / "lock").read_text() == ""


def test_lock_is_free_again_after_its_block_and_after_an_exception(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), Run(tmp_path / "new").lock():
            raise ZeroDivisionError


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="needs /proc")
def test_reused_pid_is_not_mistaken_for_the_process_that_held_the_lock(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks on this file system")

    monkeypatch.setattr(run_module.fcntl, "flock", refuse)
    run = Run(tmp_path)
    with run.lock(), pytest.raises(UserError, match=f"process {os.getpid()}"), run.lock():
        pass
    # Another process of the same number, which began at another time: as after a crash and a wrap of numbers.
    (tmp_path / "lock").write_text(to_json(run_module._this_process() | {"started": 1}))
    with run.lock():
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', "\x00"])
def test_lock_file_with_any_content_can_be_taken(tmp_path, content):
    (tmp_path / "lock").write_text(content)
    with Run(tmp_path).lock():
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / "lock").read_text() == ""


def test_config_is_read_as_written_and_errors_are_one_line(tmp_path):
    run = Run(tmp_path / "run")
    with pytest.raises(UserError, match=r"holds no run: there is no config\.json"):
        run.read_config()
    config = {"config": {"seed": 1, "name": "größe", "betas": [0.9, 0.99], "none": None}, "data": {}}
    run.write_config(config)
    assert run.read_config() == config
    for content in ("{", "[]", "{}", '{"config": 3, "data": {}}', '{"config": {}}'):
        run.config_path.write_text(content)
        with pytest.raises(UserError, match=r"cannot read .*config\.json: "):
            run.read_config()


def _temporary(path: pathlib.Path, pid: int, host: str = "") -> pathlib.Path:
    return path.with_name(f".{path.name}.{pid}@{host or socket.gethostname()}.tmp")


@pytest.fixture
def ended() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_temporary_file_says_who_writes_it(tmp_path):
    with run_module.replacing(tmp_path / "samples.npz"):
        assert os.listdir(tmp_path) == [_temporary(tmp_path / "samples.npz", os.getpid()).name]


def test_what_a_killed_process_left_half_written_goes_at_the_next_start(tmp_path, ended):
    (tmp_path / "training/samples").mkdir(parents=True)
    (tmp_path / "pictures").mkdir()
    path = tmp_path / "samples.npz"
    kept = [path, _temporary(path, os.getpid()), _temporary(path, ended, "other")]
    left = (path, tmp_path / "pictures/00_strip.npz", tmp_path / "training/samples/00000006.png")
    gone = [*(_temporary(each, ended) for each in left), _temporary(path, ended, "a.former.one")]
    for each in kept + gone:
        each.write_bytes(b"1")
    os.utime(gone[-1], (0, 0))
    with Run(tmp_path).lock():
        assert [each.exists() for each in kept + gone] == [True] * 3 + [False] * 4


def test_files_of_the_user_in_a_run_s_directory_stay(tmp_path, ended):
    """However much they look like something temporary, and wherever they lie."""
    ours = _temporary(tmp_path / "samples.npz", ended).name
    names = [".mine.2023.tmp", ".notes.tmp", f".samples.npz.{ended}.tmp", ours.removeprefix("."), f"mine/{ours}",
             "pictures/.mine.7.tmp", "~backup.tmp"]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    with Run(tmp_path).lock():
        pass
    assert all((tmp_path / name).read_text() == name for name in names)


@pytest.mark.parametrize("name", ["metrics.jsonl", "report.html", "training/cats/0001.png", "pictures/00_me.npz"])
def test_files_of_the_user_that_training_would_replace_are_in_the_way(tmp_path, name):
    run = Run(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{tmp_path / name} is in the way: .*; choose another --workdir"):
        run.refuse_other_files()
    run.write_config({"config": {}, "data": {}})  # it is a run's
    run.refuse_other_files()
    Run(tmp_path / "new").refuse_other_files()


def test_a_tilde_is_the_home_folder_wherever_a_directory_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert Run("~/runs/x").workdir == Run(pathlib.Path("~/runs/x")).workdir == tmp_path / "runs/x"
    assert Run("~").workdir == tmp_path
    assert Run("runs/~").workdir == pathlib.Path("runs/~")
    here = Run("./~x").workdir  # a folder of that very name
    assert here == Run(here).workdir == tmp_path / "~x"
    with pytest.raises(UserError, match=r"cannot expand ~nobody_at_all/x: .* or \./~nobody_at_all/x"):
        Run("~nobody_at_all/x")
    for read in (gen_jax.load, report.write):
        with pytest.raises(UserError, match=rf"{tmp_path}/runs/x"):
            read("~/runs/x")
    assert os.listdir(tmp_path) == []


PROGRAM = textwrap.dedent("""
    import contextlib, os
    from gen_jax import command
    from gen_jax.method import UserError
    from gen_jax.writers import Progress

    def main(words):
        with open(words[0], "wb", buffering=0) as file:
            print("caf\\udce9 \\N{LATIN SMALL LETTER U WITH DIAERESIS}")
            with contextlib.suppress(OSError):
                os.write(2, b"of the compiler")  # which knows nothing of Python's streams
            with Progress(2) as progress:
                progress.update(1, loss=0.5)
                progress.update(2, loss=0.25)
            file.write(b"whole")
        raise UserError("refused: \\N{LATIN SMALL LETTER U WITH DIAERESIS}")

    command.run(main, "")
""")


@pytest.mark.parametrize("streams", ["", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"])
def test_a_program_goes_on_where_nothing_can_be_printed(tmp_path, streams):
    ended = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" "$2" {streams}', sys.executable, PROGRAM, tmp_path / "file"],
        capture_output=True,
        timeout=100,
    )
    assert ended.returncode == 2
    assert (tmp_path / "file").read_bytes() == b"whole"
    if streams == "2>&-":
        assert ended.stdout == r"caf\udce9 ü".encode() + b"\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_pipe_without_a_reader_ends_no_program(tmp_path, stream):
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` leaves it
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: writer}
    ended = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path / "file"], timeout=100, **pipes)
    os.close(writer)
    assert ended.returncode == 2
    assert (tmp_path / "file").read_bytes() == b"whole"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_terminal_cannot_show_is_shown_with_backslashes(tmp_path, encoding):
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "file"],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        timeout=100,
    )
    assert ended.returncode == 2
    shown = "ü".encode(encoding, "backslashreplace")
    assert ended.stdout == rb"caf\udce9 " + shown + b"\n"
    assert ended.stderr.splitlines()[-1] == b"gen_jax: refused: " + shown


def test_a_terminal_that_is_gone_ends_no_program(tmp_path):
    ours, its = os.openpty()
    program = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); input()\n" + PROGRAM
    words = [sys.executable, "-c", program, tmp_path / "file"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    os.close(ours)
    process.communicate(b"\n", timeout=100)
    assert process.returncode == 2
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_a_directory_s_name_that_is_too_long_is_one_line(tmp_path):
    run = Run(tmp_path / ("x" * 300))
    run.refuse_other_files()
    with pytest.raises(UserError, match="cannot write .*: File name too long"), run.lock():
        pass


def test_a_text_that_no_encoding_takes_is_written_with_backslashes(tmp_path):
    run_module.write_text(tmp_path / "page", "größe caf\udce9\n")
    assert (tmp_path / "page").read_text("utf-8") == "größe caf\\udce9\n"


def test_failed_write_keeps_the_old_content_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, {"old": 1})
    with files_of_at_most(10), pytest.raises(UserError, match=r"cannot write .*report\.json: File too large"):
        write_bytes(path, b"x" * 100)
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["report.json"]


def test_write_into_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(UserError, match="No such file or directory"):
        write_bytes(tmp_path / "absent" / "file", b"")


def test_json_is_legal_for_arrays_and_what_is_not_finite():
    value = {"a": np.float32(np.nan), "b": [np.inf, -np.inf], "c": np.array([1.0, np.nan]), "d": (np.int64(3), True)}
    assert json.loads(to_json(value)) == {"a": None, "b": [None, None], "c": [1.0, None], "d": [3, True]}

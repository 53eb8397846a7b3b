"""A disk that fills up, turns read-only or loses the data while a run trains: one line, and the last checkpoint stays.

Where a file system of a few MiB cannot be mounted, or a folder cannot be made immutable, these tests skip.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import tiny_words
from test_checkpoint import contents, make_state

from gen_jax import command, main, train
from gen_jax.checkpoint import Checkpoints
from gen_jax.method import State, UserError
from gen_jax.run import Run, write_json

pytestmark = pytest.mark.long


def call(*words) -> bool:
    return subprocess.run([str(word) for word in words], capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    # A run of the tests takes 4 to 10 MB: on a busy machine checkpoints are written in more and smaller pieces.
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None or not call("mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder):
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    call("umount", "-l", folder)


@contextlib.contextmanager
def read_only(folder: pathlib.Path):
    """Folders below take no new file, whoever asks: root passes over their permissions, but not over this."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    if shutil.which("chattr") is None or not call("chattr", "+i", *folders):
        pytest.skip("needs the right to make a folder immutable")
    try:
        yield
    finally:
        call("chattr", "-i", *folders)


def fill(folder: pathlib.Path) -> None:
    """Leaves no byte free."""
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))


def save(checkpoints: Checkpoints, state: State) -> None:
    checkpoints.save(state)
    checkpoints.wait()


def test_a_checkpoint_on_a_full_disk_is_one_line_and_the_one_before_stays(small_disk):
    directory = small_disk / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        save(checkpoints, make_state(1))
        before = contents(directory / "1")
        fill(small_disk)
        with pytest.raises(UserError, match=rf"cannot write .*{directory}/2: No space left on device$"):
            save(checkpoints, make_state(2, width=20_000))
    assert contents(directory / "1") == before
    (small_disk / "filler").unlink()
    with Checkpoints(directory) as checkpoints:
        checkpoints.clean()
        checkpoints.save(make_state(3))  # threads of the failed save may still make folders of step 2 in this process
    assert Checkpoints(directory).steps() == [1, 3]


def test_a_file_system_that_turns_read_only_is_one_line(small_disk):
    directory = small_disk / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        save(checkpoints, make_state(1))
        assert call("mount", "-o", "remount,ro", small_disk)
        with pytest.raises(UserError, match=r"cannot write .*: Read-only file system$"):
            checkpoints.save(make_state(2))
    assert Checkpoints(directory).steps() == [1]
    with pytest.raises(UserError, match="report.json: Read-only file system"):
        write_json(small_disk / "report.json", {})
    with pytest.raises(UserError, match="Read-only file system"), Run(small_disk).lock():
        pass


@pytest.fixture
def words(made_up_tfds):
    """A command that trains a copy of `tiny_run` from its last step, 12, to 20."""
    return [*tiny_words(made_up_tfds), "--config.num_steps=20"]


def at_first_record(monkeypatch, happening):
    """Lets something happen after step 14 of a run that goes on from 12."""
    write = train.Writer.write

    def write_and_more(self, step, scalars):
        write(self, step, scalars)
        if step == 14:
            happening()

    monkeypatch.setattr(train.Writer, "write", write_and_more)


def end_of(words, monkeypatch, capsys) -> tuple[object, list[str]]:
    """The exit code of a command, and its last lines on stderr."""
    monkeypatch.setattr(sys, "argv", ["main", *words])
    with pytest.raises(SystemExit) as end:
        command.run(main.main, "")
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return end.value.code, said.splitlines()


def test_a_run_whose_disk_fills_up_ends_with_one_line(tiny_run, words, small_disk, monkeypatch, capsys):
    workdir = shutil.copytree(tiny_run, small_disk / "run")
    at_first_record(monkeypatch, lambda: fill(small_disk))
    code, said = end_of([*words, f"--workdir={workdir}"], monkeypatch, capsys)
    assert code == 2
    assert said[-1].startswith("gen_jax: cannot write ")
    assert said[-1].endswith("No space left on device")
    assert sum(line.startswith("gen_jax:") for line in said) == 1
    assert Checkpoints(workdir / "checkpoints").steps() == [4, 8, 12]


def test_a_run_whose_folder_turns_read_only_ends_with_one_line(tiny_run, words, tmp_path, monkeypatch, capsys, request):
    workdir = shutil.copytree(tiny_run, tmp_path / "run")
    with contextlib.ExitStack() as stack:
        at_first_record(monkeypatch, lambda: stack.enter_context(read_only(workdir)))
        code, said = end_of([*words, f"--workdir={workdir}"], monkeypatch, capsys)
    assert code == 2
    assert said[-1].startswith("gen_jax: cannot write the checkpoint")
    assert sum(line.startswith("gen_jax:") for line in said) == 1
    assert Checkpoints(workdir / "checkpoints").steps() == [4, 8, 12]


@pytest.mark.slow
def test_a_run_goes_on_when_its_data_and_the_cache_vanish(tiny_run, words, made_up_tfds, tmp_path, monkeypatch):
    """What it needs is mapped into memory; the next start says in one line what is missing."""
    workdir = shutil.copytree(tiny_run, tmp_path / "run")
    data, cache = tmp_path / "data", tmp_path / "cache"
    shutil.copytree(made_up_tfds / "made_up_digits", data / "made_up_digits")
    shutil.copytree(
        pathlib.Path(os.environ["XDG_CACHE_HOME"]) / "gen_jax", cache, ignore=shutil.ignore_patterns("compiled")
    )
    words = [*words, f"--config.data.data_dir={data}", f"--config.data.cache_dir={cache}", f"--workdir={workdir}"]

    def vanish():
        data.rename(tmp_path / "elsewhere")
        shutil.rmtree(cache)

    at_first_record(monkeypatch, vanish)
    main.main(words)
    assert Checkpoints(workdir / "checkpoints").latest() == 20
    assert np.load(workdir / "samples.npz")["arr_0"].shape == (70, 8, 8, 1)
    with pytest.raises(UserError, match="made_up_digits") as error:
        main.main([*words, "--config.num_steps=24"])
    assert "\n" not in str(error.value)

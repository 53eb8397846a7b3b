import errno
import fcntl
import multiprocessing
import os
import pathlib
import threading
import time

import pytest

from gen_jax.data import locks


def _log_slowly(folder: pathlib.Path) -> None:
    with locks.alone(folder / "lock", "waiting") as alone:
        assert alone
        for word in ("in", "out"):
            with (folder / "log").open("a") as log:
                log.write(f"{word}\n")
            time.sleep(0.1)


def test_one_process_at_a_time(tmp_path: pathlib.Path):
    # Each removes the file that the next one waits on: that one must not take the old file for the lock.
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_log_slowly, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text().split() == ["in", "out"] * 4
    assert os.listdir(tmp_path) == ["log"]


def test_who_waits_says_so_once(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]):
    with locks.alone(tmp_path / "lock", "unheard"):
        thread = threading.Thread(target=lambda: locks.alone(tmp_path / "lock", "waiting for it").__enter__())
        thread.start()
        for _ in range(1000):
            if err := capfd.readouterr().err:
                break
            time.sleep(0.01)
    thread.join()
    assert err == "gen_jax: waiting for it\n"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_all_go_in(
    number: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def no_locks(*_) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locks.alone(tmp_path / "lock", "waiting") as first, locks.alone(tmp_path / "lock", "waiting") as second:
        assert (first, second) == (False, False)
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_the_lock_is_gone_after_a_failure(tmp_path: pathlib.Path):
    with pytest.raises(ZeroDivisionError), locks.alone(tmp_path / "new" / "lock", "waiting"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path / "new") == []

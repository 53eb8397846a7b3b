import errno
import fcntl
import hashlib
import multiprocessing
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from gen_jax.data import cache
from gen_jax.method import UserError

ARRAYS = {"x": np.arange(1_000), "y": np.eye(3)}
KEY = {"n": 1}


def _must_not_run() -> tuple[cache.Arrays, dict]:
    raise AssertionError("built again")


def _fetch(folder: pathlib.Path, build=lambda: (ARRAYS, {"a": 1}), key=KEY, verify: bool = False) -> cache.Stored:
    return cache.fetch(folder, "entry", key, build, verify)


def test_is_built_once_and_read_memory_mapped(tmp_path: pathlib.Path):
    _fetch(tmp_path)
    stored = _fetch(tmp_path, _must_not_run)
    assert stored.facts == {"a": 1}
    for name, array in ARRAYS.items():
        assert isinstance(stored.arrays[name], np.memmap)
        np.testing.assert_array_equal(stored.arrays[name], array)


def test_another_key_is_another_entry(tmp_path: pathlib.Path):
    _fetch(tmp_path)
    with pytest.raises(AssertionError, match="built again"):
        _fetch(tmp_path, _must_not_run, key={"n": 2})


def test_another_version_is_made_anew(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    _fetch(tmp_path)
    monkeypatch.setattr(cache, "_FORMAT", 99)
    with pytest.raises(AssertionError, match="built again"):
        _fetch(tmp_path, _must_not_run)


@pytest.mark.parametrize("name", ["x.npy", "y.npy", "meta.json"])
@pytest.mark.parametrize("length", [0, 20, -1, None])
def test_a_file_cut_short_or_missing_is_made_anew(tmp_path: pathlib.Path, name: str, length: int | None):
    _fetch(tmp_path)
    (file,) = tmp_path.rglob(name)
    if length is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:length])
    np.testing.assert_array_equal(_fetch(tmp_path).arrays["x"], ARRAYS["x"])
    _fetch(tmp_path, _must_not_run)


def test_a_changed_byte_is_found_where_asked_for(tmp_path: pathlib.Path):
    _fetch(tmp_path)
    (file,) = tmp_path.rglob("x.npy")
    content = bytearray(file.read_bytes())
    content[-8] ^= 1
    file.write_bytes(content)
    np.testing.assert_array_equal(_fetch(tmp_path, verify=True).arrays["x"], ARRAYS["x"])


def test_a_build_that_fails_leaves_nothing_to_read(tmp_path: pathlib.Path):
    with pytest.raises(AssertionError, match="built again"):
        _fetch(tmp_path, _must_not_run)
    (tmp_path / "leftover").mkdir()
    np.testing.assert_array_equal(_fetch(tmp_path).arrays["x"], ARRAYS["x"])


def _fetch_slowly(folder: pathlib.Path, log: pathlib.Path) -> None:
    def build() -> tuple[cache.Arrays, dict]:
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(0.5)
        return ARRAYS, {}

    np.testing.assert_array_equal(_fetch(folder, build).arrays["x"], ARRAYS["x"])


def test_of_several_processes_one_builds(tmp_path: pathlib.Path):
    log = tmp_path / "log"
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_fetch_slowly, args=(tmp_path / "cache", log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text() == "built\n"


def test_a_process_that_waits_says_for_what(tmp_path: pathlib.Path):
    program = (
        "import sys, pathlib; from gen_jax.data import cache\n"
        f"cache.fetch(pathlib.Path({str(tmp_path)!r}), 'entry', {KEY!r}, lambda: ({{}}, {{}}))"
    )
    folder = tmp_path / "inner"
    _fetch(folder)
    (made,) = folder.iterdir()
    with (tmp_path / f"{made.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        line = process.stderr.readline()
    assert line == f"gen_jax: waiting for another process that is preparing entry in {tmp_path}\n"
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0


def test_a_file_system_without_locks_will_do(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    def no_locks(*_) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def build() -> tuple[cache.Arrays, dict]:
        _fetch(tmp_path)  # as another process that nothing holds back, and that is faster
        return ARRAYS, {"a": 2}

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert _fetch(tmp_path, build).facts == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_is_removed(tmp_path: pathlib.Path):
    _fetch(tmp_path)
    (made,) = tmp_path.iterdir()
    made.rename(f"{made}.0123abcd.part")
    _fetch(tmp_path)
    assert list(tmp_path.iterdir()) == [made]


def test_a_long_title_is_cut(tmp_path: pathlib.Path):
    for title in ("x" * 300, "ü/" * 300):
        first = cache.fetch(tmp_path, title, KEY, lambda: (ARRAYS, {}))
        assert first.fingerprint == cache.fetch(tmp_path, title, KEY, _must_not_run).fingerprint
    assert max(len(path.name) for path in tmp_path.iterdir()) < 143  # as an encrypted disk has it


def test_fingerprint_is_the_hash_of_names_types_shapes_and_bytes():
    label = np.array([1, 2], np.int32)
    expected = hashlib.sha256(b"label <i4 (2,) " + b"\x01\0\0\0\x02\0\0\0").hexdigest()
    assert cache.fingerprint({"label": label}) == expected
    assert cache.fingerprint({"label": np.repeat(label, 2)[::2]}) == expected  # whatever the layout in memory
    for other in (label[::-1], label.astype(np.int64), label[:, None]):
        assert cache.fingerprint({"label": other}) != expected


def test_the_folder_is_the_one_given_or_the_users(monkeypatch: pytest.MonkeyPatch):
    assert cache.root("/given") == pathlib.Path("/given")
    monkeypatch.setenv("XDG_CACHE_HOME", "/user")
    assert cache.root() == pathlib.Path("/user/gen_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.root() == pathlib.Path.home() / ".cache/gen_jax"


def test_a_place_that_is_no_folder_is_one_line(tmp_path: pathlib.Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the cache in .*set --config.data.cache_dir, or --cache_dir"):
        _fetch(tmp_path / "file" / "cache")


@pytest.fixture
def homeless(tmp_path, monkeypatch):
    """A user of a container: no HOME, no XDG_CACHE_HOME, and no entry in passwd."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cache._in_temporary_folder.cache_clear()
    yield tmp_path
    cache._in_temporary_folder.cache_clear()


def test_without_a_home_folder_the_cache_is_in_the_temporary_one_and_one_line_says_so(homeless, capsys):
    folder = cache.root()
    assert folder == cache.root() == homeless / f"gen_jax-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"gen_jax: there is no home folder; the cache is {folder}: set XDG_CACHE_HOME to keep it"
    cache._in_temporary_folder.cache_clear()  # of the next process
    assert cache.root() == folder
    with pytest.raises(UserError, match="the home folder ~ is unknown"):
        cache.root("~/cache")


def test_a_temporary_folder_of_someone_else_s_is_not_used(homeless, monkeypatch):
    place = homeless / f"gen_jax-{os.getuid()}"
    (homeless / "theirs").mkdir()
    place.symlink_to(homeless / "theirs")
    folder = cache.root()
    assert folder.is_dir()
    assert folder.resolve() not in (place, homeless / "theirs")


def test_a_home_folder_is_found_as_the_system_knows_it(homeless, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert cache.root() == pathlib.Path("/somewhere/.cache/gen_jax")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache.root() == pathlib.Path("/elsewhere/gen_jax")
    assert cache.root("~/c") == pathlib.Path("/somewhere/c")

"""A run is its directory: where its files are, how they are written, and which process trains in it.

Every file is written whole or not at all (`write_bytes`, `write_text`, `write_json`), and a failed write is one line
for the user (`writing`). What the files mean is up to the modules that write them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import math
import os
import pathlib
import re
import socket
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from gen_jax.method import UserError

_FOLDERS = (".", "pictures", "text", "training", "training/*")  # of a run, that `replacing` writes to
# Files that training replaces or removes: a directory without a run must not contain any, as they are the user's.
_REPLACED = (
    "metrics.jsonl", "parameters.txt", "samples.npz", "samples.png", "report.json", "report.html", "trackers.json",
    "pictures/[0-9]*_*.npz", "text/encoder.*", "text/prompts.*", "training/*/[0-9]*",
    "tensorboard/events.out.tfevents.*",
)  # fmt: skip
_TEMPORARY = re.compile(r"\..+\.(?P<pid>\d+)@(?P<host>.+)\.tmp")  # the names that `temporary` makes
_MOUNTS = {"gs://": "gcsfuse", "s3://": "mount-s3 or s3fs"}
_ABANDONED = 86_400  # seconds without a write until a temporary file of another machine counts as abandoned


def directory(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of a directory given by a user; a leading `~` is a home folder.

    Raises:
      UserError: the home folder is unknown, or the path is an address such as gs://bucket/run.

    Example:
      >>> directory("runs/x"), directory("~/runs/x").is_absolute()
      (PosixPath('runs/x'), True)
    """
    text = os.fspath(path)
    if address := re.match(r"[a-z][a-z0-9+.-]*://", text):
        raise UserError(
            f"{text} is an address, which only gen_jax.load and --workdir of gen_jax.main take, and only s3:// and "
            f"gs://: mount it ({_MOUNTS.get(address[0], 'rclone mount')}), and give the folder"
        )
    if text.startswith("~"):
        expanded = os.path.expanduser(text)
        if expanded == text:
            raise UserError(
                f"cannot expand {text}: the home folder {text.partition('/')[0]} is unknown; give the full path, or "
                f"./{text} for a folder of that name"
            )
        text = expanded
    found = pathlib.Path(text)
    return found.absolute() if str(found).startswith("~") else found  # ./~x, which pathlib shortens to ~x


def legible(text: str) -> str:
    """Returns a text that can be encoded as UTF-8: other bytes, from a file's name, become backslash escapes.

    Example:
      >>> legible("caf\\udce9")
      'caf\\\\udce9'
    """
    return text.encode("utf-8", "backslashreplace").decode()


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turns a system error during a write (disk full, read-only, gone) into one line that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that a crash at any moment leaves the old content or the new, never a part.

    Raises:
      UserError: if it cannot be written; the old content stays.

    Example:
      >>> import tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "a"
      >>> write_bytes(path, b"1"), write_bytes(path, b"22")
      (None, None)
      >>> path.read_bytes()
      b'22'
    """
    with replacing(path) as file:
        file.write(content)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text as `legible` UTF-8, whole or not at all (see `write_bytes`)."""
    write_bytes(path, legible(text).encode())


def temporary(path: pathlib.Path) -> pathlib.Path:
    """Returns the file that this process writes before it replaces `path`; `Run.lock` removes leftovers."""
    return path.with_name(f".{path.name}.{os.getpid()}@{socket.gethostname()}.tmp")


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Yields a file to write to, which replaces `path` if the block succeeds: `write_bytes` in pieces.

    Raises:
      UserError: if it cannot be written; the old content stays.
    """
    part = temporary(path)
    with writing(path):
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            sync_folder(path.parent)  # or a power cut could undo the rename
        finally:
            part.unlink(missing_ok=True)


def sync_folder(folder: pathlib.Path) -> None:
    """Makes new names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: Any, indent: int | None = None) -> str:
    """Returns valid JSON: arrays become lists, and numbers that are not finite, which JSON lacks, become null.

    Example:
      >>> to_json({"loss": float("nan"), "n": 2})
      '{"loss": null, "n": 2}'
    """
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # arrays and scalars of numpy and JAX
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes `value` as valid JSON (see `to_json`), whole or not at all (see `write_bytes`)."""
    write_bytes(path, (to_json(value, indent=2) + "\n").encode())


class InUseError(UserError):
    """Another process trains in the directory of a run."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The directory of a run, with a name for everything in it; see `directory`.

    Example:
      >>> import tempfile
      >>> run = Run(tempfile.mkdtemp())
      >>> run.write_config({"config": {"seed": 3}, "data": {}})
      >>> run.read_config()["config"]["seed"], run.config_path.name
      (3, 'config.json')
    """

    workdir: pathlib.Path

    def __init__(self, workdir: str | os.PathLike[str]):
        object.__setattr__(self, "workdir", directory(workdir))

    @property
    def config_path(self) -> pathlib.Path:
        """Resolved config, DataSpec, versions, devices, commit, data set."""
        return self.workdir / "config.json"

    @property
    def parameters(self) -> pathlib.Path:
        """A table of every array of the networks."""
        return self.workdir / "parameters.txt"

    @property
    def metrics(self) -> pathlib.Path:
        """The record of training, one JSON object per line."""
        return self.workdir / "metrics.jsonl"

    @property
    def text(self) -> pathlib.Path:
        """The text encoder and prompts of a model that takes texts."""
        return self.workdir / "text"

    @property
    def tensorboard(self) -> pathlib.Path:
        """TensorBoard events: a copy of `metrics`."""
        return self.workdir / "tensorboard"

    @property
    def trackers(self) -> pathlib.Path:
        """The ids of this run in other programs, by their names."""
        return self.workdir / "trackers.json"

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.workdir / "checkpoints"

    @property
    def best(self) -> pathlib.Path:
        """The checkpoint whose samples had the smallest Frechet distance, if it is tracked."""
        return self.workdir / "best"

    @property
    def pictures(self) -> pathlib.Path:
        """What the report shows, with one stored batch so that it is redrawn without data."""
        return self.workdir / "pictures"

    @property
    def training(self) -> pathlib.Path:
        """Figures drawn during training: `<name>/<step>.npz`, each with a PNG if it can be one."""
        return self.workdir / "training"

    @property
    def samples_npz(self) -> pathlib.Path:
        return self.workdir / "samples.npz"

    @property
    def sample_pieces(self) -> pathlib.Path:
        """The parts of `samples_npz` that `--mode=sample` has drawn so far."""
        return self.workdir / "samples.pieces"

    @property
    def report_json(self) -> pathlib.Path:
        """Every metric with its protocol."""
        return self.workdir / "report.json"

    @property
    def report_html(self) -> pathlib.Path:
        return self.workdir / "report.html"

    def write_config(self, config: dict[str, Any]) -> None:
        """Writes config.json; creates the directory if needed."""
        with writing(self.workdir):
            self.workdir.mkdir(parents=True, exist_ok=True)
        write_json(self.config_path, config)

    def read_config(self) -> dict[str, Any]:
        """Returns what `write_config` wrote; raises UserError if there is no run, or its config.json is unreadable."""
        try:
            values = json.loads(self.config_path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.workdir} holds no run: there is no {self.config_path.name} in it") from None
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {self.config_path}: {error}") from error
        for part in ("config", "data"):
            if not isinstance(values, dict) or not isinstance(values.get(part), dict):
                raise UserError(f"cannot read {self.config_path}: it has no {part!r}, so it was not written by a run")
        return values

    def refuse_other_files(self) -> None:
        """Raises a UserError if training would replace files that no run wrote: a user's own report.html, say, or
        pictures in a folder called training."""
        if os.path.exists(self.config_path) or not os.path.isdir(self.workdir):
            return
        for pattern in _REPLACED:
            for path in self.workdir.glob(pattern):
                raise UserError(
                    f"{path} is in the way: training would replace it, but {self.workdir} holds no run (it has no "
                    f"{self.config_path.name}); choose another --workdir"
                )

    def read_report(self) -> dict[str, Any]:
        """Returns the content of report.json: {} if there is none yet, or it is unreadable."""
        try:
            values = json.loads(self.report_json.read_text())
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    @property
    def finished_step(self) -> int | None:
        """The step at which training ended and its model was evaluated, or None; later evaluations do not change it."""
        return self.read_report().get("finished_step") if self.report_html.is_file() else None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from training here; the system releases the lock however this process ends.

        Removes files that a killed process left unfinished.

        Raises:
          InUseError: if another process holds the lock; the line names it.
          UserError: if the directory cannot be written.
        """
        is_new = not os.path.exists(self.workdir)  # unlike `Path.exists`, it accepts a name of any length
        with writing(self.workdir):
            self.workdir.mkdir(parents=True, exist_ok=True)
            file = (self.workdir / "lock").open("a+")
        with file:
            file.seek(0)
            holder = _read_holder(file.read())
            # The file may be gone by now: its holder was refused, and removed it.
            if not _take(file.fileno(), holder) or not (self.workdir / "lock").exists():
                raise InUseError(f"{self.workdir} is in use by {_describe(holder)}; stop that process first, or wait")
            with writing(self.workdir):
                file.truncate(0)
                file.write(to_json(_this_process()))
                file.flush()
            _sweep(self.workdir)
            try:
                yield
            finally:
                file.truncate(0)
                if is_new:
                    _remove_if_empty(self.workdir)


def _remove_if_empty(workdir: pathlib.Path) -> None:
    """Removes a directory that holds only the lock: a command that is refused before it writes leaves no trace."""
    with contextlib.suppress(OSError):
        if os.listdir(workdir) == ["lock"]:
            (workdir / "lock").unlink()
            workdir.rmdir()


def _sweep(workdir: pathlib.Path) -> None:
    """Removes files that `replacing` left behind in dead processes; live ones may be sampling or evaluating here."""
    for folder in _FOLDERS:
        for path in workdir.glob(f"{folder}/.*.tmp"):
            name = _TEMPORARY.fullmatch(path.name)
            if name and _is_left_behind(path, int(name["pid"]), name["host"]):
                path.unlink(missing_ok=True)


def _is_left_behind(path: pathlib.Path, pid: int, host: str) -> bool:
    if host != socket.gethostname():  # on a shared disk; a container has a new name at each start
        try:
            return time.time() - path.stat().st_mtime > _ABANDONED
        except FileNotFoundError:  # it has been renamed
            return False
    try:
        os.kill(pid, 0)  # signal 0 only asks whether the process exists
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it exists, and is another user's
        pass
    return False


def _take(descriptor: int, holder: dict[str, Any] | None) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks (some Lustre mounts): trust the file's content
        return holder is None or _has_ended(holder)
    return True


def _this_process() -> dict[str, Any]:
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "started": _start_time(os.getpid())}


def _start_time(pid: int) -> int | None:
    """Returns when a process of this machine started, in clock ticks since boot, or None if that is unknown."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # Field 22 of proc(5); the second field, the name, may itself contain spaces and parentheses.
    return int(stat.rpartition(")")[2].split()[19])


def _read_holder(content: str) -> dict[str, Any] | None:
    """Returns `_this_process` as the lock's holder wrote it, or None if nobody holds it or the file was cut short."""
    try:
        holder = json.loads(content)
    except ValueError:
        return None
    return holder if isinstance(holder, dict) and holder.keys() == _this_process().keys() else None


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether the process is known to have ended; a new one with the same PID has another start time."""
    return holder["host"] == socket.gethostname() and _start_time(holder["pid"]) != holder["started"]


def _describe(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "another process"
    name = f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    return f"a process started by {name}" if _has_ended(holder) else name  # a child holds the lock

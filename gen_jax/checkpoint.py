"""Checkpoints that are either whole or rejected: save, verify, restore, set damaged ones aside.

Orbax writes and reads the arrays. This module adds what Orbax lacks: it silently loads a flipped bit, and its own
completeness marker cannot distinguish a damaged checkpoint from one of another config. So

- Orbax writes into `unfinished/`; once it is done, a list of all files (size, SHA-256) is added, and one rename moves
  the folder to `<step>`. A folder `<step>` was therefore complete once, and any disagreement with its list is damage.
- `leaves.json`, in the list like every file, names each array with its shape, so that a changed config is detected
  before Orbax is called, and is not mistaken for damage.
- `about.json`, also in the list, records what a checkpoint was trained on, in case it leaves its run's directory.
- Orbax and TensorStore give `[`, `*`, a backslash or `gs:` in a path a special meaning, and do not accept bytes that
  are not UTF-8. They get a directory with such a path through a link with a plain name (`_Alias`).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import hashlib
import itertools
import json
import logging
import os
import pathlib
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from gen_jax.command import tells_of_a_lost_process
from gen_jax.method import State, UserError
from gen_jax.parallel import from_first_process
from gen_jax.run import sync_folder, write_json

LIST = "files.json"  # in the folder of a checkpoint, which is incomplete without it
_LEAVES = "leaves.json"
_ABOUT = "about.json"
_NONE, _ALL_DAMAGED = -1, -2  # instead of a step, which is never negative
_ARRAYS = "default"  # the folder of a checkpoint where Orbax writes the arrays
_MANIFEST = "manifest.ocdbt"  # in that folder: without this file no array is found
_PLAIN = re.compile(r"(?!/(gs|s3|az|hf)(/|$))[\w/ .,+=@~-]*")  # Orbax would read /s3/x as the address s3://x

_logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run.

    Every process of the run makes the same calls; process 0 alone writes lists and moves or removes folders.

    Args:
      directory: `checkpoints/` of the run, visible to all processes; created by the first save.
      keep: how many checkpoints to keep; older ones are removed once a newer one is whole.
      about: a description to store in each checkpoint, as plain JSON values; no code reads it.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> state = State(jnp.int32(7), jax.random.key(0), {"net": jnp.ones(2)}, {}, {}, {}, {})
      >>> with Checkpoints(tempfile.mkdtemp()) as checkpoints:
      ...     checkpoints.save(state)
      ...     checkpoints.wait()
      ...     print(checkpoints.steps(), checkpoints.restore(state).params)
      [7] {'net': Array([1., 1.], dtype=float32)}
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 3, about: Mapping[str, Any] | None = None):
        self.directory = pathlib.Path(directory).absolute()
        self._keep = keep
        self._about = dict(about or {})
        self._unfinished = self.directory / "unfinished"
        self._alias = _Alias(self.directory)
        self._executor = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: concurrent.futures.Future[None] | None = None
        self._current: int | None = None  # the step that was saved or restored last

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @functools.cached_property
    def _orbax(self) -> Any:
        import orbax.checkpoint as ocp  # takes half a second: only for runs that save or restore

        _quieten_orbax()
        # The manager does not create, list or remove folders: our commit does. If it created those of a step in the
        # background, a failure there (a full disk) would leave threads waiting 20 minutes for them, and us for those.
        in_front = ocp.AsyncOptions(create_directories_asynchronously=False)
        options = ocp.CheckpointManagerOptions(
            create=False, max_to_keep=None, save_root_metadata=False, async_options=in_front
        )
        return ocp.CheckpointManager(self._alias.make() / self._unfinished.name, options=options)

    def save(self, state: State) -> None:
        """Returns once the state is copied, so that its buffers can be donated; writing continues in the background.

        Waits for the previous save. Does nothing if this step was the last one saved or restored.

        Raises:
          UserError: if this save, or the previous one, could not be written.
        """
        import orbax.checkpoint as ocp

        self.wait()
        step = int(state.step)
        if step == self._current:
            return
        with self._told(step):
            if jax.process_index() == 0:
                self._unfinished.mkdir(parents=True, exist_ok=True)
            self._alias.make()
            self._orbax.save(step, args=ocp.args.StandardSave(_one_copy(state)), force=True)
        self._current = step
        self._pending = self._executor.submit(self._commit, step, _describe_leaves(state))

    def wait(self) -> None:
        """Returns when nothing is being written; raises UserError if the last save failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with self._told(self._current):
                pending.result()

    def close(self) -> None:
        """Waits for the last save, as `wait` does, and ends the threads."""
        try:
            self.wait()
        finally:
            self._executor.shutdown()
            if "_orbax" in self.__dict__:
                with contextlib.suppress(Exception):  # it repeats the failure that `wait` has reported
                    self._orbax.close()
            self._alias.close()

    def clean(self) -> None:
        """Removes what a killed save left behind. Only for the holder of the run's lock, before its first save."""
        if jax.process_index() == 0 and self._unfinished.is_dir():
            for path in self._unfinished.iterdir():
                if re.fullmatch(r"\d+(\..*)?", path.name):  # named by a save or by `_retire`: not the user's
                    shutil.rmtree(path, ignore_errors=True)

    def forget(self, after: int) -> None:
        """Removes checkpoints of steps later than `after`, which training repeats. Only for the lock's holder."""
        if jax.process_index() == 0:
            for step in self.written():
                if step > after:
                    self._retire(step)

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints that agree with their lists, in ascending order. Reads every byte."""
        return [step for step in self._folders() if _fault(self._folder(step)) is None]

    def latest(self) -> int | None:
        """Returns the newest of `steps`, or None; reads no older ones."""
        return next((step for step in reversed(self._folders()) if _fault(self._folder(step)) is None), None)

    def remove(self, step: int) -> None:
        """Removes a checkpoint. Only for the lock's holder."""
        if jax.process_index() == 0:
            self._retire(step)

    def restore(self, like: State, order: Sequence[int] | None = None) -> State | None:
        """Returns the first whole checkpoint; damaged ones before it are moved to `damaged/`, with a warning each.

        Args:
          like: the expected state: `jax.ShapeDtypeStruct` leaves (or arrays), with the shardings to restore to.
          order: the steps to look for, the most wanted first; by default all, the newest first.

        Returns:
          The state, bit for bit as saved, or None if there is no checkpoint at all.

        Raises:
          UserError: if there are checkpoints but none is whole (they are not moved), or if the newest whole one has
            other leaves than `like`; the line names the first.
        """
        import orbax.checkpoint as ocp

        self.wait()
        self._alias.make()  # a failure here comes before any training
        step = self._choose(order)
        if step is None:
            return None
        folder = self._folder(step)
        _check_leaves(folder, json.loads((folder / _LEAVES).read_text()), _describe_leaves(like))
        try:
            with self._alias.readable(step) as directory:
                state = self._orbax.restore(step, args=ocp.args.StandardRestore(like), directory=directory)
        except Exception as error:
            if tells_of_a_lost_process(error):
                raise
            raise UserError(f"cannot restore {folder}, although its files are intact: {_reason(error)}") from error
        self._current = step
        return state

    def _folder(self, step: int) -> pathlib.Path:
        return self.directory / str(step)

    def _folders(self) -> list[int]:
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if re.fullmatch(r"0|[1-9][0-9]*", path.name))

    def written(self) -> list[int]:
        """Returns the steps that this class wrote, damaged or not: any other folder with a number for a name is the
        user's."""
        return [step for step in self._folders() if (self._folder(step) / LIST).is_file()]

    @contextlib.contextmanager
    def _told(self, step: int | None) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if tells_of_a_lost_process(error):
                raise
            raise UserError(f"cannot write the checkpoint {self.directory / str(step)}: {_reason(error)}") from error

    def _commit(self, step: int, leaves: dict[str, str]) -> None:
        self._orbax.wait_until_finished()
        if jax.process_index() != 0:
            return
        folder = self._unfinished / str(step)
        if not (folder / _ARRAYS / _MANIFEST).is_file():  # Orbax only warns if its own parts are missing
            raise UserError(f"cannot write the checkpoint {self._folder(step)}: Orbax wrote no {_ARRAYS}/{_MANIFEST}")
        write_json(folder / _LEAVES, leaves)
        write_json(folder / _ABOUT, self._about)
        write_json(folder / LIST, _list_files(folder))
        if self._folder(step).exists():  # without a list, or `forget` would have removed it
            self._set_aside(step, "it is in the way of a new one")
        folder.rename(self._folder(step))
        sync_folder(self.directory)
        for old in self.written()[: -self._keep]:
            self._retire(old)

    def _retire(self, step: int) -> None:
        # Rename first: an interrupted removal must not look like damage.
        self._unfinished.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._folder(step).rename(self._unfinished / f"{step}.retired"))

    def _choose(self, order: Sequence[int] | None) -> int | None:
        """Returns the first whole step, the same in every process, and sets damaged ones before it aside."""
        choice = from_first_process(self._choose_alone(order) if jax.process_index() == 0 else 0)
        if choice == _ALL_DAMAGED:
            raise UserError(
                f"none of the checkpoints in {self.directory} is intact; nothing was deleted:"
                " restore a good copy, or start again in another directory"
            )
        return None if choice == _NONE else choice

    def _choose_alone(self, order: Sequence[int] | None) -> int:
        damaged: dict[int, str] = {}
        newest_first = self._folders()[::-1]
        for step in newest_first if order is None else [each for each in order if each in newest_first]:
            fault = _fault(self._folder(step))
            if fault is None:
                for bad, why in damaged.items():
                    self._set_aside(bad, why)
                return step
            damaged[step] = fault
        # They stay in place: with an empty directory the next start would train from scratch.
        return _ALL_DAMAGED if damaged else _NONE

    def _set_aside(self, step: int, fault: str) -> None:
        aside = self.directory / "damaged"
        try:
            aside.mkdir(exist_ok=True)
            names = itertools.chain([str(step)], (f"{step}.{again}" for again in itertools.count(2)))
            target = next(aside / name for name in names if not (aside / name).exists())
            outcome = f"moved to {self._folder(step).rename(target)}"
        except OSError as error:  # a read-only run
            outcome = f"it cannot be moved aside ({error.strerror})"
        _logger.warning("checkpoint %s is damaged (%s): skipped, %s", self._folder(step), fault, outcome)


class _Alias:
    """A plain path to a directory whose own path may not be plain."""

    def __init__(self, directory: pathlib.Path):
        self._directory = directory
        self._links: pathlib.Path | None = None

    def make(self) -> pathlib.Path:
        """Returns the directory itself, or a link to it if its path is not `_PLAIN`; `close` removes the link."""
        if _PLAIN.fullmatch(str(self._directory)):
            return self._directory
        if self._links is None:
            self._links = _plain_folder()
        link = self._links / "checkpoints"
        if not link.is_symlink():  # or no longer is: systems clear temporary folders after some days
            self._links.mkdir(mode=0o700, exist_ok=True)
            link.symlink_to(self._directory, target_is_directory=True)
        return link

    @contextlib.contextmanager
    def readable(self, step: int) -> Iterator[pathlib.Path]:
        """Yields a directory that holds the checkpoint of a step under its number, as Orbax reads it.

        If the path contained `[ ]`, versions before 0.2 wrote all arrays, but not Orbax's manifest. For such a
        checkpoint, which is not changed, the manifest is rebuilt beside links to its files.
        """
        if (self._directory / str(step) / _ARRAYS / _MANIFEST).exists():
            yield self.make()
            return
        folder = _plain_folder()
        try:
            shutil.copytree(self._directory / str(step), folder / str(step), copy_function=os.symlink)
            _merge_processes(folder / str(step) / _ARRAYS)
            yield folder
        finally:
            shutil.rmtree(folder)

    def close(self) -> None:
        if self._links is not None:
            shutil.rmtree(self._links, ignore_errors=True)
            self._links = None


def _plain_folder() -> pathlib.Path:
    """Creates a folder with a plain path, for links."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if _PLAIN.fullmatch(parent):
            with contextlib.suppress(OSError):
                return pathlib.Path(tempfile.mkdtemp(prefix="gen_jax-", dir=parent))
    raise UserError("no temporary folder has a plain path (letters and digits); set TMPDIR to a folder with one")


def _merge_processes(folder: pathlib.Path) -> None:
    """Writes one manifest for the arrays that each process of a run wrote into its own folder."""
    import tensorstore as ts

    context = ts.Context()  # shared by all, or they refuse to refer to each other's files

    def open_store(path: pathlib.Path) -> Any:
        spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/"}}
        return ts.KvStore.open(spec, context=context).result()

    with ts.Transaction(atomic=True) as transaction:
        whole = open_store(folder).with_transaction(transaction)
        for part in sorted(folder.glob("ocdbt.process_*")):
            open_store(part).experimental_copy_range_to(whole).result()


def _one_copy(state: State) -> Any:
    """Returns the state with each replicated array on one device only, without copying it.

    From several copies in one process, Orbax would write a slice of each, and compile a program for every slice of
    every shape. Of several processes, each writes its share: that is worth a few programs.
    """
    if jax.process_count() > 1:
        return state
    return jax.tree.map(lambda leaf: leaf.addressable_data(0) if leaf.is_fully_replicated else leaf, state)


def _describe_leaves(state: State) -> dict[str, str]:
    """Returns e.g. {"params/denoiser/conv/kernel": "float32[3,3,1,8]"}."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _check_leaves(folder: pathlib.Path, saved: dict[str, str], expected: dict[str, str]) -> None:
    for name in expected | saved:
        there, here = saved.get(name, "absent"), expected.get(name, "absent")
        if there != here:
            raise UserError(
                f"{folder} was saved with another config: {name} is {there} there and {here} here;"
                " use that config, or train in another directory"
            )


def _list_files(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns {path: {"size": bytes, "sha256": hex digits}} of all files under `folder`."""
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fault(folder: pathlib.Path) -> str | None:
    """Returns how a checkpoint disagrees with its list, or None if it is whole."""
    name = LIST
    try:
        listed = json.loads((folder / LIST).read_text())
        for name, entry in listed.items():
            size = (folder / name).stat().st_size
            if size != entry["size"]:
                return f"{name} has {size} bytes instead of {entry['size']}"
            if _sha256(folder / name) != entry["sha256"]:
                return f"{name} has changed"
        return None if listed else f"{LIST} is empty"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{LIST} is not valid"


def _reason(error: Exception) -> str:
    """Returns the reason for a failed write or read in a few words, out of possibly many lines."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    system = re.search(r"\[os_error_code='?(\d+)", text)  # how TensorStore reports a system error
    return os.strerror(int(system.group(1))) if system else (text.splitlines() or [type(error).__name__])[0][:200]


@functools.cache
def _quieten_orbax() -> None:
    """Drops what the threads of Orbax and TensorStore print after a failed write: hundreds of lines for one failure.

    Nothing is lost: the failure itself reaches us as an exception. Messages from other code are printed as before.
    """
    logging.getLogger("absl").addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)
    warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # Orbax closes its event loop at the first array that fails; the others then find it closed.
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = hook

"""Checkpoints that are whole, or are not taken for checkpoints: save, verify, restore, set damaged ones aside.

Orbax writes and reads the arrays. What it leaves open is closed here: it loads a flipped bit in silence, and its own
sign of completeness is not enough to tell a damaged checkpoint from one of another config. So

- Orbax writes into `unfinished/`; once it is done, a list of all files (size, SHA-256) is added, and one rename moves
  the folder to `<step>`. A folder `<step>` was therefore complete once, and whatever disagrees with its list is damage.
- `leaves.json`, under the list like every file, names each array with its shape, so that a changed config is
  seen before Orbax is asked, and is not mistaken for damage.
- `about.json`, likewise, says what a checkpoint that has left its run's directory would not: what it was trained on.
- Orbax and TensorStore take `[`, `*`, a backslash or `gs:` in a path for something else than a name, and cannot take
  bytes that are not UTF-8. A directory with such a path is given to them by a link of a plain name (`_Alias`).
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
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from gen_jax.command import tells_of_a_lost_process
from gen_jax.method import State, UserError
from gen_jax.parallel import from_first_process
from gen_jax.run import sync_folder, write_json

_LIST = "files.json"
_LEAVES = "leaves.json"
_ABOUT = "about.json"
_NONE, _ALL_DAMAGED = -1, -2  # in place of a step, which is never negative
_ARRAYS = "default"  # the folder of a checkpoint that Orbax writes the arrays to
_MANIFEST = "manifest.ocdbt"  # in it: without this file nothing there is found
_PLAIN = re.compile(r"(?!/(gs|s3|az|hf)(/|$))[\w/ .,+=@~-]*")  # /s3/x would be an address, s3://x, to Orbax

_logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run.

    Every process of the run makes the same calls; process 0 alone writes lists and moves or removes folders.

    Args:
      directory: `checkpoints/` of the run, seen by all processes; made by the first save.
      keep: how many checkpoints stay; older ones go once a newer one is whole.
      about: what each checkpoint says of itself, as plain JSON values; nothing reads it.

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
        import orbax.checkpoint as ocp  # half a second: only for runs that save or restore

        _quieten_orbax()
        # It neither makes, lists nor removes folders: all that happens around our commit. Were the folders made in the
        # background, a failure there (a full disk) would leave threads that wait 20 minutes for them, and us for those.
        in_front = ocp.AsyncOptions(create_directories_asynchronously=False)
        options = ocp.CheckpointManagerOptions(
            create=False, max_to_keep=None, save_root_metadata=False, async_options=in_front
        )
        return ocp.CheckpointManager(self._alias.make() / self._unfinished.name, options=options)

    def save(self, state: State) -> None:
        """Returns when the state is copied, so that its buffers may be donated; the write goes on in the background.

        Waits for a save still in flight. Does nothing if this step was saved or restored just now.

        Raises:
          UserError: if this save, or the last one, could not be written.
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
            self._orbax.save(step, args=ocp.args.StandardSave(state), force=True)
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
                with contextlib.suppress(Exception):  # it repeats the failure that `wait` has told
                    self._orbax.close()
            self._alias.close()

    def clean(self) -> None:
        """Removes what a killed save left behind. For the holder of the run's lock alone, before its first save."""
        if jax.process_index() == 0 and self._unfinished.is_dir():
            for path in self._unfinished.iterdir():
                if re.fullmatch(r"\d+(\..*)?", path.name):  # as a save, or `_retire`, names it: no file of the user's
                    shutil.rmtree(path, ignore_errors=True)

    def forget(self, after: int) -> None:
        """Removes checkpoints of later steps than `after`, which training takes again. For the lock's holder."""
        if jax.process_index() == 0:
            for step in self._written():
                if step > after:
                    self._retire(step)

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints that agree with their lists, rising. Reads every byte of them."""
        return [step for step in self._folders() if _fault(self._folder(step)) is None]

    def latest(self) -> int | None:
        """Returns the newest of `steps`, or None; reads no older ones."""
        return next((step for step in reversed(self._folders()) if _fault(self._folder(step)) is None), None)

    def restore(self, like: State) -> State | None:
        """Returns the newest checkpoint that is whole; damaged newer ones are moved to `damaged/`, with a warning each.

        Args:
          like: the state expected: `jax.ShapeDtypeStruct` leaves (or arrays), whose shardings say where each goes.

        Returns:
          The state, bit by bit as saved, or None if there is no checkpoint at all.

        Raises:
          UserError: if there are checkpoints but none is whole (they stay where they are), or if the newest whole one
            has other leaves than `like`; the line names the first.
        """
        import orbax.checkpoint as ocp

        self.wait()
        self._alias.make()  # or it is refused here, before anything is trained
        step = self._choose()
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
            raise UserError(f"cannot restore {folder}, though its files are whole: {_reason(error)}") from error
        self._current = step
        return state

    def _folder(self, step: int) -> pathlib.Path:
        return self.directory / str(step)

    def _folders(self) -> list[int]:
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if re.fullmatch(r"0|[1-9][0-9]*", path.name))

    def _written(self) -> list[int]:
        """The steps of `_folders` that were written here: another folder whose name is a number is the user's."""
        return [step for step in self._folders() if (self._folder(step) / _LIST).is_file()]

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
        if not (folder / _ARRAYS / _MANIFEST).is_file():  # Orbax only warns where it finds none of its own parts
            raise UserError(f"cannot write the checkpoint {self._folder(step)}: Orbax left out {_ARRAYS}/{_MANIFEST}")
        write_json(folder / _LEAVES, leaves)
        write_json(folder / _ABOUT, self._about)
        write_json(folder / _LIST, _list_files(folder))
        if self._folder(step).exists():  # without a list, or `forget` would have removed it
            self._set_aside(step, "it lies where a new one goes")
        folder.rename(self._folder(step))
        sync_folder(self.directory)
        for old in self._written()[: -self._keep]:
            self._retire(old)

    def _retire(self, step: int) -> None:
        # One rename first: a removal that is cut short must not look like damage.
        self._unfinished.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._folder(step).rename(self._unfinished / f"{step}.retired"))

    def _choose(self) -> int | None:
        """Returns the newest whole step, the same in every process, and sets damaged newer ones aside."""
        choice = from_first_process(self._choose_alone() if jax.process_index() == 0 else 0)
        if choice == _ALL_DAMAGED:
            raise UserError(
                f"none of the checkpoints in {self.directory} is whole; nothing was deleted:"
                " put a good copy in place, or start afresh in another directory"
            )
        return None if choice == _NONE else choice

    def _choose_alone(self) -> int:
        damaged: dict[int, str] = {}
        for step in reversed(self._folders()):
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
        except OSError as error:  # a run that may only be read
            outcome = f"it cannot be moved aside ({error.strerror})"
        _logger.warning("checkpoint %s is damaged (%s): skipped, %s", self._folder(step), fault, outcome)


class _Alias:
    """A plain path to a directory, whatever its own looks like."""

    def __init__(self, directory: pathlib.Path):
        self._directory = directory
        self._links: pathlib.Path | None = None

    def make(self) -> pathlib.Path:
        """Returns the directory itself, or a link to it where its path is not `_PLAIN`; `close` removes the link."""
        if _PLAIN.fullmatch(str(self._directory)):
            return self._directory
        if self._links is None:
            self._links = _plain_folder()
        link = self._links / "checkpoints"
        if not link.is_symlink():  # or no more: systems clear their temporary folders after some days
            self._links.mkdir(mode=0o700, exist_ok=True)
            link.symlink_to(self._directory, target_is_directory=True)
        return link

    @contextlib.contextmanager
    def readable(self, step: int) -> Iterator[pathlib.Path]:
        """Gives a directory that holds the checkpoint of a step under its number, as Orbax reads it.

        Versions before 0.2 wrote none of Orbax's manifest where the path held `[ ]`, though all arrays: of such a
        checkpoint, which stays as it is, it is made anew beside links to its files.
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
    """Makes a folder of a plain path for links."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if _PLAIN.fullmatch(parent):
            with contextlib.suppress(OSError):
                return pathlib.Path(tempfile.mkdtemp(prefix="gen_jax-", dir=parent))
    raise UserError("no temporary folder is at hand whose path has only letters and digits; set TMPDIR to one")


def _merge_processes(folder: pathlib.Path) -> None:
    """Writes the manifest over the arrays that each process of a run has written into a folder of its own."""
    import tensorstore as ts

    context = ts.Context()  # one for all, or they refuse to refer to each other's files

    def open_store(path: pathlib.Path) -> Any:
        spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/"}}
        return ts.KvStore.open(spec, context=context).result()

    with ts.Transaction(atomic=True) as transaction:
        whole = open_store(folder).with_transaction(transaction)
        for part in sorted(folder.glob("ocdbt.process_*")):
            open_store(part).experimental_copy_range_to(whole).result()


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
                f"{folder} is of another config: {name} is {there} there and {here} here;"
                " go back to that config, or train in another directory"
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
    """Returns in which way a checkpoint disagrees with its list, or None if it is whole."""
    name = _LIST
    try:
        listed = json.loads((folder / _LIST).read_text())
        for name, entry in listed.items():
            size = (folder / name).stat().st_size
            if size != entry["size"]:
                return f"{name} has {size} bytes instead of {entry['size']}"
            if _sha256(folder / name) != entry["sha256"]:
                return f"{name} has changed"
        return None if listed else f"{_LIST} is empty"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{_LIST} cannot be understood"


def _reason(error: Exception) -> str:
    """Returns a few words on why a write or read failed, out of what may be many lines."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    system = re.search(r"\[os_error_code='?(\d+)", text)  # as TensorStore reports what the system said
    return os.strerror(int(system.group(1))) if system else (text.splitlines() or [type(error).__name__])[0][:200]


@functools.cache
def _quieten_orbax() -> None:
    """Drops what a failed write prints from the threads of Orbax and TensorStore: hundreds of lines for one failure.

    Nothing is lost: the failure itself reaches us as an exception. What others say goes through as before.
    """
    logging.getLogger("absl").addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)
    warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # Orbax leaves its event loop at the first array that fails; the others then find it closed.
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = hook

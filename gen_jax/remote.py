"""Runs at an address such as s3://bucket/run: each works in a local folder, and a thread copies what has changed.

A run locks its directory, appends to its record and renames finished files, none of which an object store can do. So
it has a folder in the user's cache (`Mirror.folder`), and the address gets copies of whole files, every few seconds and
at the end. Their order makes what is at the address at any moment what a killed run may leave behind: the record before
a checkpoint, a checkpoint's list of files after its files, and nothing is removed before what replaces it is there.

Every copy ends with a new name in the object `.version`. A folder whose version is that of the address is the newest
state, and is used as it is; any other one is replaced by what is at the address. A run that finds a version which is
not its own there, because another machine trains at this address as well, stops and leaves the address to that one.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

from gen_jax.checkpoint import LIST
from gen_jax.data import cache
from gen_jax.method import UserError
from gen_jax.run import Run, legible, write_json

PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
"""By scheme, the package that reads and writes such addresses; an extra of this one has the scheme's name."""

SECONDS = 10.0  # between two looks for changes

_VERSION = ".version"
_CHECKPOINT = re.compile(r"(?P<folder>(.*/)?(checkpoints|best)/\d+)/.+")
_NOT_COPIED = re.compile(r"(.*/)?(lock|unfinished/.*|\..*\.tmp)")


class TakenError(UserError):
    """Another machine has written to the address of a run."""


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an address of one of `PACKAGES`; a file system mounted from there is none.

    Example:
      >>> is_address("s3://bucket/run"), is_address("runs/x"), is_address("http://host/run")
      (True, False, False)
    """
    return os.fspath(path).partition("://")[0] in PACKAGES and "://" in os.fspath(path)


def fetch(address: str) -> pathlib.Path:
    """Returns a folder with the run at an address as it is now, to be read.

    Raises:
      UserError: the address cannot be read.
    """
    mirror = Mirror(address)
    mirror.fetch()
    return mirror.folder


@contextlib.contextmanager
def working_in(path: str | os.PathLike[str], training: bool) -> Iterator[str | os.PathLike[str]]:
    """Yields the folder to work in: `path` itself, or that of an address, which gets what has changed.

    Args:
      path: a directory or an address.
      training: copies during the block, too, and stops the process (SIGTERM) once another one writes to the address.
        Otherwise new and changed files are copied after the block, and it does not matter whether a run goes on there.

    Raises:
      UserError: the address cannot be read or written; what was not copied stays in the folder.
    """
    if not is_address(path):
        yield path
        return
    mirror = Mirror(os.fspath(path))
    mirror.fetch()
    print(f"{mirror.address}: the local copy is {mirror.folder}")
    if not training:
        yield mirror.folder
        mirror.push(owned=False)
        return
    mirror.try_to_write()
    with mirror.copying():
        yield mirror.folder


class Mirror:
    """A run at an address, and its local folder.

    Args:
      address: such as s3://bucket/run.

    Raises:
      UserError: the address is not valid, or needs a package that is not installed.
    """

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        scheme, _, rest = self.address.partition("://")
        if "/" not in rest:
            raise UserError(f"--workdir={address} names no folder of a bucket: give {scheme}://<bucket>/<run>")
        try:
            import fsspec

            # Credentials, region and endpoint are those that the package finds: environment, files, instance.
            self._files, self._root = fsspec.core.url_to_fs(self.address, use_listings_cache=False)
        except ImportError as error:
            raise UserError(
                f"{self.address} needs the package {PACKAGES[scheme]}: pip install 'gen_jax[{scheme}]' ({error})"
            ) from None
        folders = cache.root() / "remote"
        self.folder = folders / urllib.parse.quote(self.address, safe="")
        self._record = folders / f"{self.folder.name}.json"

    def fetch(self) -> None:
        """Makes the folder's content that of the address, unless it is the newest state anyway.

        Raises:
          UserError: the address cannot be read, or holds no run any more; another process works in the folder.
        """
        with self._told("read"):
            version, recorded = self._version(), self._recorded()["version"]
            # Files without a version were copied there by hand, or by a first copy that was cut off.
            if version == recorded and (version or self._local()):
                return
            if recorded and not version:
                raise UserError(
                    f"there is no run at {self.address} any more; {self.folder} is the last copy: copy it back, or "
                    "remove it to start a new run"
                )
            names = self._remote()
            whole = {name.removesuffix(f"/{LIST}") for name in names if name.endswith(f"/{LIST}")}
            parts = {name: _CHECKPOINT.fullmatch(name) for name in names}
            with Run(self.folder).lock():
                self._record.unlink(missing_ok=True)
                self._empty()
                for name, part in parts.items():
                    if part is None or part["folder"] in whole:
                        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                        self._files.get_file(f"{self._root}/{name}", str(self.folder / name))
        self._remember(version, self._local())

    def try_to_write(self) -> None:
        """Raises a UserError if the address cannot be written: before training, not after it."""
        with self._told("write"):
            self._files.pipe_file(f"{self._root}/.try", b"")
            self._files.rm_file(f"{self._root}/.try")

    def push(self, owned: bool = True) -> None:
        """Copies what has changed since the last time, if anything has.

        Args:
          owned: whether this is the run's own process: what it has removed is removed at the address, too, and the
            address has a new version.

        Raises:
          TakenError: `owned`, and another machine has written to the address.
          UserError: it cannot be written.
        """
        before, now = self._recorded(), self._local()
        copied: dict[str, list[int]] = before["files"]
        changed = sorted((name for name in now if now[name] != copied.get(name)), key=_order)
        gone = sorted(copied.keys() - now.keys(), key=_order, reverse=True) if owned else []
        if not (changed or gone):
            return
        with self._told("write"):
            if owned and self._version() != before["version"]:
                raise TakenError(
                    f"another process writes to {self.address}; this one stops. What it has done is in {self.folder}, "
                    "until a run of that address starts on this machine"
                )
            for name in changed:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile, as an old checkpoint
                    self._files.put_file(str(self.folder / name), f"{self._root}/{name}")
            for name in gone:
                with contextlib.suppress(FileNotFoundError):
                    self._files.rm_file(f"{self._root}/{name}")
            if owned:
                version = secrets.token_hex(16)
                self._files.pipe_file(f"{self._root}/{_VERSION}", version.encode())
                self._remember(version, now)  # not by others: the run itself may be copying at the same time

    @contextlib.contextmanager
    def copying(self) -> Iterator[None]:
        """Copies every `SECONDS` during the block, and at its end however it ends.

        A copy that fails is tried again; the first failure is told on standard error.

        Raises:
          UserError: the last copy failed, or another machine has written to the address.
        """
        ended, taken = threading.Event(), []

        def work() -> None:
            failing = False
            while not ended.wait(SECONDS):
                try:
                    self.push()
                    failing = False
                except TakenError as error:
                    taken.append(error)
                    _say(str(error))
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                except UserError as error:
                    if not failing:
                        _say(f"{error}; training goes on, and it is tried again")
                    failing = True

        thread = threading.Thread(target=work, name="copying", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            if taken:
                raise taken[0]
            self.push()

    def _version(self) -> str:
        try:
            return self._files.cat_file(f"{self._root}/{_VERSION}").decode()
        except FileNotFoundError:
            return ""

    def _remote(self) -> list[str]:
        """Returns the names of all objects of the run; others, such as a/../b, would leave the folder."""
        root = self._root.strip("/") + "/"
        names = [path.strip("/").removeprefix(root) for path in self._files.find(self._root)]
        return [name for name in names if name != _VERSION and ".." not in name.split("/")]

    def _local(self) -> dict[str, list[int]]:
        """Returns {name: [bytes, time of the last change in ns]} of all files that are copied."""
        found = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile
                if not _NOT_COPIED.fullmatch(name) and path.is_file():
                    found[name] = [path.stat().st_size, path.stat().st_mtime_ns]
        return found

    def _recorded(self) -> dict[str, Any]:
        """Returns what `_remember` wrote, or what is true of a folder that was never copied."""
        try:
            return json.loads(self._record.read_text())
        except FileNotFoundError:
            return {"version": "", "files": {}}

    def _remember(self, version: str, files: dict[str, list[int]]) -> None:
        self._record.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._record, {"version": version, "files": files})

    def _empty(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()

    @contextlib.contextmanager
    def _told(self, verb: str) -> Iterator[None]:
        """Turns any failure of the address into one line; packages have errors of their own."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise UserError(f"cannot {verb} {self.address}: {reason}; the local copy is {self.folder}") from error


def _order(name: str) -> int:
    """Returns where a file comes in a copy: a checkpoint after the record that leads to it, and its list at the end.

    Example:
      >>> sorted(["checkpoints/5/files.json", "checkpoints/5/a", "report.json", "report.html"], key=_order)
      ['report.html', 'report.json', 'checkpoints/5/a', 'checkpoints/5/files.json']
    """
    if _CHECKPOINT.fullmatch(name):
        return 3 if name.endswith(f"/{LIST}") else 2
    return int(name.endswith("report.json"))  # it tells that the page beside it is complete


def _say(line: str) -> None:
    print(f"gen_jax: {legible(line)}", file=sys.stderr)

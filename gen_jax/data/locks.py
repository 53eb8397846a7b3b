"""One process at a time, by a lock file that exists only while it is held."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def alone(path: pathlib.Path, waiting: str) -> Iterator[bool]:
    """Lets one process at a time into the block while the others wait; yields whether the file system has locks.

    If it has none (some mounts of Lustre and NFS), all enter at once: the block must be correct without a lock, too.
    The system releases a lock when its process dies.

    Args:
      path: the lock file; its folder is created if missing. The file is removed at the end.
      waiting: a line for stderr if another process holds the lock.

    Raises:
      OSError: the folder cannot be written.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...   with alone(pathlib.Path(folder) / "x.lock", "waiting for x"):
      ...     inside = os.listdir(folder)
      ...   inside, os.listdir(folder)
      (['x.lock'], [])
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            locked = _take(file, waiting)
            if locked and not _is_at(file, path):  # its holder has removed it: others now lock a new file
                waiting = ""
                continue
            try:
                yield locked
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()
            return


def _take(file: IO[str], waiting: str) -> bool:
    """Waits for the lock; returns whether it holds it, which is false only without locks."""
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                print(f"gen_jax: {waiting}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # ENOSYS, ENOLCK, EOPNOTSUPP: file systems without locks differ in their error
        return False
    return True


def _is_at(file: IO[str], path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False

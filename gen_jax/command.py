"""Runs a program's `main` from the shell: a user's mistake is one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import io
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from gen_jax.method import UserError

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # full, over quota, read-only: not a bug
# A pipe whose reader is gone (`| head`), a closed terminal, a full disk behind `>`.
_NO_READER = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENOSPC, errno.EDQUOT)
_LOST = ("gloo", "nccl", "unavailable", "heartbeat", "coordination", "connection closed", "socket closed")

STOPPED = 75
"""The exit code of a run that was stopped by a signal and saved: EX_TEMPFAIL, "try again later"."""

_WATCH = "import sys\nif not sys.stdin.buffer.read(): sys.stderr.write(sys.argv[1])"
_watcher: tuple[int, subprocess.Popen[bytes]] | None = None


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a UserError's one line, without the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')} (see --help)")


def run(main: Callable[[list[str]], None], interrupted: str) -> None:
    """Calls `main` with the words of the command line, and exits.

    Printing never ends a program: closed streams are replaced, and characters that a stream cannot encode are escaped.

    Args:
      main: takes the words after the program's name; raises UserError for a user's mistake.
      interrupted: how to continue; printed after Ctrl-C (exit code 130), and if another process of the run was lost.
    """
    _secure_streams()
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.stderr.write(f"gen_jax: {error}\n")
        _end(2)
    except KeyboardInterrupt:
        sys.stderr.write(f"gen_jax: interrupted; {interrupted}\n")
        _end(130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK:  # from a write that has no message of its own
            sys.stderr.write(f"gen_jax: cannot write {error.filename or 'a file'}: {error.strerror}\n")
            _end(2)
        if isinstance(error, RuntimeError) and "home directory" in str(error):  # from pathlib, for a `~` in a path
            sys.stderr.write("gen_jax: there is no home folder: set HOME, or TFDS_DATA_DIR and XDG_CACHE_HOME\n")
            _end(2)
        if not _is_one_of_several():
            raise
        if tells_of_a_lost_process(error):
            reason = str(error).splitlines()[0][:200]
            sys.stderr.write(f"gen_jax: another process of the run was lost ({reason}); {interrupted}\n")
            _end(3)
        traceback.print_exc()
        _end(1)


def in_own_flags(line: str, keys: Sequence[str]) -> str:
    """Returns a message about data that names a program's own flags instead of those of `gen_jax.main`.

    Args:
      line: a UserError's.
      keys: of `config.data` that are flags of the program.

    Example:
      >>> in_own_flags("set --config.data.on_error=skip, or --config.data.name=image_folder:/pictures", ["on_error"])
      'set --on_error=skip, or image_folder:/pictures'
    """
    for key in keys:
        line = line.replace(f"--config.data.{key}", f"--{key}")
    return line.replace("--config.data.name=", "")


def end_as_stopped(line: str) -> NoReturn:
    """Ends the program after a signal, with one line and the exit code `STOPPED`."""
    sys.stderr.write(f"gen_jax: {line}\n")
    raise SystemExit(STOPPED)


class _Lasting(io.FileIO):
    """A file that accepts all writes, even if nobody can read them."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in _NO_READER:
                return len(data)
            raise


def _secure_streams() -> None:
    # Closed streams first (`2>&-`): otherwise the next file opened would get their number, and JAX's output.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # it was closed when Python started
            setattr(sys, name, os.fdopen(number, "w", errors="backslashreplace", closefd=False))
        elif stream is getattr(sys, f"__{name}__") and _number(stream) == number:
            stream.flush()
            setattr(sys, name, _lasting(stream, number))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _lasting(stream: io.TextIOWrapper, number: int) -> io.TextIOWrapper:
    file, at_once = _Lasting(number, "w", closefd=False), stream.write_through
    return io.TextIOWrapper(
        file if at_once else io.BufferedWriter(file),
        stream.encoding,
        "backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=at_once,
    )


def _number(stream: Any) -> int | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return stream.fileno()
    return None


def tells_of_a_lost_process(error: Exception) -> bool:
    """Whether an error was caused by the loss of another process of this run, judging by its first line.

    Code that turns errors into UserErrors must re-raise these: its own operation is not what failed.
    """
    reason = (str(error).splitlines() or [""])[0].lower()
    return _is_one_of_several() and any(sign in reason for sign in _LOST)


def watch(line: str) -> None:
    """Starts a small process that prints `line` if this one is killed, or is aborted by JAX's C++ code, as happens to
    the processes of a run when one of them is lost."""
    global _watcher
    reader, writer = os.pipe()
    # In its own session, so that Ctrl-C and a scheduler's signals do not reach it.
    words = [sys.executable, "-I", "-S", "-c", _WATCH, f"gen_jax: {line}\n"]
    _watcher = writer, subprocess.Popen(words, stdin=reader, start_new_session=True)
    os.close(reader)
    atexit.register(_dismiss)


def _dismiss() -> None:
    global _watcher
    if _watcher is not None:
        writer, process = _watcher
        os.write(writer, b"1")
        os.close(writer)
        process.wait()
        _watcher = None


def _is_one_of_several() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _end(code: int) -> NoReturn:
    """Exits; at once if there are several processes: Python's own exit would wait minutes for the others, which in turn
    wait for this one."""
    if _is_one_of_several():
        import jax

        if jax.process_index() == 0:
            # The others connect to this process: without it they abort before they can print the same mistake.
            time.sleep(2)
        _dismiss()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)

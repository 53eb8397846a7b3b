"""How a `main` ends when a shell called it: a user's mistake is one line on stderr and exit code 2."""

from __future__ import annotations

import atexit
import errno
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from gen_jax.method import UserError

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # full, over quota, read-only: no fault of the program
_LOST = ("gloo", "nccl", "unavailable", "heartbeat", "coordination", "connection closed", "socket closed")

_WATCH = "import sys\nif not sys.stdin.buffer.read(): sys.stderr.write(sys.argv[1])"
_watcher: tuple[int, subprocess.Popen[bytes]] | None = None


def run(main: Callable[[list[str]], None], interrupted: str) -> None:
    """Calls `main` with the words of the command line, and exits.

    Args:
      main: takes the words behind the program's name; raises UserError for a mistake of the user's.
      interrupted: how to go on: said after Ctrl-C (exit code 130), and where another process of the run is gone.
    """
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.stderr.write(f"gen_jax: {error}\n")
        _end(2)
    except KeyboardInterrupt:
        sys.stderr.write(f"gen_jax: interrupted; {interrupted}\n")
        _end(130)
    except BrokenPipeError:  # `| head`: what is left to say has no reader, nor has Python's complaint about it
        os._exit(1)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK:  # of a file that has no line of its own
            sys.stderr.write(f"gen_jax: cannot write {error.filename or 'a file'}: {error.strerror}\n")
            _end(2)
        if not _is_one_of_several():
            raise
        if tells_of_a_lost_process(error):
            reason = str(error).splitlines()[0][:200]
            sys.stderr.write(f"gen_jax: another process of the run is gone ({reason}); {interrupted}\n")
            _end(3)
        traceback.print_exc()
        _end(1)


def tells_of_a_lost_process(error: Exception) -> bool:
    """Whether an error comes of the loss of another process of this run, as far as its first line shows.

    Whoever turns errors into a UserError of his own lets these through: what failed is not what he was doing.
    """
    reason = (str(error).splitlines() or [""])[0].lower()
    return _is_one_of_several() and any(sign in reason for sign in _LOST)


def watch(line: str) -> None:
    """Lets a small process say `line` if this one ends from outside of Python: killed, or aborted by JAX's C++ code,
    which is how the processes of a run end when one of them is lost."""
    global _watcher
    reader, writer = os.pipe()
    # In a session of its own: Ctrl-C and a scheduler's signals are not meant for it.
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
    """Ends this process; at once, where it is one of several: Python's end would wait minutes for the others, who in
    turn wait for this one."""
    if _is_one_of_several():
        import jax

        if jax.process_index() == 0:
            # It is the address of all: without it the others abort before they have told the same mistake.
            time.sleep(2)
        _dismiss()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)

"""How a `main` ends when a shell called it: a user's mistake is one line on stderr and exit code 2."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from gen_jax.method import UserError

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # full, over quota, read-only: no fault of the program


def run(main: Callable[[list[str]], None], interrupted: str) -> None:
    """Calls `main` with the words of the command line, and exits.

    Args:
      main: takes the words behind the program's name; raises UserError for a mistake of the user's.
      interrupted: what to say, behind "interrupted; ", after Ctrl-C (exit code 130).
    """
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.stderr.write(f"gen_jax: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write(f"gen_jax: interrupted; {interrupted}\n")
        sys.exit(130)
    except BrokenPipeError:  # `| head`: what is left to say has no reader, nor has Python's complaint about it
        os._exit(1)
    except OSError as error:  # of a file that has no line of its own
        if error.errno not in _DISK:
            raise
        sys.stderr.write(f"gen_jax: cannot write {error.filename or 'a file'}: {error.strerror}\n")
        sys.exit(2)

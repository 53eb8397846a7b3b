"""Freed memory is kept by our commands alone: page faults of a thread that allocates and frees 128 MiB, ten times."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import gen_jax, resource, threading
faults = []
def allocate():  # in a thread, as XLA does: heaps of threads are limited to 64 MiB
    for number in range(11):
        b"x" * 2**27
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
thread = threading.Thread(target=allocate)
thread.start()
thread.join()
from gen_jax import memory
print(faults[-1] - faults[0], memory.describe())
"""
COMMAND = "import sys; sys.orig_argv = ['python', '-m', 'gen_jax.main']"
NAMES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES")


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}), reason="the C library is not glibc")
@pytest.mark.parametrize(
    ("code", "variables", "kept", "line"),
    [
        (COMMAND, {}, True, "kept for the next step"),
        ("", {}, False, "returned to the system"),  # a user's own process
        (COMMAND, {"MALLOC_MMAP_THRESHOLD_": "65536"}, False, "as set by MALLOC_MMAP_THRESHOLD_=65536"),
        (COMMAND, {"MALLOC_ARENA_MAX": "2"}, False, "as set by MALLOC_ARENA_MAX=2"),
        (
            COMMAND,
            {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536"},
            False,
            "as set by GLIBC_TUNABLES=glibc.malloc.mmap_threshold=65536",
        ),
    ],
)
def test_a_command_keeps_what_it_frees_unless_the_user_has_set_it(code, variables, kept, line):
    clean = {k: v for k, v in os.environ.items() if k not in NAMES}
    words = [sys.executable, "-W", "ignore", "-c", f"{code}\n{FAULTS}"]
    printed = subprocess.run(words, env=clean | variables, stdout=subprocess.PIPE, text=True, check=True).stdout
    faults, _, described = printed.strip().partition(" ")
    assert described == f"freed memory: {line}"
    pages = 10 * 2**27 // os.sysconf("SC_PAGE_SIZE")
    assert int(faults) < 0.1 * pages if kept else int(faults) > 0.9 * pages

"""Sums of jaxlib on a CPU against float64, and who sets the option that makes them right."""

import os
import pathlib
import subprocess
import sys

import pytest

from gen_jax import xla

ROOT = pathlib.Path(__file__).parents[1]
FIVE_LINES = """
import jax, jax.numpy as jnp, numpy as np
rows, matrix = np.zeros((32769, 3), np.float32), np.eye(3, dtype=np.float32)
rows[:, 0] = np.arange(32769)  # so that each sum is the square of its number
sums = jax.{jit}(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows{axes})
print(int(np.sum(abs(np.asarray(sums, np.float64).ravel() / np.maximum(np.arange(32769.0), 1) ** 2 - 1)[1:] > 1e-6)))
"""


def run(code, **env):
    clean = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, env=clean | env, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize(("jit", "axes"), [("jit", ""), ("pmap", "[None]")])
def test_sums_are_right_with_what_our_commands_set(jit, axes):
    code = "import os, gen_jax.xla\nif gen_jax.xla.needed(): os.environ['XLA_FLAGS'] = gen_jax.xla.SAFE\n"
    assert run(code + FIVE_LINES.format(jit=jit, axes=axes))[0] == "0"


def test_the_versions_that_need_it_are_wrong_without():
    wrong = int(run(FIVE_LINES.format(jit="jit", axes=""))[0]) > 0
    assert wrong == (xla.importlib.metadata.version("jaxlib") in xla.WRONG)


def test_the_processes_of_commands_are_safe_and_tests_are():
    code = (
        "import sys; sys.orig_argv = ['python', '-m', 'gen_jax.main']; import os, gen_jax; print(gen_jax.xla.needed())"
    )
    assert run(code) == ("False", "")
    assert not xla.needed()  # conftest.py sets it for these tests


def test_another_process_is_warned_once_unless_something_is_set():
    code = "import gen_jax, importlib; importlib.import_module('gen_jax.config')"
    expected = int(xla.importlib.metadata.version("jaxlib") in xla.WRONG)
    assert run(code)[1].count("computes wrong sums on CPUs") == expected
    assert run(code, XLA_FLAGS="--xla_cpu_experimental_ynn_fusion_type=DOT")[1] == ""

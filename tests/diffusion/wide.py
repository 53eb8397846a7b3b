"""Float64 throughout, for derivatives against finite differences and for identities in closed form."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@contextlib.contextmanager
def float64():
    """What is traced here computes in float64, also where our code asks for float32."""
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        patch.setattr(jnp, "float32", np.float64)
        yield

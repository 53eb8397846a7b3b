"""gen_jax: GANs, VAEs and diffusion models on images, as pure functions in JAX and Flax."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen_jax.sample import Model

__version__ = "0.1.0"
__all__ = ["load"]


def load(workdir: str | pathlib.Path) -> Model:
    """Returns the trained model of a run's directory: `gen_jax.load("runs/ddpm_mnist").sample(16)`.

    Args:
      workdir: a directory that `python -m gen_jax.main` wrote.

    Raises:
      UserError: no run there, or one without a checkpoint.
    """
    from gen_jax.sample import load as load_model

    return load_model(workdir)

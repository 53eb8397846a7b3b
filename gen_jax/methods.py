"""METHODS: the one table from name to constructor. A family is imported when one of its methods is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from gen_jax.config import require_choice
from gen_jax.method import DataSpec, Method

METHODS = {
    "ddpm": "gen_jax.diffusion.ddpm",
    "vae": "gen_jax.vae.vae",
    "gan": "gen_jax.gan.gan",
    "acgan": "gen_jax.gan.acgan",
}


def make(config: Any, spec: DataSpec) -> Method:
    """Returns the method that `config.method` names, for data like `spec`.

    Raises:
      UserError: no such method, or values in the config that the method cannot have.
    """
    require_choice("method", config.method, METHODS)
    return importlib.import_module(METHODS[config.method]).make(config, spec)

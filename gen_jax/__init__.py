"""gen_jax: GANs, VAEs, flows, autoregressive and diffusion models on images, as pure functions in JAX and Flax."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gen_jax import memory, xla

if TYPE_CHECKING:
    from gen_jax.sample import Model

__version__ = "0.2.0"
xla.start()
if xla.is_command():
    memory.keep()
__all__ = ["load"]


def load(workdir: str | os.PathLike[str], **overrides: Any) -> Model:
    """Returns the trained model of a run's directory: `gen_jax.load("runs/ddpm_mnist").sample(16)`.

    Args:
      workdir: a directory that `python -m gen_jax.main` wrote, here or at an address such as s3://bucket/run, or a
        .safetensors file that its `--mode=export` wrote.
      **overrides: values of `config.sample`, as far as the model has them: `sampler="ddim"` or
        `sampler={"name": "ddim", "eta": 0.5}`, `num_steps=10`, `guidance=2.0`, `batch_size`, `seed`,
        `checkpoint="best"`.

    Raises:
      UserError: no run there, or one without a checkpoint; a damaged file; a value that the model does not have.
    """
    from gen_jax import remote

    if remote.is_address(workdir):
        workdir = remote.fetch(os.fspath(workdir))
    if os.path.isfile(workdir) or (os.fspath(workdir).endswith(".safetensors") and not os.path.isdir(workdir)):
        from gen_jax.portable import load as load_model
    else:
        from gen_jax.sample import load as load_model

    words = []
    for key, value in overrides.items():
        values = {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, dict) else {key: value}
        words += [f"--config.sample.{name}={each}" for name, each in values.items()]
    return load_model(workdir, tuple(words))

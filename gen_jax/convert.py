"""`python -m gen_jax.convert FILE WORKDIR`: makes a run of published weights, which can then be sampled and judged.

Like main.py this is a program: nothing imports it. A user's mistake ends in one line on stderr and exit code 2. The run
looks like one that was trained here: its weights are in a checkpoint, both as parameters and as their average. What the
file does not hold (the optimizer's state, the step) is as at the start of training, and `num_steps` of the config; so
the run cannot be trained further.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import shlex
from typing import Any

import jax
import numpy as np

from gen_jax import command, methods, parallel, stages, train
from gen_jax.checkpoint import Checkpoints
from gen_jax.data import dataset
from gen_jax.diffusion import pipeline, published
from gen_jax.method import State, UserError
from gen_jax.metrics import safetensors_file, torch_file
from gen_jax.run import Run, write_text

CONFIG = "ddpm_cifar10"

ABOUT = """\
Make a run of published PyTorch weights of the U-Net of Ho et al. 2020. Example:

  python -m gen_jax.convert diffusion_pytorch_model.safetensors runs/ddpm_cifar10
  python -m gen_jax.main --workdir=runs/ddpm_cifar10 --mode=sample --config.sample.num=64

FILE is .safetensors, or what torch.save wrote from a state dict (.bin, .pth, .pt); it is read without PyTorch. Its
tensors are named as in diffusers (google/ddpm-cifar10-32) or as in the ports of the original code. Values of the config
can be set as for gen_jax.main: --config.data.name=..., or --config.network.channels=... for a network of another size.
It may also be a folder of diffusers, whose config.json and scheduler_config.json tell these values.
"""


def main(argv: list[str]) -> None:
    """Makes the run that `argv` asks for.

    Raises:
      UserError: a mistake of the user; see `convert`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m gen_jax.convert",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="the published weights, or a folder of diffusers")
    parser.add_argument("workdir", metavar="WORKDIR", help="the directory of the run, which must not exist yet")
    parser.add_argument(
        "--config", metavar="FILE[:VARIANT]", default=CONFIG, help="the recipe of the weights; default: %(default)s"
    )
    flags, words = parser.parse_known_args(argv)
    name, variant, config = methods.load(flags.config)
    file, told = pathlib.Path(flags.file).expanduser(), []
    if file.is_dir():
        file, told = in_folder(file)
    config = stages.with_absolute_paths(methods.override(config, [*told, *words]))
    methods.check(config)
    run = Run(flags.workdir)
    made_by = shlex.join(["python", "-m", "gen_jax.convert", *argv])
    layout = convert(file, run, config, (name, variant), made_by)
    print(f"{run.workdir}: weights of {flags.file} (layout: {layout}), as a run of {name} on {config.data.name}")
    print(f"sample it: python -m gen_jax.main --workdir={shlex.quote(str(run.workdir))} --mode=sample")


def in_folder(folder: pathlib.Path) -> tuple[pathlib.Path, list[str]]:
    """Returns the weights file in a folder of diffusers, and what the folder tells of the config.

    Args:
      folder: of a `DDPMPipeline`, or of its `UNet2DModel` alone.

    Raises:
      UserError: it holds no weights or no config.json, or a model that is none of this project.
    """
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    found = [unet / f"diffusion_pytorch_model{suffix}" for suffix in (safetensors_file.SUFFIX, ".bin")]
    file = next((path for path in found if path.is_file()), None)
    if file is None:
        raise UserError(f"{folder} is no folder of diffusers: there is no {found[0].name} in it")
    schedulers = [folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json"]
    scheduler = next((_json(path) for path in schedulers if path.is_file()), None)
    return file, pipeline.words_of(_json(unet / "config.json"), scheduler, str(folder))


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"cannot read {path}: it is no object")
    return values


def convert(file: pathlib.Path, run: Run, config: Any, name: tuple[str, str], made_by: str) -> str:
    """Writes a run of published weights, and returns the name of their layout.

    Args:
      file: of the weights.
      run: its directory must not exist.
      config: complete and checked: the recipe with which the weights were trained.
      name: of the config, and its variant.
      made_by: the command, for config.json.

    Raises:
      UserError: the directory exists; the config is not of an unconditional DDPM with a U-Net; the file cannot be read,
        or holds another network; the data set is not at hand.
    """
    if os.path.lexists(run.workdir):
        raise UserError(f"{run.workdir} exists already: choose another WORKDIR, or remove it")
    _check(config)
    tensors = read(file)
    data = dataset.load(config.data)
    method, mesh = methods.make(config, data.spec), parallel.make_mesh(1)
    abstract = methods.abstract_state(method, data.spec, None, mesh)
    params, layout = published.params_of(tensors, abstract.params["denoiser"], str(file))
    state = _state(train.initial_state(config, method, data, mesh, {}), params, config.num_steps)
    main = shlex.join(["python", "-m", "gen_jax.main", f"--workdir={run.workdir}"])
    record = train.describe(config, data.spec, abstract, mesh, *name, main)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    source = {"file": file.name, "sha256": sha256, "layout": layout, "command": made_by}
    with run.lock():
        with Checkpoints(run.checkpoints, about=train.about(data.spec)) as checkpoints:
            checkpoints.save(state)
        write_text(run.parameters, train.overview(abstract, data.spec.name))
        run.write_config({**record, "converted": source})  # last: a directory without it is no run
    return layout


def read(file: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a weights file by name: safetensors if its name says so, else PyTorch's own format.

    Raises:
      UserError: it cannot be read; see `safetensors_file.read` and `torch_file.read`.
    """
    reader = safetensors_file if file.suffix == safetensors_file.SUFFIX else torch_file
    return reader.read(file)


def _check(config: Any) -> None:
    """Refuses a config that no published file can be of."""
    if config.method != "ddpm" or config.network.name != "unet":
        network = f" with network {config.network.name}" if "network" in config else ""
        raise UserError(f"published weights are those of a ddpm with network unet, not of {config.method}{network}")
    if config.diffusion.conditional:
        raise UserError("published weights know no labels: set --config.diffusion.conditional=false")


def _state(state: State, params: Any, step: int) -> State:
    """The state with the parameters of a file, as trained parameters and as their average."""
    networks = {"denoiser": jax.device_put(params, state.step.sharding)}
    return state.replace(step=jax.device_put(np.int32(step), state.step.sharding), params=networks, ema=networks)


if __name__ == "__main__":
    command.run(main, "remove WORKDIR, and the same command starts again")

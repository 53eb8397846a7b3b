"""First stages: the trained model that a run builds on, either an existing run or trained for it; and absolute paths.

`config.pretrained` is the directory of a run, or a config that is trained in the folder `pretrained` of this run.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from clu import parameter_overview

from gen_jax import best, methods
from gen_jax.checkpoint import Checkpoints
from gen_jax.config import FOLDER
from gen_jax.method import DataSpec, PyTree, Stage, UserError, did_you_mean
from gen_jax.run import Run, directory


@dataclasses.dataclass(frozen=True)
class First:
    """The first stage of a run.

    Attributes:
      stage: with the shapes of its parameters.
      run: where it is, or will be, trained.
      own: whether it is trained only for this run.
    """

    stage: Stage
    run: Run
    own: bool

    def record(self) -> dict[str, Any]:
        """Returns its record in config.json."""
        stage = self.stage
        return {
            "config": stage.config.to_dict(),
            "data": stage.spec.to_dict(),
            "run": str(self.run.workdir.resolve()),
            "parameters": parameter_overview.count_parameters(stage.params),
        }

    def params(self, mesh: jax.sharding.Mesh, sharding: str, train: Callable[..., None]) -> PyTree:
        """Returns its averaged weights on the devices of a mesh.

        Args:
          mesh: of the run.
          sharding: of the run.
          train: `train.train`, which trains the run's own stage, or resumes its training.
        """
        if self.own:
            if jax.process_index() == 0:
                print(f"{self.run.workdir}: the first stage, {methods.options(self.stage.config).title}")
            command = f"python -m gen_jax.main --workdir={self.run.workdir}"
            train(self.stage.config, self.run, "pretrained", "", command)
        abstract = methods.abstract_state(self.stage.method, self.stage.spec, None, mesh, sharding)
        with Checkpoints(self.run.checkpoints) as checkpoints:
            state = checkpoints.restore(abstract)
        if state is None:
            raise UserError(f"{self.run.workdir} holds no checkpoint")
        return state.ema


def find(config: Any, run: Run, spec: DataSpec) -> First | None:
    """Returns the first stage that a config names, or None if it names none; trains nothing.

    Args:
      config: of the run.
      run: its directory, which records its first stage if the run has been trained already.
      spec: of the run's data.

    Raises:
      UserError: the directory holds no run, or one that is unfinished or was trained on other data.
    """
    if "pretrained" not in config or not config.pretrained:
        return None
    whole = methods.whole_stage(config)
    if whole is not None:
        return First(methods.make_stage(whole, spec), Run(run.workdir / "pretrained"), own=True)
    if run.config_path.is_file() and run.checkpoints.is_dir():  # its parameters are in the checkpoint
        record = run.read_config()
        stage = methods.stored_stage(record)
        if stage is not None:
            return First(stage, Run(record["pretrained"]["run"]), own=False)
    return _at_hand(Run(config.pretrained), spec, methods.options(config).same_images)


def _at_hand(run: Run, spec: DataSpec, same_images: bool) -> First:
    if not os.path.isfile(run.config_path):  # unlike `Path.is_file`, it accepts any text, even one too long for a name
        known = [str(path.parent) for path in pathlib.Path("runs").glob("*/config.json")]
        hint = did_you_mean(str(run.workdir), known)
        raise UserError(f"config.pretrained is {str(run.workdir)!r}, which holds no run; {hint}".rstrip("; "))
    record = run.read_config()
    config, trained_on = methods.stored(record), DataSpec.from_dict(record["data"])
    with Checkpoints(run.checkpoints) as checkpoints:
        step = checkpoints.latest() or 0
    if step < config.num_steps and not best.stopped_early(config, best.scores_of(run, config, step), step):
        raise UserError(
            f"config.pretrained is {str(run.workdir)!r}, a run that is not finished (step {step} of "
            f"{config.num_steps}); train it further: --workdir={run.workdir}"
        )
    if same_images and (trained_on.fingerprint != spec.fingerprint or trained_on.image_shape != spec.image_shape):
        raise UserError(
            f"config.pretrained is {str(run.workdir)!r}, which was trained on {trained_on.name} (fingerprint "
            f"{trained_on.fingerprint[:12]}), but this run uses {spec.name} ({spec.fingerprint[:12]}): both stages "
            "need the same images"
        )
    return First(methods.make_stage(config, trained_on), run, own=False)


def with_absolute_paths(config: Any) -> Any:
    """Returns a config with absolute paths of the data, of an existing first stage and of a warm start."""
    config = config.copy_and_resolve_references()
    if config.data.name.startswith(FOLDER) and config.data.name != FOLDER:
        config.data.name = FOLDER + _absolute(config.data.name.removeprefix(FOLDER))
    for key in ("data_dir", "cache_dir"):
        config.data[key] = _absolute(config.data[key])
    if config.data.get("text", {}).get("path"):
        config.data.text.path = _absolute(config.data.text.path)
    for key in ("pretrained", "warm_start"):
        if isinstance(config.get(key), str):
            config[key] = _absolute(config[key])
    return config


def _absolute(path: str) -> str:
    return str(directory(path).absolute()) if path else path

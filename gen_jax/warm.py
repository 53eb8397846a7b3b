"""A warm start: a run begins with weights of another one, by name and shape; its optimizer and its step are new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import methods, sample
from gen_jax.checkpoint import Checkpoints
from gen_jax.method import PyTree, State, UserError, counted
from gen_jax.metrics import safetensors_file
from gen_jax.run import Run, directory

PLACES = {"params": ("ema", "params"), "ema": ("ema", "params"), "variables": ("variables",)}
"""By part of the new State, the parts of the old one that its arrays are looked for in: averages come first."""

NUM_TOLD = 5  # arrays that do not fit, at most, that are named


class Weights(NamedTuple):
    """What a warm start takes over.

    Attributes:
      arrays: by name, such as "params/denoiser/in/kernel".
      told: where they come from, and what did not fit, in lines.
    """

    arrays: Mapping[str, Any]
    told: str

    def into(self, state: State) -> State:
        """Returns a new run's State with these arrays in it."""

        def placed(array: Any, leaf: jax.Array) -> jax.Array:
            if isinstance(array, np.ndarray):  # of a file, which every process reads
                return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda part: array[part])
            return array

        leaves = _named(state)
        arrays = {name: placed(array, leaves[name]) for name, array in self.arrays.items()}
        # Copies, for a step donates its State: parameters and their average must not be the same buffers.
        copy = jax.jit(
            lambda tree: jax.tree.map(jnp.copy, tree),
            out_shardings={name: leaves[name].sharding for name in arrays},
        )
        arrays = copy(arrays)
        return jax.tree_util.tree_map_with_path(lambda path, leaf: arrays.get(_name(path), leaf), state)


def find(config: Any, like: State, mesh: jax.sharding.Mesh) -> Weights:
    """Returns what fits a new run of the run, or the exported file, that `config.warm_start` names.

    Args:
      config: of the new run.
      like: the shapes of its State.
      mesh: of the new run.

    Raises:
      UserError: there is no trained run, or nothing of it fits.
    """
    try:
        step, old = _of_file(config.warm_start) if _is_file(config.warm_start) else _of_run(config, mesh)
    except UserError as error:
        raise UserError(f"config.warm_start: {error}") from error
    found: dict[str, Any] = {}
    lines: list[str] = []
    for part, places in PLACES.items():
        for name, leaf in _named(getattr(like, part)).items():
            array = next((old[f"{place}/{name}"] for place in places if f"{place}/{name}" in old), None)
            if array is not None and (array.shape, array.dtype) == (leaf.shape, leaf.dtype):
                found[f"{part}/{name}"] = array
            elif part != "ema":  # where parameters are told
                here, there = (None if each is None else f"{each.dtype}{list(each.shape)}" for each in (leaf, array))
                lines.append(f"{name} is {there} there and {here} here" if there else f"{name} is not there")
    params = _named(like.params)
    taken = sum(leaf.size for name, leaf in params.items() if f"params/{name}" in found)
    if not taken:
        raise UserError(f"config.warm_start is {config.warm_start!r}, of which nothing fits: {lines[0]}")
    told = f"{config.warm_start}, step {step:,}: {taken:,} of {sum(leaf.size for leaf in params.values()):,} parameters"
    if len(lines) > NUM_TOLD:
        lines = [*lines[:NUM_TOLD], f"and {counted(len(lines) - NUM_TOLD, 'more array')}"]
    return Weights(found, f"  warm start  {told}" + "".join(f"\n    new: {line}" for line in lines))


def _is_file(path: str) -> bool:
    return path.endswith(safetensors_file.SUFFIX)


def _of_file(path: str) -> tuple[int, dict[str, Any]]:
    tensors = safetensors_file.read(directory(path))
    return int(tensors.get("step", 0)), tensors


def _of_run(config: Any, mesh: jax.sharding.Mesh) -> tuple[int, dict[str, Any]]:
    """Its step, and its arrays on the devices of the new run, as that one holds them."""
    run = Run(config.warm_start)
    _, spec, stage, method = sample.untrained(run)
    with Checkpoints(run.checkpoints) as checkpoints:
        state = checkpoints.restore(methods.abstract_state(method, spec, stage, mesh, config.sharding))
    if state is None:
        raise UserError(f"{run.workdir} holds no checkpoint yet; train it first")
    return int(state.step), _named({"ema": state.ema, "params": state.params, "variables": state.variables})


def _named(tree: PyTree) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")

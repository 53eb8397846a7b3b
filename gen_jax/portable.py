"""A trained model as one safetensors file, which needs neither its run nor its data: docs/export.md has the format.

It holds what samples depend on: the averaged weights, a first stage, the run's random key, the text encoder. What only
training needs (the optimizer's state, a discriminator, a teacher) is left out. No path of the machine is in it.
"""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import __version__, methods, parallel, sample
from gen_jax import config as configs
from gen_jax.method import PyTree, State, UserError, counted
from gen_jax.metrics import safetensors_file
from gen_jax.run import Run, directory, to_json, writing
from gen_jax.text import texts

FORMAT = "1"
_TEXTS = "text"  # the folder of a run: its files are tensors of bytes
_TEXT_FILES = ("encoder.json", "encoder.npz", "prompts.json", "prompts.npy")


def save(path: pathlib.Path, model: sample.Model, record: Mapping[str, Any]) -> None:
    """Writes a model into a file.

    Args:
      path: of the file, which ends in .safetensors.
      model: of a run.
      record: config.json of the run.

    Raises:
      UserError: it cannot be written.
    """
    state = model.state
    read = names_read(model)
    parts = {
        "ema": state.ema,
        "variables": {name: tree for name, tree in state.variables.items() if name in read},
        "frozen": state.frozen,
    }
    tensors = {name: parallel.fetch(leaf) for part, tree in parts.items() for name, leaf in _named(part, tree).items()}
    tensors |= {"key": np.asarray(jax.random.key_data(state.key)), "step": np.asarray(state.step)}
    if model.texts is not None:
        tensors |= _pack(model.texts)
    told: dict[str, Any] = {
        "config": without_paths(model.config.to_dict()),
        "data": model.spec.to_dict(),
        "versions": record.get("versions", {}) | {"gen_jax": __version__},
    }
    if stage := record.get("pretrained"):
        config = methods.stored({**record, **stage}).to_dict()
        told["pretrained"] = {"config": without_paths(config), "data": stage["data"]}
    metadata = {"format": "gen_jax", "format_version": FORMAT} | {name: to_json(value) for name, value in told.items()}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    safetensors_file.write(path, tensors, metadata)


def load(path: str | os.PathLike[str], overrides: tuple[str, ...] = ()) -> sample.Model:
    """Returns the model of a file that `save` wrote; it gives the samples of its run, bit by bit.

    Args:
      path: of the file.
      overrides: words such as "--config.sample.num_steps=10".

    Raises:
      UserError: the file cannot be read, or was not written by `save`, or holds other arrays than its config needs; an
        override of a key that is no value of sampling, or of the checkpoint, of which a file has one.
    """
    path = directory(path)
    if any(word.startswith("--config.sample.checkpoint=") for word in overrides):
        raise UserError(f"{path} holds one checkpoint: leave out sample.checkpoint, or export the other one, too")
    tensors, metadata = safetensors_file.read_with_metadata(path)
    record = _record(metadata, path)
    config, spec, stage, method = sample.of_record(record, path, overrides, configs.SAMPLING)
    asked = any(word.startswith("--config.num_devices=") for word in overrides)
    mesh = parallel.make_mesh(config.num_devices if asked else 0)
    abstract = methods.abstract_state(method, spec, stage, mesh)
    kept = {name.split("/")[1] for name in tensors if name.startswith("variables/")}
    variables = {name: tree for name, tree in abstract.variables.items() if name in kept}
    like = {"ema": abstract.ema, "variables": variables, "frozen": abstract.frozen, "step": abstract.step}
    like["key"] = jax.ShapeDtypeStruct((2,), jnp.uint32)
    told = {name: tensors.pop(f"{_TEXTS}/{name}") for name in _TEXT_FILES if f"{_TEXTS}/{name}" in tensors}
    parts = _filled(like, tensors, path)
    parts["key"] = jax.random.wrap_key_data(jnp.asarray(parts["key"]), impl="threefry2x32")
    state = jax.device_put(State(params={}, opt_state={}, **parts), parallel.replicated(mesh))
    return sample.Model(config, spec, method, state, mesh, _unpack(told, path) if told else None)


def names_read(model: sample.Model) -> set[str]:
    """Returns the names of `State.variables` that samples depend on: those looked up while sampling is traced."""
    found: set[str] = set()

    class Watched(dict):
        def __getitem__(self, name: str) -> Any:
            found.add(name)
            return super().__getitem__(name)

    state = model.state.replace(variables=Watched(model.state.variables))
    keys = jax.eval_shape(lambda: jax.random.split(state.key, 1))
    condition = {
        name: jax.ShapeDtypeStruct((1, *model.spec.features[name].given), model.spec.features[name].dtype)
        for name in model.method.condition
    }
    jax.eval_shape(lambda keys, condition: model.method.sample(state, keys, condition), keys, condition)
    return found


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a run's config whose paths are cut down to their last part, as they tell of the user's machine."""
    flat = configs.flatten(config)
    for key, value in flat.items():
        if key.endswith(("data_dir", "cache_dir")):
            flat[key] = ""
        elif isinstance(value, str) and os.path.isabs(value.removeprefix(configs.FOLDER)):
            folder = configs.FOLDER if value.startswith(configs.FOLDER) else ""
            flat[key] = folder + pathlib.Path(value.removeprefix(configs.FOLDER)).name
    return configs.from_json(flat).to_dict()


def _named(part: str, tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by names such as "ema/denoiser/in/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    keys = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    return {f"{part}/{key}" if key else part: leaf for key, leaf in keys.items()}


def _filled(like: Mapping[str, PyTree], tensors: Mapping[str, np.ndarray], path: pathlib.Path) -> dict[str, PyTree]:
    """Trees like those of `like`, of a file's tensors."""
    wanted = {name: leaf for part, tree in like.items() for name, leaf in _named(part, tree).items()}
    faults = [f"lacks {name}" for name in wanted if name not in tensors]
    faults += [f"has {name[:100]!a} as well" for name in sorted(tensors.keys() - wanted.keys())]
    faults += [
        f"has {name} of type {tensors[name].dtype} and shape {list(tensors[name].shape)}, which needs {leaf.dtype} and "
        f"{list(leaf.shape)}"
        for name, leaf in wanted.items()
        if name in tensors and (tensors[name].shape, tensors[name].dtype) != (leaf.shape, leaf.dtype)
    ]
    if faults:
        more = f", and {counted(len(faults) - 1, 'more fault')}" if len(faults) > 1 else ""
        raise UserError(f"{path} does not hold the model of its config: it {faults[0]}{more}; export it again")
    return {
        part: jax.tree.unflatten(jax.tree.structure(tree), [tensors[name] for name in _named(part, tree)])
        for part, tree in like.items()
    }


def _record(metadata: Mapping[str, str], path: pathlib.Path) -> dict[str, Any]:
    """What stands for config.json of a run."""
    if metadata.get("format") != "gen_jax":
        raise UserError(
            f"{path} was not written by --mode=export, which stores the config of a model with it; published weights "
            "become a run with python -m gen_jax.convert (docs/published.md)"
        )
    if metadata.get("format_version") != FORMAT:
        found = metadata.get("format_version", "")[:20]
        raise UserError(f"{path} is of format {found!a}, and this version of gen_jax reads {FORMAT!a}")
    try:
        told = {name: metadata[name] for name in ("config", "data", "versions", "pretrained") if name in metadata}
        record = {name: json.loads(text) for name, text in told.items()}
    except ValueError:
        record = {}
    if not all(isinstance(record.get(name), dict) for name in ("config", "data", "versions")):
        raise UserError(f"{path} has damaged metadata: export it again")
    return record


def _pack(told: texts.Texts) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as name:
        told.save(pathlib.Path(name))
        files = {each: pathlib.Path(name, each).read_bytes() for each in _TEXT_FILES}
    return {f"{_TEXTS}/{each}": np.frombuffer(content, np.uint8) for each, content in files.items()}


def _unpack(files: Mapping[str, np.ndarray], path: pathlib.Path) -> texts.Texts:
    if missing := [name for name in _TEXT_FILES if name not in files]:
        raise UserError(
            f"{path} does not hold the model of its config: it lacks {_TEXTS}/{missing[0]}; export it again"
        )
    with tempfile.TemporaryDirectory() as name:
        run = Run(name)
        run.text.mkdir()
        for each, content in files.items():
            (run.text / each).write_bytes(content.tobytes())
        found = texts.read(run)
    assert found is not None  # all files are there
    return found

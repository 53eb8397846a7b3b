"""`--mode=export`: a trained model for use elsewhere, as one file or folder that needs no run: docs/export.md.

Three formats: a safetensors file that `gen_jax.load` reads, the folder of diffusers, and the sampler as StableHLO,
which JAX runs alone.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import portable, sample
from gen_jax.diffusion import pipeline
from gen_jax.method import Array, UserError, did_you_mean, keys_of, stream, to_data
from gen_jax.metrics import safetensors_file
from gen_jax.run import Run, directory, write_bytes, write_json, writing

PLATFORMS = ("cpu", "cuda", "tpu")
MOST_BYTES = 2**31 - 2**24  # of the weights in a StableHLO file, whose format holds 2 GiB


def export(
    workdir: str | os.PathLike[str], form: str = "", out: str | None = None, words: tuple[str, ...] = ()
) -> None:
    """`--mode=export`: writes a run's model for use elsewhere, and prints where.

    Args:
      workdir: of the run.
      form: a key of `FORMATS`; "" is safetensors.
      out: folder for the files; by default export/ of the run.
      words: values of sampling, such as "--config.sample.num_steps=10", which the files then have.

    Raises:
      UserError: an unknown format, no trained run, a model that the format cannot hold, or a folder that cannot be
        written.
    """
    form = form or next(iter(FORMATS))
    if form not in FORMATS:
        raise UserError(f"--format is {form!r}; {did_you_mean(form, FORMATS)}allowed: {', '.join(FORMATS)}")
    run = Run(workdir)
    folder = directory(out) if out else run.workdir / "export"
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"--out={folder} is a file: give a folder")
    # Whole on every device, for a StableHLO file of a State in parts would only run on as many devices.
    model = sample.load(workdir, (*words, "--config.sharding=replicated"))
    print(FORMATS[form](model, run, folder))


def _safetensors(model: sample.Model, run: Run, folder: pathlib.Path) -> str:
    path = folder / "model.safetensors"
    portable.save(path, model, run.read_config())
    return f'export: {path}\nload it: python -c "import gen_jax; gen_jax.load({str(path)!r}).sample(16)"'


def _diffusers(model: sample.Model, run: Run, folder: pathlib.Path) -> str:
    folder = folder / "diffusers"
    told, tensors = pipeline.files(model.config, model.spec, model.state.ema.get("denoiser"))
    for name, values in told.items():
        _make(folder / name)
        write_json(folder / name, values)
    safetensors_file.write(folder / "unet" / pipeline.WEIGHTS, tensors, {"format": "pt"})
    return f"export: {folder}\nload it: diffusers.DDPMPipeline.from_pretrained({str(folder)!r})"


def _stablehlo(model: sample.Model, run: Run, folder: pathlib.Path) -> str:
    if model.texts is not None:
        raise UserError(
            f"{run.workdir} is a model of texts, whose encoder a StableHLO file cannot hold: use --format=safetensors"
        )
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError("--format=stablehlo needs flatbuffers, as jax.export does: pip install 'gen_jax[export]'")
    path = folder / "sampler.stablehlo"
    exported = sampler(model)
    _make(path)
    write_bytes(path, bytes(exported.serialize()))
    asked = "".join(f", {name}" for name in model.method.condition)
    return f"export: {path}\ncall it: jax.export.deserialize(...).call(seed, index{asked}), see docs/export.md"


def _make(path: pathlib.Path) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)


FORMATS: dict[str, Callable[[sample.Model, Run, pathlib.Path], str]] = {
    "safetensors": _safetensors,
    "diffusers": _diffusers,
    "stablehlo": _stablehlo,
}


def sampler(model: sample.Model) -> jax.export.Exported:
    """Returns the sampler of a model with its weights, for any number of images and for all of `PLATFORMS`.

    It is a function (seed u32 [], index i32 [N], conditions [N, ...] by name) -> samples [N, H, W, C], as
    `Model.sample` returns them: sample number `index` of that seed.

    Raises:
      UserError: the weights are too large.
    """
    state = model.state.replace(step=0, params={}, opt_state={}, key=jax.random.key_data(model.state.key))
    state = jax.tree.map(
        np.asarray, state.replace(variables={k: state.variables[k] for k in portable.names_read(model)})
    )
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    if size > MOST_BYTES:
        raise UserError(
            f"the weights are {size / 2**30:.1f} GiB, and a StableHLO file holds 2: use --format=safetensors"
        )
    draw = functools.partial(_draw, model, state)
    (num,) = jax.export.symbolic_shape("n")
    features = {name: model.spec.features[name] for name in model.method.condition}
    conditions = {name: jax.ShapeDtypeStruct((num, *each.given), each.dtype) for name, each in features.items()}
    number = jax.ShapeDtypeStruct((num,), jnp.int32)
    made = jax.export.export(jax.jit(draw), platforms=PLATFORMS)
    return made(jax.ShapeDtypeStruct((), jnp.uint32), number, **conditions)


def _draw(model: sample.Model, state: Any, seed: Array, index: Array, **condition: Array) -> Array:
    """Like `sample.make_batches`, one image at a time: methods then see sizes that are numbers."""
    state = jax.tree.map(jnp.asarray, state)  # numpy's arrays cannot be indexed by what is traced
    state = state.replace(key=jax.random.wrap_key_data(state.key, impl="threefry2x32"))
    keys = keys_of(jax.random.fold_in(stream(state.key, "sample"), seed), index)

    def one(key: Array, condition: dict[str, Array]) -> Array:
        rows = {name: value[None] for name, value in condition.items()}
        return model.method.sample(state, key[None], rows)[0]

    return to_data(jax.vmap(one)(keys, condition), model.spec)

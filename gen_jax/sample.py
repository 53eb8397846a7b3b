"""Samples of a run: `--mode=sample`, and `gen_jax.load(...).sample(...)`.

Everything is read from the run's directory; no data set is needed. Image number i depends on (config,
seed, i) alone, so that 16 samples are the first 16 of 1,000.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
from typing import Any

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh

from gen_jax import config as configs
from gen_jax import methods, parallel
from gen_jax.checkpoint import Checkpoints
from gen_jax.figures.grid import grid, save_png
from gen_jax.method import DataSpec, Method, State, UserError, stream, to_pixels
from gen_jax.run import Run, write_bytes

NUM_IN_GRID = 100


@dataclasses.dataclass(frozen=True)
class Model:
    """A run's method with its newest whole checkpoint.

    Attributes:
      config: the run's resolved config.
      spec: of the data that it was trained on.
      method: its pure functions.
      state: on the devices of `mesh`.
    """

    config: Any
    spec: DataSpec
    method: Method
    state: State
    mesh: Mesh

    def sample(self, num: int, labels: np.ndarray | None = None, seed: int | None = None) -> np.ndarray:
        """Returns `num` new images, uint8 [num, H, W, C].

        Args:
          num: how many.
          labels: i32 [num], classes asked for, where the model takes any; by default they take turns.
          seed: another seed than `config.sample.seed` gives other images.
        """
        return generate(self.method, self.config, self.spec, self.state, self.mesh, num, labels, seed)[0]


def load(workdir: str | pathlib.Path, overrides: tuple[str, ...] = ()) -> Model:
    """Returns the model of a run's directory, at its newest whole checkpoint.

    Args:
      workdir: a directory that training wrote.
      overrides: words such as "--config.sample.num_steps=10".

    Raises:
      UserError: no run there, or no checkpoint yet.
    """
    run = Run(workdir)
    stored = run.read_config()
    config = configs.override(configs.from_dict(stored["config"]), overrides)
    configs.check(config)
    return restore(run, config, DataSpec.from_dict(stored["data"]))


def restore(run: Run, config: Any, spec: DataSpec) -> Model:
    """Returns the model of a run under a config that may sample differently than the stored one."""
    method = methods.make(config, spec)
    mesh = parallel.make_mesh(config.num_devices)
    with Checkpoints(run.checkpoints) as checkpoints:
        state = checkpoints.restore(parallel.abstract_state(method.init, mesh))
    if state is None:
        raise UserError(f"{run.workdir} holds no checkpoint yet; train first: --mode=train")
    return Model(config, spec, method, state, mesh)


def generate(
    method: Method,
    config: Any,
    spec: DataSpec,
    state: State,
    mesh: Mesh,
    num: int,
    labels: np.ndarray | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns (images uint8 [num, H, W, C], labels i32 [num] or None), in compiled batches over all devices.

    Raises:
      UserError: labels that the method does not take, of another number, or outside the classes.
    """
    labels = _checked_labels(method, spec, num, labels)
    devices = mesh.devices.size
    size = -(-min(config.sample.batch_size, num) // devices) * devices
    root = config.sample.seed if seed is None else seed

    def draw(state: State, index: jax.Array, label: jax.Array | None) -> jax.Array:
        key = jax.random.fold_in(stream(state.key, "sample"), root)
        return to_pixels(method.sample(state, jax.vmap(lambda i: jax.random.fold_in(key, i))(index), label))

    options = parallel.compiler_options() if config.fast_compile_options else {}
    call = jax.jit(draw, out_shardings=parallel.sharded(mesh), compiler_options=options)
    pieces = []
    with tqdm.tqdm(total=num, unit="img", desc="sampling", disable=None if progress else True) as bar:
        for start in range(0, num, size):
            index = np.minimum(np.arange(start, start + size), num - 1)  # the last batch is padded
            rows = {"index": index.astype(np.int32)} | ({} if labels is None else {"label": labels[index]})
            mine = np.split(np.arange(size), jax.process_count())[jax.process_index()]
            batch = parallel.put_rows({k: v[mine] for k, v in rows.items()}, mesh)
            images = parallel.fetch(call(state, batch["index"], batch.get("label")))
            pieces.append(images[: num - start])
            bar.update(len(pieces[-1]))
    return np.concatenate(pieces), labels


def _checked_labels(method: Method, spec: DataSpec, num: int, labels: np.ndarray | None) -> np.ndarray | None:
    if not method.conditional:
        if labels is not None:
            raise UserError("this model takes no labels: it was trained without")
        return None
    classes = spec.num_classes or 1
    labels = np.arange(num) % classes if labels is None else np.asarray(labels)
    if labels.shape != (num,) or labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"labels must be {num} whole numbers in 0..{classes - 1}")
    return labels.astype(np.int32)


def write_samples(run: Run, images: np.ndarray, labels: np.ndarray | None) -> None:
    """Writes samples.npz (arr_0, and arr_1 where there are labels) and a grid of the first 100, samples.png."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images, *(() if labels is None else (labels,)))
    write_bytes(run.samples_npz, buffer.getvalue())
    save_png(run.workdir / "samples.png", grid(images[:NUM_IN_GRID]))


def sample(workdir: str | pathlib.Path, overrides: tuple[str, ...] = ()) -> None:
    """`--mode=sample`: draws `config.sample.num` samples of a run and writes them."""
    model = load(workdir, overrides)
    run = Run(workdir)
    num = model.config.sample.num
    images, labels = generate(
        model.method, model.config, model.spec, model.state, model.mesh, num, progress=jax.process_index() == 0
    )
    if jax.process_index() == 0:
        write_samples(run, images, labels)
        print(f"{num} samples of {run.workdir} (step {int(model.state.step)}): {run.samples_npz}, and samples.png")

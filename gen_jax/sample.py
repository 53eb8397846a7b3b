"""Samples of a run: `--mode=sample`, and `gen_jax.load(...).sample(...)`.

Everything is read from the run's directory; no data set is needed. Image number i depends on (config,
seed, i) alone, so that 16 samples are the first 16 of 1,000.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh

from gen_jax import config as configs
from gen_jax import methods, parallel
from gen_jax.checkpoint import Checkpoints
from gen_jax.data.points import drawable
from gen_jax.figures.grid import grid, save_png
from gen_jax.method import DataSpec, Method, State, UserError, stream, to_data
from gen_jax.run import Run, write_bytes

NUM_IN_GRID = 100

Generator = Callable[..., tuple[np.ndarray, np.ndarray | None]]


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

    def sample(self, num: int, labels: Sequence[int] | np.ndarray | None = None, seed: int | None = None) -> np.ndarray:
        """Returns `num` new images, uint8 [num, H, W, C] (the data's own dtype where that is another).

        Args:
          num: how many.
          labels: [num], classes asked for, where the model takes any; by default they take turns.
          seed: another seed than `config.sample.seed` gives other images.
        """
        return self.generate(self.state, num, labels, seed)[0]

    @functools.cached_property
    def generate(self) -> Generator:
        """`make_generator` of this model: compiled once."""
        return make_generator(self.method, self.config, self.spec, self.mesh)


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
    spec = DataSpec.from_dict(stored["data"])
    method = methods.make(config, spec)
    mesh = parallel.make_mesh(config.num_devices)
    with Checkpoints(run.checkpoints) as checkpoints:
        state = checkpoints.restore(parallel.abstract_state(method.init, mesh))
    if state is None:
        raise UserError(f"{run.workdir} holds no checkpoint yet; train first: --mode=train")
    return Model(config, spec, method, state, mesh)


def make_generator(method: Method, config: Any, spec: DataSpec, mesh: Mesh) -> Generator:
    """Returns (state, num, labels=None, seed=None, progress=False) -> (images [num, H, W, C], labels or None).

    Images are uint8, or of the data's own dtype where that is another. They are made in batches over all devices, each
    size of batch compiled once.

    Raises (the returned function):
      UserError: labels that the method does not take, of another number, or outside the classes.
    """
    devices, processes = mesh.devices.size, jax.process_count()

    def draw(state: State, seed: jax.Array, rows: dict[str, jax.Array]) -> jax.Array:
        key = jax.random.fold_in(stream(state.key, "sample"), seed)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(rows["index"])
        return to_data(method.sample(state, keys, rows.get("label")), spec)

    options = parallel.compiler_options(config.fast_compile_options)
    call = jax.jit(draw, out_shardings=parallel.sharded(mesh), compiler_options=options)

    def generate(
        state: State,
        num: int,
        labels: Sequence[int] | np.ndarray | None = None,
        seed: int | None = None,
        progress: bool = False,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        labels = _checked_labels(method, spec, num, labels)
        root = np.uint32(config.sample.seed if seed is None else seed)
        size = -(-min(config.sample.batch_size, num) // devices) * devices
        pieces = []
        with tqdm.tqdm(total=num, unit="img", desc="sampling", disable=None if progress else True) as bar:
            for start in range(0, num, size):
                index = np.minimum(np.arange(start, start + size), num - 1)  # the last batch is padded
                index = np.split(index, processes)[jax.process_index()].astype(np.int32)
                rows = {"index": index} | ({} if labels is None else {"label": labels[index]})
                images = parallel.fetch(call(state, root, parallel.put_rows(rows, mesh)))
                pieces.append(images[: num - start])
                bar.update(len(pieces[-1]))
        return np.concatenate(pieces), labels

    return generate


def _checked_labels(
    method: Method, spec: DataSpec, num: int, labels: Sequence[int] | np.ndarray | None
) -> np.ndarray | None:
    if not method.conditional:
        if labels is not None:
            raise UserError("this model takes no labels: it was trained without")
        return None
    classes = spec.num_classes or 1
    labels = np.arange(num) % classes if labels is None else np.asarray(labels)
    if labels.shape != (num,) or labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"labels must be {num} whole numbers in 0..{classes - 1}")
    return labels.astype(np.int32)


def write_samples(run: Run, images: np.ndarray, labels: np.ndarray | None, spec: DataSpec) -> None:
    """Writes samples.npz (arr_0, and arr_1 where there are labels) and a grid of the first 100, samples.png.

    The picture's description names the set that the model was trained on, which `spec` describes.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images, *(() if labels is None else (labels,)))
    write_bytes(run.samples_npz, buffer.getvalue())
    picture = grid(drawable(images, spec)[:NUM_IN_GRID])
    save_png(run.workdir / "samples.png", picture, f"Samples of a model trained on {spec.name}")


def sample(workdir: str | pathlib.Path, overrides: tuple[str, ...] = ()) -> None:
    """`--mode=sample`: draws `config.sample.num` samples of a run and writes them."""
    model = load(workdir, overrides)
    run = Run(workdir)
    num = model.config.sample.num
    images, labels = model.generate(model.state, num, progress=jax.process_index() == 0)
    if jax.process_index() == 0:
        write_samples(run, images, labels, model.spec)
        print(f"{num} samples of {run.workdir} (step {int(model.state.step)}): {run.samples_npz}, and samples.png")

"""Samples of a run: `--mode=sample`, and `gen_jax.load(...).sample(...)`.

Everything is read from the run's directory; no data set is needed. Image number i depends only on (config,
seed, i), so 16 samples are the first 16 of 1,000.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh

from gen_jax import best, methods, parallel, tiles
from gen_jax import config as configs
from gen_jax import editor as editors
from gen_jax.checkpoint import Checkpoints
from gen_jax.figures import samples as figures
from gen_jax.figures.grid import save_png
from gen_jax.method import (
    Condition,
    DataSpec,
    Feature,
    Method,
    Stage,
    State,
    UserError,
    counted,
    did_you_mean,
    keys_of,
    stream,
    to_data,
)
from gen_jax.run import Run, replacing, to_json, write_json, writing
from gen_jax.text.texts import FEATURE, Texts
from gen_jax.text.texts import read as read_texts

NUM_IN_GRID = 100
PIECE = 4096  # images, at most, that `--mode=sample` holds in memory, and loses if it is killed

Batches = Callable[..., Iterator[np.ndarray]]
Generator = Callable[..., tuple[np.ndarray, dict[str, np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class Model:
    """A run's method with one of its checkpoints.

    Attributes:
      config: the run's resolved config.
      spec: describes the training data.
      method: its pure functions.
      state: on the devices of `mesh`.
      texts: the encoder and the prompts of a model that takes texts.
    """

    config: Any
    spec: DataSpec
    method: Method
    state: State
    mesh: Mesh
    texts: Texts | None = None

    def sample(
        self,
        num: int | None = None,
        labels: Sequence[int | str] | np.ndarray | None = None,
        seed: int | None = None,
        condition: Mapping[str, Any] | None = None,
        texts: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Returns `num` new images, uint8 [num, H, W, C] (points in the plane: f32 [num, 1, 1, 2]).

        Args:
          num: number of images; by default as many as there are labels, conditions or texts.
          labels: [num], the requested classes, by number or name, if the model is class-conditional; by default samples
            cycle through the classes.
          seed: replaces `config.sample.seed`.
          condition: other conditions, by the name of a feature of the data: [num, ...].
          texts: [num], what to draw, if the model was trained on captions; by default captions of test pictures.

        Raises:
          UserError: conditions that the model does not take, or that are invalid; a text that its encoder cannot read.
        """
        given = dict(condition or {}) | ({} if labels is None else {"label": labels})
        texts = [texts] if isinstance(texts, str) else list(() if texts is None else texts)
        if num is None:
            sized = (each for each in (texts, *given.values()) if isinstance(each, Sized))
            num = next(filter(None, map(len, sized)), None)
        if num is None and FEATURE in self.method.condition:
            raise UserError("give the number of samples, or texts")
        if texts:
            given[FEATURE] = self._embedded(texts, num)
        return self.generate(self.state, num, given, seed)[0]

    def _embedded(self, texts: Sequence[str], num: int | None) -> np.ndarray:
        if self.texts is None:
            raise UserError("this model takes no texts: it was not trained on captions")
        for text in texts:
            if not isinstance(text, str):
                raise UserError(f"{text!r} is no text")
        if len(texts) != num:
            raise UserError(f"there are {counted(len(texts), 'text')}, and {num} samples to draw: give one for each")
        return self.texts.encoder.encode(texts)

    def inpaint(
        self,
        images: np.ndarray,
        mask: str | np.ndarray,
        labels: Any = None,
        resample: int = editors.RESAMPLE,
        seed: int | None = None,
    ) -> np.ndarray:
        """Returns pictures in which the masked pixels are filled in, uint8 [N, H, W, C]; the others stay as they are.

        Args:
          images: uint8 [N, H, W, C], of the size of the training images.
          mask: what to fill: a name in `editor.MASKS` ("right": the right half), or an array [H, W] or [N, H, W], of
            bool (true is filled) or uint8 (white is filled).
          labels: the classes of the pictures, [N] or one for all, by number or name; None if they are not known, which
            needs a model that was trained with `diffusion.label_drop`.
          resample: how often each step is taken again, so that old and new pixels fit together; it costs as many times
            the time of sampling.
          seed: replaces `config.sample.seed`.

        Raises:
          UserError: pictures of another kind or size, an unusable mask, labels that the model lacks or needs, or a
            model that cannot edit pictures.
        """
        images, condition = self._given(images, labels, seed)
        filled = editors.checked_mask(mask, images)
        resample = editors.checked_number("resample", resample, 0, editors.MOST, whole=True)
        rows = {"image": editors.as_rows(images, self.spec), "mask": filled}
        made = self.editor("inpaint", self.state, rows, condition, resample, seed=seed)
        return np.where(filled[..., None], made, images)

    def vary(
        self, images: np.ndarray, strength: float = 0.5, labels: Any = None, seed: int | None = None
    ) -> np.ndarray:
        """Returns variations of pictures, uint8 [N, H, W, C]: noise is added to them, and the model removes it.

        Args:
          images, labels, seed: as for `inpaint`.
          strength: share of the sampling steps that are taken: 0 returns the pictures, 1 is `sample`, which knows
            nothing of them.

        Raises:
          UserError: a strength outside 0..1; and as for `inpaint`.
        """
        images, condition = self._given(images, labels, seed)
        strength = editors.checked_number("strength", strength, 0, 1)
        rows = {"image": editors.as_rows(images, self.spec)}
        return self.editor("vary", self.state, rows, condition, strength, seed=seed) if strength else images

    def invert(self, images: np.ndarray, labels: Any = None) -> np.ndarray:
        """Returns the noise of pictures, f32 [N, h, w, c], from which `render` makes them again.

        It is found by DDIM's steps in reverse. The error falls with their number: `gen_jax.load(run, num_steps=100)`.

        Args:
          images, labels: as for `inpaint`.

        Raises:
          UserError: as for `inpaint`, or a model with a single step.
        """
        images, condition = self._given(images, labels)
        return self.editor("invert", self.state, {"image": editors.as_rows(images, self.spec)}, condition)

    def render(self, noise: np.ndarray, labels: Any = None) -> np.ndarray:
        """Returns the pictures of noise by DDIM, uint8 [N, H, W, C].

        Args:
          noise: f32 [N, h, w, c], as from `invert`.
          labels: as for `inpaint`.

        Raises:
          UserError: labels that the model lacks or needs, or a model that cannot edit pictures.
        """
        noise = np.asarray(noise, np.float32)
        return self.editor("render", self.state, {"noise": noise}, self._condition(labels, len(noise)))

    def interpolate(self, a: np.ndarray, b: np.ndarray, num: int = 9, labels: Any = None) -> np.ndarray:
        """Returns the way from pictures to others, uint8 [N, num, H, W, C]: pictures of the arcs between their noise.

        The first and the last of the way are a and b as `render` makes them from their noise.

        Args:
          a: uint8 [N, H, W, C].
          b: of the same shape.
          num: pictures on each way, 2 or more.
          labels: as for `inpaint`, of all pictures of a way.

        Raises:
          UserError: there are more of one than of the other; and as for `invert`.
        """
        num = editors.checked_number("num", num, 2, editors.MOST, whole=True)
        if np.shape(a)[:1] != np.shape(b)[:1]:
            raise UserError(f"there are {len(a)} pictures to start from and {len(b)} to end at: give as many of both")
        ends = zip(self.invert(a, labels), self.invert(b, labels), strict=True)
        noise = np.concatenate([editors.slerp(start, end, num) for start, end in ends])
        told = labels if labels is None else np.repeat(editors.labels_for(labels, len(a)), num, axis=0)
        return self.render(noise, told).reshape(len(a), num, *self.spec.image_shape)

    def upscale(self, images: np.ndarray) -> np.ndarray:
        """Returns pictures made larger by a model of srresnet or srgan, uint8 [N, factor H, factor W, C].

        Args:
          images: uint8 [N, H, W, C], of any size, in the colours of the training images.

        Raises:
          UserError: pictures of another kind, or a model that cannot make them larger.
        """
        shape = (*np.shape(images)[1:3], self.spec.image_shape[-1])
        images = editors.checked_images(images, dataclasses.replace(self.spec, image_shape=shape))
        return np.stack([self.upscaler(self.state, image) for image in images])

    def _given(
        self, images: np.ndarray, labels: Any, seed: int | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        _check_seed(seed)
        images = editors.checked_images(images, self.spec)
        return images, self._condition(labels, len(images))

    def _condition(self, labels: Any, num: int) -> dict[str, np.ndarray]:
        if labels is None:
            return {}
        return conditions(self.method, self.spec, num, {"label": editors.labels_for(labels, num)})

    @functools.cached_property
    def editor(self) -> editors.Editor:
        """`make_editor` of this model: compiled once."""
        return editors.make_editor(self.method, self.config, self.spec, self.mesh)

    @functools.cached_property
    def upscaler(self) -> tiles.Upscaler:
        """`tiles.make_upscaler` of this model: compiled once per size of a tile."""
        return tiles.make_upscaler(self.method, self.config, self.spec, self.mesh)

    @functools.cached_property
    def generate(self) -> Generator:
        """`make_generator` of this model: compiled once."""
        return make_generator(self.method, self.config, self.spec, self.mesh, self.texts)

    @functools.cached_property
    def batches(self) -> Batches:
        """`make_batches` of this model: compiled once."""
        return make_batches(self.method, self.config, self.spec, self.mesh)


def load(
    workdir: str | os.PathLike[str], overrides: tuple[str, ...] = (), free: tuple[str, ...] = configs.SAMPLING
) -> Model:
    """Returns the model of a run's directory, at the checkpoint that `sample.checkpoint` names: last, best or a step.

    Args:
      workdir: a directory that training wrote.
      overrides: words such as "--config.sample.num_steps=10".
      free: patterns of the keys that they may set.

    Raises:
      UserError: the directory holds no run or no checkpoint yet, or an override sets another key.
    """
    run = Run(workdir)
    config, spec, stage, method = untrained(run, overrides, free)
    # All available devices, however many it was trained on, unless this call specifies a number.
    asked = any(word.startswith("--config.num_devices=") for word in overrides)
    mesh = parallel.make_mesh(config.num_devices if asked else 0)
    method = methods.spread(method, mesh, config.sharding)
    state = _restored(run, config, methods.abstract_state(method, spec, stage, mesh, config.sharding))
    return Model(config, spec, method, state, mesh, read_texts(run))


def _restored(run: Run, config: Any, like: State) -> State:
    """The checkpoint that `sample.checkpoint` names: the last, the best, or one of a step."""
    which = config.sample.checkpoint
    is_best = which == "best" or (which.isdecimal() and (run.best / which).is_dir())
    with Checkpoints(run.best if is_best else run.checkpoints) as checkpoints:
        kept = checkpoints.written()
        order = {"last": None, "best": [*best.scores_of(run, config).ranked, *kept[::-1]]}
        state = checkpoints.restore(like, order[which] if which in order else [int(which)])
    if state is not None:
        return state
    if which == "best":
        raise UserError(
            f"{run.workdir} holds no best checkpoint: one is kept if config.eval.track is above 0, or config.eval.best "
            "is a measure such as loss; use --config.sample.checkpoint=last"
        )
    if which != "last":
        kept += Checkpoints(run.best).written()
        steps = ", ".join(map(str, sorted({*kept}))) or "none"
        raise UserError(f"{run.workdir} holds no checkpoint of step {which}; there are: {steps}")
    raise UserError(f"{run.workdir} holds no checkpoint yet; train first: --mode=train")


def untrained(
    run: Run, overrides: tuple[str, ...] = (), free: tuple[str, ...] = configs.SAMPLING
) -> tuple[Any, DataSpec, Stage | None, Method]:
    """Returns the config, the data, the first stage and the method of a run, without its weights: see `load`.

    Raises:
      UserError: the directory holds no run, or an override sets a key that is not free.
    """
    return of_record(run.read_config(), run.workdir, overrides, free)


def of_record(
    record: Mapping[str, Any], source: pathlib.Path, overrides: tuple[str, ...], free: tuple[str, ...]
) -> tuple[Any, DataSpec, Stage | None, Method]:
    """Returns `untrained` of the content of a run's config.json, which `source` holds."""
    trained = methods.stored(record)
    config = methods.override(trained, overrides)
    methods.check(config)
    if refused := configs.changes(trained.to_dict(), config.to_dict(), free):
        raise UserError(
            f"{source} was trained with another config ({'; '.join(refused)}), and that cannot be changed "
            f"afterwards; only these can: {', '.join(free)}"
        )
    spec, stage = DataSpec.from_dict(record["data"]), methods.stored_stage(record)
    return config, spec, stage, methods.make(config, spec, stage)


def make_batches(method: Method, config: Any, spec: DataSpec, mesh: Mesh) -> Batches:
    """Returns (state, condition, start, num, seed=None) -> iterator over images start..num, [b, H, W, C] at a time.

    Images are as `to_data` returns them: uint8, except for points in the plane. Batches are spread over all devices,
    and each batch size is compiled once. `condition` holds the checked conditions of all `num` images: {} for none.
    """

    def draw(state: State, seed: jax.Array, index: jax.Array, condition: Condition) -> jax.Array:
        key = jax.random.fold_in(stream(state.key, "sample"), seed)
        return to_data(method.sample(state, keys_of(key, index), condition), spec)

    options = parallel.compiler_options(config.fast_compile_options)
    call = jax.jit(draw, out_shardings=parallel.sharded(mesh), compiler_options=options)

    def batches(
        state: State, condition: dict[str, np.ndarray], start: int, num: int, seed: int | None = None
    ) -> Iterator[np.ndarray]:
        root, size = np.uint32(config.sample.seed if seed is None else seed), _batch_size(config, mesh, num)
        for first, index in parallel.padded_batches(start, num, size):
            rows = parallel.put_rows({"index": index, **{n: values[index] for n, values in condition.items()}}, mesh)
            images = call(state, root, rows.pop("index"), rows)
            yield parallel.fetch(images)[: num - first]

    return batches


def _batch_size(config: Any, mesh: Mesh, num: int) -> int:
    return parallel.rows_at_a_time(config.sample.batch_size, num, mesh)


def make_generator(method: Method, config: Any, spec: DataSpec, mesh: Mesh, texts: Texts | None = None) -> Generator:
    """Returns (state, num, given=None, seed=None, progress=False) -> (images [num, H, W, C], condition).

    `given` holds conditions by name: see `conditions`. A model of texts gets the prompts of `texts` by default.

    Raises (the returned function):
      UserError: conditions that the method does not take, or that are invalid.
    """
    batches = make_batches(method, config, spec, mesh)

    def generate(
        state: State,
        num: int,
        given: Mapping[str, Any] | None = None,
        seed: int | None = None,
        progress: bool = False,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        if not _is_whole(num) or num < 1:
            raise UserError(f"{num!r} samples cannot be drawn; request a whole number, 1 or more")
        _check_seed(seed)
        condition = conditions(method, spec, num, {**_prompted(method, num, texts), **(given or {})})
        return np.concatenate([*_counted(batches(state, condition, 0, num, seed), num, progress)]), condition

    return generate


def _prompted(method: Method, num: int, texts: Texts | None) -> dict[str, np.ndarray]:
    return texts.conditions(num) if texts is not None and FEATURE in method.condition else {}


def _check_seed(seed: Any) -> None:
    if seed is not None and not (_is_whole(seed) and 0 <= seed < 2**32):
        raise UserError(f"the seed of samples is {seed!r}; it must be a whole number in 0..{2**32 - 1}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _counted(batches: Iterable[np.ndarray], num: int, shown: bool, start: int = 0) -> Iterator[np.ndarray]:
    """Yields the batches, and shows a progress bar that counts images."""
    with tqdm.tqdm(total=num, initial=start, unit="img", desc="sampling", disable=None if shown else True) as bar:
        for images in batches:
            bar.update(len(images))
            yield images


def conditions(method: Method, spec: DataSpec, num: int, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the conditions of `num` samples, [num, ...] by name; {} for an unconditional method.

    Args:
      method: the method to sample from.
      spec: describes the features.
      num: number of samples.
      given: values by name, [num, ...]. By default samples cycle through the classes that have training examples.

    Raises:
      UserError: a condition is missing, not taken by the method, of the wrong shape, or outside the classes.
    """
    for name in given:
        if name not in method.condition:
            takes = ", ".join(method.condition)
            raise UserError(
                f"this model takes no {name}: " + (f"it takes {takes}" if takes else "it was trained without")
            )
    return {name: _condition(name, spec.features[name], num, given.get(name)) for name in method.condition}


def _condition(name: str, feature: Feature, num: int, values: Any) -> np.ndarray:
    classes = len(feature.names)
    if values is None:
        if not classes:
            larger = ", or use --mode=upscale --pictures=<a picture or a folder>" if name == "small" else ""
            raise UserError(f"this model needs {name}: give {num} of them{larger}")
        trained = np.flatnonzero(feature.counts or np.ones(classes))
        values = trained[np.arange(num) % len(trained)]
    if classes and isinstance(values, (list, tuple)) and len({isinstance(each, str) for each in values}) > 1:
        raise UserError(f"{name} is {list(values)!r}: give numbers or names of classes, not both")
    values, shape = np.asarray(values), (num, *feature.given)
    if classes:
        if values.dtype.kind == "U":
            values = _numbers_of(values, feature.names)
        whole = np.issubdtype(values.dtype, np.integer) and values.shape == shape
        if not whole or values.min() < 0 or values.max() >= classes:
            raise UserError(
                f"{name} must be {num} whole numbers in 0..{classes - 1}, or names of classes, not {_start_of(values)}"
            )
    elif values.shape != shape:
        raise UserError(f"{name} must be of shape {list(shape)}, not {list(values.shape)}")
    return values.astype(feature.dtype)


def _start_of(values: np.ndarray) -> str:
    text = str(values.tolist())
    return text if len(text) <= 60 else f"{text[:60]}..."


def _numbers_of(classes: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The numbers of classes given by name."""
    for unknown in sorted(set(classes.ravel().tolist()) - set(names)):
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise UserError(f"no class {unknown!r}; {did_you_mean(unknown, names)}there are: {shown}")
    number = {name: i for i, name in enumerate(names)}
    return np.vectorize(number.__getitem__, otypes=[np.int32])(classes)


def write_samples(
    run: Run, images: np.ndarray, labels: np.ndarray | None, spec: DataSpec, captions: Sequence[str] = ()
) -> None:
    """Writes samples.npz (`arr_0` images, `arr_1` labels and `captions` if there are any, `data`) and a grid of the
    first 100.

    Both files name the training set, which `spec` describes.
    """
    _write([images], images.shape, run, labels, spec, captions)


def _write(
    pieces: Iterable[np.ndarray],
    shape: tuple[int, ...],
    run: Run,
    labels: np.ndarray | None,
    spec: DataSpec,
    captions: Sequence[str] = (),
) -> None:
    """Like `write_samples`, for images of `shape` in pieces; only one piece needs to be in memory at a time."""
    with replacing(run.samples_npz) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            descr = np.lib.format.dtype_to_descr(np.dtype(spec.dtype))
            header = {"descr": descr, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            first: list[np.ndarray] = []
            for images in pieces:
                member.write(np.ascontiguousarray(images).data)
                first = first or [images[: figures.num_shown(spec, NUM_IN_GRID)].copy()]  # a view would hold the piece
        told = np.array(captions) if len(captions) else None
        for name, array in {"arr_1": labels, "captions": told, "data": np.array(spec.name)}.items():
            if array is not None:
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
    description = f"Samples of a model trained on {spec.name}"
    save_png(run.workdir / "samples.png", figures.pixels(figures.still(first[0], spec, description)), description)


def sample(workdir: str | pathlib.Path, overrides: tuple[str, ...] = ()) -> None:
    """`--mode=sample`: draws `config.sample.num` samples of a run and writes them.

    They are drawn in pieces, which are stored as files until all are complete. If the command is killed, the same
    command continues after the last piece. Memory holds one piece at most, however many samples are requested.
    """
    model = load(workdir, overrides)
    config, run, step, chief = model.config, Run(workdir), int(model.state.step), jax.process_index() == 0
    num, size = config.sample.num, _batch_size(config, model.mesh, config.sample.num)
    condition = conditions(model.method, model.spec, num, _prompted(model.method, num, model.texts))
    pieces = Pieces(run.sample_pieces, (num, *model.spec.image_shape), size * max(1, PIECE // size), model.spec.dtype)
    # Only one process at a time may sample here; others may train or read the run.
    with Run(pieces.folder).lock() if chief else contextlib.nullcontext():
        plan = {"config": config.to_dict(), "checkpoint_step": step, "piece": pieces.rows}
        start = parallel.from_first_process(pieces.resume(plan) if chief else 0)
        pieces.write(_counted(model.batches(model.state, condition, start, num), num, chief, start), start, chief)
        if chief:
            captions = () if model.texts is None else model.texts.captions(num)
            _write(pieces.read(), pieces.shape, run, condition.get("label"), model.spec, captions)
            pieces.remove()
            print(f"{num} samples of {run.workdir} (step {step}): {run.samples_npz}, and samples.png")


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Pieces of a future samples file: a folder of files `<first image>.npy`, each written atomically.

    Attributes:
      folder: holds the pieces, and the plan that they belong to.
      shape: of all images, [N, H, W, C].
      rows: images per piece, a whole number of batches; the last piece may hold fewer.
      dtype: of a pixel.
    """

    folder: pathlib.Path
    shape: tuple[int, ...]
    rows: int
    dtype: str = "uint8"

    def resume(self, plan: dict[str, Any]) -> int:
        """Returns how many images exist already without a gap; removes the pieces of another plan."""
        path, plan = self.folder / "plan.json", json.loads(to_json(plan))
        try:
            agrees = json.loads(path.read_text()) == plan
        except (OSError, ValueError):
            agrees = False
        if not agrees:
            with writing(self.folder):
                for other in self.folder.glob("*.npy"):
                    other.unlink()
            write_json(path, plan)
        return next((start for start in self._starts() if not self._is_whole(start)), self.shape[0])

    def write(self, batches: Iterable[np.ndarray], start: int, chief: bool = True) -> None:
        """Writes images as they arrive, from number `start` on; a process other than the first only consumes them."""
        held: list[np.ndarray] = []
        for images in batches:
            if not chief:
                continue
            held.append(images)
            stop = start + sum(map(len, held))
            if stop == self.shape[0] or stop - start == self.rows:
                with replacing(self._path(start)) as file:
                    np.lib.format.write_array(file, np.concatenate(held), allow_pickle=False)
                held, start = [], stop

    def read(self) -> Iterator[np.ndarray]:
        """Yields the pieces in order."""
        return (np.load(self._path(start), allow_pickle=False) for start in self._starts())

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _starts(self) -> range:
        return range(0, self.shape[0], self.rows)

    def _path(self, start: int) -> pathlib.Path:
        return self.folder / f"{start:09d}.npy"

    def _is_whole(self, start: int) -> bool:
        try:
            found = np.load(self._path(start), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return False
        return found.shape == (min(self.rows, self.shape[0] - start), *self.shape[1:]) and found.dtype == self.dtype

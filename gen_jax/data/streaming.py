"""Sets larger than memory: images are read from disk on demand, and Grain reads batches ahead of training.

`fetch` returns a set whose images stay on disk, as arrays that read only the requested rows. `dataset.Batches` decides
which example is in which batch, as for any other arrays, so batches are the same with and without streaming and no
position needs to be saved. `ahead` computes upcoming batches in threads or in separate processes. Memory holds the
labels (4 bytes per example), the orders of two epochs (8 bytes per example each) and a few batches.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import multiprocessing
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import PIL.Image
import tqdm

from gen_jax.data import cache
from gen_jax.data.images import opened
from gen_jax.method import UserError

T = TypeVar("T")

_CHUNK = 64  # examples read at a time, few because they may be large
_THREADS = 4  # of this process, if there are no workers; reading and decoding release the GIL


class Source(Protocol):
    """Gives any example by its index, from several threads at once; sent to worker processes by cloudpickle."""

    def __len__(self) -> int: ...

    def __getitems__(self, rows: Sequence[int], /) -> Sequence[Mapping[str, Any]]:
        """Returns the examples with these indices: `image` uint8 [H, W, C] and, if there are classes, `label`."""
        ...


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A source that decodes the picture files of another source.

    Attributes:
      files: gives `image` as the bytes of a picture file.
      fit: from an open picture to uint8 [H, W, C].
    """

    files: Source
    fit: Callable[[PIL.Image.Image], np.ndarray]

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, rows: Sequence[int], /) -> list[dict[str, Any]]:
        return [{**example, "image": self._pixels(example["image"])} for example in self.files.__getitems__(rows)]

    def _pixels(self, file: bytes) -> np.ndarray:
        with opened(io.BytesIO(file)) as picture:
            return self.fit(picture)


class Images:
    """The images of a source, as an array uint8 [N, H, W, C] that is read when it is indexed, not kept in memory.

    Example:
      >>> class Squares(list):
      ...   def __getitems__(self, rows):
      ...     return [{"image": np.full((1, 1, 1), row**2, np.uint8)} for row in rows]
      >>> images = Images(Squares(range(16)))
      >>> images.shape, images[3].item(), images[-2:].ravel().tolist(), images[np.array([[1, 2]])].shape
      ((16, 1, 1, 1), 9, [196, 225], (1, 2, 1, 1, 1))
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, source: Source):
        """Takes a source of at least one example; all of its images must have the size of the first."""
        (first,) = source.__getitems__([0])
        self.shape = (len(source), *first["image"].shape)
        self._source = source

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        numbers = np.asarray(range(len(self))[rows] if isinstance(rows, int | slice) else rows)
        images = self.stack(self._read(numbers.ravel().tolist()))
        return images.reshape(*numbers.shape, *self.shape[1:])

    def _read(self, rows: list[int]) -> Sequence[Mapping[str, Any]]:
        try:
            return self._source.__getitems__(rows)
        except (OSError, RuntimeError, ValueError) as error:  # of the system, ArrayRecord or Pillow
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise UserError(
                f"cannot read the streamed set any more ({reason}): restore its files; "
                "the same command resumes from the newest checkpoint"
            ) from error

    def stack(self, examples: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Returns the images of a few examples, uint8 [n, H, W, C].

        Raises:
          UserError: their sizes differ.
        """
        images = np.empty((len(examples), *self.shape[1:]), np.uint8)
        for row, example in enumerate(examples):
            if example["image"].shape != self.shape[1:]:  # numpy would broadcast some of them
                raise UserError(
                    f"the set holds images of different sizes ({example['image'].shape} beside {self.shape[1:]}): "
                    "set --config.data.image_size"
                )
            images[row] = example["image"]
        return images


def fetch(
    folder: pathlib.Path, title: str, key: Mapping[str, Any], source: Source, num_classes: int | None, workers: int = 0
) -> cache.Stored:
    """Returns a source's arrays with the same content and fingerprint as from `cache.fetch`, but images stay on disk.

    All examples are read once, for the fingerprint and the labels, which the cache keeps.

    Args:
      folder: of the cache.
      title: start of the entry's name.
      key: everything that determines the content, as JSON values.
      source: of at least one example.
      num_classes: None for a set without labels, even if the source gives some.
      workers: as in `ahead`.

    Raises:
      UserError: images of different sizes, or labels outside the classes.
    """
    images = Images(source)

    def chunk(start: int) -> cache.Arrays:
        examples = source.__getitems__(list(range(start, min(start + _CHUNK, len(images)))))
        labels = {} if num_classes is None else {"label": np.array([each["label"] for each in examples], np.int32)}
        return {"image": images.stack(examples), **labels}

    def build() -> tuple[cache.Arrays, dict[str, Any]]:
        digest, labels = hashlib.sha256(_header("image", images.dtype, images.shape)), []
        with (
            ahead(chunk, range(0, len(images), _CHUNK), workers) as chunks,
            tqdm.tqdm(total=len(images), desc=f"reading {title} once", unit="images", disable=None) as progress,
        ):
            for arrays in chunks:
                digest.update(arrays["image"].data)
                labels.append(arrays.get("label"))
                progress.update(len(arrays["image"]))
        if num_classes is None:
            return {}, {"fingerprint": digest.hexdigest()}
        label = np.concatenate(labels)
        if not 0 <= label.min() <= label.max() < num_classes:
            raise UserError(f"{title} has examples without a class: choose another split")
        digest.update(_header("label", label.dtype, label.shape))
        digest.update(label.data)
        return {"label": label}, {"fingerprint": digest.hexdigest()}

    stored = cache.fetch(folder, f"{title}-streamed", {**key, "streamed": True}, build)
    arrays: Any = {"image": images, **stored.arrays}
    return cache.Stored(arrays, stored.facts["fingerprint"], {})


@contextlib.contextmanager
def ahead(fn: Callable[[int], T], arguments: range, workers: int = 0) -> Iterator[Iterator[T]]:
    """Yields an iterator over `fn` of each argument, in order, computed ahead; the first value is ready on entry.

    Leaving the context always ends its threads and processes; processes also end with their parent.

    Args:
      fn: sent to each worker process by cloudpickle, with the arrays it holds.
      arguments: at least one.
      workers: number of processes, or 0 for threads of this one.

    Example:
      >>> with ahead(lambda step: step**2, range(1, 10, 3)) as squares:
      ...   list(squares)
      [1, 16, 49]
    """
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # only absl apps parse flags, but Grain's workers read them
        flags.FLAGS.mark_as_parsed()
    threads = 1 if workers else _THREADS
    values = (
        grain.MapDataset.range(arguments.start, arguments.stop, arguments.step)
        .map(fn)
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
        .mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=2), _belong_to_parent)
    )
    with contextlib.closing(iter(values)) as iterator:
        yield itertools.chain([next(iterator)], iterator)


def _belong_to_parent(worker: int, workers: int) -> None:
    """In a worker: leaves signals to the parent, and ends the worker when the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal and a scheduler send them to all processes
        signal.signal(number, signal.SIG_IGN)

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _header(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """What `cache.fingerprint` puts before the content of an array."""
    return f"{name} {dtype.str} {shape} ".encode()

"""Sets larger than memory: images read again whenever they are asked for, and batches read ahead of training by Grain.

`fetch` gives a set whose images stay where they are, as arrays that read the rows they are asked for. Which example
stands in which batch is decided by `dataset.Batches`, for such arrays as for others, so that both ways of reading
give the same batches and no position need be saved. `ahead` computes the coming batches in threads or in processes
of their own. In memory are the labels (4 bytes an example), the orders of two epochs (8 bytes each) and a few batches.
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

_CHUNK = 64  # examples read at a time, small because they may be large
_THREADS = 4  # of this process, where no others read; reading and decoding let go of Python's lock


class Source(Protocol):
    """What gives any example by its number, from several threads at once; sent to worker processes by cloudpickle."""

    def __len__(self) -> int: ...

    def __getitems__(self, rows: Sequence[int], /) -> Sequence[Mapping[str, Any]]:
        """Returns the examples of these numbers: `image` uint8 [H, W, C] and, where there are classes, `label`."""
        ...


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A source whose pictures are decoded from the files that another one gives.

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
    """The images of a source, as an array uint8 [N, H, W, C] that is read where it is indexed, not held.

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
        """Takes a source of at least one example; all of its images must be of the first one's size."""
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
        except (OSError, RuntimeError, ValueError) as error:  # as the system, ArrayRecord and Pillow have it
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise UserError(
                f"cannot read the streamed set any more ({reason}): bring its files back; "
                "the same command goes on from the newest checkpoint"
            ) from error

    def stack(self, examples: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Returns the images of a few examples, uint8 [n, H, W, C].

        Raises:
          UserError: they are not of one size.
        """
        images = np.empty((len(examples), *self.shape[1:]), np.uint8)
        for row, example in enumerate(examples):
            if example["image"].shape != self.shape[1:]:  # numpy would stretch some of them
                raise UserError(
                    f"the set holds images of different sizes ({example['image'].shape} beside {self.shape[1:]}): "
                    "set --config.data.image_size"
                )
            images[row] = example["image"]
        return images


def fetch(
    folder: pathlib.Path, title: str, key: Mapping[str, Any], source: Source, num_classes: int | None, workers: int = 0
) -> cache.Stored:
    """Returns a source's arrays as `cache.fetch` would, of the same content and fingerprint, but images stay unread.

    All examples are read once, for the fingerprint and the labels; the cache keeps these two.

    Args:
      folder: of the cache.
      title: start of the entry's name.
      key: all that decides the content, as JSON values.
      source: of at least one example.
      num_classes: None for a set without labels, even where the source gives some.
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
    """Gives an iterator over `fn` of each argument, in order, computed before it is asked for; the first one is there.

    Leaving the context ends threads and processes, whatever the reason; processes end with their parent, too.

    Args:
      fn: what it holds goes to each worker process by cloudpickle, arrays by value.
      arguments: at least one.
      workers: number of processes, or 0 for threads of this one.

    Example:
      >>> with ahead(lambda step: step**2, range(1, 10, 3)) as squares:
      ...   list(squares)
      [1, 16, 49]
    """
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # outside an absl app nobody does, and Grain's workers look at flags
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
    """Lets the parent alone act on signals, in a worker, and ends the worker when the parent is gone."""
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

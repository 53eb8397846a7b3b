"""Pictures to judge, wherever they are: a run, a folder, an .npz file, or a data set by name.

- A run (a folder with `config.json` and `samples.npz`): its samples.
- A folder: all of its pictures (JPEG, PNG, GIF, WebP, BMP, TIFF; folders inside it are classes).
- A file `.npz`: the array `arr_0`, or the only one that holds pictures, uint8 [N, H, W, C] or [N, C, H, W]. Samplers of
  other programs write this layout, with labels as `arr_1`.
- Anything else is a data set, as `--config.data.name` takes it: mnist, cifar10, stroke_digits, image_folder:<dir>.

A folder with splits and a data set give their training images; `mnist@test` gives another split.
"""

from __future__ import annotations

import pathlib
import zipfile
from typing import Any, NamedTuple

import numpy as np

from gen_jax.data import cache, dataset
from gen_jax.data.dataset import Dataset
from gen_jax.method import DataSpec, UserError, labelled
from gen_jax.metrics import on_disk
from gen_jax.run import Run, legible

SAMPLES = "samples.npz"  # of a run
_ARRAYS = ("arr_0", "images", "samples", "fake", "x")  # in which an .npz holds its pictures, the first that is there
_LABELS = ("arr_1", "labels", "label", "y")


class Pictures(NamedTuple):
    """Pictures of one source.

    Attributes:
      name: as the user wrote it.
      images: uint8 [N, H, W, C], C 1 or 3: an array, mostly memory-mapped, or `on_disk.Rows` of one.
      labels: i32 [N], or None.
      data: the data set that they are the training images of, or None.
      fingerprint: hex digest of the images.
      whole: whether these are all training images of a data set, at their own size.
    """

    name: str
    images: Any
    labels: np.ndarray | None
    data: Dataset | None
    fingerprint: str
    whole: bool = False

    def thinned(self, num: int) -> Pictures:
        """Returns `num` of the pictures, evenly spaced; always the same ones."""
        rows = dataset.spread(len(self.images), num)
        labels = None if self.labels is None else np.asarray(self.labels)[rows]
        whole = self.whole and num >= len(self.images)
        return self._replace(images=on_disk.Rows(self.images, rows), labels=labels, whole=whole)


def read(source: str, config: Any) -> Pictures:
    """Returns the pictures of a source.

    Args:
      source: see above.
      config: `data` of `config.base_config()`, for `image_size`, `channels`, `data_dir` and the like.

    Raises:
      UserError: there is no such source, or it holds no pictures that can be judged; one line.
    """
    path, _, split = source.rpartition("@")
    if not path or pathlib.Path(source).expanduser().exists():  # a name with an @ of its own
        path, split = source, ""
    place = pathlib.Path(path).expanduser()
    if split and (place.is_file() or (place / "config.json").is_file()):
        raise UserError(f"{source}: only a data set has splits: leave out {'@' + split!r}")
    if place.suffix == ".npz" or (place.is_file() and zipfile.is_zipfile(place)):
        return _of_npz(source, place, config)
    if (place / "config.json").is_file():
        samples = Run(place).samples_npz
        if not samples.is_file():
            raise UserError(
                f"the run {path} has no {SAMPLES} yet: python -m gen_jax.main --workdir={path} --mode=sample"
            )
        return _of_npz(source, samples, config)
    is_folder = place.is_dir() or path.startswith(("/", ".", "~"))  # the last gives an error that names the nearest
    return _of_set(source, f"image_folder:{path}" if is_folder else path, split, config)


def _of_set(source: str, name: str, split: str, config: Any) -> Pictures:
    config = config.copy_and_resolve_references()
    config.name = name
    if split:
        config.train_split = split
    if split or name.startswith("image_folder:"):
        config.test_split = ""  # all pictures count
    data = dataset.load(config)
    if data.spec.kind != "image" or data.spec.value_range != (0, 255):
        raise UserError(f"{source} holds no pictures of 256 grey values per channel, so it cannot be judged here")
    images = data.train["image"]
    if not isinstance(images, np.ndarray):
        raise UserError(f"{source} is streamed, or drawn on demand: leave out data.stream, or judge against a folder")
    whole = not (split or config.image_size or config.channels)
    return Pictures(source, images, data.train.get("label"), data, data.spec.fingerprint, whole)


def _of_npz(source: str, path: pathlib.Path, config: Any) -> Pictures:
    if path.is_file() and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is cut short, or no .npz file: save pictures with numpy.savez(path, images)")
    try:
        with np.load(path, allow_pickle=False) as file:
            name = next((name for name in _ARRAYS if name in file.files), None)
            if name is None and len(file.files) == 1:
                name = file.files[0]
            if name is None:
                raise UserError(
                    f"{path} holds no array {_ARRAYS[0]!r}, but {legible(', '.join(file.files[:5]))}: save "
                    f"pictures as {_ARRAYS[0]!r}, for example with numpy.savez(path, images)"
                )
            images = _checked(path, name, on_disk.member(path, name, cache.root(config.cache_dir)))
            found = next((file[each] for each in _LABELS if each in file.files), None)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"cannot read {path} as .npz: {reason}") from None
    labels = None
    if found is not None and found.shape == (len(images),) and np.issubdtype(found.dtype, np.integer):
        labels = found.astype(np.int32)
    return Pictures(source, images, labels, None, cache.fingerprint({"image": images}))


def _checked(path: pathlib.Path, name: str, images: np.ndarray) -> np.ndarray:
    """Returns an array as uint8 [N, H, W, C]."""
    if images.dtype != np.uint8:
        raise UserError(
            f"{name} of {path} is {images.dtype}, from {_extent(images)}: save pictures as uint8, with values 0 to 255"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UserError(f"{name} of {path} has shape {images.shape}: pictures are [N, H, W, C] with C = 1 or 3")
    if not images.size:
        raise UserError(f"{name} of {path} has shape {images.shape}: there is no picture in it")
    return images


def _extent(values: np.ndarray) -> str:
    if not values.size or values.dtype.kind not in "fiub":
        return "no numbers"
    return f"{values.min():.4g} to {values.max():.4g}"


def as_data(pictures: Pictures) -> Dataset:
    """Returns the pictures as a data set without a test split, to train a classifier on."""
    if pictures.data is not None:
        return pictures.data
    arrays: dict[str, Any] = {"image": pictures.images}
    features = {}
    if pictures.labels is not None:
        arrays["label"], num = pictures.labels, int(pictures.labels.max()) + 1
        features = labelled([str(label) for label in range(num)])
    shape = pictures.images.shape
    fingerprint = cache.fingerprint(arrays)  # of the labels too: a classifier of other labels is another one
    spec = DataSpec(pictures.name, shape[1:], shape[0], features, fingerprint)
    return Dataset(spec, arrays, None)

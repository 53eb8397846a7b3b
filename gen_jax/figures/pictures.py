"""A method's Picture as a file, so that pages are redrawn without data, model or device."""

from __future__ import annotations

import json
import pathlib

import numpy as np

from gen_jax.method import Picture

_NDIM = {"grid": 4, "strip": 4, "animation": 5}


def save_picture(path: pathlib.Path, picture: Picture, data: str) -> None:
    """Writes `picture` as an .npz of `images` and `meta` (a JSON text); its folder is made where it is missing.

    `meta` names `data`, the set that the model was trained on.
    """
    meta = {name: getattr(picture, name) for name in ("title", "caption", "kind", "labels", "columns")}
    meta["data"] = data
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, images=np.asarray(picture.images), meta=np.array(json.dumps(meta)))


def load_picture(path: pathlib.Path) -> Picture:
    """Returns what `save_picture` wrote, with `images` in numpy.

    Raises:
      ValueError: the file is no such picture; nothing in it is ever unpickled.
      OSError, KeyError, zipfile.BadZipFile: it is damaged or half-written.
    """
    with np.load(path, allow_pickle=False) as file:
        images, meta = file["images"], json.loads(str(file["meta"]))
    kind, labels = meta["kind"], tuple(str(label) for label in meta["labels"])
    if images.dtype != np.uint8 or images.ndim != _NDIM.get(kind) or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(f"holds {images.dtype} {list(images.shape)}, which is no {kind}")
    if labels and len(labels) != len(images):
        raise ValueError(f"has {len(labels)} labels for {len(images)} images")
    return Picture(images, str(meta["title"]), str(meta["caption"]), kind, labels, int(meta["columns"]))

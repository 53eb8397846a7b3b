"""A method's figures as files, so that pages are redrawn without data, model or device."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gen_jax.method import Figure, Picture, Scatter
from gen_jax.run import replacing, writing

_NDIM = {"grid": 4, "strip": 4, "animation": 5}
_ARRAYS = ("images", "points", "classes", "background")


def save_picture(path: pathlib.Path, picture: Figure, data: str) -> None:
    """Writes a figure as an .npz of its arrays and `meta` (a JSON text), whole or not at all.

    Its folder is made where it is missing. `meta` names `data`, the set that the model was trained on.

    Raises:
      UserError: it cannot be written.
    """
    fields = {field.name: getattr(picture, field.name) for field in dataclasses.fields(picture)}
    arrays: dict[str, Any] = {n: np.asarray(fields[n]) for n in _ARRAYS if fields.get(n) is not None}
    meta = {name: value for name, value in fields.items() if name not in _ARRAYS} | {"data": data}
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez_compressed(file, **arrays, meta=np.array(json.dumps(meta)))


def load_picture(path: pathlib.Path) -> Figure:
    """Returns what `save_picture` wrote, with its arrays in numpy.

    Raises:
      ValueError: the file is no such figure; nothing in it is ever unpickled.
      OSError, KeyError, zipfile.BadZipFile: it is damaged or half-written.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays: dict[str, Any] = {name: file[name] for name in _ARRAYS if name in file.files}
        meta = json.loads(str(file["meta"]))
    texts = {name: tuple(str(text) for text in meta[name]) for name in ("labels", "names", "axes") if name in meta}
    texts |= {name: str(meta[name]) for name in ("title", "caption")}
    return _scatter(arrays, meta, texts) if "points" in arrays else _picture(arrays, meta, texts)


def animate(frames: Mapping[str, Figure]) -> Figure:
    """Returns stills of one kind as one animation.

    Args:
      frames: grids of as many images, or scatters of as many points, by label and in order. Those that are unlike the
        last are left out; what does not move (classes, background) is the last one's.

    Raises:
      ValueError: the last is no still.

    Example:
      >>> still = Picture(np.zeros((4, 8, 8, 1), np.uint8), "t")
      >>> moving = animate({"step 1": still, "step 2": still})
      >>> moving.images.shape, moving.kind, moving.labels
      ((2, 4, 8, 8, 1), 'animation', ('step 1', 'step 2'))
    """
    *_, last = frames.values()
    name = "points" if isinstance(last, Scatter) else "images"
    shape = np.shape(getattr(last, name))
    if len(shape) != (2 if name == "points" else 4):
        raise ValueError(f"holds {name} {list(shape)}, which is no still")
    alike = {label: one for label, one in frames.items() if type(one) is type(last)}
    kept = {label: one for label, one in alike.items() if np.shape(getattr(one, name)) == shape}
    if len(kept) == 1:
        return last
    stacked = {name: np.stack([getattr(one, name) for one in kept.values()]), "labels": tuple(kept)}
    return last.replace(**stacked) if isinstance(last, Scatter) else last.replace(**stacked, kind="animation")


def _picture(arrays: dict[str, Any], meta: Mapping[str, Any], texts: dict[str, Any]) -> Picture:
    images, kind, labels = arrays["images"], meta["kind"], texts["labels"]
    if images.dtype != np.uint8 or images.ndim != _NDIM.get(kind) or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(f"holds {images.dtype} {list(images.shape)}, which is no {kind}")
    if labels and len(labels) != len(images):
        raise ValueError(f"has {len(labels)} labels for {len(images)} images")
    return Picture(images, kind=kind, columns=int(meta["columns"]), **texts)


def _scatter(arrays: dict[str, Any], meta: Mapping[str, Any], texts: dict[str, Any]) -> Scatter:
    points, classes, background = arrays["points"], arrays.get("classes"), arrays.get("background")
    planes = [each for each in (points, background) if each is not None]
    if not all(np.issubdtype(p.dtype, np.floating) and p.ndim >= 2 and p.shape[-1] == 2 and p.size for p in planes):
        raise ValueError(f"holds {' and '.join(str(list(p.shape)) for p in planes)}, which is no scatter")
    if points.ndim > 3 or (background is not None and background.ndim != 2) or len(texts["axes"]) != 2:
        raise ValueError(f"holds points {list(points.shape)}, which is no scatter")
    if classes is not None and (classes.shape != points.shape[-2:-1] or not np.issubdtype(classes.dtype, np.integer)):
        raise ValueError(f"has classes {list(classes.shape)} for points {list(points.shape)}")
    if texts["labels"] and (points.ndim != 3 or len(texts["labels"]) != len(points)):
        raise ValueError(f"has {len(texts['labels'])} labels for points {list(points.shape)}")
    circles = tuple(float(radius) for radius in meta["circles"])
    return Scatter(points, classes, background, circles=circles, background_name=str(meta["background_name"]), **texts)

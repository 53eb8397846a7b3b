"""Embeddings that another program made, by file: a table from captions to embeddings.

Two layouts are read. An `.npz` file holds `texts` [M] and `embeddings` f32 [M, D]. A folder holds those that are
published with StackGAN's data sets: for each split a folder `train` and `test`, with `filenames.pickle`, a list of the
pictures' paths without suffix, and `char-CNN-RNN-embeddings.pickle`, a list of arrays [K, D], one row per caption.

Pickles are programs. Those are read by an interpreter that knows lists, texts, numbers and arrays, and runs nothing.
"""

from __future__ import annotations

import io
import pathlib
import pickle
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from gen_jax.method import UserError
from gen_jax.metrics.torch_file import look
from gen_jax.run import directory
from gen_jax.text.encoder import Encoder, Given

NAMES_FILE, EMBEDDINGS_FILE = "filenames.pickle", "char-CNN-RNN-embeddings.pickle"


def make(given: Given, path: str = "") -> Encoder:
    """Returns the table of a file, or of a folder for the pictures of a set.

    Args:
      given: the data set; with embeddings by picture, its captions are those of its pictures, in the same order.
      path: of the `.npz` file, or of the folder.

    Raises:
      UserError: there is no such file; it is damaged, or of another layout; a caption has no embedding.
    """
    if not path:
        raise UserError("config.data.text.path is empty: give an .npz file with texts and embeddings, or a folder")
    place = directory(path)
    texts, embeddings = _of_pictures(place, given) if place.is_dir() else _of_npz(place)
    if embeddings.ndim != 2 or len(embeddings) != len(texts) or not np.isfinite(embeddings).all():
        raise UserError(
            f"{place} holds {len(texts)} texts and embeddings of {list(embeddings.shape)}, which must be finite "
            f"numbers [{len(texts)}, D]: write it again"
        )
    table = {"texts": _as_bytes(texts), "embeddings": np.ascontiguousarray(embeddings, np.float32)}
    return Encoder("file", embeddings.shape[1], table, {})


def encode(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """Returns the embeddings of texts that the file has.

    Raises:
      UserError: a text that it does not have.
    """
    number = {text: i for i, text in enumerate(encoder.arrays["texts"].tobytes().decode().split("\n"))}
    for text in texts:
        if text not in number:
            raise UserError(
                f"the text {text!r} has no embedding in the file of this run, and nothing here can make one: give "
                'embeddings, condition={"text": ...}'
            )
    return encoder.arrays["embeddings"][[number[text] for text in texts]]


def _as_bytes(texts: Sequence[str]) -> np.ndarray:
    return np.frombuffer("\n".join(" ".join(text.splitlines()) for text in texts).encode(), np.uint8)


def _of_npz(place: pathlib.Path) -> tuple[list[str], np.ndarray]:
    try:
        with np.load(place, allow_pickle=False) as file:
            return [str(text) for text in file["texts"].tolist()], np.asarray(file["embeddings"], np.float32)
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"cannot read embeddings from {place} ({error}): it must be an .npz file with texts [M] and "
            "embeddings [M, D]"
        ) from error


def _of_pictures(folder: pathlib.Path, given: Given) -> tuple[list[str], np.ndarray]:
    table: dict[str, np.ndarray] = {}
    for split, captions in given.data.captions.items():
        names, rows = (read_pickle(folder / split / file) for file in (NAMES_FILE, EMBEDDINGS_FILE))
        by_name = {str(name).rpartition("/")[2]: np.asarray(row) for name, row in zip(names, rows, strict=False)}
        files = given.data.files.get(split, ())
        for file, told in zip(files, captions, strict=True):
            name = pathlib.PurePosixPath(file).stem
            if name not in by_name or len(by_name[name]) < len(set(told)):
                raise UserError(f"{folder / split} has no embeddings of the captions of {file!r}: add them")
            table |= dict(zip(told, by_name[name], strict=False))
    if not table:
        raise UserError(f"{folder} holds embeddings by picture, and {given.data.spec.name} has no files: use an .npz")
    return list(table), np.stack(list(table.values()))


class _Bare:
    """A thing of a pickle, which has no attributes that a pickle could set."""

    __slots__ = ()


class _Kind(_Bare):
    """numpy's dtype, as a pickle makes it."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any = "", *_: Any):
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "<"


class _Rows(_Bare):
    """numpy's array, as a pickle makes it."""

    __slots__ = ("array",)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, content = state
        if not isinstance(kind, _Kind) or kind.code not in ("f4", "f8", "f2"):
            raise pickle.UnpicklingError("an array of other than real numbers")
        content = content.encode("latin-1") if isinstance(content, str) else content
        flat = np.frombuffer(content, np.dtype(f"{kind.order}{kind.code}"))
        self.array = flat.reshape(shape, order="F" if by_columns else "C").astype(np.float32)


class _Rebuild(_Bare):
    __slots__ = ()

    def __call__(self, *_: Any) -> _Rows:
        return _Rows()


class _Encode(_Bare):
    """_codecs.encode, by which Python 3 writes bytes for Python 2."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("a text in another encoding")
        return text.encode("latin-1")


_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _Rebuild(),
    ("numpy._core.multiarray", "_reconstruct"): _Rebuild(),
    ("numpy", "ndarray"): _Bare(),
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _Encode(),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        found = _KNOWN.get((module_name, global_name))
        if found is None:
            name = ascii(f"{module_name}.{global_name}"[:100])
            raise pickle.UnpicklingError(f"it names {name}, which embeddings do not need and which might run any code")
        return found


def read_pickle(path: pathlib.Path) -> list[Any]:
    """Returns the list of texts, or of arrays f32 [K, D], that a pickle holds; executes nothing.

    Raises:
      UserError: there is no such file; it holds anything else, or is damaged.
    """
    try:
        file = io.BytesIO(path.read_bytes())
        look(file)
        file.seek(0)
        found = _Unpickler(file, encoding="latin-1").load()
        if not isinstance(found, list):
            raise pickle.UnpicklingError("it holds no list")
        return [each.array if isinstance(each, _Rows) else str(each) for each in found]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise UserError(f"{path} is no list of names or embeddings ({error}): use the published file") from error

"""Captions of a folder of pictures: in a file beside each picture, or in one table for all.

- Beside `cat.jpg`: `cat.txt`, one caption per line; or `cat.json`, a text, a list of texts, or an object that has one
  of these under `caption`, `captions` or `text`.
- In the folder: `captions.csv` (or `metadata.csv`), with a header and the columns `file` (or `file_name`) and `caption`
  (or `text`); a picture with several captions has several rows. Or `captions.json`, an object from paths to captions.

Paths in a table are relative to the folder. Every picture needs a caption, and every caption a picture.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gen_jax.method import UserError, counted

TABLES = ("captions.csv", "metadata.csv", "captions.json")
SUFFIXES = (".txt", ".json")
_FILE, _CAPTION = ("file", "file_name"), ("caption", "captions", "text")


def find(folder: pathlib.Path, pictures: Sequence[str], others: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Returns the captions of each picture; {} if the folder has none.

    Args:
      folder: of the pictures.
      pictures: their paths, relative to the folder.
      others: paths of all other files.

    Raises:
      UserError: pictures without captions, captions without pictures, or a file that cannot be read.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as place:
      ...   _ = pathlib.Path(place, "cat.txt").write_text("a cat\\na black cat\\n")
      ...   find(pathlib.Path(place), ["cat.jpg"], ["cat.txt"])
      {'cat.jpg': ('a cat', 'a black cat')}
    """
    table = next((name for name in TABLES if name in others), None)
    if table is not None:
        found = _of_table(folder / table)
    else:
        stems = {os.path.splitext(path)[0]: path for path in pictures}
        beside = [path for path in others if os.path.splitext(path)[1].lower() in SUFFIXES and _is_caption(path)]
        found = {}
        for path in beside:
            picture = stems.get(os.path.splitext(path)[0], path)
            found[picture] = found.get(picture, ()) + _of_file(folder / path)
    if found:
        _refuse_unmatched(folder, pictures, found, table)
    return found


def _is_caption(path: str) -> bool:
    return os.path.splitext(os.path.basename(path))[0].lower() not in ("readme", "license")


def _refuse_unmatched(
    folder: pathlib.Path, pictures: Sequence[str], found: Mapping[str, Any], table: str | None
) -> None:
    known, where = set(pictures), f"{folder / table}" if table else str(folder)
    if lonely := sorted(set(found) - known):
        raise UserError(
            f"{where} has captions without pictures, {counted(len(lonely), 'file')}, of which the first is "
            f"{lonely[0]!r}: remove them, or add the pictures"
        )
    if bare := sorted(path for path in known if not found.get(path)):
        raise UserError(
            f"{where} has pictures without captions, {counted(len(bare), 'file')}, of which the first is {bare[0]!r}: "
            "add their captions, or remove them"
        )


def _of_file(path: pathlib.Path) -> tuple[str, ...]:
    text = _read(path)
    if path.suffix.lower() == ".txt":
        return _clean(text.splitlines())
    return _texts_of(path, _parsed(path, text))


def _of_table(path: pathlib.Path) -> dict[str, tuple[str, ...]]:
    text = _read(path)
    if path.suffix == ".json":
        table = _parsed(path, text)
        if not isinstance(table, dict):
            raise UserError(f"{path} must be an object from the paths of pictures to their captions")
        return {name: _texts_of(path, value) for name, value in table.items()}
    rows = csv.DictReader(io.StringIO(text))
    names = {name: next((key for key in names if key in (rows.fieldnames or ())), "")
             for name, names in (("file", _FILE), ("caption", _CAPTION))}  # fmt: skip
    if "" in names.values():
        raise UserError(f"{path} has the columns {', '.join(rows.fieldnames or ['none'])}: it needs file and caption")
    found: dict[str, tuple[str, ...]] = {}
    for row in rows:
        name = row[names["file"]] or ""
        found[name] = found.get(name, ()) + _clean([row[names["caption"]] or ""])
    return found


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the captions in {path} ({error}): save them as UTF-8") from error


def _parsed(path: pathlib.Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error})") from error


def _texts_of(path: pathlib.Path, value: Any) -> tuple[str, ...]:
    if isinstance(value, dict):
        value = next((value[key] for key in _CAPTION if key in value), None)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise UserError(f"{path} holds no captions: it needs a text, a list of texts, or these under 'caption'")
    return _clean(texts)


def _clean(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(" ".join(text.split()) for text in texts if text.strip())


def equally_many(captions: Sequence[tuple[str, ...]]) -> list[list[str]]:
    """Returns as many captions for each picture as the one with the most has: those of the others are repeated.

    Example:
      >>> equally_many([("a", "b", "c"), ("d",)])
      [['a', 'b', 'c'], ['d', 'd', 'd']]
    """
    most = max(map(len, captions))
    return [[each[k % len(each)] for k in range(most)] for each in captions]

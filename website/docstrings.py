"""Our docstrings as griffe reads them."""

from __future__ import annotations

import re
from typing import Any

import griffe

_CODE = re.compile(r"(`[^`]*`)")
_SEVERAL = re.compile(r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+): .*(?:\n(?P=indent) +.*)*", re.MULTILINE)


def adapted(docstring: str) -> str:
    """Returns a docstring in griffe's dialect.

    Its section of examples has a name in the plural, an argument has a line of its own, and `<` in prose is escaped.

    Example:
      >>> print(adapted("As folder:<dir>.\\n\\nArgs:\\n  a, b: see `<dir>`.\\n\\nExample:\\n  1 < 2"))
      As folder:&lt;dir>.
      <BLANKLINE>
      Args:
        a: see `<dir>`.
        b: see `<dir>`.
      <BLANKLINE>
      Examples:
        1 < 2
    """
    prose, example, code = docstring.partition("Example:\n")
    return _SEVERAL.sub(_one_each, escaped(prose)) + example.replace("Example", "Examples") + code


def escaped(markdown: str) -> str:
    """Returns text in which `<` starts no tag; code is left as it is.

    Example:
      >>> print(escaped("image_folder:<dir> is\\n`<dir>`:\\n\\n    ls <dir>"))
      image_folder:&lt;dir> is
      `<dir>`:
      <BLANKLINE>
          ls <dir>
    """
    blocks = markdown.split("\n\n")
    return "\n\n".join(block if block.startswith("    ") else _escaped_prose(block) for block in blocks)


def _escaped_prose(text: str) -> str:
    parts = _CODE.split(text)
    parts[::2] = [re.sub(r"<(?=[a-z/])", "&lt;", part) for part in parts[::2]]
    return "".join(parts)


def _one_each(several: re.Match[str]) -> str:
    """`a, b: text` as two lines with the same text."""
    text = several[0].partition(": ")[2]
    return "\n".join(f"{several['indent']}{name}: {text}" for name in several["names"].split(", "))


class Docstrings(griffe.Extension):
    """Adapts every docstring that is read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = adapted(obj.docstring.value)

"""What `python -m gen_jax.main --help` lists: the configs, or the keys of one."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterable
from typing import Any

from gen_jax import config as configs
from gen_jax import methods


def titles() -> str:
    """Returns one line per config that can be given by name: the first of its file's docstring. Runs no file.

    Example:
      >>> [line for line in titles().splitlines() if "WGAN" in line]
      ['  wgan_gp_mnist      WGAN with a gradient penalty on MNIST (Gulrajani et al. 2017): five critic steps per \
generator step.']
    """
    lines = (f"  {name:18} {_docstring(file).partition(chr(10))[0]}" for name, file in configs.by_name().items())
    return "\n".join(line.rstrip() for line in lines)


def of_config(path: str, words: Iterable[str] = ()) -> str:
    """Returns a config's docstring, then every key with its value and, where a value has parameters, the names allowed.

    Args:
      path: `<config>[:<variant>]`, like `--config`.
      words: `--config.<key>=<value>`.

    Raises:
      UserError: see `methods.load` and `methods.override`.
    """
    config = methods.override(methods.load(path)[2], words)
    options = methods.options(config)
    choices = {f"{key}.name": choice.table for key, choice in options.all_choices.items()}
    names = configs.CHOICES | choices | {"method": [config.method], "eval.best": options.ranking}
    keys = [_line(key, value, names.get(key, ())) for key, value in configs.flatten(config).items()]
    about = _docstring(configs.file_of(path)).strip()
    return "\n".join([*([about, ""] if about else []), "Its values (set any with --config.<key>=<value>):", *keys])


def _line(key: str, value: Any, names: Any) -> str:
    text = configs.as_text(value)
    if not isinstance(value, str):
        text = text.replace(" ", "")  # a tuple is one word of the shell
    line = f"  {key}={text}"
    return f"{line:50}  one of {', '.join(names)}" if len(names) > 1 else line


def _docstring(file: pathlib.Path) -> str:
    try:
        return ast.get_docstring(ast.parse(file.read_bytes())) or ""
    except (OSError, SyntaxError, ValueError):  # `load` says what is wrong
        return ""

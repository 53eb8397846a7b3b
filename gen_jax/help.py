"""What `python -m gen_jax.main --help` lists: the configs, or the keys of one."""

from __future__ import annotations

import ast
import pathlib
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
    return "\n".join(
        f"  {name:18} {_docstring(file).partition(chr(10))[0]}" for name, file in configs.by_name().items()
    )


def of_config(path: str) -> str:
    """Returns a config's docstring, then every key with its value and, where they are names, the allowed ones.

    Args:
      path: `<config>[:<variant>]`, like `--config`.

    Raises:
      UserError: see `methods.load`.
    """
    _, _, config = methods.load(path)
    choices = {f"{key}.name": choice.table for key, choice in methods.options(config).all_choices.items()}
    names = configs.CHOICES | choices | {"method": [config.method]}
    keys = [_line(key, value, names.get(key, ())) for key, value in configs.flatten(config).items()]
    heading = "Its values (set any with --config.<key>=<value>):"
    return "\n".join([_docstring(configs.file_of(path)).strip(), "", heading, *keys])


def _line(key: str, value: Any, names: Any) -> str:
    line = f"  {key}={configs.as_text(value)}"
    return f"{line:50}  one of {', '.join(names)}" if len(names) > 1 else line


def _docstring(file: pathlib.Path) -> str:
    try:
        return ast.get_docstring(ast.parse(file.read_bytes())) or ""
    except (OSError, SyntaxError, ValueError):  # `load` says what is wrong
        return ""

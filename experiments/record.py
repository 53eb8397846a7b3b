"""The results of an experiment: experiments/results/<name>/ with report.json, table.md and its figures."""

from __future__ import annotations

import pathlib
import platform
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from gen_jax.figures.markup import number
from gen_jax.run import write_bytes, write_json

RESULTS = pathlib.Path(__file__).parent / "results"


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows with equal keys as a Markdown table; numbers have four digits and are right-aligned.

    Example:
      >>> print(markdown([{"loss": "hinge", "modes": 25}, {"loss": "minimax", "modes": 3.14159}]))
      | loss | modes |
      | --- | ---: |
      | hinge | 25 |
      | minimax | 3.142 |
    """
    names = list(rows[0])
    is_number = [isinstance(rows[0][name], int | float) for name in names]
    rule = ["---:" if right else "---" for right in is_number]
    lines = [names, rule, *([_told(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _told(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else str(value)


def write(folder: pathlib.Path, report: Mapping[str, Any], tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Writes report.json and table.md, and prints the latter.

    Args:
      folder: created if it is missing.
      report: `command`, `verdict` (one line) and everything else that readers need: settings, seeds, versions.
      tables: rows by title; also written to report.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", {**report, "tables": tables})
    parts = [report["verdict"], f"`{report['command']}`"]
    for title, rows in tables.items():
        parts += [f"{title}:", markdown(rows)]
    text = "\n\n".join(parts) + "\n"
    write_bytes(folder / "table.md", text.encode())
    print(text, end="")


def command(name: str, argv: Sequence[str]) -> str:
    """Returns the shell command of an experiment.

    Example:
      >>> command("gan_losses", ["--only=hinge, R1"])
      "python -m experiments.gan_losses '--only=hinge, R1'"
    """
    return shlex.join(["python", "-m", f"experiments.{name}", *argv])


def versions() -> dict[str, str]:
    """Returns the versions and the device of the measurements."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "device": device.device_kind or device.platform,
    }

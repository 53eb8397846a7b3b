"""Draws the figure of an experiment again, from its report.json alone, for a paper: PDF, or SVG whose text is text.

    pip install -e '.[paper]'
    python -m experiments.redraw guidance --out=guidance.pdf

The suffix of --out decides: .pdf and .svg are drawn by matplotlib, with one width for a column of a paper. Figures that
show samples cannot be drawn again, because report.json does not hold these.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pathlib
from typing import Any

from experiments import record
from gen_jax import command
from gen_jax.figures import scatter
from gen_jax.figures.svg import Plot, Svg
from gen_jax.method import UserError
from gen_jax.run import directory

DRAWN = ("guidance", "steps", "zero_snr")  # experiments whose figures are curves of what report.json holds
SIZE = 3.4, 2.5  # inches


def figure_of(name: str, report: dict[str, Any]) -> Svg:
    """Returns the figure of an experiment, as the experiment draws it.

    Args:
      name: a member of `DRAWN`.
      report: the content of its report.json.
    """
    rows = [(*key.rsplit(", seed ", 1), values) for key, values in report["values"].items()]
    found = {(row, int(seed)): values for row, seed, values in rows}
    return importlib.import_module(f"experiments.{name}").figure(found, report["real"], {})


def draw(plot: Plot, file: pathlib.Path) -> None:
    """Draws a plot with matplotlib, in our colours.

    Raises:
      UserError: matplotlib is not installed.
    """
    try:
        plt = importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise UserError("matplotlib is not installed: pip install 'gen-jax[paper]'") from error

    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "", "pdf.fonttype": 42, "font.size": 8}):
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        for one, colour in zip(plot.series, plot.colours, strict=True):
            style = "." if one.dots else ("-", "--", ":")[colour // 5 % 3]
            axes.plot(one.steps, one.values, style, color=scatter.COLOURS[colour % 5][0], label=one.name)
        axes.set(xlabel=plot.x_label, ylabel=plot.y_label, xlim=plot.x[:2], ylim=plot.y[:2])
        axes.set_xscale("log" if plot.x.log else "linear")
        axes.set_yscale("log" if plot.y.log else "linear")
        axes.set_xticks(*zip(*plot.x.labelled(4), strict=True))
        axes.set_yticks(*zip(*plot.y.labelled(), strict=True))
        axes.minorticks_off()
        axes.legend(frameon=False)
        # Without the time of drawing, so that the same report gives the same file.
        figure.savefig(file, metadata={"CreationDate" if file.suffix == ".pdf" else "Date": None})
        plt.close(figure)


def main(argv: list[str]) -> None:
    """Draws the figure that `argv` names.

    Raises:
      UserError: a mistake of the user.
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments.redraw", description="Draws the figure of an experiment again, for a paper."
    )
    parser.add_argument("name", choices=DRAWN, help="of the experiment")
    parser.add_argument("--report", type=directory, help="default: its report.json in experiments/results")
    parser.add_argument("--out", type=directory, required=True, help="file: .pdf or .svg")
    flags = parser.parse_args(argv)
    if flags.out.suffix not in (".pdf", ".svg"):
        raise UserError(f"--out={flags.out}: the file must end with .pdf or .svg")
    report = flags.report or record.RESULTS / flags.name / "report.json"
    plot = figure_of(flags.name, json.loads(report.read_text("utf-8"))).content
    draw(plot, flags.out)
    print(f"drawn: {flags.out}")


if __name__ == "__main__":
    command.run(main, "nothing was written")

"""The results of an experiment: experiments/results/<name>/ with report.json, table.md and its figures."""

from __future__ import annotations

import collections
import itertools
import pathlib
import platform
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gen_jax.figures.curve import Axis
from gen_jax.figures.markup import Html, element, number
from gen_jax.run import write_bytes, write_json

RESULTS = pathlib.Path(__file__).parent / "results"

_COLOURS = ("#1f6feb", "#d1242f", "#2da44e", "#bf8700", "#8250df", "#1b7c83", "#bf3989", "#57606a")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 400, 70, 50, 20  # pixels of a figure


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


class Line(NamedTuple):
    """Values `y` [K] at `x` [K], drawn as dots if they are measurements."""

    name: str
    x: np.ndarray
    y: np.ndarray
    dots: bool = False


def plot(lines: Sequence[Line], x_label: str, y_label: str, x_axis: Axis, y_axis: Axis) -> str:
    """Returns lines as a standalone SVG on white; points outside the axes are omitted.

    Args:
      lines: a dotted line has the colour of the line before it.
      x_label: below the plot.
      y_label: above the plot.
      x_axis: the visible range.
      y_axis: likewise.
    """
    right, bottom = _WIDTH - 20, _HEIGHT - _BOTTOM

    def across(values: Any) -> np.ndarray:
        return _LEFT + (right - _LEFT) * x_axis.place(values)

    def up(values: Any) -> np.ndarray:
        return bottom - (bottom - _TOP) * y_axis.place(values)

    grid = [element("line", x1=_LEFT, x2=right, y1=y, y2=y) for y in _rounded(up(y_axis.ticks()))]
    grid += [element("line", x1=x, x2=x, y1=_TOP, y2=bottom) for x in _rounded(across(x_axis.ticks()))]
    texts = [
        *(
            _text(_LEFT - 8, y + 4, number(tick), "end")
            for y, tick in zip(up(y_axis.ticks()), y_axis.ticks(), strict=True)
        ),
        *(_text(x, bottom + 18, number(tick)) for x, tick in zip(across(x_axis.ticks()), x_axis.ticks(), strict=True)),
        _text((_LEFT + right) / 2, _HEIGHT - 10, x_label),
        _text(_LEFT, _TOP - 7, y_label, "start"),
    ]
    drawn, legend, colour = [], [], -1
    for line in lines:
        colour += not (line.dots and drawn)
        inside = (line.x >= x_axis.low) & (line.x <= x_axis.high) & (line.y >= y_axis.low) & (line.y <= y_axis.high)
        places = [f"{x:.1f},{y:.1f}" for x, y in zip(across(line.x[inside]), up(line.y[inside]), strict=True)]
        paint = _COLOURS[colour % len(_COLOURS)]
        if line.dots:
            path = "".join(f"M{place}h0" for place in places)
            drawn.append(element("path", d=path, stroke=paint, stroke_width=4, stroke_linecap="round", fill="none"))
        else:
            path = "M" + "L".join(places)
            drawn.append(element("path", d=path, stroke=paint, stroke_width=1.5, fill="none"))
        legend.append(_text(right - 8, bottom - 12 - 18 * len(legend), line.name, "end", fill=paint))
    return element(
        "svg",
        element("rect", width=_WIDTH, height=_HEIGHT, fill="white"),
        element("g", *grid, stroke="#d8dee4"),
        element("g", *drawn),
        element("g", *texts, *legend, font_family="sans-serif", font_size=12, fill="#1f2328"),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        width=_WIDTH,
        height=_HEIGHT,
    )


class Panel(NamedTuple):
    """One metric of several models, one dot per seed.

    Attributes:
      title: the quality that it measures.
      measure: the metric, and which direction is better.
      values: of each model, by name.
      axis: the visible range.
      mark: a value for comparison, drawn as a dashed line.
    """

    title: str
    measure: str
    values: Mapping[str, Sequence[float]]
    axis: Axis
    mark: float | None = None


_NAMES, _PANEL, _GAP, _ROW, _HEAD, _FOOT = 180, 175, 24, 36, 44, 30  # pixels


def dots(panels: Sequence[Panel], images: Mapping[str, np.ndarray], which: str, marks: str) -> str:
    """Returns panels side by side as a standalone SVG on white; a ring marks the mean of the dots.

    Args:
      panels: of the same models; the names of the first panel label the rows.
      images: uint8 [N, H, W, C] of each model, shown before its values.
      which: describes the images.
      marks: describes the panels' marks.
    """
    names = list(panels[0].values)
    side = _ROW - 8
    start = _NAMES + max(len(some) for some in images.values()) * (side + 1) + _GAP
    bottom = _HEAD + _ROW * len(names)
    drawn: list[Html] = []
    texts = [
        _text(_NAMES, 16, "Samples", "start", font_weight="bold"),
        _text(_NAMES, 33, which, "start"),
        _text(_NAMES, bottom + 16, f"dashed lines: {marks}", "start"),
    ]
    for row, name in enumerate(names):
        y = _HEAD + _ROW * row
        texts.append(_text(_NAMES - 12, y + _ROW / 2 + 4, name, "end"))
        drawn += [_pixels(image, _NAMES + (side + 1) * i, y + 4, side) for i, image in enumerate(images[name])]
    for number_of, panel in enumerate(panels):
        left, inner = start + _PANEL * number_of, _PANEL - _GAP
        texts.append(_text(left, 16, panel.title, "start", font_weight="bold"))
        texts.append(_text(left, 33, panel.measure, "start"))
        for tick in _ticks(panel.axis, inner):
            x = round(left + inner * float(panel.axis.place(tick)), 1)
            drawn.append(element("line", x1=x, x2=x, y1=_HEAD, y2=bottom, stroke="#d8dee4"))
            texts.append(_text(x, bottom + 16, number(tick)))
        if panel.mark is not None:
            x = round(left + inner * float(panel.axis.place(panel.mark)), 1)
            drawn.append(element("line", x1=x, x2=x, y1=_HEAD, y2=bottom, stroke="#1f2328", stroke_dasharray="4 3"))
        for row, name in enumerate(names):
            y, paint = _HEAD + _ROW * (row + 0.5), _COLOURS[row % len(_COLOURS)]
            values = np.asarray(panel.values[name], float)
            for x in _rounded(left + inner * panel.axis.place(values)):
                drawn.append(element("circle", cx=x, cy=y, r=3.5, fill=paint))
            x = _rounded(left + inner * panel.axis.place(values.mean(keepdims=True)))[0]
            drawn.append(element("circle", cx=x, cy=y, r=8, fill="none", stroke=paint, stroke_width=1.5))
    width, height = start + _PANEL * len(panels), bottom + _FOOT
    return element(
        "svg",
        element("rect", width=width, height=height, fill="white"),
        element("g", *drawn),
        element("g", *texts, font_family="sans-serif", font_size=11, fill="#1f2328"),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
    )


def _ticks(axis: Axis, width: float) -> list[float]:
    """Returns round values of the axis, at most as many as there is room for labels."""
    few = (axis.ticks(count) for count in range(5, 0, -1))
    return next((ticks for ticks in few if sum(8 + 6 * len(number(tick)) for tick in ticks) <= width), [])


def _pixels(image: np.ndarray, x: float, y: float, side: float) -> Html:
    """Returns an image, uint8 [H, W, C], as horizontal runs of one colour, with eight levels per channel.

    An SVG may contain a PNG, but many sites that show SVGs block it. The runs overlap, lighter over darker, on a
    background of the most common colour: without overlap they would show seams at most sizes.
    """
    height, width, _ = image.shape
    levels = np.broadcast_to(np.round(image / 255 * 7).astype(int), (height, width, 3))
    paths, counts = collections.defaultdict(str), collections.Counter()
    for down, row in enumerate(levels.tolist()):
        along = 0
        for colour, run in itertools.groupby(map(tuple, row)):
            length = len(list(run))
            paths[colour] += f"M{along} {down + 0.5}h{length}"
            counts[colour] += length
            along += length
    commonest = max(counts, key=counts.__getitem__)
    lines = [
        element("path", d=paths[colour], stroke=_colour(colour))
        for colour in sorted(paths, key=sum)
        if colour != commonest
    ]
    return element(
        "g",
        element("rect", width=width, height=height, fill=_colour(commonest)),
        *lines,
        transform=f"translate({x:g} {y:g}) scale({side / width:.4g} {side / height:.4g})",
        stroke_width=1.2,
    )


def _colour(levels: Sequence[int]) -> str:
    return "#" + bytes(level * 255 // 7 for level in levels).hex()


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 1) for value in values]


def _text(x: float, y: float, content: str, anchor: str = "middle", **attributes: Any) -> Html:
    return element("text", content, x=round(x, 1), y=round(y, 1), text_anchor=anchor, **attributes)

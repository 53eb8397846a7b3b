"""Figures as files of their own: curves and dots as SVG on white, drawn like those of the page.

A browser, a notebook and a code host show them. `curve` draws what is inside the axes, and plot.css colours it, with
the page's light colours; variables of the style sheet are filled in, as not every program that reads SVG knows them.
"""

from __future__ import annotations

import collections
import functools
import importlib.resources
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gen_jax.figures import curve, scatter
from gen_jax.figures.curve import Axis, Series
from gen_jax.figures.markup import Html, element

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 640, 400, 70, 30, 20, 50  # pixels of a plot and its margins
_LINE = 18  # pixels from one name to the next


class Plot(NamedTuple):
    """What `plot` draws: see there."""

    series: Sequence[Series]
    x_label: str
    y_label: str
    x: Axis
    y: Axis
    colours: Sequence[int]


class Svg(Html):
    """A whole SVG file; a notebook shows it.

    Attributes:
      content: what `plot` drew, for other programs that draw; other figures have none.
    """

    content: Plot

    def _repr_svg_(self) -> str:
        return str(self)


def plot(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    x_axis: Axis | None = None,
    y_axis: Axis | None = None,
    colours: Sequence[int] = (),
) -> Svg:
    """Returns curves and dots as a file; points outside the axes are omitted.

    Args:
      series: drawn in this order, and named in the lower right corner.
      x_label: below the plot.
      y_label: above the plot.
      x_axis: the visible range; by default that of the values.
      y_axis: likewise, on a log scale if the values span a large ratio.
      colours: of the series, see `curve.colour_class`; by default each has its own.

    Example:
      >>> line = Series("loss", np.array([0.0, 10.0]), np.array([2.0, 1.0]))
      >>> plot([line], "step", "nats")[:46]
      '<svg xmlns="http://www.w3.org/2000/svg" viewBo'
    """
    every = np.concatenate([one.steps for one in series])
    x = x_axis or Axis(float(every.min()), float(every.max()))
    y = y_axis or curve.value_axis(series)
    content = Plot([_inside(one, x, y) for one in series], x_label, y_label, x, y, colours or range(len(series)))
    drawn = curve.draw(content.series, x, y, content.colours)
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    inner = element(
        "svg",
        curve.area(drawn, x, y, x_label),
        element("text", y_label, x=0, y=0, dy=-12, class_="y-label"),
        *_names(series, content.colours, width - 8, height - 12),
        x=_LEFT,
        y=_TOP,
        width=width,
        height=height,
        class_="plot",
    )
    figure = _file(_WIDTH, _HEIGHT, element("style", Html(_style())), inner)
    figure.content = content
    return figure


def _names(series: Sequence[Series], colours: Sequence[int], right: float, bottom: float) -> list[Html]:
    """The names of series from the bottom up, each before a piece of its line or one of its dots."""
    shown = []
    for row, (one, colour) in enumerate(zip(series, colours, strict=True)):
        y, paint = bottom - _LINE * row, curve.colour_class(colour)
        shown.append(element("text", one.name, x=right - 32, y=y, class_=f"name {paint}"))
        kind, key = ("dots marks", f"M{right - 12},{y - 4}h0") if one.dots else ("line", f"M{right - 24},{y - 4}h24")
        shown.append(element("path", d=key, class_=f"{kind} {paint}"))
    return shown


def _inside(one: Series, x: Axis, y: Axis) -> Series:
    """A series without its points outside the axes."""
    seen = (one.steps >= x.low) & (one.steps <= x.high) & (one.values >= y.low) & (one.values <= y.high)
    low, high = (edge if edge is None else edge[seen] for edge in (one.low, one.high))
    return Series(one.name, one.steps[seen], one.values[seen], low, high, one.dots)


@functools.cache
def _colours() -> dict[str, str]:
    """The values of the page's style sheet on a light background, by name."""
    light = _sheet("page.css").partition("}")[0]
    return dict(re.findall(r"--([\w-]+): ([^;]+);", light))


@functools.cache
def _style() -> str:
    rules = re.sub(r"/\*.*?\*/\n", "", _sheet("plot.css"))  # comments may hold what XML would read as a tag
    return re.sub(r"var\(--([\w-]+)\)", lambda name: _colours()[name[1]], rules)


def _sheet(name: str) -> str:
    return importlib.resources.files("gen_jax.figures").joinpath(name).read_text("utf-8")


def _file(width: float, height: float, *content: Html) -> Svg:
    background = element("rect", width=width, height=height, fill="white")
    space = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}"}
    return Svg(element("svg", background, *content, **space, width=width, height=height))


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


def beside(panels: Sequence[Panel], images: Mapping[str, np.ndarray], which: str, marks: str) -> Svg:
    """Returns panels side by side as a standalone SVG on white; a ring marks the mean of the dots.

    Args:
      panels: of the same models; the names of the first panel label the rows.
      images: uint8 [N, H, W, C] of each model, shown before its values.
      which: describes the images.
      marks: describes the panels' marks, if there are any.
    """
    names, ink, rule = list(panels[0].values), _colours()["ink"], _colours()["rule"]
    side = _ROW - 8
    start = _NAMES + max(len(some) for some in images.values()) * (side + 1) + _GAP
    bottom = _HEAD + _ROW * len(names)
    drawn: list[Html] = []
    texts = [
        _text(_NAMES, 16, "Samples", "start", font_weight="bold"),
        _text(_NAMES, 33, which, "start"),
    ]
    if any(panel.mark is not None for panel in panels):
        texts.append(_text(_NAMES, bottom + 16, f"dashed lines: {marks}", "start"))
    for row, name in enumerate(names):
        y = _HEAD + _ROW * row
        texts.append(_text(_NAMES - 12, y + _ROW / 2 + 4, name, "end"))
        drawn += [_pixels(image, _NAMES + (side + 1) * i, y + 4, side) for i, image in enumerate(images[name])]
    for number_of, panel in enumerate(panels):
        left, inner = start + _PANEL * number_of, _PANEL - _GAP
        texts.append(_text(left, 16, panel.title, "start", font_weight="bold"))
        texts.append(_text(left, 33, panel.measure, "start"))
        for tick, label in _ticks(panel.axis, inner):
            x = round(left + inner * float(panel.axis.place(tick)), 1)
            drawn.append(element("line", x1=x, x2=x, y1=_HEAD, y2=bottom, stroke=rule))
            texts.append(_text(x, bottom + 16, label))
        if panel.mark is not None:
            x = round(left + inner * float(panel.axis.place(panel.mark)), 1)
            drawn.append(element("line", x1=x, x2=x, y1=_HEAD, y2=bottom, stroke=ink, stroke_dasharray="4 3"))
        for row, name in enumerate(names):
            y, paint = _HEAD + _ROW * (row + 0.5), scatter.COLOURS[row % len(scatter.COLOURS)][0]
            values = np.asarray(panel.values[name], float)
            for x in _rounded(left + inner * panel.axis.place(values)):
                drawn.append(element("circle", cx=x, cy=y, r=3.5, fill=paint))
            x = _rounded(left + inner * panel.axis.place(values.mean(keepdims=True)))[0]
            drawn.append(element("circle", cx=x, cy=y, r=8, fill="none", stroke=paint, stroke_width=1.5))
    width, height = start + _PANEL * len(panels), bottom + _FOOT
    words = element("g", *texts, font_family="sans-serif", font_size=11, fill=ink)
    return _file(width, height, element("g", *drawn), words)


def _ticks(axis: Axis, width: float) -> list[tuple[float, str]]:
    """Returns round values of the axis with labels, at most as many as there is room for."""
    few = (axis.labelled(count) for count in range(5, 0, -1))
    return next((ticks for ticks in few if sum(8 + 6 * len(label) for _, label in ticks) <= width), [])


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

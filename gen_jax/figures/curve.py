"""Curves as SVG: drawn in Python, coloured by a style sheet (plot.css), readable at any width.

`chart` is a figure of the page; svg.py makes files of the same `area`. The <svg> itself is the plotting area. Its
labels are in its margin, with positions in per cent, so that text keeps its size while the area takes the width of the
page. Lines are in a nested <svg> of 1000 x 1000 units that is stretched over the area.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gen_jax.figures.markup import Html, element, join, number

SIDE = 1000  # units of the plotting area, in both directions
MAX_POINTS = 400  # drawn per curve: more cannot be distinguished
_SMOOTHED_FROM = 30  # points; shorter curves are drawn as they are
_LOG_RATIO = 20.0  # a positive curve whose values span more than this is drawn on a log scale
_COLOURS, _DASHES = 5, 2  # classes in the style sheet

Floats = npt.NDArray[np.float64]


class Series(NamedTuple):
    """One curve: `values` f64 [K] at increasing `steps` f64 [K], and a band from `low` to `high`, f64 [K], if given.

    With `dots`, single points, in any order.
    """

    name: str
    steps: Floats
    values: Floats
    low: Floats | None = None
    high: Floats | None = None
    dots: bool = False


class Axis(NamedTuple):
    """A range of values, on a linear or logarithmic scale."""

    low: float
    high: float
    log: bool = False

    def place(self, values: npt.ArrayLike) -> Floats:
        """Returns the positions of values between `low` (0) and `high` (1).

        Example:
          >>> Axis(1.0, 100.0, log=True).place([1.0, 10.0]).tolist()
          [0.0, 0.5]
        """
        low, high, values = self.low, self.high, np.asarray(values, np.float64)
        if self.log:
            low, high, values = math.log(low), math.log(high), np.log(values)
        return (values - low) / (high - low)

    def ticks(self, count: int = 5) -> list[float]:
        """Returns about `count` round values in the range, with distances of 1, 2 or 5 times a power of ten.

        Example:
          >>> Axis(0.0, 3000.0).ticks(), Axis(0.008, 1.3, log=True).ticks()
          ([0.0, 1000.0, 2000.0, 3000.0], [0.01, 0.1, 1.0])
        """
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for factors in ((1, 2, 5), (1,)):
                values = [factor * 10.0**decade for decade in decades for factor in factors]
                values = [value for value in values if self.low <= value <= self.high]
                if len(values) <= count + 1:
                    return values
            return values[:: math.ceil(len(values) / count)]
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]

    def labelled(self, count: int = 5) -> list[tuple[float, str]]:
        """Returns the ticks with labels, which have as many digits as the distance between ticks needs, at least four.

        Example:
          >>> Axis(0.0, 1.0).labelled(2), [label for _, label in Axis(999.9, 1000.0).labelled(2)]
          ([(0.0, '0'), (0.5, '0.5'), (1.0, '1')], ['999.9', '999.95', '1,000'])
        """
        ticks = self.ticks(count)
        near = 0.01 * min((high - low for low, high in itertools.pairwise(ticks)), default=math.inf)
        enough = (n for n in range(4, 15) if all(abs(float(f"{tick:.{n}g}") - tick) <= near for tick in ticks))
        digits = next(enough, 15)
        return [(tick, number(tick, digits)) for tick in ticks]


def smooth(values: Floats, half: int) -> Floats:
    """Returns the mean over a window of `half` values on either side, which does not lag behind the curve.

    Near the start the window shrinks on both sides, so that a steep initial drop is preserved; near the end
    only its right side shrinks, so that the last value is a mean too.

    Example:
      >>> smooth(np.array([9.0, 3.0, 0.0, 3.0]), half=1).tolist()
      [9.0, 4.0, 2.0, 1.5]
    """
    index = np.arange(len(values))
    first, last = index - np.minimum(half, index), np.minimum(index + np.minimum(half, index), len(values) - 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[last + 1] - sums[first]) / (last + 1 - first)


def is_noisy(values: Floats) -> bool:
    """Returns whether more than a quarter of the values are turning points; for white noise it is two thirds.

    Example:
      >>> is_noisy(np.linspace(0.0, 1.0, 10)), is_noisy(np.array([0.0, 1.0, 0.2, 0.9, 0.1]))
      (False, True)
    """
    turns = np.diff(np.sign(np.diff(values))) != 0
    return bool(turns.mean() > 0.25)


def smoothed(values: Floats) -> tuple[Floats, int]:
    """Returns a long noisy curve as the mean over a window, and the points in it; others as they are, with 1."""
    if len(values) < _SMOOTHED_FROM or not is_noisy(values):
        return values, 1
    half = math.ceil(len(values) / 50)
    return smooth(values, half), 2 * half + 1


def mean_and_range(name: str, curves: Sequence[Series]) -> Series:
    """Returns the mean of curves with a band from the smallest to the largest, each of them smoothed if noisy.

    At steps that some curves do not have, these are interpolated; beyond their ends they do not count.

    Example:
      >>> ends = mean_and_range("both", [Series("", np.array([0.0, 2.0]), np.array([1.0, 3.0])),
      ...                                Series("", np.array([0.0, 1.0]), np.array([2.0, 4.0]))])
      >>> ends.steps.tolist(), ends.values.tolist(), ends.low.tolist(), ends.high.tolist()
      ([0.0, 1.0, 2.0], [1.5, 3.0, 3.0], [1.0, 2.0, 3.0], [2.0, 4.0, 3.0])
    """
    steps = np.unique(np.concatenate([one.steps for one in curves]))
    every = np.stack(
        [np.interp(steps, one.steps, smoothed(one.values)[0], left=np.nan, right=np.nan) for one in curves]
    )
    return Series(name, steps, np.nanmean(every, axis=0), np.nanmin(every, axis=0), np.nanmax(every, axis=0))


def value_axis(series: Sequence[Series]) -> Axis:
    """Returns the range of all values, on a log scale if they are positive and span a ratio above 20."""
    values = np.concatenate([part for one in series for part in (one.values, one.low, one.high) if part is not None])
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > _LOG_RATIO:
        margin = (high / low) ** 0.04
        return Axis(low / margin, high * margin, log=True)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    floor = 0.0 if 0 <= low < 0.3 * high else low - margin  # include zero if the range nearly reaches it
    return Axis(floor, high + margin)


def chart(series: Sequence[Series], title: str, colours: Sequence[int] = ()) -> Html:
    """Returns curves over the training step as one figure with axes, legend and read-out.

    Long noisy curves are drawn as points with a smoothed line on top, as noted in the legend; those with a band are
    drawn as they are. The read-out shows the unsmoothed values.

    Args:
      series: curves with at least one point each, all finite.
      title: of the figure: the quantity with its unit.
      colours: of the curves, see `colour_class`; by default in order.
    """
    last_step = max(float(one.steps[-1]) for one in series)
    x, y = Axis(0.0, max(last_step, 1.0)), value_axis(series)
    drawn = draw(series, x, y, colours)
    ends = "; ".join(
        f"{one.name} from {number(float(one.values[0]))} to {number(float(one.values[-1]))}" for one in series
    )
    plot = element(
        "svg",
        area(drawn, x, y, "step"),
        element("line", class_="cursor", y1=0, y2="100%", visibility="hidden"),
        class_="plot",
        role="img",
        tabindex=0,
        aria_label=f"Curve of {title} up to step {last_step:,.0f}: {ends}. Arrow keys read out values.",
        data_points=json.dumps([one.points for one in drawn]),
    )
    heading = join(title, element("small", " log scale") if y.log else None)
    return element(
        "figure",
        element("figcaption", element("strong", heading), element("ul", *(one.legend for one in drawn))),
        plot,
        element("output", class_="read-out", aria_live="polite"),
        class_="chart",
    )


class Drawn(NamedTuple):
    """A curve as parts of a figure: its paths, its line in the legend, and what the read-out shows."""

    paths: list[Html]
    legend: Html
    points: dict[str, Any]


def draw(series: Sequence[Series], x: Axis, y: Axis, colours: Sequence[int] = ()) -> list[Drawn]:
    """Returns curves as parts of a figure with these axes; for `colours` see `chart`."""
    numbered = zip(colours or range(len(series)), series, strict=True)
    return [_drawn(one, x, y, colour_class(number_of)) for number_of, one in numbered]


def area(drawn: Sequence[Drawn], x: Axis, y: Axis, x_label: str) -> Html:
    """Returns what is inside the <svg> of a plot: the ticks of both axes, and the curves in a stretched <svg>."""
    across = [element("text", label, x=_at(x, tick), y="100%", dy="1.5em") for tick, label in x.labelled(4)]
    x_name = element("text", x_label, x="100%", y="100%", dy="2.9em", class_="x-label")
    up = [
        (element("line", x1=0, x2="100%", y1=at, y2=at), element("text", label, x=-8, y=at, dy="0.32em"))
        for tick, label in y.labelled()
        for at in [percent(1 - float(y.place(tick)))]
    ]
    return join(
        element("g", *(part for pair in up for part in pair), class_="y-axis"),
        element("g", *across, x_name, class_="x-axis"),
        element(
            "svg",
            *(path for one in drawn for path in one.paths),
            viewBox=f"0 0 {SIDE} {SIDE}",
            preserveAspectRatio="none",
            width="100%",
            height="100%",
        ),
    )


def _at(axis: Axis, value: float) -> str:
    return percent(float(axis.place(value)))


def _drawn(one: Series, x: Axis, y: Axis, colour: str) -> Drawn:
    shown = thinned(len(one.steps), len(one.steps) if one.dots else MAX_POINTS)
    across, up = x.place(one.steps), 1 - y.place(one.values)
    paths, note = [], ""
    if one.dots:
        paths.append(element("path", d=_dots(across, up), class_=f"dots marks {colour}"))
    elif one.low is not None and one.high is not None:
        edges = (1 - y.place(edge)[shown] for edge in (one.low, one.high))
        paths.append(element("path", d=_band(across[shown], *edges), class_=f"band {colour}"))
    elif smoothed(one.values)[1] > 1:
        paths.append(element("path", d=_dots(across[shown], up[shown]), class_=f"dots {colour}"))
        values, window = smoothed(one.values)
        up = 1 - y.place(values)
        note = f", line: mean over {window} points"
    if len(one.steps) == 1 and not one.dots:
        paths.append(element("path", d=_dots(across, up), class_=f"dots single {colour}"))
    if not one.dots:
        paths.append(element("path", d=_line(across[shown], up[shown]), class_=f"line {colour}"))
    points = {
        "name": one.name,
        "steps": one.steps[shown].tolist(),
        "places": across[shown].round(4).tolist(),
        "values": [_told(one, at) for at in shown],
    }
    return Drawn(paths, element("li", element("span", class_=f"key {colour}"), one.name, note), points)


def colour_class(index: int) -> str:
    """Returns the style classes of the colour of a curve; after some, the colours return with other dashes.

    Example:
      >>> colour_class(1), colour_class(6)
      ('series-1', 'series-1 dashes-1')
    """
    turn, colour = divmod(index, _COLOURS)
    return f"series-{colour} dashes-{(turn - 1) % _DASHES + 1}" if turn else f"series-{colour}"


def thinned(count: int, most: int) -> npt.NDArray[np.int64]:
    """Returns at most `most` evenly spaced positions of 0..count-1, including both ends.

    Example:
      >>> thinned(9, 3).tolist(), thinned(2, 3).tolist()
      ([0, 4, 8], [0, 1])
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def percent(share: float) -> str:
    """Returns a fraction of the plotting area as an SVG percentage."""
    return f"{100 * share:.2f}%"


def _told(one: Series, at: int) -> str:
    """The value of a point for the read-out."""
    value = number(float(one.values[at]))
    if one.low is None or one.high is None or one.low[at] == one.high[at]:
        return value
    return f"{value} ({number(float(one.low[at]), 3)} to {number(float(one.high[at]), 3)})"


def _band(across: Floats, below: Floats, above: Floats) -> str:
    """The area between two curves."""
    return f"{_line(across, below)}L{_line(across[::-1], above[::-1])[1:]}Z"


def _line(across: Floats, up: Floats) -> str:
    return "M" + "L".join(f"{SIDE * a:.1f},{SIDE * b:.1f}" for a, b in zip(across, up, strict=True))


def _dots(across: Floats, up: Floats) -> str:
    """A path of dots: a line of zero length with round ends stays round if the area is stretched."""
    return "".join(f"M{SIDE * a:.1f},{SIDE * b:.1f}h0" for a, b in zip(across, up, strict=True))

"""Points in the plane: as inline SVG for the page, as pixels for a GIF, and as a density if there are many.

The plot is a square with equal scales in both directions, so that circles look like circles. Points are lines of zero
length with round ends: their size does not depend on that of the plot, and a thousand of them are one element.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gen_jax.figures.curve import SIDE, Axis, percent, thinned
from gen_jax.figures.grid import Images
from gen_jax.figures.markup import Html, element
from gen_jax.method import Scatter, counted

if TYPE_CHECKING:
    import PIL.ImageDraw

# One per class: on a light and on a dark background.
COLOURS = (
    ("#17647e", "#7cc4da"),
    ("#c0561c", "#f0a070"),
    ("#6a4fa3", "#b8a0ea"),
    ("#4b7a2c", "#a3cf7f"),
    ("#a8324e", "#ee8fa3"),
    ("#8a6d00", "#e2c65a"),
    ("#2f5fc4", "#8fb2ff"),
    ("#0f8f74", "#5fd9bd"),
    ("#a83fa3", "#f09fe8"),
    ("#5d6470", "#c3c9d2"),
)
_GREY = "#c9c6c0"  # of the background in a GIF
_INK = "#1d1f23"
MAX_POINTS = 2500  # drawn in a frame
_MAX_IN_PAGE = 30_000  # points of all frames
_ROUNDS = 4  # classes are drawn alternately, so that the last one does not hide the others
_MARGIN = 0.06  # of the plot's half width
_QUANTILE = 0.005  # share of points at either end outside the typical range, if there is no background
_FAR = 1.5  # times the half width of the typical range: points beyond it do not enlarge the plot

Floats = npt.NDArray[np.float64]


def style() -> str:
    """Returns the style sheet rules for the colours of the classes."""
    light = "".join(f".class-{i}{{color:{colour}}}" for i, (colour, _) in enumerate(COLOURS))
    dark = "".join(f".class-{i}{{color:{colour}}}" for i, (_, colour) in enumerate(COLOURS))
    return f"{light}@media (prefers-color-scheme: dark){{{dark}}}"


def frames_of(one: Scatter) -> Floats:
    """Returns the points as f64 [F, N, 2], with one frame if there is no animation."""
    points = np.asarray(one.points, np.float64)
    return points if points.ndim == 3 else points[None]


def window(one: Scatter) -> tuple[Axis, Axis]:
    """Returns the ranges of both axes, of equal length: they include the background, the circles and nearly all points.

    They ignore a few points far from the others, or all points of a model that diverged from the background data.

    Example:
      >>> across, up = window(Scatter(np.array([[-1.0, 0.0], [1.0, 1.0]]), None, None, "t"))
      >>> [round(end, 2) for axis in (across, up) for end in (axis.low, axis.high)]
      [-1.06, 1.06, -0.56, 1.56]
    """
    points = _finite(frames_of(one).reshape(-1, 2))
    behind = points[:0] if one.background is None else _finite(np.asarray(one.background, np.float64))
    corners = [np.array([(-r, -r), (r, r)]) for r in one.circles]
    boxes = [np.stack([each.min(axis=0), each.max(axis=0)]) for each in (behind, *corners) if len(each)]
    if len(points):
        usual = boxes[0] if len(behind) else np.quantile(points, [_QUANTILE, 1 - _QUANTILE], axis=0)
        middle, reach = usual.mean(axis=0), _FAR * (max(np.ptp(usual, axis=0) / 2) or 1.0)
        boxes.append(np.clip([points.min(axis=0), points.max(axis=0)], middle - reach, middle + reach))
    every = np.concatenate(boxes) if boxes else np.array([[-1.0, -1.0], [1.0, 1.0]])
    low, high = every.min(axis=0), every.max(axis=0)
    half = (1 + _MARGIN) * (float(max(high - low)) / 2 or 1.0)
    across, up = (Axis(float(middle) - half, float(middle) + half) for middle in (low + high) / 2)
    return across, up


def plot(one: Scatter) -> Html:
    """Returns the square plot with axes and legend; the last frame of an animation is visible.

    Each frame is a <g class="frame">; the page's script shows one after the other.
    """
    frames, axes = frames_of(one), window(one)
    shown = thinned(frames.shape[1], min(MAX_POINTS, max(_MAX_IN_PAGE // len(frames), 100)))
    classes = np.zeros(len(shown), int) if one.classes is None else np.asarray(one.classes)[shown]
    layers = [
        element("g", *_marks(frame[shown], classes, axes), class_="frame", display=None if last else "none")
        for frame, last in zip(frames, [False] * (len(frames) - 1) + [True], strict=True)
    ]
    behind = []
    if one.background is not None:
        points = _inside(np.asarray(one.background, np.float64)[: 2 * MAX_POINTS], axes)
        behind.append(element("path", d=_dots(points, axes), class_="background"))
    for radius in one.circles:
        cx, cy = _place(np.zeros((1, 2)), axes)[0]
        r = SIDE * radius / (axes[0].high - axes[0].low)
        behind.append(element("circle", cx=f"{SIDE * cx:.1f}", cy=f"{SIDE * cy:.1f}", r=f"{r:.1f}"))
    right = [
        element("text", label, x=percent(float(axes[0].place(tick))), y="100%", dy="1.5em")
        for tick, label in axes[0].labelled()
    ]
    upwards = [
        element("text", label, x=-8, y=percent(1 - float(axes[1].place(tick))), dy="0.32em")
        for tick, label in axes[1].labelled()
    ]
    described = f"{one.title}: {frames.shape[1]:,} points" + (
        "" if one.classes is None else f" in {counted(len(one.names), 'class', 'classes')}"
    )
    return element(
        "svg",
        element("rect", width="100%", height="100%"),
        element("g", *upwards, class_="y-axis"),
        element("g", *right, class_="x-axis"),
        element("text", one.axes[0], x="100%", y="100%", dy="2.9em", class_="x-label"),
        element("text", one.axes[1], x=0, y=0, dy="-0.75em", class_="y-label"),
        element("svg", *behind, *layers, viewBox=f"0 0 {SIDE} {SIDE}", width="100%", height="100%"),
        class_="plot square",
        role="img",
        aria_label=described,
    )


def legend(one: Scatter) -> Html | None:
    """Returns the names of the classes and of the background with their colours, or None if there are none."""
    rows = [
        element("li", element("span", class_=f"point class-{i % len(COLOURS)}"), name)
        for i, name in enumerate(one.names)
    ]
    if one.background is not None and one.background_name:
        rows.append(element("li", element("span", class_="point background"), one.background_name))
    return element("ul", *rows, class_="legend") if rows else None


def left_out(one: Scatter) -> str:
    """Returns a sentence on points that the plot does not show, or "" if it shows all of them.

    Example:
      >>> points = np.array([[0.0, 0.0]] * 999 + [[np.nan, 0.0]])
      >>> left_out(Scatter(points, None, None, "t"))
      'Of 1,000 points 1 is not finite.'
    """
    points = frames_of(one).reshape(-1, 2)
    broken = len(points) - len(_finite(points))
    outside = len(_finite(points)) - len(_inside(points, window(one)))
    told = [f"{count:,} {'is' if count == 1 else 'are'} {what}"
            for count, what in ((outside, "outside of the plot"), (broken, "not finite")) if count]  # fmt: skip
    return f"Of {len(points):,} points {' and '.join(told)}." if told else ""


def rasterise(one: Scatter, side: int = 320) -> Images:
    """Returns the frames as pixels on a white background, uint8 [F, side, side, 3], for a GIF or a video."""
    import PIL.Image
    import PIL.ImageDraw

    frames, axes, scale = frames_of(one), window(one), 3  # drawn larger: edges become smooth
    size, radius = scale * side, 1.6 * scale
    paper = PIL.Image.new("RGB", (size, size), "white")
    draw = PIL.ImageDraw.Draw(paper)
    if one.background is not None:
        behind = _place(np.asarray(one.background, np.float64), axes) * size
        _stamp(draw, behind, [_GREY] * len(behind), radius)
    for r in one.circles:
        (left, top), (right, bottom) = _place(np.array([[-r, r], [r, -r]]), axes) * size
        draw.ellipse([left, top, right, bottom], outline=_INK, width=scale)
    classes = np.zeros(frames.shape[1], int) if one.classes is None else np.asarray(one.classes)
    colours = [COLOURS[c % len(COLOURS)][0] for c in classes]
    drawn = []
    for points in frames:
        image = paper.copy()
        _stamp(PIL.ImageDraw.Draw(image), _place(points, axes) * size, colours, radius)
        drawn.append(np.asarray(image.resize((side, side), PIL.Image.Resampling.BOX)))
    return np.stack(drawn)


def density(points: npt.NDArray[np.floating], value_range: tuple[float, float], side: int = 256) -> Images:
    """Returns the density of points in a square, white on black, uint8 [side, side, 1]: x to the right, y upwards.

    A pixel with one point has half the maximum brightness, and each further point halves the remaining difference.

    Args:
      points: [N, 2] or [N, 1, 1, 2]. Points outside the range, or not finite, are not shown.
      value_range: of both axes.
      side: pixels.

    Example:
      >>> points = np.array([[0.1, 0.1], [0.1, 0.2], [1.9, 1.1], [7.0, 0.0]])
      >>> density(points, (0.0, 2.0), side=2)[..., 0].tolist()
      [[0, 128], [191, 0]]
    """
    points = points.reshape(-1, 2)
    across, up = points[np.isfinite(points).all(axis=1)].T
    count, _, _ = np.histogram2d(up, across, bins=side, range=[value_range, value_range])
    return np.rint(255 * (1 - 0.5 ** count[::-1, :, None])).astype(np.uint8)


def _marks(points: Floats, classes: npt.NDArray[np.int64], axes: tuple[Axis, Axis]) -> list[Html]:
    """The points of a frame: one path per class and round."""
    rounds = np.arange(len(points)) % _ROUNDS
    marks = []
    for turn in range(_ROUNDS):
        for c in np.unique(classes):
            some = _inside(points[(rounds == turn) & (classes == c)], axes)
            if len(some):
                marks.append(element("path", d=_dots(some, axes), class_=f"class-{c % len(COLOURS)}"))
    return marks


def _stamp(draw: PIL.ImageDraw.ImageDraw, places: Floats, colours: Sequence[str], radius: float) -> None:
    """Draws a disk at each place, in pixels; places that are not finite are skipped."""
    for (x, y), colour in zip(places, colours, strict=True):
        if np.isfinite(x + y):
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)


def _place(points: Floats, axes: tuple[Axis, Axis]) -> Floats:
    """The positions of points in the square, from the top left, as fractions of its side: [N, 2]."""
    return np.stack([axes[0].place(points[:, 0]), 1 - axes[1].place(points[:, 1])], axis=1)


def _dots(points: Floats, axes: tuple[Axis, Axis]) -> str:
    return "".join(f"M{x:.0f},{y:.0f}h0" for x, y in SIDE * _place(points, axes))


def _finite(points: Floats) -> Floats:
    return points[np.isfinite(points).all(axis=1)]


def _inside(points: Floats, axes: tuple[Axis, Axis]) -> Floats:
    """The finite points that the plot shows."""
    points = _finite(points)
    low, high = [axis.low for axis in axes], [axis.high for axis in axes]
    return points[((points >= low) & (points <= high)).all(axis=1)]

"""The page and its parts: one HTML file that needs no network, no server and no other file.

The Content-Security-Policy of the page allows this style sheet and this script by their hashes, pictures
inside the page, and nothing else: no inline style, no request. The page is readable without JavaScript;
the script adds the slider, the read-out of curves and the copy button.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
from collections.abc import Iterable, Sequence

import numpy as np

from gen_jax.figures import animation
from gen_jax.figures import scatter as scatters
from gen_jax.figures.grid import Images, grid, png_bytes
from gen_jax.figures.markup import Html, element, join
from gen_jax.method import Figure, Scatter

_MAX_ANIMATION = 700_000  # approximate bytes of one animation as PNG: a page should be small enough to mail
_LARGE = 300  # pixels
_NARROW = 100  # pixels, of a sheet of a few small images: at full width each pixel would be a tile
_FEW_COLOURS = {1: 16, 3: 256}  # by channels, of an animation that is too large with all its colours
_MAX_COLUMNS = 16  # of labelled pictures with fixed columns; the style sheet has a rule for each


def document(title: str, *body: Html) -> str:
    """Returns the whole page, with the style sheet and the script inside."""
    folder = importlib.resources.files("gen_jax.figures")
    columns = "".join(f".columns-{n}{{--columns:{n}}}" for n in range(1, _MAX_COLUMNS + 1))
    style = "".join(folder.joinpath(name).read_text("utf-8") for name in ("page.css", "plot.css"))
    style += columns + scatters.style()
    script = folder.joinpath("page.js").read_text("utf-8")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("link", rel="icon", href="data:,"),
        element("style", Html(style)),
    )
    return "<!doctype html>\n" + element(
        "html", head, element("body", *body, element("script", Html(script))), lang="en"
    )


def section(name: str, heading: str, *children: object) -> Html:
    """Returns a part of the page with its heading; `name` is its anchor."""
    return element("section", element("h2", heading), *children, id=name, aria_label=heading)


def image(pixels: Images, alt: str, class_: str = "", colours: int = 0) -> Html:
    """Returns `pixels` uint8 [H, W, C] as an <img> with an inline PNG of at most `colours` colours (0: all)."""
    source = "data:image/png;base64," + base64.b64encode(png_bytes(pixels, colours=colours)).decode()
    height, width = pixels.shape[:2]
    classes = f"{class_} {_large(width)}".strip()
    return element("img", src=source, alt=alt, width=width, height=height, class_=classes or None)


def labelled(images: Images, labels: Sequence[str], alt: str, columns: int = 0) -> Html:
    """Returns images uint8 [N, H, W, C], each with its label below; they wrap if `columns` is 0."""
    labels = labels or [""] * len(images)
    cells = (
        element(
            "li",
            image(pixels, f"{alt}, {index + 1} of {len(images)}{': ' + label if label else ''}"),
            element("span", label) if label else None,
        )
        for index, (pixels, label) in enumerate(zip(images, labels, strict=True))
    )
    return element("ul", *cells, class_=f"cells columns-{columns}" if 0 < columns <= _MAX_COLUMNS else "cells")


def player(images: Images, labels: Sequence[str], alt: str, columns: int = 0) -> Html:
    """Returns an animation uint8 [F, N, H, W, C] with slider and button; without script, its frames as a sheet.

    Args:
      images: all frames; if they are too large for a page, the animation has fewer colours, and then fewer images or
        frames, with a note.
      labels: one per frame, or ().
      alt: a description of the animation.
      columns: images per row of a frame; 0 makes frames square, and allows images to be dropped.
    """
    if columns:
        images, columns = animation.draw_frames(images, columns)[:, None], 0
    shown, colours = images, 0
    if len(png_bytes(_sheet(shown, columns))) > _MAX_ANIMATION:
        colours = _FEW_COLOURS[images.shape[-1]]
        if (size := len(png_bytes(_sheet(shown, columns), colours=colours))) > _MAX_ANIMATION:
            shown = animation.thin(images, images.size * _MAX_ANIMATION // size)
    kept = np.linspace(0, len(images) - 1, len(shown)).round().astype(int)
    every = animation.names_of_frames(labels, len(images))
    names = [every[i] for i in kept]
    height, width = animation.draw_frames(shown[:1], columns).shape[1:3]
    sheet = {"columns": animation.sheet_columns(len(shown)), "width": width, "height": height, "labels": names}
    thinned = [
        f"{now} of {before} {what}"
        for now, before, what in zip(shown.shape, images.shape, ("frames", "images per frame"), strict=False)
        if now < before
    ] + ([f"{colours} {'shades' if images.shape[-1] == 1 else 'colours'}"] if colours else [])
    return element(
        "div",
        image(_sheet(shown, columns), f"{alt}: {len(shown)} frames, row by row", "pixels sheet", colours),
        element(
            "canvas", width=width, height=height, role="img", aria_label=alt, hidden=True, class_=_large(width) or None
        ),
        animation.controls(names, alt),
        element("p", "Shown here: ", ", ".join(thinned), ".", class_="note") if thinned else None,
        class_="player",
        data_sheet=json.dumps(sheet),
    )


def scatter(one: Scatter) -> Html:
    """Returns points in the plane with their legend, and with slider and button if they have frames."""
    names, moving = animation.names_of_frames(one.labels, len(scatters.frames_of(one))), np.ndim(one.points) == 3
    told = scatters.left_out(one)
    return element(
        "div",
        element("div", scatters.plot(one), scatters.legend(one), class_="scatter"),
        animation.controls(names, one.title) if moving else None,
        element("p", told, class_="note") if told else None,
        class_="player" if moving else None,
        data_frames=json.dumps({"labels": names}) if moving else None,
    )


def picture(one: Figure) -> Html:
    """Returns a method's picture, drawn according to its kind."""
    if isinstance(one, Scatter):
        return figure(scatter(one), one.title, one.caption)
    images = np.asarray(one.images)
    if one.kind == "animation":
        body = player(images, one.labels, one.title, one.columns)
    elif one.kind == "strip" or one.labels:
        body = labelled(images, one.labels, one.title, one.columns if one.kind == "grid" else 0)
    else:
        sheet = grid(images, one.columns)
        size = "wide" if sheet.shape[1] > _NARROW else "narrow"
        body = image(sheet, f"{one.title}: {len(images)} images", f"pixels {size}")
    return figure(body, one.title, one.caption)


def figure(body: Html, title: str, caption: str = "") -> Html:
    """Returns a figure of title, `body` and caption."""
    return element("figure", element("h3", title), body, element("figcaption", caption) if caption else None)


def table(header: Sequence[object], rows: Iterable[Sequence[object]], numeric: frozenset[int] = frozenset()) -> Html:
    """Returns a table that scrolls sideways if it is too wide; columns in `numeric` are right-aligned."""

    def cells(tag: str, row: Sequence[object], **attributes: object) -> Html:
        return element(
            "tr", *(element(tag, c, class_="number" if i in numeric else None, **attributes) for i, c in enumerate(row))
        )

    head = element("thead", cells("th", header, scope="col"))
    return element(
        "div", element("table", head, element("tbody", *(cells("td", row) for row in rows))), class_="scroll"
    )


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Returns a list of names with their values."""
    return element(
        "dl", *(element("div", element("dt", name), element("dd", value)) for name, value in pairs), class_="facts"
    )


def code(command: str) -> Html:
    """Returns a command with a button that copies it."""
    button = element("button", "Copy", type="button", class_="copy", hidden=True)
    return element("div", element("pre", element("code", command), tabindex=0), button, class_="command")


def details(summary: str, *children: object) -> Html:
    """Returns children in a collapsed block that opens on demand."""
    return element("details", element("summary", summary), *children)


def notice(lines: Sequence[str]) -> Html | None:
    """Returns a box with important notes, or None if there are none."""
    if not lines:
        return None
    return element(
        "aside", element("ul", *(element("li", line) for line in lines)), class_="notice", aria_label="Notes"
    )


def contents(sections: Iterable[tuple[str, str]]) -> Html:
    """Returns links to the parts of the page, from pairs of anchor and heading."""
    return element(
        "nav", *(join(element("a", head, href=f"#{name}"), " ") for name, head in sections), aria_label="Page"
    )


def _sheet(images: Images, columns: int) -> Images:
    """All frames of an animation [F, N, H, W, C] in one image."""
    return grid(animation.draw_frames(images, columns), animation.sheet_columns(len(images)), padding=0)


def _large(width: int) -> str:
    """The style class of large pictures, which are hardly enlarged: sharp pixels would get uneven widths."""
    return "large" if width >= _LARGE else ""


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()

"""Shares as horizontal bars, compared with those of real images; long names fit on a phone."""

from __future__ import annotations

from collections.abc import Sequence

from gen_jax.figures.markup import Html, element, number


def bars(names: Sequence[str], shares: Sequence[float], reference: Sequence[float] | None = None) -> Html:
    """Returns one row per class: name, bar and value; a line across the bar marks the share in the reference.

    Args:
      names: of the classes.
      shares: of each class, 0 to 1.
      reference: the shares among real images, or None if they are unknown.

    Raises:
      ValueError: the three have different lengths or are empty.
    """
    known = reference or [None] * len(names)
    if not names or not len(names) == len(shares) == len(known):
        raise ValueError(f"has {len(names)} names for {len(shares)} shares and {len(known)} references")
    top = max(*shares, *(reference or ()), 1e-9)
    return element("ul", *(_row(*row, top) for row in zip(names, shares, known, strict=True)), class_="bars")


def _row(name: str, share: float, real: float | None, top: float) -> Html:
    bar, mark = element("rect", width=_place(share / top), height="100%"), None
    if real is not None:
        at = _place(real / top)
        mark = element("line", x1=at, x2=at, y1=0, y2="100%")
    told = None if real is None else element("small", f" real {_told(real)}")
    return element(
        "li", element("span", name), element("svg", bar, mark, aria_hidden="true"), element("span", _told(share), told)
    )


def _place(share: float) -> str:
    return f"{100 * share:.2f}%"


def _told(share: float) -> str:
    return f"{number(100 * share, 2)}%"

"""HTML and SVG as strings with safe escaping: all text is escaped, except markup created here.

Only the functions of this module create `Html`; any other value (a data set's name, a label, a path)
is text and appears as text. There is no template language.
"""

from __future__ import annotations

import html
import math


class Html(str):
    """A string that is markup already, and is not escaped again."""

    __slots__ = ()


_VOID = frozenset({"img", "input", "link", "meta"})  # elements without a closing tag


def text(value: object) -> Html:
    """Returns `value` as markup: `Html` as it is, anything else as escaped text.

    Example:
      >>> text("<script>")
      '&lt;script&gt;'
    """
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(*children: object) -> Html:
    """Returns the concatenated children as markup; None is omitted."""
    return Html("".join(text(child) for child in children if child is not None))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """Returns one element of HTML or SVG.

    Args:
      tag: name of the element.
      *children: `Html` is used as it is, other values are escaped, None is omitted.
      **attributes: a trailing underscore is dropped (`class_`), others become hyphens (`aria_label`);
        True gives an attribute without a value, None and False give no attribute.

    Example:
      >>> element("p", "1 < 2", class_="note", data_step=3)
      '<p class="note" data-step="3">1 &lt; 2</p>'
    """
    opened = tag
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        opened += f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
    return Html(f"<{opened}>") if tag in _VOID else Html(f"<{opened}>{join(*children)}</{tag}>")


def number(value: float, digits: int = 4) -> str:
    """Returns a number in readable form, with thousands separators and `digits` significant digits.

    Example:
      >>> number(1234567), number(0.031249), number(0.00002), number(512.0)
      ('1,234,567', '0.03125', '2e-5', '512')
    """
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:,}"
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0 or 1e-4 <= abs(rounded) < 1e7:
        places = digits - 1 - math.floor(math.log10(abs(rounded))) if rounded else 0
        written = f"{rounded:,.{max(places, 0)}f}"
        return written.rstrip("0").rstrip(".") if "." in written else written
    mantissa, exponent = f"{rounded:.{digits - 1}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"

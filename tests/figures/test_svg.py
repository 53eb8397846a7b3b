"""Figures as files: values stand where their axes say, in colours that every reader of SVG knows."""

import re
import xml.etree.ElementTree as ET

import numpy as np

from gen_jax.figures import svg
from gen_jax.figures.curve import Axis, Series


def parts(root, name):
    return [each for each in root.iter() if each.tag.endswith(f"}}{name}")]


def test_a_plot_puts_values_where_their_axes_say():
    x = np.array([0.1, 1.0, 10.0, 1000.0])
    lines = [Series("a < b", x, np.array([1.0, 2.0, 3.0, 4.0])), Series("dots", x[:1], np.array([4.0]), dots=True)]
    root = ET.fromstring(svg.plot(lines, "steps", "loss", Axis(0.1, 10.0, log=True), Axis(0.0, 4.0)))
    # In units of a thousandth of the area, from its upper left; the fourth point lies outside.
    curves, names = ["M0.0,750.0L500.0,500.0L1000.0,250.0", "M0.0,0.0h0"], ["M518,304h24", "M530,286h0"]
    assert [each.get("d") for each in parts(root, "path")] == curves + names
    area = next(each for each in parts(root, "svg") if each.get("class") == "plot")
    assert [area.get(name) for name in ("x", "y", "width", "height")] == ["70", "30", "550", "320"]
    assert {"a < b", "dots", "steps", "loss", "0.1", "10"} <= {each.text for each in parts(root, "text")}


def test_axes_are_those_of_the_values_by_default():
    root = ET.fromstring(svg.plot([Series("", np.array([2.0, 4.0]), np.array([0.0, 10.0]))], "", ""))
    assert parts(root, "path")[0].get("d") == "M0.0,1000.0L1000.0,47.6"  # a margin of 5% above


def test_dots_share_the_colour_of_their_line_where_that_is_asked_for():
    both = [Series("line", np.arange(2.0), np.arange(2.0)), Series("dots", np.arange(2.0), np.arange(2.0), dots=True)]
    root = ET.fromstring(svg.plot(both, "", "", colours=(3, 3)))
    assert [each.get("class") for each in parts(root, "path")] == ["line series-3", "dots marks series-3"] * 2
    assert [each.get("class") for each in parts(root, "text")][-2:] == ["name series-3"] * 2


def test_a_file_has_no_variables_of_the_style_sheet_and_a_notebook_shows_it():
    figure = svg.plot([Series("", np.arange(2.0), np.arange(2.0))], "", "")
    assert "var(" not in figure
    assert re.search(r"\.series-0 { color: #17647e; }", figure)  # as in page.css
    assert figure._repr_svg_() == figure


def test_dots_stand_where_their_axes_say_beside_the_images_of_their_row():
    images = {"a": np.array([[[[255], [0]], [[0], [0]]]], np.uint8), "b": np.full((1, 1, 1, 3), (255, 36, 0), np.uint8)}
    panels = [
        svg.Panel("One", "more is better", {"a": [1.0, 3.0], "b": [2.0]}, Axis(0.0, 4.0), 4.0),
        svg.Panel("Two", "less is better", {"a": [1.0, 1.0], "b": [1.0]}, Axis(1.0, 100_000.0, log=True)),
    ]
    root = ET.fromstring(svg.beside(panels, images, "some", "real ones"))
    # An image takes 29 pixels after the names, 180, and a gap of 24; a panel is 151 wide, the next one begins at 175.
    circles = [(float(e.get("cx", "")), float(e.get("r", ""))) for e in root.iter() if e.tag.endswith("circle")]
    first = [(270.8, 3.5), (346.2, 3.5), (308.5, 8.0), (308.5, 3.5), (308.5, 8.0)]
    assert circles == [*first, *[(408.0, 3.5), (408.0, 3.5), (408.0, 8.0), (408.0, 3.5), (408.0, 8.0)]]
    paths = [(e.get("stroke"), e.get("d")) for e in root.iter() if e.tag.endswith("path")]
    assert paths == [("#ffffff", "M0 0.5h1")]
    backgrounds = [e.get("fill") for e in root.iter() if e.tag.endswith("rect")]
    assert backgrounds == ["white", "#000000", "#ff2400"]
    marks = [e.get("x1") for e in root.iter() if e.get("stroke-dasharray")]
    assert marks == ["384.0"]
    texts = [e.text for e in root.iter() if e.tag.endswith("text")]
    assert {"a", "b", "One", "Two", "more is better", "some", "dashed lines: real ones"} <= {*texts}
    # Six decades have no room for their labels.
    assert {"1", "100", "10,000"} <= {*texts}
    assert "100,000" not in texts
    bare = ET.fromstring(svg.beside([panel._replace(mark=None) for panel in panels], images, "some", "real ones"))
    assert not any("dashed" in (e.text or "") for e in bare.iter())  # nothing is marked, so nothing is told

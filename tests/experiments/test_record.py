import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from experiments import record
from gen_jax.figures.curve import Axis


def test_a_report_has_its_tables_and_the_text_its_verdict(tmp_path, capsys: pytest.CaptureFixture[str]):
    rows = [{"loss": "hinge", "modes": 25.0}, {"loss": "minimax", "modes": float("nan")}]
    report = {"command": "python -m experiments.x", "verdict": "Hinge wins.", "seeds": 5}
    record.write(tmp_path / "x", report, {"Modes": rows})
    stored = json.loads((tmp_path / "x" / "report.json").read_text())
    assert stored["seeds"] == 5
    assert stored["tables"]["Modes"] == [{"loss": "hinge", "modes": 25.0}, {"loss": "minimax", "modes": None}]
    text = (tmp_path / "x" / "table.md").read_text()
    assert text.splitlines()[0] == "Hinge wins."
    assert "| hinge | 25 |" in text
    assert capsys.readouterr().out == text


def test_a_plot_puts_values_where_their_axes_say():
    x = np.array([0.1, 1.0, 10.0, 1000.0])
    lines = [record.Line("a < b", x, np.array([1.0, 2.0, 3.0, 4.0])), record.Line("dots", x[:1], np.array([4.0]), True)]
    svg = ET.fromstring(record.plot(lines, "steps", "loss", Axis(0.1, 10.0, log=True), Axis(0.0, 4.0)))
    paths = [each.get("d") for each in svg.iter() if each.tag.endswith("path")]
    # The area reaches from (70, 350) at the lower left to (620, 20); the fourth point lies outside.
    assert paths == ["M70.0,267.5L345.0,185.0L620.0,102.5", "M70.0,20.0h0"]
    texts = [each.text for each in svg.iter() if each.tag.endswith("text")]
    assert {"a < b", "dots", "steps", "loss", "0.1", "10"} <= {*texts}


def test_dots_stand_where_their_axes_say_beside_the_images_of_their_row():
    images = {"a": np.array([[[[255], [0]], [[0], [0]]]], np.uint8), "b": np.full((1, 1, 1, 3), (255, 36, 0), np.uint8)}
    panels = [
        record.Panel("One", "more is better", {"a": [1.0, 3.0], "b": [2.0]}, Axis(0.0, 4.0), 4.0),
        record.Panel("Two", "less is better", {"a": [1.0, 1.0], "b": [1.0]}, Axis(1.0, 100_000.0, log=True)),
    ]
    svg = ET.fromstring(record.dots(panels, images, "some", "real ones"))
    # An image takes 29 pixels after the names, 180, and a gap of 24; a panel is 151 wide, the next one begins at 175.
    circles = [(float(e.get("cx", "")), float(e.get("r", ""))) for e in svg.iter() if e.tag.endswith("circle")]
    first = [(270.8, 3.5), (346.2, 3.5), (308.5, 8.0), (308.5, 3.5), (308.5, 8.0)]
    assert circles == [*first, *[(408.0, 3.5), (408.0, 3.5), (408.0, 8.0), (408.0, 3.5), (408.0, 8.0)]]
    paths = [(e.get("stroke"), e.get("d")) for e in svg.iter() if e.tag.endswith("path")]
    assert paths == [("#ffffff", "M0 0.5h1")]
    backgrounds = [e.get("fill") for e in svg.iter() if e.tag.endswith("rect")]
    assert backgrounds == ["white", "#000000", "#ff2400"]
    marks = [e.get("x1") for e in svg.iter() if e.get("stroke-dasharray")]
    assert marks == ["384.0"]
    texts = [e.text for e in svg.iter() if e.tag.endswith("text")]
    assert {"a", "b", "One", "Two", "more is better", "some", "dashed lines: real ones"} <= {*texts}
    # Six decades have no room for their labels.
    assert {"1", "100", "10,000"} <= {*texts}
    assert "100,000" not in texts

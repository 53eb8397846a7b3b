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

import json

import pytest

from experiments import record


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

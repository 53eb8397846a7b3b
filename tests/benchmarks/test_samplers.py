"""The table of samplers: every one is measured, with as many network calls as it makes."""

import pytest

from benchmarks import samplers


@pytest.mark.slow
def test_every_sampler_and_guidance_has_a_row(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["samplers", "--small", "--rounds=1"])
    samplers.main()
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in lines if line.startswith("|")}
    assert {f"{name}, 3 steps" for name in samplers.SAMPLERS} <= rows.keys()
    assert int(rows["heun, 3 steps"][0]) == 5
    assert {"without guidance, 3 ancestral steps", "with guidance, 3 ancestral steps"} <= rows.keys()

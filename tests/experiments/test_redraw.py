import json
import pathlib
import re

import numpy as np
import pytest

from experiments import record, redraw
from gen_jax.figures.curve import Axis, Series
from gen_jax.figures.svg import Plot
from gen_jax.method import UserError


def test_a_figure_is_that_of_the_values_in_the_report():
    report = json.loads((record.RESULTS / "guidance/report.json").read_text())
    plot = redraw.figure_of("guidance", report).content
    recall = [report["values"][f"1, seed {seed}"]["recall"] for seed in (0, 1, 2)]
    assert plot.series[0].values[0] == pytest.approx(np.mean(recall))
    assert (plot.x_label, plot.y_label) == ("class agreement", "recall")


@pytest.mark.parametrize("name", redraw.DRAWN)
def test_every_stored_figure_is_drawn_again_as_it_is(name):
    """The committed file is what its report gives today."""
    report = json.loads((record.RESULTS / name / "report.json").read_text())
    assert redraw.figure_of(name, report) == (record.RESULTS / name / f"{name}.svg").read_text()


def test_text_stays_text_and_the_same_plot_gives_the_same_file(tmp_path: pathlib.Path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: it is in the extra `paper`")
    lines = [Series("ours", np.array([1.0, 10.0]), np.array([0.0, 1.0])), Series("theirs", *np.ones((2, 1)), dots=True)]
    plot = Plot(lines, "calls", "distance", Axis(1.0, 10.0, log=True), Axis(0.0, 1.0), range(2))
    files = [tmp_path / "a.svg", tmp_path / "b.svg", tmp_path / "c.pdf", tmp_path / "d.pdf"]
    for file in files:
        redraw.draw(plot, file)
    texts = {*re.findall(r"<text[^>]*>([^<]+)</text>", files[0].read_text())}
    assert {"ours", "theirs", "calls", "distance"} <= texts
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[2].read_bytes() == files[3].read_bytes()
    assert files[2].read_bytes().startswith(b"%PDF")


def test_a_file_of_another_kind_is_refused(tmp_path: pathlib.Path):
    with pytest.raises(UserError, match="must end with .pdf or .svg"):
        redraw.main(["guidance", f"--out={tmp_path / 'figure.png'}"])

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from gen_jax.figures.curve import MAX_POINTS, Axis, Series, chart, mean_and_range, smooth, value_axis


def series(values, steps=None, name="train/loss"):
    return Series(
        name, np.arange(1.0, len(values) + 1) if steps is None else np.array(steps, float), np.array(values, float)
    )


def draw(*curves, title="loss"):
    """The chart as a tree: it is well-formed XML."""
    return ElementTree.fromstring(chart(curves, title))


def paths(tree, name):
    return [path.get("d") for path in tree.iter("path") if name in path.get("class")]


def test_coordinates_of_a_known_curve():
    # x from 0 to 10; y from 0 (the smallest value nearly reaches zero) to 10 + 5% of the range = 10.5.
    [path] = paths(draw(series([0.0, 10.0, 5.0], steps=[0, 5, 10])), "line")
    assert path == "M0.0,1000.0L500.0,47.6L1000.0,523.8"


def test_a_log_scale_gives_equal_ratios_equal_lengths():
    [path] = paths(draw(series([100.0, 1.0, 0.01], steps=[0, 1, 2])), "line")
    up = [float(point.split(",")[1]) for point in re.split("[ML]", path)[1:]]
    assert up[1] == pytest.approx(500, abs=0.1)
    assert up[0] + up[2] == pytest.approx(1000, abs=0.1)


@pytest.mark.parametrize(
    ("values", "log"), [([1, 30], True), ([1, 19], False), ([0, 1000], False), ([-1, 1000], False)]
)
def test_the_scale_is_logarithmic_where_positive_values_span_a_large_ratio(values, log):
    assert value_axis([series(values)]).log is log


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [-2.0, -2.0], [1e-12, 1.0], [5.0, 5.0 + 1e-9]])
def test_every_value_lies_inside_and_ticks_do_too(values):
    axis = value_axis([series(values)])
    assert ((axis.place(values) >= 0) & (axis.place(values) <= 1)).all()
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 7
    assert ((axis.place(ticks) > -1e-6) & (axis.place(ticks) < 1 + 1e-6)).all()


def test_ticks_are_round():
    assert Axis(0.0, 1.05).ticks() == pytest.approx([0, 0.5, 1.0])
    assert Axis(-3.0, 12.0).ticks() == pytest.approx([0, 5, 10])
    assert Axis(0.02, 1.2, log=True).ticks() == pytest.approx([0.02, 0.05, 0.1, 0.2, 0.5, 1])
    assert Axis(1e-6, 1e6, log=True).ticks() == pytest.approx([1e-6, 1e-3, 1, 1e3, 1e6])


def test_smoothing_keeps_lines_straight_and_equals_brute_force():
    values = np.random.default_rng(0).normal(size=20)
    windows = [values[i - min(3, i) : i + min(3, i) + 1] for i in range(20)]
    np.testing.assert_allclose(smooth(values, 3), [window.mean() for window in windows], rtol=1e-12)
    np.testing.assert_allclose(smooth(np.arange(20.0), 3)[:17], np.arange(17.0))


def test_only_noise_is_smoothed():
    warm_up = np.minimum(np.arange(100) / 20, 1)
    assert paths(draw(series(warm_up)), "dots") == []
    assert len(paths(draw(series(np.random.default_rng(0).normal(size=100))), "dots")) == 1


def test_long_curves_are_thinned_but_keep_their_ends():
    tree = draw(series(np.random.default_rng(0).normal(size=5000)))
    [line], [dots] = paths(tree, "line"), paths(tree, "dots")
    assert line.count(",") == dots.count(",") == MAX_POINTS
    assert [dots.split("M")[i].split(",")[0] for i in (1, -1)] == ["0.2", "1000.0"]


def test_read_out_holds_the_values_themselves():
    tree = draw(series(np.r_[np.ones(40), 7.0]), series([2.0], steps=[41], name="eval/loss"))
    [plot] = [element for element in tree.iter("svg") if element.get("data-points")]
    train, evaluation = json.loads(plot.get("data-points"))
    assert (train["name"], train["steps"][-1], train["places"][-1], train["values"][-1]) == ("train/loss", 41, 1, "7")
    assert evaluation["values"] == ["2"]


def test_names_are_escaped():
    assert "<script>" not in chart([series([1.0], name="<script>")], "<script>")


def test_a_band_is_the_area_between_its_edges_and_its_curve_is_not_smoothed():
    steps, noise = np.arange(100.0), np.random.default_rng(0).normal(size=100)
    tree = draw(Series("mean", steps, noise, noise - 1, noise + 1))
    assert paths(tree, "dots") == []
    [band] = paths(tree, "band")
    assert band.count(",") == 200
    # y from -5% of the range to 105% of it, x from 0 to 10: the corners of a band between 0 and 10.
    tree = draw(Series("mean", np.array([0.0, 10.0]), np.full(2, 5.0), np.zeros(2), np.full(2, 10.0)))
    assert paths(tree, "band") == ["M0.0,1000.0L1000.0,1000.0L1000.0,47.6L0.0,47.6Z"]


def test_the_read_out_of_a_band_has_its_ends():
    ends = Series("mean", np.array([1.0, 2.0]), np.array([2.0, 3.0]), np.array([1.0, 3.0]), np.array([4.0, 3.0]))
    [points] = [json.loads(node.get("data-points")) for node in draw(ends).iter("svg") if node.get("data-points")]
    assert points[0]["values"] == ["2 (1 to 4)", "3"]


def test_mean_and_range_are_those_of_smoothed_curves():
    steps = np.arange(60.0)
    noise = np.random.default_rng(0).normal(size=(3, 60))
    ours = mean_and_range("all", [Series("", steps, each) for each in noise])
    windows = [[each[i - min(2, i) : i + min(2, i) + 1].mean() for i in range(60)] for each in noise]  # 60 / 50, up
    np.testing.assert_allclose(ours.values, np.mean(windows, axis=0), rtol=1e-12)
    np.testing.assert_allclose(ours.low, np.min(windows, axis=0), rtol=1e-12)
    np.testing.assert_allclose(ours.high, np.max(windows, axis=0), rtol=1e-12)


def test_a_curve_keeps_its_colour_in_every_chart():
    tree = ElementTree.fromstring(chart([series([1.0, 2.0]), series([2.0, 3.0])], "loss", [3, 7]))
    assert [node.get("class") for node in tree.iter("path")] == ["line series-3", "line series-2 dashes-1"]


def test_labels_tell_close_ticks_apart():
    labels = [label for _, label in Axis(999.9, 1000.1).labelled(4)]
    assert labels == ["999.9", "999.95", "1,000", "1,000.05", "1,000.1"]

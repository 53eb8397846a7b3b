import re
from xml.etree import ElementTree

import jax
import numpy as np
import pytest

from gen_jax.figures import page, scatter
from gen_jax.method import Scatter

RANDOM = np.random.default_rng(0)
SQUARE = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)


def plot(one):
    """The plot as a tree: it is well-formed XML."""
    return ElementTree.fromstring(scatter.plot(one))


def places(tree, name):
    """Where the points of a class of elements lie, in thousandths of the square."""
    found = [path.get("d") for path in tree.iter("path") if path.get("class") == name]
    return sorted(tuple(map(int, pair)) for d in found for pair in re.findall(r"M(-?\d+),(-?\d+)h0", d))


def test_points_lie_where_their_coordinates_say():
    # From -1.06 to 1.06: 6% of the half width on either side; up is up.
    low, high = round(1000 * 0.06 / 2.12), round(1000 * 2.06 / 2.12)
    tree = plot(Scatter(SQUARE, np.array([0, 0, 1, 1]), None, "t", names=("a", "b")))
    assert places(tree, "class-0") == [(low, high), (high, high)]
    assert places(tree, "class-1") == [(low, low), (high, low)]


def test_a_circle_around_the_origin_goes_through_its_points():
    angle = np.linspace(0, 2 * np.pi, 50)
    one = Scatter(2 * np.stack([np.cos(angle), np.sin(angle)], -1) + 0.0, None, SQUARE, "t", circles=(2.0,))
    tree = plot(one)
    [circle] = tree.iter("circle")
    centre, radius = np.array([float(circle.get(name)) for name in ("cx", "cy")]), float(circle.get("r"))
    distances = np.linalg.norm(np.array(places(tree, "class-0")) - centre, axis=1)
    np.testing.assert_allclose(distances, radius, atol=1)
    assert len(places(tree, "background")) == 4


def test_only_the_last_frame_is_seen_and_all_frames_share_one_window():
    frames = np.stack([0.5 * SQUARE, SQUARE])
    tree = plot(Scatter(frames, None, None, "t", labels=("one", "two")))
    hidden = [group.get("display") for group in tree.iter("g") if group.get("class") == "frame"]
    assert hidden == ["none", None]
    across, up = scatter.window(Scatter(frames, None, None, "t"))
    assert (across.low, across.high) == (up.low, up.high) == pytest.approx((-1.06, 1.06))


def test_what_is_far_or_not_finite_is_left_out_and_counted():
    points = np.concatenate([RANDOM.normal(size=(1000, 2)), [[1e9, 0.0], [0.0, np.inf], [np.nan, 1.0]]])
    one = Scatter(points, None, None, "t")
    across, _ = scatter.window(one)
    assert across.high < 6
    assert scatter.left_out(one) == "Of 1,003 points 1 is outside of the plot and 2 are not finite."
    assert len(places(plot(one), "class-0")) == 1000
    assert scatter.left_out(Scatter(SQUARE, None, None, "t")) == ""


def test_a_model_that_diverged_does_not_hide_the_data():
    across, _ = scatter.window(Scatter(1000 * SQUARE, None, SQUARE, "t"))
    assert across.high < 2
    assert scatter.window(Scatter(np.full((3, 2), np.nan), None, None, "t"))[0].high > 0  # nothing to be seen at all


def test_a_page_holds_no_more_points_than_it_can():
    for shape in ((9000, 2), (50, 2000, 2)):
        drawn = places(plot(Scatter(RANDOM.normal(size=shape), None, None, "t")), "class-0")
        assert 2000 < len(drawn) <= 30_000
        assert len(drawn) <= scatter.MAX_POINTS * (shape[0] if len(shape) == 3 else 1)


def test_the_page_names_classes_background_and_frames():
    frames = np.stack([SQUARE] * 3)
    one = Scatter(frames, np.arange(4), SQUARE, "<t>", "<c>", ("<a>", "b", "c", "d"), ("<x>", "y"), "data",
                  labels=("<1>", "2", "3"))  # fmt: skip
    markup = page.picture(one)
    assert not re.findall("<(?:t|c|a|x|1)>", markup)
    assert re.findall(r"class-\d", markup) == [f"class-{c}" for c in range(4)] * 4  # three frames, and the legend
    assert ">data<" in markup
    assert 'class="player"' in markup
    assert 'class="player"' not in page.picture(Scatter(SQUARE, None, None, "t"))
    assert all(f".class-{c}{{color:" in page.document("t") for c in range(len(scatter.COLOURS)))


def test_pixels_show_the_same_as_the_plot():
    side = 106
    one = Scatter(np.stack([SQUARE, 0.0 * SQUARE]), np.array([0, 0, 1, 1]), None, "t")
    first, last = scatter.rasterise(one, side)
    colours = [tuple(int(light[i : i + 2], 16) for i in (1, 3, 5)) for light, _ in scatter.COLOURS]
    at = {"left": 3, "right": 103}  # pixels; -1 and 1 on the scale
    assert tuple(first[at["right"], at["left"]]) == colours[0]  # x = -1, y = -1: the lower left
    assert tuple(first[at["left"], at["right"]]) == colours[1]
    assert tuple(first[53, 53]) == (255, 255, 255)
    assert tuple(last[53, 53]) == colours[1]


def test_a_scatter_passes_through_jit():
    made = jax.jit(lambda x: Scatter(x, None, None, "t", names=("a",)))(SQUARE)
    np.testing.assert_array_equal(made.points, SQUARE)
    assert made.names == ("a",)


def test_a_point_lights_the_pixel_that_it_lies_in():
    # Four by four pixels over [-1, 1]: pixel (row, column) is [column, column + 1) / 2 - 1 by 1 - [row, row + 1) / 2.
    corners = np.array([[-1.0, -1.0], [0.99, 0.99], [0.0, 0.0], [-0.26, 0.6]])
    found = scatter.density(corners, (-1.0, 1.0), side=4)
    expected = np.zeros((4, 4), np.uint8)
    for row, column in ((3, 0), (0, 3), (1, 2), (0, 1)):
        expected[row, column] = 128
    np.testing.assert_array_equal(found[..., 0], expected)


def test_brightness_counts_points_and_what_lies_outside_is_not_shown():
    inside = np.repeat([[0.5, 0.5]], 3, axis=0)
    outside = np.array([[1.1, 0.5], [-0.01, 0.5], [np.nan, 0.5], [0.5, np.inf], [1e30, 0.0]])
    found = scatter.density(np.concatenate([inside, outside]), (0.0, 1.0), side=1)
    assert found.item() == round(255 * 7 / 8)
    assert scatter.density(outside, (0.0, 1.0), side=3).max() == 0

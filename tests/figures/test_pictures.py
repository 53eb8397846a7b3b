import json
import os

import numpy as np
import pytest
from test_run import files_of_at_most

from gen_jax.figures.animation import write_gif
from gen_jax.figures.grid import save_png
from gen_jax.figures.pictures import load_picture, save_picture
from gen_jax.method import Picture, Scatter, UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 1), np.uint8)


@pytest.mark.parametrize(
    "picture",
    [
        Picture(IMAGES, "a title", "a caption: ünïcode <b>", "grid", (), 3),
        Picture(IMAGES, "strip", kind="strip", labels=("t = 0", "t = 1", "t = 2")),
        Picture(IMAGES[:, None], "animation", kind="animation", labels=("a", "b", "c")),
    ],
)
def test_a_picture_comes_back_as_it_was(tmp_path, picture):
    path = tmp_path / "pictures" / "00_name.npz"
    save_picture(path, picture, "mnist")
    back = load_picture(path)
    np.testing.assert_array_equal(back.images, picture.images)
    assert back.images.dtype == np.uint8
    assert back.replace(images=None) == picture.replace(images=None)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_picture(path, Picture(IMAGES, "t"), "mnist"),
        lambda path: save_png(path, IMAGES[0]),
        lambda path: write_gif(path, IMAGES),
    ],
)
def test_a_figure_is_written_whole_or_not_at_all(tmp_path, write):
    path = tmp_path / "folder/figure"
    write(path)
    before = path.read_bytes()
    with files_of_at_most(10), pytest.raises(UserError, match=r"cannot write .*folder/figure: File too large"):
        write(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["figure"]
    with pytest.raises(UserError, match="cannot write .*: (Not a directory|File exists)"):
        write(path / "below")


POINTS = np.random.default_rng(0).normal(size=(2, 5, 2)).astype(np.float32)


@pytest.mark.parametrize(
    "one",
    [
        Scatter(POINTS[0], np.arange(5, dtype=np.int32), None, "t", "c", ("a", "b"), ("x", "y"), circles=(1.0, 2.0)),
        Scatter(POINTS, None, POINTS[1], "t", background_name="data", labels=("one", "two")),
    ],
)
def test_a_scatter_comes_back_as_it_was(tmp_path, one):
    save_picture(tmp_path / "a.npz", one, "mnist")
    back = load_picture(tmp_path / "a.npz")
    for name in ("points", "classes", "background"):
        np.testing.assert_array_equal(getattr(back, name), getattr(one, name))
    arrays = {"points": None, "classes": None, "background": None}
    assert back.replace(**arrays) == one.replace(**arrays)


@pytest.mark.parametrize(
    "changes",
    [
        {"points": POINTS[..., :1]},
        {"points": POINTS.astype(int)},
        {"points": POINTS[None]},
        {"classes": np.arange(4)},
        {"classes": np.zeros(5)},
        {"background": POINTS},
        {"labels": ("one",)},
        {"axes": ("x",)},
    ],
)
def test_what_is_no_scatter_is_refused(tmp_path, changes):
    save_picture(tmp_path / "a.npz", Scatter(POINTS, None, None, "t").replace(**changes), "mnist")
    with pytest.raises(ValueError, match=r"no scatter|classes .* for points|labels for points"):
        load_picture(tmp_path / "a.npz")


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, images=np.array([{}], object), meta=np.array("{}"))
    with pytest.raises(ValueError, match="allow_pickle"):
        load_picture(path)


@pytest.mark.parametrize(
    ("images", "changes"),
    [
        (IMAGES, {"kind": "animation"}),
        (IMAGES, {"kind": "film"}),
        (IMAGES.astype(np.float32), {}),
        (IMAGES[:0], {}),
        (IMAGES, {"labels": ["one"]}),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, images, changes):
    meta = {"title": "", "caption": "", "kind": "grid", "labels": [], "columns": 0} | changes
    np.savez(tmp_path / "a.npz", images=images, meta=np.array(json.dumps(meta)))
    with pytest.raises(ValueError, match=r"which is no|labels for"):
        load_picture(tmp_path / "a.npz")

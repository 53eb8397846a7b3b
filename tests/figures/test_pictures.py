import json

import numpy as np
import pytest

from gen_jax.figures.pictures import load_picture, save_picture
from gen_jax.method import Picture

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

import base64
import hashlib
import html
import io
import json
import re

import numpy as np
import PIL.Image
import pytest

from gen_jax.figures import page
from gen_jax.figures.grid import grid
from gen_jax.figures.markup import element
from gen_jax.method import Picture

RANDOM = np.random.default_rng(0)


def decoded(markup):
    """The pictures inside a piece of the page."""
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', markup)
    return [np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(source)))) for source in sources]


def test_the_policy_allows_this_style_and_script_and_nothing_else():
    text = page.document("title", element("p", "body"))
    policy = re.search(r'Security-Policy" content="([^"]+)"', text)[1]
    hashes = {
        tag: base64.b64encode(
            hashlib.sha256(re.search(f"<{tag}>(.*)</{tag}>", text, re.S)[1].encode()).digest()
        ).decode()
        for tag in ("style", "script")
    }
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{hashes['style']}'",
        f"script-src 'sha256-{hashes['script']}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert text.index("Security-Policy") < text.index("<style>")


def test_a_grid_is_one_image_and_a_strip_one_a_label():
    images = RANDOM.integers(0, 256, (6, 4, 4, 1), np.uint8)
    [whole] = decoded(page.picture(Picture(images, "t", columns=3)))
    np.testing.assert_array_equal(whole, grid(images, 3)[..., 0])
    strip = page.picture(Picture(images, "t", kind="strip", labels=tuple("abcdef")))
    np.testing.assert_array_equal(np.stack(decoded(strip)), images[..., 0])
    assert re.findall("<span>(.)</span>", strip) == list("abcdef")


def test_labelled_grids_keep_their_columns():
    images = np.zeros((6, 4, 4, 3), np.uint8)
    assert 'class="cells columns-3"' in page.picture(Picture(images, "t", labels=tuple("abcdef"), columns=3))
    assert ".columns-3{--columns:3}" in page.document("t")


def test_the_sheet_of_an_animation_holds_each_frame_where_the_script_looks():
    images = RANDOM.integers(0, 256, (5, 4, 3, 3, 1), np.uint8)
    markup = page.picture(Picture(images, "t", kind="animation", labels=tuple("abcde")))
    sheet = json.loads(html.unescape(re.search('data-sheet="([^"]+)"', markup)[1]))
    [drawn] = decoded(markup)
    assert sheet["labels"] == list("abcde")
    for frame in range(5):
        x, y = frame % sheet["columns"] * sheet["width"], frame // sheet["columns"] * sheet["height"]
        np.testing.assert_array_equal(
            drawn[y : y + sheet["height"], x : x + sheet["width"]], grid(images[frame])[..., 0]
        )
    assert "Shown here" not in markup


def test_an_animation_too_large_for_a_page_is_thinned_and_says_so(monkeypatch):
    monkeypatch.setattr(page, "_MAX_ANIMATION", 3000)
    markup = page.player(RANDOM.integers(0, 256, (10, 4, 16, 16, 1), np.uint8), [f"<{i}>" for i in range(10)], "t")
    assert "1 of 4 images per frame" in markup
    assert len(base64.b64decode(re.search('base64,([^"]+)"', markup)[1])) < 4000
    labels = json.loads(html.unescape(re.search('data-sheet="([^"]+)"', markup)[1]))["labels"]
    assert (labels[0], labels[-1]) == ("<0>", "<9>")


def test_an_animation_loses_colours_before_images_and_a_layout_never_loses_images(monkeypatch):
    noisy = RANDOM.integers(0, 256, (8, 9, 32, 32, 1), np.uint8)  # 74 kB of which 16 shades are a half
    labels = [str(i) for i in range(8)]
    full = page.player(noisy, labels, "t")
    monkeypatch.setattr(page, "_MAX_ANIMATION", 55_000)
    assert "Shown here: 16 shades." in page.player(noisy, labels, "t")
    assert len(page.player(noisy, labels, "t")) < len(full)
    monkeypatch.setattr(page, "_MAX_ANIMATION", 8000)
    assert "images per frame" in page.player(noisy, labels, "t")
    kept = page.player(noisy, labels, "t", columns=3)
    assert "images per frame" not in kept
    assert "of 8 frames, 16 shades" in kept
    [sheet] = decoded(kept)
    assert sheet.shape[1] % (3 * 34 - 2) == 0  # frames of three columns


@pytest.mark.parametrize("kind", ["grid", "strip", "animation"])
def test_every_picture_has_a_text_in_its_place(kind):
    images = np.zeros((2, 1, 2, 2, 1) if kind == "animation" else (2, 2, 2, 1), np.uint8)
    markup = page.picture(Picture(images, "<b>", "<i>", kind, ("<u>", "<s>") if kind != "grid" else ()))
    assert not re.findall("<(?:b|i|u|s)>", markup)
    assert all("&lt;b&gt;" in alt for alt in re.findall('alt="([^"]*)"', markup))

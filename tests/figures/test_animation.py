import numpy as np
import PIL.Image
import pytest

from gen_jax.figures.animation import draw_frames, thin, write_gif, write_mp4


def test_an_animation_within_its_budget_is_kept():
    images = np.zeros((4, 4, 2, 2, 1), np.uint8)
    assert thin(images, 64) is images


def test_images_are_dropped_before_frames_and_both_ends_stay():
    images = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None, None], (40, 16, 2, 2, 1))
    assert thin(images, 40 * 9 * 4).shape == (40, 9, 2, 2, 1)
    assert thin(images, 40 * 4 * 4 + 1).shape == (40, 4, 2, 2, 1)
    few = thin(images, 10 * 4)
    assert few.shape == (10, 1, 2, 2, 1)
    assert few[[0, -1], 0, 0, 0, 0].tolist() == [0, 39]
    assert thin(images, 1).shape == (2, 1, 2, 2, 1)


def test_every_frame_is_drawn_as_a_grid():
    images = np.arange(8, dtype=np.uint8).reshape(2, 4, 1, 1, 1)
    assert draw_frames(images, padding=0)[..., 0].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


@pytest.mark.parametrize("channels", [1, 3])
def test_gif_holds_every_frame_and_repeats(tmp_path, channels):
    frames = np.zeros((3, 4, 5, channels), np.uint8)
    frames[1] = 255
    frames[2, 0] = 128
    write_gif(tmp_path / "a.gif", frames, milliseconds=50, factor=2)
    with PIL.Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"], gif.info["duration"]) == (3, (10, 8), 0, 50)
        shown = []
        for index in range(3):
            gif.seek(index)
            shown.append(np.asarray(gif.convert("RGB"))[::2, ::2])
    np.testing.assert_array_equal(np.stack(shown), np.broadcast_to(frames, (3, 4, 5, 3)))


@pytest.mark.parametrize("code", [0, 1])
def test_an_encoder_is_given_every_frame_as_rgb(tmp_path, monkeypatch, code):
    """A stand-in for ffmpeg that writes down what it was given."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    encoder = tmp_path / "ffmpeg"
    encoder.write_text(f'#!/bin/sh\nfor last; do :; done\ncat > "$last"\necho "$@" > {tmp_path}/words\nexit {code}\n')
    encoder.chmod(0o755)
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 1), np.uint8)
    path = tmp_path / "a.mp4"
    assert write_mp4(path, frames, milliseconds=50, factor=2, description="of mnist") == (code == 0)
    assert path.exists() == (code == 0)
    assert "-pix_fmt rgb24 -s 10x8 -framerate 20.0 -i -" in (tmp_path / "words").read_text()
    assert "-metadata comment=of mnist" in (tmp_path / "words").read_text()
    if code == 0:
        shown = np.frombuffer(path.read_bytes(), np.uint8).reshape(3, 8, 10, 3)[:, ::2, ::2]
        np.testing.assert_array_equal(shown, np.broadcast_to(frames, (3, 4, 5, 3)))


def test_without_an_encoder_there_is_no_mp4(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not write_mp4(tmp_path / "a.mp4", np.zeros((2, 2, 2, 1), np.uint8))
    assert not list(tmp_path.iterdir())

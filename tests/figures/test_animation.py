import numpy as np
import PIL.Image
import pytest

from gen_jax.figures.animation import draw_frames, thin, write_gif


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

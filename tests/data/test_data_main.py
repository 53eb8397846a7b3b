import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from gen_jax.data import __main__ as command
from gen_jax.method import UserError


def test_describes_a_set_and_draws_a_sheet(made_up_tfds: pathlib.Path, tmp_path, capsys: pytest.CaptureFixture[str]):
    sheet = tmp_path / "new" / "sheet.png"
    command.main(["made_up_colours", f"--data_dir={made_up_tfds}", f"--sheet={sheet}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "made_up_colours: 9x12x3, 3 classes (red, green, blue)"
    assert lines[1].startswith("  train: 512 examples, ")
    assert lines[2].startswith("  test: 128 examples, ")
    assert len(lines[3].removeprefix("  fingerprint: ")) == 64
    assert lines[4:] == [
        f"  prepared in {made_up_tfds}/made_up_colours/1.0.0",
        f"  a sheet of pictures: {sheet}",
    ]
    with PIL.Image.open(sheet) as picture:
        # Each enlarged five times, to 45x60, with four pixels between; the names stand in front.
        assert picture.height == 3 * 45 + 2 * 4
        assert picture.width > 12 * 60 + 11 * 4


def test_options_are_those_of_the_config(made_up_tfds, tmp_path, capsys: pytest.CaptureFixture[str]):
    words = ["--image_size=6", "--channels=1", "--train_split=train[:40]", "--test_split=", f"--sheet={tmp_path}/x.png"]
    command.main(["made_up_unlabelled", f"--data_dir={made_up_tfds}", *words])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["made_up_unlabelled: 6x6x1, no labels", "  train: 40 examples"]
    assert not lines[2].startswith("  test")


def test_the_sheet_is_named_after_the_data(made_up_tfds, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    command.main(["made_up_digits", f"--data_dir={made_up_tfds}"])
    assert [file.name for file in tmp_path.iterdir()] == ["made_up_digits.png"]


def test_a_sheet_in_the_home_folder(made_up_tfds, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    command.main(["made_up_digits", f"--data_dir={made_up_tfds}", "--sheet=~/x.png"])
    assert (tmp_path / "home/x.png").is_file()


def test_advice_names_flags_of_this_program(tmp_path):
    for number, size in enumerate((4, 5)):
        PIL.Image.new("L", (size, size)).save(tmp_path / f"{number}.png")
    with pytest.raises(UserError, match="set --image_size to one height and width"):
        command.main([f"image_folder:{tmp_path}"])


def test_the_name_of_the_sheet_is_cut(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ("x" * 250)
    folder.mkdir()
    PIL.Image.new("L", (4, 4)).save(folder / "1.png")
    command.main([f"image_folder:{folder}"])
    assert len(list(tmp_path.glob("image_folder_xxx*.png"))) == 1


def test_a_sheet_has_a_row_a_class():
    # The picture of class k is a shade of its own.
    label = np.array([2, 0, 1, 0], np.int32)
    image = np.broadcast_to(50 * (label + 1)[:, None, None, None], (4, 56, 56, 1)).astype(np.uint8)
    drawn = command.sheet({"image": image, "label": label}, ("a", "b", "c"))
    assert [drawn[row * 60 + 28, -80].tolist() for row in range(3)] == [[50] * 3, [100] * 3, [150] * 3]
    assert [drawn[row * 60 + 28, -20].tolist() for row in range(3)] == [[50] * 3, [255] * 3, [255] * 3]


def test_binary_pictures_are_shown_black_and_white():
    image = np.array([0, 1], np.uint8).reshape(2, 1, 1, 1).repeat(56, 1).repeat(56, 2)
    drawn = command.sheet({"image": image}, None, (0, 1))
    assert [drawn[28, left].tolist() for left in (28, 88)] == [[0] * 3, [255] * 3]


def test_without_a_name_it_lists_what_is_there(made_up_tfds, tmp_path, capsys: pytest.CaptureFixture[str]):
    command.main([f"--data_dir={made_up_tfds}"])
    out = capsys.readouterr().out
    assert "  made_up_digits 1.0.0\n" in out
    assert "stroke_digits, dsprites" in out
    assert " mnist," in out
    command.main([f"--data_dir={tmp_path}"])
    assert f"prepared in {tmp_path}:\n  nothing\n" in capsys.readouterr().out


def test_a_place_that_cannot_be_written_is_one_line(made_up_tfds: pathlib.Path, tmp_path: pathlib.Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the sheet .*--sheet"):
        command.main(["made_up_digits", f"--data_dir={made_up_tfds}", f"--sheet={tmp_path}/file/x.png"])


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: pathlib.Path):
    words = [sys.executable, "-m", "gen_jax.data", "mnits", f"--data_dir={tmp_path}"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"gen_jax: there is no set 'mnits', neither prepared in {tmp_path} nor known to TFDS: did you mean mnist? "
        "(`python -m gen_jax.data` lists them)\n"
    )

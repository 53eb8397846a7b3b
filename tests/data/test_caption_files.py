import json
import pathlib

import PIL.Image
import pytest
from conftest import data_config
from ml_collections import ConfigDict

from gen_jax.data import dataset
from gen_jax.method import UserError

NAMES = [f"{number:02}" for number in range(20)]


def folder_of(tmp_path: pathlib.Path, **files: str) -> pathlib.Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        PIL.Image.new("L", (4, 4), 10 * number).save(folder / f"{name}.png")
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


def loaded(folder: pathlib.Path, tmp_path: pathlib.Path, text: str = "words", **changes: object) -> dataset.Dataset:
    config = data_config("", f"image_folder:{folder}", cache_dir=str(tmp_path / "cache"), **changes)
    config.text = ConfigDict({"name": text})
    return dataset.load(config)


def assert_captions_are_those_of_their_pictures(data: dataset.Dataset) -> None:
    for split, arrays in (("train", data.train), ("test", data.test)):
        assert arrays is not None
        for image, captions in zip(arrays["image"][:], data.captions[split], strict=True):
            assert captions[0] == f"grey {image.max() // 10}"


@pytest.mark.parametrize("kind", ["txt", "json", "csv", "table"])
def test_every_layout_gives_each_picture_its_captions(tmp_path: pathlib.Path, kind: str):
    texts = [f"grey {number}" for number in range(20)]
    files = {
        "txt": {f"{name}__txt": f"{text}\n\n  a  square \n" for name, text in zip(NAMES, texts, strict=True)},
        "json": {f"{name}__json": json.dumps({"captions": [t, "b"]}) for name, t in zip(NAMES, texts, strict=True)},
        "csv": {"metadata__csv": "file_name,text\n" + "".join(f"{n}.png,{t}\n{n}.png,b\n" for n, t in
                                                              zip(NAMES, texts, strict=True))},
        "table": {"captions__json": json.dumps({f"{n}.png": [t, "b"] for n, t in zip(NAMES, texts, strict=True)})},
    }  # fmt: skip
    data = loaded(folder_of(tmp_path, **files[kind]), tmp_path)
    assert_captions_are_those_of_their_pictures(data)
    assert {len(each) for each in data.captions["train"]} == {2}
    if kind == "txt":
        assert data.captions["train"][0][1] == "a square"


def test_captions_are_part_of_what_a_run_was_trained_on(tmp_path: pathlib.Path):
    folder = folder_of(tmp_path, **{f"{name}__txt": "grey" for name in NAMES})
    before = loaded(folder, tmp_path).spec.fingerprint
    assert loaded(folder, tmp_path).spec.fingerprint == before
    for name in NAMES:
        (folder / f"{name}.txt").write_text("dark")
    assert loaded(folder, tmp_path).spec.fingerprint != before
    plain = loaded(folder, tmp_path, text="none")
    assert plain.captions == {}
    assert plain.spec.fingerprint not in (before, loaded(folder, tmp_path).spec.fingerprint)


def test_crops_have_the_captions_of_their_pictures(tmp_path: pathlib.Path):
    folder = folder_of(tmp_path, **{f"{name}__txt": f"grey {int(name)}" for name in NAMES})
    PIL.Image.new("L", (2, 9), 10).save(folder / "01.png")  # too small
    data = loaded(folder, tmp_path, crop=3, on_error="skip")
    assert data.spec.image_shape == (3, 3, 1)
    assert len(data.captions["train"]) + len(data.captions["test"]) == 19
    assert_captions_are_those_of_their_pictures(data)


def test_a_damaged_picture_takes_its_captions_along(tmp_path: pathlib.Path):
    folder = folder_of(tmp_path, **{f"{name}__txt": f"grey {int(name)}" for name in NAMES})
    (folder / "03.png").write_bytes(b"no picture")
    assert_captions_are_those_of_their_pictures(loaded(folder, tmp_path, on_error="skip"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"00__txt": "one"}, "has pictures without captions, 19 files, of which the first is '01.png': add"),
        ({**{f"{n}__txt": "a" for n in NAMES}, "lost__txt": "b"}, "captions without pictures, 1 file, .* 'lost.txt'"),
        ({**{f"{n}__txt": "a" for n in NAMES[1:]}, "00__txt": " \n"}, "pictures without captions, 1 file, .*'00.png'"),
        ({"captions__csv": "file,label\n00.png,a\n"}, "has the columns file, label: it needs file and caption"),
        ({"captions__csv": "file,caption\n99.png,a\n"}, "captions without pictures, 1 file, .*'99.png'"),
        ({"captions__json": "[]"}, "must be an object from the paths of pictures"),
        ({"captions__json": "{"}, "is no JSON"),
        ({f"{n}__json": "3" for n in NAMES}, "holds no captions: it needs a text"),
    ],
)
def test_captions_that_do_not_match_are_refused_in_one_line(tmp_path: pathlib.Path, files: dict, message: str):
    with pytest.raises(UserError, match=message) as caught:
        loaded(folder_of(tmp_path, **files), tmp_path)
    assert "\n" not in str(caught.value)

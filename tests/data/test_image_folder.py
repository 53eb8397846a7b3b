import contextlib
import errno
import hashlib
import logging
import os
import pathlib
import struct
import tarfile
import types
import zlib
from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest

from gen_jax.data import cache, image_folder
from gen_jax.method import UserError


def _load(folder: pathlib.Path | str, **changes):
    values = {"cache_dir": "", "train_split": "train", "test_split": "", "image_size": 0, "channels": 0}
    values |= {"background": 255, "on_error": "stop", "max_megapixels": 200, "stream": False, "crop": 0}
    return image_folder.load(str(folder), types.SimpleNamespace(**values | changes))


def _picture(path: pathlib.Path | str, value: int, size: tuple[int, int] = (2, 2), mode: str = "L") -> None:
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(path)


def _values(arrays: dict[str, np.ndarray] | None) -> list[int]:
    assert arrays is not None
    return arrays["image"][:, 0, 0, 0].tolist()


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "pictures"


def test_a_flat_folder_in_the_order_of_paths_has_no_labels(folder: pathlib.Path):
    for name, value in (("b.png", 1), ("a.png", 0), ("B.png", 2), ("ä.png", 3)):
        _picture(folder / name, value)
    data = _load(folder)
    assert set(data.train) == {"image"}
    assert _values(data.train) == [2, 0, 1, 3]  # as bytes: B < a < b < ä
    assert data.test is None
    assert data.spec.name == "image_folder:pictures"
    assert data.spec.class_names is None
    assert data.spec.image_shape == (2, 2, 1)
    assert data.spec.num_examples == 4
    assert data.spec.fingerprint == cache.fingerprint(data.train)


def test_sub_folders_are_classes_with_all_below_them(folder: pathlib.Path):
    _picture(folder / "dog" / "1.png", 1)
    _picture(folder / "cat" / "old" / "2.png", 2)
    _picture(folder / "cat" / "3.png", 3)
    (folder / "empty").mkdir()
    data = _load(folder)
    assert data.spec.class_names == ("cat", "dog")
    assert data.train["label"].dtype == np.int32
    assert dict(zip(_values(data.train), data.train["label"].tolist(), strict=True)) == {3: 0, 2: 0, 1: 1}


def test_pictures_beside_sub_folders_are_refused(folder: pathlib.Path):
    _picture(folder / "cat" / "1.png", 1)
    _picture(folder / "2.png", 2)
    with pytest.raises(UserError, match="'2.png' beside 'cat'"):
        _load(folder)


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ([str(n) for n in range(12)], [str(n) for n in range(12)]),
        (["10", "007", "-1", "7"], ["-1", "007", "7", "10"]),
        (["10", "9", "9b"], ["10", "9", "9b"]),
        (["Cat", "cat", "cafe\u0301", "caf\u00e9"], ["Cat", "cafe\u0301", "caf\u00e9", "cat"]),  # as they are
    ],
)
def test_order_of_classes(folder: pathlib.Path, names: list[str], order: list[str]):
    for number, name in enumerate(names):
        _picture(folder / name / "x.png", number)
    data = _load(folder)
    assert data.spec.class_names == tuple(order)
    found = {number: order[label] for number, label in zip(_values(data.train), data.train["label"], strict=True)}
    assert found == dict(enumerate(names))


@pytest.mark.parametrize("top", ["train", "training", "Train", "train/train"])
@pytest.mark.parametrize("classes", [("cat", "dog"), ("cat",), ("",)])
def test_a_lone_train_is_no_class(tmp_path: pathlib.Path, folder: pathlib.Path, top: str, classes: tuple[str, ...]):
    for number in range(20):
        for name in classes:
            _picture(folder / top / name / f"{number}.png", number)
    (folder / "labels.csv").write_text("")
    data = _load(folder, test_split="test")
    assert data.spec.class_names == (None if classes == ("",) else classes)
    assert data.spec.name == "image_folder:pictures"
    assert data.test is not None
    assert len(data.test["image"]) == 2 * len(classes)
    assert data.spec.fingerprint == _load(folder / top, test_split="test").spec.fingerprint
    with pytest.raises(UserError, match=r"no split 'val' .it has test, train."):
        _load(folder, test_split="val")


def test_a_train_beside_other_classes_is_one(folder: pathlib.Path):
    for name in ("train", "plane"):
        _picture(folder / name / "1.png", 1)
    assert _load(folder).spec.class_names == ("plane", "train")


def test_a_train_beside_pictures_is_refused(folder: pathlib.Path):
    _picture(folder / "train" / "1.png", 1)
    _picture(folder / "2.png", 1)
    with pytest.raises(UserError, match="'2.png' beside 'train'"):
        _load(folder)


def test_test_folders_alone_are_no_classes(folder: pathlib.Path):
    _picture(folder / "val" / "cat" / "1.png", 1)
    with pytest.raises(UserError, match="holds val, but no train: .*name=image_folder:.*pictures/val$"):
        _load(folder)
    _picture(folder / "test" / "cat" / "1.png", 1)
    with pytest.raises(UserError, match="holds test, val, but no train: .*name=image_folder:.*pictures/test$"):
        _load(folder)
    assert _load(folder / "val").spec.class_names == ("cat",)


def test_a_class_without_training_pictures_is_told(folder: pathlib.Path, caplog: pytest.LogCaptureFixture):
    for path in ("train/cat/1", "train/dog/1", "train/emu/1", "val/cat/2", "val/owl/2"):
        _picture(folder / f"{path}.png", 1)
    for _ in range(2):  # from the cache, too
        caplog.clear()
        assert _load(folder, test_split="test").spec.class_names == ("cat", "dog", "emu", "owl")
        assert caplog.messages == ["image_folder:pictures: no training pictures of 'owl'"]
    caplog.clear()
    (folder / "train" / "dog" / "1.png").write_bytes(b"")
    _load(folder, test_split="test", on_error="skip")
    assert caplog.messages[-1] == "image_folder:pictures: no training pictures of 'dog', 'owl'"
    caplog.clear()
    (folder / "val" / "owl" / "2.png").unlink()
    (folder / "train" / "dog" / "1.png").unlink()
    assert _load(folder, test_split="test").spec.class_names == ("cat", "emu")
    assert not caplog.messages  # a test split that lacks a class is fine


@pytest.mark.parametrize("other", ["test", "val", "validation", "testing", "Test", "VAL"])
def test_folders_of_splits_are_splits(folder: pathlib.Path, other: str):
    for number, path in enumerate(("train/x/0.png", "train/y/1.png", f"{other}/y/2.png", "beside/3.png", "4.png")):
        _picture(folder / path, number)
    data = _load(folder, test_split="test")
    assert data.spec.class_names == ("x", "y")
    assert (_values(data.train), _values(data.test)) == ([0, 1], [2])
    assert data.test is not None
    assert data.test["label"].tolist() == [1]
    assert _load(folder).test is None


def test_the_test_split_is_the_one_that_is_named(folder: pathlib.Path):
    for number, path in enumerate(("train/0.png", "test/1.png", "val/2.png")):
        _picture(folder / path, number)
    assert _values(_load(folder, test_split="test").test) == [1]
    assert _values(_load(folder, test_split="val").test) == [2]
    with pytest.raises(UserError, match="no split 'best' .it has test, train, val."):
        _load(folder, test_split="best")


def test_a_tenth_is_held_out_by_the_hash_of_the_path(folder: pathlib.Path):
    for number in range(40):
        _picture(folder / f"{number}.png", number)
    data = _load(folder, test_split="test")
    # sha256sum of the 40 names: these four come first.
    held_out = [0, 6, 8, 33]
    assert sorted(_values(data.test)) == held_out
    assert sorted(_values(data.train)) == sorted({*range(40)} - {*held_out})
    assert len(_load(folder).train["image"]) == 40


def test_of_each_class_a_picture_stays_in_training(folder: pathlib.Path):
    paths = [f"cat/{number}.png" for number in range(40)]
    for number in range(20):
        paths += [f"owl{number}/0.png", f"emu{number}/0.png", f"emu{number}/deep/1.png"]
    for path in paths:
        _picture(folder / path, 1)
    by_hash = sorted(paths, key=lambda path: hashlib.sha256(path.encode()).digest())
    assert "owl" in " ".join(by_hash[:10])  # which the tenth would have taken
    data = _load(folder, test_split="test")
    assert data.test is not None
    assert len(data.test["image"]) == 10
    assert set(data.train["label"].tolist()) == set(range(41))
    # A set in which no class would be lost is split as ever.
    paths = [f"{'ab'[number % 2]}/{number}.png" for number in range(40)]
    files = [image_folder._File(path, 1, 1, 1, 1) for path in paths]
    smallest = sorted(paths, key=lambda path: hashlib.sha256(path.encode()).digest())[:4]
    assert {file.path for file in image_folder._held_out(files)} == set(smallest)


def test_where_each_class_has_one_picture_none_is_held_out(folder: pathlib.Path):
    for name in range(20):
        _picture(folder / str(name) / "0.png", 2)
    assert _load(folder, test_split="test").test is None


def test_at_most_ten_thousand_are_held_out(monkeypatch: pytest.MonkeyPatch):
    files = [image_folder._File(f"{number}.png", 1, 1, 1, 1) for number in range(200)]
    assert len(image_folder._held_out(files)) == 20
    monkeypatch.setattr(image_folder, "_MAX_HELD_OUT", 7)
    assert len(image_folder._held_out(files)) == 7
    assert image_folder._held_out(files[:9]) == set()


def test_any_names(folder: pathlib.Path):
    folder.mkdir()
    names = [b"with space.png", "日本.png".encode(), b'it\'s "so".png', b"\xff\xfe.png", b"new\nline.png", b"UPPER.PNG"]
    for number, name in enumerate(names):
        _picture(folder / "x.png", number)
        os.rename(folder / "x.png", os.fsencode(folder) + b"/" + name)
    assert _values(_load(folder).train) == [names.index(name) for name in sorted(names)]


def test_names_of_classes_are_text_that_can_be_written(folder: pathlib.Path):
    _picture(folder / "x" / "0.png", 0)
    os.rename(folder / "x", os.fsencode(folder) + b"/caf\xe9")
    names = _load(folder).spec.class_names
    assert names == ("caf\\xe9",)
    names[0].encode("utf-8")


def test_every_kind_of_file_by_its_suffix_alone(folder: pathlib.Path):
    folder.mkdir()
    for name in ("a.jpg", "b.JPEG", "c.png", "d.gif", "e.webp", "f.bmp", "g.tif", "h.TiFf"):
        PIL.Image.new("RGB", (8, 8), (200, 200, 200)).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    data = _load(folder)
    assert data.spec.num_examples == 8
    np.testing.assert_allclose(data.train["image"], 200, atol=2)


def test_a_class_of_tiffs_is_a_class(folder: pathlib.Path):
    _picture(folder / "bird" / "1.tif", 1)
    _picture(folder / "cat" / "2.png", 2)
    data = _load(folder)
    assert (data.spec.class_names, _values(data.train)) == (("bird", "cat"), [1, 2])


def test_files_of_other_kinds_are_counted(folder: pathlib.Path, caplog: pytest.LogCaptureFixture):
    _picture(folder / "cat" / "1.png", 1)
    for name in ("Thumbs.db", "desktop.ini", "README.md", "LICENSE", ".DS_Store", "cat/.hidden.txt"):
        (folder / name).write_text("")
    _load(folder)
    assert not caplog.messages
    (folder / "cat" / "license_plate.TXT").write_text("")
    _load(folder)
    assert caplog.messages == ["image_folder:pictures: left out 1 file that is not a picture (.txt)"]
    caplog.clear()
    (folder / "bird").mkdir()
    for number in range(1_000):
        (folder / "bird" / f"{number}.heic").touch()
    for name in ("a.pdf", "b.pdf", "c.txt", "none", "z.zip"):
        (folder / name).touch()
    assert _load(folder).spec.class_names == ("cat",)
    assert caplog.messages == [
        "image_folder:pictures: left out 1,006 files that are not pictures (.heic, .pdf, .txt, ...); "
        "no pictures in 'bird'"
    ]


def test_files_beside_the_splits_are_not_counted(folder: pathlib.Path, caplog: pytest.LogCaptureFixture):
    for path in ("train/cat/1.png", "test/cat/2.png"):
        _picture(folder / path, 1)
    for name in ("x.csv", "train/dog/x.heic"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    _load(folder, test_split="test")
    assert caplog.messages == [
        "image_folder:pictures: left out 1 file that is not a picture (.heic); no pictures in 'dog'"
    ]


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Callable[[pathlib.Path], None]:
    """Makes folders that root, as whom tests may run, cannot read."""
    names, scandir = [], os.scandir

    def scan(place):
        if str(place) in names:
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", scan)
    return lambda folder: names.append(str(folder))


def test_lost_and_found_is_left_out(folder: pathlib.Path, unreadable, caplog: pytest.LogCaptureFixture):
    _picture(folder / "a.png", 1)
    _picture(folder / "lost+found" / "b.png", 1)
    unreadable(folder / "lost+found")
    data = _load(folder)
    assert (data.spec.num_examples, data.spec.class_names, caplog.messages) == (1, None, [])


def test_a_folder_that_cannot_be_read(folder: pathlib.Path, unreadable, caplog: pytest.LogCaptureFixture):
    for path in ("cat/1.png", "cat/old/2.png", "dog/3.png"):
        _picture(folder / path, int(path[-5]))
    unreadable(folder / "cat" / "old")
    with pytest.raises(UserError, match=r"^cannot read the folder 'cat/old' in .*pictures .Permission.*on_error=skip$"):
        _load(folder)
    data = _load(folder, on_error="skip")
    assert _values(data.train) == [1, 3]
    assert caplog.messages == ["image_folder:pictures: skipped 1 folders that cannot be read: 'cat/old'"]
    unreadable(folder)
    with pytest.raises(UserError, match=r"^cannot read the folder .*pictures: Permission denied$"):
        _load(folder, on_error="skip")


def test_files_whose_folder_cannot_be_entered(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    _picture(folder / "cat" / "1.png", 1)
    _picture(folder / "dog" / "2.png", 2)
    scandir = os.scandir

    class Entry:  # as of a folder that has names, but no status, to give: mode 444
        def __init__(self, entry: os.DirEntry):
            self.name, self.path, self._entry = entry.name, entry.path, entry

        def stat(self, **options) -> os.stat_result:
            if self.path.endswith("dog/2.png"):
                raise PermissionError(errno.EACCES, "Permission denied", self.path)
            return self._entry.stat(**options)

    monkeypatch.setattr(os, "scandir", lambda place: contextlib.nullcontext(map(Entry, list(scandir(place)))))
    with pytest.raises(UserError, match="cannot read the folder 'dog' in"):
        _load(folder)
    assert _load(folder, on_error="skip").spec.class_names == ("cat",)


def test_a_split_that_cannot_be_read(folder: pathlib.Path, unreadable, caplog: pytest.LogCaptureFixture):
    for path in ("train/cat/1.png", "test/cat/2.png", "beside/3.png"):
        _picture(folder / path, 1)
    unreadable(folder / "beside")
    assert _load(folder, test_split="test").test is not None
    assert not caplog.messages
    unreadable(folder / "test")
    with pytest.raises(UserError, match="cannot read the folder 'test' in"):
        _load(folder, test_split="test")
    data = _load(folder, test_split="test", on_error="skip")
    assert (data.test, data.spec.class_names) == (None, ("cat",))
    unreadable(folder / "train")
    with pytest.raises(UserError, match="cannot read the folder 'test' in"):
        _load(folder)
    _picture(folder / "val" / "3.png", 1)
    with pytest.raises(UserError, match="the split 'train' of .*pictures has no pictures"):
        _load(folder, on_error="skip")


def test_nothing_but_a_train_that_cannot_be_read(folder: pathlib.Path, unreadable):
    _picture(folder / "train" / "1.png", 1)
    unreadable(folder / "train")
    with pytest.raises(UserError, match="cannot read the folder 'train' in"):
        _load(folder)
    with pytest.raises(UserError, match="no pictures in"):
        _load(folder, on_error="skip")


def test_a_long_name(tmp_path: pathlib.Path):
    folder = tmp_path / ("x" * 240)
    _picture(folder / "1.png", 1)
    assert _load(folder).spec.name == f"image_folder:{folder.name}"


def test_a_jpeg_with_a_resolution_in_text(folder: pathlib.Path):
    folder.mkdir()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("L", (8, 4)).save(folder / "a.jpg", exif=exif)
    content = (folder / "a.jpg").read_bytes()
    entry = struct.pack("<HHI4s", 0x011A, 2, 3, b"72")
    tiff = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + entry + bytes(4)
    at = content.index(b"\xff\xe1")
    (length,) = struct.unpack_from(">H", content, at + 2)
    marker = b"\xff\xe1" + struct.pack(">H", len(tiff) + 2) + tiff
    (folder / "a.jpg").write_bytes(content[:at] + marker + content[at + 2 + length :])
    assert _load(folder).spec.image_shape == (8, 4, 1)


def test_a_png_with_much_text(folder: pathlib.Path):
    _picture(folder / "a.png", 1)
    png = (folder / "a.png").read_bytes()
    text = b"zTXt" + b"Comment\0\0" + zlib.compress(bytes(2_000_000))
    (folder / "a.png").write_bytes(
        png[:33] + struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text)) + png[33:]
    )
    assert _values(_load(folder).train) == [1]


def test_hidden_files_and_links_that_lead_back_are_left_out(folder: pathlib.Path):
    _picture(folder / "cat" / "1.png", 1)
    _picture(folder / ".trash" / "2.png", 2)
    _picture(folder / "cat" / "3.png", 3)
    (folder / "cat" / "3.png").rename(folder / "cat" / "._1.png")
    (folder / "cat" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self").symlink_to("self")
    (folder / "elsewhere").symlink_to(folder / "cat", target_is_directory=True)  # a link that leads on is followed
    data = _load(folder)
    assert (_values(data.train), data.spec.class_names) == ([1, 1], ("cat", "elsewhere"))


@pytest.mark.parametrize("grey_first", [True, False])
def test_grey_among_colour_becomes_colour(folder: pathlib.Path, grey_first: bool):
    _picture(folder / ("a.png" if grey_first else "z.png"), 7)
    _picture(folder / "m.png", 9, mode="RGB")
    pixels = _load(folder).train["image"][:, 0, 0].tolist()
    assert pixels == [[7, 7, 7], [9, 0, 0]][:: 1 if grey_first else -1]
    assert _load(folder, channels=1).train["image"].shape == (2, 2, 2, 1)


def test_one_size_that_is_not_square_is_fine(folder: pathlib.Path):
    for name in "ab":
        _picture(folder / f"{name}.png", 1, (5, 3))
    assert _load(folder).spec.image_shape == (3, 5, 1)


def test_several_sizes_need_image_size(folder: pathlib.Path):
    _picture(folder / "a.png", 1, (5, 3))
    _picture(folder / "b.png", 2, (4, 4))
    with pytest.raises(UserError, match="'b.png' in .* has 4x4 pixels, 'a.png' has 5x3: set --config.data.image_size"):
        _load(folder)
    assert _load(folder, image_size=2).spec.image_shape == (2, 2, 1)


def _noise(path: pathlib.Path) -> None:
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)


def _damage(kind: str, folder: pathlib.Path) -> str:
    """Leaves one damaged file among two sound ones, and returns its name."""
    folder.mkdir()
    for name in ("a.png", "z.png"):
        _noise(folder / name)
    name = "it.png" if kind == "cut png" else "it.jpg"
    path = folder / name
    _noise(path)
    if kind.startswith("cut"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "link to nowhere":
        path.unlink()
        path.symlink_to("nowhere.jpg")
    else:
        path.write_bytes({"empty": b"", "text": b"<html>404</html>"}[kind])
    return name


DAMAGES = ("cut jpg", "cut png", "empty", "text", "link to nowhere")


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_stops_with_its_name(folder: pathlib.Path, kind: str):
    name = _damage(kind, folder)
    with pytest.raises(UserError, match=rf"^'{name}' in .* is damaged \(.+\): remove it, or set .*on_error=skip$"):
        _load(folder)


@pytest.mark.parametrize("kind", DAMAGES)
def test_skip_counts_damaged_files(folder: pathlib.Path, kind: str, caplog: pytest.LogCaptureFixture):
    name = _damage(kind, folder)
    for _ in range(2):  # from the cache, too
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            data = _load(folder, on_error="skip")
        assert [record.message for record in caplog.records] == [
            f"image_folder:pictures: skipped 1 damaged files of 3: '{name}'"
        ]
    assert data.spec.num_examples == 2


def test_skip_keeps_labels_and_splits_in_step(folder: pathlib.Path):
    for number in range(4):
        _picture(folder / "train" / "xy"[number % 2] / f"{number}.png", number)
    _picture(folder / "test" / "y" / "9.png", 9)
    (folder / "train" / "x" / "0.png").write_bytes(b"")
    data = _load(folder, on_error="skip", test_split="test")
    assert (_values(data.train), data.train["label"].tolist()) == ([2, 1, 3], [0, 1, 1])
    assert (_values(data.test), data.spec.num_examples) == ([9], 3)


def test_nothing_sound_is_refused(folder: pathlib.Path):
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"no training picture in .* can be used; the first of 1, 'a\.png', is damaged"):
        _load(folder, on_error="skip")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tif"])
@pytest.mark.parametrize("limit", [1_500, 100])  # PIL warns above it, and refuses above twice as much
def test_a_large_picture_is_read_without_a_warning(
    folder: pathlib.Path, suffix: str, limit: int, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
):
    _picture(folder / f"large.{suffix}", 1, (40, 45), "RGB")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", limit)
    for size in (0, 28):
        assert _load(folder, image_size=size).spec.image_shape == ((28, 28, 3) if size else (45, 40, 3))
    assert not recwarn
    assert limit == PIL.Image.MAX_IMAGE_PIXELS


def test_95_megapixels(folder: pathlib.Path, recwarn: pytest.WarningsRecorder):
    _picture(folder / "large.png", 1, (9_500, 10_000))
    assert _load(folder, image_size=28).spec.image_shape == (28, 28, 1)
    assert not recwarn


def test_an_oversized_picture_is_refused_or_skipped(folder: pathlib.Path, caplog: pytest.LogCaptureFixture):
    _picture(folder / "large.png", 1, (1_001, 1_000))
    _picture(folder / "small.png", 2)
    with pytest.raises(UserError, match="'large.png' in .* has 1001x1000 pixels, .*raise --config.data.max_megapixels"):
        _load(folder, image_size=2, max_megapixels=1)
    for _ in range(2):
        caplog.clear()
        assert _values(_load(folder, image_size=2, max_megapixels=1, on_error="skip").train) == [2]
        assert caplog.messages == [
            "image_folder:pictures: skipped 1 oversized files of 2: 'large.png' (raise --config.data.max_megapixels)"
        ]
    for enough in (0, 2):
        assert _values(_load(folder, image_size=2, max_megapixels=enough).train) == [1, 2]


def test_streaming_is_refused_since_it_would_change_nothing(folder: pathlib.Path):
    with pytest.raises(UserError, match="memory-mapped.*leave out data.stream"):
        _load(folder, stream=True)


def test_another_value_of_on_error_is_refused(folder: pathlib.Path):
    with pytest.raises(UserError, match="config.data.on_error is 'skp'; did you mean skip"):
        _load(folder, on_error="skp")


def test_no_pictures_and_no_folder(tmp_path: pathlib.Path, folder: pathlib.Path):
    folder.mkdir()
    (folder / "a.txt").write_text("")
    with pytest.raises(UserError, match="no pictures in .*pictures: "):
        _load(folder)
    with pytest.raises(UserError, match=f"no folder {tmp_path}/picture: did you mean {folder}"):
        _load(tmp_path / "picture")
    with pytest.raises(UserError, match=f"the nearest that exists is {folder}$"):
        _load(folder / "x" / "y")
    with pytest.raises(UserError, match=f"no folder .*: the nearest that exists is {folder}$"):
        _load(folder / ("n" * 300))
    with pytest.raises(UserError, match=r"a.txt is a file"):
        _load(folder / "a.txt")
    with pytest.raises(UserError, match="names no folder"):
        _load("")


def test_the_cache_is_found_again_until_a_file_changes(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    _picture(folder / "a.png", 1)
    _load(folder)
    read = image_folder._read
    monkeypatch.setattr(image_folder, "_read", lambda *_, **__: 1 / 0)
    assert _values(_load(folder).train) == [1]
    link = folder.with_name("link")
    link.symlink_to(folder.parent)
    assert _values(_load(link / folder.name).train) == [1]
    monkeypatch.setattr(image_folder, "_read", read)
    before = (folder / "a.png").stat()
    _picture(folder / "a.png", 2)  # of the same inode
    os.utime(folder / "a.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert _values(_load(folder).train) == [2]


def _without_times(folder: pathlib.Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))


def test_folders_of_equal_names_sizes_and_times_are_told_apart(tmp_path: pathlib.Path):
    for version in (1, 2):
        _picture(tmp_path / f"v{version}" / "images" / "a.bmp", version)
        _without_times(tmp_path / f"v{version}")
    fingerprints = set()
    for version in (1, 2, 1):
        data = _load(tmp_path / f"v{version}" / "images")
        assert _values(data.train) == [version]
        fingerprints.add(data.spec.fingerprint)
    assert len(fingerprints) == 2
    # One takes the place of the other, as folders or as files.
    (tmp_path / "v1" / "images").rename(tmp_path / "old")
    (tmp_path / "v2" / "images").rename(tmp_path / "v1" / "images")
    assert _values(_load(tmp_path / "v1" / "images").train) == [2]
    (tmp_path / "old" / "a.bmp").rename(tmp_path / "v1" / "images" / "a.bmp")
    assert _values(_load(tmp_path / "v1" / "images").train) == [1]


def test_a_folder_that_was_moved_has_the_same_fingerprint(tmp_path: pathlib.Path, folder: pathlib.Path):
    for number in range(20):
        _picture(folder / "ab"[number % 2] / f"{number}.png", number)
    before = _load(folder, test_split="test")
    folder.rename(tmp_path / "moved")
    after = _load(tmp_path / "moved", test_split="test")
    assert before.spec.fingerprint == after.spec.fingerprint
    assert _values(before.test) == _values(after.test)


def test_another_version_of_the_decoder_decodes_anew(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    _picture(folder / "a.png", 1)
    _load(folder)
    monkeypatch.setattr(image_folder, "_read", lambda *_, **__: np.full((2, 2, 1), 9, np.uint8))
    assert _values(_load(folder).train) == [1]
    monkeypatch.setattr(image_folder, "_VERSION", 99)
    assert _values(_load(folder).train) == [9]


def test_content_alone_decides_the_fingerprint(tmp_path: pathlib.Path):
    for name, when in (("one", 1), ("two", 2)):
        _picture(tmp_path / name / "a.png", 5)
        os.utime(tmp_path / name / "a.png", (when, when))
    one, two = (_load(tmp_path / name).spec for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != _load(tmp_path / "two", channels=3).spec.fingerprint


def test_order_does_not_depend_on_which_thread_is_first(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_folder, "_CHUNK", 3)
    for number in range(100):
        _picture(folder / f"{number:02}.png", number)
    assert _values(_load(folder).train) == list(range(100))


def test_leaves_no_file_in_the_cache_but_the_entry(tmp_path: pathlib.Path, folder: pathlib.Path):
    _damage("empty", folder)
    with pytest.raises(UserError, match="damaged"):
        _load(folder, cache_dir=str(tmp_path / "cache"))
    assert list((tmp_path / "cache" / "data").iterdir()) == []


def test_reads_the_cats(shared: pathlib.Path, tmp_path: pathlib.Path):
    with tarfile.open(shared / "images" / "cats64.tar.gz") as tar:
        members = [member for member in tar if member.isfile()][:50]
        tar.extractall(tmp_path / "cats", members, filter="data")
    data = _load(tmp_path / "cats" / "cats64", test_split="test")
    assert data.spec.image_shape == (64, 64, 3)
    assert (len(data.train["image"]), data.test and len(data.test["image"])) == (45, 5)
    assert data.spec.class_names is None

import functools
import gzip
import http.server
import io
import os
import pathlib
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets
from conftest import data_config
from tensorflow_datasets.core.download import checksums, downloader, extractor
from tensorflow_datasets.core.features import image_feature
from tensorflow_datasets.image_classification import mnist

from gen_jax.data import dataset, locks, prepare, tfds
from gen_jax.method import UserError

NUM_TRAIN, NUM_TEST = 20, 10


def write_idx(manual: pathlib.Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Writes raw files as those of MNIST, and returns what is in them: {split: (images, labels)}."""
    rng = np.random.default_rng(0)
    manual.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split, prefix, num in (("train", "train", NUM_TRAIN), ("test", "t10k", NUM_TEST)):
        image, label = rng.integers(0, 256, (num, 28, 28, 1), np.uint8), rng.integers(0, 10, num, np.uint8)
        header = struct.pack(">4i", 2051, num, 28, 28), struct.pack(">2i", 2049, num)
        with gzip.open(manual / f"{prefix}-images-idx3-ubyte.gz", "wb") as file:
            file.write(header[0] + image.tobytes())
        with gzip.open(manual / f"{prefix}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(header[1] + label.tobytes())
        splits[split] = image, label
    return splits


def write_cifar(manual: pathlib.Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Writes an archive as that of CIFAR-10 and returns what is in it."""
    rng = np.random.default_rng(1)
    manual.mkdir(parents=True, exist_ok=True)
    image, label = rng.integers(0, 256, (12, 32, 32, 3), np.uint8), rng.integers(0, 10, 12, np.uint8)
    rows = np.concatenate([label[:, None], image.transpose(0, 3, 1, 2).reshape(12, -1)], axis=1)
    files = {f"data_batch_{n + 1}.bin": rows[2 * n : 2 * n + 2].tobytes() for n in range(5)}
    files |= {"test_batch.bin": rows[10:].tobytes(), "batches.meta.txt": "\n".join("abcdefghij").encode()}
    with tarfile.open(manual / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return {"train": (image[:10], label[:10]), "test": (image[10:], label[10:])}


def register(patch: pytest.MonkeyPatch, name: str, manual: pathlib.Path) -> None:
    """Lets TFDS take the made-up raw files of `manual` for those of the set."""
    patch.setattr(mnist, "_TRAIN_EXAMPLES", NUM_TRAIN)
    patch.setattr(mnist, "_TEST_EXAMPLES", NUM_TEST)
    builder = tensorflow_datasets.builder(name, data_dir=manual, file_format="array_record")
    with prepare.stand_ins(builder):
        infos = builder.url_infos
    assert infos
    for url in infos:
        patch.setitem(infos, url, checksums.compute_url_info(manual / url.rpartition("/")[2]))


def _sorted(image: np.ndarray, label: np.ndarray) -> list[tuple[bytes, int]]:
    """Examples in an order of their own: TFDS shuffles them."""
    return sorted((image[row].tobytes(), int(label[row])) for row in range(len(image)))


@pytest.fixture
def raw(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A data_dir that holds made-up raw files of MNIST, and nothing prepared."""
    write_idx(tmp_path / "tfds/downloads/manual")
    register(monkeypatch, "mnist", tmp_path / "tfds/downloads/manual")
    return tmp_path / "tfds"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every download goes through a proxy that is not there."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return


@pytest.mark.parametrize(
    ("name", "write"), [("mnist", write_idx), ("fashion_mnist", write_idx), ("cifar10", write_cifar)]
)
def test_raw_files_are_prepared_pixel_by_pixel(
    name: str, write, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    manual = tmp_path / "downloads/manual"
    written = write(manual)
    register(monkeypatch, name, manual)
    data = dataset.load(data_config(tmp_path, name))
    assert data.test is not None
    for split, arrays in (("train", data.train), ("test", data.test)):
        assert _sorted(arrays["image"], arrays["label"]) == _sorted(*written[split])
    assert (data.spec.name, len(data.spec.class_names or ())) == (name, 10)
    assert "tensorflow" not in sys.modules
    out, err = capfd.readouterr()
    assert not out
    assert f"gen_jax: {name} is not prepared in {tmp_path}: downloading and preparing it, once\n" in err


def test_files_that_are_not_there_are_downloaded(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    written = write_idx(tmp_path / "served")
    register(monkeypatch, "mnist", tmp_path / "served")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    monkeypatch.setattr(handler.func, "log_message", lambda *_: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}/"
        infos = mnist.MNIST.url_infos
        for url in list(infos):
            monkeypatch.setitem(infos, here + url.rpartition("/")[2], infos[url])
        monkeypatch.setattr(mnist.MNIST, "URL", here)
        data = dataset.load(data_config(tmp_path / "tfds", "mnist"))
        server.shutdown()
    assert _sorted(data.train["image"], data.train["label"]) == _sorted(*written["train"])


def test_two_preparations_agree(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    fingerprints = set()
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_idx(folder / "downloads/manual")
        register(monkeypatch, "mnist", folder / "downloads/manual")
        config = data_config(folder, "mnist", cache_dir=str(folder / "cache"))
        fingerprints.add(dataset.load(config).spec.fingerprint)
    assert len(fingerprints) == 1


def test_a_prepared_set_is_found_without_another_word(raw: pathlib.Path, capfd: pytest.CaptureFixture[str]):
    first = prepare.prepare("mnist", data_config(raw, "mnist"))
    capfd.readouterr()
    assert prepare.prepare("mnist", data_config(raw, "mnist")) == first == tfds.find("mnist", raw)
    assert capfd.readouterr() == ("", "")


def test_an_interrupted_preparation_starts_again_cleanly(raw: pathlib.Path):
    half = raw / "mnist" / "incomplete.ABCDEF_3.0.1"
    half_loaded = raw / "downloads/mnist" / "x.gz.tmp.0123"
    for file in (half / "dataset_info.json", half_loaded / "x.gz"):
        file.parent.mkdir(parents=True)
        file.write_text("{")
    assert tfds.prepared(raw) == {}
    prepare.prepare("mnist", data_config(raw, "mnist"))
    assert tfds.prepared(raw) == {"mnist": ["3.0.1"]}
    assert not half.exists()
    assert not half_loaded.exists()
    assert not (raw / ".mnist.lock").exists()


def test_a_folder_that_was_copied_in_part_is_named(raw: pathlib.Path):
    (raw / "mnist/3.0.1").mkdir(parents=True)
    with pytest.raises(UserError, match=r"mnist/3.0.1 has no dataset_info.json, so it is incomplete"):
        prepare.prepare("mnist", data_config(raw, "mnist"))


@pytest.mark.long
def test_of_two_processes_one_prepares_while_the_other_waits(raw: pathlib.Path):
    program = (
        f"import sys; sys.path[:0] = {[os.path.dirname(__file__), *sys.path]!r}\n"
        "import pathlib, pytest, test_prepare; from gen_jax.data import prepare\n"
        f"folder = pathlib.Path({str(raw)!r})\n"
        "test_prepare.register(pytest.MonkeyPatch(), 'mnist', folder / 'downloads/manual')\n"
        "print(prepare.prepare('mnist', test_prepare.data_config(folder, 'mnist')))"
    )
    with locks.alone(raw / ".mnist.lock", ""):  # as if a third one were at it
        processes = [
            subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for process in processes:
            assert process.stderr is not None
            assert process.stderr.readline() == f"gen_jax: another process is preparing mnist in {raw}: waiting\n"
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [out.strip() for out, _ in outputs] == [str(raw / "mnist/3.0.1")] * 2
    assert sum("downloading and preparing it" in err for _, err in outputs) == 1


def test_without_locks_what_another_process_writes_is_left_alone(raw: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locks, "_take", lambda *_: False)
    (raw / "mnist" / "incomplete.ABCDEF_3.0.1").mkdir(parents=True)
    prepare.prepare("mnist", data_config(raw, "mnist"))
    assert sorted(os.listdir(raw / "mnist")) == ["3.0.1", "incomplete.ABCDEF_3.0.1"]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_without_a_network_one_line_says_what_to_do(name: str, tmp_path: pathlib.Path):
    with pytest.raises(dataset.UnavailableError) as caught:
        dataset.load(data_config(tmp_path, name))
    message = str(caught.value)
    assert message.startswith(f"{name!r} is not prepared in {tmp_path} and cannot be downloaded (no answer from ")
    assert f"`python -m gen_jax.data {name} --data_dir={tmp_path}`" in message
    assert "\n" not in message
    assert tfds.prepared(tmp_path) == {}
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("no_network")
def test_what_was_not_prepared_leaves_no_folder(tmp_path: pathlib.Path):
    (tmp_path / "home").mkdir()
    with pytest.raises(dataset.UnavailableError):
        prepare.prepare("cifar10", data_config(tmp_path / "home/new/tfds", "cifar10"))
    assert os.listdir(tmp_path / "home") == []


def test_a_network_that_swallows_everything_is_given_up(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prepare, "_PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{silent.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(dataset.UnavailableError, match="no answer from storage.googleapis.com"):
            prepare.prepare("mnist", data_config(tmp_path, "mnist"))


def test_tfds_is_as_before_after_a_failure(tmp_path: pathlib.Path):
    watched = [
        (downloader, "MAX_RETRIES"), (downloader, "_open_url"), (extractor, "tf"), (mnist, "tf"),
        (image_feature._ImageEncoder, "_encode_image"),
    ]  # fmt: skip
    before = [getattr(*each) for each in watched]
    builder = tensorflow_datasets.builder("mnist", data_dir=tmp_path, file_format="array_record")

    def replaced() -> list[bool]:
        return [getattr(*each) is not old for each, old in zip(watched, before, strict=True)]

    def fail() -> None:
        with prepare.stand_ins(builder):
            raise ZeroDivisionError(replaced())

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    assert caught.value.args[0] == [True] * len(watched)
    assert replaced() == [False] * len(watched)


def test_where_tensorflow_is_installed_none_stands_in_for_it(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prepare, "_is_missing", lambda package: False)
    before = extractor.tf, mnist.tf, image_feature._ImageEncoder._encode_image
    builder = tensorflow_datasets.builder("mnist", data_dir=tmp_path, file_format="array_record")
    with prepare.stand_ins(builder):
        assert (extractor.tf, mnist.tf, image_feature._ImageEncoder._encode_image) == before


def test_private_names_that_tfds_no_longer_has_are_one_line(raw: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(image_feature._ImageEncoder, "_encode_image")
    with pytest.raises(UserError, match=r"TFDS 4\.\S+ cannot prepare data sets .*_encode_image.*gen-jax\[tf\]"):
        prepare.prepare("mnist", data_config(raw, "mnist"))


def test_a_set_that_truly_needs_tensorflow_says_so(raw: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    def read(path: str, num_images: int):
        return mnist.tf.io.decode_raw(path)

    monkeypatch.setattr(mnist, "_extract_mnist_images", read)
    with pytest.raises(UserError, match=r'to prepare \'mnist\', TFDS needs tensorflow: `pip install "gen-jax\[tf\]"`'):
        prepare.prepare("mnist", data_config(raw, "mnist"))
    assert tfds.prepared(raw) == {}


def test_arrays_that_would_become_jpeg_need_tensorflow():
    encoder = image_feature._ImageEncoder(shape=(4, 4, 3), dtype=np.uint8, encoding_format="jpeg")
    with pytest.raises(ModuleNotFoundError, match="JPEG"):
        prepare._encode_png(encoder, np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_loses_nothing(channels: int):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    encoder = image_feature._ImageEncoder(shape=pixels.shape, dtype=np.uint8, encoding_format="png")
    with PIL.Image.open(io.BytesIO(prepare._encode_png(encoder, pixels))) as picture:
        np.testing.assert_array_equal(np.asarray(picture).reshape(pixels.shape), pixels)


def test_an_archive_never_leaves_its_folder():
    """TFDS unpacks what is downloaded; nothing of ours unpacks anything."""
    names = ["inside/a", "../evil", "/evil", "inside/../../evil"]
    tar, zipped = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo("inside/link")
        link.type, link.linkname = tarfile.SYMTYPE, "../../evil"
        archive.addfile(link)
    with zipfile.ZipFile(zipped, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    for read, file in ((extractor.iter_tar, tar), (extractor.iter_tar_stream, tar), (extractor.iter_zip, zipped)):
        file.seek(0)
        unpacked = [path for path, _ in read(file)]
        assert unpacked[0] == "inside/a"
        # A link becomes a file with what it points to inside of the archive, if that is there.
        assert set(unpacked) <= {"inside/a", "inside/link"}


def test_a_damaged_download_is_no_data(raw: pathlib.Path):
    file = raw / "downloads/manual/train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="checksum"):
        prepare.prepare("mnist", data_config(raw, "mnist"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", r"there is no set 'mnits', .*did you mean mnist\?"),
        ("mnist:1.0.0", r"TFDS cannot prepare 'mnist:1.0.0': .*version 1.0.0, only: 3.0.1"),
        ("mnist/bold", r"TFDS cannot prepare 'mnist/bold': BuilderConfig bold not found"),
        ("ag_news_subset", r"'ag_news_subset' has no feature 'image' of uint8"),
    ],
)
def test_what_cannot_be_prepared_is_refused_before_the_network(
    name: str, message: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(prepare, "_require_answer", lambda url: 1 / 0)
    with pytest.raises(UserError, match=message) as caught:
        prepare.prepare(name, data_config(tmp_path, name))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.json"))


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: pathlib.Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"'mnist' is not prepared, and .*file cannot be written .*data_dir"):
        prepare.prepare("mnist", data_config(tmp_path / "file", "mnist"))

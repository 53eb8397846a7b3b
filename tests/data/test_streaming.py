import contextlib
import errno
import multiprocessing
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import tiny_words
from test_train import assert_same_bits, final_state

from gen_jax import main
from gen_jax.data import cache, dataset, streaming
from gen_jax.method import UserError


class Stored:
    """A source of arrays that counts what is read of it."""

    def __init__(self, **arrays: np.ndarray):
        self.arrays = arrays
        self.num_read = 0

    def __len__(self) -> int:
        return len(self.arrays["image"])

    def __getitems__(self, rows):
        self.num_read += len(rows)
        return [{name: array[row] for name, array in self.arrays.items()} for row in rows]


def _arrays(num_examples: int) -> cache.Arrays:
    """Images [N, 2, 3, 1] that differ, labels of 10 classes."""
    number = np.arange(num_examples)
    image = (number[:, None] * 7 + np.arange(6)).astype(np.uint8).reshape(-1, 2, 3, 1)
    return {"image": image, "label": (number % 10).astype(np.int32)}


def _fetch(folder: pathlib.Path, source, num_classes: int | None = 10) -> cache.Stored:
    return streaming.fetch(folder, "made_up", {"name": "made_up"}, source, num_classes)


@pytest.mark.parametrize(
    "rows",
    [3, -1, slice(2, 5), slice(-3, None), slice(4, 4), np.array([5, 0, 5]), np.array([[1, 2], [3, 4]]), np.int64(2)],
)
def test_images_are_indexed_as_the_array_is(rows):
    image = _arrays(10)["image"]
    images = streaming.Images(Stored(image=image))
    assert (images.shape, images.dtype, len(images)) == (image.shape, image.dtype, len(image))
    np.testing.assert_array_equal(images[rows], image[rows])
    assert images[rows].shape == image[rows].shape


@pytest.mark.parametrize("num_examples", [1, 64, 150])  # within, of and over a chunk
def test_content_and_fingerprint_are_those_of_the_set_in_memory(num_examples: int, tmp_path: pathlib.Path):
    arrays = _arrays(num_examples)
    streamed = _fetch(tmp_path, Stored(**arrays))
    assert streamed.fingerprint == cache.fingerprint(arrays)
    np.testing.assert_array_equal(streamed.arrays["image"][:], arrays["image"])
    np.testing.assert_array_equal(streamed.arrays["label"], arrays["label"])


def test_a_set_without_classes_has_no_labels_whatever_its_source_gives(tmp_path: pathlib.Path):
    arrays = _arrays(5)
    streamed = _fetch(tmp_path, Stored(image=arrays["image"], label=np.array(["a"] * 5)), num_classes=None)
    assert set(streamed.arrays) == {"image"}
    assert streamed.fingerprint == cache.fingerprint({"image": arrays["image"]})


def test_a_set_is_read_as_a_whole_once_and_then_as_asked_for(tmp_path: pathlib.Path):
    first, second = Stored(**_arrays(100)), Stored(**_arrays(100))
    assert _fetch(tmp_path, first).fingerprint == _fetch(tmp_path, second).fingerprint
    assert (first.num_read, second.num_read) == (101, 1)  # one tells the size
    batches = dataset.Batches(_fetch(tmp_path, second).arrays, batch_size=8, seed=0)
    assert second.num_read == 2
    batches.batch(5)
    assert second.num_read == 10


def test_sets_that_do_not_fit_an_array_are_refused(tmp_path: pathlib.Path):
    class Uneven(Stored):
        def __getitems__(self, rows):
            return [{"image": np.zeros((8, 8 if row else 1, 1), np.uint8), "label": 0} for row in rows]

    with pytest.raises(UserError, match=r"different sizes \(\(8, 8, 1\) beside \(8, 1, 1\)\).*image_size"):
        _fetch(tmp_path, Uneven(**_arrays(5)))
    with pytest.raises(UserError, match="examples without a class"):
        _fetch(tmp_path, Stored(**_arrays(20)), num_classes=9)


@pytest.fixture(scope="module")
def digits(made_up_tfds: pathlib.Path) -> tuple[cache.Arrays, cache.Arrays]:
    """A set of TFDS in memory, and streamed."""
    source = tfds.builder_from_directory(made_up_tfds / "made_up_digits/1.0.0").as_data_source(split="train")
    image, label = zip(*[(example["image"], example["label"]) for example in source], strict=True)
    streamed = streaming.fetch(cache.root() / "data", "digits", {"name": "digits"}, source, 10)
    return {"image": np.stack(image), "label": np.array(label, np.int32)}, streamed.arrays


@pytest.mark.parametrize(("workers", "start", "batches_per_step"), [(0, 0, 1), (0, 29, 3), (2, 29, 3)])
def test_batches_are_those_of_the_set_in_memory_from_any_step(digits, workers: int, start: int, batches_per_step: int):
    memory, streamed = digits
    steps = range(start, start + 12)  # over the end of more than one epoch
    arguments = (96, 7, 1, 2, batches_per_step)  # batch_size, seed, the second process of two
    expected = dataset.Batches(memory, *arguments)
    with streaming.ahead(dataset.Batches(streamed, *arguments).batch, steps, workers) as batches:
        for step, batch in zip(steps, batches, strict=True):
            assert batch.keys() == {"image", "label", "index"}
            for name, array in expected.batch(step).items():
                np.testing.assert_array_equal(batch[name], array)
                assert batch[name].dtype == array.dtype
    assert not multiprocessing.active_children()


def test_files_that_vanish_are_one_line():
    class Vanishing(list):
        def __getitems__(self, rows):
            if len(rows) > 1:
                raise OSError(errno.ESTALE, "Stale file handle")
            return [{"image": np.zeros((1, 1, 1), np.uint8)} for _ in rows]

    with pytest.raises(UserError, match=r"cannot read the streamed set any more \(.*Stale file handle\)") as error:
        streaming.Images(Vanishing(range(4)))[0:3]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_arrives_as_it_was_raised_and_nothing_stays_behind(workers: int):
    def fail_at_three(number: int) -> int:
        if number == 3:
            raise UserError("number 3 is damaged")
        return number

    with (
        pytest.raises(UserError, match="number 3 is damaged"),
        streaming.ahead(fail_at_three, range(9), workers) as numbers,
    ):
        list(numbers)
    assert not multiprocessing.active_children()


PROGRAM = """
import os, signal, sys, time
from gen_jax.data import streaming

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in its background without

def main():
    with streaming.ahead(lambda _: os.getpid(), range(10**9), workers=1) as processes:
        worker = next(processes)
        try:
            print(worker, flush=True)
            time.sleep(100)
        except KeyboardInterrupt:
            return {next(processes) for _ in range(20)}  # the worker goes on until its parent is done

if __name__ == "__main__":
    print(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_worker_leaves_ctrl_c_to_its_parent_and_dies_with_it(number: int):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=os.environ | {"PYTHONPATH": str(pathlib.Path(streaming.__file__).parents[2])},
    )  # fmt: skip
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    assert worker != process.pid
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    said, complaints = process.communicate(timeout=100)
    if number == signal.SIGINT:
        assert (process.returncode, said.strip(), complaints) == (0, f"{{{worker}}}", "")
    deadline = time.monotonic() + 100
    while _is_alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_that_goes_on_from_a_stream_is_the_same_run_bit_by_bit(tiny_run, made_up_tfds, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run/report.html").unlink()
    shutil.rmtree(max((tmp_path / "run/checkpoints").glob("[0-9]*"), key=lambda path: int(path.name)))
    words = [*tiny_words(made_up_tfds), "--config.data.stream=true", "--config.data.workers=1"]
    main.main([*words, f"--workdir={tmp_path / 'run'}"])
    assert not multiprocessing.active_children()
    assert list((cache.root() / "data").glob("made_up_digits-train-streamed-*"))
    assert_same_bits(final_state(tmp_path / "run"), final_state(tiny_run))


def _is_alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False

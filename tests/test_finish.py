"""The end of a run: what is on the disk before anything is judged, and which examples the pictures are made of."""

import shutil

import jax
import numpy as np
import pytest
from conftest import tiny_words

from gen_jax import evaluate, finish, main
from gen_jax.data import dataset
from gen_jax.method import DataSpec, Method, Picture, State
from gen_jax.run import Run

pytestmark = pytest.mark.long


def test_samples_and_pictures_are_on_the_disk_before_anything_is_judged(tiny_run, made_up_tfds, tmp_path, monkeypatch):
    """Judging takes minutes: whoever looks, or is killed, meanwhile has all that was drawn, and no page that says that
    all is done."""

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    run = Run(tmp_path / "run")
    shutil.copytree(tiny_run, run.workdir)
    expected = sorted(path.name for path in run.pictures.glob("*.npz"))
    for folder in (run.pictures, run.training):
        shutil.rmtree(folder)
    for path in (run.samples_npz, run.workdir / "samples.png", run.report_json):
        path.unlink()
    words = [*tiny_words(made_up_tfds), f"--workdir={run.workdir}"]
    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "judge", killed)
        with pytest.raises(KeyboardInterrupt):
            main.main(words)
    assert np.load(run.samples_npz)["arr_0"].shape == (70, 8, 8, 1)
    assert (run.workdir / "samples.png").is_file()
    assert "nearest" in " ".join(expected)
    assert sorted(path.name for path in run.pictures.glob("*.npz")) == expected
    assert [path.name for path in (run.training / "samples").glob("*.npz")] == ["00000012.npz"]
    assert not run.report_json.exists()
    assert not run.report_html.exists()
    assert run.finished_step is None

    main.main(words)
    assert run.finished_step == 12


def test_pictures_are_made_of_examples_from_all_over_the_set_and_keep_their_order():
    spec = DataSpec("made_up", (1, 1, 1), 100)
    data = dataset.Dataset(spec, {"image": np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1)}, None)

    def pictures(state, key, batch):
        return {"b": Picture(batch["image"], "t"), "a": Picture(batch["index"], "t")}

    method = Method(*[None] * 4, pictures, num_pictured=5)  # pyright: ignore
    state = State(np.int32(0), jax.random.key(0), {}, {}, {}, {}, {})  # pyright: ignore
    shown = finish.make_pictures(method, data, state)
    assert list(shown) == ["b", "a"]
    assert shown["b"].images.ravel().tolist() == [0, 26, 52, 63, 89]  # multiples of 63 modulo 100
    assert shown["a"].images.tolist() == [0, 1, 2, 3, 4]

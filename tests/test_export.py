"""What `--mode=export` writes is the model of the run, without the run."""

import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import TINY

import gen_jax
from gen_jax import convert, export, main, methods, parallel, portable, train
from gen_jax.checkpoint import Checkpoints
from gen_jax.method import DataSpec, UserError, labelled
from gen_jax.metrics import safetensors_file
from gen_jax.run import Run
from gen_jax.text.encoder import Encoder
from gen_jax.text.texts import Texts

ROOT = pathlib.Path(__file__).parents[1]
CIFAR = ("--config.network.multipliers=(1,2)", "--config.network.attention_sizes=(4,)", "--config.sample.num_steps=3")


def untrained(workdir, name, changes, labels=True):
    """A run that was never trained: a config and a checkpoint."""
    run, mesh = Run(workdir), parallel.make_mesh(1)
    config = methods.override(methods.load(f"{name}:tiny")[2], changes)
    config.data.data_dir, config.data.cache_dir = str(workdir / "data_of_mine"), str(workdir / "cache_of_mine")
    spec = DataSpec("made_up_digits", (8, 8, 1), 512, labelled("0123456789") if labels else {})
    method = methods.make(config, spec)
    abstract = methods.abstract_state(method, spec, None, mesh)
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(parallel.init_state(method.init, 0, mesh, {}, {}))
    run.write_config(train.describe(config, spec, abstract, mesh, name, "tiny", f"in {workdir}"))
    return run.workdir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of a class-conditional DDPM; tests must not change it."""
    return untrained(tmp_path_factory.mktemp("run"), "ddpm_mnist", TINY)


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    main.main([f"--workdir={run}", "--mode=export", f"--out={folder}", "--config.sample.num_steps=2"])
    return folder / "model.safetensors"


def test_a_file_gives_the_samples_of_its_run_bit_by_bit(run, file):
    of_run, of_file = gen_jax.load(run, num_steps=2), gen_jax.load(file)
    np.testing.assert_array_equal(of_file.sample(6, seed=3), of_run.sample(6, seed=3))
    assert gen_jax.load(file, num_steps=3).config.sample.num_steps == 3


def test_a_file_has_flat_names_and_no_word_of_the_machine(run, file):
    tensors, told = safetensors_file.read_with_metadata(file)
    assert {name.partition("/")[0] for name in tensors} == {"ema", "key", "step"}
    assert tensors["ema/denoiser/in/kernel"].dtype == np.float32
    assert json.loads(told["data"])["features"]["label"]["names"] == [*"0123456789"]
    assert json.loads(told["config"])["sample"]["num_steps"] == 2
    content = file.read_bytes()
    for word in (str(run), "of_mine"):
        assert word.encode() not in content


def test_the_package_safetensors_reads_it(file):
    package = pytest.importorskip("safetensors.numpy", reason="the package safetensors is not needed")
    theirs, ours = package.load_file(file), safetensors_file.read(file)
    assert theirs.keys() == ours.keys()
    for name, tensor in ours.items():
        np.testing.assert_array_equal(theirs[name], tensor)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda tensors, told: tensors.pop("ema/denoiser/in/bias"), "it lacks ema/denoiser/in/bias; export it again"),
        (lambda tensors, told: tensors.pop("key"), "it lacks key; export it again"),
        (lambda tensors, told: tensors.update({"ema/x": np.zeros(1)}), "it has 'ema/x' as well"),
        (
            lambda tensors, told: tensors.update({"ema/denoiser/in/bias": np.zeros(3, np.float32)}),
            "it has ema/denoiser/in/bias of type float32 and shape [3], which needs float32 and [8]",
        ),
        (lambda tensors, told: told.pop("format"), "was not written by --mode=export"),
        (
            lambda tensors, told: told.update(format_version="2"),
            "is of format '2', and this version of gen_jax reads '1'",
        ),
        (lambda tensors, told: told.update(config="{"), "has damaged metadata"),
    ],
)
def test_another_file_is_refused_in_one_line(file, tmp_path, change, part):
    tensors, told = safetensors_file.read_with_metadata(file)
    change(tensors, told)
    safetensors_file.write(tmp_path / "changed.safetensors", tensors, told)
    with pytest.raises(UserError) as error:
        gen_jax.load(tmp_path / "changed.safetensors")
    assert part in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_what_a_file_does_not_have_is_one_line(file, tmp_path):
    with pytest.raises(UserError, match="holds one checkpoint"):
        gen_jax.load(file, checkpoint="best")
    with pytest.raises(UserError, match="cannot read the weights file"):
        gen_jax.load(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="holds no run"):
        main.main([f"--workdir={file}", "--mode=sample"])


def test_paths_are_cut_down_to_their_last_part():
    config = {
        "data": {"name": "image_folder:/home/me/cats", "data_dir": "/home/me/tfds", "text": {"path": "/home/me/a.npz"}},
        "pretrained": "/home/me/runs/first", "network": {"multipliers": (1, 2)}, "sample": {"spacing": "leading"},
    }  # fmt: skip
    assert portable.without_paths(config) == {
        "data": {"name": "image_folder:cats", "data_dir": "", "text": {"path": "a.npz"}},
        "pretrained": "first", "network": {"multipliers": (1, 2)}, "sample": {"spacing": "leading"},
    }  # fmt: skip


def test_texts_travel_as_bytes():
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    given = Texts(Encoder("words", 3, {"table": vectors}, {"known": ["red", "star"]}), ("a star", "é"), vectors)
    packed = portable._pack(given)
    assert {tensor.dtype for tensor in packed.values()} == {np.dtype(np.uint8)}
    files = {name.removeprefix("text/"): tensor for name, tensor in packed.items()}
    found = portable._unpack(files, pathlib.Path("a"))
    assert (found.prompts, found.encoder.facts, found.split) == (given.prompts, given.encoder.facts, given.split)
    np.testing.assert_array_equal(found.embeddings, vectors)
    np.testing.assert_array_equal(found.encoder.arrays["table"], vectors)
    with pytest.raises(UserError, match=r"a does not hold .* it lacks text/prompts\.npy"):
        portable._unpack({name: files[name] for name in files if name != "prompts.npy"}, pathlib.Path("a"))


@pytest.mark.long
def test_the_script_of_the_page_needs_jax_alone_and_draws_the_images_of_the_run(run, tmp_path):
    pytest.importorskip("flatbuffers", reason="flatbuffers is in the extra export")
    main.main([f"--workdir={run}", "--mode=export", "--format=stablehlo", f"--out={tmp_path}"])
    (script,) = re.findall(r"```python\n(import jax\n.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)
    assert re.findall(r"import (\w+)", script) == ["jax"]
    script = script.replace("runs/ddpm_mnist/export/", "")
    ends = "import sys; assert 'gen_jax' not in sys.modules; jax.numpy.save('images.npy', images)"
    done = subprocess.run([sys.executable, "-c", script + ends], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    images = np.load(tmp_path / "images.npy")
    assert (images.shape, images.dtype) == ((16, 8, 8, 1), np.uint8)
    expected = gen_jax.load(run).sample(16)
    assert np.abs(images.astype(int) - expected).max() <= 1
    assert (images == expected).mean() > 0.99
    exported = jax.export.deserialize(bytearray((tmp_path / "sampler.stablehlo").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")


def test_a_model_in_parts_is_exported_whole(run, tmp_path):
    pytest.importorskip("flatbuffers", reason="flatbuffers is in the extra export")
    export.export(run, "stablehlo", str(tmp_path), ("--config.sharding=fsdp",))
    content = bytearray((tmp_path / "sampler.stablehlo").read_bytes())
    assert jax.export.deserialize(content).nr_devices == 1


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("cifar"), "ddpm_cifar10", CIFAR, labels=False)


@pytest.mark.long
def test_a_run_comes_back_from_diffusers_folder(published, made_up_tfds, tmp_path):
    main.main([f"--workdir={published}", "--mode=export", "--format=diffusers", f"--out={tmp_path}"])
    folder = tmp_path / "diffusers"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")) == [
        "model_index.json", "scheduler/scheduler_config.json", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    data = ["--config.data.name=made_up_unlabelled", f"--config.data.data_dir={made_up_tfds}"]
    convert.main([str(folder), str(tmp_path / "back"), *data, "--config.sample.num_steps=3"])
    back, there = gen_jax.load(tmp_path / "back"), gen_jax.load(published)
    assert back.config.network.attention_sizes == (4,)
    assert back.config.sample.sampler.variance == "large"
    jax.tree.map(np.testing.assert_array_equal, back.state.ema, there.state.ema)


def test_what_a_format_needs_is_one_line(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(UserError, match=r"needs flatbuffers, as jax\.export does: pip install 'gen_jax\[export\]'"):
        main.main([f"--workdir={run}", "--mode=export", "--format=stablehlo"])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--format=safetensor"], "did you mean safetensors?"),
        (["--format=diffusers"], "config.diffusion.conditional is True"),
        (["--out=a_file"], "--out=a_file is a file: give a folder"),
        (["--config.seed=1"], "cannot be changed"),
    ],
)
def test_what_cannot_be_exported_is_one_line(run, monkeypatch, tmp_path, words, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").write_text("")
    with pytest.raises(UserError) as error:
        main.main([f"--workdir={run}", "--mode=export", *words])
    assert part in str(error.value)
    assert len(str(error.value).splitlines()) == 1

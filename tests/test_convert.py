"""`python -m gen_jax.convert`: what it writes is a run like any other, and what it refuses leaves nothing behind."""

import json
import pathlib
import re

import numpy as np
import pytest
from published_files import as_safetensors, random_tensors

import gen_jax
from gen_jax import convert, main, report
from gen_jax.method import UserError

NETWORK = ("multipliers=(1,2)", "num_blocks=1", "attention_sizes=(4,)")
WORDS = (*(f"--config.network.{word}" for word in NETWORK), "--config.sample.num_steps=3", "--config.num_steps=40")


def words_for(data_dir: pathlib.Path, name: str = "made_up_digits") -> list[str]:
    return ["--config=ddpm_cifar10:tiny", f"--config.data.name={name}", f"--config.data.data_dir={data_dir}", *WORDS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("published")


@pytest.fixture(scope="module")
def file(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(as_safetensors(random_tensors("diffusers")))
    return path


@pytest.fixture(scope="module")
def run(folder, file, made_up_tfds):
    """A converted run; tests must not change it."""
    convert.main([str(file), str(folder / "run"), *words_for(made_up_tfds)])
    return folder / "run"


def test_a_converted_run_has_the_weights_of_the_file_as_parameters_and_as_average(run):
    model, tensors = gen_jax.load(run), random_tensors("diffusers")
    expected = tensors["down_blocks.0.resnets.0.conv1.weight"].transpose(2, 3, 1, 0)
    for params in (model.state.params, model.state.ema):
        np.testing.assert_array_equal(params["denoiser"]["down_0_0"]["conv_0"]["kernel"], expected)
    assert int(model.state.step) == 40


def test_its_samples_are_those_of_its_weights(run):
    images = gen_jax.load(run).sample(2)
    assert images.shape == (2, 8, 8, 1)
    assert images.dtype == np.uint8
    assert len(np.unique(images)) > 10


def test_its_files_say_where_the_weights_come_from(run, file):
    record = json.loads((run / "config.json").read_text())
    assert record["name"] == "ddpm_cifar10"
    assert record["data"]["name"] == "made_up_digits"
    assert record["converted"]["file"] == "weights.safetensors"
    assert record["converted"]["layout"] == "diffusers"
    assert record["converted"]["command"].startswith(f"python -m gen_jax.convert {file} ")
    assert re.fullmatch("[0-9a-f]{64}", record["converted"]["sha256"])
    assert record["command"] == f"python -m gen_jax.main --workdir={run}"
    assert "denoiser" in (run / "parameters.txt").read_text()


def test_its_page_says_that_it_was_not_trained_here(run, tmp_path):
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    page = report.write(tmp_path).read_text()
    assert "These weights were not trained here: they are those of weights.safetensors" in page
    assert "python -m gen_jax.convert" in page
    assert "is not finished" not in page
    for words in ("trained for", "training ends", "No step has been logged"):
        assert words not in page


def test_it_cannot_be_trained_further(run):
    for words in ((), ("--config.num_steps=80",)):
        with pytest.raises(UserError, match=r"was converted from weights\.safetensors, .* not trained further"):
            main.main([f"--workdir={run}", *words])


def test_a_directory_that_exists_is_left_alone(run, file, made_up_tfds, tmp_path):
    for place in (run, tmp_path):
        with pytest.raises(UserError, match="exists already: choose another WORKDIR"):
            convert.main([str(file), str(place), *words_for(made_up_tfds)])
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("content", "words", "part"),
    [
        (None, (), "cannot read the weights file"),
        (as_safetensors(random_tensors("diffusers"))[:-1], (), "is cut short"),
        (as_safetensors(random_tensors("diffusers", num_blocks=2)), (), "but of another network"),
        (as_safetensors({"a": np.ones(1, np.float32)}), (), "with the names of no layout"),
        (
            as_safetensors(random_tensors("diffusers")),
            ("--config.network.channels=16",),
            "is of shape [8], where this one needs [16]",
        ),
        (b"", ("--config.diffusion.conditional=true",), "published weights know no labels"),
        (b"", ("--config.network=dit",), "of a ddpm with network unet, not of ddpm with network dit"),
        (b"", ("--config.sede=1",), "did you mean seed?"),
        (b"", ("--confg=1",), "unknown argument"),
    ],
)
def test_what_is_refused_is_one_line_and_leaves_nothing_behind(made_up_tfds, tmp_path, content, words, part):
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    start = words_for(made_up_tfds)
    if "--config.network=dit" in words:
        start = [word for word in start if not word.startswith("--config.network.")]
    with pytest.raises(UserError) as error:
        convert.main([str(path), str(tmp_path / "run"), *start, *words])
    assert part in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_file_of_torch_is_read_by_its_name(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(as_safetensors({"a": np.ones(1, np.float32)}))
    with pytest.raises(UserError, match="is no PyTorch weights file"):
        convert.read(path)


@pytest.mark.long
def test_a_converted_run_is_sampled_judged_and_reported_like_any_other(folder, file, made_up_tfds):
    run = folder / "judged"
    convert.main([str(file), str(run), *words_for(made_up_tfds)])
    start = f"--workdir={run}"
    main.main([start, "--mode=sample", "--config.sample.num=20"])
    main.main([start, "--mode=eval", "--config.eval.num_samples=80", "--config.eval.classifier_steps=10"])
    with np.load(run / "samples.npz") as samples:
        assert samples["arr_0"].shape == (20, 8, 8, 1)
    metrics = json.loads((run / "report.json").read_text())["metrics"]
    assert any("frechet" in metric["name"] for metric in metrics)
    assert all(np.isfinite(metric["value"]) for metric in metrics)
    assert "These weights were not trained here" in (run / "report.html").read_text()

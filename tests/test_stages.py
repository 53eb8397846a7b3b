"""A first stage, by the smallest latent diffusion: trained by the same command, or taken from a run at hand."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

import gen_jax
from gen_jax import main, methods, stages
from gen_jax.checkpoint import Checkpoints
from gen_jax.method import UserError
from gen_jax.run import Run

pytestmark = pytest.mark.long

SHORT = ("log_every=2", "eval_every=4", "checkpoint_every=4", "sample.num=70", "sample.batch_size=70",
         "eval.num_examples=20", "eval.classifier_steps=10")  # fmt: skip
FIRST = ("num_steps=4", "batch_size=16", "network.channels=(4,)", "vae.latents=32", *SHORT)
SECOND = (
    "num_steps=8",
    "optimizer.name=adam",
    "batch_size=16",
    "network.multipliers=(1,)",
    "sample.num_steps=3",
    *SHORT,
)


def words(workdir, data_dir, name="made_up_digits", pretrained=None):
    first = [f"pretrained.{word}" for word in FIRST] if pretrained is None else [f"pretrained={pretrained}"]
    return [
        "--config=latent_mnist:tiny",
        f"--workdir={workdir}",
        *(
            f"--config.{word}"
            for word in (f"data.data_dir={data_dir}", f"data.name={name}", "num_devices=1", *first, *SECOND)
        ),
    ]


@pytest.fixture(scope="module")
def trained(made_up_tfds, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("latent") / "run"
    main.main(words(workdir, made_up_tfds))
    return workdir


@pytest.fixture
def copy(trained, tmp_path):
    return pathlib.Path(shutil.copytree(trained, tmp_path / "copy"))


def weights(workdir):
    model = gen_jax.load(workdir)
    return jax.tree.map(np.asarray, model.state.frozen or model.state.ema)


def test_one_command_trains_both_and_the_weights_of_the_first_stay(trained):
    first = Run(trained / "pretrained")
    assert first.finished_step == 4
    assert Run(trained).finished_step == 8
    jax.tree.map(np.testing.assert_array_equal, weights(trained), weights(first.workdir))
    assert "first stage" in Run(trained).report_html.read_text()
    model = gen_jax.load(trained)
    assert model.sample(3).shape == (3, 8, 8, 1)
    # 8x8 images, one level: codes of 4x4 places with 2 numbers at each.
    assert model.state.variables["codes"]["scale"].shape == (2,)


def test_a_run_is_whole_without_the_folder_of_its_first_stage(copy):
    before = gen_jax.load(copy).sample(5)
    shutil.rmtree(copy / "pretrained")
    np.testing.assert_array_equal(gen_jax.load(copy).sample(5), before)
    main.main([f"--workdir={copy}", "--config.num_steps=12"])
    assert Run(copy).finished_step == 12
    assert not (copy / "pretrained").exists()


@pytest.mark.slow
def test_a_first_stage_that_is_trained_is_not_trained_again(made_up_tfds, copy, capsys):
    shutil.rmtree(copy / "checkpoints")
    stamp = (copy / "pretrained" / "config.json").stat().st_mtime_ns
    main.main(words(copy, made_up_tfds))
    assert "pretrained has finished at step 4" in capsys.readouterr().out
    assert (copy / "pretrained" / "config.json").stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_a_run_at_hand_is_taken_as_it_is(trained, made_up_tfds, tmp_path):
    first, second = trained / "pretrained", tmp_path / "second"
    main.main(words(second, made_up_tfds, pretrained=first))
    jax.tree.map(np.testing.assert_array_equal, weights(second), weights(first))
    assert not (second / "pretrained").exists()
    record = Run(second).read_config()
    assert record["config"]["pretrained"] == str(first)
    assert record["pretrained"]["config"]["method"] == "vae"
    # The same first stage, seed and steps, however it came about.
    np.testing.assert_array_equal(gen_jax.load(second).sample(4), gen_jax.load(trained).sample(4))


def refused(made_up_tfds, tmp_path, **changes):
    workdir = tmp_path / "refused"
    with pytest.raises(UserError) as error:
        main.main(words(workdir, made_up_tfds, **changes))
    assert "\n" not in str(error.value)
    assert not (workdir / "config.json").exists()
    assert not (workdir / "pretrained").exists()
    return str(error.value)


def test_a_first_stage_that_does_not_fit_is_refused_before_anything_is_written(
    trained, copy, tiny_run, made_up_tfds, tmp_path
):
    first = trained / "pretrained"
    assert "holds no run" in refused(made_up_tfds, tmp_path, pretrained=tmp_path)
    other = refused(made_up_tfds, tmp_path, pretrained=first, name="made_up_unlabelled")
    assert "was trained on made_up_digits" in other
    assert "both stages need the same images" in other
    assert "makes no codes" in refused(made_up_tfds, tmp_path, pretrained=tiny_run)
    record = json.loads((copy / "pretrained/config.json").read_text())
    record["config"]["num_steps"] = 100
    (copy / "pretrained/config.json").write_text(json.dumps(record))
    assert "not finished (step 4 of 100)" in refused(made_up_tfds, tmp_path, pretrained=copy / "pretrained")


def test_a_first_stage_whose_codes_are_vectors_is_refused_before_it_is_trained(made_up_tfds, tmp_path):
    workdir = tmp_path / "vectors"
    line = [*words(workdir, made_up_tfds), "--config.pretrained.network.name=dense"]
    line = [word for word in line if "pretrained.network.channels" not in word]
    with pytest.raises(UserError, match="codes that are small pictures"):
        main.main(line)
    assert not (workdir / "config.json").exists()
    assert not (workdir / "pretrained").exists()


def test_a_first_stage_has_seed_and_data_of_its_run():
    config = methods.override(methods.load("latent_mnist:tiny")[2], ["--config.seed=7", "--config.data.name=other"])
    assert not {*methods.SHARED} & {*config.pretrained}
    with pytest.raises(UserError, match=r"no config value 'pretrained\.seed'"):
        methods.override(config, ["--config.pretrained.seed=3"])


def test_folders_hold_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = methods.load("dcgan_cats")[2]
    config.data.name = "image_folder:cats"
    absolute = stages.with_absolute_paths(config)
    assert absolute.data.name == f"image_folder:{tmp_path}/cats"
    assert absolute.data.data_dir == ""
    assert stages.with_absolute_paths(absolute).to_dict() == absolute.to_dict()


def test_the_checkpoint_holds_the_frozen_weights(trained):
    with Checkpoints(Run(trained).checkpoints) as checkpoints:
        step = checkpoints.latest()
    leaves = json.loads((trained / "checkpoints" / str(step) / "leaves.json").read_text())
    assert any(name.startswith("frozen/vae/decoder") for name in leaves)
    assert not any(name.startswith("opt_state/vae") for name in leaves)

"""Small and odd sets of pictures, end to end: whatever cannot be measured is left out, and samples and page come."""

import json
import pathlib

import numpy as np
import PIL.Image
import pytest

from gen_jax import main
from gen_jax.method import UserError

pytestmark = pytest.mark.long

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
QUICK = (
    "--config.num_steps=2", "--config.eval_every=1", "--config.checkpoint_every=2", "--config.log_every=1",
    "--config.batch_size=8", "--config.sample.num=70", "--config.sample.batch_size=70", "--config.eval.track=66",
    "--config.eval.classifier_steps=2", "--config.num_devices=1",
)  # fmt: skip
DDPM = ("--config.network.multipliers=(1,)", "--config.network.attention_sizes=()", "--config.sample.num_steps=2")
DENSE = ("--config.network=dense",)  # what compiles fastest
FAMILIES = {"ddpm_mnist": DDPM, "vae_mnist": DENSE, "cgan_mnist": DENSE}
slow = pytest.mark.slow


def draw(folder, num, seed=0, size=12):
    """Writes `num` grey pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(num):
        PIL.Image.fromarray(rng.integers(0, 256, (size, size)).astype(np.uint8)).save(folder / f"{number:03}.png")


def train(tmp_path, config, *words):
    """Returns report.json of a finished run, and its page."""
    run = tmp_path / "run"
    data = f"--config.data.name=image_folder:{tmp_path / 'data'}"
    main.main([f"--config={CONFIGS / config}.py:tiny", data, f"--workdir={run}", *QUICK, *FAMILIES[config], *words])
    for file in ("samples.npz", "samples.png", "report.html"):
        assert (run / file).is_file(), file
    return json.loads((run / "report.json").read_text()), (run / "report.html").read_text()


def measures(report):
    return {row["name"].partition("/")[0] for row in report["metrics"]}


def left_out(report):
    return {each["measure"]: each["reason"] for each in report["left_out"]}


@pytest.mark.parametrize("num", [1, pytest.param(2, marks=slow), pytest.param(3, marks=slow), 12, 70])
def test_a_folder_of_few_pictures(num, tmp_path, capsys):
    draw(tmp_path / "data", num)
    report, page = train(tmp_path, "vae_mnist")
    num_train = num - num // 10
    assert json.loads((tmp_path / "run/config.json").read_text())["data"]["num_examples"] == num_train
    reason = f"it needs at least 65 of each, and there are {num_train} training images"
    assert left_out(report).get("frechet_distance") == (reason if num_train <= 64 else None)
    assert ("frechet_distance" in measures(report)) == (num_train > 64)
    assert ("precision" in measures(report)) == (num_train > 3)
    assert ("coverage" in measures(report)) == (num_train > 5)
    assert all(np.isfinite(row["value"]) for row in report["metrics"])
    assert "nan" not in capsys.readouterr().out.lower().replace("nano", "")
    if num_train <= 64:
        assert reason in page
        assert "Frechet distance: its features" not in page  # a protocol has what was measured, and no more
    if num == 12:  # one test picture has no spread
        assert {row["standard_error"] for row in report["metrics"] if row["name"].startswith("test_")} == {None}
    assert all(row["reference"] is None for row in report["metrics"])  # 70 samples, and a test split of 7 at most


def test_a_folder_that_was_renamed_is_the_same_set_and_another_is_not(tmp_path):
    draw(tmp_path / "data", 12)
    train(tmp_path, "vae_mnist")
    (tmp_path / "data").rename(tmp_path / "moved")
    words = [f"--workdir={tmp_path / 'run'}", f"--config.data.name=image_folder:{tmp_path / 'moved'}"]
    main.main([*words, "--mode=eval", "--config.eval.num_samples=4"])
    main.main([*words, "--config.num_steps=3"])
    assert json.loads((tmp_path / "run/report.json").read_text())["finished_step"] == 3
    draw(tmp_path / "moved", 12, seed=1)
    with pytest.raises(UserError, match="but the data at hand is image_folder:moved"):
        main.main([*words, "--config.num_steps=4"])


@pytest.mark.parametrize(
    "config", [pytest.param(each, marks=slow if each != "cgan_mnist" else ()) for each in FAMILIES]
)
def test_two_classes_of_six(config, tmp_path):
    for label, name in enumerate(("cat", "dog")):
        draw(tmp_path / "data" / name, 6, seed=label)
    report, _ = train(tmp_path, config)
    assert "frechet_distance" in left_out(report)
    assert {"confident_share", "precision"} <= measures(report)


@pytest.mark.parametrize("config", ["vae_mnist", pytest.param("ddpm_mnist", marks=slow)])
def test_one_class_is_judged_as_none(config, tmp_path):
    draw(tmp_path / "data/cat", 100)
    report, _ = train(tmp_path, config)
    judges = {row["name"].partition("/")[2] for row in report["metrics"] if "/" in row["name"]}
    assert judges - {"10_examples"} == {"turns_classifier_70"}  # the other one is of codes
    assert not measures(report) & {"confident_share", "class_agreement", "within_class_ms_ssim"}
    assert report["histogram"] is None


def test_a_class_without_test_pictures_and_one_of_a_single_test_picture(tmp_path):
    draw(tmp_path / "data/train/cat", 60)
    draw(tmp_path / "data/train/dog", 20, seed=1)
    draw(tmp_path / "data/test/cat", 1, seed=2)
    report, _ = train(tmp_path, "cgan_mnist")
    assert {"frechet_distance", "class_agreement", "within_class_ms_ssim"} <= measures(report)
    labels = np.load(tmp_path / "run/samples.npz")["arr_1"]
    assert np.bincount(labels).tolist() == [53, 17]  # 70 by 60 to 20
    assert labels[:6].tolist() == [0, 1, 0, 1, 0, 1]


def test_a_class_without_training_pictures_is_not_asked_for(tmp_path):
    for split, names in (("train", "ac"), ("test", "abc")):
        for name in names:
            draw(tmp_path / "data" / split / name, 40)
    report, _ = train(tmp_path, "cgan_mnist", "--config.sample.num=80")
    with np.load(tmp_path / "run/samples.npz") as file:
        assert np.bincount(file["arr_1"]).tolist() == [40, 0, 40]
    main.main([f"--workdir={tmp_path / 'run'}", "--mode=sample", "--config.sample.num=6"])
    with np.load(tmp_path / "run/samples.npz") as file:
        assert file["arr_1"].tolist() == [0, 2, 0, 2, 0, 2]
    referenced = {row["name"] for row in report["metrics"] if row["reference"] is not None}
    assert "frechet_distance/classifier_80" in referenced  # as many test images as samples

import json

import numpy as np
import PIL.Image
import pytest

from experiments import runs, superres
from gen_jax import methods
from gen_jax.data import bicubic
from gen_jax.method import UserError


class Stub:
    """Models that add to what is bicubic."""

    def __init__(self, by: int):
        self.by = by

    def upscale(self, images):
        return np.stack([self._larger(image) for image in images])

    def sample(self, condition):
        return self.upscale(condition["small"])

    def _larger(self, small):
        return np.clip(bicubic.enlarged(small, 4).astype(int) + self.by, 0, 255).astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for name, sizes in (("photos", [(70, 70)]), ("test", [(83, 97), (72, 68)])):
        (tmp_path / name).mkdir()
        for number, size in enumerate(sizes):
            pixels = rng.integers(100, 150, (*size, 3)).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return [f"--photos={tmp_path / 'photos'}", f"--test={tmp_path / 'test'}", f"--runs={tmp_path / 'runs'}",
            f"--out={tmp_path / 'out'}"]  # fmt: skip


def test_each_way_is_measured_on_whole_pictures_and_crops(folders, tmp_path, monkeypatch):
    trained = {}
    monkeypatch.setattr(runs, "train", lambda folder, lines, command, parallel: trained.update(lines))
    stubs = {"SRResNet": Stub(0), "SRGAN": Stub(3)}
    monkeypatch.setattr(superres, "enlargers", lambda folder, seed: stubs | ({} if seed else {"SR3": Stub(6)}))
    superres.main([*folders, "--seeds=2", "--config.batch_size=3"])
    assert [*trained] == ["srgan-seed0", "sr3-seed0", "srgan-seed1"]
    for words in trained.values():
        methods.check(runs.resolve(words))
        assert words[-1] == "--config.batch_size=3"
    report = json.loads((tmp_path / "out/report.json").read_text())
    whole, part = report["whole"], report["crops"]
    assert [*whole] == [f"{name}, seed {seed}" for seed in (0, 1) for name in ("bicubic", "SRResNet", "SRGAN")]
    assert [name for name in part if name.startswith("SR3")] == ["SR3, seed 0"]
    assert "| SR3 (1 seed) |" in (tmp_path / "out/table.md").read_text()
    assert whole["SRResNet, seed 1"] == whole["bicubic, seed 0"]
    assert "SRResNet: 0.00 dB above bicubic (0.00 to 0.00)." in report["verdict"]
    # Three grey levels more change Y by 3 x 219 / 255; the error of bicubic pixels is that of the noise around grey.
    psnr = superres.PSNR
    for where in (whole, part):
        before, after = (10 ** (-where[f"{name}, seed 0"][psnr] / 10) for name in ("SRResNet", "SRGAN"))
        assert after - before == pytest.approx((3 * 219 / 255 / 255) ** 2, rel=0.2)
    picture = np.asarray(PIL.Image.open(tmp_path / "out/crops.png"))
    assert picture.shape == (2 * 66 - 2, 5 * 66 - 2, 3)


def test_a_crop_lies_in_the_middle_and_small_pictures_are_refused():
    picture = np.arange(83 * 97).reshape(83, 97, 1)
    np.testing.assert_array_equal(superres.central(picture, 64), picture[8:72, 16:80])
    with pytest.raises(UserError, match="a picture of --test has 97x83 pixels, and crops have 96x96: leave it out"):
        superres.central(picture, 96)


def test_folders_without_pictures_are_refused_before_training(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "train", None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        superres.main([*folders, f"--test={tmp_path / 'empty'}"])
    with pytest.raises(UserError, match="at least 1"):
        superres.main([*folders, "--seeds=0"])

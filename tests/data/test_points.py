import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from gen_jax import config as configs
from gen_jax import load, main, methods
from gen_jax.data import __main__ as command
from gen_jax.data import gaussians
from gen_jax.figures import samples as figures
from gen_jax.method import DataSpec, Method, Scatter, State

SPEC = DataSpec("gaussians:grid25", (1, 1, 2), 9, kind="points", value_range=(-5.0, 5.0))


def test_the_sheet_of_a_set_of_points_shows_its_modes(tmp_path, capsys: pytest.CaptureFixture[str]):
    command.main(["gaussians:ring8", f"--sheet={tmp_path / 'sheet.png'}"])
    assert capsys.readouterr().out.startswith("gaussians:ring8: 1x1x2, no labels\n  train: 100,000 examples\n")
    with PIL.Image.open(tmp_path / "sheet.png") as picture:
        pixels = np.asarray(picture)
    place = (gaussians.MIXTURES["ring8"].centres + 2.5) / 5 * 256
    assert all(pixels[255 - int(y), int(x)] == 255 for x, y in place)
    assert (pixels > 0).mean() < 0.02


def test_points_become_a_scatter_before_those_of_the_data():
    points, data = np.arange(12, dtype=np.float32).reshape(2, 3, 1, 1, 2)
    shown = figures.still(points, SPEC, "Points", data=data)
    np.testing.assert_array_equal(shown.points, [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(shown.background, [[6, 7], [8, 9], [10, 11]])
    assert figures.still(points, SPEC, "Points").background is None


class Shift:
    """The smallest method: it learns where the points' mean lies, and draws points around it."""

    @staticmethod
    def make(config, spec, stage=None) -> Method:
        def init(key, examples, frozen):
            params = {"generator": {"mean": {"bias": jnp.array([1.0, -2.0])}}}
            return State(jnp.int32(0), key, params, {}, {}, params, frozen)

        def step(state, batch):
            assert batch["image"].dtype == jnp.float32
            mean = 0.5 * (state.params["generator"]["mean"]["bias"] + batch["image"].mean((0, 1, 2)) / 5)
            params = {"generator": {"mean": {"bias": mean}}}
            return state.replace(step=state.step + 1, params=params, ema=params), {"loss": jnp.sum(mean**2)}

        def sample(state, keys, condition):
            noise = jax.vmap(lambda key: jax.random.normal(key, spec.image_shape))(keys)
            return state.ema["generator"]["mean"]["bias"] + noise / 5

        def pictures(state, key, batch):
            points = batch["image"].reshape(-1, 2)
            frames = jnp.stack([points, 2 * points])
            return {"growth": Scatter(frames, None, None, "Growth", "Twice as far.", labels=("one", "two"))}

        return Method(init, step, sample, None, pictures)


CONFIG = """
from gen_jax.config import base_config

def get_config(variant=""):
    config = base_config()
    config.update(method="shift", num_steps=4, log_every=2, eval_every=2, checkpoint_every=4, batch_size=8)
    config.data.name = "gaussians:grid25"
    config.sample.num = 3000
    config.sample.batch_size = 1000
    return config
"""


@pytest.fixture
def workdir(tmp_path, monkeypatch: pytest.MonkeyPatch):
    module = types.ModuleType("shift")
    module.make = Shift.make  # pyright: ignore[reportAttributeAccessIssue]
    module.OPTIONS = configs.Options(configs.base_config)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "shift", module)
    monkeypatch.setitem(methods.METHODS, "shift", "shift")
    (tmp_path / "points.py").write_text(CONFIG)
    main.main([f"--config={tmp_path / 'points.py'}", f"--workdir={tmp_path / 'run'}"])
    return tmp_path / "run"


def test_a_run_on_points_gives_samples_metrics_and_a_page(workdir):
    samples = np.load(workdir / "samples.npz")["arr_0"]
    assert (samples.dtype, samples.shape) == (np.float32, (3000, 1, 1, 2))
    assert samples.std() == pytest.approx(1, abs=0.05)  # neither scaled nor clipped
    np.testing.assert_array_equal(load(workdir).sample(5), samples[:5])

    rows = {row["name"]: row for row in json.loads((workdir / "report.json").read_text())["metrics"]}
    assert rows.keys() == {"modes_covered/3k", "good_points/3k", "reverse_kl/3k"}
    assert rows["modes_covered/3k"]["reference"] == 25
    assert rows["good_points/3k"]["value"] < 0.2 < rows["good_points/3k"]["reference"]

    page = (workdir / "report.html").read_text()
    assert "could not be read" not in page
    assert "cannot be shown" not in page
    titles = ("Samples and data", "Samples during training", "Growth")
    for words in ("100,000 points in the plane", "The first 2,500 of 3,000 samples", *titles):
        assert words in page
    for path in (workdir / "samples.png", workdir / "training" / "samples" / "00000002.png"):
        with PIL.Image.open(path) as picture:
            assert 0.001 < (np.asarray(picture) < 250).any(axis=-1).mean() < 0.9  # dark on white paper

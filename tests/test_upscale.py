"""Pictures of any size made larger: tiles without seams, grey and opacity kept, and what is refused."""

import json

import jax
import numpy as np
import PIL.Image
import pytest

from gen_jax import main, methods, parallel, sample, tiles, upscale
from gen_jax.data import bicubic, dataset
from gen_jax.method import DataSpec, UserError
from gen_jax.run import Run

SPEC = dataset.with_smaller(DataSpec("made_up", (16, 16, 3), 64, fingerprint="f" * 64), 2)


def photo(height, width, channels=3):
    """Smooth waves with noise."""
    rng, (rows, columns) = np.random.default_rng(0), np.mgrid[:height, :width]
    waves = 128 + 60 * np.sin(rows / 5) + 40 * np.cos(columns / 7)
    return np.clip(waves[..., None] + rng.normal(0, 20, (height, width, channels)), 0, 255).astype(np.uint8)


def model_of(spec, devices=1):
    """SRResNet with running averages and slopes that no picture is alike under."""
    config = methods.override(methods.load("srresnet_t91:tiny")[2], ["--config.data.reduce=2"])
    method, mesh = methods.make(config, spec), parallel.make_mesh(devices)
    batch = {name: np.zeros(part.shape, part.dtype) for name, part in spec.abstract_batch(4).items()}
    state, rng = jax.jit(method.init)(parallel.make_key(0), batch, {}), np.random.default_rng(0)

    def moved(path, leaf):
        by = 0.1 * rng.normal(size=leaf.shape).astype(leaf.dtype)
        return leaf + (np.abs(by) if "var" in jax.tree_util.keystr(path) else by)

    ema = jax.tree_util.tree_map_with_path(moved, state.ema)
    return sample.Model(config, spec, method, jax.device_put(state.replace(ema=ema), parallel.replicated(mesh)), mesh)


@pytest.fixture(scope="module")
def model():
    return model_of(SPEC)


@pytest.mark.parametrize(("size", "window", "reach"), [(7, 10, 2), (10, 10, 2), (11, 10, 2), (100, 25, 9), (30, 9, 4)])
def test_tiles_cover_an_axis_once_and_see_all_within_reach(size, window, reach):
    found = tiles.spans(size, window, reach)
    assert [place for span in found for place in range(span.kept_from, span.kept_to)] == list(range(size))
    for span in found:
        assert 0 <= span.start <= max(0, size - window)
        assert span.kept_from - span.start >= (reach if span.start else 0)
        end = span.start + min(size, window)
        assert end - span.kept_to >= (reach if end < size else 0)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_picture_in_tiles_is_the_whole_picture(model, devices):
    many = model if devices == 1 else model_of(SPEC, devices)
    picture, told = photo(61, 50), []
    how = many.method.upscale
    in_tiles = tiles.make_upscaler(many.method, many.config, SPEC, many.mesh, side=9)
    made = in_tiles(many.state, picture, lambda done, num: told.append((done, num)))
    whole = tiles.make_upscaler(model.method, model.config, SPEC, model.mesh, side=200)(model.state, picture)
    assert made.shape == (122, 100, 3)
    assert np.ptp(whole) > 20
    assert np.abs(made.astype(int) - whole).max() <= 1  # rounding
    num = len(tiles.spans(61, 9 + 2 * how.reach, how.reach)) * len(tiles.spans(50, 9 + 2 * how.reach, how.reach))
    assert num > 12
    assert {total for _, total in told} == {num}
    assert sum(done for done, _ in told) == num


def test_a_smaller_overlap_leaves_seams(model):
    # Were it not for the reach, the test above would prove nothing of it.
    how = model.method.upscale
    short = model.method._replace(upscale=how._replace(reach=1))
    picture = photo(61, 50)
    seams = tiles.make_upscaler(short, model.config, SPEC, model.mesh, side=9)(model.state, picture)
    whole = tiles.make_upscaler(model.method, model.config, SPEC, model.mesh)(model.state, picture)
    assert np.abs(seams.astype(int) - whole).max() > 1


def test_models_make_pictures_of_any_size_larger_from_python(model):
    pictures = np.stack([photo(9, 20), photo(9, 20)[::-1]])
    made = model.upscale(pictures)
    assert (made.shape, made.dtype) == ((2, 18, 40, 3), np.uint8)
    samples = model.sample(condition={"small": photo(8, 8)[None]})  # as many as there are conditions
    assert np.abs(model.upscale(photo(8, 8)[None]).astype(int) - samples).max() <= 1  # rounding
    with pytest.raises(UserError, match="this model's are in colour"):
        model.upscale(photo(9, 20, 1)[None])


def test_grey_stays_grey_and_opacity_is_enlarged_bicubically():
    def nearest(x):
        assert x.shape[-1] == 3
        return x.repeat(2, axis=0).repeat(2, axis=1)

    grey, opacity = photo(6, 7, 1), photo(6, 7, 1)
    made = upscale.enlarge(upscale.Given(grey, opacity), 3, nearest)
    np.testing.assert_array_equal(made.colours, grey.repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(made.opacity, bicubic.enlarged(opacity, 2))
    assert upscale.enlarge(upscale.Given(photo(6, 7), None), 3, nearest).opacity is None


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """A run's directory whose checkpoint is `model`."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    record = {"config": model.config.to_dict(), "data": SPEC.to_dict(), "versions": {"gen_jax": "0.2.0"}}
    (workdir / "config.json").write_text(json.dumps(record))
    monkeypatch.setattr(sample, "load", lambda *_: model)
    return Run(workdir)


def test_a_folder_becomes_a_folder_of_larger_pictures(run, model, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    colours, opacity = photo(9, 14), photo(9, 14, 1)
    for name, pixels in {
        "a.png": colours, "b.webp": photo(12, 8), "c.png": colours[..., 0],
        "d.png": np.concatenate([colours, opacity], axis=-1),
    }.items():  # fmt: skip
        PIL.Image.fromarray(pixels).save(tmp_path / "photos" / name, lossless=True)
    (tmp_path / "photos/notes.txt").write_text("")
    main.main([f"--workdir={run.workdir}", "--mode=upscale", f"--pictures={tmp_path}/photos", f"--out={tmp_path}/big"])
    assert "4 pictures, 2 times as large" in capsys.readouterr().out
    found = {path.name: PIL.Image.open(path) for path in sorted((tmp_path / "big").iterdir())}
    sizes = {name: (image.mode, image.size) for name, image in found.items()}
    assert sizes == {
        "a.png": ("RGB", (28, 18)), "b.png": ("RGB", (16, 24)), "c.png": ("L", (28, 18)), "d.png": ("RGBA", (28, 18)),
    }  # fmt: skip
    np.testing.assert_array_equal(np.asarray(found["a.png"]), model.upscale(colours[None])[0])
    np.testing.assert_array_equal(np.asarray(found["d.png"])[..., :3], model.upscale(colours[None])[0])
    np.testing.assert_array_equal(np.asarray(found["d.png"])[..., 3:], bicubic.enlarged(opacity, 2))


def test_pictures_are_made_smaller_first_and_compared_on_request(run, tmp_path, capsys):
    PIL.Image.fromarray(photo(41, 50)).save(tmp_path / "a.png")
    main.main([f"--workdir={run.workdir}", "--mode=upscale", f"--pictures={tmp_path}/a.png", "--compare"])
    assert PIL.Image.open(run.workdir / "upscaled/a.png").size == (50, 40)
    record = json.loads((run.workdir / "upscaled/compared.json").read_text())
    truth = photo(41, 50)[:40]
    beside = bicubic.enlarged(bicubic.reduced(truth, 2), 2)
    y, y_hat = (16 + (x.astype(float) @ [65.481, 128.553, 24.966] / 255)[2:-2, 2:-2] for x in (truth, beside))
    by_hand = 10 * np.log10(255**2 / np.mean((y - y_hat) ** 2))
    np.testing.assert_allclose(record["pictures"]["a.png"]["bicubic_psnr_y_shaved2"], by_hand, rtol=1e-5)
    assert record["means"] == record["pictures"]["a.png"]
    assert record["means"].keys() >= {"psnr_y_shaved2", "ssim_y_shaved2", "sharpness_y_shaved2"}
    assert "psnr_y_shaved2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "needs pictures"),
        ("--pictures={0}/none", "there is no picture or folder at"),
        ("--pictures={0}/empty", "reads files that end in .jpg"),
        ("--pictures={0}/twins", "a.jpg and a.png would both become a.png: rename one of them"),
        ("--pictures={0}/one --out={0}/one", "is the folder of the pictures"),
        ("--pictures={0}/one --out={0}/one/a.png", "is a file: name a folder"),
        ("--pictures={0}/damaged.png", "is damaged"),
        ("--pictures={0}/one --mask=left", "--mask=left is for --mode=edit"),
        ("--pictures={0}/one --config.seed=1", "cannot be changed"),
    ],
)
def test_what_cannot_be_made_larger_is_refused_in_one_line(run, tmp_path, words, line):
    for name in ("empty", "twins/", "one/"):
        (tmp_path / name).mkdir()
    for name in ("twins/a.png", "twins/a.jpg", "one/a.png"):
        PIL.Image.fromarray(photo(9, 9)).save(tmp_path / name)
    (tmp_path / "damaged.png").write_bytes((tmp_path / "one/a.png").read_bytes()[:60])
    with pytest.raises(UserError) as error:
        main.main([f"--workdir={run.workdir}", "--mode=upscale", *words.format(tmp_path).split()])
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert not (run.workdir / "upscaled").exists()


def test_colour_is_refused_by_a_grey_model_and_samples_name_the_mode(model, tmp_path):
    PIL.Image.fromarray(photo(9, 9)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="this model's pictures are grey"):
        upscale._read(tmp_path / "a.png", 1)
    with pytest.raises(UserError, match="use --mode=upscale"):
        model.sample(3)
    ddpm = methods.load("ddpm_mnist:tiny")[2]
    with pytest.raises(UserError, match="a ddpm, which cannot make pictures larger"):
        tiles.require(model.method._replace(upscale=None), ddpm)

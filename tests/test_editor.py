"""Edits of a run's pictures, from Python and from the command line: what is kept, drawn, and refused."""

import json

import jax
import numpy as np
import PIL.Image
import pytest

import gen_jax
from gen_jax import config as configs
from gen_jax import editor, main, methods, parallel, sample
from gen_jax.method import DataSpec, UserError, labelled
from gen_jax.run import Run

SPEC = DataSpec("made_up_digits", (8, 8, 1), 512, labelled("0123456789"))
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
LABELS = [7, 0, 3]
SMALL = (
    "--config.batch_size=16", "--config.network.multipliers=(1,)", "--config.network.attention_sizes=()",
    "--config.sample.num_steps=3", "--config.sample.batch_size=8",
)  # fmt: skip


def model_of(name, *words, spec=SPEC):
    """A model that was never trained, with weights all around those it begins with, where its output is zero."""
    config = methods.override(methods.load(name)[2], words)
    whole = methods.whole_stage(config)
    stage = None if whole is None else methods.make_stage(whole, spec)
    method, mesh = methods.make(config, spec, stage), parallel.make_mesh(2)
    batch = {name: np.zeros(part.shape, part.dtype) for name, part in spec.abstract_batch(4).items()}
    frozen = {} if stage is None else stage.method.init(parallel.make_key(1), batch, {}).ema
    state = method.init(parallel.make_key(0), batch, frozen)
    rng = np.random.default_rng(0)
    ema = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(leaf.dtype), state.ema)
    state = jax.device_put(state.replace(ema=ema), parallel.replicated(mesh))
    return sample.Model(config, spec, method, state, mesh)


@pytest.fixture(scope="module")
def model():
    return model_of("ddpm_mnist:tiny", *SMALL)


@pytest.fixture(scope="module")
def free():
    """A model that was trained without labels, too, and is guided."""
    words = ("--config.diffusion.label_drop=0.1", "--config.sample.guidance=2", "--config.sample.sampler=ddim")
    return model_of("ddpm_mnist:tiny", *SMALL, *words)


@pytest.mark.parametrize(
    ("name", "filled"),
    [("left", {(0, 0), (3, 1)}), ("right", {(0, 2), (3, 3)}), ("top", {(0, 0), (1, 3)}), ("bottom", {(2, 0), (3, 3)}),
     ("center", {(1, 1), (2, 2)})],
)  # fmt: skip
def test_a_mask_by_name_is_a_half_or_the_middle(name, filled):
    mask = editor.MASKS[name](4, 4)
    assert mask.sum() == (4 if name == "center" else 8)
    assert all(mask[place] for place in filled)


def test_known_pixels_stay_and_masked_ones_are_neither_kept_nor_looked_at(model):
    mask = np.zeros((8, 8), bool)
    mask[2:5, 1:7] = True
    made = model.inpaint(IMAGES, mask, LABELS, resample=1)
    assert (made.dtype, made.shape) == (np.uint8, IMAGES.shape)
    np.testing.assert_array_equal(made[:, ~mask], IMAGES[:, ~mask])
    assert (made[:, mask] != IMAGES[:, mask]).mean() > 0.8
    others = np.where(mask[..., None], 9, IMAGES).astype(np.uint8)
    np.testing.assert_array_equal(model.inpaint(others, mask, LABELS, 1), made)
    grey = np.where(mask, 255, 100).astype(np.uint8)  # the same mask as a picture, and one mask per picture
    np.testing.assert_array_equal(model.inpaint(IMAGES, grey, LABELS, 1), made)
    np.testing.assert_array_equal(model.inpaint(IMAGES, np.stack([mask] * 3), LABELS, 1), made)
    assert (model.inpaint(IMAGES, mask, LABELS, 1, seed=5) != made).any()


def test_the_ends_of_strength_are_the_pictures_and_plain_samples(model):
    np.testing.assert_array_equal(model.vary(IMAGES, 0, LABELS), IMAGES)
    np.testing.assert_array_equal(model.vary(IMAGES, 1, LABELS), model.sample(3, LABELS))
    np.testing.assert_array_equal(model.vary(IMAGES, 1, LABELS, seed=4), model.sample(3, LABELS, seed=4))
    part = model.vary(IMAGES, 0.3, LABELS)
    assert (part != IMAGES).any()
    assert (part != model.sample(3, LABELS)).any()


def test_a_picture_is_edited_in_the_same_way_whichever_pictures_are_beside_it(model):
    """In batches of 8, of which the second is padded, on two devices: equal but for rounding."""
    many, labels = np.concatenate([IMAGES] * 4)[:11], (LABELS * 4)[:11]
    few = model.inpaint(many[:2], "top", labels[:2], resample=0).astype(int)
    assert np.abs(model.inpaint(many, "top", labels, resample=0)[:2].astype(int) - few).max() <= 1


def test_labels_are_those_asked_for_by_number_or_name_or_none(model, free):
    by_name = model.vary(IMAGES, 0.5, ["7", "0", "3"])
    np.testing.assert_array_equal(by_name, model.vary(IMAGES, 0.5, LABELS))
    np.testing.assert_array_equal(model.vary(IMAGES, 0.5, 7), model.vary(IMAGES, 0.5, [7, 7, 7]))
    assert (model.vary(IMAGES, 0.5, 1) != model.vary(IMAGES, 0.5, 2)).any()
    with pytest.raises(UserError, match="give the labels of the pictures, or train one with") as error:
        model.vary(IMAGES, 0.5)
    assert "\n" not in str(error.value)
    assert (free.vary(IMAGES, 0.5) != free.vary(IMAGES, 0.5, 2)).any()
    config = free.config.copy_and_resolve_references()
    config.sample.guidance = 0.0  # the unconditional model is what no label means
    alone = sample.Model(config, SPEC, methods.make(config, SPEC), free.state, free.mesh)
    np.testing.assert_array_equal(alone.vary(IMAGES, 0.5, 2), free.vary(IMAGES, 0.5))


def test_noise_leads_back_to_its_picture_the_better_with_more_steps(free):
    errors = []
    for num_steps in (10, 80):
        config = free.config.copy_and_resolve_references()
        config.sample.num_steps, config.sample.clip, config.sample.guidance = num_steps, False, 1.0
        exact = sample.Model(config, SPEC, methods.make(config, SPEC), free.state, free.mesh)
        noise = exact.invert(IMAGES, LABELS)
        assert (noise.shape, noise.dtype) == (IMAGES.shape, np.float32)
        errors.append(np.abs(exact.render(noise, LABELS).astype(int) - IMAGES).mean())
    assert errors[1] < errors[0] / 3


def test_the_way_between_pictures_begins_and_ends_as_their_noise_says(free):
    a, b = IMAGES[:2], IMAGES[1:]
    way = free.interpolate(a, b, 4, [7, 0])
    assert way.shape == (2, 4, 8, 8, 1)
    for end, images in ((0, a), (-1, b)):
        np.testing.assert_allclose(way[:, end].astype(int), free.render(free.invert(images, [7, 0]), [7, 0]), atol=1)
    with pytest.raises(UserError, match="there are 2 pictures to start from and 1 to end at"):
        free.interpolate(a, b[:1])


def test_a_model_with_learned_variances_edits_with_its_own_sampler_and_inverts_without_them():
    learned = model_of(
        "ddpm_mnist:guided", *SMALL, "--config.diffusion.variance=learned", "--config.sample.sampler.variance=learned"
    )
    assert learned.config.sample.sampler.variance == "learned"
    filled = learned.inpaint(IMAGES, "right", LABELS, resample=1)
    np.testing.assert_array_equal(filled[:, :, :4], IMAGES[:, :, :4])
    np.testing.assert_array_equal(learned.vary(IMAGES, 1.0, LABELS, seed=3), learned.sample(3, LABELS, seed=3))
    noise = learned.invert(IMAGES, LABELS)
    assert learned.render(noise, LABELS).shape == IMAGES.shape


@pytest.mark.long
def test_codes_are_edited_as_pictures():
    """Masked pixels are hidden from the encoder, and known ones stay in spite of the decoder."""
    latent = model_of("latent_mnist:tiny", *SMALL[:2], *SMALL[3:], spec=DataSpec("m", (28, 28, 1), 512, SPEC.features))
    images = np.random.default_rng(1).integers(0, 256, (2, 28, 28, 1)).astype(np.uint8)
    labels = [1, 2] if latent.method.condition else None
    made = latent.inpaint(images, "left", labels, resample=0)
    np.testing.assert_array_equal(made[:, :, 14:], images[:, :, 14:])
    hidden = images.copy()
    hidden[:, :, :14] = 0
    np.testing.assert_array_equal(latent.inpaint(hidden, "left", labels, resample=0), made)
    assert latent.vary(images, 0.5, labels).shape == images.shape
    noise = latent.invert(images, labels)
    assert noise.shape == (2, 7, 7, 4)
    assert latent.render(noise, labels).shape == images.shape


def test_guidance_within_an_interval_does_not_depend_on_the_number_of_devices(free):
    """The choice in each step is made by the time, which all devices share."""
    config = free.config.copy_and_resolve_references()
    config.sample.guidance_interval = "0.3,0.8"
    method, samples = methods.make(config, SPEC), []
    for mesh in map(parallel.make_mesh, (1, 2)):
        state = jax.device_put(free.state, parallel.replicated(mesh))
        samples.append(sample.Model(config, SPEC, method, state, mesh).sample(6).astype(int))
    assert np.abs(samples[0] - samples[1]).max() <= 1
    assert np.abs(samples[0] - free.sample(6)).max() > 1


COLOURS = np.zeros((1, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("call", "said"),
    [(lambda m: m.inpaint(IMAGES[0], "left", 1), "of shape [8, 8, 1]: give [N, H, W, C]"),
     (lambda m: m.inpaint(IMAGES / 255, "left", 1), "float64: give uint8, from 0 (black) to 255 (white)"),
     (lambda m: m.inpaint(COLOURS, "left", 1), "the pictures are in colour, and this model's are grey"),
     (lambda m: m.inpaint(IMAGES[:, :6], "left", 1), "are 8 wide and 6 high, and this model's are 8 wide and 8 high"),
     (lambda m: m.inpaint(IMAGES, "lift", 1), "there is no mask 'lift'; did you mean left? there are: left, right"),
     (lambda m: m.inpaint(IMAGES, np.ones((4, 8), bool), 1), "the mask has shape [4, 8], and the pictures need [8, 8]"),
     (lambda m: m.inpaint(IMAGES, np.zeros((8, 8), bool), 1), "black everywhere"),
     (lambda m: m.inpaint(IMAGES, np.ones((8, 8)), 1), "the mask is float64: give bool"),
     (lambda m: m.inpaint(IMAGES, "left", 1, resample=-1), "resample is -1; it must be a whole number in 0..10000"),
     (lambda m: m.inpaint(IMAGES, "left", 1, seed=-1), "the seed of samples is -1"),
     (lambda m: m.inpaint(IMAGES, "left", [1, 2]), "label must be 3 whole numbers in 0..9"),
     (lambda m: m.inpaint(IMAGES, "left", "cat"), "no class 'cat'"),
     (lambda m: m.vary(IMAGES, 1.5, 1), "strength is 1.5; it must be a number in 0..1"),
     (lambda m: m.vary(IMAGES, True, 1), "strength is True"),
     (lambda m: m.vary(IMAGES, float("nan"), 1), "strength is nan"),
     (lambda m: m.interpolate(IMAGES, IMAGES, 1, 1), "num is 1; it must be a whole number in 2..10000")],
)  # fmt: skip
def test_what_cannot_be_edited_is_one_line(model, call, said):
    with pytest.raises(UserError) as error:
        call(model)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_without_labels_takes_none_and_another_family_edits_nothing():
    unlabelled = model_of("ddpm_mnist:tiny", *SMALL, "--config.diffusion.conditional=false")
    assert unlabelled.vary(IMAGES, 0.5).shape == IMAGES.shape
    with pytest.raises(UserError, match="this model takes no label"):
        unlabelled.vary(IMAGES, 0.5, 1)
    config = methods.load("cgan_mnist:tiny")[2]
    with pytest.raises(
        UserError, match="this run is a gan, which cannot edit pictures: use a run of a diffusion model"
    ):
        editor.require(methods.make(config, DataSpec("m", (28, 28, 1), 9, SPEC.features)), config, SPEC)


def test_binary_data_is_entered_as_it_was_trained_on():
    spec = DataSpec("dsprites", (1, 4, 1), 9, value_range=(0, 1))
    assert editor.as_rows(np.array([0, 100, 200, 255], np.uint8), spec).tolist() == [0, 0, 1, 1]
    assert editor.as_rows(IMAGES, SPEC) is IMAGES


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A run's directory that may be written to, with the model of `tiny_run`; and pictures and a mask beside it."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("config.json", "checkpoints", "report.json"):
        (folder / name).symlink_to(tiny_run / name)
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(IMAGES):
        PIL.Image.fromarray(image[..., 0]).save(tmp_path / f"pictures/{number}.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:3] = 255
    PIL.Image.fromarray(mask).save(tmp_path / "mask.png")
    return folder


def run_mode(copy, *words):
    main.main([f"--workdir={copy}", "--mode=edit", f"--pictures={copy.parent}/pictures", *words])
    with np.load(copy / "edits.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.long
def test_the_mode_fills_in_and_shows_it_on_the_page(copy, capsys):
    words = ("--labels=7,0,3", "--each=2", "--resample=1")
    found = run_mode(copy, f"--mask={copy.parent}/mask.png", *words)
    assert found["arr_0"].shape == (6, 8, 8, 1)
    np.testing.assert_array_equal(found["pictures"], IMAGES)
    assert found["data"].item() == "made_up_digits"
    assert found["mask"].shape == (3, 8, 8)
    assert found["mask"][:, :3].all()
    assert not found["mask"][:, 3:].any()
    np.testing.assert_array_equal(found["arr_0"][:, 3:], np.repeat(IMAGES, 2, axis=0)[:, 3:])
    assert (found["arr_0"][0] != found["arr_0"][1]).any()
    with PIL.Image.open(copy / "edits.png") as grid:
        assert grid.size == (4 * 10 - 2, 3 * 10 - 2)  # picture, what is kept, two results; three pictures
    page = (copy / "report.html").read_text()
    assert "Filled in" in page
    assert "2 results with the grey part filled in, each step taken 2 times. Step 12." in page
    assert "6 edited pictures of" in capsys.readouterr().out
    model = gen_jax.load(copy)
    np.testing.assert_array_equal(
        found["arr_0"], model.inpaint(np.repeat(IMAGES, 2, 0), found["mask"][0], np.repeat(LABELS, 2), 1)
    )


@pytest.mark.long
def test_the_mode_varies_and_connects(copy):
    found = run_mode(copy, "--strength=0.5", "--labels=7", "--each=3", "--config.sample.seed=2")
    assert found["arr_0"].shape == (9, 8, 8, 1)
    assert "mask" not in found
    found = run_mode(copy, "--between=5", "--labels=7,0,3")
    assert found["arr_0"].shape == (10, 8, 8, 1)
    page = (copy / "report.html").read_text()
    assert page.index("Variations") < page.index("Between pictures")
    main.main([f"--workdir={copy}", "--mode=edit", f"--pictures={copy}/edits.npz", "--strength=0", "--labels=1"])
    with np.load(copy / "edits.npz") as file:
        np.testing.assert_array_equal(file["arr_0"], np.repeat(found["arr_0"], 4, axis=0))


@pytest.mark.long
def test_labels_of_an_npz_file_are_used_unless_others_are_given(copy):
    source = copy.parent / "samples.npz"
    np.savez(source, arr_0=IMAGES, arr_1=np.array(LABELS))
    model = gen_jax.load(copy)
    for words, labels in (((), LABELS), (("--labels=1",), [1] * len(LABELS))):
        found = run_mode(copy, f"--pictures={source}", "--strength=0.5", "--each=1", *words)
        np.testing.assert_array_equal(found["arr_0"], model.vary(IMAGES, 0.5, labels))


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "said"),
    [("--mask=lift", "there is no mask 'lift': did you mean left? give one of left, right"),
     ("--mask={0}/pictures", "give one of left, right"),
     ("--mask={0}/text.png", "cannot read {0}/text.png: it is damaged (not a JPEG"),
     ("--mask={0}/wide.png", "wide.png is 9 wide and 8 high, and the pictures are 8 wide and 8 high"),
     ("--mask=left --pictures={0}/wide.png", "wide.png is 9 wide and 8 high, and this model's are 8 wide"),
     ("--mask=left --pictures={0}/colour.png", "colour.png is in colour, and this model's are grey: convert"),
     ("--mask=left --pictures={0}/text.png", "cannot read {0}/text.png"),
     ("--mask=left --pictures={0}/nothing", "there is no picture, folder, .npz file or run at"),
     ("--mask=left --pictures={0}/empty", "no pictures in {0}/empty"),
     ("--mask=left --pictures={0}/empty.npz", "there is no file"),
     ("--mask=left --strength=0.5", "takes one of --mask, --strength, --between, not --mask and --strength"),
     ("", "takes one of --mask, --strength, --between, and there is none"),
     ("--strength=much", "--strength is 'much'; it must be a number in 0..1"),
     ("--between=5 --pictures={0}/mask.png", "--between needs two pictures or more"),
     ("--between=5 --each=3", "--each=3 has no effect with --between"),
     ("--strength=0.5 --resample=3", "--resample=3 has no effect with --strength"),
     ("--mask=left --each=0", "--each is 0; it must be a whole number in 1..1000"),
     ("--mask=left", "give the labels of the pictures"),
     ("--mask=left --labels=7,8", "label must be"),
     ("--mask=left --config.seed=1", "cannot be changed")],
)  # fmt: skip
def test_a_mistake_of_the_mode_is_one_line_and_leaves_nothing(copy, words, said):
    folder = copy.parent
    (folder / "empty").mkdir()
    (folder / "text.png").write_text("no picture")
    PIL.Image.new("L", (9, 8)).save(folder / "wide.png")
    PIL.Image.new("RGB", (8, 8), "red").save(folder / "colour.png")
    words = words.format(folder).split()
    pictures = [] if any(word.startswith("--pictures") for word in words) else [f"--pictures={folder}/pictures"]
    with pytest.raises(UserError) as error:
        main.main([f"--workdir={copy}", "--mode=edit", *pictures, *words])
    assert said.format(folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (copy / "edits.npz").exists()


def test_flags_of_the_mode_belong_to_it(tmp_path):
    with pytest.raises(UserError, match=r"^--mask=left is for --mode=edit: leave it out, or set that mode$"):
        main.main([f"--workdir={tmp_path}", "--mode=sample", "--mask=left"])
    config = json.loads(json.dumps(methods.load("ddpm_mnist:tiny")[2].to_dict()))
    versions = {"gen_jax": gen_jax.__version__}
    Run(tmp_path / "run").write_config({"config": config, "data": SPEC.to_dict(), "versions": versions})
    with pytest.raises(UserError, match="--mode=edit needs pictures: --pictures="):
        main.main([f"--workdir={tmp_path / 'run'}", "--mode=edit", "--mask=left"])
    assert {f"--{name}" for name in main.EDITING} <= {*configs.FLAGS}

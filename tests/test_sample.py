"""Samples of a run: the same images however they are drawn, and a file that does not fit memory at once."""

import json
import os
import tracemalloc

import jax
import numpy as np
import pytest

import gen_jax
from gen_jax import main, parallel, sample
from gen_jax.method import DataSpec, Feature, Method, UserError, labelled
from gen_jax.run import Run

pytestmark = pytest.mark.long


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A run's directory that may be written to, with the model of `tiny_run`."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("config.json", "checkpoints"):
        (folder / name).symlink_to(tiny_run / name)
    return folder


def test_sampling_needs_the_directory_alone_and_starts_with_the_same_images(tiny_run, monkeypatch):
    stored = np.load(tiny_run / "samples.npz")["arr_0"]
    # No data at hand: nothing may look for it.
    monkeypatch.setattr("gen_jax.data.dataset.load", None)
    images = gen_jax.load(tiny_run).sample(16)
    assert images.dtype == np.uint8
    # Another batch size is another program: equal but for rounding.
    assert np.abs(images.astype(int) - stored[:16]).max() <= 1
    assert (images == stored[:16]).mean() > 0.99


def test_another_seed_gives_other_images(tiny_run):
    model = gen_jax.load(tiny_run)
    assert (model.sample(4, seed=1) != model.sample(4)).mean() > 0.3


@pytest.mark.parametrize(("num", "batch_size", "devices"), [(16, 16, 1), (100, 40, 2)])
def test_the_first_images_do_not_depend_on_how_many_or_where_they_are_drawn(tiny_run, num, batch_size, devices):
    """Of 16 or 100, in batches of any size, on any number of devices: equal but for rounding ties."""
    stored = np.load(tiny_run / "samples.npz")
    model = gen_jax.load(tiny_run)
    model.config.sample.batch_size = batch_size
    mesh = parallel.make_mesh(devices)
    state = jax.device_put(model.state, parallel.replicated(mesh))
    images, condition = sample.make_generator(model.method, model.config, model.spec, mesh)(state, num)
    assert images.shape == (num, 8, 8, 1)
    assert condition.keys() == {"label"}
    assert condition["label"][:16].tolist() == stored["arr_1"][:16].tolist()
    assert np.abs(images[:16].astype(int) - stored["arr_0"][:16]).max() <= 1
    assert (images[:16] == stored["arr_0"][:16]).mean() > 0.99


def test_values_of_the_sampler_are_chosen_where_a_model_is_loaded(tiny_run):
    """By name alone, which leaves its parameters at their defaults, or with parameters of its own."""
    images = []
    for sampler, eta in (("ddim", 0.0), ({"name": "ddim", "eta": 0.5}, 0.5), ({"eta": 1.0, "name": "ddim"}, 1.0)):
        model = gen_jax.load(tiny_run, sampler=sampler, num_steps=2, seed=3)
        assert model.config.sample.sampler.to_dict() == {"name": "ddim", "eta": eta}
        assert (model.config.sample.num_steps, model.config.sample.seed) == (2, 3)
        assert model.method.describe["sampler"] == f"ddim (eta {eta}), 2 steps"
        images.append(model.sample(4))
    # The same random numbers begin all of them: what differs is how much noise a step adds.
    assert (images[0] != images[1]).any()
    assert (images[1] != images[2]).any()
    for wrong, said in (
        ({"name": "ddim", "variance": "small"}, "sample.sampler.variance is not a parameter of sample.sampler ddim"),
        ("dim", "did you mean ddim"),
        ({"name": "ddim", "eta": "much"}, "sample.sampler.eta must be a number"),
    ):
        with pytest.raises(UserError, match=said) as error:
            gen_jax.load(tiny_run, sampler=wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"no config value 'sample\.steps'"):
        gen_jax.load(tiny_run, steps=2)


@pytest.fixture
def from_sixteen_devices(copy):
    """A run as a machine of 16 devices leaves it, whose command asked for all of them; here there are 8."""
    record = json.loads((copy / "config.json").read_text())
    record["config"]["num_devices"] = record["devices"]["count"] = 16
    (copy / "config.json").unlink()  # a link to that of `tiny_run`
    (copy / "config.json").write_text(json.dumps(record))
    return copy


def test_a_run_of_more_devices_is_loaded_on_those_at_hand(tiny_run, from_sixteen_devices, monkeypatch):
    stored = np.load(tiny_run / "samples.npz")["arr_0"][:8].astype(int)
    at_hand = jax.devices()
    for devices in (8, 1):
        monkeypatch.setattr(jax, "devices", lambda *_, devices=devices: at_hand[:devices])
        model = gen_jax.load(from_sixteen_devices)
        assert model.mesh.devices.size == devices
        assert np.abs(model.sample(8) - stored).max() <= 1
    main.main([f"--workdir={from_sixteen_devices}", "--mode=sample", "--config.sample.num=3"])
    assert np.load(from_sixteen_devices / "samples.npz")["arr_0"].shape == (3, 8, 8, 1)


def test_whoever_asks_for_some_devices_gets_as_many_or_one_line(from_sixteen_devices):
    asked = sample.load(from_sixteen_devices, ("--config.num_devices=2",))
    assert asked.mesh.devices.size == 2
    with pytest.raises(UserError, match="num_devices is 16, but this machine has 8"):
        sample.load(from_sixteen_devices, ("--config.num_devices=16",))


def test_conditions_are_of_the_shape_and_type_of_their_feature():
    features = labelled("abc") | {"small": Feature((2, 2, 1), "float32")}
    spec = DataSpec("made_up", (4, 4, 1), 9, features)
    method = Method(*[None] * 5, condition=("label", "small"))  # pyright: ignore
    pictures = np.zeros((4, 2, 2, 1))
    found = sample.conditions(method, spec, 4, {"small": pictures})
    assert found.keys() == {"label", "small"}
    assert (found["label"].tolist(), found["label"].dtype) == ([0, 1, 2, 0], np.int32)  # classes take turns
    assert (found["small"].shape, found["small"].dtype) == ((4, 2, 2, 1), np.float32)
    assert sample.conditions(method, spec, 2, {"label": (2, 2), "small": pictures[:2]})["label"].tolist() == [2, 2]
    with pytest.raises(UserError, match="^this model needs small: give 4 of them, or use --mode=upscale"):
        sample.conditions(method, spec, 4, {})
    with pytest.raises(UserError, match=r"^small must be of shape \[3, 2, 2, 1\], not \[4, 2, 2, 1\]$"):
        sample.conditions(method, spec, 3, {"small": pictures})


def test_the_mode_writes_as_many_as_asked_for(copy):
    main.main([f"--workdir={copy}", "--mode=sample", "--config.sample.num=5", "--config.sample.batch_size=3"])
    stored = np.load(copy / "samples.npz")
    assert stored.files == ["arr_0", "arr_1", "data"]
    assert stored["data"].item() == "made_up_digits"
    assert stored["arr_1"].tolist() == [0, 1, 2, 3, 4]  # classes take turns
    assert stored["arr_0"].shape == (5, 8, 8, 1)
    assert stored["arr_0"].dtype == np.uint8
    assert (copy / "samples.png").stat().st_size > 100
    assert not (copy / "samples.pieces").exists()


def draw(copy, *words):
    main.main([f"--workdir={copy}", "--mode=sample", "--config.sample.num=70", "--config.sample.batch_size=16", *words])
    return np.load(copy / "samples.npz")["arr_0"]


def test_killed_while_it_draws_it_goes_on_behind_the_last_piece(copy, monkeypatch):
    monkeypatch.setattr(sample, "PIECE", 32)
    whole = draw(copy)
    (copy / "samples.npz").unlink()
    fetch, drawn = parallel.fetch, []

    def dies(array):
        drawn.append(len(array))
        if len(drawn) == 4:
            raise KeyboardInterrupt  # as a kill: nothing that would clean up runs before the files are looked at
        return fetch(array)

    monkeypatch.setattr(parallel, "fetch", dies)
    with pytest.raises(KeyboardInterrupt):
        draw(copy)
    assert not (copy / "samples.npz").exists()
    assert [path.name for path in (copy / "samples.pieces").glob("*.npy")] == ["000000000.npy"]
    plan = json.loads((copy / "samples.pieces/plan.json").read_text())
    assert (plan["checkpoint_step"], plan["config"]["sample"]["seed"], plan["piece"]) == (12, 0, 32)
    (copy / "samples.pieces/.000000032.npy.999999999.tmp").write_bytes(b"half")

    drawn.clear()
    monkeypatch.setattr(parallel, "fetch", lambda array: drawn.append(len(array)) or fetch(array))
    np.testing.assert_array_equal(draw(copy), whole)
    assert len(drawn) == 3  # of five batches
    assert not (copy / "samples.pieces").exists()


def test_only_whole_pieces_of_the_same_plan_are_taken(tmp_path):
    pieces = sample.Pieces(tmp_path, (70, 2, 2, 1), 32)
    images = np.random.default_rng(0).integers(0, 256, pieces.shape, np.uint8)
    plan = {"config": {"sizes": (1, 2), "seed": 0}, "checkpoint_step": 12, "piece": 32}
    assert pieces.resume(plan) == 0
    pieces.write(np.split(images, [16, 32, 48, 64]), 0)
    assert pieces.resume(plan) == 70
    np.testing.assert_array_equal(np.concatenate([*pieces.read()]), images)
    for damage in (b"", b"damaged", (tmp_path / "000000032.npy").read_bytes()[:-1]):
        (tmp_path / "000000032.npy").write_bytes(damage)
        assert pieces.resume(plan) == 32
    pieces.write(np.split(images[32:], [16, 32]), 32)
    np.testing.assert_array_equal(np.concatenate([*pieces.read()]), images)
    for other in (plan | {"checkpoint_step": 8}, plan | {"config": {"sizes": (1, 2), "seed": 1}}, plan | {"piece": 64}):
        assert pieces.resume(other) == 0
        assert not list(tmp_path.glob("*.npy"))
        pieces.write([images], 0)


def test_a_second_process_that_draws_here_is_refused(copy):
    with Run(copy / "samples.pieces").lock(), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        draw(copy)


def test_fifty_thousand_images_take_no_more_memory_than_five_thousand(tmp_path):
    def peak(num):
        run, shape = Run(tmp_path), (num, 16, 16, 3)
        pieces = sample.Pieces(run.sample_pieces, shape, 4000)
        run.sample_pieces.mkdir()
        tracemalloc.start()
        pieces.write((np.full((min(250, num - i), *shape[1:]), i % 251, np.uint8) for i in range(0, num, 250)), 0)
        sample._write(pieces.read(), shape, run, None, DataSpec("made_up", shape[1:], num))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        pieces.remove()
        stored = np.load(run.samples_npz)["arr_0"]
        assert stored.shape == shape
        assert stored[::250, 0, 0, 0].tolist() == [i % 251 for i in range(0, num, 250)]
        return most

    assert peak(50_000) < 1.1 * peak(5_000)


def test_the_file_is_what_numpy_would_write(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), np.uint8)
    labels = np.arange(30, dtype=np.int32)
    sample.write_samples(Run(tmp_path), images, labels, DataSpec("größe", (2, 2, 1), 1))
    np.savez_compressed(tmp_path / "expected.npz", images, labels, data=np.array("größe"))
    with np.load(tmp_path / "samples.npz") as stored, np.load(tmp_path / "expected.npz") as expected:
        assert sorted(stored.files) == sorted(expected.files)
        for name in expected.files:
            assert stored[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(stored[name], expected[name])


def test_a_model_is_judged_and_drawn_as_it_was_trained_to_be(tiny_run):
    model = sample.load(tiny_run, ("--config.sample.num_steps=2",))
    assert model.config.sample.num_steps == 2
    assert int(model.state.step) == 12
    assert jax.tree.leaves(model.state.ema)


def test_classes_are_asked_for_by_number_or_name(tiny_run):
    model = sample.load(tiny_run, ("--config.sample.num_steps=2",))
    np.testing.assert_array_equal(model.sample(labels=["7", "3"]), model.sample(2, labels=[7, 3]))


def test_refusals(tiny_run, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        gen_jax.load(tmp_path)
    model = gen_jax.load(tiny_run)
    no_classes = ([0.9, 3.7], [0.0, 1.0], [float("nan"), 1], [True, False])
    for labels in ([0, 10], [-1, 0], [0], [0, 1, 2], [[0, 1]], 3, *no_classes):
        with pytest.raises(UserError, match=r"^label must be 2 whole numbers in 0\.\.9, or names of classes, not "):
            model.sample(2, labels=labels)
    with pytest.raises(UserError, match="^no class 'seven'; there are: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9$"):
        model.sample(2, labels=["7", "seven"])
    with pytest.raises(UserError, match="^this model takes no colour: it takes label$"):
        model.sample(2, condition={"colour": [0, 0]})
    with pytest.raises(UserError, match=r"^label is \[3, '7'\]: give numbers or names of classes, not both$"):
        model.sample(2, labels=[3, "7"])
    for num in (0, -1, 2.5, "2", None, True):
        with pytest.raises(UserError, match=f"^{num!r} samples cannot be drawn; request a whole number, 1 or more$"):
            model.sample(num)
    for seed in (-1, 2**32, 1.5, "a", True):
        with pytest.raises(UserError, match=rf"^the seed of samples is {seed!r}; it must be a whole number in 0\.\.42"):
            model.sample(2, seed=seed)
    unconditional = model.method._replace(condition=())
    generate = sample.make_generator(unconditional, model.config, model.spec, model.mesh)
    with pytest.raises(UserError, match="^this model takes no label: it was trained without$"):
        generate(model.state, 2, {"label": [0, 0]})
    with pytest.raises(UserError, match="did you mean sample.num"):
        main.main([f"--workdir={tiny_run}", "--mode=sample", "--config.sample.nun=3"])


@pytest.mark.parametrize("mode", ["sample", "eval"])
@pytest.mark.parametrize("word", ["seed=5", "diffusion.prediction=x", "num_steps=20", "data.name=mnist"])
def test_what_training_has_fixed_is_refused_afterwards(tiny_run, mode, word):
    key = word.partition("=")[0]
    with pytest.raises(UserError, match=rf"trained with another config \({key}(\.name)?: .*only these can: sample\.\*"):
        main.main([f"--workdir={tiny_run}", f"--mode={mode}", f"--config.{word}"])

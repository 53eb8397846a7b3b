import jax
import numpy as np
import pytest

import gen_jax
from gen_jax import main, sample
from gen_jax.method import UserError


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


def test_the_mode_writes_as_many_as_asked_for(tiny_run, tmp_path):
    copy = tmp_path / "copy"
    main.pathlib.Path.mkdir(copy)
    for name in ("config.json", "checkpoints"):
        (copy / name).symlink_to(tiny_run / name)
    main.main([f"--workdir={copy}", "--mode=sample", "--config.sample.num=5", "--config.sample.batch_size=3"])
    stored = np.load(copy / "samples.npz")
    assert sorted(stored.files) == ["arr_0", "arr_1", "data"]
    assert stored["arr_1"].tolist() == [0, 1, 2, 3, 4]  # classes take turns
    assert stored["arr_0"].shape == (5, 8, 8, 1)
    assert stored["arr_0"].dtype == np.uint8
    assert (copy / "samples.png").stat().st_size > 100


def test_a_model_is_judged_and_drawn_as_it_was_trained_to_be(tiny_run):
    model = sample.load(tiny_run, ("--config.sample.num_steps=2",))
    assert model.config.sample.num_steps == 2
    assert int(model.state.step) == 12
    assert jax.tree.leaves(model.state.ema)


def test_refusals(tiny_run, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        gen_jax.load(tmp_path)
    model = gen_jax.load(tiny_run)
    for labels in ([0, 10], [-1, 0], [0]):
        with pytest.raises(UserError, match="labels must be 2 whole numbers in 0..9"):
            model.sample(2, labels=labels)
    unconditional = model.method._replace(conditional=False)
    generate = sample.make_generator(unconditional, model.config, model.spec, model.mesh)
    with pytest.raises(UserError, match="takes no labels"):
        generate(model.state, 2, labels=[0, 0])
    with pytest.raises(UserError, match="did you mean sample.num"):
        main.main([f"--workdir={tiny_run}", "--mode=sample", "--config.sample.nun=3"])


@pytest.mark.parametrize("mode", ["sample", "eval"])
@pytest.mark.parametrize("word", ["seed=5", "diffusion.prediction=x", "num_steps=20", "data.name=mnist"])
def test_what_training_has_fixed_is_refused_afterwards(tiny_run, mode, word):
    key = word.partition("=")[0]
    with pytest.raises(UserError, match=rf"trained with another config \({key}: .*only these can: sample\.\*"):
        main.main([f"--workdir={tiny_run}", f"--mode={mode}", f"--config.{word}"])

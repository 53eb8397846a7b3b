"""A VQ-VAE and the model of its codes, by one command."""

import json

import jax
import numpy as np
import pytest

import gen_jax
from gen_jax import main
from gen_jax.method import UserError
from gen_jax.run import Run

pytestmark = pytest.mark.long

SHORT = ("num_steps=4", "log_every=2", "eval_every=2", "checkpoint_every=4", "sample.num=20", "eval.num_examples=20",
         "eval.classifier_steps=10")  # fmt: skip
FIRST = ("batch_size=16", "network.channels=(4,)", *SHORT)


def words(workdir, data_dir, *others):
    values = (f"data.data_dir={data_dir}", "data.name=made_up_digits", "eval.num_samples=20", "num_devices=1", *SHORT)
    return ["--config=codes_mnist:tiny", f"--workdir={workdir}", *(f"--config.{value}" for value in (*values, *others))]


@pytest.fixture(scope="module")
def trained(made_up_tfds, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("codes") / "run"
    main.main(words(workdir, made_up_tfds, *(f"pretrained.{value}" for value in FIRST)))
    return workdir


def test_one_command_trains_both_and_its_page_shows_codes_and_bits(trained):
    assert Run(trained / "pretrained").finished_step == Run(trained).finished_step == 4
    first, second = gen_jax.load(trained / "pretrained"), gen_jax.load(trained)
    jax.tree.map(np.testing.assert_array_equal, second.state.frozen, first.state.ema)
    assert second.sample(3).shape == (3, 8, 8, 1)
    page = Run(trained).report_html.read_text()
    for title in ("Codes of samples", "Reconstructions of the first stage", "Temperatures", "Bits by place"):
        assert title in page
    rows = {row["name"]: row["value"] for row in json.loads(Run(trained).report_json.read_text())["metrics"]}
    assert 0 < rows["test_bits_per_code/codes_4x4_of_16_given_label"] < 5


def test_a_first_stage_at_hand_is_used_as_it_is(trained, made_up_tfds, tmp_path):
    main.main(words(tmp_path / "second", made_up_tfds, f"pretrained={trained / 'pretrained'}", "network.depth=1"))
    assert not (tmp_path / "second/pretrained").exists()
    one, two = (gen_jax.load(workdir).state.frozen for workdir in (trained, tmp_path / "second"))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_an_autoregressive_model_is_no_first_stage(trained, made_up_tfds, tmp_path):
    with pytest.raises(UserError, match="is of method autoregressive, which makes no codes"):
        main.main(words(tmp_path / "third", made_up_tfds, f"pretrained={trained}"))

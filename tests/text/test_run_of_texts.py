"""A run of a model that takes texts: it holds what it needs to be sampled anywhere."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from conftest import data_config

import gen_jax
from gen_jax import methods, report, train
from gen_jax.data import dataset
from gen_jax.method import UserError
from gen_jax.run import Run

pytestmark = pytest.mark.long

WORDS = [
    "--config.num_steps=4", "--config.log_every=2", "--config.eval_every=4", "--config.checkpoint_every=4",
    "--config.batch_size=8", "--config.sample.num=8", "--config.sample.batch_size=8", "--config.eval.num_examples=8",
    "--config.optimizer.learning_rate=0.05",  # or the pictures of all texts still round to the same grey
]  # fmt: skip


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Of a run that was moved after it was trained."""
    place = tmp_path_factory.mktemp("runs")
    config = methods.override(methods.load("stackgan_shapes:tiny")[2], WORDS)
    methods.check(config)
    train.train(config, Run(place / "trained"), "stackgan_shapes", "tiny", "")
    shutil.move(place / "trained", place / "moved")
    return place / "moved"


def test_a_run_is_sampled_from_texts_without_its_data(workdir, monkeypatch):
    monkeypatch.setattr(dataset, "load", lambda config: pytest.fail("the data set is read"))
    model = gen_jax.load(workdir)
    texts = ["a small green star left of a red circle", "a big blue cross in the middle"]
    images = model.sample(texts=texts)
    assert images.shape == (2, 64, 64, 3)
    np.testing.assert_array_equal(model.sample(texts=texts), images)
    assert model.texts is not None
    given = {"text": model.texts.encoder.encode(texts)}
    np.testing.assert_array_equal(model.sample(2, condition=given), images)
    assert (model.sample(texts=texts[::-1])[0] != images[0]).any()  # the same noise, another text
    with pytest.raises(UserError, match="has the word 'zebra', which no training caption has"):
        model.sample(texts=["a red zebra"])
    with pytest.raises(UserError, match=r"text must be of shape \[2, "):
        model.sample(2, condition={"text": np.zeros((2, 3))})
    for nothing in ({}, {"texts": []}):
        with pytest.raises(UserError, match="give the number of samples, or texts"):
            model.sample(**nothing)
    with pytest.raises(UserError, match="there are 2 texts, and 3 samples to draw: give one for each"):
        model.sample(3, texts=texts)
    with pytest.raises(UserError, match="5 is no text"):
        model.sample(texts=[5])


def test_its_samples_have_captions_of_pictures_that_were_held_out(workdir):
    with np.load(workdir / "samples.npz", allow_pickle=False) as file:
        captions = file["captions"].tolist()
    held_out = dataset.load(data_config("", "captioned_shapes")).captions["test"]
    assert len(captions) == 8
    assert set(captions) <= {caption for each in held_out for caption in each}
    assert report.read(workdir).samples.labels[:8] == tuple(captions)
    assert captions[0] in (workdir / "report.html").read_text()
    names = {row["name"] for row in json.loads((workdir / "report.json").read_text())["metrics"]}
    assert {"colour_agreement/captions_8", "shape_agreement/captions_8", "place_agreement/captions_8"} <= names

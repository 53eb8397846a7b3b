import dataclasses

import numpy as np
import pytest
from conftest import data_config
from ml_collections import ConfigDict

from gen_jax import sample
from gen_jax.data import dataset
from gen_jax.data.dataset import Dataset
from gen_jax.method import DataSpec, Feature, Method, UserError
from gen_jax.run import Run
from gen_jax.text import agreement, char_cnn_rnn, encoder, texts, words
from gen_jax.text.encoder import Encoder, Given

CAPTIONS = {
    "train": [["a red star", "a star"], ["a blue box", "a box"], ["a red box", "a star"]],
    "test": [["a box", "a star"]],
}


def made_up() -> Dataset:
    arrays = {"image": np.zeros((3, 8, 8, 1), np.uint8)}
    test = {"image": np.zeros((1, 8, 8, 1), np.uint8)}
    return Dataset(DataSpec("made_up", (8, 8, 1), 3, fingerprint="f"), arrays, test, captions=CAPTIONS)


def test_words_and_pairs_are_counted():
    by = words.make(Given(made_up()))
    known = by.facts["words"]
    assert known[:5] == ["a", "blue", "box", "red", "star"]
    assert "a star" in known  # twice
    assert "blue box" not in known  # once
    row = dict(zip(known, by.encode(["A star, a red star."])[0].tolist(), strict=True))
    assert (row["star"], row["a"], row["red"], row["box"], row["a star"]) == (2, 2, 1, 0, 1)


def test_the_most_common_pairs_are_kept():
    captions = [["a red box, a red box, a red star"], ["a blue star, a red star"]]
    given = Given(Dataset(DataSpec("made_up", (8, 8, 1), 2), {}, None, captions={"train": captions}))
    assert [part for part in words.make(given, most=1).facts["words"] if " " in part] == ["a red"]  # four times
    assert [part for part in words.make(given).facts["words"] if " " in part] == ["a red", "red box", "red star"]


def test_pairs_reach_as_far_as_asked_but_not_into_the_next_clause():
    texts = ["a red star at the top and a blue disc, on the left", "a blue star at the top and a red disc, on the left"]
    given = Given(dataclasses.replace(made_up(), captions={"train": [texts, texts]}))
    far = words.make(given, reach=8)
    pairs = {part for part in far.facts["words"] if " " in part}
    assert {"red top", "star top", "a top", "blue disc", "on left"} <= pairs
    assert not {"red and", "top blue", "star disc", "disc on", "disc left"} & pairs
    assert "a the" in pairs
    near = words.make(given, reach=3)
    assert "red the" in near.facts["words"]
    assert "red top" not in near.facts["words"]  # the fourth word behind it
    one, other = far.encode(texts)
    assert one[far.facts["words"].index("red top")] == 1
    assert other[far.facts["words"].index("red top")] == 0


def test_without_a_reach_the_encoder_is_that_of_older_runs():
    by = words.make(Given(made_up()))
    assert by.digest == Encoder("words", by.size, {}, {"words": by.facts["words"]}).digest


def test_directions_of_agreement_are_those_of_a_known_distribution():
    # Groups differ by N(0, 4) along one axis and N(0, 1) along another, examples by N(0, 1) along both: the shares of
    # variance between groups are 4 / 5 and 1 / 2. A third axis has only noise. All are then mixed.
    rng = np.random.default_rng(0)
    between = rng.normal(size=(20_000, 1, 3)) * [2, 1, 0]
    mixing = np.array([[1.0, 0.3, 0.0], [0.2, -1.0, 0.5], [0.0, 1.0, 2.0]])
    x = (between + rng.normal(size=(20_000, 4, 3)) * [1, 1, 3]) @ mixing
    mean, directions = agreement.agreement(x.astype(np.float32), 2, 0.0)
    np.testing.assert_allclose(mean, 0, atol=0.5)
    along = mixing @ directions  # of the axes before they were mixed
    np.testing.assert_allclose(abs(along[0]) * np.sqrt(5), [0.8, 0], atol=0.03)
    np.testing.assert_allclose(abs(along[1]) * np.sqrt(2), [0, 0.5], atol=0.03)
    np.testing.assert_allclose(along[2] * 3, 0, atol=0.03)


def described_twice() -> Given:
    """Pictures of one thing, captioned in two ways of two."""
    things = [f"{colour} {shape}" for colour in ("red", "blue") for shape in ("star", "box")]
    captions = [[f"a {thing}", f"here we see one {thing}"] for thing in things for _ in range(3)]
    data = made_up()
    return Given(dataclasses.replace(data, captions={"train": captions, "test": captions}))


def test_words_of_some_size_tell_pictures_apart_and_not_how_they_are_described(tmp_path):
    given = described_twice()._replace(cache_dir=str(tmp_path))
    by = words.make(given, size=3)
    assert by.size == 3
    one, other, star = by.encode(["a red box", "here we see one red box", "a red star"])
    assert np.linalg.norm(one - other) < 0.05 * np.linalg.norm(one - star)
    plain = words.make(given)
    one, other, star = plain.encode(["a red box", "here we see one red box", "a red star"])
    assert np.linalg.norm(one - other) > np.linalg.norm(one - star)
    assert words.make(given, size=3).digest == by.digest  # from the cache
    with pytest.raises(UserError, match="has the word 'green'"):
        by.encode(["a green box"])


def test_numbers_out_of_range_and_directions_without_several_captions_are_refused():
    for value in ({"most": -1}, {"reach": 0}):
        with pytest.raises(UserError, match="at least 1"):
            words.make(Given(made_up()), **value)
    with pytest.raises(UserError, match="size is -1, but words has"):
        words.make(Given(made_up()), size=-1)
    with pytest.raises(UserError, match=r"size is 500, but words has (\d+) numbers for these captions: use 1 to \1"):
        words.make(described_twice(), size=500)
    one_each = dataclasses.replace(made_up(), captions={"train": [["a red box"], ["a blue star"]]})
    with pytest.raises(UserError, match="pictures have one caption each"):
        words.make(Given(one_each), size=2)


@pytest.mark.parametrize(
    "by", [words.make(Given(made_up())), Encoder("char_cnn_rnn", 4, {"x": np.ones(2)}, {"right": 1})]
)
def test_an_encoder_comes_back_from_its_folder(tmp_path, by):
    encoder.save(by, tmp_path)
    again = encoder.load(tmp_path)
    assert (again.kind, again.size, again.facts, again.digest) == (by.kind, by.size, by.facts, by.digest)
    assert again._replace(facts={}).digest != by.digest
    (tmp_path / "encoder.npz").write_bytes(b"")
    with pytest.raises(UserError, match="holds no text encoder that can be read"):
        encoder.load(tmp_path)


def test_a_set_gets_the_embeddings_of_its_captions(tmp_path):
    by = words.make(Given(made_up()))
    data, found = texts.described(made_up(), by, str(tmp_path))
    assert data.spec.features["text"] == Feature((2, by.size), "float32", several=True)
    assert data.spec.features["text"].given == (by.size,)
    for split, arrays in (("train", data.train), ("test", data.test)):
        for row, captions in zip(arrays["text"], CAPTIONS[split], strict=True):
            np.testing.assert_array_equal(row, by.encode(captions))
    assert found.prompts == ("a box",)
    assert found.captions(3) == ("a box",) * 3
    np.testing.assert_array_equal(found.conditions(2)["text"], by.encode(["a box", "a box"]))
    assert DataSpec.from_dict(data.spec.to_dict()) == data.spec
    alone = dataclasses.replace(made_up(), test=None, captions={"train": CAPTIONS["train"]})
    _, found = texts.described(alone, by, str(tmp_path))
    assert (found.split, found.prompts) == ("train", ("a red star", "a box", "a red box"))


def test_the_texts_of_a_run_come_back(tmp_path):
    run = Run(tmp_path)
    assert texts.read(run) is None
    _, found = texts.described(made_up(), words.make(Given(made_up())), str(tmp_path / "cache"))
    found.save(run.text)
    again = texts.read(run)
    assert again is not None
    assert (again.prompts, again.split) == (found.prompts, "test")
    np.testing.assert_array_equal(again.embeddings, found.embeddings)
    np.testing.assert_array_equal(again.encoder.encode(["a red box"]), found.encoder.encode(["a red box"]))


def test_a_second_stage_uses_the_encoder_of_its_first_one(tmp_path):
    with pytest.raises(UserError, match="config.data.text is first_stage, but config.pretrained is ''"):
        texts.first_stage(Given(made_up()))
    with pytest.raises(UserError, match="which is no run that takes texts"):
        texts.first_stage(Given(made_up(), pretrained=str(tmp_path)))
    (tmp_path / "text").mkdir()
    encoder.save(words.make(Given(made_up())), tmp_path / "text")
    assert texts.first_stage(Given(made_up(), pretrained=str(tmp_path))).kind == "words"


def test_a_set_without_captions_is_refused():
    data = data_config("", "gaussians:ring8")
    data.text = ConfigDict({"name": "words", "most": 4})
    with pytest.raises(UserError, match="data set gaussians:ring8 has no captions: use captioned_shapes, or a folder"):
        texts.load(ConfigDict({"data": data}))
    assert texts.load(ConfigDict({"data": data_config("", "gaussians:ring8")}))[1] is None


def test_conditions_of_another_size_are_refused():
    method = Method(None, None, None, None, None, condition=("text",))
    spec = DataSpec("x", (8, 8, 1), 4, {"text": Feature((3, 5), "float32", several=True)})
    assert sample.conditions(method, spec, 2, {"text": np.zeros((2, 5))})["text"].shape == (2, 5)
    with pytest.raises(UserError, match=r"text must be of shape \[2, 5\], not \[2, 7\]"):
        sample.conditions(method, spec, 2, {"text": np.zeros((2, 7))})
    with pytest.raises(UserError, match="this model needs text: give 2 of them"):
        sample.conditions(method, spec, 2, {})


def test_characters_are_those_of_the_paper_and_others_are_named():
    assert len(char_cnn_rnn.ALPHABET) == len(set(char_cnn_rnn.ALPHABET)) == 70
    found = char_cnn_rnn.characters(["Ab!", "x" * 300])
    assert found[0, :4].tolist() == [1, 2, char_cnn_rnn.ALPHABET.index("!") + 1, 0]
    assert (found[1] == 24).all()
    with pytest.raises(UserError, match="has the character 'é', which this encoder does not know"):
        char_cnn_rnn.characters(["café"])


def test_windows_are_every_third_four_characters():
    x = np.arange(7.0).reshape(1, 7, 1)
    found = np.asarray(char_cnn_rnn._windows(x))[0]
    assert found.tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 0, 0, 0]]


@pytest.mark.slow
def test_a_trained_char_cnn_rnn_finds_the_picture_of_a_caption(tmp_path):
    data = dataset.load(data_config("", "captioned_shapes"))
    images = data.train["image"][np.arange(1_000)]
    captions = [[each[0]] for each in data.captions["train"][:1_000]]
    _, right = char_cnn_rnn.train(images, captions, size=64, num_steps=300)
    assert right > 10 / 64  # by chance 1 in 64

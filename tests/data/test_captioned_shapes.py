import itertools

import numpy as np
import pytest
from conftest import data_config

from gen_jax.data import captioned_shapes as shapes
from gen_jax.data import dataset
from gen_jax.data.grammar import Thing, parse, score, write
from gen_jax.method import UserError

SPLITS = {split: shapes.Drawn(split) for split in ("train", "test")}


@pytest.mark.parametrize("split", SPLITS)
def test_captions_parse_back_to_their_factors(split: str):
    drawn, stated = SPLITS[split], set()
    for i in range(800):
        scene, captions = drawn.scene(i), drawn.captions(i)
        assert len(captions) == shapes.NUM_CAPTIONS
        assert sorted(parse(captions[0]).things, key=lambda thing: thing.place) == list(scene)  # it states everything
        for caption in captions:
            found = score(parse(caption), scene)
            assert all(right == total for right, total in found.values()), (caption, scene)
            stated |= {name for name, (_, total) in found.items() if total}
    assert stated == {"shape", "colour", "size", "place", "relation", "number"}


def test_a_caption_of_another_scene_is_seen_to_be_wrong():
    told = parse("a small green star to the left of a red circle, and a blue box at the top")
    right = (Thing(1, 2, 1, 1), Thing(3, 1, 0, 3), Thing(0, 0, 0, 8))
    assert all(a == b for a, b in score(told, right).values())
    colours = tuple(thing._replace(colour=(thing.colour + 1) % 6) for thing in right)
    assert score(told, colours)["colour"] == (0, 3)
    swapped = (Thing(1, 2, 1, 1), Thing(0, 0, 0, 3), Thing(3, 1, 0, 8))
    assert score(told, swapped)["relation"] == (0, 1)
    assert score(told, right[:2])["number"] == (0, 1)
    assert score(told, ())["shape"] == (0, 3)


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("a grean star at the top", "has the word 'grean': did you mean green"),
        ("a star", "is no sentence of the grammar, such as 'a small red star"),
        ("a red star a blue star", "is no sentence"),
        ("a red star, a red star, a red star and a red star", "is no sentence"),
        ("", "is no sentence"),
    ],
)
def test_other_sentences_are_refused(caption: str, message: str):
    with pytest.raises(UserError, match=message):
        parse(caption)


def test_paraphrases_say_the_same():
    scene = (Thing(0, 4, 0, 8),)
    told = {write(scene, lambda n, k=k: k % n, whole=True) for k in range(8)}
    assert len(told) > 3
    assert {parse(caption).things for caption in told} == {scene}


def test_no_thing_of_a_test_picture_occurs_in_training():
    found = {split: set(itertools.chain(*(drawn.scene(i) for i in range(3_000)))) for split, drawn in SPLITS.items()}
    assert not found["train"] & found["test"]
    assert len(found["test"]) == 60
    assert len(found["train"]) == 480
    for part in range(4):  # every shape, colour, size and place is known from training
        assert len({thing[part] for thing in found["train"]}) == len({thing[part] for thing in found["test"]})


def test_a_picture_depends_on_its_index_alone_and_its_sizes_agree():
    drawn = SPLITS["train"]
    small, large = drawn.pictures(range(12), 64), drawn.pictures(range(12), 256)
    np.testing.assert_array_equal(drawn.pictures([7], 64)[0], small[7])
    means = large.reshape(12, 64, 4, 64, 4, 3).mean(axis=(2, 4))
    assert np.abs(means - small).max() <= 1  # both are rounded
    assert (SPLITS["test"].pictures([7], 64)[0] != small[7]).any()


def test_pixels_of_shapes_are_those_of_geometry():
    # Of a radius of 32: a disc of 0.92 pi r^2, a triangle of half base times height, a cross of two bars.
    areas = {0: 0.92 * np.pi, 1: 1.72**2, 2: 0.98 * 1.78, 4: 2 * 2 * 0.64 - 0.64**2}
    for shape, area in areas.items():
        cover = shapes.stamp(shape, 32, 36, 36, 1)
        assert abs(cover.sum() / 16 / (area * 32**2) - 1) < 0.01
    star = shapes.stamp(3, 32, 36, 36, 1)
    assert (star[:, :72] == star[:, 71::-1]).mean() > 0.98  # symmetric about its centre, up to samples on an edge
    # The shoelace formula of a star: 5 * r * R * sin(36 degrees).
    assert abs(star.sum() / 16 / (5 * 0.45 * np.sin(np.pi / 5) * 32**2) - 1) < 0.01


def test_the_set_is_one_of_the_project_s():
    data = dataset.load(data_config("", "captioned_shapes"))
    assert data.spec.image_shape == (64, 64, 3)
    assert data.test is not None
    assert {split: len(captions) for split, captions in data.captions.items()} == {"train": 10_000, "test": 1_000}
    rows = np.array([5, 900])
    np.testing.assert_array_equal(data.test["image"][rows], SPLITS["test"].pictures(rows, 64))
    assert [shapes.scene_of(data.test["factors"][i]) for i in rows] == [SPLITS["test"].scene(i) for i in rows]
    assert data.captions["test"][900] == SPLITS["test"].captions(900)
    assert (data.train["factors"].max(axis=0) < np.array(data.spec.factor_sizes)).all()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("captioned_shapes:big", {}, "there is no set captioned_shapes:big"),
        ("captioned_shapes", {"image_size": 32}, "has 64, 128, 256: use 64"),
        ("captioned_shapes", {"channels": 1}, "has 3: use 0"),
        ("captioned_shapes", {"test_split": "val"}, "no such split: use test"),
    ],
)
def test_what_the_set_does_not_have_is_refused(name: str, changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        dataset.load(data_config("", name, **changes))

import numpy as np
import pytest

from gen_jax import judges
from gen_jax.data import captioned_shapes as shapes
from gen_jax.data import dataset
from gen_jax.data.grammar import Thing
from gen_jax.method import DataSpec
from gen_jax.metrics import scenes

DRAWN = shapes.Drawn("test")


@pytest.mark.parametrize(("size", "num"), [(64, 300), (128, 20), (256, 20)])
def test_a_perfect_renderer_is_read_without_a_mistake(size: int, num: int):
    assert scenes.read(DRAWN.pictures(range(num), size)) == [DRAWN.scene(i) for i in range(num)]


def test_captions_of_other_pictures_agree_by_chance_only():
    captions = [DRAWN.captions(i)[1] for i in range(300)]
    shown = scenes.read(DRAWN.pictures(range(300), 64))
    assert set(scenes.agreement(shown, captions).values()) == {1.0}
    mixed = scenes.agreement(shown, captions[1:] + captions[:1])
    # Of 5 shapes, 6 colours, 9 places; above 1 in that many because a thing is compared with the likest of a few.
    assert 1 / 5 < mixed["shape"] < 0.4
    assert 1 / 6 < mixed["colour"] < 0.35
    assert 1 / 9 < mixed["place"] < 0.3


def test_noise_does_not_hide_a_scene_and_is_none():
    images = DRAWN.pictures(range(60), 64)
    noise = np.random.default_rng(0).normal(0, 20, images.shape)
    assert scenes.read(np.clip(images + noise, 0, 255).astype(np.uint8)) == [DRAWN.scene(i) for i in range(60)]
    assert scenes.read(np.full((1, 64, 64, 3), 40, np.uint8)) == [()]


def test_one_wrong_colour_is_counted_as_one():
    picture = np.full((256, 256, 3), 30, np.int64)
    shapes.paint(picture, Thing(3, 1, 1, 0), 30, np.zeros(2, np.int64), shapes.PALETTE[1])
    shapes.paint(picture, Thing(0, 2, 1, 8), 30, np.zeros(2, np.int64), shapes.PALETTE[2])
    told = "a large green star at the top left and a large red circle at the bottom right"
    found = scenes.agreement(scenes.read(picture[None].astype(np.uint8)), [told])
    assert found == {"shape": 1, "colour": 0.5, "size": 1, "place": 1, "number": 1}


def test_a_run_is_judged_by_its_captions():
    images, told = DRAWN.pictures(range(100), 64), [DRAWN.captions(i) for i in range(100)]
    split, spec = {"image": images}, DataSpec(shapes.NAME, (64, 64, 3), 100)
    data = dataset.Dataset(spec, split, split, captions={"train": told, "test": told})
    samples = judges.Samples(images, None, "made", tuple(each[0] for each in told))
    rows = {row["name"]: row for row in judges.judge_by_captions(data, samples)}
    assert {name.partition("_")[0] for name in rows} == {"shape", "colour", "size", "place", "number"}
    assert rows["colour_agreement/captions_100"]["value"] == rows["colour_agreement/captions_100"]["reference"] == 1
    assert "By chance, with each other's captions: shape 2" in rows["shape_agreement/captions_100"]["protocol"]
    assert judges.judge_by_captions(data, samples._replace(captions=())) == []

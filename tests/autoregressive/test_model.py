"""Autoregressive models as methods: probabilities of all there is, samples, grey values, first stages, refusals."""

import functools
import itertools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autoregressive.toys import batch_of, every_grid, shaken, spec_of, stage_of

from gen_jax import methods
from gen_jax.autoregressive import domain, pictures
from gen_jax.method import DataSpec, UserError, to_pixels

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
GRID, SIZE = (2, 2), 3
FAST = ("optimizer.learning_rate=2e-2", "optimizer.warmup_steps=0", "ema=0.5")


def config_of(*words):
    config = methods.load(str(FOLDER / "pixelcnn_mnist.py"))[2]
    words = (
        "network.depth=2",
        "network.width=6",
        "autoregressive.levels=0",
        "autoregressive.conditional=false",
        *words,
    )
    config = methods.override(config, [f"--config.{word}" for word in words])
    methods.check(config)
    return config


def make(*words, classes="", size=SIZE, grid=GRID, staged=True, trace=jax.jit):
    """A model of the codes of a toy first stage, or of grey values: its method, and its state before training."""
    spec = spec_of(grid, classes)
    stage = stage_of(spec, size) if staged else None
    if classes:
        words = ("autoregressive.conditional=true", *words)
    method = methods.make(config_of(*words), spec, stage)
    example = batch_of(np.zeros((4, *grid)), np.zeros(4) if classes else None)
    return method, trace(method.init)(jax.random.key(0), example, stage.params if stage else {})


made = functools.cache(make)


def shapes(function):
    return functools.partial(jax.eval_shape, function)


@functools.cache
def compiled(function):
    return jax.jit(function)


def any_weights(state):
    """A state in whose averages the last layer is not zero."""
    return state.replace(ema=shaken(state.ema, 0.5))


def measured(method, state, batch):
    """The values of an evaluation, without the protocols in their names; bits are those of a place."""
    found = compiled(method.evaluate)(state, batch, jax.random.key(5))
    values = {name.partition("/")[0].removeprefix("code_"): np.asarray(value) for name, value in found.items()}
    return values | {"bits": values.get("bits_per_code", values.get("bits_per_dim"))}


def trained(method, state, batch, num_steps):
    """A state after steps on batches, by the number of the step."""
    step = jax.jit(method.step)
    for number in range(num_steps):
        state, _ = step(state, batch(number))
    return state


def test_the_probabilities_of_all_there_is_sum_to_one_in_every_class():
    everything, seen = every_grid(GRID, SIZE), []
    assert len(everything) == 81
    method, state = made(classes="abc")
    for label in range(3):
        batch = batch_of(everything, np.full(81, label))
        probabilities = np.exp(-measured(method, any_weights(state), batch)["nll"].astype(np.float64))
        assert probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert probabilities.max() > 3 / 81  # far from uniform
        seen.append(probabilities)
    assert all(np.abs(one - two).max() > 1e-3 for one, two in itertools.pairwise(seen))


@pytest.mark.parametrize("size", [SIZE, 256])
def test_before_training_every_value_is_equally_likely(size):
    method, state = made(classes="abc", staged=size == SIZE)
    images = np.random.default_rng(0).integers(0, size, (81, *GRID))
    values = measured(method, state, batch_of(images, np.arange(81) % 3))
    np.testing.assert_allclose(values["bits"], math.log2(size), rtol=1e-6)
    np.testing.assert_allclose(values["loss"], math.log2(size), rtol=1e-6)
    np.testing.assert_allclose(values["nll"], 4 * math.log(size), rtol=1e-6)


def entropy(p):
    return -(p * math.log2(p) + (1 - p) * math.log2(1 - p))


def test_training_reaches_the_entropy_of_a_known_distribution():
    # Two fair bits; the third is their exclusive or, but for a tenth; the fourth is the first, but for a fifth.
    everything = every_grid(GRID, 2)
    a, b, c, d = everything.reshape(16, 4).T
    probabilities = 0.25 * np.where(c == a ^ b, 0.9, 0.1) * np.where(d == a, 0.8, 0.2)
    least = (2 + entropy(0.1) + entropy(0.2)) / 4
    method, state = make(*FAST, "ema=0.9", "num_steps=150", size=2)
    rng = np.random.default_rng(0)
    drawn = [batch_of(everything[rng.choice(16, 256, p=probabilities)]) for _ in range(150)]
    bits = measured(method, trained(method, state, drawn.__getitem__, 150), batch_of(everything))["bits"]
    # Over the whole distribution: no model is below its entropy.
    assert least - 1e-5 < float(probabilities @ bits) < least + 0.01


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_samples_have_the_probabilities_of_the_model_at_a_temperature(temperature):
    grid, num = (2, 1), 4000
    method, state = make(f"sample.temperature={temperature}", grid=grid)
    state = any_weights(state)
    nll = measured(method, state, batch_of(every_grid(grid, SIZE)))["nll"]
    joint = np.exp(-nll.astype(np.float64)).reshape(SIZE, SIZE)
    assert joint.sum() == pytest.approx(1, abs=1e-5)
    first, second = (p ** (1 / temperature) for p in (joint.sum(1), joint / joint.sum(1, keepdims=True)))
    expected = (first / first.sum())[:, None] * second / second.sum(1, keepdims=True)
    told = {} if temperature == 1 else {"temperature": f"temperature {temperature:g}"}
    assert method.describe == {"order": "2 places one by one"} | told
    images = jax.jit(method.sample)(state, jax.random.split(jax.random.key(1), num), {})
    codes = np.round(np.asarray(images[..., 0]).reshape(num, 2) + 1).astype(int)  # from -1, 0, 1
    found = np.zeros((SIZE, SIZE))
    np.add.at(found, (codes[:, 0], codes[:, 1]), 1 / num)
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / math.sqrt(num))  # four standard errors, at most


@pytest.mark.slow
def test_a_sample_has_the_class_that_was_asked_for():
    # Trained on pictures whose places all hold the number of their class.
    method, state = make(*FAST, "num_steps=60", classes="abc")
    label = np.arange(48) % 3
    batch = batch_of(np.broadcast_to(label[:, None, None], (48, *GRID)), label)
    state = trained(method, state, lambda number: batch, 60)
    assert method.condition == ("label",)
    wanted = jnp.array([2, 0, 1, 1, 2, 0])
    images = jax.jit(method.sample)(state, jax.random.split(jax.random.key(0), 6), {"label": wanted})
    np.testing.assert_allclose(images, jnp.broadcast_to(wanted[:, None, None, None] - 1.0, (6, *GRID, 1)), atol=1e-6)


def test_codes_are_read_and_drawn_with_the_weights_of_the_first_stage():
    method, state = make(grid=(2, 1), size=4)
    state = any_weights(state)
    moved = state.replace(frozen={"shift": jnp.int32(1)})
    images = np.array([[[0], [2]], [[1], [3]]])
    before = measured(method, moved, batch_of(images))["nll"]
    np.testing.assert_allclose(before, measured(method, state, batch_of((images + 1) % 4))["nll"], rtol=1e-6)
    keys, sample = jax.random.split(jax.random.key(0), 8), jax.jit(method.sample)
    one, two = (np.round((np.asarray(sample(each, keys, {})) + 1) * 1.5) for each in (state, moved))
    np.testing.assert_array_equal((one - 1) % 4, two)


@pytest.mark.parametrize(("levels", "edges"), [(0, range(257)), (16, range(0, 257, 16)), (3, (0, 86, 171, 256))])
def test_all_bytes_come_back_and_fewer_levels_are_of_equal_width(levels, edges):
    of = domain.grey_values(spec_of((16, 16)), levels)
    integers = of.read({}, batch_of(np.arange(256).reshape(1, 16, 16)), jax.random.key(0))
    expected = np.digitize(np.arange(256), edges) - 1
    np.testing.assert_array_equal(np.ravel(integers), expected)
    grey = np.ravel(to_pixels(of.draw({}, integers)))
    np.testing.assert_array_equal(grey, np.round(expected * 255 / expected.max()))


def test_binary_pictures_have_two_values():
    of = domain.grey_values(DataSpec("binary", (2, 2, 1), 64, value_range=(0, 1)), 0)
    assert (of.num_values, of.words) == (2, "exact_of_2_levels")
    grids = every_grid(GRID, 2)
    integers = of.read({}, batch_of(grids), jax.random.key(0))
    np.testing.assert_array_equal(integers, grids)
    np.testing.assert_array_equal(to_pixels(of.draw({}, integers))[..., 0], 255 * grids)


@pytest.mark.parametrize("staged", [True, False])
def test_names_of_measures_say_what_was_modelled(staged):
    words = ("code_nll", "bits_per_code") if staged else ("nll", "bits_per_dim")
    for classes, more in (("", ""), ("abc", "_given_label")):
        method, state = make(classes=classes, staged=staged, trace=shapes)
        protocol = "codes_2x2_of_3" if staged else "exact_of_256_levels"
        batch = batch_of(np.zeros((2, *GRID)), np.zeros(2) if classes else None)
        found = jax.eval_shape(method.evaluate, state, batch, jax.random.key(0))
        assert found.keys() == {"loss", *(f"{word}/{protocol}{more}" for word in words)}
    assert methods.options(config_of()).measures.keys() >= {*words}


def test_pictures_show_codes_and_bits_where_they_are():
    method, state = make(grid=(2, 4), size=4)
    images = np.random.default_rng(0).integers(0, 4, (12, 2, 4))
    shown = jax.jit(method.pictures)(state, jax.random.key(0), batch_of(images))
    assert shown.keys() == {"temperatures", "codes", "reconstructions", "bits", "mean_bits"}
    codes = np.asarray(shown["codes"].images)[..., 0]
    np.testing.assert_array_equal(codes[:10], codes[10:])  # this stage's pictures are its codes in grey
    assert set(np.unique(codes)) <= {0, 85, 170, 255}
    again = np.asarray(shown["reconstructions"].images)[10:, ..., 0]
    np.testing.assert_array_equal(again, images[:10] * 85)
    # Before training every place costs all of its bits: white.
    assert (np.asarray(shown["bits"].images)[10:] == 255).all()
    assert (np.asarray(shown["mean_bits"].images) == 255).all()
    assert "over 12 test images" in shown["mean_bits"].caption
    rows = np.asarray(shown["temperatures"].images).reshape(4, 10, -1)
    np.testing.assert_array_equal(rows[0], np.broadcast_to(rows[0, :1], rows[0].shape))  # at 0 no chance is left
    np.testing.assert_array_equal(rows[3], codes[10:].reshape(10, -1))
    bare, state = make(staged=False, trace=shapes)
    shown = jax.eval_shape(bare.pictures, state, jax.random.key(0), batch_of(np.zeros((2, *GRID))))
    assert shown.keys() == {"temperatures", "bits", "mean_bits"}


def test_bits_become_grey_values_from_none_to_all():
    grey = pictures.as_grey(jnp.array([[[0.0, 1.0], [2.0, 9.0]]]), 4, (4, 6, 3))
    assert grey.shape == (1, 4, 6, 3)
    assert grey[0, ::3, ::5, 0].tolist() == [[0, 128], [255, 255]]
    assert len(np.unique(pictures.shades(128, 3), axis=0)) == 128


@pytest.mark.parametrize(
    ("words", "spec", "stage", "message"),
    [
        (["sample.temperature=-1"], {}, None, r"sample\.temperature is -1; it must not be negative"),
        (["autoregressive.conditional=true"], {}, None, "conditional needs labels, and data set made_up has none"),
        (["autoregressive.levels=1"], {}, None, r"levels is 1; use 2 to 256, or 0 for all"),
        (["autoregressive.levels=300"], {}, None, r"levels is 300; use 2 to 256, or 0 for all"),
        ([], {"image_shape": (2, 2, 3)}, None, r"of 3 channels: use a first stage \(config.pretrained\), or one"),
        ([], {"kind": "points"}, None, "needs pictures of one channel, and data set made_up holds points$"),
        ([], {}, {"code": False}, "is of method toy, which makes no codes; an autoregressive model needs integers"),
        ([], {}, {"kind": "means"}, "is of method toy, which makes codes of means, 2x2; .* needs integers"),
        (
            [],
            {},
            {"shape": (4,)},
            "is of method toy, which makes codes of integers, 4; .* in rows and columns",
        ),
        (["autoregressive.levels=16"], {}, {}, "levels is 16, but it is about grey values"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(words, spec, stage, message):
    spec = DataSpec(**{"name": "made_up", "image_shape": (2, 2, 1), "num_examples": 64} | spec)
    with pytest.raises(UserError, match=message) as error:
        methods.make(config_of(*words), spec, None if stage is None else stage_of(spec, 3, **stage))
    assert "\n" not in str(error.value)

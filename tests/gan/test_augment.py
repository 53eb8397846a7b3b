"""Augmentation: what each change does by hand, its distribution, whose draws they are, gradients, and the game."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import methods, parallel
from gen_jax.checkpoint import Checkpoints
from gen_jax.gan import augment, losses
from gen_jax.gan.defaults import gan_config, r3gan_config
from gen_jax.method import DataSpec, UserError, labelled

KEY, N = jax.random.key(0), 4000
SPEC = DataSpec("made_up", (8, 8, 1), 64, labelled("0123456789"))
POINTS = DataSpec("ring", (1, 1, 2), 64, kind="points", value_range=(-5, 5))
DENSE = ("network=dense", "network.hidden=4", "network.generator_hidden=4")
IMAGES = jax.random.uniform(jax.random.key(1), (6, 8, 8, 3), minval=-1.0)


def applied(x, factor=1.0, index=None, key=KEY, **values):
    index = jnp.arange(len(x)) if index is None else index
    made = augment.diff_augment(**values)
    return np.asarray(jax.jit(made.change)(x, made.strength(made.init()) * factor, index, key))


ONLY = {
    "colour": {"translation": 0.0, "cutout": 0.0},
    "translation": {"colour": 0.0, "cutout": 0.0},
    "cutout": {"colour": 0.0, "translation": 0.0},
}


def test_strength_0_and_parts_of_size_0_are_the_identity():
    np.testing.assert_allclose(applied(IMAGES, strength=0.0), IMAGES, atol=1e-6)
    np.testing.assert_allclose(applied(IMAGES, factor=0.0), IMAGES, atol=1e-6)
    np.testing.assert_allclose(applied(IMAGES, colour=0.0, translation=0.0, cutout=0.0), IMAGES, atol=1e-6)
    assert np.all(np.abs(applied(IMAGES) - IMAGES).max((1, 2, 3)) > 1e-2)


def test_shifts_are_whole_pixels_unbiased_and_uniform():
    # One bright pixel in the middle of 9x9: a third of the side is 3 pixels.
    x = jnp.zeros((N, 9, 9, 1)).at[:, 4, 4].set(1.0)
    y = applied(x, translation=1 / 3, colour=0.0, cutout=0.0)[..., 0]
    assert (y.sum((1, 2)) == 1).all()
    places = np.argwhere(y)[:, 1:] - 4
    assert sorted(np.unique(places)) == [-3, -2, -1, 0, 1, 2, 3]
    for axis in (0, 1):
        counts = np.bincount(places[:, axis] + 3)
        assert np.abs(counts - N / 7).max() < 5 * np.sqrt(N / 7)
        assert abs(places[:, axis].mean()) < 4 * 2 / np.sqrt(N)  # seven equal steps have a standard deviation of 2
    assert abs(np.corrcoef(places.T)[0, 1]) < 4 / np.sqrt(N)


def test_a_shift_moves_down_and_right_and_zeros_move_in():
    x = np.random.default_rng(0).normal(size=(5, 4, 2)).astype(np.float32)
    expected = np.zeros_like(x)
    expected[2:, :-1] = x[:-2, 1:]
    np.testing.assert_array_equal(augment.shifted(x, jnp.array([2, -1])), expected)
    np.testing.assert_array_equal(augment.shifted(x, jnp.array([5, 0])), 0 * x)


def test_a_cutout_is_a_square_whose_centre_is_anywhere_in_the_image():
    y = applied(jnp.ones((N, 8, 8, 1)), cutout=0.25, colour=0.0, translation=0.0)[..., 0]
    holes = 1 - y
    assert set(np.unique(holes)) == {0.0, 1.0}
    rows, columns = holes.any(2), holes.any(1)
    np.testing.assert_array_equal(holes, rows[:, :, None] & columns[:, None])  # all of their rectangle
    assert set(rows.sum(1)) == set(columns.sum(1)) == {1, 2}  # 1 at the border
    # Nine places for the edge between the two rows: each row inside is in two of them, and those at the border too.
    np.testing.assert_allclose(holes.mean(0), 2 / 9 * 2 / 9, atol=5 * np.sqrt(0.05 / N))


def test_colours_have_the_ranges_of_the_paper():
    # Two pixels of two channels; the changes are read off from means and differences.
    x = jnp.array([[[0.1, 0.3], [0.5, 0.9]]])[None].repeat(N, 0)
    y = applied(x, **ONLY["colour"])
    brightness = y.mean((1, 2, 3)) - 0.45  # contrast and saturation keep the mean
    contrast = (y[:, 0, 1].mean(-1) - y[:, 0, 0].mean(-1)) / 0.5  # saturation keeps each pixel's mean
    saturation = (y[:, 0, 0, 1] - y[:, 0, 0, 0]) / 0.2 / contrast
    for found, low, high in ((brightness, -0.5, 0.5), (contrast, 0.5, 1.5), (saturation, 0.0, 2.0)):
        assert low - 1e-3 <= found.min() < low + 0.01 * (high - low)
        assert high + 1e-3 >= found.max() > high - 0.01 * (high - low)
        spread = (high - low) / np.sqrt(12)
        assert abs(found.mean() - (low + high) / 2) < 4 * spread / np.sqrt(N)


@pytest.mark.parametrize("part", ONLY)
def test_the_strength_is_the_share_of_images_that_a_change_meets(part):
    x = jax.random.uniform(jax.random.key(1), (N, 8, 8, 3), minval=0.1)
    y = applied(x, strength=0.6, factor=0.5, **ONLY[part])
    changed = np.abs(y - x).max((1, 2, 3)) > 1e-4
    expected = 0.3 * (8 / 9 if part == "translation" else 1)  # one shift of nine is by nothing
    assert abs(changed.mean() - expected) < 4 * np.sqrt(0.25 / N)


def test_draws_belong_to_examples_and_to_the_key():
    whole = applied(IMAGES)
    part = applied(IMAGES[2:5], index=jnp.arange(2, 5))
    np.testing.assert_allclose(part, whole[2:5], atol=1e-6)
    assert np.abs(applied(IMAGES, key=jax.random.key(1)) - whole).max() > 0.1
    same = applied(jnp.repeat(IMAGES[:1], 6, axis=0))
    assert np.abs(same[1:] - same[:1]).max((1, 2, 3)).min() > 0.01


def test_gradients_flow_through_to_every_pixel_that_is_seen():
    # The transpose of the change by hand: the change of an image without colour is linear.
    fn, index = augment.diff_augment(colour=0.0, translation=0.25).change, jnp.arange(6)

    def change(x):
        return fn(x, 1.0, index, KEY)

    weights = jax.random.normal(jax.random.key(2), IMAGES.shape)
    slopes = jax.grad(lambda x: jnp.sum(weights * change(x)))(IMAGES)
    direction = jax.random.normal(jax.random.key(3), IMAGES.shape)
    expected = jnp.sum(weights * change(direction), axis=(1, 2, 3))
    np.testing.assert_allclose(jnp.sum(slopes * direction, axis=(1, 2, 3)), expected, rtol=1e-4, atol=1e-4)
    coloured = jax.grad(lambda x: jnp.sum(weights * augment.diff_augment().change(x, 1.0, index, KEY)))(IMAGES)
    assert np.isfinite(coloured).all()
    assert (np.abs(coloured).max((1, 2, 3)) > 0).all()


def made(*words, spec=SPEC, config=gan_config):
    config = methods.override(methods.complete(config()), [f"--config.{word}" for word in words])
    methods.check(config)
    return methods.make(config, spec)


def test_both_players_see_changed_images_and_evaluation_does_not(monkeypatch):
    # An augmentation that turns every image black: then the discriminator's two outputs are equal.
    black = augment.none()._replace(change=lambda x, probability, index, key: 0 * x)
    monkeypatch.setitem(augment.AUGMENTS, "diff_augment", lambda strength=1.0: black)
    words = (*DENSE, "gan.loss=wasserstein")
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (8, 8, 8, 1)).astype(np.uint8), "index": np.arange(8, dtype=np.int32)}
    plain, black = made(*words), made(*words, "gan.augment=diff_augment")
    state = plain.init(jax.random.key(0), {}, {})
    results = [jax.jit(method.step)(state, batch) for method in (plain, black)]
    assert float(results[0][1]["loss"]) != 0.0
    assert float(results[1][1]["loss"]) == 0.0
    assert float(results[0][1]["grad_norm"]) > 0.0
    assert float(results[1][1]["grad_norm"]) == 0.0  # nothing reaches the generator through it
    for name in ("loss", "real_score"):
        values = [jax.jit(method.evaluate)(state, batch, KEY)[name] for method in (plain, black)]
        np.testing.assert_array_equal(*values)


def test_half_of_the_real_images_are_mirrored_in_training_alone():
    # D(x) = w (right pixel - left pixel): its logit on an image or its mirror image has one of two signs.
    words = ("network=dense", "network.hidden=()", "network.generator_hidden=4", "gan.loss=wasserstein")
    spec, n = DataSpec("slopes", (1, 2, 1), 64), 400
    image = np.broadcast_to(np.uint8([0, 255]).reshape(1, 1, 2, 1), (n, 1, 2, 1))
    batch = {"image": image, "index": np.arange(n, dtype=np.int32)}
    scores = []
    for mirror in ("false", "true"):
        method = made(*words, f"gan.mirror={mirror}", spec=spec)
        state = method.init(jax.random.key(0), {}, {})
        judge = {"out": {"kernel": jnp.array([[-0.5], [0.5]]), "bias": jnp.zeros(1)}}
        state = state.replace(params=state.params | {"discriminator": judge})
        scores.append(float(jax.jit(method.step)(state, batch)[1]["real_score"]))
        assert float(jnp.mean(jax.jit(method.evaluate)(state, batch, KEY)["real_score"])) == 1.0
    assert scores[0] == 1.0
    assert abs(scores[1]) < 4 / np.sqrt(n)


def strengths(made, signs, num):
    """The strength before each update and after the last, from one mean sign of `num` logits for each update."""
    kept, found = made.init(), []
    for sign in signs:
        found.append(float(made.strength(kept)))
        kept = made.advance(kept, jnp.float32(sign), num)
    return [*found, float(made.strength(kept))]


def test_an_adaptive_strength_moves_after_every_fourth_update_by_the_images_of_the_four():
    # 4 updates of 10 images are a fifth of 200.
    made = augment.adaptive(target=0.6, images=200)
    # Means over four: 1 (up), 0.6 (as it should be), 0.65 (up), 0.55 (down).
    signs = [1.0] * 4 + [1.0, 1.0, 0.4, 0.0] + [0.6, 0.6, 0.6, 0.8] + [0.6, 0.6, 0.6, 0.4]
    expected = [0.0] * 4 + [0.2] * 8 + [0.4] * 4 + [0.2]
    np.testing.assert_allclose(strengths(made, signs, 10), expected, atol=1e-6)


def test_an_adaptive_strength_stays_a_probability_and_does_not_run_away_beyond():
    made = augment.adaptive(images=100)  # 4 updates of 10 images are two fifths
    found = strengths(made, [-1.0] * 4 + [1.0] * 16 + [-1.0] * 4, 10)[::4]
    np.testing.assert_allclose(found, [0, 0, 0.4, 0.8, 1.0, 1.0, 0.6], atol=1e-6)


def test_the_changes_of_an_adaptive_strength_are_those_of_the_constant_one():
    values = {"colour": 0.5, "translation": 0.25, "cutout": 0.25}
    found = jax.jit(augment.adaptive(**values).change)(IMAGES, 0.4, jnp.arange(6), KEY)
    np.testing.assert_array_equal(found, applied(IMAGES, factor=0.4, **values))
    np.testing.assert_array_equal(found[0], applied(IMAGES[:1], factor=0.4, **values)[0])


SGD = ("batch_size=16", "optimizer=sgd", "optimizer.b1=0")
ADAPTIVE = (*DENSE, *SGD, "gan.augment=adaptive", "gan.augment.images=160")


def batch_at(step, num=16):
    rng = np.random.default_rng(step)
    image = rng.integers(0, 256, (num, 8, 8, 1)).astype(np.uint8)
    return {"image": image, "index": np.arange(num, dtype=np.int32)}


def sure(state, logit):
    """The state with a discriminator that says `logit` of every image."""
    judge = jax.tree.map(jnp.zeros_like, state.params["discriminator"])
    judge["out"]["bias"] = jnp.full(1, logit)
    return state.replace(params=state.params | {"discriminator": judge})


@pytest.mark.long
def test_the_strength_follows_the_logits_of_real_images_and_is_measured():
    # 4 updates of 16 images are two fifths of 160.
    method = made(*ADAPTIVE, "discriminator_optimizer.learning_rate=0")
    step, gauges = jax.jit(method.step), jax.jit(method.gauges)
    state, found = sure(method.init(jax.random.key(0), {}, {}), 2.0), []
    for number in range(12):
        if number == 8:
            state = sure(state, -2.0)
        found.append(float(gauges(state)["augment_strength"]))
        state, scalars = step(state, batch_at(number))
        assert float(scalars["real_sign"]) == (1.0 if number < 8 else -1.0)
    np.testing.assert_allclose([*found, float(gauges(state)["augment_strength"])],
                               [0.0] * 4 + [0.4] * 4 + [0.8] * 4 + [0.4], atol=1e-6)  # fmt: skip


@pytest.mark.long
def test_each_update_of_a_critic_and_every_piece_of_a_batch_counts():
    words = (*ADAPTIVE, "discriminator_optimizer.learning_rate=0")
    critic, pieces = made(*words, "gan.critic_steps=4"), made(*words, "accumulate=2")
    batch = batch_at(0)
    for method, lead in ((critic, (4, 16)), (pieces, (2, 8))):
        stacked = {k: np.resize(v, (*lead, *v.shape[1:])) for k, v in batch.items()}
        kept = jax.jit(method.step)(sure(method.init(jax.random.key(0), {}, {}), 2.0), stacked)[0].variables["augment"]
        expected = (0.4, 0, 0) if method is critic else (0.0, 16, 1)
        found = [float(kept[name]) for name in ("strength", "signs", "updates")]
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.fixture(scope="module")
def adapted():
    """(how many devices, executor) -> the State after seven steps of a discriminator that learns."""
    method = made(*ADAPTIVE, "discriminator_optimizer.learning_rate=0.05", "gan.augment.target=-0.9")

    @functools.cache
    def started(devices, executor):
        mesh = parallel.make_mesh(devices)
        run, state = parallel.make_executor(executor, mesh), parallel.init_state(method.init, 0, mesh, {}, {})
        return run, run.compile_step(method.step, state, run.put(batch_at(0), 0), 0), state

    def train(devices, executor, steps=range(7), restore=None):
        run, update, state = started(devices, executor)
        if restore is None:
            state = jax.tree.map(lambda leaf: leaf.copy(), state)  # which a step may write over
        else:
            state = restore(parallel.abstract_state(method.init, run.mesh, {}, {}))
        for step in steps:
            state, _ = update(state, run.put(batch_at(step), 0))
        return state

    return train


@pytest.mark.long
def test_an_adaptive_strength_is_the_same_on_any_number_of_devices(adapted):
    one = adapted(1, "jit")
    assert float(one.variables["augment"]["strength"]) > 0
    assert int(one.variables["augment"]["updates"]) == 3
    for executor in ("jit", "pmap"):
        other = adapted(8, executor)
        jax.tree.map(np.testing.assert_array_equal, other.variables["augment"], one.variables["augment"])
        near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
        jax.tree.map(near, other.params, one.params)


@pytest.mark.long
def test_a_run_goes_on_with_its_adaptive_strength_bit_by_bit(adapted, tmp_path):
    whole = adapted(1, "jit")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(adapted(1, "jit", range(5)))  # one update after the first change
    with Checkpoints(tmp_path) as checkpoints:
        resumed = adapted(1, "jit", range(5, 7), checkpoints.restore)
    for name in ("params", "variables", "ema"):
        jax.tree.map(np.testing.assert_array_equal, getattr(resumed, name), getattr(whole, name))


@pytest.mark.long
def test_the_schedule_of_r3gan_is_its_burn_in_and_a_strength():
    # Huang et al. 2024, CIFAR-10: from 0 to 0.55 along a cosine; a third of the way is a quarter of it.
    words = (*DENSE, "gan.augment=diff_augment", "gan.augment.strength=0.55", "num_steps=1500")
    method = made(*words, config=r3gan_config)
    gauges, state = jax.jit(method.gauges), method.init(jax.random.key(0), {}, {})
    found = [float(gauges(state.replace(step=jnp.int32(step)))["augment_strength"]) for step in (0, 50, 75, 150, 1499)]
    np.testing.assert_allclose(found, [0, 0.55 / 4, 0.55 / 2, 0.55, 0.55], atol=1e-6)


def test_where_a_discriminator_cannot_tell_the_images_apart_logits_of_centred_losses_alone_are_around_0():
    # Its slope at logits that are equal for real and generated images: where it is 0, the logit stays.
    def rests(name, logit):
        loss = losses.make(name)
        return abs(float(jax.grad(lambda x: loss.discriminator(x, x))(logit))) < 1e-6

    logits = (-2.0, 0.0, 0.5, 2.0)
    found = {name: [x for x in logits if rests(name, x)] for name in losses.LOSSES}
    assert {name: found[name] for name in losses.CENTRED} == {
        "minimax": [0.0], "non_saturating": [0.0], "hinge": [0.0, 0.5],  # anywhere between the margins
    }  # fmt: skip
    others = {name: found[name] for name in losses.LOSSES if name not in losses.CENTRED}
    assert others == {"least_squares": [0.5], "wasserstein": [*logits], "relativistic": [*logits]}


@pytest.mark.parametrize(
    ("words", "spec", "hint"),
    [
        (("gan.augment=adaptive", "gan.loss=relativistic"), SPEC, "with the relativistic loss these do not tell real"),
        (("gan.augment=adaptive", "gan.loss=wasserstein"), SPEC, "minimax, non_saturating, hinge$"),
        (("gan.augment=adaptive", "gan.loss=least_squares"), SPEC, "with the least_squares loss"),
        (("gan.augment=adaptive", "gan.augment.target=1"), SPEC, r"target is 1.0; a mean of signs is in \(-1, 1\)"),
        (("gan.augment=adaptive", "gan.augment.images=0"), SPEC, "images is 0; it must be at least 1"),
        (("gan.augment=adaptive", "gan.augment.colour=2"), SPEC, "colour is 2.0; it must be in"),
        (("gan.augment=adaptive", "gan.augment.strength=1"), SPEC, "it belongs to diff_augment"),
        (("gan.augment=adaptive",), POINTS, "augment is adaptive, but data set ring has no pictures"),
        (("gan.augment=diff_augment", "gan.augment.strength=1.5"), SPEC, "strength is 1.5; it must be in"),
        (("gan.augment=diff_augment", "gan.augment.cutout=-0.5"), SPEC, "cutout is -0.5; it must be in"),
        (("gan.augment=diffaugment",), SPEC, "did you mean diff_augment"),
        (("gan.augment=diff_augment",), POINTS, "augment is diff_augment, but data set ring has no pictures"),
        (("gan.mirror=true",), POINTS, "mirror is true, but data set ring has no pictures"),
        (("gan.mirror=true",), DataSpec("thin", (4, 1, 1), 64), "no effect on images that are one pixel wide"),
    ],
)
def test_what_cannot_be_changed_is_one_line(words, spec, hint):
    with pytest.raises(UserError, match=hint) as error:
        made(*DENSE, *words, spec=spec)
    assert "\n" not in str(error.value)

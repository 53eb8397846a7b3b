"""SRResNet and SRGAN as methods: what is learnt from what, the content losses, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import methods
from gen_jax.data import bicubic, dataset
from gen_jax.method import DataSpec, UserError
from gen_jax.superres import content
from gen_jax.superres.srgan import srgan_config

SPEC = dataset.with_smaller(DataSpec("made_up", (16, 16, 3), 64), 2)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
BATCH = {"image": IMAGES, "small": bicubic.reduced(IMAGES, 2), "index": np.arange(4, dtype=np.int32)}


@functools.cache
def made():
    """SRGAN and its first stage with weights that were never trained, before and after a step."""
    config = methods.load("srgan_t91:tiny")[2]
    stage = methods.make_stage(methods.whole_stage(config), SPEC)
    frozen = jax.jit(stage.method.init)(jax.random.key(7), BATCH, {}).ema
    method = methods.make(config, SPEC, stage)
    before = jax.jit(method.init)(jax.random.key(0), BATCH, frozen)
    return method, before, jax.jit(method.step)(before, BATCH)


def leaves_equal(one, two):
    return [bool(jnp.all(a == b)) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)]


@pytest.mark.long
def test_the_generator_starts_as_the_first_stage_and_moves_away_from_it():
    _, before, (after, scalars) = made()
    assert all(leaves_equal(before.params["generator"], before.frozen["generator"]))
    assert all(leaves_equal(before.variables["generator"], before.frozen["generator_variables"]))
    assert all(leaves_equal(after.frozen, before.frozen))
    assert not any(leaves_equal(after.params["generator"], before.frozen["generator"]))
    assert not any(leaves_equal(after.params["discriminator"], before.params["discriminator"]))
    assert all(leaves_equal(after.variables["content"], before.variables["content"]))
    np.testing.assert_allclose(scalars["loss"], scalars["content"] + 1e-3 * scalars["generator_loss"], rtol=1e-6)


@pytest.mark.long
def test_the_page_shows_both_stages_beside_each_other():
    method, before, (after, _) = made()
    figure = jax.jit(method.pictures)(after, jax.random.key(0), BATCH)["crops"]
    assert figure.labels[: figure.columns] == ("input", "bicubic", "SRResNet", "SRGAN", "truth")
    rows = np.asarray(figure.images).reshape(4, 5, 16, 16, 3)
    np.testing.assert_array_equal(rows[:, 0], BATCH["small"].repeat(2, axis=1).repeat(2, axis=2))
    np.testing.assert_array_equal(rows[:, 1], bicubic.enlarged(BATCH["small"], 2))
    np.testing.assert_array_equal(rows[:, 4], IMAGES)
    assert (rows[:, 2] != rows[:, 3]).any()
    same = jax.jit(method.pictures)(before, jax.random.key(0), BATCH)["crops"].images.reshape(4, 5, 16, 16, 3)
    np.testing.assert_array_equal(same[:, 2], same[:, 3])


@pytest.mark.long
def test_evaluation_has_bicubic_pictures_beside_what_was_made():
    method, before, _ = made()
    found = jax.jit(method.evaluate)(before, BATCH, before.key)
    shared = {f"{whose}{measure}_y_shaved2" for whose in ("", "bicubic_") for measure in ("psnr", "ssim", "sharpness")}
    scores = {"loss", "content", "real_score", "fake_score"}
    assert found.keys() == shared | scores | {"true_sharpness_y_shaved2"}
    y, y_hat = (
        16 + (np.asarray(each, np.float64) @ [65.481, 128.553, 24.966] / 255)[:, 2:-2, 2:-2]
        for each in (IMAGES, bicubic.enlarged(BATCH["small"], 2))
    )
    by_hand = 10 * np.log10(255**2 / np.mean((y - y_hat) ** 2, axis=(1, 2)))
    np.testing.assert_allclose(found["bicubic_psnr_y_shaved2"], by_hand, rtol=1e-5)


def test_features_have_variance_one_on_real_data_and_are_the_same_in_every_run():
    # Of pixels in the place of features, twice as far apart: four times the loss.
    x = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3), minval=-1)
    features = content.features(channels=(8, 16))
    variables = jax.jit(features.init)(x)
    assert all(leaves_equal(variables, jax.jit(content.features(channels=(8, 16)).init)(x)))
    assert not all(leaves_equal(variables, jax.jit(content.features(channels=(8, 16), seed=1).init)(x)))
    for level, scale in zip(content._levels(variables["kernels"], x), variables["scales"], strict=True):
        np.testing.assert_allclose(np.std(level / scale), 1, rtol=level.size * 2.0**-24)  # a sum in f32
    kernel = np.asarray(variables["kernels"][1]).reshape(-1, 8)  # orthogonal, but for the factor 2 of a rectifier
    np.testing.assert_allclose(kernel.T @ kernel, 2 * np.eye(8), atol=1e-5)
    loss = jax.jit(features.loss)
    assert bool(jnp.all(loss(variables, x, x + 0.1) > loss(variables, x, x + 0.01)))
    slopes = jax.jit(jax.grad(lambda y: jnp.mean(features.loss(variables, x, y))))(x + 0.1)
    assert np.isfinite(slopes).all()
    assert np.abs(slopes).max() > 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["superres.adversarial=0"], "it must be above 0: srresnet trains without"),
        (["superres.loss=hing"], "did you mean hinge?"),
        (["superres.content.channels=()"], "one number per level"),
        (["network.channels=0,4"], "every value must be at least 1"),
        (["accumulate=2"], "batch normalisation would see minibatches"),
        (["discriminator_optimizer.learning_rate=-1"], "use 0 or more"),
    ],
)
def test_what_srgan_cannot_have_is_refused(words, line):
    config = methods.override(methods.load("srgan_t91:tiny")[2], [f"--config.{word}" for word in words])
    with pytest.raises(UserError) as error:
        methods.make(config, SPEC, methods.make_stage(methods.whole_stage(config), SPEC))
    assert line in str(error.value)


def test_another_first_stage_or_data_without_smaller_copies_is_refused():
    with pytest.raises(UserError, match=r"config\.pretrained is empty"):
        methods.make(srgan_config(), SPEC)
    with pytest.raises(UserError, match="set --config.data.reduce=4, or 2"):
        methods.make(methods.load("srresnet_t91:tiny")[2], DataSpec("made_up", (16, 16, 3), 64))
    tiny = dataset.with_smaller(DataSpec("made_up", (8, 8, 3), 64), 4)
    with pytest.raises(UserError, match="have nothing else"):
        methods.make(methods.load("srresnet_t91:tiny")[2], tiny)
    vae = methods.load("vae_mnist_dense:tiny")[2]
    with pytest.raises(UserError, match="names a vae; srgan needs an srresnet"):
        methods.make(srgan_config(), SPEC, methods.make_stage(vae, SPEC))

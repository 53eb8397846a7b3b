"""The autoencoder of latent diffusion: its loss, the balance of its gradients, its codes, and what it refuses."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from gen_jax import methods, parallel
from gen_jax.autoencoder import bottleneck, perceptual
from gen_jax.autoencoder import model as first_stage
from gen_jax.config import flatten
from gen_jax.diffusion import latent, model
from gen_jax.method import DataSpec, Stage, UserError, to_model

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
SPEC = DataSpec("made_up", (8, 8, 1), 64)
KINDS = ("plain", "kl", "vq")
SGD = ("optimizer.name=sgd", "optimizer.b1=0", "optimizer.learning_rate=0.1", "optimizer.clip_norm=0",
       "optimizer.decay=none", "discriminator_optimizer.learning_rate=0.05")  # fmt: skip
LAST = ("decoder", "out", "kernel")
BARE: dict[str, tuple[str, ...]] = dict.fromkeys(KINDS, ("autoencoder.adversarial=none", "autoencoder.perceptual=none"))
BARE["vq"] = (*BARE["vq"], "autoencoder.latents.size=16")


def make(*words, spec=SPEC) -> Any:
    """The smallest one, for codes of 4x4x4; and its code."""
    start = ("network.channels=(4,)", "batch_size=16", *SGD)
    config = methods.load(str(FOLDER / "autoencoder_mnist.py:tiny"))[2]
    config = methods.override(config, [f"--config.{word}" for word in (*start, *words)])
    methods.check(config)
    method = first_stage.make(config, spec)
    assert method.code is not None
    return method, method.code


def batch_of(num, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (num, 8, 8, 1)).astype(np.uint8)
    return {"image": images, "index": np.arange(num, dtype=np.int32)}


@functools.cache
def started(*words) -> Any:
    """What `make` returns, and the state before the first step, every leaf of the decoder's blocks away from zero."""
    method, code = make(*words)
    return method, code, jax.jit(method.init)(parallel.make_key(0), batch_of(64), {})


def leaf(tree, path=LAST):
    return np.asarray(functools.reduce(lambda node, name: node[name], path, tree), np.float64)


# One compilation of the step serves the three tests that follow.


@functools.cache
def stepped():
    """The state before, that after a step with the adversarial term, and the scalars; a weight of 1 from step 1 on."""
    words = ("autoencoder.adversarial.start=1", "autoencoder.adversarial.weight=1.0")
    method, _, state = started(*words)
    step, batch = jax.jit(method.step), batch_of(16, 1)
    before = step(state, batch)
    after = step(state.replace(step=jnp.int32(1)), batch)  # other noise of the posterior, whose width is tiny
    return state, before, after


@pytest.mark.long
def test_before_the_start_the_discriminator_stands_still_and_after_it_learns():
    state, (before, _), (after, _) = stepped()
    same = jax.tree.map(np.array_equal, before.params["discriminator"], state.params["discriminator"])
    moved = jax.tree.map(np.array_equal, after.params["discriminator"], state.params["discriminator"])
    assert all(jax.tree.leaves(same))
    moved["out"].pop("bias")  # while no logit is beyond the hinge, its gradients of both kinds of images cancel
    assert not any(jax.tree.leaves(moved))


@pytest.mark.long
def test_at_the_last_layer_the_adversarial_gradient_is_as_long_as_that_of_the_reconstruction():
    # Both by automatic differentiation of losses that are written anew here.
    state, _, (after, scalars) = stepped()
    config = methods.load(str(FOLDER / "autoencoder_mnist.py:tiny"))[2]
    x, own = to_model(batch_of(16, 1)["image"], (0, 255)), state.params["autoencoder"]
    made = _model()
    eps = _noise(made, state.replace(step=jnp.int32(1)), 16)

    def rebuilt(params):
        output = made.encoder.apply({"params": params["encoder"]}, x)
        mean, log_var = jnp.split(output, 2, axis=-1)
        z = mean + jnp.exp(5 * jnp.tanh(log_var / 10)) * eps
        return made.decoder.apply({"params": params["decoder"]}, z.reshape(16, -1))

    def pixels(params):
        x_hat, frozen = rebuilt(params), state.variables["perceptual"]
        layers = zip(*(perceptual.features(frozen["kernels"], i) for i in (x, x_hat)), strict=True)
        far = [jnp.mean((a - b) ** 2) / v for (a, b), v in zip(layers, frozen["variances"], strict=True)]
        return jnp.mean(jnp.abs(x - x_hat)) + config.autoencoder.perceptual.weight * sum(far) / len(far)

    def fooled(params):
        return -jnp.mean(made.judge.apply({"params": state.params["discriminator"]}, rebuilt(params)))

    of_pixels, of_game = (jax.jit(jax.grad(loss))(own) for loss in (pixels, fooled))
    weight = np.linalg.norm(leaf(of_pixels)) / (np.linalg.norm(leaf(of_game)) + 1e-4)
    np.testing.assert_allclose(scalars["adaptive_weight"], weight, rtol=1e-3)
    moved = (leaf(own) - leaf(after.params["autoencoder"])) / 0.1
    np.testing.assert_allclose(moved, leaf(of_pixels) + weight * leaf(of_game), rtol=1e-2, atol=1e-5)
    assert np.linalg.norm(weight * leaf(of_game)) == pytest.approx(np.linalg.norm(leaf(of_pixels)), rel=0.05)


def _model():
    found = started("autoencoder.adversarial.start=1", "autoencoder.adversarial.weight=1.0")[0].step
    return found.args[0]


def _noise(made, state, num):
    key = jax.random.split(jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step), 3)[0]
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num))
    return jax.vmap(lambda key: jax.random.normal(key, made.shape))(keys)


def test_the_weight_is_a_ratio_of_norms_and_bounded():
    ratio = first_stage.adaptive_weight(jnp.array([[3.0, 4.0]]), jnp.array([[0.3, 0.4]]))
    assert float(ratio) == pytest.approx(5 / 0.5001)
    assert float(first_stage.adaptive_weight(jnp.full(4, 1e9), jnp.zeros(4))) == 1e4


@pytest.mark.parametrize("kind", ["vq", *(pytest.param(kind, marks=pytest.mark.long) for kind in KINDS[:2])])
def test_codes_are_small_pictures_that_the_averages_alone_encode_and_decode(kind):
    method, code, state = started(f"autoencoder.latents={kind}", *BARE[kind])
    alone, batch = Stage.state(state.ema), batch_of(16)
    assert (code.kind, code.shape) == ("means" if kind == "kl" else "vectors", (4, 4, 4))
    codes = jax.jit(code.encode)(alone, batch, state.key)
    images = jax.jit(code.decode)(alone, codes)
    assert (codes.shape, images.shape) == ((16, 4, 4, 4), (16, 8, 8, 1))
    values = jax.jit(method.evaluate)(state, batch, state.key)
    error = ((np.asarray(images, np.float64) - (batch["image"] / 127.5 - 1)) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(values["psnr"], 10 * np.log10(4 / error), rtol=1e-4)
    if kind == "vq":  # what lies between two vectors of the book is decoded as the nearer one
        book = np.asarray(state.ema["codebook"]["vectors"])
        near = book[np.argmin(((np.asarray(codes)[..., None, :] - book) ** 2).sum(-1), axis=-1)]
        np.testing.assert_allclose(images, jax.jit(code.decode)(alone, near), atol=1e-5)


def test_the_loss_of_each_kind_is_in_closed_form():
    setting = bottleneck.Setting(rows=4, channels=2, values=64)
    output = jnp.array([0.5, -1.0]).reshape(1, 1, 1, 2)
    plain = bottleneck.plain(setting).passed((), output, output)
    np.testing.assert_array_equal(plain.z, output)
    assert float(plain.loss[0]) == 0
    # Mean 1 and log variance 0: KL = 1/2 a number; a wide log variance is bounded.
    normal = bottleneck.kl(setting, weight=0.5)
    passed = normal.passed((), jnp.array([1.0, 0.0, 0.0, 0.0]).reshape(1, 1, 1, 4), jnp.full((1, 1, 1, 2), 2.0))
    assert float(passed.terms["kl"][0]) == pytest.approx(0.5)
    assert float(passed.loss[0]) == pytest.approx(0.5 * 0.5 / 64)
    np.testing.assert_allclose(passed.z.ravel(), [3.0, 2.0])
    # Nearest of (0, 0) and (1, -1): at a distance of (0.5, 0), of which a quarter is the loss.
    book = jnp.array([[-1.0, 0.0], [1.0, -1.0]])
    passed = bottleneck.vq(setting, size=2).passed(book, output, output)
    np.testing.assert_allclose(passed.z.ravel(), [1.0, -1.0])
    assert float(passed.terms["quantization"][0]) == pytest.approx(0.125)
    assert float(passed.loss[0]) == pytest.approx(0.25 * 0.125)


def test_perceptual_features_are_orthonormal_of_variance_one_and_belong_to_their_seed():
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (64, 9, 12, 3)), jnp.float32)
    term = perceptual.random(channels=(8, 16))
    frozen = term.init(x)
    for kernel in frozen["kernels"]:  # fewer filters than inputs: their columns
        matrix = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
        np.testing.assert_allclose(matrix.T @ matrix, 2 * np.eye(kernel.shape[-1]), atol=1e-5)
    layers = perceptual.features(frozen["kernels"], x)
    for maps, variance in zip(layers, frozen["variances"], strict=True):
        np.testing.assert_allclose(np.mean(np.asarray(maps).var(axis=(0, 1, 2))), variance, rtol=1e-4)
    # Of two independent images of this noise, the squared difference is twice the variance.
    far = np.mean(term.distance(frozen, x, jnp.roll(x, 1, axis=0)))
    assert far == pytest.approx(2.0, rel=0.15)
    np.testing.assert_array_equal(term.distance(frozen, x, x), 0)
    again, other = (perceptual.random(seed=seed, channels=(8, 16)) for seed in (0, 1))
    np.testing.assert_array_equal(again.init(x)["kernels"][0], frozen["kernels"][0])
    assert not np.array_equal(other.init(x)["kernels"][0], frozen["kernels"][0])
    assert (term.name, other.name) == ("random_orthogonal_seed_0", "random_orthogonal_seed_1")


@pytest.mark.parametrize(
    ("size", "channels", "factor"),
    [
        pytest.param(size, channels, factor, marks=[pytest.mark.long] * (factor * size not in (64, 28 * 8, 64 * 4)))
        for size, channels in ((28, 1), (32, 3), (64, 3))
        for factor in (2, 4, 8)
    ],
)
def test_sizes_and_factors(size, channels, factor):
    levels = {2: "(4,)", 4: "(4,4)", 8: "(4,4,4)"}[factor]
    spec = DataSpec("made_up", (size, size, channels), 64)
    method, code = make(f"network.channels={levels}", spec=spec)
    side = -(-size // factor)
    assert code.shape == (side, side, 4)
    state = jax.eval_shape(method.init, jax.random.key(0), spec.abstract_batch(64), {})
    batch = spec.abstract_batch(16)
    codes = jax.eval_shape(code.encode, state, batch, state.key)
    assert jax.eval_shape(code.decode, state, codes).shape == (16, *spec.image_shape)


def test_latents_of_other_images_have_a_standard_deviation_of_one_within_two_percent(monkeypatch):
    # Shift and scale are of the first 512 examples; these are others. The encoder is a new one, which mixes pixels.
    monkeypatch.setattr(model, "make", lambda config, spec, domain: domain)
    method, _, state = started("autoencoder.latents=kl", *BARE["kl"])
    stage = Stage(method, ConfigDict({"method": "autoencoder"}), SPEC, state.ema)
    where: Any = latent.make(None, SPEC, stage)
    variables = jax.jit(where.init)(batch_of(512, 5), state.ema)
    second = state.replace(variables=variables, frozen=state.ema)
    codes = np.asarray(jax.jit(where.enter)(second, batch_of(2000, 6), state.key), np.float64)
    np.testing.assert_allclose(codes.std(axis=(0, 1, 2)), 1, atol=0.02)
    np.testing.assert_allclose(codes.mean(axis=(0, 1, 2)), 0, atol=0.05)


@pytest.mark.parametrize(
    ("first", "second"),
    [("autoencoder_mnist", "latent_mnist:adversarial"), ("autoencoder_cats", "latent_cats"),
     ("autoencoder_cats", "latent_cats:flow")],
)  # fmt: skip
def test_latent_diffusion_trains_the_autoencoder_of_the_config_of_that_name(first, second):
    alone, whole = (
        flatten(config) for config in (methods.load(first)[2], methods.whole_stage(methods.load(second)[2]))
    )
    differ = {key for key in alone if alone[key] != whole[key] and key.partition(".")[0] not in methods.SHARED}
    assert differ == set()


def test_samples_have_the_moments_of_the_codes(monkeypatch):
    monkeypatch.setattr(first_stage, "_image", lambda model, state, codes: codes)
    method, _, state = started("autoencoder.latents=kl", *BARE["kl"])
    moments = {"mean": jnp.array([1.0, 0.0, -2.0, 5.0]), "square": jnp.array([5.0, 1.0, 4.0, 25.25])}
    keys = jax.random.split(jax.random.key(0), 3000)
    codes = np.asarray(method.sample(state.replace(variables={"codes": moments}), keys, {}))
    np.testing.assert_allclose(codes.mean(axis=(0, 1, 2)), [1, 0, -2, 5], atol=0.05)
    np.testing.assert_allclose(codes.std(axis=(0, 1, 2)), [2, 1, 0, 0.5], atol=0.05)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("autoencoder.channels=0",), "autoencoder.channels is 0; it must be at least 1"),
        (("autoencoder.latents=kll",), "did you mean kl?"),
        (("autoencoder.latents.weight=-1",), "config.autoencoder.latents.weight is -1.0"),
        (("autoencoder.latents=vq", "autoencoder.latents.size=1"), "config.autoencoder.latents.size is 1; it must"),
        (("autoencoder.latents=vq", "autoencoder.latents.size=1025"), "at the start give 1024: use at most 1024"),
        (("autoencoder.perceptual.channels=()",), "perceptual.channels is (); it needs at least one number"),
        (("autoencoder.perceptual.weight=-1",), "perceptual.weight is -1.0; it must not be negative"),
        (("autoencoder.adversarial.channels=()",), "adversarial.channels is (); it needs at least one number"),
        (("autoencoder.adversarial.weight=-1",), "adversarial.weight is -1.0; it must not be negative"),
        (("network.channels=(4,4,4,4)",), "smaller than the 16x16 pixels of one code"),
        (("discriminator_optimizer.learning_rate=-1",), "use 0 or more"),
    ],
)
def test_what_cannot_be_is_one_line(words, hint):
    with pytest.raises(UserError) as error:
        make(*words)
    assert hint in str(error.value)
    assert "\n" not in str(error.value)

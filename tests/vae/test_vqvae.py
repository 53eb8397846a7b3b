"""The method's own: what its loss is made of, what a first stage needs, and which data and sizes it refuses."""

import functools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import methods, parallel
from gen_jax.method import DataSpec, Stage, UserError
from gen_jax.vae import vqvae

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
SPEC = DataSpec("made_up", (8, 8, 1), 64)
FSQ = ("vqvae.quantizer=fsq", "vqvae.quantizer.levels=(3,3)")
GRADIENT = ("vqvae.quantizer.decay=0.0",)
TRAIN = ("optimizer.name=sgd", "optimizer.learning_rate=0.1", "batch_size=16")


def make(*words, spec=SPEC) -> Any:
    """The smallest VQ-VAE, for codes of 4x4, its functions compiled, and its code."""
    words = [f"--config.{word}" for word in ("network.channels=(4,)", *words)]
    config = methods.override(methods.load(str(FOLDER / "vqvae_mnist.py:tiny"))[2], words)
    methods.check(config)
    method = vqvae.make(config, spec)
    code = method.code
    assert code is not None
    compiled = {name: jax.jit(getattr(method, name)) for name in ("init", "step", "sample", "evaluate", "pictures")}
    return method._replace(**compiled), code._replace(encode=jax.jit(code.encode), decode=jax.jit(code.decode))


@functools.cache
def started(*words) -> Any:
    """What `make` returns, and the state before the first step."""
    method, code = make(*TRAIN, *words)
    return method, code, method.init(parallel.make_key(0), batch_of(64), {})


def batch_of(num, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (num, 8, 8, 1)).astype(np.uint8)
    return {"image": images, "index": np.arange(num, dtype=np.int32)}


def in_words(image):
    return image.astype(np.float64) / 127.5 - 1


@pytest.mark.parametrize("words", [(), GRADIENT, FSQ])
def test_the_loss_is_made_of_means_over_elements_and_the_scalars_are_those_of_the_batch(words):
    method, code, state = started(*words)
    batch = batch_of(16, 1)
    values = {name: np.asarray(value) for name, value in method.evaluate(state, batch, state.key).items()}
    _, scalars = method.step(state, batch)
    codes = np.asarray(code.encode(state, batch, state.key))
    decoded = np.asarray(code.decode(state, codes), np.float64)
    error = ((decoded - in_words(batch["image"])) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(values["psnr"], 10 * np.log10(4 / error), rtol=1e-4)
    weight = {(): 0.25, GRADIENT: 1.25, FSQ: 0.0}[words]
    for found in (values, scalars):
        expected = found["reconstruction"] + weight * found["quantization"]
        np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    for name in ("loss", "reconstruction", "quantization"):
        np.testing.assert_allclose(scalars[name], values[name].mean(), rtol=1e-5)
    used, counts = np.unique(codes, return_counts=True)
    share = counts / counts.sum()
    assert float(scalars["share_used"]) == pytest.approx(len(used) / code.size)
    assert float(scalars["perplexity"]) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-5)


def test_what_is_clipped_away_costs_no_loss_of_signal_but_costs_the_loss():
    method, _, state = started()
    bright = state.ema["vqvae"]["decoder"]["out"]
    decoder = state.ema["vqvae"]["decoder"] | {"out": bright | {"bias": jnp.full_like(bright["bias"], 9.0)}}
    decoder["out"]["kernel"] = jnp.zeros_like(bright["kernel"])
    state = state.replace(ema=state.ema | {"vqvae": state.ema["vqvae"] | {"decoder": decoder}})
    black = batch_of(16) | {"image": np.zeros((16, 8, 8, 1), np.uint8)}
    values = method.evaluate(state, black, state.key)
    np.testing.assert_allclose(values["reconstruction"], 100.0, rtol=1e-5)  # 9 for -1
    np.testing.assert_allclose(values["psnr"], 0.0, atol=1e-4)  # white for black


@pytest.mark.parametrize("words", [(), pytest.param(GRADIENT, marks=pytest.mark.long), FSQ])
def test_the_averages_alone_encode_decode_and_sample(words):
    method, code, state = started(*words)
    state, _ = method.step(state, batch_of(16))
    alone = Stage.state(state.ema)
    assert (code.kind, code.shape) == ("integers", (4, 4))
    codes = code.encode(alone, batch_of(16), state.key)
    assert codes.shape == (16, 4, 4)
    assert codes.dtype == jnp.int32
    assert 0 <= int(codes.min()) <= int(codes.max()) < code.size == (9 if words == FSQ else 16)
    np.testing.assert_array_equal(codes, code.encode(state, batch_of(16), state.key))
    assert code.decode(alone, codes).shape == (16, 8, 8, 1)
    keys = jax.random.split(jax.random.key(1), 3)
    np.testing.assert_array_equal(method.sample(alone, keys, {}), method.sample(state, keys, {}))


def test_samples_are_decoded_from_codes_that_are_drawn_uniformly(monkeypatch):
    monkeypatch.setattr(vqvae, "_images", lambda model, state, codes: codes)
    method, _ = make()
    assert "drawn uniformly from all 16 (there is no prior)" in method.describe["codes"]
    codes = np.asarray(method.sample({}, jax.random.split(jax.random.key(1), 400), {}))
    assert codes.shape == (400, 4, 4)
    for drawn in (codes, codes[:, 0, 0], codes[:, 3, 1]):
        counts = np.bincount(drawn.ravel(), minlength=16)
        assert ((counts - drawn.size / 16) ** 2 / (drawn.size / 16)).sum() < 37.7  # chi-square, 15 degrees: 0.1%
    pairs = np.bincount(16 * codes[:, 0, 0] + codes[:, 0, 1], minlength=256)  # of neighbours: 400 draws of 256
    assert ((pairs - 400 / 256) ** 2 / (400 / 256)).sum() < 331  # 255 degrees


@functools.cache
def trained(words, devices=1, executor="jit", accumulate=1):
    """The leaves after four steps, and how often a code has restarted."""
    revive = () if words == FSQ else ("vqvae.quantizer.revive=0.995",)
    method, _, state = started(*words, *revive)
    step_of = make(*TRAIN, *words, *revive, f"accumulate={accumulate}")[0].step if accumulate > 1 else method.step
    mesh, lead = parallel.make_mesh(devices), int(accumulate > 1)
    run = parallel.make_executor(executor, mesh)
    own = jax.tree.map(lambda leaf: leaf.copy(), state)  # which a step may write over
    state = jax.device_put(own, parallel.replicated(mesh))

    def feed(step):
        rows = batch_of(16, step)
        return run.put({k: np.stack(np.split(v, 2)) for k, v in rows.items()} if lead else rows, lead)

    update = run.compile_step(step_of, state, feed(0), lead)
    restarted, scalars = 0, {}
    for step in range(4):
        state, scalars = update(state, feed(step))
        if revive:
            restarted += int((np.asarray(state.variables["codebook"]["count"]) == 16.0).sum())
    return jax.tree.map(np.asarray, (state.params, state.variables, state.ema, scalars)), restarted


# Where the codebook is made of moving averages, all devices add to it; the others are asked by one executor in CI.
@pytest.mark.long
@pytest.mark.parametrize(
    ("executor", "accumulate", "words"),
    [
        pytest.param(*how, words, marks=[pytest.mark.slow] * (how != ("jit", 1) and words != ()))
        for how in (("jit", 1), ("pmap", 1), ("jit", 2))
        for words in ((), GRADIENT, FSQ)
    ],
)
def test_codebooks_on_eight_devices_are_those_of_one_also_where_codes_restart(executor, accumulate, words):
    (one, _), (eight, restarted) = trained(words), trained(words, 8, executor, accumulate)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, eight)
    assert restarted > 0 or words == FSQ


def test_pictures_count_the_codes_of_many_images_and_show_few():
    method, code, state = started()
    shown = method.pictures(state, state.key, batch_of(130))
    assert method.num_pictured == 500
    assert shown["reconstructions"].images.shape == shown["code_maps"].images.shape == (32, 8, 8, 1)
    assert shown["single_codes"].images.shape == (16, 8, 8, 1)
    codes = np.asarray(code.encode(state, batch_of(130), state.key))
    share = np.sort(np.bincount(codes.ravel(), minlength=16) / codes.size)[::-1]
    np.testing.assert_allclose(shown["codebook_usage"].points[:, 1], np.cumsum(share), rtol=1e-5)
    # The second row of the map holds the codes of the first eight images, each of 2x2 pixels.
    below = np.asarray(shown["code_maps"].images[8:16, ::2, ::2, 0], np.float64)
    np.testing.assert_allclose(below, codes[:8] * 255 / 15, atol=0.51)
    first = int(np.bincount(codes.ravel()).argmax())
    image = np.asarray(code.decode(state, jnp.full((16, 4, 4), first))[0])
    np.testing.assert_allclose(shown["single_codes"].images[0], (image + 1) * 127.5, atol=0.51)


@pytest.mark.long
@pytest.mark.parametrize("words", [(), GRADIENT])
def test_a_codebook_is_in_use_after_training_and_reconstructs_better(words):
    # Patches of 16 grey levels: one code for each is all that is needed.
    rng = np.random.default_rng(0)

    def flat(num):
        grey = rng.integers(0, 16, (num, 4, 4)).repeat(2, axis=1).repeat(2, axis=2)
        return {"image": (17 * grey[..., None]).astype(np.uint8), "index": np.arange(num, dtype=np.int32)}

    how = ("batch_size=32", "optimizer.learning_rate=1e-2", "optimizer.decay=none", "num_steps=200", "ema=0.9")
    method, code = make(*words, *how, "vqvae.quantizer.size=32")
    state = start = method.init(parallel.make_key(0), flat(64), {})
    for _ in range(200):
        state, _ = method.step(state, flat(32))
    before, after = (float(method.evaluate(each, flat(64), state.key)["reconstruction"].mean())
                     for each in (start, state))  # fmt: skip
    assert after < 0.05 < before
    assert len(np.unique(code.encode(state, flat(64), state.key))) >= 12


@pytest.mark.parametrize(
    ("words", "spec", "hint"),
    [
        (
            ("vqvae.quantizer.size=1025",),
            SPEC,
            "size is 1025, but each code starts from a vector of its own, and 64 training images at the start give "
            "1024: use at most 1024",
        ),
        (("vqvae.quantizer.size=17",), DataSpec("few", (8, 8, 1), 1), "1 training image "),
        (
            (),
            DataSpec("plane", (1, 1, 2), 64, kind="points", value_range=(-1, 1)),
            "vqvae needs pictures; data set plane holds points",
        ),
        (("network.channels=(4,4,4,4)",), SPEC, "images of 8x8 are smaller than the 16x16 pixels of one code"),
    ],
)
def test_data_that_does_not_fit_is_refused_in_one_line_before_training(words, spec, hint):
    with pytest.raises(UserError, match=hint) as error:
        make(*words, spec=spec)
    assert "\n" not in str(error.value)


def test_as_many_codes_as_there_are_vectors_are_not_refused():
    assert make("vqvae.quantizer.size=1024")[1].size == 1024


@pytest.mark.parametrize(("variant", "size"), [("", 128), ("fsq", 125)])
def test_the_config_of_mnist_has_codes_of_7x7(variant, size):
    config = methods.load(f"{FOLDER / 'vqvae_mnist.py'}:{variant}")[2]
    methods.check(config)
    code = vqvae.make(config, DataSpec("mnist", (28, 28, 1), 60_000)).code
    assert code is not None
    assert (code.kind, code.shape, code.size) == ("integers", (7, 7), size)

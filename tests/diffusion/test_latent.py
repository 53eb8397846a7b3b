"""Latent diffusion: codes in and out of an autoencoder that stays as it is."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import methods
from gen_jax.diffusion import latent, model
from gen_jax.method import Code, DataSpec, Method, Stage, UserError, draw, labelled

CONFIG = methods.load("latent_mnist")[2]
SPEC = DataSpec("made_up", (4, 4, 1), 64, labelled("abc"))
SHAPE = (2, 2, 4)
# The autoencoder: patches of 2x2 pixels, mixed; then channels that lie and spread very differently.
MIX = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0].astype(np.float32)
PARAMS = {
    "vae": {"mix": jnp.asarray(MIX), "spread": jnp.array([3.0, 0.1, 20.0, 1.0]), "off": jnp.array([5.0, 0.0, -9, 1])}
}


def patches(image):
    batch = len(image)
    return image.reshape(batch, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(batch, 2, 2, 4)


def unpatched(codes):
    batch = len(codes)
    return codes.reshape(batch, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(batch, 4, 4, 1)


def encode(state, batch, key):
    vae = state.ema["vae"]
    x = patches(jnp.asarray(batch["image"], jnp.float32)[..., 0] / 127.5 - 1)
    return (x @ vae["mix"]) * vae["spread"] + vae["off"]


def decode(state, codes):
    vae = state.ema["vae"]
    return unpatched(((codes - vae["off"]) / vae["spread"]) @ vae["mix"].T)


CODE = Code("means", SHAPE, encode, decode)


def stage(code: Code | None = CODE) -> Stage:
    method = Method(init=None, step=None, sample=None, evaluate=None, pictures=None, code=code)
    return Stage(method, CONFIG.pretrained, SPEC, PARAMS)


def batch_of(n, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (n, 4, 4, 1)).astype(np.uint8)
    return {"image": image, "index": np.arange(n, dtype=np.int32), "label": (np.arange(n) % 3).astype(np.int32)}


@dataclasses.dataclass
class Half:
    """A network that gives its one parameter everywhere, at first 0.5, and remembers what it is given."""

    out_channels: int = 1
    num_classes: int = 0
    dtype: Any = None
    given: ClassVar[list] = []

    def init(self, key, x, time, *, label=None):
        return {"params": {"value": jnp.full((), 0.5)}}

    def apply(self, variables, x_t, time, *, label=None, index=None, train=False, rngs=None):
        assert x_t.shape[1:] == SHAPE
        assert self.out_channels == 4
        Half.given.append(x_t)
        return jnp.broadcast_to(variables["params"]["value"], x_t.shape)


@pytest.fixture(autouse=True)
def _half(monkeypatch):
    monkeypatch.setitem(model.NETWORKS, "half", (Half,))
    Half.given.clear()


def make(*words, first=None):
    words = ("--config.network=half", "--config.diffusion.prediction=x", "--config.sample.num_steps=3", *words)
    return methods.make(methods.override(CONFIG, words), SPEC, stage() if first is None else first)


def domain(monkeypatch):
    """Where latent diffusion works, as it is handed to `model.make`."""
    monkeypatch.setattr(model, "make", lambda config, spec, domain: domain)
    return latent.make(CONFIG, SPEC, stage())


def state_of(method, examples):
    return jax.jit(method.init)(jax.random.key(0), examples, PARAMS)


def test_codes_of_the_examples_have_mean_zero_and_width_one_a_channel(monkeypatch):
    examples = batch_of(200)
    state = state_of(make(), examples)
    codes = np.asarray(encode(Stage.state(PARAMS), examples, None), np.float64)
    shift, scale = (np.asarray(state.variables["codes"][name], np.float64) for name in ("shift", "scale"))
    np.testing.assert_allclose(shift, codes.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scale, codes.std(axis=(0, 1, 2)), rtol=1e-4)
    entered = np.asarray(domain(monkeypatch).enter(state, examples, jax.random.key(0)), np.float64)
    assert entered.shape == (200, *SHAPE)
    np.testing.assert_allclose(entered.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(entered.std(axis=(0, 1, 2)), 1, rtol=1e-5)


def test_leaving_inverts_entering(monkeypatch):
    state, others = state_of(make(), batch_of(200)), batch_of(9, seed=1)
    where = domain(monkeypatch)
    assert where.shape == SHAPE
    entered = where.enter(state, others, jax.random.key(0))
    np.testing.assert_allclose(where.leave(state, entered), others["image"] / 127.5 - 1, atol=1e-4)


def test_a_channel_that_does_not_vary_stays_finite(monkeypatch):
    same = batch_of(1)
    same = {name: np.repeat(value, 50, axis=0) for name, value in same.items()}
    same["image"][:] = 128
    state = state_of(make(), same)
    np.testing.assert_allclose(state.variables["codes"]["scale"], latent.SMALLEST_SCALE, rtol=1e-6)
    entered = domain(monkeypatch).enter(state, same, jax.random.key(0))
    np.testing.assert_allclose(entered, 0, atol=0.1)


def test_samples_are_decoded_codes():
    """Where x0_hat is 0.5 everywhere, a sample is the decoder's image of shift + 0.5 scale."""
    state = state_of(make(), batch_of(200))
    keys, label = jax.random.split(jax.random.key(0), 3), {"label": jnp.zeros(3, jnp.int32)}
    samples = jax.jit(make().sample)(state, keys, label)
    codes = state.variables["codes"]
    expected = decode(Stage.state(PARAMS), jnp.broadcast_to(codes["shift"] + 0.5 * codes["scale"], (3, *SHAPE)))
    assert samples.shape == (3, 4, 4, 1)
    np.testing.assert_allclose(samples, expected, atol=1e-5)


def test_meanflow_works_on_codes_too(monkeypatch):
    """Where the average velocity is 0.5 everywhere, a sample in one call is the decoder's image of noise - 0.5."""

    @dataclasses.dataclass
    class Spanning(Half):
        def apply(self, variables, x_t, time, span, **more):
            return super().apply(variables, x_t, time, **more)

        def init(self, key, x, time, span, *, label=None):
            return super().init(key, x, time)

    monkeypatch.setitem(model.NETWORKS, "half", (Spanning,))
    config = methods.override(methods.load("latent_mnist:meanflow")[2], ("--config.network=half",))
    method = methods.make(config, SPEC, stage())
    state = state_of(method, batch_of(200))
    keys, label = jax.random.split(jax.random.key(0), 2_000), {"label": jnp.zeros(2_000, jnp.int32)}
    images = jax.jit(method.sample)(state, keys, label)
    codes = state.variables["codes"]
    made = encode(Stage.state(PARAMS), {"image": (images + 1) * 127.5}, None)
    x0 = np.asarray((made - codes["shift"]) / codes["scale"], np.float64).reshape(-1)  # 32,000 numbers
    assert x0.mean() == pytest.approx(-0.5, abs=0.03)
    assert x0.std() == pytest.approx(1, abs=0.02)
    values = jax.jit(method.evaluate)(state, batch_of(12, seed=4), jax.random.key(2))
    assert {"loss", "psnr"} <= values.keys()
    with pytest.raises(UserError, match="config.sample.clip is true, and codes of a first stage are unbounded"):
        methods.make(methods.override(config, ("--config.sample.clip=true",)), SPEC, stage())


def test_training_changes_neither_the_autoencoder_nor_shift_and_scale():
    method = make("--config.batch_size=16")
    state = before = state_of(method, batch_of(200))
    assert state.frozen is not None
    assert set(state.params) == set(state.ema) == set(state.opt_state) == {"denoiser"}
    for seed in range(3):
        state, scalars = jax.jit(method.step)(state, batch_of(16, seed))
    assert np.isfinite(scalars["loss"])
    jax.tree.map(np.testing.assert_array_equal, state.frozen, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, state.variables, before.variables)
    assert state.params["denoiser"]["value"] != before.params["denoiser"]["value"]
    # Norms and gradients are the denoiser's alone.
    assert [name for name in scalars if "vae" in name] == []


def test_the_loss_is_that_of_the_codes():
    """x0_hat is 0.5 everywhere, and counts alike at every level: the mean of (0.5 - code)^2."""
    method = make("--config.diffusion.weighting=x")
    examples, batch = batch_of(200), batch_of(12, seed=4)
    # Weighting x counts sigma^2 / sigma^2 = 1 on a prediction of x.
    state = state_of(method, examples)
    codes = state.variables["codes"]
    x0 = (np.asarray(encode(Stage.state(PARAMS), batch, None)) - codes["shift"]) / codes["scale"]
    loss = jax.jit(method.evaluate)(state, batch, jax.random.key(2))["loss"]
    np.testing.assert_allclose(loss, np.mean((0.5 - x0) ** 2, axis=(1, 2, 3)), rtol=1e-5)


def test_the_psnr_is_that_of_images_which_are_encoded_and_decoded():
    """An autoencoder that darkens by 0.1: 10 log10(4 / 0.01), for what is scaled and shifted comes back."""
    first = stage(Code("means", SHAPE, encode, lambda state, codes: decode(state, codes) - 0.1))
    method, batch = make(first=first), batch_of(12, seed=4)
    values = jax.jit(method.evaluate)(state_of(method, batch_of(200)), batch, jax.random.key(2))
    np.testing.assert_allclose(values["psnr"], 10 * np.log10(4 / 0.01), atol=0.01)


def test_noise_is_not_that_of_an_encoder_which_draws_some():
    """An autoencoder of binarised images draws its pixels: by other random numbers than the noise that is added."""

    def noisy_encode(state, batch, key):
        return draw(key, batch["index"], lambda k: jax.random.normal(k, SHAPE))

    first = stage(Code("means", SHAPE, noisy_encode, decode))
    method = make("--config.diffusion.schedule=straight", first=first)
    n = 500
    state = state_of(method, batch_of(n))
    # x_t is (1 - t) code + t eps: if both were the same numbers, its variance would be 1; of independent ones it is
    # (1 - t)^2 + t^2, on average 2/3.
    Half.given.clear()
    method.evaluate(state, batch_of(n), jax.random.key(5))
    assert abs(float(jnp.var(Half.given[-1])) - 2 / 3) < 0.05


def test_first_stages_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"^config\.pretrained is empty: latent diffusion needs an autoencoder"):
        methods.make(CONFIG, SPEC)
    for code, pattern in (
        (None, "names a vae that makes no codes"),
        (Code("integers", (2, 2), encode, decode, size=8), "makes codes of integers, 2x2"),
        (Code("integers", (2, 2, 1), encode, decode, size=8), "makes codes of integers, 2x2x1"),
        (Code("means", (20,), encode, decode), "makes codes of means, 20"),
    ):
        with pytest.raises(
            UserError, match=pattern + "; latent diffusion needs codes that are small pictures"
        ) as error:
            make(first=stage(code))
        assert "\n" not in str(error.value)


def test_pictures_are_images_and_not_codes():
    method = make("--config.sample.num_steps=1")
    pictures = jax.jit(method.pictures)(state_of(method, batch_of(50)), jax.random.key(0), batch_of(2))
    assert {picture.images.shape[-3:] for picture in pictures.values()} == {(4, 4, 1)}
    # The first of the way to noise is the image itself, as the autoencoder gives it back.
    np.testing.assert_allclose(pictures["forward"].images[0].astype(int), batch_of(1)["image"][0], atol=1)

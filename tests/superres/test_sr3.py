import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import methods
from gen_jax.data import dataset
from gen_jax.diffusion import model
from gen_jax.method import DataSpec, UserError, keys_of, mirrored
from gen_jax.superres import upscaling

SPEC = dataset.with_smaller(DataSpec("made_up", (16, 20, 3), 64), 2)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 20, 3)).astype(np.uint8)
BATCH = {
    "image": jnp.asarray(IMAGES),
    "small": jnp.asarray(IMAGES[:, ::2, ::2]),
    "index": jnp.arange(4),
}
KEY = jax.random.key(0)


class Echo(nn.Module):
    """Predicts the picture that it sees beside x_t, plus a parameter."""

    @nn.compact
    def __call__(self, x, time, label=None, index=None, train=False):
        assert label is None
        assert x.shape[-1] == 6
        return x[..., 3:] + self.param("shift", nn.initializers.zeros, ())


def config(*words: str):
    return methods.override(methods.load("sr3_t91:tiny")[2], [f"--config.{word}" for word in words])


@pytest.fixture
def echo(monkeypatch):
    monkeypatch.setattr(model, "modules_of", lambda *given: (Echo(),))
    words = ("diffusion.prediction=x", "diffusion.weighting=x", "sample.sampler=ddim", "data.reduce=2")
    return methods.make(config(*words), SPEC)


def test_a_network_that_repeats_the_enlarged_picture_samples_it(echo):
    state = echo.init(KEY, BATCH, {})
    made = echo.sample(state, keys_of(KEY, BATCH["index"]), {"small": BATCH["small"]})
    expected = upscaling.enlarged(SPEC, BATCH["small"])
    np.testing.assert_allclose((made + 1) * 127.5, expected, atol=1e-3)
    found = echo.evaluate(state, BATCH, KEY)
    for measure in ("psnr", "ssim", "sharpness"):
        name = upscaling.upscaled.name_of(measure, 2)
        np.testing.assert_allclose(found[name], found[f"bicubic_{name}"], rtol=1e-3)
    x0 = BATCH["image"] / 127.5 - 1
    loss = jnp.mean((x0 - (expected / 127.5 - 1)) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)


def test_both_pictures_are_mirrored_together(monkeypatch):
    """Of pictures that are their small copies, enlarged, the echo has no loss, unless only one of the two is turned."""
    monkeypatch.setattr(model, "modules_of", lambda *given: (Echo(),))
    words = ("diffusion.prediction=x", "diffusion.weighting=x", "data.reduce=2", "diffusion.mirror=true")
    method = methods.make(config(*words), SPEC)
    small = jnp.asarray(IMAGES[:, ::2, ::2])
    batch = BATCH | {"small": small, "image": upscaling.enlarged(SPEC, small)}
    turned = mirrored(batch["image"], KEY, batch["index"])
    assert (np.asarray(turned) != np.asarray(batch["image"])).any()
    _, scalars = jax.jit(method.step)(method.init(KEY, batch, {}), batch)
    assert float(scalars["loss"]) < 1e-5


def test_samples_depend_on_the_small_picture_and_on_the_noise():
    method = methods.make(config("data.reduce=2"), SPEC)
    state = jax.jit(method.init)(KEY, BATCH, {})
    moved = jax.tree.map(
        lambda p: p + 0.05 * jnp.cos(jnp.arange(p.size, dtype=jnp.float32)).reshape(p.shape), state.ema
    )
    draw = jax.jit(functools.partial(method.sample, state.replace(ema=moved)))
    keys = keys_of(KEY, BATCH["index"])
    first = draw(keys, {"small": BATCH["small"]})
    others = (
        draw(keys, {"small": 255 - BATCH["small"]}),
        draw(keys_of(jax.random.key(1), BATCH["index"]), {"small": BATCH["small"]}),
    )
    for other in others:
        assert float(jnp.min(jnp.max(jnp.abs(first - other), axis=(1, 2, 3)))) > 1e-3


@pytest.mark.parametrize(
    ("words", "told"),
    [(("data.reduce=2", "diffusion.conditional=true"), "conditional on the small picture and on nothing else"),
     (("data.reduce=2", "sample.guidance=2"), "this model is not conditional"),
     (("data.reduce=2", "diffusion.label_drop=0.1"), "the model is not conditional: use 0"),
     (("data.reduce=2", "eval.likelihood=bound"), "use none")],
)  # fmt: skip
def test_what_it_cannot_do_is_refused(words, told):
    with pytest.raises(UserError) as caught:
        methods.make(config(*words), SPEC)
    assert told in str(caught.value)


def test_pictures_without_smaller_copies_are_refused():
    with pytest.raises(UserError, match="sr3 learns from smaller copies of pictures"):
        methods.make(config(), DataSpec("made_up", (16, 20, 3), 64))


def test_it_does_not_edit_pictures():
    assert methods.make(config("data.reduce=2"), SPEC).edits is None

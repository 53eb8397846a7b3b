"""Diffusion models that are conditional on texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import methods, parallel
from gen_jax.diffusion import guidance, model
from gen_jax.diffusion.dit import DiT
from gen_jax.method import DataSpec, Feature, UserError, labelled
from gen_jax.nn.embedding import condition_vector

TEXT = {"text": Feature((3, 5), "float32", several=True)}
SPEC = DataSpec("made_up", (8, 8, 3), 64, labelled("ab") | TEXT)


def config_of(*words):
    small = ["--config.network.channels=4", "--config.network.multipliers=(1,)", "--config.network.patch=1"]
    config = methods.override(methods.load("ddpm_shapes:tiny")[2], [*small, *words])
    methods.check(config)
    return config


def test_a_text_is_what_the_model_is_asked_for_even_if_there_are_classes():
    method = methods.make(config_of(), SPEC)
    assert method.condition == ("text",)
    state = methods.abstract_state(method, SPEC, None, parallel.make_mesh(1))
    assert state.params["denoiser"]["label"]["kernel"].shape[0] == 5
    after, scalars = jax.eval_shape(method.step, state, SPEC.abstract_batch(8))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert "loss" in scalars
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    text = jax.ShapeDtypeStruct((2, 5), "float32")
    assert jax.eval_shape(method.sample, state, keys, {"text": text}).shape == (2, 8, 8, 3)
    plain = config_of("--config.data.text=none")
    assert methods.make(plain, SPEC).condition == ("label",)


def test_an_embedding_takes_the_place_of_a_one_hot_label():
    network = DiT(out_channels=1, num_classes=3, patch=4, width=8, depth=1, num_heads=2)
    x, time, label = jnp.ones((2, 8, 8, 1)), jnp.array([10.0, 900.0]), jnp.array([2, -1])
    params = jax.jit(network.init)(jax.random.key(0), x, time, label=label)
    # Gates and the last layer start at zero, where the condition would not show.
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    params = tree.unflatten([leaf + rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])
    apply = jax.jit(network.apply)
    by_label = apply(params, x, time, label=label)
    by_vector = apply(params, x, time, label=jnp.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(by_label, by_vector, atol=1e-5)
    assert np.abs(by_label - apply(params, x, time, label=jnp.array([0, 0]))).max() > 1e-3


def test_nothing_is_a_vector_of_zeros():
    assert guidance.no_label(jnp.ones((2, 3))).tolist() == [[0.0] * 3] * 2
    assert guidance.no_label(jnp.array([4, 0])).tolist() == [-1, -1]
    assert condition_vector(None, 3, 2).tolist() == [[0.0] * 3] * 2


def test_training_draws_one_caption_and_evaluation_takes_the_first():
    texts = jnp.arange(2_000 * 3.0).reshape(-1, 3, 1)
    index = jnp.arange(2_000)
    assert (model._one_text(texts, index, None) == texts[:, 0]).all()
    drawn = model._one_text(texts, index, jax.random.key(0))[:, 0] - texts[:, 0, 0]
    counts = np.bincount(np.asarray(drawn, np.int64), minlength=3)
    assert np.abs(counts - 2_000 / 3).max() < 4.5 * np.sqrt(2_000 * 2 / 9)


def test_a_model_of_texts_is_no_teacher():
    spec = DataSpec("captioned", (8, 8, 3), 64, TEXT)
    student = methods.load("distilled_mnist:tiny")[2]
    with pytest.raises(UserError, match="config.pretrained names a model of texts"):
        methods.make(student, spec, methods.make_stage(config_of(), spec))


@pytest.mark.parametrize(
    ("words", "spec", "message"),
    [
        ([], DataSpec("cats", (8, 8, 3), 64), "config.data.text is words, and data set cats comes without texts"),
        (
            ["--config.diffusion.conditional=false", "--config.diffusion.label_drop=0", "--config.sample.guidance=1"],
            SPEC,
            "config.data.text is words, but the model is not conditional",
        ),
    ],
)
def test_texts_that_nothing_could_use_are_refused(words: list[str], spec: DataSpec, message: str):
    with pytest.raises(UserError, match=message):
        methods.make(config_of(*words), spec)

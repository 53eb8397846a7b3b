"""A char-CNN-RNN (Reed et al. 2016), trained on the pictures and captions of a data set: a joint embedding of both.

Characters pass convolutions and a recurrent layer, whose outputs are averaged. A small network embeds pictures, and
both are trained so that a picture's embedding has a larger product with that of its caption than with those of the
other captions in the batch, and the other way round.

Departures: 70 characters as in the paper, but convolutions, GRU and embedding are smaller; pictures are seen by a
network trained here, not by a GoogLeNet; and softmax over the batch (Radford et al. 2021) replaces the margin, which
needs classes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from gen_jax import parallel
from gen_jax.data import cache
from gen_jax.data.dataset import Batches
from gen_jax.method import Array, PyTree, Scalars, UserError
from gen_jax.nn.blocks import space_to_depth
from gen_jax.text.encoder import Encoder, Given

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/\\|_@#$%^&*~`+=<>()[]{} \n"
LENGTH = 201  # characters that are read, as in the paper
_SHARPNESS = 10.0  # factor of cosines before the softmax
_SIDE = 64  # pixels of a picture, at most
_VERSION = 1  # part of the key in the cache: raise it when training changes
_BATCH = 256  # texts per call


class TextNetwork(nn.Module):
    """Characters to an embedding of length 1.

    Attributes:
      size: of the embedding.
      width: of the convolutions and of the GRU.
    """

    size: int
    width: int = 96

    @nn.compact
    def __call__(self, characters: Array) -> Array:
        """Returns f32 [B, size] for i32 [B, L], positions in ALPHABET counted from 1, and 0 behind the end."""
        x = nn.Embed(len(ALPHABET) + 1, 32, name="characters")(characters)
        there = characters > 0
        for number in range(2):
            # A convolution of kernel 4 and stride 3 each, written as a product: its gradient is cheap on a CPU.
            x, there = _windows(x), _windows(there[..., None]).any(axis=-1)
            x = nn.relu(nn.Dense(self.width, name=f"conv_{number}")(x)) * there[..., None]
        cell = nn.RNN(nn.GRUCell(self.width), name="gru")
        seen: Any = cell(x, seq_lengths=there.sum(axis=1))
        x = seen * there[..., None]
        mean = x.sum(axis=1) / jnp.maximum(there.sum(axis=1), 1)[:, None]
        return _of_length_one(nn.Dense(self.size, name="out")(mean))


def _windows(x: Array) -> Array:
    """Every third window of four rows of [B, L, C], side by side: [B, L / 3, 4 C]."""
    count = -(-x.shape[1] // 3)
    x = jnp.pad(x, ((0, 0), (0, 3 * count + 1 - x.shape[1]), (0, 0)))
    shifted = [x[:, start : start + 3 * count : 3] for start in range(4)]
    return jnp.concatenate(shifted, axis=-1)


class PictureNetwork(nn.Module):
    """Pictures uint8 [B, H, W, C] to embeddings of length 1, f32 [B, size]."""

    size: int

    @nn.compact
    def __call__(self, image: Array) -> Array:
        x = image.astype(jnp.float32) / 127.5 - 1
        while max(x.shape[1:3]) > _SIDE:
            x = nn.avg_pool(x, (2, 2), (2, 2), "SAME", count_include_pad=False)
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % 16), (0, -x.shape[2] % 16), (0, 0)))
        for number, width in enumerate((48, 96)):  # a patch becomes a pixel, as a product of matrices
            x = nn.relu(nn.Dense(width, name=f"patch_{number}")(space_to_depth(x, 4)))
        return _of_length_one(nn.Dense(self.size, name="out")(x.reshape(len(x), -1)))


def _of_length_one(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


def characters(texts: Sequence[str]) -> np.ndarray:
    """Returns the characters of texts in lower case, i32 [N, 201]: positions in ALPHABET counted from 1, then 0.

    Raises:
      UserError: a character outside the alphabet.

    Example:
      >>> characters(["ab"])[0, :3].tolist()
      [1, 2, 0]
      >>> characters(["naïve"])
      Traceback (most recent call last):
      gen_jax.method.UserError: the text 'naïve' has the character 'ï', which this encoder does not know: ...
    """
    found = np.zeros((len(texts), LENGTH), np.int32)
    for row, text in zip(found, texts, strict=True):
        for place, character in enumerate(text.lower()[:LENGTH]):
            row[place] = ALPHABET.find(character) + 1
            if not row[place]:
                raise UserError(
                    f"the text {text!r} has the character {character!r}, which this encoder does not know: use letters "
                    "without accents, digits and punctuation"
                )
    return found


def encode(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """Returns the embeddings of texts, f32 [N, D], of length 1.

    Raises:
      UserError: a character outside the alphabet.
    """
    params: Any = flax.traverse_util.unflatten_dict(encoder.arrays, sep="/")
    call, found = _apply(encoder.size), characters(texts)
    rows = [call(params, _padded(found[start : start + _BATCH])) for start in range(0, len(found), _BATCH)]
    return np.concatenate([np.asarray(row) for row in rows])[: len(texts)]


@functools.cache
def _apply(size: int) -> Any:
    network = TextNetwork(size)
    return jax.jit(lambda params, found: network.apply({"params": params}, found))


def _padded(rows: np.ndarray) -> np.ndarray:
    return np.pad(rows, ((0, _BATCH - len(rows)), (0, 0)))


def make(given: Given, size: int = 128, num_steps: int = 1_000) -> Encoder:
    """Returns the encoder of a data set: from the cache, or trained now.

    Args:
      given: the data set.
      size: of an embedding.
      num_steps: of Adam, with batches of 64 pictures.

    Raises:
      UserError: a caption with a character outside the alphabet, or a value out of its range.
    """
    if size < 1 or num_steps < 1:
        raise UserError(f"config.data.text.size is {size} and num_steps {num_steps}: both must be at least 1")
    data = given.data
    told = cache.fingerprint({"captions": np.frombuffer(repr(data.captions["train"]).encode(), np.uint8)})
    key = {"data": data.spec.fingerprint, "captions": told, "size": size, "num_steps": num_steps, "version": _VERSION}

    def build() -> tuple[cache.Arrays, dict[str, Any]]:
        params, right = train(data.train["image"], data.captions["train"], size, num_steps)
        arrays: Any = flax.traverse_util.flatten_dict(params, sep="/")
        names = sorted(arrays)
        flat = {f"{number:03}": np.asarray(arrays[name]) for number, name in enumerate(names)}  # names of files
        return flat, {"names": names, "right": right}

    folder = cache.root(given.cache_dir) / "data"
    stored = cache.fetch(folder, f"{data.spec.name}-char_cnn_rnn", key, build, verify=True)
    arrays = {name: np.asarray(stored.arrays[f"{number:03}"]) for number, name in enumerate(stored.facts["names"])}
    return Encoder("char_cnn_rnn", size, arrays, {"right": stored.facts["right"]})


def train(images: Any, captions: Sequence[Sequence[str]], size: int, num_steps: int) -> tuple[PyTree, float]:
    """Returns the parameters of the text network, and the share of the last batches' captions that find their picture.

    Args:
      images: uint8 [N, H, W, C], or anything that gives such rows.
      captions: K for each picture.
      size: of an embedding.
      num_steps: of training.
    """
    found = np.stack([characters(each) for each in captions])  # [N, K, L]
    batch_size = min(64, len(found))
    batches = Batches({"image": images, "characters": found}, batch_size, seed=0)
    networks = {"text": TextNetwork(size), "picture": PictureNetwork(size)}
    first = batches.batch(0)
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), 3)
    params = {
        "text": networks["text"].init(keys[0], first["characters"][:, 0])["params"],
        "picture": networks["picture"].init(keys[1], first["image"])["params"],
    }
    optimize = optax.adam(optax.cosine_onecycle_schedule(num_steps + 1, 3e-3))

    def loss_fn(params: PyTree, image: Array, told: Array) -> tuple[Array, Scalars]:
        shown = networks["picture"].apply({"params": params["picture"]}, image)
        said = networks["text"].apply({"params": params["text"]}, told)
        logits = _SHARPNESS * (said @ shown.T)  # pyright: ignore[reportAttributeAccessIssue]
        own = jnp.arange(len(logits))
        losses = optax.softmax_cross_entropy_with_integer_labels
        right = jnp.mean(logits.argmax(axis=1) == own)
        return jnp.mean(losses(logits, own) + losses(logits.T, own)), {"right": right}

    @functools.partial(jax.jit, donate_argnums=(0, 1), compiler_options=parallel.compiler_options(True))
    def step(params: PyTree, state: PyTree, image: Array, told: Array) -> tuple[PyTree, PyTree, Scalars]:
        grads, scalars = jax.grad(loss_fn, has_aux=True)(params, image, told)
        updates, state = optimize.update(grads, state)
        return optax.apply_updates(params, updates), state, scalars

    state, late = optimize.init(params), []
    for number in tqdm.tqdm(range(num_steps), desc="training the text encoder", disable=None):
        batch = batches.batch(number)
        told = batch["characters"][:, number % found.shape[1]]
        params, state, scalars = step(params, state, batch["image"], told)
        if number >= num_steps - 20:
            late.append(float(scalars["right"]))
    return jax.tree.map(np.asarray, params["text"]), float(np.mean(late))

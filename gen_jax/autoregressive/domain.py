"""What an autoregressive model models: the integers of a first stage, or the grey values of pictures themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from gen_jax.method import Array, Batch, DataSpec, Key, PyTree, Stage, UserError

Choose: TypeAlias = Callable[[Array, Array], tuple[Array, Any]]
"""From logits f32 [N, K] of a place, and the number of the place, to tokens [N, F] and anything that is to be kept."""


class Domain(NamedTuple):
    """Grids of integers, and how they belong to pictures.

    Attributes:
      grid: rows and columns.
      num_values: of a place, 0 to num_values - 1.
      words: of the protocol of a likelihood.
      read: (frozen, batch, key) -> integers i32 [B, h, w].
      tokens: integers [...] -> what a network is given, f32 [..., F]; zeros are the token of no integer.
      draw: (frozen, integers) -> pictures f32 [B, H, W, C] in the model's range.
      of_codes: whether the integers are codes of a first stage.
    """

    grid: tuple[int, int]
    num_values: int
    words: str
    read: Callable[[PyTree, Batch, Key], Array]
    tokens: Callable[[Array], Array]
    draw: Callable[[PyTree, Array], Array]
    of_codes: bool = False


def codes(stage: Stage, levels: int) -> Domain:
    """Returns the codes of a first stage; a token is one of `num_values` unit vectors.

    Args:
      stage: the first stage.
      levels: of the config, which is for pictures only.

    Raises:
      UserError: codes that are no grids of integers, or levels.
    """
    code = stage.method.code
    if code is None or code.kind != "integers" or len(code.shape) != 2:
        what = "makes no codes" if code is None else f"makes codes of {code.kind}, {'x'.join(map(str, code.shape))}"
        raise UserError(
            f"config.pretrained is of method {stage.config.method}, which {what}; an autoregressive model needs "
            "integers in rows and columns, such as the codes of a vqvae"
        )
    if levels:
        raise UserError(
            f"config.autoregressive.levels is {levels}, but it is about grey values, and this model is one of the "
            f"{code.size} codes of a first stage: leave it at 0"
        )
    height, width = code.shape
    return Domain(
        (height, width),
        code.size,
        f"codes_{height}x{width}_of_{code.size}",
        lambda frozen, batch, key: code.encode(Stage.state(frozen), batch, key),
        lambda integers: jax.nn.one_hot(integers, code.size),
        lambda frozen, integers: code.decode(Stage.state(frozen), integers),
        of_codes=True,
    )


def grey_values(spec: DataSpec, levels: int) -> Domain:
    """Returns the grey values of pictures; a token is a value on the scale of [-1, 1] and a one.

    Args:
      spec: of the data.
      levels: number of grey values that are left, of equal width; 0: all of the data.

    Raises:
      UserError: data that are no pictures of one channel, or an impossible number of levels.

    Example:
      >>> domain = grey_values(DataSpec("made_up", (1, 4, 1), 1), levels=4)
      >>> image = jnp.array([0, 63, 200, 255], jnp.uint8).reshape(1, 1, 4, 1)
      >>> integers = domain.read({}, {"image": image}, jax.random.key(0))
      >>> integers.tolist(), domain.draw({}, integers).ravel().tolist()
      ([[[0, 0, 3, 3]]], [-1.0, -1.0, 1.0, 1.0])
    """
    height, width, channels = spec.image_shape
    if spec.kind != "image" or channels != 1:
        what = f"pictures of {channels} channels" if spec.kind == "image" else spec.kind
        ways = " (config.pretrained), or one channel (--config.data.channels=1)" if spec.kind == "image" else ""
        raise UserError(
            "an autoregressive model without a first stage needs pictures of one channel, and data set "
            f"{spec.name} holds {what}{': use a first stage' if ways else ''}{ways}"
        )
    low, high = (int(value) for value in spec.value_range)
    most = high - low + 1
    if levels and not 2 <= levels <= most:
        raise UserError(f"config.autoregressive.levels is {levels}; use 2 to {most}, or 0 for all")
    num = levels or most

    def read(frozen: PyTree, batch: Batch, key: Key) -> Array:
        return (batch["image"][..., 0].astype(jnp.int32) - low) * num // most

    def tokens(integers: Array) -> Array:
        x = integers / ((num - 1) / 2) - 1
        return jnp.stack([x, jnp.ones_like(x)], axis=-1)

    def draw(frozen: PyTree, integers: Array) -> Array:
        return jnp.clip(tokens(integers)[..., :1], -1, 1)  # a compiled division may end one rounding above 1

    return Domain((height, width), num, f"exact_of_{num}_levels", read, tokens, draw)

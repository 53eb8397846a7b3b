"""Quantizers: from the vectors of an encoder to whole numbers and back, with gradients that pass straight through.

`vq` looks for the nearest vector of a learned codebook (van den Oord et al. 2017). `fsq` rounds each number to one of a
few levels and learns no codebook (Mentzer et al. 2023).

A codebook is kept in the State under "codebook": in `params` if gradients train it, else as running sums in
`variables`; `ema` holds the average, from which sampling and evaluation read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import optimizer
from gen_jax.method import NUM_EXAMPLES, Array, Key, PyTree, State, UserError, counted

SMOOTHING = 1e-5  # added to the count of each code, as in the released code of van den Oord et al. 2017
USAGE_DECAY = 0.99  # of the counts, if the codebook itself has no decay
MOST_CODES = 2**24  # float32 counts one by one up to here
EXACT = jax.lax.Precision.HIGHEST  # accelerators would round the factors of a product to 8 or 11 bits


class Quantized(NamedTuple):
    """What a quantizer makes of vectors [..., D].

    Attributes:
      codes: i32 [...].
      z: f32 [..., D], what the decoder sees; its gradient is passed on to the encoder's vectors.
      loss: f32 [...], to be added to the loss of the reconstruction.
      error: f32 [...], the mean square over D of the difference between a vector and that of its code.
    """

    codes: Array
    z: Array
    loss: Array
    error: Array


class Start(NamedTuple):
    """What the State holds of a codebook at the start, by its fields: {"codebook": ...} or {} in each."""

    params: dict[str, PyTree]
    variables: dict[str, PyTree]
    ema: dict[str, PyTree]


class Quantizer(NamedTuple):
    """A quantizer; `codebook` below is f32 [K, D], or () if there is none.

    Attributes:
      size: K, the number of codes.
      dimensions: D, numbers of a vector.
      num_vectors: of training examples that `init` needs.
      init: (key, () -> vectors [N, D]) -> Start.
      current: (State.params, State.variables) -> the codebook in training.
      averaged: State.ema -> the codebook of sampling and evaluation.
      quantize: (codebook, vectors [..., D]) -> Quantized.
      embed: (codebook, codes i32 [...]) -> vectors f32 [..., D].
      observe: (vectors [B, ..., D], codes [B, ...], index [B], key) -> what `advance` needs to know of a batch. Of the
        whole batch it is the mean over its parts. `share` f32 [K] is how often each code occurs.
      advance: (state after the optimizer's update, what is observed of the whole batch, decay of the average) -> state.
    """

    size: int
    dimensions: int
    num_vectors: int
    init: Callable[[Key, Callable[[], Array]], Start]
    current: Callable[[PyTree, PyTree], PyTree]
    averaged: Callable[[PyTree], PyTree]
    quantize: Callable[[PyTree, Array], Quantized]
    embed: Callable[[PyTree, Array], Array]
    observe: Callable[[Array, Array, Array, Key], PyTree]
    advance: Callable[[State, PyTree, float], State]


def vq(
    rows: int,
    size: int = 256,
    dimensions: int = 64,
    commitment: float = 0.25,
    decay: float = 0.99,
    revive: float = 0.03,
) -> Quantizer:
    """Returns a codebook, of which each vector is replaced by the nearest one (van den Oord et al. 2017).

    The codebook starts from vectors of training examples. It then follows the encoder as a moving average of the
    vectors that each code stands for (their appendix A.1), or, with decay 0, by gradients of (sg[z] - e)^2 (eq. 3).

    Args:
      rows: vectors of a (global) batch.
      size: K.
      dimensions: D.
      commitment: weight of (z - sg[e])^2, which pulls the encoder to the codebook.
      decay: of the moving average; 0 trains the codebook by gradients.
      revive: codes that are used less often than this share of 1 / K, in the last steps, restart from a vector of the
        batch, drawn at random; 0: never.

    Raises:
      UserError: an invalid value.
    """
    return by_codebook("config.vqvae.quantizer", rows, size, dimensions, commitment, decay, revive)


def by_codebook(
    key: str, rows: int, size: int, dimensions: int, commitment: float, decay: float, revive: float
) -> Quantizer:
    """Returns `vq` for the config values below `key`, which the errors name; the other arguments are its own."""
    _check_codebook(key, size, dimensions, commitment, decay, revive)
    even = rows / size  # uses of a code in a batch, if all were used equally often

    def init(key: Key, vectors: Callable[[], Array]) -> Start:
        first = vectors()
        first = first[jax.random.choice(key, len(first), (size,), replace=False)]
        return _start(first, jnp.full(size, even), by_gradient=not decay)

    def current(params: PyTree, variables: PyTree) -> Array:
        return codebook_of_sums(**variables["codebook"]) if decay else params["codebook"]["vectors"]

    def quantize(codebook: Array, z: Array) -> Quantized:
        codes = nearest(codebook, z)
        found = codebook[codes]
        still, stopped = jax.lax.stop_gradient(found), jax.lax.stop_gradient(z)
        error = jnp.mean((z - still) ** 2, axis=-1)
        loss = commitment * error
        if not decay:
            loss = loss + jnp.mean((stopped - found) ** 2, axis=-1)
        return Quantized(codes, straight_through(z, found), loss, error)

    def observe(z: Array, codes: Array, index: Array, key: Key) -> PyTree:
        z = z.reshape(len(z), -1, dimensions)
        seen = {"share": shares(codes, size), "drawn": drawn_vectors(z, index, key, size, rows // z.shape[1])}
        if decay:
            one_hot = jax.nn.one_hot(codes.ravel(), size)
            seen["mean"] = jnp.matmul(one_hot.T, z.reshape(-1, dimensions), precision=EXACT) / codes.size
        return seen

    advance = functools.partial(_advanced, rows, decay, revive * even, even)
    return Quantizer(
        size, dimensions, size, init, current, lambda ema: ema["codebook"]["vectors"], quantize,
        lambda codebook, codes: codebook[codes], observe, advance,
    )  # fmt: skip


def _advanced(rows: int, decay: float, least: float, even: float, state: State, seen: PyTree, ema: float) -> State:
    """The state after a step, in which a code used less often than `least` restarts as if it were used `even` times."""
    before, average = state.variables["codebook"], state.ema["codebook"]["vectors"]
    keep = decay or USAGE_DECAY
    after = {"count": keep * before["count"] + (1 - keep) * rows * seen["share"]}
    dead = after["count"] < least
    after["count"] = jnp.where(dead, even, after["count"])
    if decay:
        total = decay * before["sum"] + (1 - decay) * rows * seen["mean"]
        after["sum"] = jnp.where(dead[:, None], even * seen["drawn"], total)
        vectors = codebook_of_sums(**after)
        average = optimizer.moving_average(average, vectors, state.step, ema)
    else:
        vectors = jnp.where(dead[:, None], seen["drawn"], state.params["codebook"]["vectors"])
        state = state.replace(params=state.params | {"codebook": {"vectors": vectors}})
    average = jnp.where(dead[:, None], vectors, average)  # nothing that was learned belongs to a restarted code
    return state.replace(
        variables=state.variables | {"codebook": after}, ema=state.ema | {"codebook": {"vectors": average}}
    )


def fsq(rows: int, levels: tuple[int, ...] = (8, 5, 5, 5)) -> Quantizer:
    """Returns finite scalar quantization (Mentzer et al. 2023): each number is bounded, then rounded to a level.

    Levels are whole numbers divided by L // 2, so they lie in [-1, 1]. A code is the number whose digits, of different
    bases, are the levels; the first digit counts least. The number of codes is the product of the levels. The paper
    advises (8, 6, 5), (8, 5, 5, 5) or (7, 5, 5, 5, 5) for about 2^8, 2^10 or 2^12 codes.

    Args:
      rows: not used.
      levels: L of each of the D numbers.

    Raises:
      UserError: fewer than two levels, or too many codes.
    """
    del rows
    size = _checked_product(levels)
    bases, half = np.cumprod((1, *levels[:-1])), np.array(levels) // 2

    def bound(z: Array) -> Array:
        # As in the released code. Of an even number of levels, the half more is below zero.
        reach, offset = (np.array(levels) - 1) * (1 - 1e-3) / 2, np.where(np.array(levels) % 2, 0.0, 0.5)
        return jnp.tanh(z + np.tan(offset / reach)) * reach - offset

    def quantize(codebook: PyTree, z: Array) -> Quantized:
        bounded = bound(z)
        rounded = jnp.round(bounded)
        codes = jnp.sum((rounded.astype(jnp.int32) + half) * bases, axis=-1, dtype=jnp.int32)
        error = jnp.mean(((bounded - rounded) / half) ** 2, axis=-1)
        return Quantized(codes, straight_through(bounded, rounded) / half, jnp.zeros_like(error), error)

    def embed(codebook: PyTree, codes: Array) -> Array:
        digits = codes[..., None] // bases % np.array(levels)
        return ((digits - half) / half).astype(jnp.float32)

    return Quantizer(
        size, len(levels), 0, lambda key, vectors: Start({}, {}, {}), lambda params, variables: (), lambda ema: (),
        quantize, embed, lambda z, codes, index, key: {"share": shares(codes, size)}, lambda state, seen, ema: state,
    )  # fmt: skip


def _start(vectors: Array, count: Array, by_gradient: bool) -> Start:
    average = {"codebook": {"vectors": jnp.copy(vectors)}}
    if by_gradient:
        return Start({"codebook": {"vectors": vectors}}, {"codebook": {"count": count}}, average)
    return Start({}, {"codebook": {"count": count, "sum": count[:, None] * vectors}}, average)


def straight_through(z: Array, found: Array) -> Array:
    """Returns `found`, with the gradient of `z`.

    Example:
      >>> jax.value_and_grad(lambda z: 3 * straight_through(z, jnp.round(z)))(0.75)[1].item()
      3.0
    """
    return z + jax.lax.stop_gradient(found - z)


def nearest(codebook: Array, z: Array) -> Array:
    """Returns the index of the vector of a codebook [K, D] that is nearest to each z [..., D]: i32 [...].

    Example:
      >>> nearest(jnp.array([[0.0, 0.0], [1.0, 1.0]]), jnp.array([[0.9, 0.8], [0.1, -0.2]])).tolist()
      [1, 0]
    """
    # Half the squared distance, without the part that is the same for every vector of the codebook.
    product = jnp.matmul(z, codebook.T, precision=EXACT)
    return jnp.argmax(product - jnp.sum(codebook**2, axis=-1) / 2, axis=-1).astype(jnp.int32)


def codebook_of_sums(count: Array, sum: Array) -> Array:
    """Returns the vectors [K, D] of a moving average (van den Oord et al. 2017, appendix A.1).

    Args:
      count: N, f32 [K], uses of each code.
      sum: f32 [K, D], of the vectors that it stood for. It is divided by (N + s) / (sum N + K s) sum N, with the small
        number s, so that a code that is never used does no harm.
    """
    total = jnp.sum(count)
    smoothed = (count + SMOOTHING) / (total + len(count) * SMOOTHING) * total
    return sum / smoothed[:, None]


def shares(codes: Array, size: int) -> Array:
    """Returns how often each of `size` codes occurs among `codes` i32 [...], as shares of 1: f32 [size].

    Example:
      >>> shares(jnp.array([[1, 0], [1, 1]]), 3).tolist()
      [0.25, 0.75, 0.0]
    """
    return jnp.zeros(size, jnp.int32).at[codes.ravel()].add(1) / codes.size


def perplexity(share: Array) -> Array:
    """Returns the exponential of the entropy of shares [K]: how many codes, used equally often, would have it.

    Example:
      >>> round(float(perplexity(jnp.array([1, 2, 0]) / 3)), 6)
      1.889882
    """
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share)))


def drawn_vectors(z: Array, index: Array, key: Key, num: int, batch_size: int) -> Array:
    """Returns vectors drawn at random from a batch: f32 [num, D], as parts whose mean over all parts is the draw.

    Args:
      z: f32 [B, P, D], a part of the batch: that of a device, or a minibatch.
      index: i32 [B], positions in the batch, of which each belongs to one part.
      key: of the draw; the result depends neither on the parts nor on their number.
      num: how many to draw.
      batch_size: of the whole batch.
    """
    key_example, key_place = jax.random.split(key)
    example = jax.random.randint(key_example, (num,), 0, batch_size)
    place = jax.random.randint(key_place, (num,), 0, z.shape[1])
    here = index[:, None] == example  # [B, num]
    row = jnp.sum(jnp.where(here, jnp.arange(len(z))[:, None], 0), axis=0)  # an argmax would gather all devices' rows
    found = z[row, place]
    return jnp.where(jnp.any(here, axis=0)[:, None], found, 0.0) * (batch_size / len(z))


def refuse_large(key: str, quantizer: Quantizer, places: int, num_examples: int) -> None:
    """Raises a UserError if a codebook has more codes than there are vectors to start from.

    Args:
      key: of the config values of the codebook.
      quantizer: with or without one.
      places: vectors of an image.
      num_examples: of the training split.
    """
    seen = min(NUM_EXAMPLES, num_examples)
    if quantizer.num_vectors > seen * places:
        raise UserError(
            f"{key}.size is {quantizer.size}, but each code starts from a vector of its own, and "
            f"{counted(seen, 'training image')} at the start give {seen * places}: use at most {seen * places}"
        )


def _check_codebook(key: str, size: int, dimensions: int, commitment: float, decay: float, revive: float) -> None:
    for name, value, least in (("size", size, 2), ("dimensions", dimensions, 1)):
        if value < least:
            raise UserError(f"{key}.{name} is {value}; it must be at least {least}")
    if commitment < 0:
        raise UserError(f"{key}.commitment is {commitment:g}; it must not be negative")
    for name, value, zero in (("decay", decay, "0 trains by gradients"), ("revive", revive, "0 restarts no code")):
        if not 0 <= value < 1:
            raise UserError(f"{key}.{name} is {value:g}; it must be in [0, 1), where {zero}")


def _checked_product(levels: tuple[int, ...]) -> int:
    if not levels or min(levels) < 2:
        raise UserError(
            f"config.vqvae.quantizer.levels is {levels}; it needs at least one number, and each must be 2 or more"
        )
    if (size := math.prod(levels)) > MOST_CODES:
        raise UserError(f"config.vqvae.quantizer.levels {levels} are {size:,} codes; use at most {MOST_CODES:,}")
    return size


QUANTIZERS: dict[str, Callable[..., Quantizer]] = {"vq": vq, "fsq": fsq}
"""From a name to (rows, parameters) -> Quantizer."""

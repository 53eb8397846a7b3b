"""BOTTLENECKS: what lies between encoder and decoder of a first stage: plain numbers, a posterior, or a codebook.

A code is a small picture of real numbers in every case, [h, w, D]: a second model is trained on it. Those of a codebook
are the encoder's vectors before they are replaced; of what the second model makes, the decoder sees the nearest vectors
of the book (Rombach et al. 2022, "VQ-reg").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from gen_jax.method import Array, Key, PyTree, Scalars, State, UserError
from gen_jax.nn.gaussian import LOG_VAR_LIMIT, Gaussian, kl_to_standard_normal, reparameterise, soft_bound
from gen_jax.vae import quantizers
from gen_jax.vae.quantizers import Quantizer, Start

KEY = "config.autoencoder.latents"


class Setting(NamedTuple):
    """Values of the rest of a config that a bottleneck needs.

    Attributes:
      rows: vectors of a (global) batch.
      channels: D.
      values: H W C, of an image.
    """

    rows: int
    channels: int
    values: int


class Passed(NamedTuple):
    """What a bottleneck makes of an encoder's output.

    Attributes:
      z: f32 [B, h, w, D], what the decoder sees in training.
      loss: f32 [B], to be added to that of the reconstruction, which is a mean over the values of an image.
      terms: f32 [B] by name, to report.
      codes: i32 [B, h, w], indices into the codebook; () without one.
    """

    z: Array
    loss: Array
    terms: Scalars
    codes: PyTree = ()


class Bottleneck(NamedTuple):
    """A kind of latents. `book` below is the codebook, f32 [K, D], or () without one, for which the defaults stand.

    Attributes:
      outputs: of the encoder, per number of a code: 1, or 2 for mean and log variance.
      code: output f32 [B, h, w, outputs D] -> the code, f32 [B, h, w, D].
      passed: (book, output, standard normal noise [B, h, w, D]) -> Passed.
      embed: (book, code) -> what the decoder sees of it, f32 [B, h, w, D].
      words: what it is, for the page.
      quantizer: that of the codebook.
      init, current, averaged, observe, advance: its functions.
    """

    outputs: int
    code: Callable[[Array], Array]
    passed: Callable[[PyTree, Array, Array], Passed]
    embed: Callable[[PyTree, Array], Array]
    words: str
    quantizer: Quantizer | None = None
    init: Callable[[Key, Callable[[], Array]], Start] = lambda key, vectors: Start({}, {}, {})
    current: Callable[[PyTree, PyTree], PyTree] = lambda params, variables: ()
    averaged: Callable[[PyTree], PyTree] = lambda ema: ()
    observe: Callable[[Array, PyTree, Array, Key], PyTree] = lambda code, codes, index, key: {}
    advance: Callable[[State, PyTree, float], State] = lambda state, seen, ema: state


def plain(setting: Setting) -> Bottleneck:
    """Returns the encoder's output as it is: nothing bounds the scale of the codes, or fills holes between them."""
    del setting

    def passed(book: PyTree, output: Array, eps: Array) -> Passed:
        return Passed(output, jnp.zeros(len(output)), {})

    return Bottleneck(1, _unchanged, passed, _as_it_is, "plain numbers")


def kl(setting: Setting, weight: float = 1e-6) -> Bottleneck:
    """Returns a normal posterior at each position, drawn from in training; its mean is the code.

    Args:
      setting: see there.
      weight: of the KL divergence from a standard normal in nats, a sum over the latents, where the reconstruction is a
        sum over the values of an image (Rombach et al. 2022). As ours is a mean, both are divided by their number.

    Raises:
      UserError: the weight is negative.
    """
    if weight < 0:
        raise UserError(f"{KEY}.weight is {weight}; it must not be negative")

    def halves(output: Array) -> Gaussian:
        mean, log_var = jnp.split(output, 2, axis=-1)
        return Gaussian(mean, soft_bound(log_var, LOG_VAR_LIMIT))

    def passed(book: PyTree, output: Array, eps: Array) -> Passed:
        q = halves(output)
        nats = jnp.sum(kl_to_standard_normal(q), axis=(1, 2, 3))
        return Passed(reparameterise(q, eps), weight * nats / setting.values, {"kl": nats})

    return Bottleneck(2, lambda output: halves(output).mean, passed, _as_it_is, "means of a posterior")


def vq(
    setting: Setting, size: int = 256, commitment: float = 0.25, decay: float = 0.99, revive: float = 0.03
) -> Bottleneck:
    """Returns a codebook, of which each vector is replaced by the nearest one; arguments as of `quantizers.vq`.

    Raises:
      UserError: an invalid value.
    """
    quantizer = quantizers.by_codebook(KEY, setting.rows, size, setting.channels, commitment, decay, revive)

    def passed(book: PyTree, output: Array, eps: Array) -> Passed:
        found = quantizer.quantize(book, output)
        loss, error = (jnp.mean(values, axis=(1, 2)) for values in (found.loss, found.error))
        return Passed(found.z, loss, {"quantization": error}, found.codes)

    def embed(book: PyTree, code: Array) -> Array:
        return quantizer.quantize(book, code).z

    return Bottleneck(
        1, _unchanged, passed, embed, f"vectors of a codebook of {size:,}", quantizer, quantizer.init,
        quantizer.current, quantizer.averaged, quantizer.observe, quantizer.advance,
    )  # fmt: skip


def _unchanged(output: Array) -> Array:
    return output


def _as_it_is(book: PyTree, code: Array) -> Array:
    return code


BOTTLENECKS: dict[str, Callable[..., Bottleneck]] = {"plain": plain, "kl": kl, "vq": vq}
"""From a name to (setting, parameters) -> Bottleneck."""

"""Guidance by class labels, and thresholds that keep its estimates in the range of the data.

Everything here wraps denoisers and acts on x0_hat, whatever the network predicts. Sources: Ho & Salimans 2022
(classifier-free guidance), Lin et al. 2023 (rescaling), Saharia et al. 2022 (dynamic threshold), Kynkaanniemi et al.
2024 (interval).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gen_jax.diffusion import sampler as samplers
from gen_jax.diffusion.schedule import Level
from gen_jax.method import Array, UserError, broadcast_to_images

NO_LABEL = -1  # the label of an unconditional network call
ALWAYS = (0.0, 1.0)  # the interval that is the whole path
_FLAT = 1e-6  # a standard deviation below this share of the largest value is rounding

Told = Callable[[Array], samplers.Denoiser]
"""From labels i32 [N], or embeddings f32 [N, D], to the denoiser conditioned on them."""


def no_label(like: Array) -> Array:
    """Returns what tells the network nothing, in the place of labels i32 [N], or of embeddings of texts f32 [N, D].

    Example:
      >>> no_label(jnp.array([3, 4])).tolist(), no_label(jnp.ones((1, 2))).tolist()
      ([-1, -1], [[0.0, 0.0]])
    """
    return jnp.zeros_like(like) if like.ndim == 2 else jnp.full_like(like, NO_LABEL)


def guided(
    told: Told, label: Array, scale: float, rescale: float = 0.0, interval: tuple[float, float] = ALWAYS
) -> samplers.Denoiser:
    """Returns scale x0_hat(label) + (1 - scale) x0_hat(no label): classifier-free guidance (Ho & Salimans 2022).

    Both come from one call with a batch of twice the size. Scale 1 is the conditional model and scale 0 the
    unconditional one, each with one call of the original batch size. (Their w is scale - 1. x0_hat is linear in every
    prediction, so it does not matter which of them is extrapolated.)

    Args:
      told: from labels to the denoiser conditioned on them.
      label: i32 [N], or an embedding for each, f32 [N, D].
      scale: of guidance.
      rescale: share of the result whose standard deviation is that of the conditional estimate; see `rescaled`.
      interval: fractions of the path, 0 (data) to 1 (noise), between which guidance acts. Elsewhere the denoiser is the
        conditional model, with one call of the original batch size. The first is included, the second only if it is 1;
        equal ones are no interval at all. A fraction is `Level.time` / 1000: t / T of a table, t of a continuous path.
        All rows of a batch must be at one time, as in a sampler.
    """
    low, high = interval
    if scale in (0, 1) or low >= high:
        return told(label if scale else no_label(label))

    def denoise(x_t: Array, level: Level) -> Array:
        both = told(jnp.concatenate([label, no_label(label)]))
        twice = Level(*(jnp.concatenate([value, value]) for value in level))
        found: Any = both(jnp.concatenate([x_t, x_t]), twice)
        conditional, unconditional = jnp.split(samplers.x0_of(found), 2)
        x0_hat = scale * conditional + (1 - scale) * unconditional
        return samplers.with_x0(found, rescaled(x0_hat, conditional, rescale) if rescale else x0_hat)

    return denoise if interval == ALWAYS else _within(interval, denoise, told(label))


def _within(
    interval: tuple[float, float], denoise: samplers.Denoiser, elsewhere: samplers.Denoiser
) -> samplers.Denoiser:
    low, high = (1000 * fraction for fraction in interval)
    end = math.inf if high == 1000 else high

    def either(x_t: Array, level: Level) -> Array:
        time = level.time[0]
        return jax.lax.cond((time >= low) & (time < end), denoise, elsewhere, x_t, level)  # only one is computed

    return either


def rescaled(guided: Array, conditional: Array, phi: float) -> Array:
    """Returns phi r + (1 - phi) g, with r = g std(c) / std(g): Lin et al. 2023, section 3.4.

    Guidance stretches the values of an estimate, so that samples are overexposed; r has the contrast of the
    conditional estimate. A g without any contrast, to rounding, is returned as it is.

    Here g and c are x0_hat; the paper scales the network's output p = a eps - b x0, which in terms of x0_hat is
    k x0_hat + (1 - k) a x_t / D, with k = phi std(c) / std(g) + 1 - phi of the outputs and D as in prediction.py. The
    two agree for x predictions, and for v where alpha is 0, at the start of a zero-terminal-SNR schedule, where the
    overexposure arises. Elsewhere scaling the output also moves the estimate towards x_t, by an amount that depends on
    what the network predicts. On x0_hat it means the same for every prediction: the contrast of the estimated picture.

    Args:
      guided: g, f32 [N, ...].
      conditional: c, of the same shape. Standard deviations are over all axes but the first.
      phi: 0 (g) to 1 (r); the paper uses 0.7 with a scale of 7.5.

    Example:
      >>> g, c = jnp.array([[4.25, 8.5, 6.25, 17.0]]), jnp.array([[1.0, 2.0, 3.0, 4.0]])
      >>> [round(float(value), 3) for value in rescaled(g, c, 0.7)[0]]
      [1.96, 3.92, 2.882, 7.839]
    """
    axes = tuple(range(1, guided.ndim))
    contrast, wanted = jnp.std(guided, axis=axes), jnp.std(conditional, axis=axes)
    flat = contrast <= _FLAT * jnp.max(jnp.abs(guided), axis=axes)
    ratio = jnp.where(flat, 1.0, wanted / jnp.where(flat, 1.0, contrast))
    return broadcast_to_images(phi * ratio + (1 - phi), guided) * guided


def thresholded(denoise: samplers.Denoiser, quantile: float) -> samplers.Denoiser:
    """Returns a denoiser with the dynamic threshold of Saharia et al. 2022, section 2.3, in place of a fixed clip.

    Per sample, s is a quantile of |x0_hat|, but at least 1; x0_hat is clipped to [-s, s] and divided by s. So it stays
    in [-1, 1], and where many values are too large it keeps their differences instead of saturating all of them.

    Args:
      denoise: of data with values in [-1, 1].
      quantile: 0 to 1; at 1, s is the largest value, so that nothing is cut off.

    Example:
      >>> denoise = thresholded(lambda x_t, level: x_t, 0.5)
      >>> denoise(jnp.array([[-4.0, 2.0, 1.0], [0.5, -0.25, 1.5]]), None).tolist()  # s = 2 and 1
      [[-1.0, 1.0, 0.5], [0.5, -0.25, 1.0]]
    """

    def denoise_thresholded(x_t: Array, level: Level) -> Any:
        found = denoise(x_t, level)
        x0_hat = samplers.x0_of(found)
        largest = jnp.quantile(jnp.abs(x0_hat).reshape(len(x0_hat), -1), quantile, axis=1)
        limit = broadcast_to_images(jnp.maximum(largest, 1.0), x0_hat)
        return samplers.with_x0(found, jnp.clip(x0_hat, -limit, limit) / limit)

    return denoise_thresholded


def kept_in_range(denoise: samplers.Denoiser, c: Any) -> samplers.Denoiser:
    """Returns a denoiser with the clip or threshold that `config.sample` names, if any."""
    if not c.clip:
        return denoise
    return thresholded(denoise, c.dynamic_threshold) if c.dynamic_threshold else samplers.clipped(denoise)


def interval_of(text: str) -> tuple[float, float]:
    """Returns the two fractions of `config.sample.guidance_interval`.

    Raises:
      UserError: the text is not two numbers with 0 <= first <= second <= 1.

    Example:
      >>> interval_of("0.2,0.8")
      (0.2, 0.8)
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not 0 <= low <= high <= 1:
        raise UserError(
            f"config.sample.guidance_interval is {text!r}; it must be two fractions of the path, the smaller one "
            "first, such as 0.2,0.8 (0 is data, 1 is noise)"
        )
    return low, high


def describe(c: Any) -> dict[str, str]:
    """Returns the values of `config.sample` that matter here and differ from their defaults, in words."""
    words = {}
    if c.guidance != 1:
        words["guidance"] = f"guidance {c.guidance:g}"
    if c.guidance_rescale:
        words["guidance_rescale"] = f"rescaled by {c.guidance_rescale:g}"
    if (interval := interval_of(c.guidance_interval)) != ALWAYS:
        words["guidance_interval"] = f"guided from {interval[0]:g} to {interval[1]:g} of the path"
    if c.clip:
        threshold = f"dynamic threshold {c.dynamic_threshold:g}"
        words["clip"] = threshold if c.dynamic_threshold else "x0_hat clipped"
    return words


def check(c: Any) -> None:
    """Refuses values of `config.sample` that are out of range or have no effect.

    Raises:
      UserError: names the key, the value and what is allowed.
    """
    for key in ("guidance_rescale", "dynamic_threshold"):
        if not 0 <= c[key] <= 1:
            raise UserError(f"config.sample.{key} is {c[key]:g}; it must be between 0 and 1")
    is_set = {
        "guidance_rescale": c.guidance_rescale != 0,
        "guidance_interval": interval_of(c.guidance_interval) != ALWAYS,
    }
    for key in is_set:
        if is_set[key] and c.guidance in (0, 1):
            raise UserError(
                f"config.sample.{key}={c[key]} has no effect with guidance={c.guidance:g}: set "
                "--config.sample.guidance as well, to 2 for example"
            )
    if c.dynamic_threshold and not c.clip:
        raise UserError(
            f"config.sample.dynamic_threshold={c.dynamic_threshold:g} has no effect with clip=false, which leaves "
            "x0_hat unlimited, as codes need it: set --config.sample.clip=true for pictures, or use 0"
        )

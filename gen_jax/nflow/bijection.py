"""Bijections of arrays with the logarithm of their volume change, and ways to put them together.

A normalizing flow is one bijection between data x and noise z ~ N(0, 1). Its density is exact (change of variables):

    log p(x) = log N(z; 0, 1) + log |det dz/dx|

`forward` is the way from x to z, which training and likelihoods take; `inverse` that from z to x, which sampling takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.method import Array, Key, PyTree
from gen_jax.nn.blocks import depth_to_space, space_to_depth


class Bijection(NamedTuple):
    """An invertible map of x [B, ...] to z, with as many numbers. Labels are i32 [B], or None.

    Attributes:
      init: (key, x, label) -> parameters; they may depend on the examples x.
      forward: (params, x, label) -> z and log |det dz/dx|, in nats: f32 [B].
      inverse: (params, z, label) -> x.
    """

    init: Callable[[Key, Array, Array | None], PyTree]
    forward: Callable[[PyTree, Array, Array | None], tuple[Array, Array]]
    inverse: Callable[[PyTree, Array, Array | None], Array]


def fixed(
    forward: Callable[[Array], Array],
    inverse: Callable[[Array], Array],
    log_det: Callable[[Array], Array] | None = None,
) -> Bijection:
    """Returns a bijection without parameters.

    Args:
      forward: x -> z.
      inverse: z -> x.
      log_det: x -> nats [B]; None if numbers only change their places.

    Example:
      >>> turn = fixed(lambda x: x[:, ::-1], lambda z: z[:, ::-1])
      >>> z, log_det = turn.forward({}, jnp.array([[1.0, 2.0]]), None)
      >>> z.tolist(), log_det.tolist()
      ([[2.0, 1.0]], [0.0])
    """
    change = log_det or (lambda x: jnp.zeros(len(x)))
    return Bijection(lambda key, x, label: {}, lambda params, x, label: (forward(x), change(x)),
                     lambda params, z, label: inverse(z))  # fmt: skip


def chain(parts: Mapping[str, Bijection]) -> Bijection:
    """Returns bijections one after the other; the parameters of each are under its name.

    Each is initialised with what the ones before it make of the examples.
    """

    def init(key: Key, x: Array, label: Array | None) -> PyTree:
        params = {}
        for number, (name, part) in enumerate(parts.items()):
            own = part.init(jax.random.fold_in(key, number), x, label)
            x, _ = part.forward(own, x, label)
            params |= {name: own} if own else {}
        return params

    def forward(params: PyTree, x: Array, label: Array | None) -> tuple[Array, Array]:
        total = jnp.zeros(len(x))
        for name, part in parts.items():
            x, log_det = part.forward(params.get(name, {}), x, label)
            total += log_det
        return x, total

    def inverse(params: PyTree, z: Array, label: Array | None) -> Array:
        for name, part in reversed(list(parts.items())):
            z = part.inverse(params.get(name, {}), z, label)
        return z

    return Bijection(init, forward, inverse)


def squeeze(factor: int) -> Bijection:
    """Returns the bijection that makes squares of pixels channels: [B, H, W, C] to [B, H/f, W/f, f^2 C].

    Example:
      >>> squeeze(2).forward({}, jnp.arange(4.0).reshape(1, 2, 2, 1), None)[0].ravel().tolist()
      [0.0, 1.0, 2.0, 3.0]
    """
    return fixed(lambda x: space_to_depth(x, factor), lambda z: depth_to_space(z, factor))


def logit(low: float, high: float, margin: float = 0.05) -> Bijection:
    """Returns the logit of values of an interval, whose ends stay away from infinity (Dinh et al. 2017, section 4.1).

    Args:
      low, high: of the interval.
      margin: the interval becomes [margin, 1 - margin] before the logit.

    Example:
      >>> z, log_det = logit(0.0, 1.0).forward({}, jnp.array([[0.5]]), None)
      >>> z.tolist(), round(float(log_det[0]), 6)  # 0.9 / (0.5 (1 - 0.5))
      ([[0.0]], 1.280934)
    """
    inner = (1 - 2 * margin) / (high - low)

    def share(x: Array) -> Array:
        return margin + inner * (x - low)

    def log_det(x: Array) -> Array:
        p = share(x)
        return sum_of(math.log(inner) - jnp.log(p) - jnp.log1p(-p))

    return fixed(
        lambda x: jnp.log(share(x)) - jnp.log1p(-share(x)),
        lambda z: low + (jax.nn.sigmoid(z) - margin) / inner,
        log_det,
    )


def multiscale(levels: Sequence[Bijection], shapes: Sequence[tuple[int, int, int]]) -> Bijection:
    """Returns levels after each of which half of the channels leave (Dinh et al. 2017, section 3.6).

    Args:
      levels: bijections of pictures; of each but the last, the last half of the channels leaves, and the rest goes on.
      shapes: (h, w, c) of what each level returns.

    Returns:
      A bijection of [B, H, W, C] and z [B, H W C]: what leaves first comes first.
    """
    names = [f"level_{number}" for number in range(len(levels))]
    kept = [c - c // 2 for _, _, c in shapes]
    sizes = [h * w * (c // 2) for h, w, c in shapes[:-1]]

    def init(key: Key, x: Array, label: Array | None) -> PyTree:
        params = {}
        for number, (name, level) in enumerate(zip(names, levels, strict=True)):
            params[name] = level.init(jax.random.fold_in(key, number), x, label)
            x = level.forward(params[name], x, label)[0][..., : kept[number]]
        return params

    def forward(params: PyTree, x: Array, label: Array | None) -> tuple[Array, Array]:
        left, total = [], jnp.zeros(len(x))
        for number, (name, level) in enumerate(zip(names, levels, strict=True)):
            x, log_det = level.forward(params[name], x, label)
            total += log_det
            if number < len(levels) - 1:
                left.append(x[..., kept[number] :].reshape(len(x), -1))
                x = x[..., : kept[number]]
        return jnp.concatenate([*left, x.reshape(len(x), -1)], axis=-1), total

    def inverse(params: PyTree, z: Array, label: Array | None) -> Array:
        *left, x = jnp.split(z, [sum(sizes[: number + 1]) for number in range(len(sizes))], axis=-1)
        x = x.reshape(-1, *shapes[-1])
        for number in reversed(range(len(levels))):
            if number < len(levels) - 1:
                h, w, c = shapes[number]
                x = jnp.concatenate([x, left[number].reshape(-1, h, w, c // 2)], axis=-1)
            x = levels[number].inverse(params[names[number]], x, label)
        return x

    return Bijection(init, forward, inverse)


def log_density(bijection: Bijection, params: PyTree, x: Array, label: Array | None) -> tuple[Array, Array]:
    """Returns log p(x) in nats [B], and the noise z that x comes from.

    Example:
      >>> double = fixed(lambda x: 2 * x, lambda z: z / 2, lambda x: jnp.full(len(x), math.log(2)))
      >>> round(float(log_density(double, {}, jnp.zeros((1, 1)), None)[0][0]), 6)  # of N(0, 1/4) at 0
      -0.225791
    """
    z, log_det = bijection.forward(params, x, label)
    return log_det - sum_of(jnp.square(z) / 2 + 0.5 * math.log(2 * math.pi)), z


def sum_of(x: Array) -> Array:
    """Returns the sum over all axes but the first: [B]."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def bounded(raw: Array, limit: float) -> Array:
    """Returns numbers between -limit and limit, with slope 1 at 0: logarithms of scales that cannot run away.

    Example:
      >>> bounded(jnp.array([0.0, 1e9]), 3.0).tolist()
      [0.0, 3.0]
    """
    return limit * jnp.tanh(raw / limit)

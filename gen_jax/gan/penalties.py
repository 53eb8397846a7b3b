"""Penalties on the discriminator's gradient in its input: WGAN-GP, R1, R2, both. One value per example.

The gradient of an example's logit must depend only on that example, which excludes batch normalisation in the
discriminator (Gulrajani et al. 2017, section 4); `gan.make` refuses this combination.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen_jax.method import Array, Scalars, UserError, broadcast_to_images

Logits = Callable[[Array], Array]
"""From images [B, H, W, C] to logits [B]."""
Penalty = Callable[[Logits, Array, Array, Array], Array]
"""(logits of, real images [B, ...], generated images [B, ...], u f32 [B] uniform in [0, 1)) -> f32 [B]."""


def slopes(logits_of: Logits, x: Array) -> Array:
    """Returns the gradient of each example's logit in its own pixels: f32 like `x`.

    One backward pass computes all of them: the gradient of the sum, because no logit depends on another example.

    Example:
      >>> slopes(lambda x: 3 * x[:, 0] + 4 * x[:, 1], jnp.zeros((1, 2))).tolist()
      [[3.0, 4.0]]
    """
    return jax.grad(lambda x: jnp.sum(logits_of(x)))(x)


def squared_norm(x: Array) -> Array:
    """Returns the squared Euclidean norm over all axes but the first: f32 [B].

    Example:
      >>> squared_norm(jnp.array([[[3.0], [4.0]]])).tolist()
      [25.0]
    """
    return jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))


def safe_norm(x: Array) -> Array:
    """Returns the Euclidean norm over all axes but the first, f32 [B], whose gradient at zero is zero.

    The gradient of the root is infinite there, and infinity times the zero gradient of the square is NaN, even if a
    later `where` discards it: hence the second `where` inside.

    Example:
      >>> jax.grad(lambda x: safe_norm(x).sum())(jnp.zeros((1, 2))).tolist()
      [[0.0, 0.0]]
    """
    square = squared_norm(x)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def wgan_gp(logits_of: Logits, real: Array, fake: Array, u: Array) -> Array:
    """Returns (|grad D(x_hat)| - 1)^2 at a point x_hat between each real and generated image (Gulrajani et al. 2017).

    Example:
      >>> float(10 * wgan_gp(lambda x: 3 * x[:, 0] + 4 * x[:, 1], jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.ones(1))[0])
      160.0
    """
    u = broadcast_to_images(u, real)
    return jnp.square(safe_norm(slopes(logits_of, u * real + (1 - u) * fake)) - 1)


def r1(logits_of: Logits, real: Array, fake: Array, u: Array) -> Array:
    """Returns |grad D(x)|^2 / 2 at each real image (Mescheder et al. 2018, equation 9).

    Example:
      >>> float(10 * r1(lambda x: 3 * x[:, 0] + 4 * x[:, 1], jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.ones(1))[0])
      125.0
    """
    return squared_norm(slopes(logits_of, real)) / 2


def r2(logits_of: Logits, real: Array, fake: Array, u: Array) -> Array:
    """Returns |grad D(G(z))|^2 / 2 at each generated image (Mescheder et al. 2018, equation 10).

    Example:
      >>> float(r2(lambda x: jnp.square(x[:, 0]), jnp.ones((1, 2)), jnp.full((1, 2), 3.0), jnp.ones(1))[0])
      18.0
    """
    return squared_norm(slopes(logits_of, fake)) / 2


def r1_r2(logits_of: Logits, real: Array, fake: Array, u: Array) -> Array:
    """Returns the sum of R1 and R2, the penalty of R3GAN (Huang et al. 2024).

    Example:
      >>> float(r1_r2(lambda x: jnp.square(x[:, 0]), jnp.ones((1, 2)), jnp.full((1, 2), 3.0), jnp.ones(1))[0])  # 2 + 18
      20.0
    """
    return r1(logits_of, real, fake, u) + r2(logits_of, real, fake, u)


WeightedPenalty = Callable[..., tuple[Array, Scalars]]
"""Like a Penalty, with the 0-based step as the last argument; returns the weighted mean over the batch, and scalars to
report."""


def none() -> WeightedPenalty:
    """Returns no penalty."""
    return lambda logits_of, real, fake, u, step=0: (jnp.zeros(()), {})


def weighted(penalty: Penalty) -> Callable[..., WeightedPenalty]:
    """Returns the factory of a penalty with a weight: lambda of WGAN-GP, gamma of R1 and R2.

    Its parameter `every` makes it lazy (Karras et al. 2020): computed in every so many steps alone, with as many times
    the weight. In the other steps the reported value is 0. It is for accelerators: on two CPU cores a step of
    wgan_gp_mnist took 136 ms with `every=4` and 120 ms with 1, one of r3gan_mnist 93 and 79 ms (batches of 16, means of
    four steps; a script that is not kept), because gradients of convolutions are slow in a branch there.

    Example:
      >>> linear = lambda x: 3 * x[:, 0] + 4 * x[:, 1]
      >>> float(weighted(r1)(weight=10.0)(linear, jnp.ones((5, 2)), jnp.zeros((5, 2)), jnp.ones(5))[0])
      125.0
    """

    def factory(weight: float = 10.0, every: int = 1) -> WeightedPenalty:
        if weight < 0:
            raise UserError(f"the penalty's weight (config.*.penalty.weight) is {weight}; it must not be negative")
        if every < 1:
            raise UserError(f"the penalty's every (config.*.penalty.every) is {every}; it must be at least 1")

        def weighed(
            logits_of: Logits, real: Array, fake: Array, u: Array, step: Array | int = 0
        ) -> tuple[Array, Scalars]:
            def mean() -> Array:
                return jnp.mean(penalty(logits_of, real, fake, u))

            value = mean() if every == 1 else jax.lax.cond(step % every == 0, mean, lambda: jnp.zeros(()))
            return every * weight * value, {"penalty": value}

        return weighed

    return factory


PENALTIES: dict[str, Callable[..., WeightedPenalty]] = {
    "none": none,
    "wgan_gp": weighted(wgan_gp),
    "r1": weighted(r1),
    "r2": weighted(r2),
    "r1_r2": weighted(r1_r2),
}

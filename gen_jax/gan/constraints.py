"""Bounds on the discriminator's weights: clipping, and spectral normalisation by power iteration.

A constraint is four pure functions outside the network. The network computes with `weights(params, vectors)`; its
optimizer updates the params.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.method import Array, Key, PyTree, UserError

START_ITERATIONS = 15  # of the random initial vectors, so that the first step already divides by about the right value


class Constraint(NamedTuple):
    """A bound on a network's weights.

    Attributes:
      init: (key, params) -> vectors, kept in State.variables; {} if there are none.
      advance: (params, vectors) -> vectors, once per step of the network's optimizer.
      weights: (params, vectors) -> the weights that the network uses, like params; differentiable in them.
      project: params after an optimizer step -> params within the bound.
    """

    init: Callable[[Key, PyTree], PyTree]
    advance: Callable[[PyTree, PyTree], PyTree]
    weights: Callable[[PyTree, PyTree], PyTree]
    project: Callable[[PyTree], PyTree]


def none() -> Constraint:
    """Returns no bound."""
    return Constraint(
        lambda key, params: {}, lambda params, vectors: vectors, lambda params, vectors: params, lambda params: params
    )


def clipped(bound: float = 0.01) -> Constraint:
    """Returns the clipping of every weight and bias to [-bound, bound] after each step (Arjovsky et al. 2017).

    Raises:
      UserError: the bound is not positive.

    Example:
      >>> clipped(0.5).project({"kernel": jnp.array([-2.0, 0.25])})["kernel"].tolist()
      [-0.5, 0.25]
    """
    if not bound > 0:
        raise UserError(f"config.gan.constraint.bound is {bound}; the largest absolute weight must be positive")
    return none()._replace(project=lambda params: jax.tree.map(lambda x: jnp.clip(x, -bound, bound), params))


def spectral() -> Constraint:
    """Returns the division of every kernel and embedding by its largest singular value (Miyato et al. 2018).

    The value is u' W v, where one power iteration per step keeps u and v close to the singular vectors; W is the kernel
    as a matrix [everything else, outputs]. The gradient flows only through W; u and v are constants. Biases and scales
    are unchanged.
    """

    def init(key: Key, params: PyTree) -> PyTree:
        leaves = jax.tree_util.tree_leaves_with_path(params)
        vectors = {
            _name(path): jax.random.normal(jax.random.fold_in(key, i), kernel.shape[-1:])
            for i, (path, kernel) in enumerate(leaves)
            if kernel.ndim > 1
        }
        for _ in range(START_ITERATIONS):
            vectors = advance(params, vectors)
        return vectors

    def advance(params: PyTree, vectors: PyTree) -> PyTree:
        kernels = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
        return {name: power_iteration(kernels[name], u)[0] for name, u in vectors.items()}

    def weights(params: PyTree, vectors: PyTree) -> PyTree:
        def divided(path: Any, leaf: Array) -> Array:
            return leaf / singular_value(leaf, vectors[_name(path)]) if _name(path) in vectors else leaf

        return jax.tree_util.tree_map_with_path(divided, params)

    return Constraint(init, advance, weights, lambda params: params)


def power_iteration(kernel: Array, u: Array) -> tuple[Array, Array]:
    """Returns (u, v), unit vectors closer to the singular vectors of the largest singular value.

    Args:
      kernel: [..., F], reshaped to the matrix W [N, F].
      u: f32 [F].

    Returns:
      v = W u / |W u| [N], then u = W' v / |W' v| [F].

    Example:
      >>> u, v = power_iteration(jnp.diag(jnp.array([2.0, 1.0])), jnp.ones(2))
      >>> [round(float(x), 4) for x in u]
      [0.9701, 0.2425]
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    v = _unit(matrix @ u)
    return _unit(v @ matrix), v


def singular_value(kernel: Array, u: Array) -> Array:
    """Returns v' W u with v = W u / |W u|, a lower bound on W's largest singular value: f32 [].

    Its gradient in W is v u': the vectors are constants.

    Example:
      >>> kernel = jnp.diag(jnp.array([2.0, 1.0]))
      >>> float(singular_value(kernel, jnp.array([1.0, 0.0])))
      2.0
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    u = jax.lax.stop_gradient(u)
    v = jax.lax.stop_gradient(_unit(matrix @ u))
    return v @ matrix @ u


def spectral_norms(params: PyTree, iterations: int = 50) -> dict[str, Array]:
    """Returns the largest singular value of every kernel and embedding, as a matrix like `spectral`'s, by name.

    Each is a lower bound, after so many power iterations from one fixed random vector: f32 [].

    Example:
      >>> norms = spectral_norms({"out": {"kernel": jnp.diag(jnp.array([2.0, 3.0])), "bias": jnp.ones(2)}})
      >>> {name: round(float(norm), 4) for name, norm in norms.items()}
      {'out/kernel': 3.0}
    """

    def norm(kernel: Array) -> Array:
        u = jax.random.normal(jax.random.key(0), kernel.shape[-1:], kernel.dtype)
        u = jax.lax.fori_loop(0, iterations, lambda _, u: power_iteration(kernel, u)[0], u)
        return singular_value(kernel, u)

    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {_name(path): norm(kernel) for path, kernel in leaves if kernel.ndim > 1}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


CONSTRAINTS: dict[str, Callable[..., Constraint]] = {"none": none, "clip": clipped, "spectral": spectral}

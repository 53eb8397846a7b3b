"""Sparse coding, min over z of 1/2 |x - D z|^2 + lam |z|_1: ISTA, its learned form, dictionaries, a prior of codes.

A dictionary D [d, K] has atoms in its columns. ISTA (Daubechies et al. 2004) takes gradient steps of size 1 / L and
shrinks after each; L is the largest eigenvalue of D'D. Learned ISTA (Gregor & LeCun 2010) trains the matrices of such
a step; here all steps share them, and they start as those of ISTA.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.method import Array, Key, UserError

SMALLEST_SIDE = 3  # of vectors as squares: the centred cosines of two numbers all have one direction


def shrink(v: Array, threshold: Array | float) -> Array:
    """Returns sign(v) max(|v| - threshold, 0), the soft threshold: zero where |v| is not above it.

    Example:
      >>> [round(float(value), 4) for value in shrink(jnp.array([-2.0, -0.05, 0.3]), 0.1)]
      [-1.9, -0.0, 0.2]
    """
    return jnp.sign(v) * jnp.maximum(jnp.abs(v) - threshold, 0.0)


def objective(x: Array, z: Array, dictionary: Array, lam: float) -> Array:
    """Returns 1/2 |x - D z|^2 + lam |z|_1 of vectors x [..., d] and codes z [..., K]: [...].

    Example:
      >>> dictionary = jnp.array([[1.0, 0.6, 0.0], [0.0, 0.8, 1.0]])
      >>> round(float(objective(jnp.array([1.0, 0.3]), jnp.array([0.45, 0.37, 0.1]), dictionary, 0.1)), 6)
      0.1504
    """
    return jnp.sum((x - z @ dictionary.T) ** 2, axis=-1) / 2 + lam * jnp.sum(jnp.abs(z), axis=-1)


def largest_eigenvalue(dictionary: Array) -> Array:
    """Returns L, the largest eigenvalue of D'D, which is that of D D', f32 [].

    Example:
      >>> round(float(largest_eigenvalue(jnp.array([[1.0, 0.6, 0.0], [0.0, 0.8, 1.0]]))), 5)
      2.0
    """
    return jnp.linalg.eigvalsh(dictionary @ dictionary.T)[-1]


def ista(x: Array, dictionary: Array, lam: float, num_steps: int) -> Array:
    """Returns the codes after each step z <- shrink(z + D'(x - D z) / L, lam / L), from z = 0.

    Args:
      x: f32 [..., d].
      dictionary: f32 [d, K].
      lam: weight of |z|_1.
      num_steps: n.

    Returns:
      f32 [n, ..., K]; the last is nearest to the minimum.

    Example:
      >>> dictionary = jnp.array([[1.0, 0.6, 0.0], [0.0, 0.8, 1.0]])
      >>> codes = ista(jnp.array([1.0, 0.3]), dictionary, 0.1, 2)
      >>> [[round(float(value), 4) for value in z] for z in codes]
      [[0.45, 0.37, 0.1], [0.564, 0.38, 0.002]]
    """
    size = 1 / largest_eigenvalue(dictionary)

    def step(z: Array, _: None) -> tuple[Array, Array]:
        z = shrink(z + size * (x - z @ dictionary.T) @ dictionary, size * lam)
        return z, z

    return jax.lax.scan(step, jnp.zeros((*x.shape[:-1], dictionary.shape[1])), length=num_steps)[1]


class Step(NamedTuple):
    """The matrices of z <- shrink(W x + S z, threshold).

    Attributes:
      w: W f32 [K, d].
      s: S f32 [K, K]; None if there is a single step, which starts from z = 0.
    """

    w: Array
    s: Array | None


def start(dictionary: Array | np.ndarray, largest: Array | float, num_steps: int) -> Step:
    """Returns the step of ISTA: W = D' / L and S = I - D'D / L, to be used with the threshold lam / L.

    The code released for SC-VAE leaves out the 1 / L of W, in the first code and in every step; this is ISTA.

    Args:
      dictionary: f32 [d, K].
      largest: L.
      num_steps: that are to be taken.

    Example:
      >>> step = start(jnp.array([[1.0, 0.6, 0.0], [0.0, 0.8, 1.0]]), 2.0, 2)
      >>> [round(float(value), 4) for value in step.s[0]]
      [0.5, -0.3, 0.0]
    """
    columns = jnp.asarray(dictionary, jnp.float32)
    scaled = columns.T / largest
    return Step(scaled, jnp.eye(len(scaled)) - scaled @ columns if num_steps > 1 else None)


def unrolled(x: Array, step: Step, threshold: Array | float, num_steps: int) -> Array:
    """Returns the codes after each of n shared steps z <- shrink(W x + S z, threshold), from z = 0.

    Args:
      x: f32 [..., d].
      step: W and S.
      threshold: lam / L.
      num_steps: n.

    Returns:
      f32 [n, ..., K]; the last is the code.

    Example:
      >>> dictionary = jnp.array([[1.0, 0.6, 0.0], [0.0, 0.8, 1.0]])
      >>> codes = unrolled(jnp.array([1.0, 0.3]), start(dictionary, 2.0, 2), 0.1 / 2.0, 2)
      >>> [round(float(value), 4) for value in codes[-1]]
      [0.564, 0.38, 0.002]
    """
    of_x, s = x @ step.w.T, step.s
    first = shrink(of_x, threshold)
    if s is None:
        return first[None]

    def advance(z: Array, _: None) -> tuple[Array, Array]:  # products of matrices alone: a rolled loop is fast
        z = shrink(of_x + z @ s.T, threshold)
        return z, z

    return jnp.concatenate([first[None], jax.lax.scan(advance, first, length=num_steps - 1)[1]])


class Dictionary(NamedTuple):
    """Atoms to start from.

    Attributes:
      atoms: D f32 [d, K], with columns of length one.
      learned: whether training changes them.
    """

    atoms: np.ndarray
    learned: bool = False


def cosines(size: int, num: int) -> np.ndarray:
    """Returns a table of `num` cosines at `size` points, f64 [size, num]: cos(i k pi / num), centred and normalised.

    The constant, k = 0, is not centred.

    Example:
      >>> cosines(3, 4)[:, 1].round(4).tolist()  # 1, 0.7071, 0 without their mean, over their length
      [0.5928, 0.1899, -0.7827]
    """
    table = np.cos(np.outer(np.arange(size), np.arange(num)) * np.pi / num)
    table[:, 1:] -= table[:, 1:].mean(axis=0)
    return table / np.linalg.norm(table, axis=0)


def overcomplete_dct(dimension: int, num_atoms: int) -> np.ndarray:
    """Returns the first `num_atoms` columns of the Kronecker square of a table of cosines, f64 [dimension, num_atoms].

    A vector is read as a square of sqrt(dimension) numbers a side, and an atom is a wave along both of its axes, as at
    the start of SC-VAE's dictionary (16 x 23 cosines, 512 of 529 atoms). All but the first have a mean of zero.

    Raises:
      UserError: `dimension` is no square, there are fewer atoms than numbers, or the atoms do not span all vectors.

    Example:
      >>> overcomplete_dct(9, 20).shape
      (9, 20)
    """
    side = math.isqrt(dimension)
    if side < SMALLEST_SIDE or side**2 != dimension:
        near = max(SMALLEST_SIDE, round(math.sqrt(max(dimension, 1)))) ** 2
        raise UserError(
            f"config.scvae.channels is {dimension}, but the atoms of a DCT are squares of {SMALLEST_SIDE}x"
            f"{SMALLEST_SIDE} numbers or more: use {near}, or --config.scvae.dictionary=orthonormal"
        )
    if num_atoms < dimension:
        raise UserError(
            f"config.scvae.dictionary.num_atoms is {num_atoms}, which do not span vectors of {dimension} numbers: use "
            f"{dimension} or more, or --config.scvae.dictionary=orthonormal"
        )
    atoms = _first_atoms(side, num_atoms)
    if not _spans(atoms):
        more = next(num for num in range(num_atoms + 1, 2 * num_atoms + 4 * side) if _spans(_first_atoms(side, num)))
        raise UserError(
            f"config.scvae.dictionary.num_atoms is {num_atoms}, and the first {num_atoms} of "
            f"{_table_size(num_atoms) ** 2} waves do not span vectors of {dimension} numbers: use {more}"
        )
    return atoms


def _table_size(num_atoms: int) -> int:
    return math.isqrt(num_atoms - 1) + 1  # the square root, rounded up


def _first_atoms(side: int, num_atoms: int) -> np.ndarray:
    table = cosines(side, _table_size(num_atoms))
    return np.kron(table, table)[:, :num_atoms]


def _spans(atoms: np.ndarray) -> bool:
    return np.linalg.matrix_rank(atoms) == len(atoms)


def square_dct(dimension: int) -> np.ndarray:
    """Returns the orthonormal DCT (type II) of vectors, f64 [dimension, dimension], with its waves in columns.

    With an orthonormal D a single step of ISTA is exact: z = shrink(D'x, lam).

    Example:
      >>> square_dct(2).round(4).tolist()
      [[0.7071, 0.7071], [0.7071, -0.7071]]
    """
    place, wave = np.arange(dimension)[:, None] + 0.5, np.arange(dimension)
    table = np.cos(place * wave * np.pi / dimension) * np.sqrt(2 / dimension)
    table[:, 0] /= np.sqrt(2)
    return table


def dct(dimension: int, num_atoms: int = 64) -> Dictionary:
    """Returns the overcomplete DCT as it is."""
    return Dictionary(overcomplete_dct(dimension, num_atoms).astype(np.float32))


def learned(dimension: int, num_atoms: int = 64) -> Dictionary:
    """Returns a dictionary that starts as the overcomplete DCT and is trained; its atoms keep a length of one."""
    return Dictionary(overcomplete_dct(dimension, num_atoms).astype(np.float32), learned=True)


def orthonormal(dimension: int) -> Dictionary:
    """Returns the square DCT: as many atoms as numbers in a vector."""
    return Dictionary(square_dct(dimension).astype(np.float32))


DICTIONARIES: dict[str, Callable[..., Dictionary]] = {"dct": dct, "learned": learned, "orthonormal": orthonormal}
"""From a name to (dimension, parameters) -> Dictionary."""

Usage = dict[str, Array]
"""How codes use each atom at each place, f32 [...], means over examples: `on`, the share that are not zero; `positive`,
the share above zero; `size`, |z|."""


def usage_of(z: Array) -> Usage:
    """Returns the usage [...] of codes z [B, ...].

    Example:
      >>> {name: value.tolist() for name, value in usage_of(jnp.array([[0.0, 2.0], [-1.0, 4.0]])).items()}
      {'on': [0.5, 1.0], 'positive': [0.0, 1.0], 'size': [0.5, 3.0]}
    """
    values = {"on": z != 0, "positive": z > 0, "size": jnp.abs(z)}
    return {name: jnp.mean(value.astype(jnp.float32), axis=0) for name, value in values.items()}


def draw_code(usage: Usage, key: Key) -> Array:
    """Returns a code [...] whose atoms are independent: on, positive and of a mean size as often as in `usage`.

    What is on has an exponential size: with both signs a Laplace distribution, the prior behind |z|_1.

    Example:
      >>> always, never = jnp.array([1.0, 0.0]), jnp.zeros(2)
      >>> z = draw_code({"on": always, "positive": never, "size": always}, jax.random.key(0))
      >>> bool(z[0] < 0), float(z[1])
      (True, 0.0)
    """
    key_on, key_sign, key_size = jax.random.split(key, 3)
    shape, some = usage["on"].shape, jnp.maximum(usage["on"], jnp.finfo(jnp.float32).tiny)
    is_on = jax.random.uniform(key_on, shape) < usage["on"]
    sign = jnp.where(jax.random.uniform(key_sign, shape) < usage["positive"] / some, 1.0, -1.0)
    return jnp.where(is_on, sign * usage["size"] / some * jax.random.exponential(key_size, shape), 0.0)

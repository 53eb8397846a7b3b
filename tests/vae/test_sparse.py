"""Sparse coding against golden values, closed forms and scikit-learn's coordinate descent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import sklearn.linear_model

from gen_jax.method import UserError
from gen_jax.vae import sparse

# golden.json, sparse_coding
D, X, LAM = jnp.array([[1.0, 0.6, 0.0], [0.0, 0.8, 1.0]]), jnp.array([1.0, 0.3]), 0.1
LIMIT = [0.7125, 0.3125, 0.0]


def made_up(dimension=6, num_atoms=10, num=5):
    """A random dictionary with atoms of length one, and vectors."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(dimension, num_atoms))
    atoms /= np.linalg.norm(atoms, axis=0)
    return jnp.asarray(atoms, jnp.float32), jnp.asarray(rng.normal(size=(num, dimension)), jnp.float32)


def learned_path(x, dictionary, lam, num_steps):
    """Learned ISTA with the matrices that it starts from."""
    largest = sparse.largest_eigenvalue(dictionary)
    return sparse.unrolled(x, sparse.start(dictionary, largest, num_steps), lam / largest, num_steps)


@pytest.mark.parametrize("path_of", [sparse.ista, learned_path])
def test_the_worked_example_has_its_codes_and_objectives(path_of):
    assert float(sparse.largest_eigenvalue(D)) == pytest.approx(2.0, rel=1e-6)
    path = path_of(X, D, LAM, 2000)
    np.testing.assert_allclose(path[0], [0.45, 0.37, 0.1], atol=1e-6)
    np.testing.assert_allclose(path[1], [0.564, 0.38, 0.002], atol=1e-6)
    np.testing.assert_allclose(path[-1], LIMIT, atol=1e-5)
    codes = jnp.stack([jnp.zeros(3), path[0], path[1], path[-1]])
    np.testing.assert_allclose(sparse.objective(X, codes, D, LAM), [0.545, 0.1504, 0.11625, 0.10875], atol=1e-6)


def test_shrinking_leaves_signs_and_makes_exact_zeros():
    values = jnp.array([-2.0, -0.05, 0.0, 0.1, 0.3])
    np.testing.assert_allclose(sparse.shrink(values, 0.1), [-1.9, 0, 0, 0, 0.2], atol=1e-7)
    assert (sparse.shrink(values, 0.1)[1:4] == 0).all()
    np.testing.assert_array_equal(sparse.shrink(values, 0.0), values)


def test_learned_steps_with_the_matrices_of_ista_are_ista():
    dictionary, x = made_up()
    steps = sparse.ista(x, dictionary, 0.2, 7)
    np.testing.assert_allclose(learned_path(x, dictionary, 0.2, 7), steps, atol=1e-6)
    np.testing.assert_allclose(learned_path(x, dictionary, 0.2, 1), steps[:1], atol=1e-6)  # a single one has no S
    assert sparse.start(dictionary, 2.0, 1).s is None


@pytest.mark.parametrize("path_of", [sparse.ista, learned_path])
def test_many_steps_reach_the_lasso_of_scikit_learn(path_of):
    # Its objective is 1 / (2 n) |x - D z|^2 + alpha |z|_1, for the n numbers of a vector.
    dictionary, x = made_up()
    path = path_of(x, dictionary, 0.1, 5000)
    alpha = 0.1 / x.shape[1]
    lasso = sklearn.linear_model.Lasso(alpha=alpha, fit_intercept=False, tol=1e-10, max_iter=100_000)
    expected = np.stack([lasso.fit(np.float64(dictionary), np.float64(one)).coef_ for one in x])
    np.testing.assert_allclose(path[-1], expected, atol=1e-4)
    np.testing.assert_array_equal(path[-1] != 0, expected != 0)
    assert 0 < np.mean(expected == 0) < 1


def test_no_step_of_ista_raises_the_objective():
    dictionary, x = made_up()
    values = np.asarray(sparse.objective(x, sparse.ista(x, dictionary, 0.1, 50), dictionary, 0.1))
    assert (np.diff(values, axis=0) <= 1e-6).all()
    assert (values[0] < np.sum(np.square(x), axis=1) / 2).all()


def test_one_step_is_exact_for_an_orthonormal_dictionary():
    dictionary = jnp.asarray(sparse.orthonormal(6).atoms)
    x = made_up()[1]
    path = learned_path(x, dictionary, 0.1, 3)
    expected = sparse.shrink(x @ dictionary, 0.1)
    for z in path:
        np.testing.assert_allclose(z, expected, atol=1e-5)


@pytest.mark.parametrize("dimension", [1, 2, 5, 16])
def test_the_square_dct_is_orthonormal_and_that_of_scipy(dimension):
    table = sparse.square_dct(dimension)
    np.testing.assert_allclose(table.T @ table, np.eye(dimension), atol=1e-12)
    np.testing.assert_allclose(table.T, scipy.fft.dct(np.eye(dimension), norm="ortho", axis=0), atol=1e-12)


@pytest.mark.parametrize(("dimension", "num_atoms"), [(9, 16), (16, 64), (64, 120)])
def test_atoms_of_the_overcomplete_dct_have_length_one_and_are_centred_but_for_the_first(dimension, num_atoms):
    atoms = sparse.overcomplete_dct(dimension, num_atoms)
    assert atoms.shape == (dimension, num_atoms)
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=0), 1, atol=1e-12)
    np.testing.assert_allclose(atoms[:, 1:].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(atoms[:, 0], dimension**-0.5, atol=1e-12)
    assert np.linalg.matrix_rank(atoms) == dimension
    products = np.abs(atoms.T @ atoms) - np.eye(num_atoms)
    assert products.max() < 1 - 1e-6  # no atom is another one, or its negative


def test_an_atom_of_the_overcomplete_dct_is_a_wave_along_both_axes():
    # The released dictionary: 23 cosines at 16 points. Atom 23 a + b: cosine a along the rows, b along the columns.
    atoms = sparse.overcomplete_dct(256, 512)
    rows, columns = np.cos(np.arange(16) * 3 * np.pi / 23), np.cos(np.arange(16) * 20 * np.pi / 23)
    wave = np.outer(rows - rows.mean(), columns - columns.mean())
    np.testing.assert_allclose(atoms[:, 23 * 3 + 20].reshape(16, 16), wave / np.linalg.norm(wave), atol=1e-12)


@pytest.mark.parametrize(
    ("dimension", "num_atoms", "line"),
    [
        (15, 64, "config.scvae.channels is 15, .* squares of 3x3 numbers or more: use 16, or .*=orthonormal$"),
        (4, 64, "config.scvae.channels is 4, .*: use 9, or .*=orthonormal$"),
        (16, 15, "num_atoms is 15, which do not span vectors of 16 numbers: use 16 or more, or .*=orthonormal$"),
        (16, 17, "num_atoms is 17, and the first 17 of 25 waves do not span vectors of 16 numbers: use 19$"),
    ],
)
def test_a_dictionary_that_does_not_fit_is_refused_in_one_line(dimension, num_atoms, line):
    for make in (sparse.dct, sparse.learned):
        with pytest.raises(UserError, match=line) as error:
            make(dimension, num_atoms)
        assert "\n" not in str(error.value)


def test_the_number_of_atoms_that_is_advised_is_accepted():
    assert sparse.overcomplete_dct(16, 19).shape == (16, 19)


def test_drawn_codes_are_used_as_the_examples_were():
    rng = np.random.default_rng(0)
    shares, signs, means = np.array([0.05, 0.5, 0.9]), np.array([0.0, 0.25, 1.0]), np.array([3.0, 0.1, 1.0])
    shape = (20_000, 3)
    z = (rng.random(shape) < shares) * np.where(rng.random(shape) < signs, 1, -1) * rng.exponential(means, shape)
    usage = sparse.usage_of(jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(usage["on"], np.mean(z != 0, axis=0), atol=1e-6)
    drawn = jax.vmap(lambda key: sparse.draw_code(usage, key))(jax.random.split(jax.random.key(0), 20_000))
    again = sparse.usage_of(drawn)
    for name, tolerance in (("on", 0.015), ("positive", 0.015), ("size", 0.03)):
        np.testing.assert_allclose(again[name], usage[name], atol=tolerance)
    assert abs(np.corrcoef(np.asarray(drawn != 0).T)[0, 1]) < 0.03  # independent


def test_an_atom_that_was_never_on_is_never_drawn():
    usage = sparse.usage_of(jnp.zeros((4, 2, 3)))
    drawn = jax.vmap(lambda key: sparse.draw_code(usage, key))(jax.random.split(jax.random.key(0), 50))
    np.testing.assert_array_equal(drawn, np.zeros((50, 2, 3)))

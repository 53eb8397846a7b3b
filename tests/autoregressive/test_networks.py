"""Who sees whom, and that sampling with caches is the whole network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autoregressive.toys import network, shaken

from gen_jax.method import UserError

GRID, VALUES, TOKEN = (4, 5), 3, 2


def noise(shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def initial(made, x, label=None):
    return shaken(jax.jit(made.init)(jax.random.key(0), x, label)["params"])


def influence(made, grid):
    """How much the logits of each place (column) change if the token of a place (row) is perturbed."""
    x, num = noise((2, *grid, TOKEN)), grid[0] * grid[1]
    params = initial(made, x)
    # All in one batch, so that what is the same is the same bit by bit.
    one = jnp.eye(num).reshape(num, 1, *grid, 1)
    moved = jnp.concatenate([x[None], x + one]).reshape(-1, *grid, TOKEN)
    logits = jax.jit(made.apply)({"params": params}, moved).reshape(num + 1, 2, num, VALUES)
    return np.abs(logits[1:] - logits[0]).max(axis=(1, 3))


def test_a_perturbed_place_changes_nothing_at_or_before_it_and_all_behind_it():
    found, num = influence(network(VALUES, GRID), GRID), GRID[0] * GRID[1]
    assert (found[np.tril_indices(num)] == 0).all()
    assert (found[np.triu_indices(num, 1)] > 0).all()


def test_a_pixelcnn_sees_a_rectangle_above_and_a_row_to_the_left_without_a_blind_spot():
    # Three layers of 3x3: each looks one place further to each side, and one row further up.
    grid, depth = (6, 9), 3
    found = influence(network(VALUES, grid, depth=depth, first_kernel=3), grid) > 0
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    up = rows - rows[:, None]  # rows from a perturbed place (row) down to a place (column)
    across = np.abs(columns - columns[:, None]) <= depth
    left = (up == 0) & (columns > columns[:, None])
    np.testing.assert_array_equal(found, across & (left | ((up >= 1) & (up <= depth))))


def test_sampling_with_caches_is_the_whole_network():
    made, num, classes = network(VALUES, GRID, 4), 5, 4
    table = noise((VALUES, TOKEN), seed=3)
    label = jnp.arange(num) % classes
    params = initial(made, jnp.zeros((num, *GRID, TOKEN)), label)

    def choose(logits, place):
        gumbel = jax.random.gumbel(jax.random.fold_in(jax.random.key(4), place), logits.shape)
        chosen = jnp.argmax(logits + gumbel, axis=-1)
        return table[chosen], (chosen, logits, jnp.full(num, place))

    chosen, logits, order = jax.jit(functools.partial(made.generate, choose=choose))(
        params, jnp.zeros((num, TOKEN)), label=label
    )
    assert np.asarray(order[0]).tolist() == np.arange(GRID[0] * GRID[1]).reshape(GRID).tolist()
    whole = jax.jit(made.apply)({"params": params}, table[chosen], label)
    np.testing.assert_allclose(logits, whole, atol=1e-5)
    assert np.std(whole) > 0.1
    assert len(np.unique(chosen)) == VALUES
    # The label counts at every place.
    other = jax.jit(made.apply)({"params": params}, table[chosen], (label + 1) % classes)
    assert (np.abs(other - whole).max(axis=(0, 3)) > 1e-4).all()


def test_all_places_of_a_sample_are_one_loop_over_rows_and_one_within_a_row():
    made = network(VALUES, GRID)
    params = jax.eval_shape(made.init, jax.random.key(0), jnp.zeros((1, *GRID, TOKEN)))["params"]
    choose = lambda logits, place: (logits[:, :TOKEN], logits[:, 0])  # noqa: E731
    traced = jax.make_jaxpr(lambda params: made.generate(params, jnp.zeros((2, TOKEN)), choose))(params)
    assert str(traced).count("scan[") == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "width is 0; use 1 or more"),
        ({"depth": 0}, "depth is 0; use 1 or more"),
        ({"kernel": 4}, "network.kernel is 4; use an odd number of 3 or more"),
        ({"first_kernel": 1}, "first_kernel is 1; use an odd number of 3 or more"),
    ],
)
def test_refuses_fields_that_no_network_can_have(fields, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(network(VALUES, GRID, **fields).init, jax.random.key(0), jnp.zeros((1, *GRID, TOKEN)))

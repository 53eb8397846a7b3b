import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nflow.flows import noise, shaken, transformer

from gen_jax.method import UserError
from gen_jax.nflow.transformer import CausalTransformer, autoregressive, patches, turn

GRID, VALUES, NUM = (2, 3), 4, 6


@functools.cache
def made(classes=0):
    network = transformer(VALUES, GRID, classes)
    part, x = autoregressive(network), noise((NUM, VALUES))
    label = jnp.array([0, 2, 1]) if classes else None
    return network, part, shaken(jax.jit(part.init)(jax.random.key(0), x, label), scale=0.3), x, label


@functools.cache
def differences():
    """How much z, and the outputs of the network, change at each place (column) if a token (row) is perturbed."""
    network, part, params, x, _ = made()

    @jax.jit
    def of(x):
        return part.forward(params, x, None)[0], network.apply({"params": params}, x)[0]

    # One program for all, so that what is the same is the same bit by bit.
    before, after = of(x), [of(x.at[:, place].add(1.0)) for place in range(NUM)]
    return [np.stack([np.abs(b[which] - before[which]).max((0, 2)) for b in after]) for which in (0, 1)]


@pytest.mark.parametrize("which", [0, 1], ids=["z", "outputs of the network"])
def test_a_perturbed_token_changes_nothing_before_it_and_all_behind_it(which):
    found = differences()[which]
    assert (found[np.tril_indices(NUM, -1)] == 0).all()
    assert (found[np.triu_indices(NUM)] > 1e-4).all()


def test_mean_and_scale_of_a_token_do_not_depend_on_it():
    # So its own z is a straight line in it, whatever stands before it.
    _, part, params, x, _ = made()
    lines = jax.jit(jax.vmap(jax.vmap(
        lambda place, size: part.forward(params, x.at[:, place].add(size), None)[0][:, place], (None, 0)), (0, None)
    ))(jnp.arange(NUM), jnp.array([0.0, 1.0, 2.0]))  # fmt: skip
    np.testing.assert_allclose(lines[:, 2] - lines[:, 1], lines[:, 1] - lines[:, 0], rtol=1e-4, atol=1e-5)
    assert np.abs(lines[:, 1] - lines[:, 0] - 1).min() > 1e-4  # also that of the first token is scaled


def test_sampling_with_a_cache_is_sampling_without():
    network, part, params, _, label = made(classes=3)
    z = noise((NUM, VALUES), seed=5)
    apply = jax.jit(lambda before: network.apply({"params": params}, before, label)[0])
    x = jnp.zeros_like(z)
    for place in range(NUM):  # the whole sequence anew for every token
        before = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        mean, raw = jnp.split(apply(before)[:, place], 2, axis=-1)
        x = x.at[:, place].set(z[:, place] * jnp.exp(6 * jnp.tanh(raw / 6)) + mean)
    np.testing.assert_allclose(jax.jit(part.inverse)(params, z, label), x, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_pieces_with_a_cache_are_the_whole():
    network, _, params, x, _ = made()
    whole, _ = network.apply({"params": params}, x)
    caches, place, parts = network.no_caches(len(x)), 0, []
    apply = jax.jit(network.apply)
    for num in (2, 2, 2):
        y, caches = apply({"params": params}, x[:, place : place + num], None, caches, place)
        parts.append(y)
        place += num
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=1e-6)


def test_all_tokens_of_a_sample_are_one_loop():
    _, part, params, x, _ = made()
    text = str(jax.make_jaxpr(lambda z: part.inverse(params, z, None))(x))
    assert text.count("scan[") == 1


def test_patches_go_row_by_row():
    image = jnp.arange(24.0).reshape(1, 4, 6, 1)
    tokens, _ = patches(2, (4, 6, 1)).forward({}, image, None)
    assert tokens.shape == (1, 6, 4)
    assert tokens[0, 1].tolist() == [2, 3, 8, 9]
    assert tokens[0, 3].tolist() == [12, 13, 18, 19]
    assert turn().forward({}, tokens, None)[0][0, 0].tolist() == [16, 17, 22, 23]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 18}, "width is 18; use a multiple of 4"),
        ({"num_heads": 3}, "num_heads, 3"),
        ({"depth": 0}, "depth is 0"),
        ({"mlp_ratio": 0}, "mlp_ratio is 0"),
    ],
)
def test_refuses_fields_that_no_network_can_have(fields, message):
    network = CausalTransformer(**{"out_channels": 8, "grid": GRID, "width": 8, "num_heads": 2} | fields)
    with pytest.raises(UserError, match=message):
        network.init(jax.random.key(0), noise((NUM, VALUES)))

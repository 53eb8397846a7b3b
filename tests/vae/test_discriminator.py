"""The density ratio that a discriminator estimates, against the closed form for correlated Gaussian codes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax import parallel
from gen_jax.vae import discriminator, objectives
from gen_jax.vae.objectives import Setting

RHO = 0.8
COVARIANCE = np.array([[1.0, RHO], [RHO, 1.0]])
EXACT = -0.5 * np.log(1 - RHO**2)  # the total correlation of N(0, COVARIANCE)


def codes(key, num):
    return jax.random.normal(key, (num, 2)) @ jnp.asarray(np.linalg.cholesky(COVARIANCE).T, jnp.float32)


def best_logits(z):
    """Half of log q(z) / prod_j q(z_j) for either class: what the best discriminator says."""
    inverse = np.linalg.inv(COVARIANCE) - np.eye(2)
    ratio = -0.5 * jnp.einsum("ni,ij,nj->n", z, jnp.asarray(inverse, jnp.float32), z) + EXACT
    return jnp.stack([ratio, -ratio], axis=-1) / 2


def test_the_best_logits_give_the_total_correlation_of_a_gaussian():
    estimates = np.asarray(discriminator.log_ratio(best_logits(codes(jax.random.key(0), 20_000))), np.float64)
    assert abs(estimates.mean() - EXACT) < 4 * estimates.std() / np.sqrt(len(estimates))
    assert estimates.std() / np.sqrt(len(estimates)) < 0.01


def test_no_other_logits_have_a_smaller_cross_entropy_than_the_best_ones():
    z, kind = discriminator.halves(jax.random.key(1), codes(jax.random.key(0), 20_000))
    best = best_logits(z)
    entropy = float(discriminator.cross_entropy(best, kind).mean())
    assert entropy < np.log(2) - 0.05
    for worse in (0.7 * best, 1.4 * best, best + jnp.array([0.3, 0.0]), -best):
        assert float(discriminator.cross_entropy(worse, kind).mean()) > entropy


def test_a_discriminator_that_is_trained_as_the_objective_says_finds_the_total_correlation():
    second = objectives.factor(Setting(latents=2), width=32, depth=2).second
    adam = optax.adam(5e-3)
    rows = jnp.arange(512)

    def step(carry, key):
        params, state = carry
        key_z, key_loss = jax.random.split(key)
        z = codes(key_z, len(rows))
        grads = jax.grad(lambda p: second.loss(p, z, rows, key_loss)[0].mean())(params)
        updates, state = adam.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    params = second.init(jax.random.key(0))
    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, jax.random.split(jax.random.key(1), 800)))(
        (params, adam.init(params))
    )
    network = discriminator.Discriminator(32, 2)
    found = discriminator.log_ratio(network.apply({"params": params}, codes(jax.random.key(2), 20_000)))
    assert float(found.mean()) == pytest.approx(EXACT, abs=0.08)


def test_permuted_latents_keep_each_marginal_exactly_and_lose_what_they_share():
    z = codes(jax.random.key(0), 4000)
    permuted = np.asarray(discriminator.permute_latents(jax.random.key(1), z))
    np.testing.assert_array_equal(np.sort(permuted, axis=0), np.sort(z, axis=0))
    assert abs(np.corrcoef(np.asarray(z).T)[0, 1] - RHO) < 0.03
    assert abs(np.corrcoef(permuted.T)[0, 1]) < 4 / np.sqrt(4000)


def test_one_half_is_as_it_was_and_the_other_is_permuted_within_itself():
    z = jnp.arange(20.0).reshape(10, 2)
    found, kind = discriminator.halves(jax.random.key(3), z)
    np.testing.assert_array_equal(found[:5], z[:5])
    np.testing.assert_array_equal(np.sort(found[5:], axis=0), z[5:])
    assert not np.array_equal(found[5:], z[5:])
    assert kind.tolist() == [discriminator.OF_Q] * 5 + [discriminator.OF_PRODUCT] * 5


def test_devices_permute_the_codes_of_the_whole_batch_as_one_does():
    second = objectives.factor(Setting(latents=2), width=8, depth=1).second
    params, z, rows = second.init(jax.random.key(0)), codes(jax.random.key(1), 16), jnp.arange(16)
    key = jax.random.key(2)
    whole, scalars = second.loss(params, z, rows, key)
    each = jax.pmap(lambda z, rows: second.loss(params, z, rows, key), axis_name=parallel.AXIS)
    of_eight = each(z.reshape(8, 2, 2), rows.reshape(8, 2))
    np.testing.assert_allclose(of_eight[0].reshape(-1), whole, rtol=1e-5)
    np.testing.assert_array_equal(of_eight[1]["discriminator_accuracy"].reshape(-1), scalars["discriminator_accuracy"])
    # A row is a term of its own: those of the first half are known, those of the second half the permuted ones.
    logits = discriminator.Discriminator(8, 1).apply({"params": params}, z)
    np.testing.assert_allclose(whole[:8], -jax.nn.log_softmax(logits)[:8, discriminator.OF_Q], rtol=1e-5)

"""Every bijection against its inverse and the Jacobian of automatic differentiation; densities that are known."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nflow.flows import BIJECTIONS, examples, found, glow, noise, shaken, tar
from scipy import stats

from gen_jax.nflow import layers
from gen_jax.nflow.bijection import Bijection, bounded, chain, fixed, log_density, logit, multiscale, squeeze

each = pytest.mark.parametrize("name", BIJECTIONS)


@each
def test_inverse_and_forward_undo_each_other(name):
    x, z, facts = found(name)
    np.testing.assert_allclose(facts["x"], x, atol=1e-4)
    np.testing.assert_allclose(facts["z"], z, atol=1e-4)


@each
def test_the_log_determinant_is_that_of_the_jacobian(name):
    _, _, facts = found(name)
    sign, expected = np.linalg.slogdet(np.asarray(facts["jacobian"], np.float64))
    np.testing.assert_array_equal(np.abs(sign), 1)
    np.testing.assert_allclose(facts["log_det"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["levels", "tarflow"])
def test_another_label_is_another_map(name):
    _, _, facts = found(name)
    assert np.abs(facts["of other labels"] - facts["log_det"]).min() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("make", [functools.partial(glow, (4, 4, 1), (2,)), functools.partial(tar, (4, 4, 1), 2)])
def test_a_flow_starts_from_networks_that_do_nothing(make):
    bijection, x, label = make(classes=3), examples((4, 4, 1), 8), jnp.arange(8) % 3

    @jax.jit
    def start(key):
        return bijection.forward(bijection.init(key, x, label), x, label)

    # Networks of another seed start at zero as well: the map is the same.
    for a, b in zip(start(jax.random.key(0)), start(jax.random.key(1)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_tarflow_starts_as_the_identity_up_to_the_places_of_numbers():
    bijection, x = tar((4, 4, 1), 2), examples((4, 4, 1))
    z, log_det = jax.jit(lambda key: bijection.forward(bijection.init(key, x, None), x, None))(jax.random.key(0))
    np.testing.assert_array_equal(np.sort(z.reshape(3, -1)), np.sort(x.reshape(3, -1)))
    np.testing.assert_array_equal(log_det, 0)


def linear(matrix):
    """x -> A x, as a 1x1 convolution, a normalisation and a turn could be together."""
    inverse, log_det = np.linalg.inv(matrix), np.linalg.slogdet(matrix)[1]
    return fixed(lambda x: x @ matrix.T, lambda z: z @ inverse.T, lambda x: jnp.full(len(x), log_det))


def test_a_linear_flow_has_the_likelihood_of_its_gaussian():
    # z = A x with z ~ N(0, 1) means x ~ N(0, (A^T A)^-1).
    matrix = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    x = noise((3,), 7)
    exact = stats.multivariate_normal(np.zeros(3), np.linalg.inv(matrix.T @ matrix)).logpdf(x)
    np.testing.assert_allclose(log_density(linear(matrix), {}, x, None)[0], exact, rtol=1e-4)


def test_norm_and_mix_together_are_a_gaussian_whose_covariance_is_known():
    # z = ((x + b) s) K: x has mean -b and covariance M M^T with M = (K^-1 / s)^T.
    flow = chain({"norm": layers.act_norm(), "mix": layers.mix(4)})
    x = noise((1, 1, 4), 6)
    params = shaken(flow.init(jax.random.key(0), x, None))
    rows = jnp.concatenate([jnp.zeros((1, 4)), jnp.eye(4)]).reshape(5, 1, 1, 4)
    z = np.asarray(flow.forward(params, rows, None)[0], np.float64).reshape(5, 4)
    matrix, offset = (z[1:] - z[0]).T, z[0]  # z = matrix x + offset
    inverse = np.linalg.inv(matrix)
    exact = stats.multivariate_normal(-inverse @ offset, inverse @ inverse.T).logpdf(np.asarray(x).reshape(6, 4))
    np.testing.assert_allclose(log_density(flow, params, x, None)[0], exact, rtol=1e-4)


def test_the_density_of_a_flow_of_the_plane_integrates_to_one_and_its_samples_have_it():
    parts = {}
    for i in range(2):  # points are pictures of 1x1x2
        net = layers.ConvNet(out_channels=2, width=16)
        parts |= {f"norm_{i}": layers.act_norm(), f"mix_{i}": layers.mix(2, i), f"couple_{i}": layers.couple(net)}
    flow = chain(parts)
    values = np.linspace(-14, 14, 281)
    points = jnp.asarray(np.stack(np.meshgrid(values, values), axis=-1).reshape(-1, 1, 1, 2), jnp.float32)

    @jax.jit
    def facts(key, points, drawn):
        params = shaken(flow.init(key, drawn[:100], None), scale=0.3)
        samples = flow.inverse(params, drawn, None)
        both = log_density(flow, params, jnp.concatenate([points, samples]), None)[0]
        return both[: len(points)], both[len(points) :], samples

    made = facts(jax.random.key(0), points, noise((1, 1, 2), len(points)))
    log_p, of_samples, samples = (np.asarray(each, np.float64) for each in made)
    area = (values[1] - values[0]) ** 2
    assert np.sum(np.exp(log_p)) * area == pytest.approx(1, abs=0.01)
    assert max(abs(stats.kurtosis(samples.reshape(-1, 2)))) > 0.2  # no Gaussian, from which it starts
    # The mean log density of its own samples is minus the entropy, which the grid gives too.
    entropy = -np.sum(np.exp(log_p) * log_p) * area
    assert np.mean(of_samples) == pytest.approx(
        -entropy, abs=4 * float(np.std(of_samples)) / math.sqrt(len(of_samples))
    )


def test_the_logit_of_uniform_noise_is_logistic():
    # Without a margin the logit of U(low, high) is the standard logistic distribution.
    part, x = logit(-3.0, 5.0, margin=0.0), jnp.linspace(-2.9, 4.9, 7)[:, None]
    z, log_det = part.forward({}, x, None)
    np.testing.assert_allclose(stats.logistic.pdf(np.asarray(z)[:, 0]) * np.exp(log_det), 1 / 8, rtol=1e-5)


def test_half_of_the_channels_leaves_after_each_level_but_the_last():
    same = fixed(lambda x: x, lambda z: z)
    flow = multiscale([squeeze(2), same], [(1, 2, 4), (1, 2, 2)])
    x = jnp.arange(8.0).reshape(1, 2, 4, 1)  # squares 0 1 4 5 and 2 3 6 7
    params = flow.init(jax.random.key(0), x, None)
    z, _ = flow.forward(params, x, None)
    assert z.tolist() == [[4, 5, 6, 7, 0, 1, 2, 3]]
    np.testing.assert_array_equal(flow.inverse(params, z, None), x)


def test_a_chain_starts_each_part_from_what_those_before_it_make_of_the_examples():
    seen = []

    def noting(name):
        def init(key, x, label):
            seen.append((name, float(x[0, 0]), jax.random.key_data(key).tolist()))
            return {"factor": jnp.float32(2)}

        return Bijection(init, lambda p, x, label: (p["factor"] * x, jnp.zeros(1)), lambda p, z, label: z / p["factor"])

    flow = chain({"first": noting("first"), "second": noting("second")})
    params = flow.init(jax.random.key(0), jnp.ones((1, 1)), None)
    assert params.keys() == {"first", "second"}
    assert [one[:2] for one in seen] == [("first", 1.0), ("second", 2.0)]
    assert seen[0][2] != seen[1][2]


def test_bounded_scales_have_slope_one_at_zero():
    assert float(jax.grad(lambda raw: bounded(raw, 2.0))(0.0)) == 1
    assert float(bounded(jnp.float32(-100), 2.0)) == -2

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nflow.flows import conv_net, noise, shaken
from scipy import stats

from gen_jax.nflow import layers


def test_a_histogram_makes_numbers_of_its_own_distribution_normal():
    # 70% black, 20% white, the rest in between: with noise within each grey value the map is the one to quantiles.
    rng = np.random.default_rng(0)
    values = rng.choice(4, 100_000, p=[0.7, 0.05, 0.05, 0.2])
    x = jnp.asarray((values + rng.uniform(0, 1, values.shape)) / 2 - 1, jnp.float32).reshape(-1, 1)
    part = layers.histogram(-1.0, 1.0, 4)
    params = part.init(jax.random.key(0), x, None)
    z, log_det = part.forward(params, x, None)
    assert stats.kstest(np.asarray(z).ravel(), "norm").statistic < 0.005
    # Density: share over the width of a bar.
    density = np.array([0.7, 0.05, 0.05, 0.2])[values] / 0.5
    np.testing.assert_allclose(log_det + stats.norm.logpdf(np.asarray(z).ravel()), np.log(density), atol=0.02)


def test_a_histogram_has_samples_within_its_interval_however_far_the_noise():
    part = layers.histogram(-1.0, 1.0, 8)
    x = jnp.linspace(-0.9, -0.5, 16).reshape(-1, 1)  # the bars on the right are empty in the examples
    params = part.init(jax.random.key(0), x, None)
    far = part.inverse(params, jnp.array([[-9.0], [9.0]]), None)
    np.testing.assert_allclose(far, [[-1.0], [1.0]], atol=1e-5)
    z, log_det = part.forward(params, jnp.array([[-1.0], [1.0]]), None)
    assert np.isfinite(z).all()
    assert np.isfinite(log_det).all()


def test_the_first_batch_has_mean_0_and_standard_deviation_1_after_act_norm():
    x = 3 + 5 * noise((4, 6, 3), 8) * jnp.array([1.0, 0.1, 10.0])
    params = layers.act_norm().init(jax.random.key(0), x, None)
    z, log_det = layers.act_norm().forward(params, x, None)
    np.testing.assert_allclose(jnp.mean(z, axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(jnp.std(z, axis=(0, 1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose(log_det, -24 * np.log(np.std(np.asarray(x), axis=(0, 1, 2))).sum(), rtol=1e-5)


def test_a_channel_that_is_constant_in_the_first_batch_stays_finite():
    x = noise((2, 2, 2), 4).at[..., 1].set(0.7)
    params = layers.act_norm().init(jax.random.key(0), x, None)
    z, _ = layers.act_norm().forward(params, x, None)
    np.testing.assert_allclose(z[..., 1], 0, atol=5e-3)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("channels", [2, 5])
def test_a_mix_starts_as_a_rotation_and_each_number_has_its_own(channels):
    x = jnp.eye(channels).reshape(channels, 1, 1, channels)

    def kernel(number):
        part = layers.mix(channels, number)
        z, log_det = part.forward(part.init(jax.random.key(0), x, None), x, None)
        np.testing.assert_allclose(log_det, 0, atol=1e-5)
        return np.asarray(z).reshape(channels, channels)

    one, other = kernel(0), kernel(1)
    np.testing.assert_allclose(one @ one.T, np.eye(channels), atol=1e-5)
    assert np.abs(one - other).max() > 0.1


def test_the_numbers_of_a_mix_are_those_of_its_triangles():
    # No entry is trained that the determinant would not see: C (C - 1) / 2 below, as many above, C on the diagonal.
    params = layers.mix(5).init(jax.random.key(0), jnp.ones((1, 1, 1, 5)), None)
    assert {name: leaf.shape for name, leaf in params.items()} == {
        "lower": (10,), "upper": (10,), "log_diagonal": (5,),
    }  # fmt: skip


def test_a_coupling_leaves_the_first_channels_alone_and_starts_as_the_identity():
    part, x = layers.couple(conv_net(5)), noise((3, 3, 5))
    params = part.init(jax.random.key(0), x, None)
    z, log_det = part.forward(params, x, None)
    np.testing.assert_array_equal(z, x)
    np.testing.assert_array_equal(log_det, 0)
    moved, _ = part.forward(shaken(params), x, None)
    np.testing.assert_array_equal(moved[..., :3], x[..., :3])
    assert np.abs(moved[..., 3:] - x[..., 3:]).min(axis=(0, 1, 2)).min() > 0


def test_one_coupling_scales_by_no_more_than_its_limit():
    part, x = layers.couple(conv_net(4)), noise((3, 3, 4))
    params = jax.tree.map(lambda leaf: 100 * leaf, shaken(part.init(jax.random.key(0), x, None)))
    z, moved = (part.forward(params, each, None)[0] for each in (x, x.at[0, 1, 1, 3].add(1.0)))
    slope = (moved - z)[0, 1, 1, 3]  # of a straight line
    assert np.exp(-layers.LOG_SCALE_LIMIT) * 0.999 <= slope <= np.exp(layers.LOG_SCALE_LIMIT) * 1.001

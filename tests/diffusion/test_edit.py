"""Edits: known pixels, conditional moments of normal data, inversion, and the ends of variations and interpolations.

The data are pictures of two pixels, jointly normal, whose exact denoiser is linear.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import editor
from gen_jax.diffusion import edit, sampler, schedule, solvers
from gen_jax.method import UserError

MEAN = np.array([0.2, -0.3])
COVARIANCE = np.array([[0.25, 0.16], [0.16, 0.2]])  # correlation 0.72
SHAPE = (1, 2, 1)
PATHS = {
    "zero terminal SNR": schedule.cosine(zero_terminal_snr=True),
    "linear": schedule.linear(),
    "straight": schedule.straight(),
    "variance_exploding": schedule.variance_exploding(0.01, 20.0),
}
MADE = {
    "ancestral": solvers.ancestral(),
    "large": solvers.ancestral("large"),
    "ddim": solvers.ddim(),
    "heun": solvers.heun(),
}
each_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def each_pair(names):
    """Every sampler on one path and every path with one sampler; the other pairs are left to the slow tests.

    An edit takes the steps of its sampler, whose pairs are all in the tests of samplers.
    """
    return pytest.mark.parametrize(
        ("path", "name"),
        [
            pytest.param(
                path, name, id=f"{name}-{title}",
                marks=[pytest.mark.slow] * (name != "ancestral" and title != "straight"),
            )
            for title, path in PATHS.items()
            for name in names
        ],
    )  # fmt: skip


def denoise(x_t, level):
    """E[x0 | x_t] = mean + alpha C (alpha^2 C + sigma^2)^-1 (x_t - alpha mean)."""
    values, vectors = (jnp.asarray(part, jnp.float32) for part in np.linalg.eigh(COVARIANCE))
    mean = jnp.asarray(MEAN, jnp.float32)
    alpha, sigma = level.alpha[:, None], level.sigma[:, None]
    gain = alpha * values / (alpha**2 * values + sigma**2)
    return (mean + (gain * ((x_t.reshape(-1, 2) - alpha * mean) @ vectors)) @ vectors.T).reshape(x_t.shape)


def keys(num, seed=0):
    return jax.random.split(jax.random.key(seed), num)


def drawn(num, seed=1):
    """Pictures of the data, f32 [num, 1, 2, 1]."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.multivariate_normal(MEAN, COVARIANCE, num).reshape(-1, *SHAPE), jnp.float32)


RIGHT = np.array([False, True]).reshape(SHAPE)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def filled(path, name, num_steps, resample, keys, x0, mask=RIGHT):
    mask = jnp.broadcast_to(mask, x0.shape)
    return edit.inpaint(denoise, path, MADE[name], path.steps(num_steps), keys, x0, mask, resample)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def sampled(path, name, num_steps, keys):
    return sampler.sample(denoise, path, MADE[name], path.steps(num_steps), keys, SHAPE)


@each_pair(MADE)
def test_known_pixels_stay_bit_by_bit_and_the_others_are_finite(path, name):
    x0 = drawn(7)
    made = np.asarray(filled(path, name, 5, 2, keys(7), x0))
    np.testing.assert_array_equal(made[:, :, 0], x0[:, :, 0])
    assert np.isfinite(made).all()
    assert np.abs(made[:, :, 1] - x0[:, :, 1]).min() > 0


def test_masked_pixels_are_not_looked_at():
    x0 = drawn(5)
    path = PATHS["straight"]
    np.testing.assert_array_equal(
        filled(path, "ancestral", 5, 2, keys(5), x0), filled(path, "ancestral", 5, 2, keys(5), x0.at[:, :, 1].set(9.0))
    )


@each_pair(MADE)
def test_filling_everything_without_going_back_is_sampling(path, name):
    plain = sampled(path, name, 6, keys(5))
    made = filled(path, name, 6, 0, keys(5), drawn(5), np.ones(SHAPE, bool))
    np.testing.assert_allclose(made, plain, rtol=1e-6, atol=1e-6)


KNOWN = 0.9  # 1.4 standard deviations above its mean
SLOPE = COVARIANCE[0, 1] / COVARIANCE[0, 0]
CONDITIONAL = MEAN[1] + SLOPE * (KNOWN - MEAN[0]), COVARIANCE[1, 1] - SLOPE * COVARIANCE[0, 1]  # 0.148, 0.0976
NUM = 4_000  # pictures: standard errors of about 0.005 (mean) and 0.0025 (variance)


def drawn_moments(path, name, num_steps, resample):
    """Mean and variance of the pixel that is filled in beside a known one."""
    x0 = jnp.broadcast_to(jnp.array([KNOWN, 0.0]).reshape(SHAPE), (NUM, *SHAPE))
    made = np.asarray(filled(path, name, num_steps, resample, keys(NUM), x0), np.float64)[:, 0, 1, 0]
    return made.mean(), made.var()


def exact_moments(path, variance_of, num_steps, resample):
    """The same two numbers without drawing anything: every pass is affine, so that mean and covariance are followed.

    Args:
      variance_of: (sigma_t, sigma_s, variance of q(x_t | x_s)) -> variance of the step.
    """
    levels = path.path(path.steps(num_steps))
    mean, covariance = np.zeros(2), schedule.start_std(path, levels) ** 2 * np.eye(2)
    pairs = list(zip(*(itertools.pairwise(values) for values in levels[1:]), strict=True))
    for number, ((alpha_t, alpha_s), (sigma_t, sigma_s)) in enumerate(pairs):
        ratio = alpha_t / alpha_s
        added = sigma_t**2 - (ratio * sigma_s) ** 2
        gain = alpha_t * COVARIANCE @ np.linalg.inv(alpha_t**2 * COVARIANCE + sigma_t**2 * np.eye(2))
        # The mean of q(x_s | x_t, x0_hat), as Ho et al. write it, with x0_hat = MEAN + gain (x_t - alpha_t MEAN).
        of_x_t, of_x0 = ratio * sigma_s**2 / sigma_t**2, alpha_s * added / sigma_t**2
        matrix, shift = of_x_t * np.eye(2) + of_x0 * gain, of_x0 * (MEAN - alpha_t * gain @ MEAN)
        last = number == len(pairs) - 1
        for _ in range(1 if last else 1 + resample):
            variance = 0 if last else variance_of(sigma_t, sigma_s, added)
            x_s, spread = matrix @ mean + shift, matrix @ covariance @ matrix.T + variance * np.eye(2)
            x_s[0] = alpha_s * KNOWN
            spread = np.diag([sigma_s**2, spread[1, 1]])
            mean, covariance = ratio * x_s, ratio**2 * spread + added * np.eye(2)
        mean, covariance = x_s, spread
    return mean[1], covariance[1, 1]


VARIANCES = {"ancestral": lambda t, s, added: added * s**2 / t**2, "large": lambda t, s, added: added}


@each_pair(VARIANCES)
def test_the_filled_pixel_has_the_moments_that_follow_from_the_steps(path, name):
    for num_steps, resample in ((1, 3), (6, 0), (6, 3)):
        mean, variance = exact_moments(path, VARIANCES[name], num_steps, resample)
        found = drawn_moments(path, name, num_steps, resample)
        assert abs(found[0] - mean) < 4 * np.sqrt(variance / NUM) + 1e-5
        assert abs(found[1] - variance) < 4 * variance * np.sqrt(2 / NUM) + 1e-5


@each_path
def test_filling_in_reaches_the_conditional_distribution_the_more_often_it_goes_back(path):
    """In the limit of many steps that are taken many times; and by draws, at a smaller number of both."""
    limit = exact_moments(path, VARIANCES["large"], 500, 128)
    np.testing.assert_allclose(limit, CONDITIONAL, atol=0.004)
    off = [np.subtract(exact_moments(path, VARIANCES["large"], 100, times), CONDITIONAL) for times in (0, 1, 4, 16, 64)]
    assert (np.diff(np.abs(off)[:, 0]) < 0).all()  # of the mean: from 0.15 to 0.01
    assert np.abs(off[0][0]) > 0.14
    assert np.abs(off[-1][0]) < 0.012


def test_draws_reach_the_conditional_distribution():
    path = PATHS["zero terminal SNR"]
    mean, variance = drawn_moments(path, "large", 50, 16)
    assert abs(mean - CONDITIONAL[0]) < 0.04  # exactly, 0.019 and 0.003 are left after 50 steps taken 17 times
    assert abs(variance - CONDITIONAL[1]) < 0.013
    once = drawn_moments(path, "large", 50, 0)  # and 0.175 and 0.030 if they are taken once
    assert abs(once[0] - CONDITIONAL[0]) > 0.15
    assert abs(once[1] - CONDITIONAL[1]) > 0.015


@functools.partial(jax.jit, static_argnums=(0, 1))
def there_and_back(path, num_steps, x0):
    steps = path.steps(num_steps)
    noise = edit.invert(denoise, path, steps, x0)
    return noise, edit.render(denoise, path, steps, noise)


@each_path
def test_inversion_comes_back_with_an_error_of_the_order_of_a_step(path):
    x0 = drawn(200)
    counts = (20, 40, 80, 160)
    errors = [float(jnp.sqrt(jnp.mean((there_and_back(path, n, x0)[1] - x0) ** 2))) for n in counts]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -1.35 < slope < -0.75, errors
    assert errors[-1] < 0.02


@pytest.mark.parametrize("name", ["zero terminal SNR", "straight"])
def test_inverted_pictures_are_the_noise_that_the_flow_takes_them_to(name):
    """From C to the identity along the eigenvectors of C, where each coordinate keeps its quantile."""
    x0 = drawn(50)
    noise = np.asarray(there_and_back(PATHS[name], 400, x0)[0]).reshape(-1, 2)
    values, vectors = np.linalg.eigh(COVARIANCE)
    expected = (np.asarray(x0).reshape(-1, 2) - MEAN) @ vectors / np.sqrt(values) @ vectors.T
    np.testing.assert_allclose(noise, expected, atol=0.05)


def test_a_single_step_from_pure_noise_cannot_be_inverted():
    with pytest.raises(UserError, match="use num_steps of 2 or more"):
        there_and_back(PATHS["straight"], 1, drawn(1))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def varied(path, name, strength, keys, x0):
    return edit.vary(denoise, path, MADE[name], path.steps(10), keys, x0, strength)


@each_pair(MADE)
def test_strength_goes_from_the_picture_to_plain_sampling(path, name):
    x0 = drawn(40)
    plain = sampled(path, name, 10, keys(40))
    np.testing.assert_array_equal(varied(path, name, 0.0, keys(40), x0), x0)
    np.testing.assert_array_equal(varied(path, name, 1.0, keys(40), x0), plain)
    distances = [float(jnp.mean((varied(path, name, share, keys(40), x0) - x0) ** 2)) for share in (0.1, 0.5, 1.0)]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_variations_begin_at_the_level_of_their_strength_with_the_noise_of_the_samples():
    """One step of ten: x0_hat of x_t, at the last of the levels; a strength is rounded up to whole steps."""
    path, x0 = PATHS["straight"], drawn(3)
    eps = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), SHAPE))(keys(3))
    level = path.level(jnp.full(3, 0.1))
    expected = denoise(0.9 * x0 + 0.1 * eps, level)
    for strength in (0.1, 0.01):
        np.testing.assert_allclose(varied(path, "ddim", strength, keys(3), x0), expected, atol=1e-6)
    assert np.abs(varied(path, "ddim", 0.11, keys(3), x0) - expected).max() > 0.01


def test_the_way_between_two_pictures_ends_at_both_and_keeps_the_norm_of_noise():
    path, pair = PATHS["zero terminal SNR"], drawn(2)
    noise = np.asarray(there_and_back(path, 200, pair)[0])
    between = editor.slerp(noise[0], noise[1], 5)
    np.testing.assert_allclose(between[[0, -1]], noise, atol=1e-6)
    steps = path.steps(200)
    shown = jax.jit(lambda noise: edit.render(denoise, path, steps, noise))(jnp.asarray(between, jnp.float32))
    np.testing.assert_allclose(shown[jnp.array([0, 4])], pair, atol=0.02)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1000))
    norms = np.linalg.norm(editor.slerp(a, b, 9), axis=1)
    assert norms.min() > 0.95 * min(norms[0], norms[-1])  # a straight line: 0.71 in the middle


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_the_arc_between_vectors_in_one_line_is_that_line(factor):
    a = np.array([[3.0, -4.0]])
    np.testing.assert_allclose(editor.slerp(a, factor * a, 3)[1], (1 + factor) / 2 * a, atol=1e-12)


def test_a_coarse_mask_holds_every_masked_pixel():
    mask = np.zeros((1, 5, 6), bool)
    mask[0, 2, 5] = True  # rows 2 of 5 reach into rows 0 and 1 of two, column 5 of 6 into column 2 of three
    expected = [[False, False, True], [False, False, True]]
    assert edit.coarse(jnp.asarray(mask), (2, 3))[0, ..., 0].tolist() == expected
    assert edit.coarse(jnp.asarray(mask), (5, 6))[0, ..., 0].tolist() == mask[0].tolist()


@pytest.mark.parametrize(("name", "expected"), [("ddim", 4 * 3 + 1), ("heun", 4 * 3 * 2 + 1)])
def test_the_network_calls_of_a_filling_are_counted(name, expected):
    """Five steps, of which all but the last are taken three times."""
    path, asked = schedule.straight(), []

    def denoise(x_t, level):
        jax.debug.callback(lambda: asked.append(1))
        return 0.5 * x_t

    x0, mask = jnp.zeros((2, *SHAPE)), jnp.ones((2, *SHAPE[:2], 1), bool)
    kept = edit.keeping(MADE[name], x0, mask, keys(2), 2)
    sampler.sample(denoise, path, kept, path.steps(5), keys(2), SHAPE).block_until_ready()
    jax.effects_barrier()
    assert len(asked) == kept.calls(5) == expected

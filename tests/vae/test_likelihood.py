import hashlib
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special

from gen_jax import methods
from gen_jax.data import dataset
from gen_jax.method import UserError
from gen_jax.vae.likelihood import BINARISATIONS, LIKELIHOODS, bernoulli, discretised_logistic, gaussian

GREY = np.arange(256) / 255
OUTPUTS = [(0.5, -3.0), (-0.2, -1.0), (1.4, -6.0), (0.5004, -50.0), (0.3, 50.0)]


def test_the_bernoulli_likelihood_equals_values_by_hand_and_sums_to_one():
    x, logits = jnp.array([1.0, 0.0, 0.25]), jnp.array([0.8, -0.4, 0.1])
    found = -jnp.sum(bernoulli().log_prob(x, logits))
    assert float(found) == pytest.approx(1.6035125784213013, rel=1e-6)  # golden.json, vae
    logits = jnp.array([-200.0, -3.0, 0.0, 0.7, 200.0])
    total = sum(jnp.exp(bernoulli().log_prob(jnp.full(5, x), logits)) for x in (0.0, 1.0))
    np.testing.assert_allclose(total, 1.0, rtol=1e-6)
    assert float(bernoulli().log_prob(jnp.array(1.0), jnp.array(-200.0))) == -200


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_the_bins_of_the_discretised_logistic_sum_to_one(outputs):
    log_prob = jax.jit(discretised_logistic().log_prob)
    found = np.asarray(log_prob(jnp.asarray(GREY[:, None], jnp.float32), jnp.array(outputs)))[:, 0]
    assert np.all(np.isfinite(found))
    assert np.sum(np.exp(found.astype(np.float64))) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("outputs", OUTPUTS[:2])
def test_the_discretised_logistic_is_the_mass_between_the_edges(outputs):
    mean, scale = outputs[0], np.exp(7 * np.tanh(outputs[1] / 7))
    edges = np.concatenate([[-np.inf], (np.arange(1, 256) - 0.5) / 255, [np.inf]])
    expected = np.log(np.diff(special.expit((edges - mean) / scale)))
    found = discretised_logistic().log_prob(jnp.asarray(GREY[:, None], jnp.float32), jnp.array(outputs))
    np.testing.assert_allclose(np.asarray(found)[:, 0], expected, rtol=2e-4)


@pytest.mark.parametrize(
    ("likelihood", "outputs"),
    [(gaussian(0.3), (0.4,)), *((LIKELIHOODS["gaussian_learned"](), (0.4, log_var)) for log_var in (-2.0, 0.5))],
)
def test_the_normal_likelihoods_integrate_to_one(likelihood, outputs):
    x = np.linspace(-12, 13, 20_001)
    density = jnp.exp(likelihood.log_prob(jnp.asarray(x[:, None], jnp.float32), jnp.array(outputs)))
    assert integrate.simpson(np.asarray(density, np.float64)[:, 0], x=x) == pytest.approx(1.0, abs=1e-4)
    assert likelihood.support == "real"


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradients_are_finite_for_any_outputs_and_the_mean_is_an_image(name):
    likelihood = LIKELIHOODS[name](**({"sigma": 0.1} if name == "gaussian" else {}))
    outputs = jnp.array([-1e4, -5.0, 0.0, 0.3, 1e4])
    outputs = jnp.stack(jnp.meshgrid(*[outputs] * likelihood.num_outputs), axis=-1).reshape(-1, likelihood.num_outputs)
    for x in (0.0, 1 / 255, 128 / 255, 1.0):
        grads = jax.grad(lambda o, x=x: jnp.sum(likelihood.log_prob(jnp.full((len(o), 1), x), o)))(outputs)
        assert bool(jnp.all(jnp.isfinite(grads)))
    mean = likelihood.mean(outputs)
    assert mean.shape == (len(outputs), 1)
    assert float(mean.min()) >= 0
    assert float(mean.max()) <= 1


def test_channels_of_a_likelihood_with_two_outputs_do_not_mix():
    likelihood = LIKELIHOODS["gaussian_learned"]()
    x, mean, log_var = jnp.array([0.1, 0.5, 0.9]), jnp.array([0.2, 0.4, 0.6]), jnp.array([-1.0, 0.0, 1.0])
    whole = likelihood.log_prob(x, jnp.concatenate([mean, log_var]))
    single = [likelihood.log_prob(x[i : i + 1], jnp.array([mean[i], log_var[i]]))[0] for i in range(3)]
    np.testing.assert_allclose(whole, single, rtol=1e-6)


def test_dynamic_binarisation_has_the_pixels_as_its_mean_and_belongs_to_examples():
    x = jnp.tile(jnp.array([0.0, 0.2, 0.7, 1.0]), (5000, 1))
    binarise, index = BINARISATIONS["dynamic"], jnp.arange(5000)
    y = binarise(x, jax.random.key(0), index)
    assert set(np.unique(y)) == {0.0, 1.0}
    np.testing.assert_allclose(y.mean(0), x[0], atol=0.03)
    np.testing.assert_array_equal(binarise(x[7:9], jax.random.key(0), index[7:9]), y[7:9])
    assert bool(jnp.any(binarise(x, jax.random.key(1), index) != y))
    np.testing.assert_array_equal(BINARISATIONS["threshold"](x, jax.random.key(0), index)[0], [0, 0, 1, 1])


def test_a_standard_deviation_of_zero_is_refused():
    with pytest.raises(UserError, match="sigma is 0"):
        gaussian(0)


def test_static_binarisation_draws_each_image_once_with_its_pixels_as_shares():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 256, (400, 8, 8, 1)) / 255, jnp.float32)
    binarise, index = BINARISATIONS["static"], jnp.arange(400)
    y = binarise(x, jax.random.key(0), index)
    assert set(np.unique(y)) == {0.0, 1.0}
    # Whatever the key, the place in the batch, and the batch.
    order = rng.permutation(400)[:7]
    np.testing.assert_array_equal(binarise(x[order], jax.random.key(5), index[:7]), y[order])
    # Against its shares: 25,600 pixels, and 12,800 that are all of one grey value, in images that differ elsewhere.
    error = np.asarray(y - x, np.float64)
    spread = np.sqrt(np.mean(x * (1 - x)))
    assert abs(error.mean()) < 4 * spread / np.sqrt(error.size)
    assert np.corrcoef(error[:, 0, 0, 0], error[:, 0, 1, 0])[0, 1] < 4 / np.sqrt(400)
    half = binarise(x.at[:, :4].set(51 / 255), jax.random.key(0), index)[:, :4]
    assert float(half.mean()) == pytest.approx(0.2, abs=4 * 0.4 / np.sqrt(half.size))
    # Another image of the same mean is another draw, and binary ones are what they are.
    assert bool(jnp.any(binarise(x[:, ::-1], jax.random.key(0), index)[:, ::-1] != y))
    np.testing.assert_array_equal(binarise(y, jax.random.key(0), index), y)


def test_a_static_draw_is_the_same_on_any_compiler():
    # Threefry (Salmon et al. 2011) and the hashes, in whole numbers of Python.
    pixels = np.array([0, 40, 128, 200, 255])
    x = jnp.asarray(pixels / 255, jnp.float32)[None]
    expected = python_draw(pixels)
    for draw in (BINARISATIONS["static"], jax.jit(BINARISATIONS["static"])):
        assert draw(x, jax.random.key(0), jnp.arange(1))[0].tolist() == expected


def threefry(key, count):
    """Two words of a counter of two words, by 20 rounds."""
    mask, rotations = 2**32 - 1, ((13, 15, 26, 6), (17, 29, 16, 24))
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x = [(count[0] + keys[0]) & mask, (count[1] + keys[1]) & mask]
    for block in range(5):
        for turn in rotations[block % 2]:
            x[0] = (x[0] + x[1]) & mask
            x[1] = ((x[1] << turn | x[1] >> (32 - turn)) & mask) ^ x[0]
        x = [(x[0] + keys[(block + 1) % 3]) & mask, (x[1] + keys[(block + 2) % 3] + block + 1) & mask]
    return x


def bits(key, num):
    """As JAX's: the two words of each 64-bit count, combined."""
    return [a ^ b for a, b in (threefry(key, (0, count)) for count in range(num))]


def python_draw(pixels):
    num = len(pixels)
    odd = [word | 1 for word in bits((0, 0), 2 * num)]
    key = [sum(o * int(p) for o, p in zip(half, pixels, strict=True)) % 2**32 for half in (odd[:num], odd[num:])]
    return [float(word % 255 < p) for word, p in zip(bits(key, num), pixels, strict=True)]


@pytest.mark.slow
def test_static_mnist_is_the_set_that_the_documentation_names(shared):
    config = methods.override(methods.load("vamp_mnist")[2], [f"--config.data.data_dir={shared / 'tfds'}"])
    assert config.vae.binarisation == "static"
    data = dataset.load(config.data)
    page = (pathlib.Path(__file__).parents[2] / "docs/data.md").read_text()
    for split, images in (("training", data.train["image"]), ("test", data.test["image"])):
        drawn = static_set(images)
        assert drawn.shape == images.shape
        digest = hashlib.sha256(drawn.tobytes()).hexdigest()
        assert re.search(rf"\| {split} \| `{digest}` \|", page), (split, digest)


def static_set(images):
    """All images, drawn as a run draws them: uint8 of 0 and 1."""
    draw = jax.jit(
        lambda x: BINARISATIONS["static"](x.astype(jnp.float32) / 255, jax.random.key(0), jnp.arange(len(x)))
    )
    return np.concatenate([np.asarray(draw(part), np.uint8) for part in np.split(images, 20)])

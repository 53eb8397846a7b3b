"""What the autoencoder sees of a batch, and which likelihood fits which data."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import methods
from gen_jax.method import DataSpec, UserError
from gen_jax.vae import autoencoder

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs/vae_mnist.py:tiny")
BYTES = DataSpec("grey", (4, 4, 1), 64)
BITS = DataSpec("bits", (4, 4, 1), 64, value_range=(0, 1))
UNIT = DataSpec("unit", (4, 4, 1), 64, kind="points", value_range=(0, 1))
POINTS = DataSpec("ring", (1, 1, 2), 64, kind="points", value_range=(-4, 4))


def make(spec=BYTES, *words):
    words = [f"--config.vae.{word}" for word in words]
    return autoencoder.make(methods.override(methods.load(CONFIG)[2], words), spec)


@pytest.mark.parametrize(
    ("spec", "image"), [(BYTES, np.uint8([0, 51, 255])), (BITS, np.uint8([0, 1, 1])), (UNIT, np.float32([0, 0.2, 1]))]
)
def test_pixels_are_seen_in_zero_to_one_whatever_they_are_stored_as(spec, image):
    seen = make(spec).pixels.observe(image, jax.random.key(0), jnp.arange(3))
    expected = image if spec is not BYTES else image / 255
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_grey_values_have_no_bernoulli_likelihood_and_binary_ones_do():
    assert not make(BYTES).pixels.normalised
    assert make(BITS).pixels.normalised
    dynamic = make(BYTES, "binarisation=dynamic")
    assert dynamic.pixels.normalised
    assert dynamic.pixels.protocol == "dynamic_binarisation"
    assert make(BYTES, "likelihood=discretised_logistic").pixels.normalised


def test_a_likelihood_that_does_not_fit_the_data_is_refused():
    for likelihood in ("bernoulli", "gaussian"):
        with pytest.raises(UserError, match=rf"{likelihood} likelihood needs values in \[0, 1\]; data set ring has"):
            make(POINTS, f"likelihood={likelihood}")
    with pytest.raises(UserError, match=r"needs bytes 0..255; data set unit"):
        make(UNIT, "likelihood=discretised_logistic")
    with pytest.raises(UserError, match="binary data has no gaussian likelihood"):
        make(BYTES, "likelihood=gaussian", "binarisation=threshold")
    with pytest.raises(UserError, match="sigma is -1"):
        make(BYTES, "likelihood=gaussian", "likelihood.sigma=-1")
    with pytest.raises(UserError, match="did you mean dynamic"):
        make(BYTES, "binarisation=dynamc")
    with pytest.raises(UserError, match="did you mean bernoulli"):
        make(BYTES, "likelihood=bernouli")
    with pytest.raises(UserError, match="latents is 0"):
        make(BYTES, "latents=0")

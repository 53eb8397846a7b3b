"""Both flows as methods: likelihoods in known cases, temperatures, pictures, refusals."""

import dataclasses
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nflow.flows import shaken
from scipy import stats

from gen_jax import main, methods
from gen_jax.method import DataSpec, UserError, labelled
from gen_jax.nflow import coupling, model, noise, tarflow
from gen_jax.nflow.bijection import fixed

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
SPEC = DataSpec("made_up", (8, 8, 1), 64, labelled("0123456789"))
PROTOCOL = "uniform_dequantisation_of_256_levels"
FLOWS = ("coupling", "tarflow")


def make(name, *words, spec=SPEC):
    config = methods.override(methods.load(str(FOLDER / f"{name}_mnist.py:tiny"))[2], [f"--config.{w}" for w in words])
    methods.check(config)
    return methods.make(config, spec)


def batch_of(num, seed=0, shape=(8, 8, 1), most=256):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, most, (num, *shape)).astype(np.uint8)
    return {"image": image, "label": np.arange(num, dtype=np.int32) % 10, "index": np.arange(num, dtype=np.int32)}


def of(bijection, noises=None, spec=SPEC, **sample):
    """A given bijection as a method, without labels."""
    config = coupling.coupling_config()
    config.sample.update(sample)
    size = (math.prod(spec.image_shape),)
    return model.make(config, spec, bijection, noises or noise.uniform(), size, ())


def flat(forward=lambda x: x, inverse=lambda z: z, log_det=None):
    """A fixed bijection of pictures of 8x8x1 and z [B, 64]."""
    return fixed(lambda x: forward(x.reshape(len(x), -1)), lambda z: inverse(z).reshape(-1, 8, 8, 1), log_det)


def evaluated(method, batch, key=0):
    state = method.init(jax.random.key(0), batch, {})
    return {
        name: np.asarray(value, np.float64)
        for name, value in method.evaluate(state, batch, jax.random.key(key)).items()
    }


END = 1 + 1 / 255  # of dequantised pixels


def test_a_flow_from_uniform_pixels_to_normal_noise_gives_uniform_images_eight_bits():
    # z = Phi^-1 of the pixel's share of its range: every dequantised picture has the density 1 / (2 END)^64.
    def share(x):
        return (x + END) / (2 * END)

    def forward(x):
        return jax.scipy.special.ndtri(jnp.clip(share(x), 1e-6, 1 - 1e-6))

    def log_det(x):
        z = forward(x.reshape(len(x), -1))
        return -jnp.sum(jax.scipy.stats.norm.logpdf(z) + math.log(2 * END), axis=-1)

    flow = flat(forward, lambda z: 2 * END * jax.scipy.special.ndtr(z) - END, log_det)
    values = evaluated(of(flow), batch_of(20))
    np.testing.assert_allclose(values[f"bits_per_dim/{PROTOCOL}"], 8, atol=1e-4)
    np.testing.assert_allclose(values["loss"], 8, atol=1e-4)
    np.testing.assert_allclose(values[f"nll/{PROTOCOL}"], 64 * math.log(512 / 255), rtol=1e-5)


def test_the_identity_has_the_likelihood_of_normal_pixels():
    batch = batch_of(50)
    values = evaluated(of(flat()), batch)
    # Over the noise of width w the mean of x^2 / 2 is x0^2 / 2 + w^2 / 24.
    x0 = batch["image"].reshape(50, 64) / 127.5 - 1
    exact = np.sum(x0**2 / 2 + (2 / 255) ** 2 / 24 + 0.5 * math.log(2 * math.pi), axis=-1)
    np.testing.assert_allclose(values[f"nll/{PROTOCOL}"], exact, atol=0.1)
    bits = exact / (64 * math.log(2)) + math.log2(127.5)
    np.testing.assert_allclose(values[f"bits_per_dim/{PROTOCOL}"], bits, atol=0.005)


def test_bits_of_grey_values_bound_those_of_their_exact_probabilities():
    # Under the identity the mass of a bin is known: dequantisation costs a little, never the other way (in the mean).
    batch = batch_of(200)
    x0 = batch["image"].reshape(200, 64) / 127.5 - 1
    mass = stats.norm.cdf(x0 + 1 / 255) - stats.norm.cdf(x0 - 1 / 255)
    exact = -np.log2(mass).mean()
    found = evaluated(of(flat()), batch)[f"bits_per_dim/{PROTOCOL}"].mean()
    assert exact - 0.001 < found < exact + 0.003


def test_binary_pictures_have_levels_of_their_own():
    spec = DataSpec("binary", (8, 8, 1), 64, value_range=(0, 1))
    values = evaluated(of(flat(), spec=spec), batch_of(3, most=2))
    # The noise fills [-2, 2]; the density of N(0, 1) at x, times the width 2 of a value, in bits.
    name = "bits_per_dim/uniform_dequantisation_of_2_levels"
    assert np.mean(values[name]) == pytest.approx(
        (0.5 * (1 + 1 / 3) + 0.5 * math.log(2 * math.pi)) / math.log(2) - 1, abs=0.1
    )


def test_normal_noise_is_evaluated_as_trained_and_on_grey_values():
    batch = batch_of(40)
    values = evaluated(of(flat(), noise.gaussian(0.5)), batch)
    extra = 0.5**2 / 2 / math.log(2)  # bits that noise of 0.5 adds to x^2 / 2
    gained = values["loss"].mean() - values[f"bits_per_dim/{PROTOCOL}"].mean()
    assert gained == pytest.approx(extra, abs=0.03)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_a_temperature_is_the_standard_deviation_of_the_noise(temperature):
    method = of(flat(lambda x: 10 * x, lambda z: z / 10, lambda x: jnp.full(len(x), 64 * math.log(10))),
                temperature=temperature)  # fmt: skip
    state = method.init(jax.random.key(0), batch_of(2), {})
    images = method.sample(state, jax.random.split(jax.random.key(1), 200), {})
    assert images.shape == (200, 8, 8, 1)
    assert float(jnp.std(images)) == pytest.approx(temperature / 10, abs=1e-3)
    assert method.describe == ({} if temperature == 1 else {"temperature": f"temperature {temperature:g}"})


def test_a_tarflow_tells_the_order_in_which_it_samples_and_couplings_take_one_pass():
    warm = {"temperature": "temperature 0.5"}
    for words, more in (["sample.temperature=1"], {}), (["sample.temperature=0.5"], warm):
        assert make("coupling", *words).describe == more
        told = {"order": "16 patches one by one through 3 blocks"}
        assert make("tarflow", *words, "tarflow.patch=2", "tarflow.blocks=3").describe == told | more
    one = make("tarflow", "tarflow.patch=8", "tarflow.blocks=1")
    assert one.describe == {"order": "1 patch one by one through 1 block"}


def test_samples_lose_their_normal_noise():
    # Noisy pictures are N(0, 0.1^2 + 0.3^2): without the noise, a tenth of the value is left on average.
    sigma, std = 0.3, math.sqrt(0.1)
    flow = flat(lambda x: x / std, lambda z: z * std, lambda x: jnp.full(len(x), -64 * math.log(std)))
    noisy, clean = (of(flow, each) for each in (noise.uniform(), noise.gaussian(sigma)))
    state, keys = noisy.init(jax.random.key(0), batch_of(2), {}), jax.random.split(jax.random.key(1), 4)
    before, after = (np.asarray(method.sample(state, keys, {})) for method in (noisy, clean))
    inside = np.abs(before) < 1  # others were cut off
    np.testing.assert_allclose(after[inside], 0.1 * before[inside], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS)
def test_pictures_of_one_grey_value_are_learnt_and_never_below_no_bits(name):
    # Constant pictures leave nothing to say but which grey value it is: 0 bits are in reach, and 8 at the start.
    method = make(name, "num_steps=150", "optimizer.learning_rate=1e-2", "optimizer.warmup_steps=0", "ema=0.5",
                  f"{name}.conditional=false", *(["tarflow.noise=uniform"] if name == "tarflow" else []))  # fmt: skip
    batch = batch_of(16) | {"image": np.full((16, 8, 8, 1), 100, np.uint8)}
    state, step = method.init(jax.random.key(0), batch, {}), jax.jit(method.step)
    for _ in range(150):
        state, scalars = step(state, batch)
    assert -0.01 < float(scalars["loss"]) < 2
    bits = jax.jit(method.evaluate)(state, batch, jax.random.key(3))[f"bits_per_dim/{PROTOCOL}"]
    assert -0.05 < float(np.mean(bits)) < 2


@pytest.mark.parametrize("name", FLOWS)
def test_a_model_with_labels_says_so_in_its_metrics(name):
    batch = batch_of(4)
    with_labels, without = (
        jax.eval_shape(
            method.evaluate, jax.eval_shape(method.init, jax.random.key(0), batch, {}), batch, jax.random.key(0)
        )
        for method in (make(name, f"{name}.conditional={value}") for value in ("true", "false"))
    )
    assert with_labels.keys() == {"loss", f"nll/{PROTOCOL}_given_label", f"bits_per_dim/{PROTOCOL}_given_label"}
    assert without.keys() == {"loss", f"nll/{PROTOCOL}", f"bits_per_dim/{PROTOCOL}"}


def test_the_first_examples_are_normal_after_the_first_norm():
    method = make("coupling", "coupling.pixels=logit")
    batch = batch_of(64)
    state = jax.jit(method.init)(jax.random.key(0), batch, {})
    norm = state.params["flow"]["levels"]["level_0"]["norm_0"]
    # What goes in: the logit of the noisy share of the range, in squares of 2x2 pixels.
    share = 0.05 + 0.9 * (batch["image"] + 0.5) / 256
    x = np.log(share / (1 - share)).reshape(64, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4)
    np.testing.assert_allclose(norm["bias"], -x.mean(0), atol=0.01)
    np.testing.assert_allclose(norm["log_scale"], -np.log(x.std(0)), atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS)
def test_ends_of_ways_are_the_test_images_themselves(name):
    method, batch = make(name), batch_of(8)
    state = jax.jit(method.init)(jax.random.key(0), batch, {})
    shown = jax.jit(method.pictures)(state, jax.random.key(0), batch)
    assert shown.keys() == {"temperatures", "interpolation"} | ({"way"} if name == "tarflow" else set())
    ways = np.asarray(shown["interpolation"].images, int).reshape(4, 9, 8, 8, 1)
    np.testing.assert_allclose(ways[:, 0], batch["image"][:4], atol=1)
    np.testing.assert_allclose(ways[:, -1], batch["image"][4:8], atol=1)


@pytest.mark.long
def test_one_command_trains_and_reports(made_up_tfds, tmp_path):
    words = [
        f"--config={FOLDER / 'coupling_mnist.py'}:tiny", f"--config.data.data_dir={made_up_tfds}",
        "--config.data.name=made_up_unlabelled", "--config.num_steps=4", "--config.log_every=2",
        "--config.eval_every=2", "--config.checkpoint_every=4", "--config.sample.num=20",
        "--config.eval.num_examples=20", "--config.eval.num_samples=20", "--config.eval.classifier_steps=10",
        "--config.num_devices=1", f"--workdir={tmp_path / 'run'}",
    ]  # fmt: skip
    main.main(words)
    page = (tmp_path / "run/report.html").read_text()
    assert all(title in page for title in ("Temperatures", "Interpolation", "bits per dimension", "mean square of z"))
    metrics = {row["name"]: row for row in json.loads((tmp_path / "run/report.json").read_text())["metrics"]}
    assert 0 < metrics[f"test_bits_per_dim/{PROTOCOL}"]["value"] < 20


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [2, 3])
def test_the_way_of_a_tarflow_leads_from_its_noise_to_its_samples(blocks):
    method = make("tarflow", f"tarflow.blocks={blocks}", "tarflow.noise=uniform", "tarflow.patch=4")
    batch = batch_of(4)
    state = jax.jit(method.init)(jax.random.key(0), batch, {})
    state = state.replace(ema=shaken(state.ema, scale=0.05))
    shown = jax.jit(method.pictures)(state, jax.random.key(5), batch)
    rows = np.asarray(shown["way"].images, int).reshape(4, blocks + 1, 8, 8, 1)
    samples = np.asarray(shown["temperatures"].images, int).reshape(5, 10, 8, 8, 1)[-1, :4]  # of temperature 1
    np.testing.assert_allclose(rows[:, -1], samples, atol=1)
    # Where a block does nothing, noise and picture are the same, places included.
    still = jax.jit(method.init)(jax.random.key(0), batch, {})
    same = np.asarray(jax.jit(method.pictures)(still, jax.random.key(5), batch)["way"].images, int)
    same = same.reshape(4, blocks + 1, 8, 8, 1)
    np.testing.assert_allclose(same[:, 0], same[:, -1], atol=1)


@pytest.mark.parametrize(
    ("name", "words", "spec", "message"),
    [
        ("coupling", [], {"image_shape": (30, 32, 1)},
         r"squeeze \(2, 2\) divides height and width by 4, and images of 30x32 do not divide so: use images of 32x32 "
         r"\(.*image_size for squares\), or levels whose product divides 2"),
        ("coupling", [], {"image_shape": (7, 8, 1)}, r"use images of 8x8 \(--config.data.image_size for squares\)$"),
        ("coupling", ["coupling.squeeze=()"], {}, r"is \(\); use a side of 1 or more for each level, such as 2,2"),
        ("coupling", ["coupling.squeeze=(2,0)"], {}, "use a side of 1 or more"),
        ("coupling", ["coupling.squeeze=(1,2)"], {}, "a level with a single channel, and a coupling needs two"),
        ("coupling", ["coupling.steps=0"], {}, "steps is 0; use 1 or more"),
        ("coupling", ["sample.temperature=-0.5"], {}, "temperature is -0.5; it must not be negative"),
        ("tarflow", ["tarflow.patch=3"], {}, "patch is 3, and images of 8x8 do not divide .*: use one of 1, 2, 4, 8$"),
        ("tarflow", [], {"image_shape": (9, 12, 3)}, "use one of 1, 3$"),
        ("tarflow", ["tarflow.patch=0"], {}, "patch is 0"),
        ("tarflow", ["tarflow.blocks=0"], {}, "blocks is 0; use 1 or more"),
        ("tarflow", ["tarflow.noise.sigma=0.0"], {}, "noise.sigma is 0.0: a standard deviation is positive"),
        *[(name, [f"{name}.conditional=true"], {"features": {}},
           f"{name}.conditional needs labels, and data set made_up has none") for name in FLOWS],
        *[(name, [], {"image_shape": (1, 1, 2), "kind": "points", "value_range": (-5.0, 5.0)},
           f"{name} needs pictures; data set made_up holds points") for name in FLOWS],
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(name, words, spec, message):
    with pytest.raises(UserError, match=message) as error:
        make(name, *words, spec=dataclasses.replace(SPEC, **spec))
    assert len(str(error.value).splitlines()) == 1


def test_levels_can_be_of_other_sides():
    assert coupling.level_shapes((3,), (9, 12, 3)) == [(3, 4, 27)]
    assert coupling.level_shapes((3, 1, 1), (9, 12, 3)) == [(3, 4, 27), (3, 4, 14), (3, 4, 7)]
    assert tarflow.grid(3, (9, 12, 3)) == (3, 4, 27)

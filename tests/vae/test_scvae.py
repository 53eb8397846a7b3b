"""The method's own: what its loss is made of, its codes and samples, pictures, and refusals."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from gen_jax import main, methods, parallel
from gen_jax.method import DataSpec, UserError
from gen_jax.vae import sparse, sparse_pictures

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
SPEC = DataSpec("made_up", (8, 8, 1), 64)
WEIGHT = ("scvae.latent_weight=3",)
ONE_STEP = ("scvae.dictionary=orthonormal", "scvae.channels=4", "scvae.steps=1", "scvae.lam=0.2", *WEIGHT)
BIAS = np.array([0.5, -0.02, 0.3, 0.9], np.float32)


def make(*words, spec=SPEC):
    words = [f"--config.{word}" for word in ("network.channels=(4,)", "optimizer.warmup_steps=0", *words)]
    config = methods.override(methods.load(str(FOLDER / "scvae_mnist.py:tiny"))[2], words)
    methods.check(config)
    return methods.make(config, spec)


@functools.cache
def compiled(*words):
    method = make(*words)
    return method._replace(**{name: jax.jit(getattr(method, name)) for name in ("init", "step", "evaluate")})


def batch_of(num):
    images = np.random.default_rng(0).integers(0, 256, (num, 8, 8, 1)).astype(np.uint8)
    return {"image": images, "index": np.arange(num, dtype=np.int32)}


def known_state(method):
    """Every vector is `BIAS`, every decoded pixel 0, and a step is that of ISTA."""
    state = method.init(jax.random.key(0), batch_of(5), {})
    params = {**jax.tree.map(jnp.zeros_like, state.params["scvae"]), "steps": state.params["scvae"]["steps"]}
    params["encoder"]["code"]["bias"] = jnp.asarray(BIAS)
    return state.replace(params={"scvae": params}, ema={"scvae": params})


@pytest.mark.parametrize("penalised", [True, False])
def test_the_loss_is_the_error_of_pixels_and_the_objective_of_the_codes(penalised):
    method = compiled(*ONE_STEP, f"scvae.penalised={penalised}")
    state, batch = known_state(method), batch_of(5)
    waves, v = sparse.square_dct(4), BIAS
    of_waves = waves.T @ v
    z = np.sign(of_waves) * np.maximum(np.abs(of_waves) - 0.2, 0)
    residual, size = np.sum((v - waves @ z) ** 2), np.sum(np.abs(z))
    x = batch["image"] / 127.5 - 1
    pixels = np.mean(x**2, axis=(1, 2, 3))
    values = method.evaluate(state, batch, jax.random.key(0))
    np.testing.assert_allclose(values["pixels"], pixels, rtol=1e-5)
    np.testing.assert_allclose(values["latents"], residual / 4, rtol=1e-4)
    np.testing.assert_allclose(values["objective"], residual / 2 + 0.2 * size, rtol=1e-5)
    np.testing.assert_allclose(values["nonzeros"], np.mean(z != 0))
    np.testing.assert_allclose(values["psnr"], -10 * np.log10(np.mean((x / 2) ** 2, axis=(1, 2, 3))), rtol=1e-5)
    term = (residual + penalised * 0.4 * size) / 4
    np.testing.assert_allclose(values["loss"], pixels + 3 * term, rtol=1e-5)


def test_a_perfect_picture_has_a_finite_psnr():
    method = compiled(*ONE_STEP, "scvae.penalised=True")
    state = known_state(method)
    state.ema["scvae"]["decoder"]["out"]["bias"] += 1.5  # clipped to white
    white = batch_of(5) | {"image": np.full((5, 8, 8, 1), 255, np.uint8)}
    np.testing.assert_allclose(method.evaluate(state, white, jax.random.key(0))["psnr"], 100, rtol=1e-6)


def test_a_decoded_code_is_the_reconstruction():
    method, batch = compiled(), batch_of(16)
    state = method.init(jax.random.key(0), batch, {})
    codes = method.code.encode(state, batch, jax.random.key(1))
    assert codes.shape == (16, *method.code.shape) == (16, 4, 4, 9)
    images = np.asarray(method.code.decode(state, codes))
    errors = np.mean((images - (batch["image"] / 127.5 - 1)) ** 2, axis=(1, 2, 3)) / 4
    psnr = method.evaluate(state, batch, jax.random.key(0))["psnr"]
    np.testing.assert_allclose(psnr, -10 * np.log10(errors), rtol=1e-4)


def test_noise_reaches_the_decoder_alone_in_training_alone_and_anew_in_every_step():
    # So small vectors drown in it, and the encoder cannot escape the penalty by them.
    noisy, quiet, batch = compiled("scvae.noise=3"), compiled("scvae.noise=0"), batch_of(16)
    state = noisy.init(jax.random.key(0), batch, {})
    (_, with_noise), (_, without) = noisy.step(state, batch), quiet.step(state, batch)
    for name in ("latents", "objective", "nonzeros"):
        np.testing.assert_allclose(with_noise[name], without[name], rtol=1e-5)
    assert with_noise["pixels"] > without["pixels"] + 1e-3
    known = np.mean(noisy.evaluate(state, batch, state.key)["pixels"])
    np.testing.assert_allclose(without["pixels"], known, rtol=1e-5)
    _, later = noisy.step(state.replace(step=jnp.int32(1)), batch)
    assert abs(later["pixels"] - with_noise["pixels"]) > 1e-4


def test_a_large_weight_of_sizes_turns_every_atom_off_and_none_leaves_all_on():
    for lam, share in ((1e3, 0.0), (0.0, 1.0)):
        state = compiled(f"scvae.lam={lam}").init(jax.random.key(0), batch_of(16), {})
        np.testing.assert_allclose(np.mean(state.variables["usage"]["on"]), share, atol=1e-3)


def test_the_usage_of_atoms_follows_training():
    method, batch = compiled("scvae.noise=0"), batch_of(16)
    before = method.init(jax.random.key(0), batch, {})
    after, scalars = method.step(before, batch)
    np.testing.assert_allclose(scalars["loss"], np.mean(method.evaluate(before, batch, before.key)["loss"]), rtol=1e-5)
    # The first decay is 0: what init had counted is gone. These are the codes of the parameters before the step.
    np.testing.assert_allclose(np.mean(after.variables["usage"]["on"]), scalars["nonzeros"], rtol=1e-5)
    late, scalars = method.step(after.replace(step=jnp.int32(10)), batch)
    old, new = np.mean(after.variables["usage"]["on"]), float(scalars["nonzeros"])
    np.testing.assert_allclose(np.mean(late.variables["usage"]["on"]), (old + new) / 2, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("executor", parallel.EXECUTORS)
def test_the_usage_of_8_devices_is_that_of_one(executor):
    method, batch, expected = compiled(), batch_of(16), None
    for name, devices in (("jit", 1), (executor, 8)):
        mesh = parallel.make_mesh(devices)
        run = parallel.make_executor(name, mesh)
        state = jax.device_put(method.init(jax.random.key(0), batch, {}), parallel.replicated(mesh))
        update = run.compile_step(method.step, state, run.put(batch, 0), 0)
        usage = jax.tree.map(np.asarray, update(state, run.put(batch, 0))[0].variables["usage"])
        expected = expected or usage
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), usage, expected)


def test_a_learned_dictionary_keeps_atoms_of_length_one_and_learns():
    method, batch = compiled("scvae.dictionary=learned", "scvae.dictionary.num_atoms=20"), batch_of(16)
    state = method.init(jax.random.key(0), batch, {})
    stretched = {**state.ema["scvae"], "atoms": 3 * state.ema["scvae"]["atoms"]}
    one, other = (method.evaluate(s, batch, state.key) for s in (state, state.replace(ema={"scvae": stretched})))
    np.testing.assert_allclose(other["loss"], one["loss"], rtol=1e-5)
    after, _ = method.step(state, batch)
    assert float(jnp.max(jnp.abs(after.params["scvae"]["atoms"] - state.params["scvae"]["atoms"]))) > 0
    assert "atoms" not in compiled().init(jax.random.key(0), batch, {}).params["scvae"]


def test_before_training_the_steps_are_those_of_ista():
    method, batch = compiled("scvae.steps=6", "scvae.lam=0.1"), batch_of(16)
    state = method.init(jax.random.key(0), batch, {})
    figure = jax.jit(method.pictures)(state, jax.random.key(0), batch)["objective"]
    learned, plain = np.asarray(figure.points).reshape(2, 7, 2)
    np.testing.assert_allclose(learned, plain, atol=1e-5)
    np.testing.assert_allclose(learned[0], [0, 1])
    assert (np.diff(learned[:, 1]) < 0).all()


def test_pictures_show_the_code():
    z = jnp.zeros((2, 2, 3)).at[0, 1, 2].set(-2.0).at[1, 0, 0].set(1.0)
    shown = np.asarray(sparse_pictures.code_map(jnp.zeros((4, 4, 1)), z, 2).images)[..., 0]
    assert shown.shape == (4, 4, 4)  # the image, and three atoms
    np.testing.assert_array_equal(shown[3], [[128, 128, 0, 0]] * 2 + [[128] * 4] * 2)
    np.testing.assert_array_equal(shown[1][2:, :2], 191)
    curve = sparse_pictures.usage_curve(jnp.array([[[0.1, 0.5, 0.0, 0.3]]])).points
    np.testing.assert_allclose(curve, [[0.25, 0.5], [0.5, 0.3], [0.75, 0.1], [1.0, 0.0]], atol=1e-6)


def test_an_atom_is_decoded_in_the_middle_with_its_usual_sign_and_size():
    given = []
    usage = {"on": jnp.array([0.1, 0.5]), "positive": jnp.array([0.0, 0.5]), "size": jnp.array([0.2, 2.0])}
    usage = {name: jnp.tile(value, (3, 3, 1)) for name, value in usage.items()}

    def image_of(vectors):
        given.append(np.asarray(vectors))
        return vectors[..., :1]

    shown = sparse_pictures.atoms(image_of, jnp.array([[1.0, 0.6], [0.0, 0.8]]), usage, (3, 3, 2))
    (vectors,) = given
    assert vectors.shape == (3, 3, 3, 2)
    np.testing.assert_allclose(vectors[:, 1, 1], [[2.4, 3.2], [-2.0, 0.0], [0.0, 0.0]], rtol=1e-5)  # most used first
    assert np.count_nonzero(vectors[:, [0, 2]]) == np.count_nonzero(vectors[:, 1, [0, 2]]) == 0
    # Here the picture is the first number of a vector: 2.4 is white, -2 black, and what is empty grey.
    np.testing.assert_array_equal(shown.images[:, 1, 1, 0], [255, 0])
    np.testing.assert_array_equal(shown.images[:, 0, 0, 0], [128, 128])


def test_latent_diffusion_takes_the_vectors():
    config = ConfigDict({"method": "latent", "pretrained": {"method": "scvae"}})
    config = methods.complete(config)
    methods.check(config)
    spec = DataSpec("made_up", (8, 8, 1), 64)
    stage = methods.make_stage(methods.whole_stage(config), spec)
    assert stage.method.code.shape == (2, 2, 16)
    method = methods.make(methods.override(config, ["--config.network=dit", "--config.network.patch=1"]), spec, stage)
    state = methods.abstract_state(method, spec, stage, parallel.make_mesh(1))
    assert jax.eval_shape(method.sample, state, jax.random.split(jax.random.key(0), 2), {}).shape == (2, 8, 8, 1)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["scvae.lam=-0.1"], "config.scvae.lam is -0.1; it must be finite and not negative"),
        (["scvae.noise=-1"], "config.scvae.noise is -1.0; it must be finite and not negative"),
        (["scvae.latent_weight=-1"], "config.scvae.latent_weight is -1.0; it must be finite and not negative"),
        (["scvae.steps=0"], "config.scvae.steps is 0; it must be at least 1"),
        (["scvae.channels=0"], "config.scvae.channels is 0; it must be at least 1"),
        (["scvae.channels=10"], "use 9, or --config.scvae.dictionary=orthonormal"),
        (["scvae.dictionary.num_atoms=8"], "which do not span vectors of 9 numbers: use 9 or more"),
    ],
)
def test_values_that_do_not_fit_are_refused_in_one_line(words, line):
    with pytest.raises(UserError) as error:
        make(*words)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_data_that_are_no_pictures_are_refused():
    with pytest.raises(UserError, match="scvae needs pictures; data set points holds points"):
        make(spec=DataSpec("points", (1, 1, 2), 64, kind="points", value_range=(-1.0, 1.0)))


@pytest.mark.long
def test_a_tiny_run_reconstructs_and_reports(made_up_tfds, tmp_path):
    words = ["data.name=made_up_digits", f"data.data_dir={made_up_tfds}", "network.channels=(4,)", "num_steps=20",
             "sample.num=70", "eval.num_examples=20", "eval.classifier_steps=10"]  # fmt: skip
    words = [f"--config.{word}" for word in words]
    main.main([f"--config={FOLDER / 'scvae_mnist.py'}:tiny", f"--workdir={tmp_path}/run", *words])
    report = json.loads((tmp_path / "run/report.json").read_text())
    names = {row["name"] for row in report["metrics"]}
    assert {"test_psnr", "test_nonzeros", "test_pixels", "test_latents", "test_objective"} <= names
    page = (tmp_path / "run/report.html").read_text()
    for title in ("Reconstructions and sparsity", "Atoms", "A sparse code", "Use of atoms", "Objective by step"):
        assert title in page
    assert "independent sparse codes" in report["facts"]["sampler"]

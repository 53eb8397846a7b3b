"""The method's own: what its loss is made of, and that training reaches a likelihood known in closed form."""

import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu.parameter_overview import count_parameters
from scipy import stats

from gen_jax import main, methods, parallel
from gen_jax.method import DataSpec, UserError, labelled
from gen_jax.vae import autoencoder, vae
from gen_jax.vae.vae import SECOND

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
SPEC = DataSpec("made_up", (8, 8, 1), 64)
LABELLED = DataSpec("labelled", (8, 8, 1), 64, labelled("abc"))
KL = 0.6561104894209439  # golden.json: of mean (0.5, -1), log variance (0.2, -0.3)


def make(*words, file="vae_mnist_dense", spec=SPEC):
    """A VAE without hidden layers, by default on dynamically binarised data, and its config."""
    words = [f"--config.{word}" for word in ("network.hidden=()", "vae.latents=2", *words)]
    config = methods.override(methods.load(str(FOLDER / f"{file}.py:tiny"))[2], words)
    method = vae.make(config, spec)
    return config, method._replace(**{name: jax.jit(getattr(method, name)) for name in ("init", "step", "evaluate")})


def batch_of(num):
    images = np.random.default_rng(0).integers(0, 256, (num, 8, 8, 1)).astype(np.uint8)
    return {"image": images, "index": np.arange(num, dtype=np.int32)}


def known_state(method):
    """Every logit is 0, and every posterior that of the golden divergence."""
    key = jax.random.key(0)
    shapes = jax.eval_shape(method.init, key, {}, {}).replace(key=())
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes).replace(key=key)
    params = zeros.params
    params["vae"]["encoder"]["posterior"]["bias"] = jnp.array([0.5, -1.0, 0.2, -0.3])
    return zeros.replace(params=params, ema=params)


def test_the_loss_sums_over_pixels_and_latents_and_is_a_mean_over_the_batch():
    # Logits of 0 cost log 2 a pixel, 64 log 2 an image: a mean over pixels would be 64 times smaller.
    _, method = make("vae.beta=4.0", "vae.kl_warmup_steps=0")
    state = known_state(method)
    for num in (2, 5):
        values = method.evaluate(state, batch_of(num), jax.random.key(0))
        _, scalars = method.step(state, batch_of(num))
        for found in (values["loss"], scalars["loss"]):
            np.testing.assert_allclose(found, 64 * math.log(2) + 4 * KL, rtol=1e-5)
        np.testing.assert_allclose(values["negative_elbo/dynamic_binarisation"], 64 * math.log(2) + KL, rtol=1e-5)
        np.testing.assert_allclose([scalars["reconstruction"], scalars["kl"]], [64 * math.log(2), KL], rtol=1e-4)


def test_warm_up_and_free_bits_change_what_is_trained_on():
    _, method = make("vae.beta=4.0", "vae.kl_warmup_steps=8", "vae.free_bits=0.3")
    state = known_state(method).replace(step=jnp.int32(3))
    _, scalars = method.step(state, batch_of(4))
    floored = 0.3 + 0.5204091103408589  # the first latent's 0.1357 is below the floor
    assert float(scalars["kl_weight"]) == 2.0
    assert float(scalars["loss"]) == pytest.approx(64 * math.log(2) + 2 * floored, rel=1e-5)
    assert float(scalars["kl"]) == pytest.approx(KL, rel=1e-4)


def test_measures_say_their_protocol_and_only_likelihoods_are_called_so():
    def measures(*words):
        _, method = make(*words)
        state = jax.eval_shape(method.init, jax.random.key(0), {}, {})
        return jax.eval_shape(method.evaluate, state, batch_of(2), jax.random.key(0)).keys()

    always = {"loss", "reconstruction", "kl"}
    dynamic = {"negative_elbo/dynamic_binarisation", "nll/dynamic_binarisation_importance_7"}
    assert measures("eval.importance_samples=7") == always | dynamic
    assert measures("vae.binarisation=none") == always  # cross-entropy of grey values
    logistic = ("vae.binarisation=none", "vae.likelihood=discretised_logistic", "eval.importance_samples=7")
    assert measures(*logistic) == always | {"negative_elbo", "bits_per_dim/elbo", "nll/importance_7"}
    # Of grey values it is a density, which knows no bound.
    gaussian = ("vae.binarisation=none", "vae.likelihood=gaussian", "eval.importance_samples=7")
    assert measures(*gaussian) == always | {"negative_elbo/density", "nll/density_importance_7"}


def test_noise_binarisation_and_importance_samples_belong_to_examples():
    _, method = make("eval.importance_samples=3")
    state, batch, key = method.init(jax.random.key(0), {}, {}), batch_of(8), jax.random.key(2)
    whole = method.evaluate(state, batch, key)
    part = method.evaluate(state, {k: v[3:5] for k, v in batch.items()}, key)
    for measure in whole:
        np.testing.assert_allclose(whole[measure][3:5], part[measure], rtol=1e-5)


def test_refusals():
    with pytest.raises(UserError, match="grey values have none under bernoulli"):
        make("vae.binarisation=none", "eval.importance_samples=5")
    for word in ("vae.beta=-1.0", "vae.free_bits=-0.5", "vae.kl_warmup_steps=-1", "eval.importance_samples=-1"):
        with pytest.raises(UserError, match=word.split("=")[0]):
            make(word)


def test_a_manifold_of_latents_that_are_no_plane_is_refused():
    with pytest.raises(
        UserError, match=r"vae.manifold draws a plane of 2 latents, but config.vae.latents is 3; use --"
    ):
        make("vae.latents=3", "network.hidden=()", file="vae_mnist")


@pytest.mark.parametrize(("latents", "manifold"), [(2, True), (2, False), (3, False)])
def test_only_a_plane_that_is_wanted_is_drawn_as_training_goes(latents, manifold):
    _, method = make(f"vae.latents={latents}", f"vae.manifold={manifold}", file="vae_mnist")
    state = jax.eval_shape(method.init, jax.random.key(0), {}, {})
    shown = jax.eval_shape(method.pictures, state, state.key, batch_of(3))
    assert ("manifold" in shown) == manifold
    assert (method.snapshots is not None) == manifold
    if method.snapshots:
        assert jax.eval_shape(method.snapshots, state, state.key)["manifold"].images.shape == (14 * 14, 8, 8, 1)


def test_pictures_of_many_images_begin_with_those_of_few():
    _, method = make(file="vae_mnist")
    state, draw = method.init(jax.random.key(0), {}, {}), jax.jit(method.pictures)
    many, few = (draw(state, jax.random.key(1), batch_of(num)) for num in (120, 20))
    np.testing.assert_array_equal(many["reconstructions"].images, few["reconstructions"].images)
    assert many["latent_space"].points.shape == (120, 2)
    np.testing.assert_allclose(many["latent_space"].points[:20], few["latent_space"].points, atol=1e-6)


def test_training_reaches_the_likelihood_of_a_linear_gaussian_model():
    # Probabilistic PCA: with linear maps and a normal likelihood the best bound is log p(x) itself (Lucas et al. 2019).
    directions, centre, sigma = np.array([[0.3, 0.1], [0.3, -0.1], [0.0, 0.2], [-0.1, 0.0]]), 0.5, 0.1
    spec = DataSpec("linear", (1, 1, 4), 1000, kind="points", value_range=(0, 1))
    likelihood = ("vae.likelihood=gaussian", f"vae.likelihood.sigma={sigma}")
    words = (*likelihood, "vae.binarisation=none", "vae.kl_warmup_steps=0")
    # Many steps: the latents turn slowly towards the principal directions, where the posterior is diagonal.
    steps = ("num_steps=4000", "batch_size=128", "optimizer.learning_rate=5e-2", "optimizer.clip_norm=0.0", "ema=0.9")
    config, method = make(*words, *steps, "optimizer.decay.share=0.7", spec=spec)

    def draw(key, num):
        key_z, key_x = jax.random.split(key)
        x = jax.random.normal(key_z, (num, 2)) @ directions.T + centre + sigma * jax.random.normal(key_x, (num, 4))
        return {"image": x.reshape(num, 1, 1, 4), "index": jnp.arange(num)}

    @jax.jit
    def train(state):
        keys = jax.random.split(jax.random.key(1), config.num_steps)
        return jax.lax.scan(lambda s, key: method.step(s, draw(key, config.batch_size)), state, keys)[0]

    state = train(method.init(jax.random.key(0), {}, {}))
    held_out = draw(jax.random.key(2), 20_000)
    bound = -np.asarray(method.evaluate(state, held_out, jax.random.key(3))["negative_elbo"], np.float64)
    covariance = directions @ directions.T + sigma**2 * np.eye(4)
    exact = stats.multivariate_normal(np.full(4, centre), covariance).logpdf(np.asarray(held_out["image"])[:, 0, 0])
    error = np.std(bound - exact) / np.sqrt(len(exact))
    assert error < 0.012
    assert -0.05 < np.mean(bound) - np.mean(exact) < 4 * error


@pytest.mark.parametrize(
    ("file", "size", "latents"),
    [("vae_mnist", 134_165, 2), ("vae_mnist_dense", 1_116_864, 40), ("vamp_mnist", 1_508_864, 40)],
)
def test_configs_are_of_the_published_sizes(file, size, latents):
    config = methods.load(str(FOLDER / f"{file}.py"))[2]
    methods.check(config)
    spec = DataSpec("mnist", (28, 28, 1), 60_000)
    state = jax.eval_shape(vae.make(config, spec).init, jax.random.key(0), spec.abstract_batch(512), {})
    assert sum(x.size for x in jax.tree.leaves(state.params)) == size
    assert autoencoder.make(config, spec).latents == latents


@pytest.mark.long
def test_one_command_trains_and_reports_and_another_measures_the_likelihood(made_up_tfds, tmp_path):
    words = [
        f"--config={FOLDER / 'vae_mnist_dense.py'}:tiny", f"--config.data.data_dir={made_up_tfds}",
        "--config.data.name=made_up_unlabelled", "--config.num_steps=4", "--config.log_every=2",
        "--config.eval_every=2", "--config.checkpoint_every=4", "--config.network.hidden=8", "--config.sample.num=20",
        "--config.eval.num_examples=20", "--config.eval.num_samples=20", "--config.eval.classifier_steps=10",
        "--config.num_devices=1", f"--workdir={tmp_path / 'run'}",
    ]  # fmt: skip
    main.main(words)
    page = (tmp_path / "run/report.html").read_text()
    assert all(title in page for title in ("Reconstructions", "Latent traversals", "reconstruction", "kl"))
    main.main([*words, "--mode=eval", "--config.eval.importance_samples=10"])
    metrics = {row["name"]: row for row in json.loads((tmp_path / "run/report.json").read_text())["metrics"]}
    bound = metrics["test_negative_elbo/dynamic_binarisation"]
    estimate = metrics["test_nll/dynamic_binarisation_importance_10"]
    assert 0 < estimate["value"] < bound["value"] + 2
    assert estimate["standard_error"] > 0
    assert "20 test examples" in estimate["protocol"]


@pytest.mark.parametrize(("variant", "encoder", "decoder"), [("", 252_052, 249_953), ("full", 309_204, 381_313)])
def test_the_config_of_dsprites_has_the_networks_of_the_papers(variant, encoder, decoder):
    config = methods.load(f"{FOLDER / 'beta_vae_dsprites.py'}:{variant}")[2]
    spec = DataSpec("dsprites:drawn", (64, 64, 1), 737_280, value_range=(0, 1))
    params = jax.eval_shape(vae.make(config, spec).init, jax.random.key(0), {}, {}).params["vae"]
    sizes = {name: count_parameters(tree) for name, tree in params.items()}
    assert sizes == {"encoder": encoder, "decoder": decoder}  # Burgess et al. 2018; Locatello et al. 2019
    if variant == "full":  # Locatello et al. 2019, table of hyperparameters
        assert (config.num_steps, config.batch_size, config.optimizer.learning_rate) == (300_000, 64, 1e-4)


def test_binary_images_are_observed_as_they_are_and_have_a_likelihood():
    spec = DataSpec("binary", (8, 8, 1), 64, value_range=(0, 1))
    config, method = make("vae.binarisation=none", "vae.likelihood=bernoulli", "eval.importance_samples=3", spec=spec)
    image = np.random.default_rng(0).integers(0, 2, (4, 8, 8, 1)).astype(np.uint8)
    model = autoencoder.make(config, spec)
    np.testing.assert_array_equal(model.pixels.observe(jnp.array(image), jax.random.key(0), jnp.arange(4)), image)
    # Logits of 0 cost log 2 a pixel, whatever the pixel.
    values = method.evaluate(known_state(method), {"image": image, "index": np.arange(4)}, jax.random.key(0))
    np.testing.assert_allclose(values["negative_elbo"], 64 * math.log(2) + KL, rtol=1e-5)
    assert "nll/importance_3" in values


def test_the_code_is_the_mean_of_the_posterior():
    _, method = make()
    code = method.code
    assert code is not None
    assert (code.kind, code.shape) == ("means", (2,))
    codes = code.encode(known_state(method), batch_of(5), jax.random.key(0))
    np.testing.assert_allclose(codes, [[0.5, -1.0]] * 5, rtol=1e-6)


@pytest.mark.parametrize(
    ("network", "latents", "shape"), [("dense", 3, (3,)), ("conv", 3, (3,)), ("spatial", 8, (2, 2, 2))]
)
def test_what_a_code_is_decoded_to_is_what_a_sample_of_that_code_is(network, latents, shape):
    words = [f"--config.network={network}", f"--config.vae.latents={latents}"]
    config = methods.override(methods.load(str(FOLDER / "vae_mnist_dense.py:tiny"))[2], words)
    method = vae.make(config, SPEC)
    code, state = method.code, jax.jit(method.init)(jax.random.key(0), {}, {})
    assert code is not None
    assert code.shape == shape
    keys = jax.random.split(jax.random.key(1), 4)
    z = jax.vmap(lambda key: jax.random.normal(key, (latents,)))(keys)
    images = jax.jit(code.decode)(state, z.reshape(4, *shape))
    assert images.shape == (4, 8, 8, 1)
    np.testing.assert_allclose(images, jax.jit(method.sample)(state, keys, {}), atol=1e-6)
    assert jax.eval_shape(code.encode, state, batch_of(4), jax.random.key(0)).shape == (4, *shape)


def with_prior(state, **values):
    """A state with these values of the prior's parameters."""
    params = {"vae": state.params["vae"] | {"prior": {k: jnp.asarray(v, jnp.float32) for k, v in values.items()}}}
    return state.replace(params=params, ema=params)


ONE = ("vae.prior=mixture", "vae.prior.num_components=1")


def test_a_mixture_of_one_standard_normal_has_the_bound_of_the_standard_prior():
    _, method = make(*ONE)
    values = method.evaluate(known_state(method), batch_of(4000), jax.random.key(0))
    found = np.asarray(values["negative_elbo/dynamic_binarisation"], np.float64)
    error = found.std() / np.sqrt(len(found))
    assert 0 < error < 0.03
    assert abs(found.mean() - (64 * math.log(2) + KL)) < 4 * error
    np.testing.assert_allclose(values["reconstruction"], 64 * math.log(2), rtol=1e-5)


@pytest.mark.parametrize("objective", ["elbo", pytest.param("iwae", marks=pytest.mark.long)])
def test_bound_and_likelihood_are_those_of_the_prior_in_use(objective):
    # The prior is the posterior of every image: no nats between them, with any sample.
    _, method = make(*ONE, f"vae.objective={objective}", "eval.importance_samples=3", "vae.beta=2.0")
    state = with_prior(known_state(method), logits=[0], mean=[[0.5, -1]], log_var=[[0.2, -0.3]])
    values = method.evaluate(state, batch_of(5), jax.random.key(0))
    for name in ("loss", "negative_elbo/dynamic_binarisation", "nll/dynamic_binarisation_importance_3"):
        np.testing.assert_allclose(values[name], 64 * math.log(2), rtol=1e-5)
    np.testing.assert_allclose(values["kl"], 0, atol=1e-5)
    # Moved by a standard deviation: half a nat, in expectation. A log variance has the soft bound 10 tanh(v / 10).
    deviation = math.exp(10 * math.tanh(0.02) / 2)
    moved = with_prior(state, logits=[0], mean=[[0.5 + deviation, -1]], log_var=[[0.2, -0.3]])
    kl = np.asarray(method.evaluate(moved, batch_of(4000), jax.random.key(0))["kl"])
    assert abs(kl.mean() - 0.5) < 4 * kl.std() / np.sqrt(kl.size)


def test_samples_are_decoded_draws_of_the_prior():
    _, method = make("vae.prior=mixture", "vae.prior.num_components=2")
    means = np.array([[4.0, 0.0], [0.0, -4.0]])
    state = method.init(jax.random.key(0), {}, {})
    state = with_prior(state, logits=np.log([0.75, 0.25]), mean=means, log_var=np.full((2, 2), -30.0))
    found = np.asarray(jax.jit(method.sample)(state, jax.random.split(jax.random.key(1), 400), {}))
    each = np.asarray(method.code.decode(state, jnp.asarray(means)))
    of_component = np.argmin(np.abs(found[:, None] - each).mean((2, 3, 4)), axis=1)
    np.testing.assert_allclose(found, each[of_component], atol=0.03)
    assert abs(np.mean(of_component == 0) - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 400)


@pytest.mark.long
def test_one_importance_sample_trains_as_the_elbo_does_bit_by_bit():
    trained = []
    for words in (("vae.objective=elbo",), ("vae.objective=iwae", "vae.objective.num_samples=1")):
        _, method = make(*words)
        state, batch = method.init(jax.random.key(0), {}, {}), batch_of(8)
        for _ in range(3):
            state, scalars = method.step(state, batch)
        trained.append((state.params, scalars, method.evaluate(state, batch, state.key)))
    of_elbo, of_iwae = (jax.tree.leaves(each) for each in trained)
    assert jax.tree.structure(trained[0]) == jax.tree.structure(trained[1])
    assert all(np.array_equal(one, other) for one, other in zip(of_elbo, of_iwae, strict=True))


def test_a_state_of_the_standard_prior_is_that_of_runs_before_there_was_a_choice():
    _, method = make()
    assert jax.eval_shape(method.init, jax.random.key(0), {}, {}).params["vae"].keys() == {"encoder", "decoder"}


LABELS, LOGITS, MEANS = np.array([2, 0, 1, 2, 0]), np.array([0.5, -1.0, 2.0]), np.array([0.0, 1.0, -2.0])


def state_of_classes(method):
    """Each class has a logit of all pixels, and a mean of the first latent's posterior; nothing else has an effect."""
    zeros = method.init(jax.random.key(0), {}, {})
    params = jax.tree.map(jnp.zeros_like, zeros.params)
    encoder, decoder = params["vae"]["encoder"]["posterior"], params["vae"]["decoder"]["out"]
    assert (encoder["kernel"].shape, decoder["kernel"].shape) == ((64 + 3, 4), (2 + 3, 64))  # one-hot labels come last
    encoder["kernel"] = encoder["kernel"].at[64:, 0].set(MEANS)
    decoder["kernel"] = decoder["kernel"].at[2:].set(LOGITS[:, None])
    return zeros.replace(params=params, ema=params)


def test_a_conditional_vae_encodes_decodes_and_samples_given_the_class():
    config, method = make("vae.conditional=true", "eval.importance_samples=2", "vae.kl_warmup_steps=0", spec=LABELLED)
    assert method.condition == ("label",)
    state, batch = state_of_classes(method), batch_of(5) | {"label": LABELS}
    values = method.evaluate(state, batch, jax.random.key(0))
    kl = MEANS[LABELS] ** 2 / 2
    np.testing.assert_allclose(values["kl"], kl, rtol=1e-5)
    given = [name.partition("/")[2] for name in values if "/" in name]
    assert given == ["dynamic_binarisation_given_label", "dynamic_binarisation_given_label_importance_2"]
    # Pixels that are 1 with probability g cost log(1 + e^u) - u g in expectation; the key decides which are.
    seen = autoencoder.make(config, LABELLED).pixels.observe(
        batch["image"], jax.random.split(jax.random.key(0), 3)[0], jnp.arange(5)
    )
    u = LOGITS[LABELS]
    expected = 64 * np.log1p(np.exp(u)) - u * np.asarray(seen).sum((1, 2, 3))
    np.testing.assert_allclose(values["reconstruction"], expected, rtol=1e-5)
    np.testing.assert_allclose(values["negative_elbo/dynamic_binarisation_given_label"], expected + kl, rtol=1e-5)
    _, scalars = method.step(state, batch)
    assert float(scalars["kl"]) == pytest.approx(kl.mean(), rel=1e-5)
    images = jax.jit(method.sample)(state, jax.random.split(jax.random.key(1), 5), {"label": jnp.asarray(LABELS)})
    np.testing.assert_allclose(images, np.broadcast_to(np.tanh(u / 2)[:, None, None, None], images.shape), atol=1e-5)


def test_the_page_of_a_conditional_vae_shows_its_classes_and_still_traverses_its_latents():
    _, method = make("vae.conditional=true", spec=LABELLED)
    state, batch = state_of_classes(method), batch_of(20) | {"label": np.arange(20) % 3}
    shown = jax.jit(method.pictures)(state, jax.random.key(0), batch)
    grey = np.round(255 / (1 + np.exp(-LOGITS)))
    rows = np.asarray(shown["classes"].images, int).reshape(3, 10, -1)
    np.testing.assert_allclose(rows, np.broadcast_to(grey[:, None, None], rows.shape), atol=1)
    np.testing.assert_allclose(shown["traversals"].images, grey[0], atol=1)  # of the first image, and of its class
    below = np.asarray(shown["reconstructions"].images, int).reshape(2, 2, 8, -1)[:, 1].reshape(16, -1)
    np.testing.assert_allclose(below, np.broadcast_to(grey[np.arange(16) % 3][:, None], below.shape), atol=1)
    assert shown["traversals"].caption.endswith("All are given the class of the first image.")
    assert method.code is None


def test_a_condition_that_cannot_be_met_is_refused_in_one_line():
    for words, spec, match in (
        ((), SPEC, "config.vae.conditional needs labels, and data set made_up has none"),
        (
            ("vae.prior=vamp",),
            LABELLED,
            "the pseudo-inputs of prior vamp have no class: use --",
        ),
        (("vae.manifold=true",), LABELLED, "each class has its own: use --config.vae.manifold=False"),
    ):
        with pytest.raises(UserError, match=match) as error:
            make("vae.conditional=true", *words, spec=spec)
        assert "\n" not in str(error.value)


VAMP = ("vae.prior=vamp", "vae.prior.num_components=12")


@pytest.mark.long
def test_a_vamp_prior_learns_and_its_measures_belong_to_examples():
    _, method = make(*VAMP, "network.hidden=(16,)", "vae.binarisation=static", "eval.importance_samples=3")
    batch = batch_of(32)
    state = start = method.init(jax.random.key(0), batch, {})
    for _ in range(30):
        state, _ = method.step(state, batch)
    before, after = (s.params["vae"]["prior"]["pseudo_inputs"] for s in (start, state))
    assert before.shape == (12, 8, 8, 1)
    assert bool(jnp.all(before != after))
    key = jax.random.key(2)
    whole = method.evaluate(state, batch, key)
    assert float(whole["loss"].mean()) < float(method.evaluate(start, batch, key)["loss"].mean())
    assert {"negative_elbo/static_binarisation", "nll/static_binarisation_importance_3"} < whole.keys()
    part = method.evaluate(state, {k: v[3:5] for k, v in batch.items()}, key)
    for measure in whole:
        np.testing.assert_allclose(whole[measure][3:5], part[measure], rtol=1e-4)


def test_the_pages_of_other_priors_show_their_components():
    for words, shown in ((VAMP, 2 * 8), (("vae.prior=mixture", "vae.prior.num_components=60"), 40)):
        _, method = make(*words)
        state = jax.eval_shape(method.init, jax.random.key(0), batch_of(32), {})
        figures = jax.eval_shape(method.pictures, state, state.key, batch_of(20))
        assert figures["prior"].images.shape == (shown, 8, 8, 1)
        assert figures["aggregate_posterior"].points.shape == (40, 2)  # codes, and draws of the prior


def test_an_objective_that_compares_codes_is_judged_by_the_bound_of_each_example():
    _, method = make("vae.objective=total_correlation", "vae.beta=2.0", "vae.kl_warmup_steps=0")
    state = known_state(method)
    values = method.evaluate(state, batch_of(5), jax.random.key(0))
    np.testing.assert_allclose(values["loss"], 64 * math.log(2) + 2 * KL, rtol=1e-5)
    _, scalars = method.step(state, batch_of(5))
    parts = [float(scalars[name]) for name in ("mutual_information", "total_correlation", "dimension_kl")]
    # All posteriors are the same: what is left of the information is the log N of weighted sampling.
    assert parts[0] == pytest.approx(math.log(SPEC.num_examples), rel=1e-4)
    expected = 64 * math.log(2) + 2 * (parts[0] + 6 * parts[1] + parts[2])
    assert float(scalars["loss"]) == pytest.approx(expected, rel=1e-5)


FACTOR = ("vae.objective=factor", "vae.objective.width=16", "vae.objective.depth=2", "vae.kl_warmup_steps=0")


def test_the_discriminator_of_factor_is_of_the_published_size_and_is_not_averaged():
    config = methods.load(str(FOLDER / "beta_vae_dsprites.py"))[2]
    config = methods.override(config, ["--config.vae.objective=factor", "--config.vae.beta=1"])
    methods.check(config)
    spec = DataSpec("dsprites:drawn", (64, 64, 1), 737_280, value_range=(0, 1))
    state = jax.eval_shape(vae.make(config, spec).init, jax.random.key(0), {}, {})
    assert {name: count_parameters(tree) for name, tree in state.params.items()} == {
        "vae": 502_005,
        SECOND: 5_018_002,
    }
    assert state.opt_state.keys() == state.params.keys()
    assert state.ema.keys() == {"vae"}


def test_each_network_of_factor_learns_from_its_own_loss_alone():
    words = (*FACTOR, "optimizer.name=sgd", "optimizer.b1=0.0", "optimizer.clip_norm=0.0", "network.hidden=(8,)")
    (_, without), (_, method) = (make(*words, f"vae.objective.gamma={gamma}") for gamma in (0, 30))
    start, batch = method.init(jax.random.key(0), {}, {}), batch_of(8)
    larger = start.params | {SECOND: jax.tree.map(lambda x: 3 * x, start.params[SECOND])}
    one, other = (without.step(state, batch)[0].params for state in (start, start.replace(params=larger)))
    # Where its judgement has no weight, no discriminator and no loss of it moves the autoencoder.
    for a, b in zip(jax.tree.leaves(one["vae"]), jax.tree.leaves(other["vae"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
    state, scalars = method.step(start, batch)
    kernels = [params["vae"]["encoder"]["posterior"]["kernel"] for params in (one, state.params)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4
    # Whatever the weight, the discriminator moves by its own loss.
    leaves = (jax.tree.leaves(params[SECOND]) for params in (start.params, one, state.params))
    for before, a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        assert not np.array_equal(a, before)
    parts = [float(scalars[name]) for name in ("reconstruction", "kl", "total_correlation")]
    assert float(scalars["loss"]) == pytest.approx(parts[0] + parts[1] + 30 * parts[2], rel=1e-5)
    assert 0 < float(scalars["discriminator_loss"]) < 5
    assert 0 <= float(scalars["discriminator_accuracy"]) <= 1


def test_factor_is_judged_by_the_bound_of_each_example_with_any_prior():
    _, method = make(*FACTOR, *ONE)
    state = with_prior(known_state(method), logits=[0], mean=[[0.5, -1]], log_var=[[0.2, -0.3]])
    values = method.evaluate(state, batch_of(5), jax.random.key(0))
    np.testing.assert_allclose(values["loss"], 64 * math.log(2), rtol=1e-5)
    np.testing.assert_allclose(values["negative_elbo/dynamic_binarisation"], 64 * math.log(2), rtol=1e-5)


@functools.cache
def started(words):
    _, method = make(*words, "optimizer.name=sgd", "optimizer.learning_rate=1e-2")
    return method, method.init(parallel.make_key(0), batch_of(32), {})


@functools.cache
def trained(words, devices=1, executor="jit"):
    method, state = started(words)
    mesh, scalars = parallel.make_mesh(devices), {}
    run = parallel.make_executor(executor, mesh)
    own = jax.tree.map(lambda leaf: leaf.copy(), state)  # which a step may write over
    state = jax.device_put(own, parallel.replicated(mesh))
    update = run.compile_step(method.step, state, run.put(batch_of(16), 0), 0)
    for _ in range(3):
        state, scalars = update(state, run.put(batch_of(16), 0))
    assert len(state.step.sharding.device_set) == devices
    return jax.tree.map(np.asarray, (state.params, scalars))


# A vamp prior and importance samples are of each example alone: one executor shows them in CI.
@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "executor"),
    [
        pytest.param(words, executor, marks=[pytest.mark.slow] * (alone and executor == "pmap"))
        for words, alone in (
            (VAMP, True), (("vae.objective=total_correlation",), False), (("vae.objective=iwae",), True),
            (FACTOR, False),
        )
        for executor in parallel.EXECUTORS
    ],
)  # fmt: skip
def test_eight_devices_train_as_one_does(words, executor):
    one, eight = trained(words), trained(words, 8, executor)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, eight)

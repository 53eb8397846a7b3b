"""Two levels of latents: bounds against likelihoods in closed form, terms against numpy, and the published sizes."""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from gen_jax import methods
from gen_jax.method import DataSpec, UserError, keys_of
from gen_jax.vae import hvae, two_levels

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
SPEC = DataSpec("made_up", (4, 4, 1), 64)


def config_of(*words):
    return methods.override(methods.load(f"{FOLDER / 'hvae_mnist.py'}:tiny")[2], [f"--config.{word}" for word in words])


def make(*words, spec=SPEC):
    method = hvae.make(config_of(*words), spec)
    return method._replace(**{name: jax.jit(getattr(method, name)) for name in ("init", "step", "evaluate", "sample")})


def batch_of(num):
    images = np.random.default_rng(0).integers(0, 256, (num, 4, 4, 1)).astype(np.uint8)
    return {"image": images, "index": np.arange(num, dtype=np.int32)}


@pytest.mark.parametrize(("words", "size"), [((), 2_823_024), (("vae.prior=standard",), 2_431_024)])
def test_the_config_is_of_the_published_size(words, size):
    config = methods.override(methods.load(str(FOLDER / "hvae_mnist.py"))[2], [f"--config.{word}" for word in words])
    methods.check(config)
    spec = DataSpec("mnist", (28, 28, 1), 60_000)
    state = jax.eval_shape(hvae.make(config, spec).init, jax.random.key(0), spec.abstract_batch(512), {})
    assert sum(x.size for x in jax.tree.leaves(state.params)) == size
    parts = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in state.params["vae"].items()}
    gated = {(i, o): 2 * (i * o + o) for i in (784, 600, 300, 40) for o in (300,)}
    heads = 300 * 80 + 80, 300 * 784 + 784
    assert {name: part for name, part in parts.items() if name != "prior"} == {
        "encoder": gated[784, 300] + gated[300, 300] + heads[0],
        "low_encoder": gated[784, 300] + gated[40, 300] + gated[600, 300] + heads[0],
        "low_prior": gated[40, 300] + gated[300, 300] + heads[0],
        "decoder": 2 * gated[40, 300] + gated[600, 300] + heads[1],
    }


# A linear model of one z2, one z1 and three pixels, of which all distributions are normal and known.
A, SHIFT, S1 = 0.8, 0.3, 0.6  # z1 = A z2 + SHIFT + S1 noise
W1, W2, CENTRE, S = np.array([0.1, 0.05, -0.08]), np.array([0.02, -0.1, 0.05]), 0.5, 0.1
LINEAR = DataSpec("linear", (1, 1, 3), 1000, kind="points", value_range=(0, 1))
WORDS = ("network.hidden=()", "vae.latents=(1,1)", "vae.prior=standard", "vae.likelihood=gaussian",
         f"vae.likelihood.sigma={S}", "vae.binarisation=none", "vae.kl_warmup_steps=0")  # fmt: skip


@functools.cache
def linear(num_importance):
    return make(*WORDS, f"eval.importance_samples={num_importance}", spec=LINEAR)


# Of (z2, z1, x): everything is a linear map of four independent normal variables and the noise of pixels.
_LATENTS = np.array([[1.0, 0.0], [A, S1]])
_MAP = np.concatenate([_LATENTS, np.outer(W1, _LATENTS[1]) + np.outer(W2, _LATENTS[0])])
MEAN = np.array([0.0, SHIFT, *(CENTRE + W1 * SHIFT)])
COVARIANCE = _MAP @ _MAP.T + np.diag([0, 0, S**2, S**2, S**2])


def given(wanted, known):
    """Of a normal vector, one entry given others: (weights of the others, constant, variance)."""
    shared = COVARIANCE[known, wanted]
    weights = np.linalg.solve(COVARIANCE[np.ix_(known, known)], shared)
    return weights, MEAN[wanted] - weights @ MEAN[known], COVARIANCE[wanted, wanted] - weights @ shared


def linear_state(method, shift=0.0, widen=1.0):
    """The known model with its exact posteriors, or with those of z2 and z1 off by `shift` and a factor of variance."""

    def layer(weights, constant, variance):
        kernel = np.stack([weights, np.zeros(len(weights))], axis=1)
        return {"posterior": {"kernel": kernel, "bias": np.array([constant, math.log(variance)])}}

    top, low = given(0, [2, 3, 4]), given(1, [2, 3, 4, 0])  # x is before z2
    params = {
        "encoder": layer(top[0], top[1] + shift, widen * top[2]),
        "low_encoder": layer(low[0], low[1] + shift, widen * low[2]),
        "low_prior": layer(np.array([A]), SHIFT, S1**2),
        "decoder": {"out": {"kernel": np.stack([W1, W2]), "bias": np.full(3, CENTRE)}},
    }
    state = method.init(jax.random.key(0), {}, {})
    params = {"vae": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)}
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, state.params)
    return state.replace(params=params, ema=params)


def linear_batch(num):
    x = np.random.default_rng(1).multivariate_normal(MEAN[2:], COVARIANCE[2:, 2:], num).astype(np.float32)
    exact = stats.multivariate_normal(MEAN[2:], COVARIANCE[2:, 2:]).logpdf(x)
    return {"image": x.reshape(num, 1, 1, 3), "index": np.arange(num, dtype=np.int32)}, exact


def test_with_the_exact_posteriors_every_sample_has_the_likelihood_and_the_bound_is_its_mean():
    method = linear(2)
    batch, exact = linear_batch(2000)
    values = method.evaluate(linear_state(method), batch, jax.random.key(0))
    np.testing.assert_allclose(-np.asarray(values["nll/importance_2"]), exact, atol=1e-4)
    differences = np.asarray(values["negative_elbo"], np.float64) + exact
    assert abs(differences.mean()) < 4 * differences.std() / np.sqrt(len(exact))
    assert differences.std() < 2


def test_bound_then_more_importance_samples_then_the_likelihood():
    batch, exact = linear_batch(2000)
    shift, widen = 0.15, 1.5
    bounds = []
    for num in (2, 100):
        method = linear(num)
        values = method.evaluate(linear_state(method, shift, widen), batch, jax.random.key(0))
        bounds += [] if bounds else [-float(np.mean(values["negative_elbo"]))]
        bounds.append(-float(np.mean(values[f"nll/importance_{num}"])))
    assert bounds == sorted(bounds)
    assert exact.mean() - 0.02 < bounds[-1] < exact.mean() + 0.005
    # The divergence of the wrong posterior from the right one, level by level. That of z1 is off by the same at any z2.
    lacks = sum(
        0.5 * (shift**2 / variance + widen - 1 - math.log(widen))
        for _, _, variance in (given(0, [2, 3, 4]), given(1, [2, 3, 4, 0]))
    )
    assert exact.mean() - bounds[0] == pytest.approx(lacks, abs=0.06)


def test_samples_go_from_the_prior_of_z2_through_that_of_z1():
    method = linear(2)
    images = np.asarray(method.sample(linear_state(method), jax.random.split(jax.random.key(3), 4000), {}), np.float64)
    means = images.reshape(-1, 3) / 2 + 0.5  # of p(x | z1, z2), without the noise of pixels
    np.testing.assert_allclose(means.mean(0), MEAN[2:], atol=0.01)
    np.testing.assert_allclose(np.cov(means.T), COVARIANCE[2:, 2:] - S**2 * np.eye(3), atol=1.2e-3)


def gated(x, layer):
    y = x @ layer["kernel"] + layer["bias"]
    half = y.shape[-1] // 2
    return y[..., :half] * special.expit(y[..., half:])


def normal_of(h, layer):
    y = h @ layer["kernel"] + layer["bias"]
    mean, log_var = np.split(y, 2, axis=-1)
    return mean, np.clip(log_var, -6, 2)


def two_inputs(a, b, hidden):
    h = np.concatenate([gated(a, hidden["first"]["dense_0"]), gated(b, hidden["second"]["dense_0"])], axis=-1)
    return gated(h, hidden["both"]["dense_0"])


def deep(x, hidden):
    return gated(gated(x, hidden["dense_0"]), hidden["dense_1"])


def kl(q, p):
    (a, s), (b, t) = q, p
    return 0.5 * (t - s + (np.exp(s) + (a - b) ** 2) / np.exp(t) - 1).sum(-1)


def test_the_terms_are_those_of_an_independent_computation():
    config = config_of("network.hidden=(6,5)", "vae.latents=(3,2)", "vae.prior.num_components=4")
    model = two_levels.make(config, SPEC)
    batch = batch_of(7)
    x = np.asarray(model.pixels.observe(jnp.asarray(batch["image"]), jax.random.key(0), jnp.arange(7)), np.float64)
    params = jax.jit(lambda key: model.init(key) | model.init_prior(key, batch_of(64)))(jax.random.key(1))
    params = jax.tree.map(lambda w: np.asarray(w) + 0.05, params)  # no bias is 0

    @jax.jit
    def computed(params, x, keys):
        d = hvae.drawn(model, params, x, keys)
        return d.reconstruction, *hvae.divergences(d), hvae.log_weight(d)

    keys = keys_of(jax.random.key(2), jnp.arange(7))
    found, kl_z1, kl_z2, log_weight = computed(params, jnp.asarray(x, jnp.float32), keys)

    p, flat = jax.tree.map(lambda w: np.asarray(w, np.float64), params), x.reshape(7, -1)
    eps = jax.vmap(lambda key: jax.random.normal(key, (5,)))(keys)
    top = normal_of(deep(flat, p["encoder"]["hidden"]), p["encoder"]["posterior"])
    z2 = top[0] + np.exp(top[1] / 2) * eps[:, 3:]
    low = normal_of(two_inputs(flat, z2, p["low_encoder"]["hidden"]), p["low_encoder"]["posterior"])
    z1 = low[0] + np.exp(low[1] / 2) * eps[:, :3]
    link = normal_of(deep(z2, p["low_prior"]["hidden"]), p["low_prior"]["posterior"])
    h = two_inputs(z1, z2, p["decoder"]["hidden"])
    u = h @ p["decoder"]["out"]["kernel"] + p["decoder"]["out"]["bias"]
    reconstruction = (np.logaddexp(0, u) - flat * u).sum(-1)
    inputs = np.clip(p["prior"]["pseudo_inputs"], 0, 1).reshape(4, -1)
    component = normal_of(deep(inputs, p["encoder"]["hidden"]), p["encoder"]["posterior"])
    each = stats.norm(component[0], np.exp(component[1] / 2)).logpdf(z2[:, None]).sum(-1)
    log_prior = special.logsumexp(each, axis=1) - math.log(4)
    log_q2 = stats.norm(top[0], np.exp(top[1] / 2)).logpdf(z2).sum(-1)

    np.testing.assert_allclose(found, reconstruction, rtol=1e-4)
    np.testing.assert_allclose(kl_z1, kl(low, link), rtol=1e-3)
    np.testing.assert_allclose(kl_z2, log_q2 - log_prior, rtol=1e-3, atol=1e-4)
    log_p1, log_q1 = (stats.norm(m, np.exp(s / 2)).logpdf(z1).sum(-1) for m, s in (link, low))
    expected = -reconstruction + log_p1 - log_q1 + log_prior - log_q2
    np.testing.assert_allclose(log_weight, expected, rtol=1e-3, atol=1e-3)


def test_the_parts_add_up_to_the_bound_and_the_loss_weighs_both_divergences():
    method = make("network.hidden=(6,)", "vae.prior=standard", "vae.beta=3.0", "vae.kl_warmup_steps=6")
    state = method.init(jax.random.key(0), batch_of(32), {})
    values = {name: np.asarray(v) for name, v in method.evaluate(state, batch_of(9), jax.random.key(1)).items()}
    parts = values["reconstruction"] + values["kl_z1"] + values["kl_z2"]
    np.testing.assert_allclose(values["negative_elbo/static_binarisation"], parts, rtol=1e-6)
    np.testing.assert_allclose(values["kl"], values["kl_z1"] + values["kl_z2"], rtol=1e-6)
    np.testing.assert_allclose(values["loss"], values["reconstruction"] + 3 * values["kl"], rtol=1e-5)
    _, scalars = method.step(state.replace(step=jnp.int32(1)), batch_of(9))
    assert float(scalars["kl_weight"]) == 1.0  # 3 times 2 of 6
    expected = scalars["reconstruction"] + scalars["kl_z1"] + scalars["kl_z2"]
    assert float(scalars["loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_log_variances_are_clipped_as_in_the_released_code():
    config = config_of("network.hidden=()", "vae.latents=(2,2)", "vae.prior=standard")
    model = two_levels.make(config, SPEC)
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    for name in ("encoder", "low_encoder", "low_prior"):
        params[name]["posterior"]["bias"] = jnp.array([1.0, -1.0, -50.0, 50.0])
    x, z = jnp.zeros((1, 4, 4, 1)), jnp.zeros((1, 2))
    for found in (model.encode(params, x), model.encode_low(params, x, z), model.low_prior(params, z)):
        np.testing.assert_array_equal(found.log_var, [[-6.0, 2.0]])
        np.testing.assert_array_equal(found.mean, [[1.0, -1.0]])


@pytest.mark.parametrize("prior", ["standard", "vamp"])
def test_its_page_shows_both_levels_whatever_the_prior(prior):
    method = make(f"vae.prior={prior}")
    state = jax.eval_shape(method.init, jax.random.key(0), batch_of(64), {})
    figures = jax.eval_shape(method.pictures, state, state.key, batch_of(20))
    assert figures["levels"].images.shape == (6 * 8, 4, 4, 1)
    assert figures["latent_space"].points.shape == (20, 2)
    assert {"reconstructions", "aggregate_posterior", "traversals"} < figures.keys()
    assert ("prior" in figures) == (prior != "standard")


def test_a_row_of_the_picture_of_levels_shares_z2():
    # Where z1 has no effect, all images of a row are the same.
    method = linear(2)
    state, draw = linear_state(method), jax.jit(method.pictures)
    kernel = state.ema["vae"]["decoder"]["out"]["kernel"]
    for silent, rows_are_flat in ((0, True), (1, False)):
        decoder = {"out": {"kernel": kernel.at[silent].set(0), "bias": jnp.full(3, CENTRE)}}
        params = {"vae": state.ema["vae"] | {"decoder": decoder}}
        batch, _ = linear_batch(16)
        shown = draw(state.replace(ema=params), jax.random.key(0), batch)["levels"]
        spread = np.ptp(np.asarray(shown.images, int).reshape(6, 8, 3), axis=1)
        assert (spread.max() == 0) == rows_are_flat


def test_refusals():
    for words, match in (
        (("vae.latents=(40,)",), r"latents is \(40,\): give the numbers of latents of z1 and of z2"),
        (("vae.kl_warmup_steps=-1",), "kl_warmup_steps is -1"),
        (("eval.importance_samples=-1",), "importance_samples is -1"),
        (("vae.likelihood=gaussian",), "binary data has no gaussian likelihood"),
    ):
        with pytest.raises(UserError, match=match) as error:
            make(*words)
        assert "\n" not in str(error.value)

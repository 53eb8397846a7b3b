"""Learned variances and likelihoods in a model: who trains what, what a sampler does with it, rows, and refusals."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_words

from gen_jax import main, methods
from gen_jax.diffusion import bound, guidance, model, prediction, process, sampler, schedule, solvers
from gen_jax.method import Code, DataSpec, Method, Stage, UserError, labelled

SPEC = DataSpec("made_up", (4, 4, 1), 64, labelled("abc"))
LINEAR = schedule.linear(num_steps=20, zero_terminal_snr=True)
TABLE = ("diffusion.schedule=linear", "diffusion.schedule.num_steps=20")


@dataclasses.dataclass
class Two:
    """A network of two numbers: its prediction is the first everywhere, and its variance (if any) the second."""

    out_channels: int = 1
    num_classes: int = 0
    dtype: Any = None

    def init(self, key, x, time, *, label=None):
        return {"params": {"mean": jnp.array(0.3), "variance": jnp.array(0.0)}}

    def apply(self, variables, x_t, time, *, label=None, index=None, train=False, rngs=None):
        params = variables["params"]
        halves = (params["mean"], params["variance"])[: self.out_channels]
        return jnp.concatenate([jnp.broadcast_to(value, x_t.shape) for value in halves], axis=-1)


@pytest.fixture(autouse=True)
def _two(monkeypatch):
    monkeypatch.setitem(model.NETWORKS, "two", (Two,))


def make(*words, spec=SPEC, config="ddpm_mnist"):
    table = () if "diffusion.schedule=straight" in words else TABLE
    words = ["network=two", "optimizer=sgd", "diffusion.prediction=x", "diffusion.weighting=x", *table, *words]
    words += [] if any(word.startswith("sample.num_steps") for word in words) else ["sample.num_steps=5"]
    made = methods.override(methods.load(config)[2], [f"--config.{word}" for word in words])
    return methods.make(made, spec)


def process_of(*words):
    return process.make(
        methods.override(
            methods.load("ddpm_mnist")[2],
            [
                f"--config.diffusion.{word}"
                for word in ("schedule=linear", "schedule.num_steps=20", "prediction=x", "weighting=x", *words)
            ],
        ).diffusion
    )


def batch_of(num):
    number = np.arange(num, dtype=np.int32)
    image = np.random.default_rng(0).integers(0, 256, (num, 4, 4, 1), np.uint8)
    return {"image": image, "index": number, "label": number % 3}


X0 = jax.random.uniform(jax.random.key(1), (6, 4, 4, 1), minval=-1)
EPS = jax.random.normal(jax.random.key(2), X0.shape)
T = jnp.array([0, 1, 5, 10, 18, 19])


def loss_of(params, words):
    made = process_of(*words)
    network = Two(out_channels=made.variance.outputs)
    return jnp.mean(made.loss(lambda x, told: network.apply({"params": params}, x, told), X0, EPS, T))


PARAMS = {"mean": jnp.array(0.3), "variance": jnp.array(-0.4)}


def test_the_bound_trains_the_variance_and_leaves_the_mean_alone():
    plain = jax.grad(loss_of)(PARAMS, ())
    hybrid = jax.grad(loss_of)(PARAMS, ("variance=learned", "variance.weight=0.5"))
    assert plain["mean"] == hybrid["mean"] != 0
    assert plain["variance"] == 0 != hybrid["variance"]
    without = jax.grad(loss_of)(PARAMS, ("variance=learned", "variance.weight=0"))
    assert without == plain


def test_the_loss_adds_the_terms_of_the_bound_in_bits_t_times():
    plain, hybrid = (float(loss_of(PARAMS, words)) for words in ((), ("variance=learned", "variance.weight=0.01")))
    path = process_of().path
    alpha_bar, t, fraction, x0 = path.alpha_bar, np.asarray(T[1:]), (1 - 0.4) / 2, np.asarray(X0[1:])
    beta = 1 - alpha_bar[t] / alpha_bar[t - 1]
    small = beta * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
    variance = beta**fraction * small ** (1 - fraction)
    shift = (np.sqrt(alpha_bar[t - 1]) * beta / (1 - alpha_bar[t]))[:, None] * (x0.reshape(5, -1) - 0.3)
    nats = 0.5 * (np.log(variance / small) + small / variance - 1 + np.mean(shift**2, axis=1) / variance)
    log_variance = (1 - fraction) * np.log(small[0]) + fraction * np.log(1 - alpha_bar[0])
    first = -float(jnp.mean(bound.log_prob_of_grey(X0[0], 0.3, log_variance)))
    expected = 0.01 * 20 * np.mean([first, *nats]) / np.log(2)
    assert hybrid - plain == pytest.approx(expected, rel=1e-4)


def test_a_second_half_of_zero_is_the_geometric_mean_of_both_variances():
    estimate = process_of("variance=learned").estimator(lambda x, told: jnp.concatenate([x, 0 * x], axis=-1))
    level = LINEAR.level(jnp.array([7]))
    found = estimate(jnp.ones((1, 4, 4, 1)), level)
    stds = {name: float(_noise_of(solvers.ancestral(name), found.fraction)) for name in ("small", "large", "learned")}
    assert stds["learned"] == pytest.approx(np.sqrt(stds["small"] * stds["large"]), rel=1e-5)


def _noise_of(made, fraction, steps=(7, 3)):
    """The standard deviation of the first of some steps: its output for a state and an estimate of 0 and noise of 1."""
    levels = LINEAR.path(steps)
    rows = sampler.Row(
        *(schedule.Level(*(v[i : len(v) - 1 + i] for v in levels)) for i in (0, 1)), made.plan(levels, LINEAR)
    )
    row = jax.tree.map(lambda values: jnp.float32(values[0]), rows)
    zero = jnp.zeros((1, 4, 4, 1))

    def denoise(x_t, level):
        return sampler.Estimate(zero, fraction) if made.estimates else zero

    return made.step((), zero, denoise, row, zero + 1)[1].ravel()[0]


@pytest.mark.parametrize(("fraction", "name"), [(0.0, "small"), (1.0, "large")])
def test_the_ends_of_the_learned_variance_are_small_and_large(fraction, name):
    filled = jnp.full((1, 4, 4, 1), fraction)
    learned, known = _noise_of(solvers.ancestral("learned"), filled), _noise_of(solvers.ancestral(name), None)
    assert float(learned) == pytest.approx(float(known), rel=1e-6)
    assert _noise_of(solvers.ancestral("learned"), filled, (7,)) == 0  # the last step is the mean


def test_clipping_and_guidance_leave_the_variance_alone():
    def told(label):
        def denoise(x_t, level):
            shift = label[:, None, None, None]
            return sampler.Estimate(x_t + shift, 0 * x_t + 10 * shift)

        return denoise

    level, x_t = LINEAR.level(jnp.array([3, 4])), jnp.full((2, 1, 1, 1), 0.5)
    found = sampler.clipped(guidance.guided(told, jnp.array([2, 1]), 3.0))(x_t, level)
    assert found.x0_hat.ravel().tolist() == [1, 1]
    assert found.fraction.ravel().tolist() == [20, 10]  # of the label, not extrapolated
    bare = guidance.guided(told, jnp.array([2, 1]), 3.0)(x_t, level)  # 3 (0.5 + label) - 2 (0.5 - 1)
    assert bare.x0_hat.ravel().tolist() == [8.5, 5.5]


@pytest.mark.parametrize("name", ["small", "learned"])
def test_a_model_with_learned_variances_serves_every_sampler(name):
    method = make("diffusion.variance=learned", f"sample.sampler.variance={name}", "sample.num_steps=4")
    state = method.init(jax.random.key(0), {}, {})
    images = method.sample(state, jax.random.split(jax.random.key(0), 2), {"label": jnp.array([0, 1])})
    np.testing.assert_allclose(images, 0.3, rtol=1e-6)  # the last step is x0_hat


def evaluate(*words, num=5):
    method = make(*words)
    state = method.init(jax.random.key(0), {}, {})
    return method.evaluate(state, batch_of(num), jax.random.key(4))


def test_rows_of_the_bound_sum_to_it_and_belong_to_examples():
    words = ("diffusion.variance=learned", "eval.likelihood=bound", "eval.likelihood.variance=learned")
    found = evaluate(*words, "eval.likelihood.terms=6")
    protocol = "/6_of_20_terms_learned_variance_clipped_given_label"
    parts = [found.pop(f"bound_{name}{protocol}") for name in ("prior", "diffusion", "reconstruction")]
    np.testing.assert_allclose(found.pop(f"bound{protocol}"), sum(parts), rtol=1e-6)
    assert found.keys() == {"loss"}
    again = evaluate(*words, "eval.likelihood.terms=6", num=3)
    np.testing.assert_allclose(again[f"bound{protocol}"], sum(parts)[:3], rtol=1e-5)


def test_rows_of_the_ode_are_one_density_in_two_units():
    found = evaluate("eval.likelihood=ode", "eval.likelihood.num_steps=5")
    protocol = "/uniform_dequantisation_of_256_levels_ode_5_heun_steps_by_log_snr_1_probe_noise_0.01_given_label"
    nats = found[f"nll{protocol}"]
    np.testing.assert_allclose(found[f"bits_per_dim{protocol}"], nats / 16 / np.log(2) + np.log2(127.5), rtol=1e-5)
    exact = evaluate("eval.likelihood=ode", "eval.likelihood.num_steps=5", "eval.likelihood.probes=0")
    name = protocol.replace("1_probe", "exact_divergence")
    np.testing.assert_allclose(exact[f"nll{name}"], nats, rtol=1e-5)  # x0_hat is constant: no probe is uncertain


def test_without_a_likelihood_only_the_loss_is_evaluated():
    assert evaluate().keys() == {"loss"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("sample.sampler.variance=learned",), "sample.sampler.variance is 'learned', but this model was trained with"),
        (
            ("diffusion.variance=learned", "diffusion.schedule=straight"),
            "variance is 'learned', which belongs to the st",
        ),
        (("diffusion.variance=learned", "diffusion.variance.weight=-1"), "weight is -1.0; it must not be negative"),
        (("eval.likelihood=bound", "diffusion.schedule=straight"), "the straight path has none: use ode"),
        (("eval.likelihood=bound", "eval.likelihood.variance=learned"), "trained with fixed variances: use small or"),
        (("eval.likelihood=bound", "eval.likelihood.variance=tiny"), "is 'tiny'; there are small, large, learned"),
        (("eval.likelihood=bound", "eval.likelihood.terms=2"), "terms is 2; use 0 for all, or 3 to 20"),
        (("eval.likelihood=ode", "eval.likelihood.num_steps=20"), "num_steps is 20; use 1 to 19 along linear"),
    ],
)
def test_refusals_are_one_line(words, line):
    with pytest.raises(UserError) as error:
        make(*words)
    assert line in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["bound", "ode"])
def test_codes_and_binary_pictures_have_no_likelihood_of_grey_values(name):
    with pytest.raises(UserError, match=f"eval.likelihood is '{name}', a likelihood of 256 grey values"):
        make(f"eval.likelihood={name}", spec=dataclasses.replace(SPEC, value_range=(0, 1)))
    config = methods.override(methods.load("latent_mnist")[2], [f"--config.eval.likelihood={name}"])
    code = Code("means", (2, 2, 4), lambda *_: jnp.zeros(()), lambda *_: jnp.zeros(()))
    encoder: Any = Method(init=None, step=None, sample=None, evaluate=None, pictures=None, code=code)  # pyright: ignore
    with pytest.raises(UserError, match="this model is of codes"):
        methods.make(config, SPEC, Stage(encoder, config.pretrained, SPEC, {}))


def test_prediction_kinds_agree_on_what_the_bound_holds_fixed():
    """The term depends on x0_hat alone: the loss of a v network and of an x network differ in the plain part only."""
    level, target = LINEAR.level(T), jnp.full(X0.shape, 0.2)
    x_t = schedule.add_noise(X0, EPS, level)
    as_v = prediction.target(prediction.v(), target, (x_t - level.alpha[:, None, None, None] * target)
                             / level.sigma[:, None, None, None], level)  # fmt: skip
    added = []
    for kind, output in (("x", target), ("v", as_v)):
        network = lambda x, told, output=output: jnp.concatenate([output, 0 * output], axis=-1)  # noqa: E731
        losses = [
            process_of(f"prediction={kind}", "variance=learned",
                       f"variance.weight={weight}").loss(network, X0, EPS, T)
            for weight in (0, 0.01)
        ]  # fmt: skip
        added.append(losses[1] - losses[0])
    np.testing.assert_allclose(added[0][1:], added[1][1:], rtol=2e-3)


@pytest.mark.long
def test_a_run_with_learned_variances_reports_its_bound(made_up_tfds, tmp_path):
    words = ["diffusion.variance=learned", "sample.sampler.variance=learned", "eval.likelihood=bound",
             "eval.likelihood.terms=5", "eval.likelihood.variance=learned", "eval.num_examples=8", "num_steps=4",
             "eval_every=4", "eval.track=0"]  # fmt: skip
    line = [*tiny_words(made_up_tfds), *(f"--config.{word}" for word in words)]
    main.main([*line, f"--workdir={tmp_path / 'run'}"])
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    rows = {row["name"]: row for row in report["metrics"] if "bound" in row["name"]}
    protocol = "/5_of_1000_terms_learned_variance_clipped_given_label"
    parts = [rows[f"test_bound_{name}{protocol}"]["value"] for name in ("prior", "diffusion", "reconstruction")]
    whole = rows[f"test_bound{protocol}"]
    assert whole["value"] == pytest.approx(sum(parts), rel=1e-5)
    assert (whole["better"], rows[f"test_bound_prior{protocol}"]["better"]) == ("lower", None)
    assert "8 test examples" in whole["protocol"]

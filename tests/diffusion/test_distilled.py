"""Progressive distillation: exact for a teacher that is linear, as that of normal data; rounds; refusals."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion.normal_data import MEAN, STD, exact

from gen_jax import methods
from gen_jax.diffusion import distilled, prediction, sampler, schedule, solvers, weighting
from gen_jax.diffusion.objective import Drawn
from gen_jax.diffusion.process import TOLD, Process, no_scale
from gen_jax.method import DataSpec, State, UserError, labelled

SPEC = DataSpec("made_up", (8, 8, 1), 64, labelled("abc"))
PATHS = {"straight": schedule.straight(), "cosine": schedule.cosine(zero_terminal_snr=True)}


def process_of(path):
    return Process(path, prediction.x(), weighting.x(), path.times, no_scale(), TOLD["time"])


def affine(params, label, still=False):
    """A network that predicts the data by a gain and an offset at each time of a grid of 32: {time: (gain, offset)}."""
    del label, still

    def network(x_in, told):
        place = jnp.argmin(jnp.abs(told[:, None] - params["time"]), axis=1)
        gain, offset = (params[name][place][:, None, None, None] for name in ("gain", "offset"))
        return gain * x_in + offset

    return network


def linear_teacher(path, count=32):
    """The exact denoiser of normal data at the times of `count` steps, as weights of `affine`."""
    levels = path.path(distilled._even_times(path, count))
    alpha, sigma = levels.alpha[:-1], levels.sigma[:-1]
    gain = alpha * STD**2 / ((alpha * STD) ** 2 + sigma**2)
    return {"time": levels.time[:-1], "gain": gain, "offset": MEAN - gain * alpha * MEAN}


def halved(path, teacher, count):
    """The student's weights, in closed form: two affine steps are one affine step, whose x0_hat is affine."""
    levels = path.path(distilled._even_times(path, 2 * count))
    ratio = levels.sigma[1:] / levels.sigma[:-1]
    keep = levels.alpha[1:] - ratio * levels.alpha[:-1]
    times = levels.time[:-1]
    place = np.argmin(np.abs(times[:, None] - teacher["time"]), axis=1)
    slope, shift = ratio + keep * teacher["gain"][place], keep * teacher["offset"][place]
    slope, shift = slope[1::2] * slope[::2], slope[1::2] * shift[::2] + shift[1::2]
    alpha, sigma = levels.alpha[::2], levels.sigma[::2]
    ratio = sigma[1:] / sigma[:-1]
    keep = alpha[1:] - ratio * alpha[:-1]
    return {"time": times[::2], "gain": (slope - ratio) / keep, "offset": shift / keep}


def padded(weights):
    """Weights of 32 times, the last of which are never asked for: one program serves all rounds."""
    far = {"time": 1e6, "gain": 0.0, "offset": 0.0}
    return {name: np.pad(leaf, (0, 32 - len(leaf)), constant_values=far[name]) for name, leaf in weights.items()}


def single(weights):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), weights)


def losses_of(process, rounds):
    """(student's weights, teacher's, step) -> loss of 64 examples of random data, spread over the student's steps."""
    u = (np.arange(64) + 0.5) / 64

    @jax.jit
    def losses(student, teacher, step, x0, eps):
        state: Any = State(step, jax.random.key(0), {}, {"teacher": teacher}, {}, {}, {})
        batch = Drawn(x0, eps, jnp.asarray(u, jnp.float32), lambda purpose: jnp.asarray(u, jnp.float32), None, state)
        return distilled.objective(process, rounds).loss(affine, student, batch).trained

    x0, eps = np.random.default_rng(0).normal(size=(2, 64, 2, 2, 1)).astype(np.float32)
    return lambda student, teacher, step: np.asarray(losses(single(student), single(teacher), jnp.int32(step), x0, eps))


@pytest.mark.parametrize("name", PATHS)
def test_a_linear_teacher_is_distilled_exactly_down_to_one_step(name):
    """In every round the student that takes two steps at once has no loss; the last one's sample is the teacher's."""
    path = PATHS[name]
    rounds = distilled.rounds_of(16, 1, 50)
    assert rounds == distilled.Rounds((16, 8, 4, 2, 1), 10)
    losses = losses_of(process_of(path), rounds)
    first = teacher = linear_teacher(path)
    for number, count in enumerate(rounds.counts):
        student = halved(path, teacher, count)
        student, others = padded(student), padded(teacher)
        worse = {**student, "offset": student["offset"] + 0.1}
        for step in (10 * number, 10 * number + 9):
            assert losses(student, others, step).max() < 1e-7
            assert losses(worse, others, step).min() > 0.009  # the weights are 1 or more
        teacher = student
    keys = jax.random.split(jax.random.key(0), 5)
    start = jnp.asarray(np.random.default_rng(1).normal(size=(5, 2, 2, 1)), jnp.float32)

    def samples(weights, count):
        denoise = process_of(path).denoiser(affine(single(weights), None))
        times = distilled._even_times(path, count)
        return jax.jit(functools.partial(sampler.sample, denoise, path, solvers.ddim(), times, keys, (2, 2, 1)))(
            start=start
        )

    np.testing.assert_allclose(samples(teacher, 1), samples(first, 32), atol=1e-5)
    whole = sampler.sample(exact, path, solvers.ddim(), distilled._even_times(path, 32), keys, (2, 2, 1), start=start)
    np.testing.assert_allclose(samples(first, 32), whole, atol=1e-5)


@pytest.mark.parametrize("name", PATHS)
def test_the_plan_has_the_sampler_s_own_steps(name):
    path, rounds = PATHS[name], distilled.rounds_of(8, 4, 100)
    plan = distilled.plan_of(path, rounds)
    for number, count in enumerate((8, 4)):
        levels = path.path(distilled._even_times(path, 2 * count))
        ddim = solvers.ddim().plan(levels, path)
        np.testing.assert_allclose(plan.first[0][number, :count], ddim.of_x_t[::2], rtol=1e-12)
        np.testing.assert_allclose(plan.second[1][number, :count], ddim.of_x0[1::2], rtol=1e-12)
        np.testing.assert_allclose(plan.middle.sigma[number, :count], levels.sigma[1:-1:2], rtol=1e-12)
    # Sampling visits the times at which the last student's steps start.
    np.testing.assert_allclose(path.path(path.steps(4)).sigma[:-1], plan.t.sigma[1, :4], rtol=1e-12)


def test_rounds_begin_with_the_averaged_student_as_teacher_and_as_student():
    rounds = distilled.rounds_of(8, 2, 9)  # three of three steps
    leaf = {name: {"w": jnp.asarray(value)} for name, value in (("params", 1.0), ("ema", 2.0), ("teacher", 3.0))}
    for step in range(12):
        state: Any = State(
            jnp.int32(step), jax.random.key(0), {"denoiser": leaf["params"]}, {"teacher": leaf["teacher"]}, {},
            {"denoiser": leaf["ema"]}, {},
        )  # fmt: skip
        begun = distilled.begin(state, rounds)
        new = step in (3, 6)
        assert float(begun.params["denoiser"]["w"]) == (2.0 if new else 1.0)
        assert float(begun.variables["teacher"]["w"]) == (2.0 if new else 3.0)
        assert int(rounds.number(jnp.int32(step))) == min(step // 3, 2)


def test_the_rate_falls_to_zero_and_the_average_starts_anew_in_every_round():
    drift = distilled.objective(process_of(PATHS["straight"]), distilled.rounds_of(8, 4, 200)).drift
    assert [round(float(drift.rate(jnp.float32(step))), 6) for step in (0, 50, 99, 100)] == [1.0, 0.5, 0.01, 1.0]
    assert [float(drift.ema(0.9, jnp.float32(step))) for step in (0, 10, 99, 100)] == pytest.approx([0, 0.5, 0.9, 0])
    assert drift.b2 is None


CONFIG = methods.load("distilled_mnist:tiny")[2]
SMALL = ["--config.pretrained.network.multipliers=(1,)", "--config.batch_size=8"]


def made(*words):
    config = methods.override(CONFIG, [*SMALL, *(f"--config.{word}" for word in words)])
    methods.check(config)
    whole = methods.whole_stage(config)
    stage = methods.make_stage(whole, SPEC)
    return methods.make(config, SPEC, stage), stage


@pytest.mark.long
def test_the_student_starts_as_its_teacher_and_is_sampled_as_it_was_trained():
    method, stage = made("pretrained.diffusion.prediction=v", "sample.clip=false")
    teacher = jax.jit(stage.method.init)(jax.random.key(3), {}, {}).ema
    rng = np.random.default_rng(0)
    frozen = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.1, jnp.float32), teacher)
    state = jax.jit(method.init)(jax.random.key(0), {}, frozen)
    for kept in (state.params["denoiser"], state.ema["denoiser"], state.variables["teacher"]):
        jax.tree.map(np.testing.assert_array_equal, kept, frozen["denoiser"])
    keys, label = jax.random.split(jax.random.key(1), 3), {"label": jnp.array([0, 1, 2])}
    words = ["sample.sampler=ddim", "sample.num_steps=4", "sample.clip=false"]
    whole = methods.override(stage.config, [f"--config.{word}" for word in words])
    four_steps = methods.make(whole, SPEC)
    expected = jax.jit(four_steps.sample)(state, keys, label)
    np.testing.assert_allclose(jax.jit(method.sample)(state, keys, label), expected, atol=1e-5)
    assert method.edits is None
    assert method.condition == ("label",)
    assert "4 steps" in method.describe["sampler"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["distillation.start=12"], "start must be steps times a power of two"),
        (["distillation.steps=0"], "config.distillation.start is 16 and steps is 0"),
        (["distillation.start=2"], "start must be steps times a power of two"),
        (["num_steps=2", "log_every=1", "eval_every=1", "checkpoint_every=1"], "there are 3 rounds of distillation"),
        (["pretrained.diffusion.schedule=cosine", "pretrained.diffusion.variance=learned"], "learned variances"),
        (
            ["pretrained.diffusion.schedule=cosine", "distillation.steps=16"],
            "the teacher's schedule has 1000 times, which do not part into as many equal steps",
        ),
    ],
)
def test_mistakes_are_refused_in_one_line(words, line):
    with pytest.raises(UserError) as refusal:
        made(*words)
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_cannot_teach_is_refused():
    with pytest.raises(UserError, match="config.pretrained is empty: distillation needs a teacher"):
        methods.make(methods.override(CONFIG, ["--config.pretrained="]), SPEC)
    config = methods.complete(methods.override(CONFIG, []))
    vae = methods.load("vae_mnist:tiny")[2]
    config.pretrained = {key: value for key, value in vae.items() if key not in methods.SHARED}
    stage = methods.make_stage(vae, SPEC)
    with pytest.raises(UserError, match="config.pretrained names a vae; a teacher is a ddpm or a flow"):
        methods.make(config, SPEC, stage)

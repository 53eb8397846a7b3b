"""Guidance by labels that were left out in training: its ends, its one call, its formula, and who may ask for it."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import methods
from gen_jax.diffusion import guidance, model, prediction, sampler, schedule, solvers
from gen_jax.method import DataSpec, UserError, labelled

CONFIG = methods.load("ddpm_mnist")[2]
SPEC = DataSpec("made_up", (4, 4, 1), 64, labelled("abc"))
LABEL = jnp.array([2, 0, 1, 1, 0])
NONE = jnp.full(5, -1)
# As near to 1 and to 0 as a number may be without being it: both halves of the formula are computed, in float32 with
# factors of exactly 1 and (next to) 0.
NEXT_TO_ONE, NEXT_TO_ZERO = float(np.nextafter(1.0, 2.0)), 5e-324


def estimate(x_t, time, label):
    """An x0_hat that depends on everything; [B, 4, 4, 1], [B], [B]."""
    of_label = jnp.sin(3.0 * label + 0.5)[:, None, None, None]
    return jnp.tanh(x_t * (1 + of_label)) + of_label * (1 - time[:, None, None, None] / 2000)


class Asked:
    """A denoiser of labels that remembers each of its calls."""

    def __init__(self):
        self.calls = []

    def told(self, label):
        def denoise(x_t, level):
            self.calls.append((x_t.shape, *(leaf.shape for leaf in level), label.tolist()))
            return estimate(x_t, level.time, label)

        return denoise


def level_of(n):
    return schedule.cosine().level(jnp.linspace(100, 900, n).astype(int))


X_T = jax.random.normal(jax.random.key(0), (5, 4, 4, 1))
LEVEL = level_of(5)


@pytest.mark.parametrize(("scale", "label"), [(1, LABEL), (1.0, LABEL), (0, NONE), (0.0, NONE)])
def test_scale_one_is_the_conditional_model_and_zero_the_unconditional_one(scale, label):
    """Bit by bit, and in one call of the batch itself."""
    asked = Asked()
    made = guidance.guided(asked.told, LABEL, scale)(X_T, LEVEL)
    np.testing.assert_array_equal(made, estimate(X_T, LEVEL.time, label))
    assert asked.calls == [(X_T.shape, (5,), (5,), (5,), label.tolist())]


@pytest.mark.parametrize(("scale", "label"), [(NEXT_TO_ONE, LABEL), (NEXT_TO_ZERO, NONE)])
def test_the_formula_has_the_same_ends_bit_by_bit(scale, label):
    asked = Asked()
    made = guidance.guided(asked.told, LABEL, scale)(X_T, LEVEL)
    np.testing.assert_array_equal(made, estimate(X_T, LEVEL.time, label))
    assert [shape[0] for shape, *_ in asked.calls] == [10]  # not by the short cut


@pytest.mark.parametrize("scale", [-1.0, 0.5, 2.0, 7.5])
def test_other_scales_take_one_call_of_twice_the_batch(scale):
    asked = Asked()
    made = guidance.guided(asked.told, LABEL, scale)(X_T, LEVEL)
    assert asked.calls == [((10, 4, 4, 1), (10,), (10,), (10,), [*LABEL.tolist(), *NONE.tolist()])]
    conditional, unconditional = (np.asarray(estimate(X_T, LEVEL.time, label), np.float64) for label in (LABEL, NONE))
    np.testing.assert_allclose(made, scale * conditional + (1 - scale) * unconditional, rtol=1e-5, atol=1e-5)
    # As Ho & Salimans 2022 write it, with w = scale - 1: (1 + w) conditional - w unconditional.
    w = scale - 1
    np.testing.assert_allclose(made, (1 + w) * conditional - w * unconditional, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", prediction.PREDICTIONS)
def test_it_does_not_matter_of_which_prediction_the_difference_is_taken(name):
    """Reference sheet: 7.5 times, of [1, 2, 3, 4] with and [0.5, 1, 2.5, 2] without a label."""
    outputs = np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[0.5, 1.0, 2.5, 2.0]])
    guided = 7.5 * outputs[0] + (1 - 7.5) * outputs[1]
    np.testing.assert_allclose(guided, [[4.25, 8.5, 6.25, 17.0]])
    kind, x_t = prediction.PREDICTIONS[name](), np.array([[0.3, -1.0, 0.7, 2.0]])
    level = schedule.Level(*np.array([[500.0], [0.6], [0.7]]))
    of_x0 = [prediction.to_x0(kind, output, x_t, level, False) for output in outputs]
    expected = prediction.to_x0(kind, guided, x_t, level, False)
    np.testing.assert_allclose(7.5 * of_x0[0] + (1 - 7.5) * of_x0[1], expected, rtol=1e-12)


@dataclasses.dataclass
class Told:
    """A network that gives `estimate` times its one parameter, and remembers its labels and sizes."""

    out_channels: int = 1
    num_classes: int = 0
    dtype: Any = None
    labels: ClassVar[list] = []
    sizes: ClassVar[list] = []

    def init(self, key, x, time, *, label=None):
        return {"params": {"scale": jnp.ones(())}}

    def apply(self, variables, x_t, time, *, label=None, index=None, train=False, rngs=None):
        Told.sizes.append(len(x_t))
        jax.debug.callback(lambda label: Told.labels.append(np.asarray(label)), label)
        return estimate(x_t, time, label) * variables["params"]["scale"]


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setitem(model.NETWORKS, "told", (Told,))
    Told.labels.clear()
    Told.sizes.clear()

    def make(*words, spec=SPEC):
        common = ("--config.network=told", "--config.optimizer=sgd", "--config.diffusion.prediction=x",
                  "--config.sample.num_steps=4", "--config.sample.clip=false",
                  "--config.sample.sampler=ddim")  # fmt: skip
        return methods.make(methods.override(CONFIG, (*common, *words)), spec)

    return make


DROP = "--config.diffusion.label_drop=0.1"


def sample(method, label):
    keys = jax.random.split(jax.random.key(3), len(label))
    return np.asarray(jax.jit(method.sample)(method.init(jax.random.key(0), {}, {}), keys, {"label": label}))


def test_samples_at_both_ends_are_those_of_the_models_without_guidance(make):
    plain = make()
    assert Told.sizes == []
    conditional, unconditional = sample(plain, LABEL), sample(plain, NONE)
    Told.sizes.clear()
    np.testing.assert_array_equal(sample(make(DROP, "--config.sample.guidance=1.0"), LABEL), conditional)
    np.testing.assert_array_equal(sample(make(DROP, "--config.sample.guidance=0.0"), LABEL), unconditional)
    assert set(Told.sizes) == {5}
    Told.sizes.clear()
    guided = make(DROP, "--config.sample.guidance=3.0")
    assert guided.describe["guidance"] == "guidance 3"
    assert "guidance" not in plain.describe
    samples = sample(guided, LABEL)
    assert set(Told.sizes) == {10}
    # By the same steps with the estimate written out by hand.
    path = schedule.cosine(zero_terminal_snr=True)

    def denoise(x_t, level):
        return 3 * estimate(x_t, level.time, LABEL) - 2 * estimate(x_t, level.time, NONE)

    keys = jax.random.split(jax.random.key(3), 5)
    expected = sampler.sample(denoise, path, solvers.ddim(), path.steps(4), keys, (4, 4, 1))
    np.testing.assert_allclose(samples, expected, atol=2e-5)


CONDITIONAL, FREE = np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[0.5, 1.0, 2.5, 2.0]])
GUIDED = 7.5 * CONDITIONAL + (1 - 7.5) * FREE


def test_the_rescaled_estimate_is_that_of_the_reference_sheet():
    """Standard deviations sqrt(5 / 4) and sqrt(23.59375), of 4.25, 8.5, 6.25 and 17: the ratio is 0.2301741..."""
    assert np.std(CONDITIONAL) / np.std(GUIDED) == pytest.approx(0.230174135059, abs=1e-12)
    made = guidance.rescaled(jnp.asarray(GUIDED), jnp.asarray(CONDITIONAL), 0.7)
    np.testing.assert_allclose(made, [[1.95976805180, 3.91953610360, 2.88201184088, 7.83907220721]], rtol=1e-6)


def test_rescaling_has_the_two_estimates_as_its_ends():
    """For every sample on its own: with 1 the contrast is the conditional one's, with 0 nothing changes."""
    g = X_T * jnp.arange(1.0, 6.0)[:, None, None, None] + 2
    c = estimate(X_T, LEVEL.time, LABEL)
    np.testing.assert_array_equal(guidance.rescaled(g, c, 0.0), g)
    made = np.asarray(guidance.rescaled(g, c, 1.0), np.float64)
    np.testing.assert_allclose(made.std(axis=(1, 2, 3)), np.asarray(c, np.float64).std(axis=(1, 2, 3)), rtol=1e-5)
    ratio = made / np.asarray(g)
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1, :1], ratio.shape), rtol=1e-5)  # r is a multiple


@pytest.mark.parametrize("value", [0.0, 0.3, -7.7, 1e-20])
def test_an_estimate_without_contrast_is_not_rescaled(value):
    flat = jnp.full((2, 4, 4, 1), value)
    np.testing.assert_array_equal(guidance.rescaled(flat, X_T[:2], 0.7), 0.7 * flat + 0.3 * flat)
    slope = jax.grad(lambda g: jnp.sum(guidance.rescaled(g, X_T[:2], 0.7)))(X_T[2:4])
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("name", prediction.PREDICTIONS)
def test_how_rescaling_the_output_differs_from_rescaling_the_estimate(name):
    """As documented: by (1 - k) a x_t / D, which is 0 for x predictions, and for v where alpha is 0."""
    kind, x_t = prediction.PREDICTIONS[name](), np.array([[0.3, -1.0, 0.7, 2.0]])
    for alpha, sigma in ((0.6, 0.8), (0.0, 1.0)):
        if alpha == 0 and kind.needs_signal:
            continue
        level = schedule.Level(*np.array([[500.0], [alpha], [sigma]]))
        k = 0.7 * CONDITIONAL.std() / GUIDED.std() + 0.3
        of_output = prediction.to_x0(kind, k * GUIDED, x_t, level, True)
        a, divisor = kind.coefficients(level)[0], kind.divisor(level, True)
        of_estimate = k * prediction.to_x0(kind, GUIDED, x_t, level, True)
        np.testing.assert_allclose(of_output, of_estimate + (1 - k) * a * x_t / divisor, rtol=1e-12)
        agree = name == "x" or (name in ("v", "edm") and alpha == 0)
        assert np.allclose(of_output, of_estimate, rtol=1e-12) == agree


def test_the_threshold_is_that_of_the_definition():
    """By hand: the quantiles 0.5 and 1 of 4, 2, 1 and 0 are 1.5 and 4; of numbers up to 1, they are at most 1."""
    x = jnp.array([[-4.0, 2.0, 1.0, 0.0], [-1.0, 0.5, 0.25, 0.0]])
    for quantile, expected in ((0.5, [-1.0, 1.0, 2 / 3, 0.0]), (1.0, [-1.0, 0.5, 0.25, 0.0])):
        made = guidance.thresholded(lambda x_t, level: x_t, quantile)(x, None)
        np.testing.assert_allclose(made, [expected, x[1]], rtol=1e-6)


def test_the_threshold_of_values_that_are_mostly_in_range_is_the_fixed_clip():
    x = jnp.array([[-4.0, 2.0, *[0.5] * 98]])
    made = guidance.thresholded(lambda x_t, level: x_t, 0.97)(x, None)
    np.testing.assert_array_equal(made, jnp.clip(x, -1, 1))


def within(interval, time):
    """The estimate at one time with guidance in an interval, and the sizes of the batches that were computed."""
    sizes = []

    def told(label):
        def denoise(x_t, level):
            jax.debug.callback(lambda label: sizes.append(len(label)), label)
            return estimate(x_t, level.time, label)

        return denoise

    level = schedule.Level(jnp.full(5, time), jnp.full(5, 0.6), jnp.full(5, 0.8))
    made = jax.jit(guidance.guided(told, LABEL, 3.0, 0.0, interval))(X_T, level)
    jax.block_until_ready(made)
    jax.effects_barrier()
    return made, sizes


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [((0.25, 0.5), (250.0, 300.0, 499.0), (0.0, 249.0, 500.0, 1000.0)), ((0.25, 1.0), (250.0, 1000.0), (0.0, 249.0)),
     ((0.0, 1.0), (0.0, 500.0, 1000.0), ()), ((0.5, 0.5), (), (0.0, 500.0, 1000.0)), ((1.0, 1.0), (), (1000.0,))],
)  # fmt: skip
def test_guidance_acts_within_its_interval_and_costs_one_single_batch_elsewhere(interval, inside, outside):
    for time in (*inside, *outside):
        made, sizes = within(interval, time)
        times = jnp.full(5, time)
        conditional, free = (estimate(X_T, times, label) for label in (LABEL, NONE))
        np.testing.assert_allclose(made, 3 * conditional - 2 * free if time in inside else conditional, atol=1e-5)
        assert sizes == [10 if time in inside else 5]


def test_samples_with_an_interval_of_everything_and_of_nothing(make):
    guided, plain = sample(make(DROP, "--config.sample.guidance=3.0"), LABEL), sample(make(), LABEL)
    assert np.abs(guided - plain).max() > 0.1

    def of(interval):
        return sample(
            make(DROP, "--config.sample.guidance=3.0", f"--config.sample.guidance_interval={interval}"), LABEL
        )

    np.testing.assert_array_equal(of("0,1"), guided)
    np.testing.assert_allclose(of("0,0.99999"), guided, atol=1e-6)  # the whole path, and yet a choice in every step
    np.testing.assert_array_equal(of("0.4,0.4"), plain)
    np.testing.assert_allclose(of("0.99999,1"), plain, atol=1e-6)


@pytest.mark.parametrize("kind", ["v", "x", "velocity", "edm"])
def test_all_of_it_is_finite_from_pure_noise_on(make, kind):
    """The schedule begins where alpha is exactly 0, and the scale is large."""
    words = (DROP, "--config.sample.guidance=15", "--config.sample.guidance_rescale=0.7", "--config.sample.clip=true",
             "--config.sample.dynamic_threshold=0.95", "--config.sample.guidance_interval=0.1,1",
             f"--config.diffusion.prediction={kind}")  # fmt: skip
    method = make(*words)
    samples = sample(method, LABEL)
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1
    assert [method.describe[name] for name in ("guidance", "guidance_rescale", "guidance_interval", "clip")] == [
        "guidance 15", "rescaled by 0.7", "guided from 0.1 to 1 of the path", "dynamic threshold 0.95"
    ]  # fmt: skip


def test_the_threshold_limits_the_guided_estimate(make):
    words = (DROP, "--config.sample.guidance=5.0", "--config.sample.num_steps=1")
    free = sample(make(*words), LABEL)
    kept = sample(make(*words, "--config.sample.clip=true", "--config.sample.dynamic_threshold=0.9"), LABEL)
    limit = np.maximum(np.quantile(np.abs(free), 0.9, axis=(1, 2, 3), keepdims=True), 1)
    assert limit.max() > 1.2
    np.testing.assert_allclose(kept, np.clip(free, -limit, limit) / limit, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [("guidance_rescale=1.5 guidance=2", "guidance_rescale is 1.5; it must be between 0 and 1"),
     ("guidance_rescale=-0.1 guidance=2", "guidance_rescale is -0.1; it must be between 0 and 1"),
     ("guidance_rescale=0.7", "guidance_rescale=0.7 has no effect with guidance=1: set --config.sample.guidance"),
     ("guidance_rescale=0.7 guidance=0", "guidance_rescale=0.7 has no effect with guidance=0"),
     ("guidance_interval=0.2,0.8", "guidance_interval=0.2,0.8 has no effect with guidance=1"),
     ("guidance_interval=0.8,0.2 guidance=2", "guidance_interval is '0.8,0.2'; it must be two fractions of the path"),
     ("guidance_interval=0.2 guidance=2", "guidance_interval is '0.2'; it must be two fractions"),
     ("guidance_interval=0.2,0.4,0.6 guidance=2", "must be two fractions"),
     ("guidance_interval=nan,1 guidance=2", "must be two fractions"),
     ("guidance_interval=0.2,1.1 guidance=2", "must be two fractions"),
     ("dynamic_threshold=1.1 clip=true", "dynamic_threshold is 1.1; it must be between 0 and 1"),
     ("dynamic_threshold=0.9", "dynamic_threshold=0.9 has no effect with clip=false")],
)  # fmt: skip
def test_values_that_are_out_of_range_or_have_no_effect_are_refused(make, words, said):
    with pytest.raises(UserError) as error:
        make(DROP, *(f"--config.sample.{word}" for word in words.split()))
    assert f"config.sample.{said}" in str(error.value) or said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_guided_estimate_is_clipped_and_not_its_parts(make):
    free, kept = (
        sample(
            make(DROP, "--config.sample.guidance=5.0", "--config.sample.num_steps=1", f"--config.sample.clip={clip}"),
            LABEL,
        )
        for clip in ("false", "true")
    )
    assert np.abs(free).max() > 1.5
    np.testing.assert_array_equal(kept, np.clip(free, -1, 1))


def labels_in_training(method, step, index, label):
    """What the network was told in one step, of examples at these positions of the global batch."""
    state = method.init(jax.random.key(7), {}, {}).replace(step=jnp.int32(step))
    batch = {"image": np.zeros((len(index), 4, 4, 1), np.uint8), "index": index, "label": label}
    Told.labels.clear()
    jax.block_until_ready(jax.jit(method.step)(state, batch))
    jax.effects_barrier()
    (told,) = Told.labels
    return told


def test_about_the_share_of_labels_is_left_out_in_training_and_none_elsewhere(make):
    n, share = 2000, 0.3
    method = make(f"--config.diffusion.label_drop={share}", f"--config.batch_size={n}")
    index, label = np.arange(n, dtype=np.int32), np.arange(n, dtype=np.int32) % 3
    told = [labels_in_training(method, step, index, label) for step in (0, 1)]
    for each in told:
        dropped = each == -1
        np.testing.assert_array_equal(each[~dropped], label[~dropped])
        bound = 4 * np.sqrt(share * (1 - share) / n)
        assert abs(dropped.mean() - share) < bound
        for one in range(3):  # of every class
            assert abs(dropped[label == one].mean() - share) < bound * 3**0.5
    # Others in the next step: as often both times as chance has it.
    both = np.mean((told[0] == -1) & (told[1] == -1))
    assert abs(both - share**2) < 4 * np.sqrt(share**2 / n)
    batch = {"image": np.zeros((n, 4, 4, 1), np.uint8), "index": index, "label": label}
    Told.labels.clear()
    jax.jit(method.evaluate)(method.init(jax.random.key(7), {}, {}), batch, jax.random.key(0))
    jax.effects_barrier()
    np.testing.assert_array_equal(Told.labels[-1], label)


def test_whose_label_is_left_out_belongs_to_positions_in_the_batch(make):
    method = make("--config.diffusion.label_drop=0.5", "--config.batch_size=40")
    index, label = np.arange(40, dtype=np.int32), np.arange(40, dtype=np.int32) % 3
    whole = labels_in_training(method, 5, index, label)
    halves = [labels_in_training(method, 5, index[part], label[part]) for part in (slice(20), slice(20, 40))]
    np.testing.assert_array_equal(np.concatenate(halves), whole)
    np.testing.assert_array_equal(labels_in_training(method, 5, index[::-1], label[::-1]), whole[::-1])
    assert 0 < np.mean(whole == -1) < 1


def test_no_label_is_left_out_where_the_share_is_none(make):
    index, label = np.arange(40, dtype=np.int32), np.arange(40, dtype=np.int32) % 3
    np.testing.assert_array_equal(labels_in_training(make("--config.batch_size=40"), 0, index, label), label)


def test_who_never_saw_a_label_left_out_refuses_guidance(make):
    for scale in ("0.0", "2.0"):
        with pytest.raises(UserError, match=rf"is {float(scale):g}, but this model was trained without label dropout"):
            make(f"--config.sample.guidance={scale}")
        with pytest.raises(UserError, match="this model is not conditional: train one with"):
            make(f"--config.sample.guidance={scale}", "--config.diffusion.conditional=false")
    with pytest.raises(UserError, match=r"label_drop is 0\.1, but the model is not conditional: use 0"):
        make(DROP, "--config.diffusion.conditional=false")
    make("--config.sample.guidance=1.0")


def test_the_report_shows_scales_of_a_model_that_can_be_guided(make):
    batch = {"image": np.zeros((2, 4, 4, 1), np.uint8), "index": np.arange(2), "label": np.arange(2)}
    for words, shown in (((DROP,), True), ((), False)):
        method = make(*words, "--config.sample.num_steps=1")
        pictures = jax.jit(method.pictures)(method.init(jax.random.key(0), {}, {}), jax.random.key(1), batch)
        assert ("guidance" in pictures) == shown
        if shown:
            assert pictures["guidance"].images.shape == (4 * 3, 4, 4, 1)
            assert pictures["guidance"].columns == 3

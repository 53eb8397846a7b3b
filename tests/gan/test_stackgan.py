import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from gen_jax import methods, parallel
from gen_jax.gan import stackgan, text_networks
from gen_jax.method import DataSpec, Feature, UserError

TEXT = Feature((3, 1024), "float32", several=True)
SPEC = DataSpec("made_up", (64, 64, 3), 64, {"text": TEXT})
LARGE = DataSpec("made_up", (256, 256, 3), 64, {"text": TEXT})


def config_of(*words, name="stackgan_shapes"):
    config = methods.override(methods.load(name)[2], words)
    methods.check(config)
    return config


def counted(network, *inputs):
    variables = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    return sum(x.size for x in jax.tree.leaves(variables["params"]))


def zeros(*shapes):
    return tuple(jnp.zeros((2, *shape)) for shape in shapes)


# systems.md, section 8: the released code's networks at GF 128, DF 64; GF 192, DF 96 with 2 blocks; GF 32, DF 16.
@pytest.mark.parametrize(
    ("width", "blocks", "sizes"),
    [
        (128, 4, (10_301_248, 5_715_713, 26_290_080, 71_260_929)),
        (192, 2, (20_020_832, 12_407_425, 37_130_480, 159_877_249)),
        (32, 2, (1_597_072, 470_465, 1_411_880, 4_568_769)),
    ],
)
def test_networks_have_the_sizes_of_the_released_ones(width: int, blocks: int, sizes: tuple[int, ...]):
    noise = zeros((100,), (1024,), (128,))
    first = text_networks.FirstGenerator((64, 64, 3), width)
    second = text_networks.SecondGenerator((256, 256, 3), width, blocks)
    judges = [text_networks.TextDiscriminator(width // 2, levels) for levels in (4, 6)]
    found = (
        counted(first, *noise, None),
        counted(judges[0], *zeros((64, 64, 3), (128,))),
        counted(second, *noise, *zeros((64, 64, 3))),
        counted(judges[1], *zeros((256, 256, 3), (128,))),
    )
    assert found == sizes


def test_upsampling_is_one_value_of_the_config():
    noise, small = zeros((100,), (1024,), (128,)), zeros((64, 64, 3))
    sizes = {}
    for how in ("nearest", "shuffle", "transposed"):
        first = text_networks.FirstGenerator((64, 64, 3), upsampling=how)
        second = text_networks.SecondGenerator((256, 256, 3), upsampling=how)
        sizes[how] = counted(first, *noise, None), counted(second, *noise, *small)
    assert sizes["shuffle"] == (29_101_888, 30_990_240)
    # Kernels of 4x4 in place of 3x3, in four layers that halve 1,024 and 512 channels.
    more = [7 * sum(c * c // 2 for c in channels) for channels in ((1024, 512, 256, 128), (512, 256, 128, 64))]
    assert sizes["transposed"] == tuple(n + m for n, m in zip(sizes["nearest"], more, strict=True))


def test_a_residual_second_stage_adds_to_the_enlarged_picture_and_lets_gradients_pass():
    second = text_networks.SecondGenerator((32, 32, 3), width=4, num_blocks=1, condition_dim=3, residual=True)
    noise, small = zeros((2,), (5,), (3,)), jnp.tile(jnp.array([-1.0, 0.25, 1.0]), (2, 8, 8, 1))
    variables = second.init(jax.random.key(0), *noise, small)
    kernel = variables["params"]["out"]["kernel"]

    def picture(kernel, train):
        params = variables["params"] | {"out": {"kernel": kernel}}
        made = second.apply(variables | {"params": params}, *noise, small, train=train, mutable=["batch_stats"])
        return made[0][0]

    enlarged = jnp.tile(small[:, :1, :1], (1, 32, 32, 1))
    np.testing.assert_allclose(picture(0 * kernel, False), enlarged, atol=1e-6)
    assert jnp.abs(picture(99 * kernel, True)).max() > 1 >= jnp.abs(picture(99 * kernel, False)).max()
    slope = jax.grad(lambda kernel: picture(kernel, True).sum())(0 * kernel)
    assert (jnp.abs(slope).sum(axis=(0, 1, 2)) > 0).all()  # also where a channel is at an end of the range


def small_method(*words):
    words = [
        "--config.network.width=4", "--config.network.discriminator_width=4", "--config.network.condition_dim=3",
        "--config.network.levels=1", "--config.network.discriminator_levels=1", "--config.stackgan.latents=2",
        "--config.stackgan.penalty=none", *words,
    ]  # fmt: skip
    spec = DataSpec("made_up", (8, 8, 1), 16, {"text": Feature((2, 5), "float32", several=True)})
    return stackgan.make(config_of(*words), spec), spec


def test_the_loss_of_the_discriminator_and_its_slopes():
    r, w, f = 0.8, 0.2, -0.4
    sp, s = lambda x: np.log1p(np.exp(x)), lambda x: 1 / (1 + np.exp(-x))
    loss, slopes = jax.value_and_grad(stackgan.discriminator_loss, (0, 1, 2))(r, w, f)
    assert abs(loss - (sp(-r) + (sp(w) + sp(f)) / 2)) < 1e-6
    np.testing.assert_allclose(slopes, [-s(-r), s(w) / 2, s(f) / 2], atol=1e-6)


def test_the_divergence_is_that_of_normal_distributions():
    rng = np.random.default_rng(0)
    mean, log_var = rng.normal(size=(2, 1, 3))
    x = np.linspace(-12, 12, 20_001)[:, None]
    p = np.exp(-((x - mean) ** 2) / (2 * np.exp(log_var)) - log_var / 2) / np.sqrt(2 * np.pi)
    q = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    integral = np.trapezoid(p * (np.log(p + 1e-300) - np.log(q)), x, axis=0).mean()
    assert abs(float(stackgan.divergence(jnp.asarray(mean), jnp.asarray(log_var))[0]) - integral) < 1e-4


def test_wrong_captions_are_those_of_the_example_before():
    class Model:
        config = type("", (), {"accumulate": 1})

    every = jnp.arange(4 * 2 * 3.0).reshape(4, 2, 3)
    told = stackgan._told(Model, {"text": every, "index": jnp.arange(4)}, jax.random.key(0))
    for row in range(4):
        assert any((told["text"][row] == every[row, k]).all() for k in range(2))
    np.testing.assert_array_equal(told["wrong"], np.roll(told["text"], 1, axis=0))


def test_the_pass_of_wrong_captions_sees_wrong_captions(monkeypatch):
    """The gradient in the caption of one example: through its own pass, and through that of the example after it."""
    seen = []

    def judge(model, params, state, x, c):
        seen.append(c)
        return text_networks.Verdict(jnp.sum(c, axis=-1)), {}

    monkeypatch.setattr(stackgan, "_judge", judge)
    method, _ = small_method("--config.network.norm=rms", "--config.network.generator_norm=rms")
    examples = {"image": jnp.zeros((4, 8, 8, 1), jnp.uint8), "index": jnp.arange(4)}
    state = parallel.init_state(method.init, 0, parallel.make_mesh(1), {**examples, "text": jnp.zeros((4, 2, 5))}, {})

    def logits(text):  # of the discriminator's passes in order: right, wrong, generated
        seen.clear()
        method.step(state, {**examples, "text": jnp.broadcast_to(text[:, None], (4, 2, 5))})
        return jnp.stack([jnp.sum(c, axis=-1) for c in seen[:3]])

    text = jax.random.normal(jax.random.key(1), (4, 5))
    slopes = jnp.abs(jax.jit(jax.jacobian(logits))(text)).sum(axis=-1)  # [passes, B, B]
    own = np.eye(4, dtype=bool)
    before = np.roll(own, 1, axis=0)  # example i is told the caption of example i - 1
    for number, expected in enumerate((own, before, own)):
        np.testing.assert_array_equal(np.asarray(slopes[number]) > 0, expected)


def test_the_same_caption_is_not_a_wrong_one(monkeypatch):
    # Of right, wrong and generated pairs, and for the generator.
    logits = iter([jnp.zeros(4), jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.full(4, -1.0), jnp.zeros(4)])
    monkeypatch.setattr(stackgan, "_judge", lambda *_: (text_networks.Verdict(next(logits)), {}))
    method, _ = small_method("--config.network.norm=rms", "--config.network.generator_norm=rms")
    text = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0, 1.0])[:, None, None], (4, 2, 5))  # rows 1 and 3 as those before
    batch = {"image": jnp.zeros((4, 8, 8, 1), jnp.uint8), "index": jnp.arange(4), "text": text}
    state = parallel.init_state(method.init, 0, parallel.make_mesh(1), batch, {})
    _, scalars = jax.jit(method.step)(state, batch)
    right, wrong, fake = (np.log1p(np.exp(x)).mean() for x in (0.0, np.array([1.0, -1.0, 3.0, -1.0]), -1.0))
    np.testing.assert_allclose(scalars["loss"], right + (wrong + fake) / 2, rtol=1e-6)


def test_the_gradient_of_the_condition_that_the_discriminator_is_told_trains_no_generator():
    params = {"augment": {"dense": {"kernel": jnp.ones((5, 6)), "bias": jnp.zeros(6)}}}
    slopes = jax.grad(lambda params: jnp.sum(stackgan._condition_of(params, jnp.ones((2, 5)))))(params)
    assert all(not x.any() for x in jax.tree.leaves(slopes))
    assert stackgan._condition_of(params, jnp.ones((2, 5))).tolist() == [[5.0] * 3] * 2


def test_the_mean_of_the_generator_is_what_the_discriminator_is_told():
    network = text_networks.Augment(3)
    text = jax.random.normal(jax.random.key(0), (2, 5))
    params = network.init(jax.random.key(1), text)["params"]
    mean, _ = network.apply({"params": params}, text)
    np.testing.assert_allclose(stackgan._condition_of({"augment": params}, text), mean, atol=1e-6)


def test_texts_start_with_conditions_that_noise_does_not_hide():
    directions = jax.random.normal(jax.random.key(0), (64, 384))
    texts = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)  # of length 1, as encoders give them
    for scale in (0.1, 1.0, 30.0):
        (mean, log_var), _ = text_networks.Augment(128).init_with_output(jax.random.key(1), scale * texts)
        np.testing.assert_allclose(jnp.var(mean), 1.0, rtol=0.05)
        assert not log_var.any()


def test_a_second_stage_keeps_its_first_one_frozen():
    first = config_of()
    stage = methods.make_stage(first, SPEC)
    words = ["--config.pretrained=somewhere"]
    method = methods.make(config_of(*words, name="stackgan_shapes_large"), LARGE, stage)
    state = methods.abstract_state(method, LARGE, stage, parallel.make_mesh(1))
    after, scalars = jax.eval_shape(method.step, state, LARGE.abstract_batch(4))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert state.frozen.keys() == {"generator", "generator_variables"}
    assert {"loss", "generator_loss", "kl", "wrong_score", "grad_norm"} <= scalars.keys()
    assert not any("frozen" in name for name in traverse_util.flatten_dict(state.params))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 3))
    text = jax.ShapeDtypeStruct((3, 1024), "float32")
    assert jax.eval_shape(method.sample, state, keys, {"text": text}).shape == (3, 256, 256, 3)


def test_a_text_is_read_from_the_picture_and_not_from_the_condition():
    network = text_networks.TextDiscriminator(4, 2, "none", reads=7)
    x, c = jax.random.normal(jax.random.key(0), (2, 16, 16, 3)), jax.random.normal(jax.random.key(1), (2, 5))
    variables = network.init(jax.random.key(2), x, c)
    verdict, other = network.apply(variables, x, c), network.apply(variables, x, 2 * c)
    assert verdict.reading.shape == (2, 7)
    np.testing.assert_array_equal(verdict.reading, other.reading)
    assert (verdict.logits != other.logits).all()
    assert (network.apply(variables, 2 * x, c).reading != verdict.reading).all()
    silent = text_networks.TextDiscriminator(4, 2, "none")
    assert counted(network, x, c) - counted(silent, x, c) == 3 * 3 * 8 * 8 + 4 * 4 * 8 * 7 + 7
    assert silent.apply(silent.init(jax.random.key(2), x, c), x, c).reading is None


def losses_of_a_step(monkeypatch, judge, text, *words):
    """The values that the two players minimise, and the step's scalars, with another discriminator."""
    losses = []

    def value_and_grad(loss, params, batch, pieces):
        (value, (scalars, variables)), grads = jax.value_and_grad(loss, has_aux=True)(params, batch)
        losses.append(float(value))
        return (scalars, variables), grads

    norms = ["--config.network.norm=rms", "--config.network.generator_norm=rms", "--config.stackgan.kl_weight=0"]
    method, _ = small_method(*norms, *words)
    batch = {"image": jnp.zeros((4, 8, 8, 1), jnp.uint8), "index": jnp.arange(4), "text": jnp.asarray(text)}
    state = parallel.init_state(method.init, 0, parallel.make_mesh(1), batch, {})
    monkeypatch.setattr(stackgan, "_judge", judge)
    monkeypatch.setattr(stackgan.optimizer, "value_and_grad", value_and_grad)
    return losses, method.step(state, batch)[1]


def test_the_errors_of_texts_that_are_read_enter_both_losses(monkeypatch):
    """Each player's loss has the weight times the error on its own pictures, worked out by hand."""
    text = np.tile([3.0, 4.0, 0.0, 0.0, 0.0], (4, 2, 1))  # a mean square of 5: scaled to 3 / 5^0.5 and 4 / 5^0.5
    right = np.array([3.0, 4.0, 0.0, 0.0, 0.0]) / np.sqrt(5)
    readings = iter([right + 1.0, right, right, right + np.array([2.0, 0.0, 0.0, 0.0, 0.0])])

    def judge(model, params, state, x, c):
        return text_networks.Verdict(jnp.zeros(4), jnp.broadcast_to(next(readings), (4, 5))), {}

    losses, scalars = losses_of_a_step(monkeypatch, judge, text, "--config.stackgan.reading_weight=10")
    np.testing.assert_allclose(scalars["real_reading_error"], 1, rtol=1e-5)
    np.testing.assert_allclose(scalars["fake_reading_error"], 4 / 5, rtol=1e-5)
    np.testing.assert_allclose(losses, [2 * np.log(2) + 10, np.log(2) + 8], rtol=1e-5)


def test_the_penalty_on_steep_logits_enters_the_loss_of_the_discriminator(monkeypatch):
    """Logits of 3 times the sum of 64 pixels: R1 and R2 are 9 * 64 / 2 each."""

    def judge(model, params, state, x, c):
        slope = 3 * jnp.sum(x - jax.lax.stop_gradient(x), axis=(1, 2, 3))  # its value is 0
        return text_networks.Verdict(slope), {}

    words = ("--config.stackgan.penalty=r1_r2", "--config.stackgan.penalty.weight=0.5")
    losses, scalars = losses_of_a_step(monkeypatch, judge, np.ones((4, 2, 5)), *words)
    assert float(scalars["penalty"]) == 576
    np.testing.assert_allclose(losses, [2 * np.log(2) + 288, np.log(2)], rtol=1e-6)


def test_a_discriminator_with_learned_values_in_place_of_a_normalisation_judges_each_picture_alone():
    network = text_networks.TextDiscriminator(4, 2, "bias")
    x, c = jax.random.normal(jax.random.key(0), (3, 16, 16, 3)), jax.random.normal(jax.random.key(1), (3, 5))
    variables = network.init(jax.random.key(2), x, c)
    both, alone = (network.apply(variables, x[:n], c[:n], train=True).logits for n in (3, 1))
    np.testing.assert_allclose(both[:1], alone, rtol=1e-5)
    assert {name for name in variables["params"] if name.endswith("norm")} == {"down_1_norm", "join_norm"}
    assert set(variables["params"]["join_norm"]) == {"bias"}


def test_without_conditioning_noise_one_text_gives_one_condition():
    method, _ = small_method("--config.sample.text_noise=0")
    assert method.describe == {"text noise": "no conditioning noise"}
    noisy, _ = small_method("--config.sample.text_noise=0.5")
    assert noisy.describe == {"text noise": "conditioning noise times 0.5"}


@pytest.mark.parametrize(
    ("words", "spec", "message"),
    [
        ([], DataSpec("mnist", (64, 64, 3), 64), "stackgan needs texts, and data set mnist comes without"),
        (["--config.network=second"], SPEC, "config.network is second and config.pretrained is '': give the directory"),
        (["--config.network.upsampling=nearst"], SPEC, "did you mean nearest?"),
        (["--config.stackgan.kl_weight=-1"], SPEC, "the others not negative"),
        (["--config.stackgan.reading_weight=-1"], SPEC, "reading_weight -1 and .* the others not negative"),
        (["--config.accumulate=2"], SPEC, "batch normalisation would see minibatches"),
        (["--config.stackgan.penalty=r1", "--config.network.norm=batch"], SPEC, "penalty is r1, which penalises"),
    ],
)
def test_what_cannot_be_trained_is_refused(words: list[str], spec: DataSpec, message: str):
    with pytest.raises(UserError, match=message):
        methods.make(config_of(*words), spec)


def test_a_first_stage_of_another_kind_is_refused():
    stage = methods.make_stage(config_of(), SPEC)
    large = config_of("--config.pretrained=x", name="stackgan_shapes_large")
    with pytest.raises(UserError, match="pictures of 64x64, and this run of 64x64: the second stage must be larger"):
        methods.make(large, SPEC, stage)
    other = DataSpec("made_up", (256, 256, 3), 64, {"text": TEXT._replace(shape=(3, 7))})
    with pytest.raises(UserError, match="embeddings of 1024 numbers, and this run uses made_up with 7"):
        methods.make(large, other, stage)
    odd = DataSpec("made_up", (192, 192, 3), 64, {"text": TEXT})
    with pytest.raises(UserError, match="cannot become 192x192 by doubling"):
        methods.abstract_state(methods.make(large, odd, stage), odd, stage, parallel.make_mesh(1))

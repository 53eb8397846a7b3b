"""The game: both updates in closed form, whose gradients go where, and what two networks share."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from gen_jax import main, methods, parallel
from gen_jax.gan import constraints, game
from gen_jax.gan.defaults import gan_config
from gen_jax.method import DataSpec, UserError, labelled, to_model
from gen_jax.nn.conv import conv

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
SPEC = DataSpec("made_up", (8, 8, 1), 64, labelled("0123456789"))
POINTS = DataSpec("points", (1, 1, 1), 64, kind="points", value_range=(-1, 1))
LINEAR = {"name": "dense", "generator_hidden": (), "hidden": (), "output": "linear"}
RATE, JUDGE_RATE = 0.3, 0.2
RNG = np.random.default_rng(0)


def load(name, *words):
    config = methods.load(str(FOLDER / f"{name}.py:tiny"))[2]
    config = methods.override(config, [f"--config.{word}" for word in words])
    methods.check(config)
    return config


def batch_of(num, lead=()):
    images = RNG.integers(0, 256, (*lead, num, 8, 8, 1)).astype(np.uint8)
    index = np.broadcast_to(np.arange(num, dtype=np.int32), (*lead, num))
    return {"image": images, "label": index % 10, "index": index}


def linear_game(*words):
    """G(z) = a z + b and D(x) = w x + v, both by gradient descent, with a = 0: every generated point is b."""
    config = gan_config(learning_rate=RATE, discriminator_rate=JUDGE_RATE)
    config.network = ConfigDict(LINEAR)
    config.optimizer = {"name": "sgd", "b1": 0.0, "learning_rate": RATE, "clip_norm": 0.0}
    config.gan.latents = 1
    config = methods.override(methods.complete(config), [f"--config.{word}" for word in words])
    method = methods.make(config, POINTS)
    state = method.init(jax.random.key(0), {}, {})
    params = {"generator": {"out": (0.0, 0.7)}, "discriminator": {"out": (0.5, -0.1)}}
    state = state.replace(
        params=jax.tree.map(
            lambda p: {"kernel": jnp.array([[p[0]]]), "bias": jnp.array([p[1]])},
            params,
            is_leaf=lambda x: isinstance(x, tuple),
        )
    )
    return jax.jit(method.step), state


def points(x):
    x = np.float32(x)[..., None, None, None]
    return {"image": x, "index": np.broadcast_to(np.arange(x.shape[-4], dtype=np.int32), x.shape[:-3])}


def s(x):
    return 1 / (1 + np.exp(-np.float64(x)))


def judge_step(w, v, x, b):
    """One step of the cross-entropy's gradient by hand."""
    real, fake = -s(-(w * x + v)), s(w * b + v)
    return w - JUDGE_RATE * (np.mean(real * x) + fake * b), v - JUDGE_RATE * (np.mean(real) + fake)


def found(state):
    judge, made = state.params["discriminator"]["out"], state.params["generator"]["out"]
    return [float(p.ravel()[0]) for p in (judge["kernel"], judge["bias"], made["bias"])]


# d loss / d D(G(z)) of the generator, after the discriminator's step, from logits on real points and on b.
SLOPES = {
    "non_saturating": lambda r, f: -s(-f),
    "minimax": lambda r, f: -s(f),
    "relativistic": lambda r, f: np.mean(-s(r - f)),
}


@pytest.mark.parametrize("loss", SLOPES)
def test_both_updates_are_the_closed_form_and_each_network_moves_by_its_own_loss(loss):
    # With a gradient of the wrong loss in it, either network would land elsewhere.
    x, (w, v), b = RNG.normal(size=5), (0.5, -0.1), 0.7
    step, state = linear_game(f"gan.loss={loss}")
    state, scalars = step(state, points(x))
    if loss == "relativistic":
        slope = -s(-(w * x + v - w * b - v))  # in the real logit; in the generated one its negative
        w, v = w - JUDGE_RATE * np.mean(slope * (x - b)), v
    else:
        score = np.mean(s(w * x + v))
        np.testing.assert_allclose([scalars["real_score"], scalars["fake_score"]], [score, s(w * b + v)], rtol=1e-5)
        w, v = judge_step(w, v, x, b)
    b -= RATE * SLOPES[loss](w * x + v, w * b + v) * w
    np.testing.assert_allclose(found(state), [w, v, b], rtol=1e-5)


def test_critic_steps_see_different_points_and_the_generator_moves_once():
    x, (w, v), b = RNG.normal(size=(3, 4)), (0.5, -0.1), 0.7
    step, state = linear_game("gan.critic_steps=3")
    state, _ = step(state, points(x))
    for minibatch in x:
        w, v = judge_step(w, v, minibatch, b)
    np.testing.assert_allclose(found(state), [w, v, b + RATE * s(-(w * b + v)) * w], rtol=1e-5)
    assert int(state.step) == 1


def test_clipping_bounds_every_leaf_after_every_step():
    words = ("gan.loss=wasserstein", "gan.constraint=clip", "gan.constraint.bound=0.05", "optimizer.name=rmsprop")
    step, state = linear_game(*words)
    for _ in range(5):
        state, _ = step(state, points(RNG.normal(size=4)))
        leaves = jax.tree.leaves(state.params["discriminator"])
        assert len(leaves) == 2
        assert max(float(jnp.max(jnp.abs(leaf))) for leaf in leaves) <= np.float32(0.05)
        assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(state.params["generator"])) > 0.05


def test_the_spectral_vectors_are_iterated_once_a_step_before_the_weights_move():
    method = methods.make(load("cgan_mnist"), SPEC)
    before = jax.jit(method.init)(jax.random.key(0), {}, {})
    after, _ = jax.jit(method.step)(before, batch_of(8))
    spectral = constraints.spectral()
    expected = jax.jit(spectral.advance)(before.params["discriminator"], before.variables["vectors"])
    same = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(same, after.variables["vectors"], expected)
    kernels = [x for x in jax.tree.leaves(before.params["discriminator"]) if x.ndim > 1]
    assert len(jax.tree.leaves(expected)) == len(kernels) == 4  # two convolutions, the last layer, the labels


SGD = ("optimizer.name=sgd", "optimizer.b1=0", "optimizer.learning_rate=0.05",
       "discriminator_optimizer.learning_rate=0.05")  # fmt: skip


@pytest.mark.slow
def test_batch_norm_takes_the_global_batch():
    # 1 device = 8: parameters, running averages, and the averages that are sampled.
    method = methods.make(load("dcgan_mnist", *SGD), SPEC)
    batches = [batch_of(16) for _ in range(3)]

    def train(devices, executor):
        mesh = parallel.make_mesh(devices)
        run = parallel.make_executor(executor, mesh)
        state = parallel.init_state(method.init, 0, mesh, batches[0], {})
        update = run.compile_step(method.step, state, run.put(batches[0], 0), 0)
        for batch in batches:
            state, _ = update(state, run.put(batch, 0))
        return jax.tree.map(np.asarray, (state.params, state.variables, state.ema))

    one = train(1, "jit")
    assert "batch_stats" in one[1]["generator"]
    assert "batch_stats" in one[1]["discriminator"]
    for executor in ("jit", "pmap"):
        same = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(same, train(8, executor), one)


def test_running_averages_are_those_of_real_images_and_the_generator_s_are_averaged_too():
    method = methods.make(load("dcgan_cats"), SPEC)
    state = jax.jit(method.init)(jax.random.key(0), {}, {})
    batch = batch_of(8)
    after, _ = jax.jit(method.step)(state, batch)
    kernel = state.params["discriminator"]["conv_0"]["kernel"]
    real = conv(to_model(batch["image"], SPEC.value_range), kernel, (2, 2))
    kept = after.variables["discriminator"]["batch_stats"]["norm_0"]["mean"]
    np.testing.assert_allclose(kept, 0.1 * real.mean((0, 1, 2)), rtol=1e-3, atol=1e-6)
    # The first decay of the moving average is 0: it is the newest values.
    same = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    jax.tree.map(same, after.ema["generator_variables"], after.variables["generator"])


def test_the_forward_pass_of_the_generator_is_computed_once():
    # Two layers a network. On a CPU the input gradient of stride 2 is one convolution each of 4 phases, and none where
    # it ends in an image. Discriminator: 2 passes of 2, 4 weight gradients, 2 in the inputs of second layers.
    # Generator: 2 forward, and backward through the discriminator's second layer; of its own layers only the first is
    # a convolution (the last ends in an image): forward, weight and input gradient.
    method = methods.make(load("dcgan_mnist", "network.upsampling=nearest"), SPEC)
    state = jax.eval_shape(method.init, jax.random.key(0), {}, {})
    text = jax.jit(method.step).lower(state, batch_of(8)).compile().as_text()
    phases = 4
    assert text.count(" convolution(") == (2 * 2 + 4 + 2 * phases) + (2 + phases) + (1 + 1 + 1)


def test_instance_noise_fades_and_belongs_to_examples():
    add, x, key = game._instance_noise(2.0, 10), jnp.zeros((1000, 2, 2, 1)), jax.random.key(0)
    for step, std in ((0, 2.0), (5, 1.0), (10, 0.0), (20, 0.0)):
        assert float(jnp.std(add(x, jnp.int32(step), jnp.arange(1000), key))) == pytest.approx(std, rel=0.05)
    part = add(x[:2], jnp.int32(0), jnp.arange(3, 5), key)
    np.testing.assert_array_equal(part, add(x, jnp.int32(0), jnp.arange(1000), key)[3:5])
    constant = game._instance_noise(2.0, 0)(x, jnp.int32(10**6), jnp.arange(1000), key)
    assert float(jnp.std(constant)) == pytest.approx(2.0, rel=0.05)


TOLD = ("network.minibatch_std=true", "network.norm=none")


@pytest.mark.parametrize(
    ("name", "words", "hint"),
    [
        ("dcgan_mnist", ("gan.penalty=wgan_gp",), "with batch normalisation a logit depends on the whole batch"),
        ("dcgan_mnist", ("gan.penalty=r1",), "use config.network.norm=none"),
        ("dcgan_mnist", (*TOLD, "gan.penalty=r1"), "the whole batch, but config.gan.penalty is r1"),
        ("dcgan_mnist", (*TOLD, "accumulate=2"), "the whole batch, but config.accumulate is 2"),
        ("dcgan_mnist", ("sample.truncation=-1",), "use a bound above 0, or 0 for none"),
        ("dcgan_mnist", ("accumulate=2",), "batch normalisation would see minibatches"),
        ("wgan_gp_mnist", ("accumulate=2", "network.generator_norm=rms"), "gradient accumulation does not work"),
        ("cgan_mnist", ("gan.loss=hing",), "did you mean hinge"),
        ("cgan_mnist", ("gan.constraint=spectrum",), "did you mean spectral"),
        ("cgan_mnist", ("gan.penalty=r3",), "allowed: none, wgan_gp, r1, r2, r1_r2"),
        ("cgan_mnist", ("gan.real_target=0.9",), "hinge loss has no target"),
        ("cgan_mnist", ("gan.latents=0",), "gan.latents is 0; it must be at least 1"),
        ("cgan_mnist", ("gan.critic_steps=0",), "gan.critic_steps is 0"),
        ("cgan_mnist", ("gan.instance_noise=-1.0",), "must not be negative"),
        ("cgan_mnist", ("discriminator_optimizer.learning_rate=-1.0",), "use 0 or more"),
        ("acgan_cifar10", ("gan.class_weight=-1.0",), "must not be negative"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(name, words, hint):
    with pytest.raises(UserError) as error:
        methods.make(load(name, *words), SPEC)
    assert hint in str(error.value)
    assert "\n" not in str(error.value)


def test_labels_that_the_data_has_not():
    for name, hint in (("cgan_mnist", "config.gan.conditional needs labels"), ("acgan_cifar10", "acgan needs labels")):
        with pytest.raises(UserError, match=hint):
            methods.make(load(name), DataSpec("plain", (8, 8, 1), 64))
        with pytest.raises(UserError, match="at least two classes, and data set one has 1"):
            methods.make(load(name), DataSpec("one", (8, 8, 1), 64, labelled(["all"])))
    assert not methods.make(load("dcgan_mnist"), DataSpec("plain", (8, 8, 1), 64)).condition


@pytest.mark.parametrize(
    ("file", "shape", "sizes"),
    [
        ("dcgan_cats", (64, 64, 3), (3_806_080, 2_765_696)),
        ("dcgan_cats:ablation", (64, 64, 3), (3_696_384, 675_712)),
        # Dense, 16 places x the first width; convolutions; norms of the generator, biases of the discriminator; dense;
        # on CIFAR-10 also the labels of both.
        (
            "r3gan_cats",
            (64, 64, 3),
            (
                128 * 2048 + 16 * 128 * 64 + 16 * 64 * 32 + 64 * 32 * 3 + 2 * (128 + 64 + 32),
                16 * 3 * 16 + 16 * 16 * 32 + 16 * 32 * 64 + 16 + 32 + 64 + 64 * 64,
            ),
        ),
        (
            "r3gan_cifar10",
            (32, 32, 3),
            (
                (64 + 10) * 4096 + 16 * 256 * 128 + 16 * 128 * 64 + 16 * 64 * 3 + 2 * (256 + 128 + 64),
                16 * 3 * 32 + 16 * 32 * 64 + 16 * 64 * 128 + 32 + 64 + 128 + 16 * 128 + 10 * 16 * 128,
            ),
        ),
        ("cgan_cifar10", (32, 32, 3), (3_066_679, 2_628_597)),
        ("acgan_cifar10", (32, 32, 3), (2_994_051, 1_664_875)),
    ],
)
def test_configs_are_of_the_sizes_that_they_say(file, shape, sizes):
    name, _, variant = file.partition(":")
    config = methods.load(str(FOLDER / f"{name}.py") + (f":{variant}" if variant else ""))[2]
    methods.check(config)
    method = methods.make(config, DataSpec("x", shape, 99, labelled("0123456789")))
    state = jax.eval_shape(method.init, jax.random.key(0), {}, {})
    found = tuple(sum(x.size for x in jax.tree.leaves(state.params[n])) for n in ("generator", "discriminator"))
    assert found == sizes


@pytest.mark.slow
def test_one_command_trains_goes_on_and_reports(made_up_tfds, tmp_path):
    words = [
        f"--config={FOLDER / 'wgan_gp_mnist.py'}:tiny", f"--config.data.data_dir={made_up_tfds}",
        "--config.data.name=made_up_unlabelled", "--config.log_every=2", "--config.eval_every=2",
        "--config.checkpoint_every=2", "--config.sample.num=20", "--config.eval.num_examples=20",
        "--config.eval.classifier_steps=10", f"--workdir={tmp_path / 'run'}",
    ]  # fmt: skip
    main.main([*words, "--config.num_steps=2"])
    main.main([*words, "--config.num_steps=4"])
    page = (tmp_path / "run/report.html").read_text()
    titles = ("Interpolation", "generator loss", "scores of real and generated images", "penalty")
    assert all(title in page for title in (*titles, "spectral norms of the discriminator"))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval/discriminator_spectral_norm/conv_0" in line] == [2, 4]
    facts = json.loads((tmp_path / "run/report.json").read_text())["facts"]
    assert facts["checkpoint_step"] == 4


def test_truncation_bounds_the_latents_of_samples_alone():
    # G(z) = a z + b with a = 1, b = 0: an image is its latent.
    found = {}
    for bound in (0.0, 0.5):
        config = gan_config()
        config.network = ConfigDict(LINEAR)
        config.gan.latents, config.sample.truncation = 1, bound
        method = methods.make(methods.complete(config), POINTS)
        state = method.init(jax.random.key(0), {}, {})
        made = {"out": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}}
        state = state.replace(ema=state.ema | {"generator": made})
        found[bound] = np.ravel(method.sample(state, jax.random.split(jax.random.key(1), 4000), {}))
        assert method.describe == ({"truncation": "latents within +-0.5"} if bound else {})
    assert found[0.0].std() == pytest.approx(1.0, abs=0.05)
    assert np.abs(found[0.5]).max() <= 0.5
    # The variance of a normal variable within +-c is 1 - 2 c phi(c) / (2 Phi(c) - 1); c = 0.5: 0.2838^2.
    assert found[0.5].std() == pytest.approx(0.2838, abs=0.01)


def test_gauges_are_the_norms_of_the_weights_that_the_players_compute_with():
    _, state = linear_game()
    config = gan_config()
    config.network = ConfigDict(LINEAR)
    config.gan.latents = 1
    for constraint, expected in (("none", 0.5), ("spectral", 1.0)):
        changed = methods.override(methods.complete(config), [f"--config.gan.constraint={constraint}"])
        method = methods.make(changed, POINTS)
        vectors = method.init(jax.random.key(0), {}, {}).variables["vectors"]
        held = state.replace(variables=state.variables | {"vectors": vectors})
        assert method.gauges is not None
        norms = {name: float(norm) for name, norm in method.gauges(held).items()}
        # The kernels are the numbers 0 and w = 1/2; the constraint divides w by itself.
        assert norms == {
            "generator_spectral_norm/out": pytest.approx(0),
            "discriminator_spectral_norm/out": pytest.approx(expected, rel=1e-5),
        }

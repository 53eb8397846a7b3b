"""The contract that every method keeps, over METHODS: adding a method adds a line to CONFIGS and nothing else."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import methods, parallel
from gen_jax.method import DataSpec, Picture, Scatter, labelled, stream

ROOT = pathlib.Path(__file__).parents[1]
SPEC = DataSpec("made_up", (8, 8, 1), 64, labelled("0123456789"))
BATCH = 16
CONFIGS = {
    "ddpm": (
        "configs/ddpm_mnist.py:tiny",
        ["--config.network.multipliers=(1,)", "--config.network.attention_sizes=()"],
    ),
    "vae": ("configs/vae_mnist.py:tiny", []),
    # Without batch normalisation, which computes no batch in pieces.
    "gan": (
        "configs/cgan_mnist.py:tiny",
        ["--config.network.generator_norm=rms", "--config.discriminator_optimizer.learning_rate=1e-2"],
    ),
    "acgan": (
        "configs/acgan_cifar10.py:tiny",
        ["--config.network.generator_norm=rms", "--config.network.norm=rms",
         "--config.discriminator_optimizer.learning_rate=1e-2"],
    ),
}  # fmt: skip


# Not 0: there, on JAX 0.12, one ReLU of the GAN comes within rounding of its kink in step 9 or 10, and falls on one
# side with 1 device, on the other with 8. Seeds 1 to 7 agree to 5e-7.
SEED = 1


@functools.cache
def make(name, *overrides):
    file, words = CONFIGS[name]
    config = methods.load(str(ROOT / file))[2]
    config = methods.override(config, [f"--config.batch_size={BATCH}", *words, *overrides])
    methods.check(config)
    return config, methods.make(config, SPEC)


def batch_of(seed):
    """Bars of random place and brightness: something that can be learnt in a few steps."""
    rng = np.random.default_rng(seed)
    images = np.zeros((BATCH, 8, 8, 1), np.uint8)
    for image in images:
        image[:, rng.integers(0, 6) :][:, :2] = rng.integers(150, 256)
    return {"image": images, "label": np.arange(BATCH, dtype=np.int32) % 10, "index": np.arange(BATCH, dtype=np.int32)}


def train(name, *overrides, devices=1, executor="jit", num_steps=10, fixed_batch=False):
    """The state after some steps, the last scalars and how often the step was traced."""
    config, method = make(name, *overrides)
    mesh = parallel.make_mesh(devices)
    run = parallel.make_executor(executor, mesh)
    state = parallel.init_state(method.init, SEED, mesh)
    traces = []

    def counted(state, batch):
        traces.append(1)
        return method.step(state, batch)

    pieces = config.accumulate
    lead = int(pieces > 1)

    def feed(step):
        rows = batch_of(0 if fixed_batch else step)
        return run.put({k: np.stack(np.split(v, pieces)) if lead else v for k, v in rows.items()}, lead)

    update = run.compile_step(counted, state, feed(0), lead)
    scalars = {}
    for step in range(num_steps):
        state, scalars = update(state, feed(step))
    return state, scalars, len(traces)


@functools.cache
def initial(name, devices=1):
    """The untrained state, with the config's own optimizer."""
    return parallel.init_state(make(name)[1].init, 0, parallel.make_mesh(devices))


def params_of(state):
    return jax.tree.map(np.asarray, state.params)


FAST = ("--config.num_steps=60", "--config.optimizer.learning_rate=1e-2", "--config.ema=0.5")
SGD = ("--config.optimizer.name=sgd", "--config.optimizer.b1=0", "--config.optimizer.learning_rate=0.1")


ADAM = ("--config.optimizer.name=adam", "--config.optimizer.learning_rate=1e-3", "--config.optimizer.warmup_steps=0")

# Leaves whose exact gradient is zero: Adam makes full steps of the rounding noise that is left of it, and these differ
# from one number of devices to another. A bias in front of a normalisation is such a leaf, and the key's bias of
# attention; networks of ours have neither.
WITHOUT_GRADIENT: dict[str, tuple[str, ...]] = {}


@pytest.fixture(scope="module", params=methods.METHODS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def sgd_params(name):
    return params_of(train(name, *SGD)[0])


def test_every_method_is_under_contract():
    assert CONFIGS.keys() == methods.METHODS.keys()


def test_init_depends_on_the_seed_alone(name):
    _, method = make(name)
    init = jax.jit(method.init)
    one, two, other = (params_of(init(parallel.make_key(seed))) for seed in (3, 3, 4))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, one, two)))
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(one))


def test_training_lowers_the_loss_of_a_fixed_batch_and_the_step_is_traced_once(name):
    _, method = make(name, *FAST)
    mesh = parallel.make_mesh(1)
    before = parallel.init_state(method.init, 0, mesh)
    after, scalars, traces = train(name, *FAST, num_steps=60, fixed_batch=True)
    evaluate = jax.jit(method.evaluate)
    batch, key = batch_of(0), stream(before.key, "eval")
    values = [np.asarray(evaluate(state, batch, key)["loss"]) for state in (before, after)]
    assert all(v.shape == (BATCH,) for v in values)
    assert values[1].mean() < 0.9 * values[0].mean()
    assert int(after.step) == 60
    assert traces == 1
    assert all(np.isfinite(float(v)) for v in scalars.values())


def test_samples_have_the_shape_of_the_data_and_belong_to_their_keys(name):
    _, method = make(name)
    state = initial(name)
    keys = jax.random.split(jax.random.key(5), 6)
    label = jnp.arange(6) if method.conditional else None
    sample = jax.jit(method.sample)
    six = np.asarray(sample(state, keys, label))
    two = np.asarray(sample(state, keys[:2], None if label is None else label[:2]))
    assert six.shape == (6, 8, 8, 1)
    assert six.dtype == np.float32
    assert np.isfinite(six).all()
    assert np.abs(six).max() <= 1.0
    np.testing.assert_allclose(six[:2], two, atol=1e-5)
    assert np.abs(six[0] - six[1]).max() > 1e-3


def test_evaluation_of_an_example_does_not_depend_on_its_batch(name):
    _, method = make(name)
    state = initial(name)
    batch, key = batch_of(1), jax.random.key(2)
    evaluate = jax.jit(method.evaluate)
    whole = evaluate(state, batch, key)
    part = evaluate(state, {k: v[4:8] for k, v in batch.items()}, key)
    for measure in whole:
        np.testing.assert_allclose(np.asarray(whole[measure])[4:8], part[measure], rtol=1e-5)


def test_the_code_of_an_example_does_not_depend_on_its_batch(name):
    _, method = make(name)
    if method.encode is None:
        pytest.skip(f"{name} has no encoder")
    state = initial(name)
    batch, key = batch_of(1), jax.random.key(2)
    encode = jax.jit(method.encode)
    whole = np.asarray(encode(state, batch, key))
    assert (whole.ndim, len(whole), whole.dtype) == (2, BATCH, np.float32)
    np.testing.assert_allclose(whole[4:8], encode(state, {k: v[4:8] for k, v in batch.items()}, key), rtol=1e-4)


def test_pictures_can_be_drawn(name):
    _, method = make(name)
    state = initial(name)
    pictures = jax.jit(method.pictures)(state, jax.random.key(0), batch_of(0))
    assert pictures
    for picture in pictures.values():
        arrays = picture.points if isinstance(picture, Scatter) else picture.images
        if isinstance(picture, Picture):
            assert picture.images.dtype == jnp.uint8
            assert picture.images.ndim == (5 if picture.kind == "animation" else 4)
        assert len(picture.labels) in (0, len(arrays))
        assert picture.title
        assert picture.caption
    drawn = jax.jit(method.snapshots)(state, jax.random.key(0)) if method.snapshots else {}
    for frame in drawn.values():  # each a still, of which the page makes an animation
        shape = frame.points.shape if isinstance(frame, Scatter) else (frame.kind, frame.images.ndim)
        assert shape == ("grid", 4) or shape[1:] == (2,)


@pytest.mark.parametrize(("executor", "devices"), [("jit", 8), ("pmap", 8), ("pmap", 1)])
def test_devices_and_executors_train_to_the_same_parameters(name, executor, devices, sgd_params):
    # SGD: under Adam a leaf whose exact gradient is zero turns rounding noise into full steps.
    state, _, _ = train(name, *SGD, executor=executor, devices=devices)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), params_of(state), sgd_params)


@pytest.mark.slow
def test_under_adam_devices_agree_but_for_leaves_without_a_gradient(name):
    one, eight = (params_of(train(name, *ADAM, devices=devices)[0]) for devices in (1, 8))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(eight), strict=True):
        leaf = jax.tree_util.keystr(path, simple=True, separator="/")
        if leaf not in WITHOUT_GRADIENT.get(name, ()):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=leaf)


def test_accumulation_equals_the_whole_batch(name, sgd_params):
    state, _, _ = train(name, *SGD, "--config.accumulate=2")
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), params_of(state), sgd_params)


def test_the_step_on_8_devices_gathers_no_batch(name):
    _, method = make(name)
    mesh = parallel.make_mesh(8)
    run = parallel.make_executor("jit", mesh)
    state = initial(name, devices=8)
    text = run.compile_step(method.step, state, run.put(batch_of(0), 0), 0).as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text


def test_bfloat16_computes_but_does_not_store(name):
    state, scalars, _ = train(name, "--config.compute_dtype=bfloat16", num_steps=2)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((state.params, state.ema)))
    assert np.isfinite(float(scalars["loss"]))

"""The contract that every method keeps, over METHODS: adding a method adds a line to CONFIGS and nothing else."""

import dataclasses
import functools
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from gen_jax import config as configs
from gen_jax import export, methods, parallel, portable, sample
from gen_jax.checkpoint import Checkpoints
from gen_jax.data import bicubic, dataset
from gen_jax.method import (
    DataSpec,
    Feature,
    Method,
    Picture,
    Scatter,
    Stage,
    State,
    keys_of,
    labelled,
    stream,
    to_data,
)
from gen_jax.train import many_steps

pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).parents[1]
TEXT = {"text": Feature((2, 5), "float32", several=True)}  # two captions of each picture
SPEC = DataSpec("made_up", (8, 8, 1), 64, labelled("0123456789") | TEXT)
# Neither square nor a power of two, in colour: whoever mistakes height for width, or expects 10 classes, fails.
WIDE = DataSpec("made_up_wide", (9, 12, 3), 64, labelled("abc") | TEXT)
SPECS = {"8x8x1": SPEC, "9x12x3": WIDE}
BATCH = 16
UNET = ["--config.network.multipliers=(1,)", "--config.network.attention_sizes=()"]
CONFIGS = {
    "ddpm": ("configs/ddpm_mnist.py:tiny", UNET),
    "flow": ("configs/flow_mnist.py:tiny", UNET),
    # Codes of 4x4x2, by one level.
    "latent": (
        "configs/latent_mnist.py:tiny",
        [*UNET, "--config.pretrained.network.channels=(4,)", "--config.pretrained.vae.latents=32"],
    ),
    "meanflow": ("configs/meanflow_mnist.py:tiny", UNET),
    "consistency": ("configs/consistency_mnist.py:tiny", UNET),
    # One round, so that its loss is that of one task; a teacher that has not been trained moves nothing as a flow.
    "distilled": (
        "configs/distilled_mnist.py:tiny",
        [
            *(word.replace("config.", "config.pretrained.") for word in UNET), "--config.distillation.start=4",
            "--config.pretrained.diffusion.prediction=v",
        ],
    ),
    "vae": ("configs/vae_mnist.py:tiny", []),
    "scvae": (
        "configs/scvae_mnist.py:tiny",
        [
            "--config.network.channels=(4,)", "--config.scvae.dictionary=learned",
            "--config.scvae.dictionary.num_atoms=20",
        ],
    ),
    "hvae": ("configs/hvae_mnist.py:tiny", []),
    "vqvae": ("configs/vqvae_mnist.py:tiny", []),
    "autoencoder": (
        "configs/autoencoder_mnist.py:tiny",
        ["--config.network.channels=(4,)", "--config.autoencoder.adversarial.start=2",
         "--config.discriminator_optimizer.learning_rate=1e-2",
         "--config.autoencoder.latents=vq", "--config.autoencoder.latents.size=16", "--config.autoencoder.mirror=true"],
    ),
    # Without batch normalisation, which computes no batch in pieces.
    "gan": (
        "configs/cgan_mnist.py:tiny",
        ["--config.network.generator_norm=rms", "--config.discriminator_optimizer.learning_rate=1e-2"],
    ),
    # Not a method of its own: other networks, with all that is theirs.
    "r3gan": (
        "configs/r3gan_mnist.py:tiny",
        ["--config.discriminator_optimizer.learning_rate=2e-2", "--config.gan.augment=diff_augment",
         "--config.gan.augment.strength=0.3", "--config.gan.mirror=true",
         "--config.gan.burn_in=none"],  # the tests use optimizers without b2, too
    ),
    "acgan": (
        "configs/acgan_cifar10.py:tiny",
        ["--config.network.generator_norm=rms", "--config.network.norm=rms",
         "--config.discriminator_optimizer.learning_rate=1e-2"],
    ),
    # Without batch normalisation, too. A large weight of reading enlarges rounding noise beyond what is allowed.
    "stackgan": (
        "configs/stackgan_shapes.py:tiny",
        ["--config.stackgan.reading_weight=0.02", "--config.network.generator_norm=rms", "--config.network.levels=1",
         "--config.network.discriminator_levels=1", "--config.discriminator_optimizer.learning_rate=1e-2"],
    ),
    "ddgan": (
        "configs/ddgan_mnist.py:tiny",
        # Near pure noise nobody can tell pictures of the generator from others: two steps, one of which ends in data.
        ["--config.network.multipliers=(1,)", "--config.discriminator_optimizer.learning_rate=2e-3",
         "--config.gan.mirror=true", "--config.gan.denoising_steps=2"],
    ),
    # Without batch normalisation, as above.
    "srresnet": ("configs/srresnet_t91.py:tiny", ["--config.data.reduce=2", "--config.network.norm=none"]),
    "srgan": (
        "configs/srgan_t91.py:tiny",
        ["--config.data.reduce=2", "--config.network.norm=rms", "--config.pretrained.network.norm=none",
         "--config.discriminator_optimizer.learning_rate=1e-2"],
    ),
    "sr3": ("configs/sr3_t91.py:tiny", [*UNET, "--config.data.reduce=2"]),
    "coupling": ("configs/coupling_mnist.py:tiny", []),
    "tarflow": ("configs/tarflow_mnist.py:tiny", []),
    "autoregressive": ("configs/codes_mnist.py:tiny", []),
}  # fmt: skip
# What a config needs besides for images of another size than 8x8x1.
GROWN = ["--config.network.generator_channels=(4,)", "--config.network.last_stride=3"]  # 3x4 to 9x12
RESIZED = {
    ("latent", "9x12x3"): ["--config.pretrained.vae.latents=60"],  # codes of 5x6x2
    ("gan", "9x12x3"): GROWN,
    ("acgan", "9x12x3"): GROWN,
    ("r3gan", "9x12x3"): ["--config.network.widths=(4,)"],  # a basis of 9x12
    ("stackgan", "9x12x3"): ["--config.network.levels=0", "--config.network.discriminator_levels=0"],
    ("coupling", "9x12x3"): ["--config.coupling.squeeze=(3,1)"],
    ("tarflow", "9x12x3"): ["--config.tarflow.patch=3"],
}


# Not 0: there, on JAX 0.12, one ReLU of the GAN comes within rounding of its kink in step 9 or 10, and falls on one
# side with 1 device, on the other with 8. Seeds 1 to 7 agree to 5e-7.
SEED = 1


class Trained(NamedTuple):
    state: State
    scalars: dict[str, Any]  # of the last step
    traces: int  # of the step
    text: str  # of the compiled program


class Made(NamedTuple):
    """A method of a config of this file, and what its functions are called with."""

    config: Any
    method: Method
    spec: DataSpec
    stage: Stage | None

    def init(self, seed: int, devices: int = 1) -> State:
        """The State before the first step: made on one device, and put on as many as there are to be."""
        made = _compiled_init(self.method.init)(parallel.make_key(seed), batch_of(0, self.spec, 64), self.frozen)
        return jax.device_put(made, parallel.replicated(parallel.make_mesh(devices)))

    @property
    def frozen(self) -> Any:
        return {} if self.stage is None else self.stage.params


@functools.cache
def _compiled_init(init):
    return jax.jit(init)


def make_anew(name, *overrides, size="8x8x1", stage_of=None):
    file, words = CONFIGS[name]
    words = [f"--config.batch_size={BATCH}", *words, *RESIZED.get((name, size), ()), *overrides]
    config = methods.override(methods.load(str(ROOT / file))[2], words)
    methods.check(config)
    inner, stage = methods.stage_of(config), None
    if inner is not None:
        whole = ConfigDict({**inner, **{key: config[key] for key in methods.SHARED}})
        stage = (stage_of or first_stage)(json.dumps(whole.to_dict()), size)
    spec = spec_of(config, size)
    return Made(config, methods.make(config, spec, stage), spec, stage)


make = functools.cache(make_anew)


def spec_of(config, size):
    """The images of that size; with smaller copies of them, if the config asks for these, a little larger."""
    spec, factor = SPECS[size], config.data.reduce
    if not factor:
        return spec
    *sides, channels = spec.image_shape
    larger = tuple(-(-side // factor) * factor for side in sides)
    return dataset.with_smaller(dataclasses.replace(spec, image_shape=(*larger, channels)), factor)


def stage_in_shapes(config, size):
    """A first stage that knows only the shapes of its weights."""
    config = methods.complete(configs.from_json(json.loads(config)))
    methods.check(config)
    return methods.make_stage(config, spec_of(config, size))


@functools.cache
def first_stage(config, size):
    """A first stage that was never trained: its weights are those of its `init`."""
    stage = stage_in_shapes(config, size)
    state = parallel.init_state(stage.method.init, 7, parallel.make_mesh(1), batch_of(0, stage.spec, 64), {})
    return stage._replace(params=jax.tree.map(np.asarray, state.ema))


def batch_of(seed, spec=SPEC, num=BATCH):
    """Bars of random place and brightness: something that can be learnt in a few steps."""
    rng = np.random.default_rng(seed)
    images = np.zeros((num, *spec.image_shape), np.uint8)
    for image in images:
        image[:, rng.integers(0, 6) :][:, :2] = rng.integers(150, 256)
    index = np.arange(num, dtype=np.int32)
    text = rng.normal(size=(num, *TEXT["text"].shape)).astype(np.float32)
    batch = {"image": images, "label": index % spec.num_classes, "text": text, "index": index}
    if "small" in spec.features:
        factor = spec.image_shape[0] // spec.features["small"].shape[0]
        batch["small"] = bicubic.reduced(images, factor)
    return batch


def train_made(made, *, start=None, devices=1, executor="jit", num_steps=10, fixed_batch=False):
    """Trains from the method's own first state, or from that of `start`, whose optimizer is the same."""
    config, method = made.config, made.method
    run = parallel.make_executor(executor, parallel.make_mesh(devices))
    state = (start or made).init(SEED, devices)
    traces = []

    def counted(state, batch):
        traces.append(1)
        return method.step(state, batch)

    pieces, critic_steps, calls = config.accumulate, method.batches_per_step, config.steps_per_call
    lead = (pieces > 1) + (critic_steps > 1) + (calls > 1)

    def rows(step):
        if critic_steps > 1:
            return stacked([batch_of(1000 * step + number, made.spec) for number in range(critic_steps)])
        batch = batch_of(0 if fixed_batch else step, made.spec)
        return {k: np.stack(np.split(v, pieces)) for k, v in batch.items()} if pieces > 1 else batch

    def feed(step):
        return run.put(stacked([rows(step + i) for i in range(calls)]) if calls > 1 else rows(step), lead)

    update = run.compile_step(many_steps(counted, calls), state, feed(0), lead)
    scalars = {}
    for step in range(0, num_steps, calls):
        state, scalars = update(state, feed(step))
    return Trained(state, scalars, len(traces), update.as_text())


def stacked(batches):
    return {k: np.stack([batch[k] for batch in batches]) for k in batches[0]}


@functools.cache
def train(name, *overrides, **how):
    return train_made(make(name, *overrides), **how)


# Nothing but training depends on the optimizer. So what is asked besides is asked of the method that has to lower its
# loss, and each of its functions is compiled once.


@functools.cache
def initial(name, size="8x8x1"):
    """The untrained state."""
    return make(name, *FAST, size=size).init(0)


@functools.cache
def compiled(name, function, size="8x8x1"):
    return jax.jit(getattr(make(name, *FAST, size=size).method, function))


def condition_of(made, num):
    batch, features = batch_of(3, made.spec, num), made.spec.features
    given = {name: batch[name][:, 0] if features[name].several else batch[name] for name in made.method.condition}
    return jax.tree.map(jnp.asarray, given)


def params_of(state):
    return jax.tree.map(np.asarray, state.params)


def bits(state):
    """Every leaf by its name, as numbers that can be compared bit by bit; the key too."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        array = np.asarray(data)
        leaves[jax.tree_util.keystr(path, simple=True, separator="/")] = (array.dtype, array.shape, array.tobytes())
    return leaves


def assert_near(one, two):
    """Same tree, same values to rounding."""
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        leaf = jax.tree_util.keystr(path, simple=True, separator="/")
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=leaf)


def still(before, after):
    """The names of those parameters, of any network and of the averages, that training has not moved at all."""
    now = bits({"params": after.params, "ema": after.ema})
    return [name for name, leaf in bits({"params": before.params, "ema": before.ema}).items() if now[name] == leaf]


FAST = ("--config.num_steps=60", "--config.optimizer.name=adam", "--config.optimizer.learning_rate=1e-2",
        "--config.optimizer.warmup_steps=0", "--config.ema=0.5")  # fmt: skip
SGD = ("--config.optimizer.name=sgd", "--config.optimizer.b1=0", "--config.optimizer.learning_rate=0.1")
ADAM = ("--config.optimizer.name=adam", "--config.optimizer.learning_rate=1e-3", "--config.optimizer.warmup_steps=0")

# Leaves whose exact gradient is zero: Adam makes full steps of the rounding noise that is left of it, and these differ
# from one number of devices to another. A bias in front of a normalisation is such a leaf, and the key's bias of
# attention; networks of ours have neither.
WITHOUT_GRADIENT: dict[str, tuple[str, ...]] = {}
# Of these, one element of a leaf with a gradient starts with one near Adam's usual eps of 1e-8 (of the autoregressive
# model's last bias 1.4e-8). The first step is g / (|g| + eps), so there, too, rounding makes a visible part of a step.
EPS = {"hvae": 1e-5, "autoregressive": 1e-3}


# What `make test-long` asks of all methods is what tells a right one from a wrong one in few programs: training lowers
# its loss and moves every parameter; its samples, codes and measures belong to examples; it shows its averages; images
# of any size have their shapes. What the core does for all of them (devices, executors, accumulation, half precision,
# checkpoints) takes several more programs of each, of up to ten seconds. These methods leave it to the slow tests, for
# the same code does it for the other one, which is asked in CI. A new method is asked all of it.
LIKE = {
    # A mean over examples of a weighted error.
    "flow": "ddpm", "latent": "ddpm", "meanflow": "ddpm", "consistency": "ddpm", "distilled": "ddpm", "sr3": "ddpm",
    "hvae": "vae", "scvae": "vae",  # a mean over examples of a bound
    "vqvae": "autoencoder",  # codebooks, which tests/vae/test_vqvae.py trains on eight devices, too
    "acgan": "gan", "r3gan": "gan", "ddgan": "gan", "stackgan": "gan", "srgan": "gan",  # two networks in turn
    # A mean over examples of a loss of each example alone.
    "tarflow": "coupling", "autoregressive": "coupling", "srresnet": "coupling",
}  # fmt: skip
# Of a step on devices or in pieces, more is asked of stackgan, which pairs every picture with the caption of another
# example, and less of coupling, in whose step examples never meet.
STEP_LIKE = (LIKE.keys() - {"stackgan"}) | {"coupling"}


def slow_where(names, slow):
    """Returns the parameters of a test, of which those in `slow` are left to the slow tests."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


@pytest.fixture(scope="module", params=slow_where(CONFIGS, {"flow"}))
def name(request):
    """The name of a method; flow matching is DDPM by other values of the config."""
    return request.param


@pytest.fixture(scope="module", params=slow_where(CONFIGS, LIKE))
def one_of_family(request):
    """The name of a method, for tests of what the core does for it."""
    return request.param


@pytest.fixture(scope="module", params=slow_where(CONFIGS, LIKE.keys() - {"latent"}))
def on_disk(request):
    """The name of a method whose State is stored: that of latent diffusion has frozen leaves."""
    return request.param


@pytest.fixture(scope="module", params=slow_where(CONFIGS, STEP_LIKE))
def step_of(request):
    """The name of a method, for tests of its step on devices or in pieces."""
    return request.param


@functools.cache
def sgd_params(name):
    return params_of(train(name, *SGD).state)


def test_every_method_is_under_contract():
    assert {methods.load(str(ROOT / file))[2].method for file, _ in CONFIGS.values()} == methods.METHODS.keys()
    assert LIKE.keys() <= CONFIGS.keys()
    assert {*LIKE.values()} <= CONFIGS.keys() - LIKE.keys()  # each family has one that is asked everything


def test_init_depends_on_the_seed_alone(name):
    made = make(name, *FAST)
    one, two, other = (params_of(made.init(seed)) for seed in (3, 3, 4))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, one, two)))
    # A student starts as its teacher.
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other))) == (name == "distilled")
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(one))


def test_init_gives_the_same_bits_on_1_and_on_8_devices_and_the_leaves_that_were_told_before(one_of_family):
    made = make(one_of_family, *FAST)
    eight = parallel.init_state(made.method.init, 0, parallel.make_mesh(8), batch_of(0, made.spec, 64), made.frozen)
    assert bits(eight) == bits(made.init(0))
    told = methods.abstract_state(made.method, made.spec, made.stage, parallel.make_mesh(8))
    for state in (eight, told):
        assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)} == {8}
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), state) for state in (told, eight)]
    assert shapes[0] == shapes[1]


def test_training_lowers_the_loss_of_a_fixed_batch_and_the_step_is_traced_once(name):
    before = make(name, *FAST).init(SEED)
    after, scalars, traces, _ = train(name, *FAST, num_steps=60, fixed_batch=True)
    evaluate = compiled(name, "evaluate")
    batch, key = batch_of(0, make(name, *FAST).spec), stream(before.key, "eval")
    values = [np.asarray(evaluate(state, batch, key)["loss"]) for state in (before, after)]
    assert all(v.shape == (BATCH,) for v in values)
    assert values[1].mean() < 0.9 * values[0].mean()
    assert int(after.step) == 60
    assert traces == 1
    assert all(np.isfinite(float(v)) for v in scalars.values())


def test_training_moves_every_parameter_of_every_network_and_nothing_that_is_frozen(name):
    # A discriminator's loss falls, too, where the generator's update is forgotten.
    before = make(name, *FAST).init(SEED)
    after = train(name, *FAST, num_steps=60, fixed_batch=True).state
    assert still(before, after) == []
    assert bits(after.frozen) == bits(before.frozen)
    assert bool(after.frozen) == (make(name, *FAST).stage is not None)


def test_samples_belong_to_their_keys(name):
    state, made = initial(name), make(name, *FAST)
    keys, condition = jax.random.split(jax.random.key(5), 6), condition_of(made, 6)
    sample = compiled(name, "sample")
    six = np.asarray(sample(state, keys, condition))
    # The first two in other places, beside others.
    others, places = jax.random.split(jax.random.key(6), 6), np.array([4, 1, 0, 3, 2, 5])
    again = np.asarray(
        sample(
            state,
            others.at[jnp.array([2, 1])].set(keys[:2]),
            {name: values[places] for name, values in condition.items()},
        )
    )
    np.testing.assert_allclose(again[[2, 1]], six[:2], atol=1e-5)
    assert np.abs(six[0] - six[1]).max() > 1e-3
    assert np.abs(again[0] - six[0]).max() > 1e-3
    check_samples(six, made.spec)


def check_samples(images, spec):
    assert images.shape == (6, *spec.image_shape)
    assert images.dtype == np.float32
    if isinstance(images, np.ndarray):  # not of shapes alone
        assert np.isfinite(images).all()
        assert np.abs(images).max() <= 1.0


def test_what_is_drawn_and_gauged_is_finite(name):
    made, state, key = make(name, *FAST), initial(name), jax.random.key(0)
    check_pictures(compiled(name, "pictures")(state, key, batch_of(0, made.spec)), made.spec)
    gauges = compiled(name, "gauges")(state) if made.method.gauges else {}
    assert all(np.isfinite(float(value)) for value in gauges.values())
    check_frames(compiled(name, "snapshots")(state, key) if made.method.snapshots else {})


def check_frames(frames):
    for frame in frames.values():  # each a still, of which the page makes an animation
        shape = frame.points.shape if isinstance(frame, Scatter) else (frame.kind, frame.images.ndim)
        assert shape == ("grid", 4) or shape[1:] == (2,)


def test_images_of_any_size_have_their_shapes(name):
    """All that a method computes for images that are neither square nor grey, without computing any of it."""
    made = make_anew(name, *SGD, size="9x12x3", stage_of=stage_in_shapes)
    method, spec = made.method, made.spec
    state, batch = methods.abstract_state(method, spec, made.stage, parallel.make_mesh(1)), spec.abstract_batch(BATCH)
    keys = jax.eval_shape(lambda key: jax.random.split(key, 6), state.key)
    lead = (method.batches_per_step,) if method.batches_per_step > 1 else ()
    after, scalars = jax.eval_shape(
        method.step, state, {k: jax.ShapeDtypeStruct((*lead, *v.shape), v.dtype) for k, v in batch.items()}
    )
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), each) for each in (state, after)]
    assert shapes[0] == shapes[1]
    assert {value.shape for value in scalars.values()} == {()}
    check_samples(jax.eval_shape(method.sample, state, keys, condition_of(made, 6)), spec)
    measures = jax.eval_shape(method.evaluate, state, batch, state.key)
    assert {value.shape for value in measures.values()} == {(BATCH,)}
    check_pictures(jax.eval_shape(method.pictures, state, state.key, batch), spec)
    gauges = jax.eval_shape(method.gauges, state) if method.gauges else {}
    assert {value.shape for value in gauges.values()} <= {()}
    check_frames(jax.eval_shape(method.snapshots, state, state.key) if method.snapshots else {})


# That what has the right shape is computed, too, is seen by one method at once.
@pytest.mark.parametrize("sized", slow_where(CONFIGS, CONFIGS.keys() - {"ddpm"}))
def test_images_of_any_size_are_trained_on_and_sampled(sized):
    name, size = sized, "9x12x3"
    made = make(name, *FAST, size=size)
    state, scalars = compiled(name, "step", size)(initial(name, size), batch_of(0, made.spec))
    assert np.isfinite(float(scalars["loss"]))
    keys = jax.random.split(jax.random.key(5), 6)
    check_samples(np.asarray(compiled(name, "sample", size)(state, keys, condition_of(made, 6))), made.spec)


def check_pictures(pictures, spec):
    assert pictures
    for picture in pictures.values():
        arrays = picture.points if isinstance(picture, Scatter) else picture.images
        if isinstance(picture, Picture):
            assert picture.images.dtype == jnp.uint8
            assert picture.images.ndim == (5 if picture.kind == "animation" else 4)
            assert picture.images.shape[-3:] == spec.image_shape
        assert len(picture.labels) in (0, len(arrays))
        assert picture.title
        assert picture.caption


def test_its_file_holds_all_that_samples_depend_on(name, tmp_path):
    made, mesh = make(name, *SGD), parallel.make_mesh(1)
    model = sample.Model(made.config, made.spec, made.method, initial(name), mesh)
    record = {} if made.stage is None else {"pretrained": {"config": made.stage.config.to_dict()}}
    if made.stage is not None:
        record["pretrained"]["data"] = made.stage.spec.to_dict()
    portable.save(tmp_path / "model.safetensors", model, record)
    loaded = portable.load(tmp_path / "model.safetensors", ("--config.num_devices=1",))
    assert loaded.state.params == loaded.state.opt_state == {}
    assert bits(loaded.state.ema) == bits(initial(name).ema)
    keys, condition = jax.random.split(jax.random.key(5), 3), condition_of(made, 3)
    samples = [np.asarray(compiled(name, "sample")(model.state, keys, condition))]
    samples.append(np.asarray(jax.jit(loaded.method.sample)(loaded.state, keys, condition)))
    np.testing.assert_array_equal(*samples)


def test_its_exported_sampler_draws_any_number_of_images(name):
    pytest.importorskip("flatbuffers", reason="flatbuffers is in the extra export")
    made, state = make(name, *SGD), initial(name)
    model = sample.Model(made.config, made.spec, made.method, state, parallel.make_mesh(1))
    exported = jax.export.deserialize(export.sampler(model).serialize())
    assert exported.platforms == export.PLATFORMS
    condition, index = condition_of(made, 3), jnp.array([4, 0, 9])
    images = np.asarray(exported.call(jnp.uint32(2), index, **condition))
    keys = keys_of(jax.random.fold_in(stream(state.key, "sample"), 2), index)
    expected = np.asarray(to_data(compiled(name, "sample")(state, keys, condition), made.spec))
    assert (images.shape, images.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(images.astype(float), expected.astype(float), atol=1)
    assert (images == expected).mean() > 0.99


def test_what_is_sampled_evaluated_and_drawn_is_the_average(name):
    # Training that has gone astray leaves the average sound for a while: whoever looks at `params` sees it here.
    state, made = initial(name), make(name, *FAST)
    nan = functools.partial(jax.tree.map, lambda x: jnp.full_like(x, jnp.nan))
    lost = state.replace(params=nan(state.params))
    # A discriminator has no average: the loss of a game takes it as it is.
    averaged = state.params.keys() & state.ema.keys()
    judged = state.replace(
        params={network: nan(p) if network in averaged else p for network, p in state.params.items()}
    )
    key, batch = jax.random.key(0), batch_of(0, made.spec)
    calls = {
        "sample": (lost, jax.random.split(key, 6), condition_of(made, 6)),
        "pictures": (lost, key, batch),
        "evaluate": (judged, batch, key),
    } | ({"snapshots": (lost, key)} if made.method.snapshots else {})
    assert averaged
    for function, (poisoned, *rest) in calls.items():
        call = compiled(name, function)
        sound, found = (jax.tree.leaves(call(each, *rest)) for each in (state, poisoned))
        assert found
        for a, b in zip(sound, found, strict=True):
            assert np.isfinite(b).all(), function
            np.testing.assert_array_equal(a, b, err_msg=function)


def moved(batch, spec):
    """Examples 4 to 7 of a batch, with their random numbers, in front of others."""
    others = batch_of(2, spec)
    return {k: np.concatenate([v[4:8], others[k][8:], others[k][:4]]) for k, v in batch.items()}


def test_evaluation_of_an_example_does_not_depend_on_its_batch(name):
    state, evaluate, spec = initial(name), compiled(name, "evaluate"), make(name, *FAST).spec
    batch, key = batch_of(1, spec), jax.random.key(2)
    whole, again = evaluate(state, batch, key), evaluate(state, moved(batch, spec), key)
    for measure in whole:
        np.testing.assert_allclose(np.asarray(whole[measure])[4:8], again[measure][:4], rtol=1e-5)


def test_the_code_of_an_example_does_not_depend_on_its_batch(name):
    code = make(name, *FAST).method.code
    if code is None:
        pytest.skip(f"{name} has no encoder")
    state, batch, key = initial(name), batch_of(1), jax.random.key(2)
    encode = jax.jit(code.encode)
    whole = np.asarray(encode(state, batch, key))
    assert whole.shape == (BATCH, *code.shape)
    assert whole.dtype == (np.int32 if code.kind == "integers" else np.float32)
    np.testing.assert_allclose(whole[4:8], encode(state, moved(batch, SPEC), key)[:4], rtol=1e-4)
    images = np.asarray(jax.jit(code.decode)(state, whole))
    assert (images.shape, images.dtype) == ((BATCH, *SPEC.image_shape), np.float32)
    assert np.abs(images).max() <= 1


def test_a_state_comes_back_from_disk_bit_by_bit(on_disk, tmp_path):
    # With the config's own optimizer; every leaf holds random bits, so that any two that were swapped are seen, and
    # numbers that are none stay what they were.
    made, rng = make(on_disk), np.random.default_rng(0)

    def like(devices):
        return methods.abstract_state(made.method, made.spec, made.stage, parallel.make_mesh(devices))

    def filled(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.device_put(parallel.make_key(rng.integers(2**32)), leaf.sharding)
        size = leaf.size * leaf.dtype.itemsize
        return jax.device_put(np.frombuffer(rng.bytes(size), leaf.dtype).reshape(leaf.shape), leaf.sharding)

    state = jax.tree.map(filled, like(1)).replace(step=jnp.int32(123))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    for devices in (1, 8):
        with Checkpoints(tmp_path) as checkpoints:
            restored = checkpoints.restore(like(devices))
        assert restored is not None
        assert jax.tree.structure(restored) == jax.tree.structure(state)
        assert bits(restored) == bits(state)
        assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(restored)} == {devices}


@pytest.mark.parametrize(
    ("executor", "devices"), [("jit", 8), ("pmap", 8), pytest.param("pmap", 1, marks=pytest.mark.slow)]
)
def test_devices_and_executors_train_to_the_same_parameters(step_of, executor, devices):
    # SGD: under Adam a leaf whose exact gradient is zero turns rounding noise into full steps.
    state = train(step_of, *SGD, executor=executor, devices=devices).state
    assert_near(params_of(state), sgd_params(step_of))


@pytest.mark.slow
def test_under_adam_devices_agree_but_for_leaves_without_a_gradient(name):
    words = (*ADAM, f"--config.optimizer.eps={EPS.get(name, 1e-8)}")
    one, eight = (params_of(train(name, *words, devices=devices).state) for devices in (1, 8))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(eight), strict=True):
        leaf = jax.tree_util.keystr(path, simple=True, separator="/")
        if leaf not in WITHOUT_GRADIENT.get(name, ()):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=leaf)


def test_accumulation_equals_the_whole_batch(step_of):
    state = train_made(make(step_of, *SGD, "--config.accumulate=2"), start=make(step_of, *SGD)).state
    assert_near(params_of(state), sgd_params(step_of))


def test_the_step_on_8_devices_gathers_no_batch(step_of):
    text = train(step_of, *SGD, executor="jit", devices=8).text
    assert "all-reduce" in text
    assert "all-gather" not in text


def test_bfloat16_computes_but_does_not_store(one_of_family):
    start = make(one_of_family, *SGD)
    made = make(one_of_family, *SGD, "--config.compute_dtype=bfloat16")
    told = methods.abstract_state(made.method, made.spec, made.stage, parallel.make_mesh(1))
    state, scalars, *_ = train_made(made, start=start, num_steps=2)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((state.params, state.ema, told.params, told.ema)))
    assert np.isfinite(float(scalars["loss"]))

import ast
import collections.abc
import copy
import dataclasses
import fnmatch
import functools
import importlib
import inspect
import itertools
import json
import pathlib
import re
import sys
import tarfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from gen_jax import config as configs
from gen_jax import methods, optimizer, parallel, train
from gen_jax.data import dataset
from gen_jax.diffusion import model as diffusion
from gen_jax.method import DataSpec, Feature, State, UserError, labelled
from gen_jax.run import Run

PACKAGE = pathlib.Path(configs.__file__).parent
FILES = sorted(PACKAGE.parent.glob("configs/*.py"))
SPEC = DataSpec("made_up", (8, 8, 1), 64, labelled("0123456789"), fingerprint="f" * 64)
BASE = configs.Options(configs.base_config)
OLD_RUNS = pathlib.Path(__file__).parent / "old_runs"


def refused(*words):
    with pytest.raises(UserError) as error:
        configs.check(configs.override(configs.base_config(), words, BASE), BASE)
    return one_line(error)


def one_line(error):
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@functools.cache
def default(method):
    """A config of a method, of which nothing is said; shared by all tests."""
    return methods.complete(ConfigDict({"method": method}))


def overridden(config, *words):
    return methods.override(config, [f"--config.{word}" for word in words])


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("--config.sede=1", "did you mean seed?"),
        ("--config.learning_rate=1", "did you mean optimizer.learning_rate?"),
        ("--config.sampel.num=1", "did you mean sample.num?"),
        ("--config.sample=1", "sample.num"),
        ("--confg.seed=1", "did you mean --config.seed?"),
        ("leftover", "leftover"),
        ("--config.seed\n=1", r"seed\n"),
        ("--config.seed\n", r"seed\n"),
        ("--config.optimizer.b\u20281=1", r"optimizer.b\u20281"),
        ("--config.seed", "--config.seed=0"),
        ("--config.seed=one", "a whole number"),
        ("--config.seed=1.5", "a whole number"),
        ("--config.seed={[]:1}", "a whole number"),
        ("--config.seed=-1", "at least 0"),
        ("--config.seed=4294967296", "at most 4294967295"),
        ("--config.sample.seed=-1", "at least 0"),
        ("--config.ema=high", "a number"),
        ("--config.ema=1.5", "[0, 1)"),
        (f"--config.ema={10**400}", "a number"),
        ("--config.fast_compile_options=1", "true or false"),
        ("--config.batch_size=0", "at least 1"),
        ("--config.num_steps=-5", "at least 1"),
        ("--config.num_steps=3e9", "at most 2147483647"),
        ("--config.data.workers=-1", "has no effect with data.stream=false"),
        ("--config.accumulate=3", "is not a multiple of accumulate=3"),
        ("--config.steps_per_call=7", "multiple of steps_per_call"),
        ("--config.executor=jitt", "did you mean jit?"),
        ("--config.sharding=fsdpp", "did you mean fsdp?"),
        ("--config.eval.best=los", "did you mean loss?"),
        ("--config.eval.keep_best=0", "at least 1"),
        ("--config.optimizer.name=adma", "did you mean adam?"),
        ("--config.optimizer.decay=exponential", "allowed: none, linear, cosine"),
        ("--config.optimizer.learning_rate=nan", "a number"),
        ("--config.optimizer.learning_rate=1e999", "finite"),
        ("--config.optimizer.learning_rate=-1", "not be negative"),
        ("--config.optimizer.eps=-1", "not be negative"),
        ("--config.optimizer.b2=1", "[0, 1)"),
        ("--config.optimizer.decay_share=0.5", "it belongs to linear or cosine: set --config.optimizer.decay.name"),
        ("--config.optimizer.decay.share=0.5", "it belongs to linear or cosine: set --config.optimizer.decay.name"),
        ("--config.optimizer.weight_decay=0.5", "it belongs to adamw: set --config.optimizer.name as well"),
        ("--config.optimizer.lerning_rate=0.5", "did you mean learning_rate?"),
        ("--config.optimizer.lr=0.5", "did you mean learning_rate?"),
        ("--config.optimiser=adam", "did you mean optimizer?"),
        ("--config.optimizer=adma", "did you mean adam?"),
        ("--config.optimizer", "--config.optimizer needs a value"),
        ("--config.compute_dtype=float16", "bfloat16"),
    ],
)
def test_a_mistake_is_one_line_that_helps(word, hint):
    assert hint in refused(word)


@pytest.mark.parametrize(
    ("file", "words", "hint"),
    [
        ("ddpm_mnist", "--config.method=vae", "allowed: ddpm"),
        ("ddpm_mnist", "--config.method=dpm", "did you mean ddpm?"),
        ("ddpm_mnist", "--config.network.multipliers=two", "such as [1, 2]"),
        ("ddpm_mnist", "--config.network.multipliers=(1, 2.5)", "a list of numbers"),
        ("ddpm_mnist", "--config.network.attention_sizes=('a',)", "a list of numbers"),
        ("ddpm_mnist", "--config.network.multipliers=()", "at least one level"),
        ("ddpm_mnist", "--config.network.multipliers=(1,1,1,1)", "smaller than the network's stride of 16 pixels"),
        ("ddpm_mnist", "--config.network.channels=-8", "at least 0"),
        ("ddpm_mnist", "--config.network.channels=0", "config.network cannot be built for images of 8x8x1"),
        ("ddpm_mnist", "--config.network.patch=0", "config.network cannot be built for images of 8x8x1"),
        ("ddpm_mnist", "--config.network.num_heads=3", "16 channels do not divide into 3 heads"),
        ("ddpm_mnist", "--config.network.norm=group", "8 channels do not divide into 32 groups"),
        ("ddpm_mnist", "--config.network.dropout=1", "[0, 1)"),
        ("ddpm_mnist", "--config.network.chanels=8", "did you mean channels?"),
        ("ddpm_mnist", "--config.diffusion.num_timesteps=-1", "at least 0"),
        ("ddpm_mnist", "--config.diffusion.num_timesteps=0", "2 or more"),
        ("ddpm_mnist", "--config.diffusion.num_timesteps=2e9", "at most 1000000"),
        ("ddpm_mnist", "--config.diffusion.weighting=snr", "min_snr"),
        ("vae_mnist", "--config.network.name=dence", "did you mean dense?"),
        ("vae_mnist", "--config.network.name=residual --config.network.kernels=3", "it belongs to conv"),
        ("vae_mnist", "--config.network.kernel=3", "did you mean kernels?"),
        ("vae_mnist", "--config.network.decoder_channels=(4,4,4,4)", "smaller than the network's stride of 16 pixels"),
        ("vae_mnist", "--config.network.kernels=3", "as many values as channels"),
        ("vae_mnist", "--config.network.upsampling=nearst", "did you mean nearest?"),
        ("vae_mnist", "--config.network.last_stride=0", "config.network cannot be built for images of 8x8x1"),
        ("vae_mnist", "--config.vae.latents=0", "at least 1"),
        ("vae_mnist", "--config.vae.likelihood=normal", "allowed: bernoulli"),
        ("coupling_mnist", "--config.coupling.squeeze=(4,4)", "images of 8x8 do not divide so: use images of 16x16"),
        ("coupling_mnist", "--config.coupling.stepps=2", "did you mean coupling.steps?"),
        ("tarflow_mnist", "--config.tarflow.patch=3", "use one of 1, 2, 4, 8"),
        ("tarflow_mnist", "--config.network.width=10", "config.network.width is 10; use a multiple of 4"),
        ("tarflow_mnist", "--config.tarflow.noise=normal", "allowed: uniform, gaussian"),
        ("pixelcnn_mnist", "--config.network.kernel=2", "network.kernel is 2; use an odd number of 3 or more"),
        ("pixelcnn_mnist", "--config.autoregressive.levels=1", "levels is 1; use 2 to 256, or 0 for all"),
        ("vae_mnist", "--config.vae.prior=vampp", "did you mean vamp?"),
        ("vae_mnist", "--config.vae.prior=vamp", "config.vae.manifold draws points of equal probability"),
        ("vamp_mnist", "--config.vae.prior.num_components=65", "is 65, but each pseudo-input starts from an image"),
        ("vamp_mnist", "--config.vae.prior.num_components=65", "the start has 64 training images: use at most 64"),
        ("vamp_mnist", "--config.vae.prior.num_components=0", "at least 1"),
        ("vamp_mnist", "--config.vae.prior=standard --config.vae.prior.num_components=5", "belongs to mixture or vamp"),
        ("vamp_mnist", "--config.vae.free_bits=0.5", "free_bits is 0.5, but prior vamp has no KL of each latent"),
        ("vae_mnist", "--config.vae.conditional=true", "each class has its own: use --config.vae.manifold=False"),
        ("vamp_mnist", "--config.vae.conditional=true", "the pseudo-inputs of prior vamp have no class"),
        ("hvae_mnist", "--config.vae.latents=40", "config.vae.latents is (40,): give the numbers of latents of z1 and"),
        ("hvae_mnist", "--config.vae.latents=(0,4)", "such as (40, 40)"),
        ("hvae_mnist", "--config.vae.beta=-1", "must not be negative"),
        ("hvae_mnist", "--config.vae.binarisation=none --config.eval.importance_samples=5", "under bernoulli"),
        ("hvae_mnist", "--config.vae.prior.num_components=65", "the start has 64 training images: use at most 64"),
        ("hvae_mnist", "--config.vae.free_bits=1", "no config value 'vae.free_bits'"),
        ("vqvae_mnist", "--config.vqvae.quantizer=vqq", "did you mean vq?"),
        ("vqvae_mnist", "--config.vqvae.quantizer.levels=(8,8)", "belongs to fsq"),
        ("vqvae_mnist", "--config.vqvae.quantizer=fsq --config.vqvae.quantizer.levels=(8,1)", "each must be 2 or more"),
        ("vqvae_mnist", "--config.vqvae.quantizer.size=257", "images at the start give 256: use at most 256"),
        ("vqvae_mnist", "--config.vqvae.quantizer.decay=1", "in [0, 1), where 0 trains by gradients"),
        ("vqvae_mnist", "--config.network.channels=(4,4,4,4)", "smaller than the 16x16 pixels of one code"),
        ("vqvae_mnist", "--config.network=dense", "config.network.name is 'dense'; allowed: spatial, conv"),
        ("vamp_mnist", "--config.vae.objective=capacity", "capacity needs a KL in closed form"),
        ("autoencoder_mnist", "--config.autoencoder.latents.size=9", "it belongs to vq"),
        ("autoencoder_mnist", "--config.autoencoder.channels=0", "at least 1"),
        ("autoencoder_mnist", "--config.autoencoder.adversarial=gan", "allowed: none, patch"),
        ("ddgan_mnist", "--config.gan.denoising_steps=0", "config.gan.denoising_steps is 0; it must be in 1..1000"),
        ("ddgan_mnist", "--config.gan.penalty.evry=2", "did you mean every?"),
        ("ddgan_mnist", "--config.network.discriminator_channels=()", "at least one level"),
        ("ddgan_mnist", "--config.network.multipliers=(1,1,1,1)", "smaller than the network's stride of 16 pixels"),
        ("scvae_mnist", "--config.scvae.lam=-1", "config.scvae.lam is -1.0; it must be finite and not negative"),
        ("scvae_mnist", "--config.scvae.steps=0", "at least 1"),
        ("scvae_mnist", "--config.scvae.channels=10", "use 9, or --config.scvae.dictionary=orthonormal"),
        ("scvae_mnist", "--config.scvae.dictionary=cosine", "allowed: dct, learned, orthonormal"),
        (
            "vamp_mnist",
            "--config.vae.objective=factor --config.batch_size=63",
            "compares one half of a batch",
        ),
        (
            "vamp_mnist",
            "--config.vae.objective=factor --config.vae.objective.width=0",
            "width is 0; it must",
        ),
        ("vamp_mnist", "--config.vae.objective=iwae --config.vae.objective.num_samples=0", "at least 1"),
    ],
)
def test_a_method_or_network_that_cannot_be_is_one_line(file, words, hint):
    def build():
        config = methods.override(methods.load(f"{file}:tiny")[2], re.split(" (?=--)", words))
        methods.check(config)
        methods.abstract_state(methods.make(config, SPEC), SPEC, None, parallel.make_mesh())

    with pytest.raises(UserError) as error:
        build()
    assert hint in one_line(error)


def test_values_take_the_type_of_their_default():
    words = ["--config.ema=0", "--config.seed=7", "--config.data.name=cifar10", "--config.num_steps=1_000"]
    config = configs.override(configs.base_config(), words, BASE)
    assert (config.ema, config.seed, config.data.name, config.num_steps) == (0.0, 7, "cifar10", 1000)
    assert isinstance(config.ema, float)


def test_overriding_leaves_the_given_config_alone():
    config = default("latent")
    before = config.to_dict()
    overridden(config, "seed=5", "optimizer=sgd", "optimizer.b1=0.5", "pretrained.optimizer=sgd", "sample.sampler=ddim")
    assert config.to_dict() == before


def test_completing_leaves_the_given_config_alone():
    config = ConfigDict({"method": "latent", "optimizer": "sgd", "pretrained": {"method": "vae", "network": "dense"}})
    before = config.to_dict()
    methods.complete(config)
    assert config.to_dict() == before


def test_a_resumed_run_refuses_what_changes_training_and_names_it():
    old, new = configs.base_config(), configs.base_config()
    new.num_steps, new.sample.num, new.log_every = 5, 6, 7
    assert configs.changes(old.to_dict(), new.to_dict()) == []
    new.optimizer.learning_rate, new.seed = 1.0, 3
    assert configs.changes(old.to_dict(), new.to_dict()) == ["optimizer.learning_rate: 0.0002 -> 1.0", "seed: 0 -> 3"]


def test_a_resumed_run_names_the_parameters_that_go_and_come_with_a_choice():
    old = configs.base_config()
    new = configs.override(old, ["--config.optimizer=sgd", "--config.optimizer.decay=linear"], BASE)
    assert configs.changes(old.to_dict(), new.to_dict()) == [
        "optimizer.b2: 0.999 -> null",
        "optimizer.decay.name: none -> linear",
        "optimizer.decay.share: null -> 1.0",
        "optimizer.eps: 1e-08 -> null",
        "optimizer.name: adam -> sgd",
    ]


def other(value):
    """A value of the same type that differs."""
    return {bool: lambda: not value, str: lambda: f"{value}x", tuple: lambda: (*value, 1)}.get(
        type(value), lambda: value + 1
    )()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_that_may_not_change_is_named_with_both_values(path):
    old = methods.load(str(path))[2]
    for key, value in configs.flatten(old).items():
        new = old.copy_and_resolve_references()
        new.update_from_flattened_dict({key: other(value)})
        free = any(fnmatch.fnmatch(key, pattern) for pattern in configs.MAY_CHANGE)
        free = free or (key == "data.name" and value.startswith("image_folder:"))  # a folder that was moved
        shown = [configs.as_text(v) for v in (value, other(value))]
        assert configs.changes(old.to_dict(), new.to_dict()) == ([] if free else [f"{key}: {' -> '.join(shown)}"])


def test_what_may_change_is_there():
    keys = configs.flatten(configs.base_config())
    assert all(fnmatch.filter(keys, pattern) for pattern in configs.MAY_CHANGE)


@pytest.mark.parametrize(
    ("before", "now"), [("stroke_digits", "mnist"), ("mnist", "stroke_digits"), ("mnist", "mnist")]
)
def test_a_run_goes_on_with_its_own_data_alone(before, now, tmp_path, monkeypatch):
    config, run = methods.load(f"{FILES[0]}:tiny")[2], Run(tmp_path)
    stored = dataclasses.replace(SPEC, name=before, fingerprint="a" * 64)
    run.write_config({"config": config.to_dict(), "data": stored.to_dict(), "versions": {"gen_jax": "0.2.0"}})
    at_hand = dataset.Dataset(dataclasses.replace(SPEC, name=now, fingerprint="b" * 64), {}, None)
    monkeypatch.setattr(dataset, "load", lambda config: at_hand)
    content = run.config_path.read_bytes()
    with pytest.raises(UserError) as error:
        train.train(config, run, FILES[0].stem, "tiny", "")
    line = f"was trained on {before} (fingerprint aaaaaaaaaaaa), but the data at hand is {now} (bbbbbbbbbbbb); "
    assert line + "bring that data back, or use another --workdir" in str(error.value)
    assert "\n" not in str(error.value)
    assert run.config_path.read_bytes() == content


class Recorded(collections.abc.Mapping):
    """A config that notes in `read` which keys are asked of it."""

    def __init__(self, config, read, prefix=""):
        self._config, self._read, self._prefix = config, read, prefix

    def __getitem__(self, key):
        value = self._config[key]
        if isinstance(value, ConfigDict):
            return Recorded(value, self._read, f"{self._prefix}{key}.")
        self._read.add(self._prefix + key)
        return value

    def __contains__(self, key):  # whether it is there says nothing of its value
        return key in self._config

    def __getattr__(self, key):
        return self[key]

    def __iter__(self):
        return iter(self._config)

    def __len__(self):
        return len(self._config)


def stage_of(config, spec):
    """The first stage that a config holds the config of: (its whole config, the stage), or (None, None).

    That of a second stage of StackGAN is a run: (None, a stage of smaller pictures).
    """
    inner = methods.stage_of(config)
    if inner is None and config.get("network", {}).get("name") == "second":
        first = overridden(default("stackgan"), *COMPLETE["stackgan", "first"])
        height, width, channels = spec.image_shape
        smaller = dataclasses.replace(spec, image_shape=(height // 2, width // 2, channels))
        return None, methods.make_stage(first, smaller)
    if inner is None:
        return None, None
    whole = methods.complete(ConfigDict({**inner, **{key: config[key] for key in methods.SHARED}}))
    return whole, methods.make_stage(whole, spec)


def of_data(config, spec):
    """The spec as the config asks for the data."""
    if config.data.get("text", {"name": "none"})["name"] != "none":
        text = {"text": Feature((2, 5), "float32", several=True)}
        spec = dataclasses.replace(spec, features={**spec.features, **text})
    return dataset.with_smaller(spec, config.data.reduce) if config.data.reduce else spec


def condition_of(method, spec, num):
    """What samples are asked for, as shapes."""
    features = {name: spec.features[name] for name in method.condition}
    return {name: jax.ShapeDtypeStruct((num, *f.given), f.dtype) for name, f in features.items()}


def unread(config, keys, monkeypatch, size=16):
    """Those of `keys` that nothing asks for: not what makes a method, nor what is traced of it until all are read.

    That is, in this order: init, evaluate, step, sample, pictures. A network is given all its fields at once; of those,
    what counts is what the module itself asks for in our code. A first stage is a method of its own, whose keys stand
    below `pretrained`.
    """
    read = keys_read_by_the_rest() | {f"data.text.{key}" for key in config.data.get("text", ())}  # see tests/text
    # Large enough for the strides of every config; codes are those of images of 28x28 alone.
    size = 28 if methods.stage_of(config) is not None else size
    spec = dataclasses.replace(SPEC, image_shape=(size, size, 1))
    spec = of_data(config, spec)
    whole, stage = stage_of(config, spec)
    if whole is not None:
        inner = {key.removeprefix("pretrained.") for key in keys if key.startswith("pretrained.")}
        read |= {f"pretrained.{key}" for key in inner - unread(whole, inner, monkeypatch, size)}
    # Not by `methods.make`, which would copy the config.
    asked = set()
    method = importlib.import_module(methods.METHODS[config.method]).make(Recorded(config, asked), spec, stage)
    networks = methods.options(config).choices.get("network")
    modules = networks.table[config.network.name] if networks else ()  # none, where the network is a first stage's

    def left():
        return keys - read - {key for key in asked if not key.startswith("network.") or key == "network.name"}

    with monkeypatch.context() as patch:
        for module in modules:
            patch.setattr(module, "__getattribute__", noting({*config.network}, read), raising=False)
        state = methods.abstract_state(method, spec, stage, parallel.make_mesh(1))
        batch = spec.abstract_batch(16)
        keys_of_samples = jax.eval_shape(functools.partial(jax.random.split, num=16), state.key)
        lead = (method.batches_per_step,) if method.batches_per_step > 1 else ()
        several = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype), batch)
        calls = {
            method.evaluate: (state, batch, state.key),
            method.step: (state, several),
            method.sample: (state, keys_of_samples, condition_of(method, spec, 16)),
            method.pictures: (state, state.key, batch),
        }
        for function, given in calls.items():
            if left():
                jax.eval_shape(function, *given)
    return left()


def noting(names, read):
    """The `__getattribute__` of a module that notes which of its fields our code asks it for."""
    get = object.__getattribute__

    def found(module, name):
        if name in names and sys._getframe(1).f_code.co_filename.startswith(str(PACKAGE)):
            scope = get(module, "scope")
            if scope is not None and scope.path == ():
                read.add(f"network.{name}")
        return get(module, name)

    return found


@functools.cache
def keys_read_by_the_rest():
    """Keys whose names stand in the code around the methods: `config.<key>`, which in data/ is `config.data`."""
    found = set()
    for path in [*PACKAGE.glob("*.py"), *PACKAGE.glob("data/*.py")]:
        prefix = "data." if path.parent.name == "data" else ""
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("config."):
                found.add(prefix + ast.unparse(node).removeprefix("config."))
    return found


# Fields that a network asks for only where another value is on; `test_every_field_of_every_network_is_read` has all on.
ASKED_WHERE = {
    "network.condition": lambda config: config.gan.get("conditional", False),  # no discriminator of an acgan is told
    "network.embedding_dim": lambda config: config.gan.get("conditional", True),
    "network.norm_first": lambda config: config.network.norm != "none",
}


# Of several configs of one method and network one is tried at once, and the others by the slow tests.
ALIKE = {
    "cgan_cifar10", "dcgan_cats", "r3gan_cats", "r3gan_cifar10", "ddpm_cats", "ddpm_cifar10", "wgan_gp_mnist",
    "autoencoder_cats", "latent_cats", "edm_mnist",
}  # fmt: skip


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=[pytest.mark.slow] * (p.stem in ALIKE), id=p.stem) for p in FILES]
)
def test_every_key_of_every_config_is_read(path, monkeypatch):
    config = methods.load(f"{path}:tiny")[2]
    keys = {*configs.flatten(config)}
    expected = {key for key, on in ASKED_WHERE.items() if key in keys and not on(config)}
    assert unread(config, keys, monkeypatch) == expected


# Networks of every name, for 16x16 images, with all on that makes a field count.
COMPLETE = {
    ("ddpm", "unet"): ["diffusion.conditional=true", "network.channels=8", "network.multipliers=(1,2)",
                       "network.num_blocks=1", "network.attention_sizes=()", "network.num_groups=4"],
    ("ddpm", "dit"): ["diffusion.conditional=true", "network.patch=4", "network.width=8", "network.depth=1",
                      "network.num_heads=2"],
    ("vae", "dense"): [],
    ("vae", "conv"): [],
    ("vae", "residual"): [],
    ("vae", "spatial"): ["vae.latents=32"],  # 4x4 places
    ("scvae", "spatial"): [],
    ("scvae", "conv"): [],
    ("hvae", "dense"): [],
    ("autoencoder", "spatial"): [],
    ("autoencoder", "conv"): [],
    ("vqvae", "spatial"): [],
    ("vqvae", "conv"): [],
    ("gan", "dense"): ["gan.conditional=true"],
    ("gan", "conv"): ["gan.conditional=true"],
    ("gan", "residual"): ["gan.conditional=true"],
    ("gan", "r3gan"): ["gan.conditional=true", "network.widths=(4,4)", "network.cardinality=2"],
    ("stackgan", "first"): ["network.width=4", "network.levels=2", "network.discriminator_levels=2"],
    ("stackgan", "second"): ["network.width=4", "network.num_blocks=1", "network.discriminator_levels=2"],
    ("ddgan", "unet"): ["gan.conditional=true", "network.channels=8", "network.discriminator_channels=(4,)",
                        "network.mapping_width=8"],
    ("srresnet", "srresnet"): ["network.channels=4", "network.blocks=1"],
    ("srgan", "conv"): ["pretrained.network.channels=4", "pretrained.network.blocks=1"],
    ("coupling", "conv"): ["coupling.conditional=true", "coupling.steps=1", "network.width=4"],
    ("tarflow", "transformer"): ["tarflow.conditional=true", "tarflow.blocks=1", "network.width=8", "network.depth=1"],
    ("autoregressive", "pixelcnn"): ["autoregressive.conditional=true", "network.width=8", "network.depth=2"],
}  # fmt: skip


def test_every_network_is_tried_complete():
    families = (
        "ddpm", "vae", "hvae", "vqvae", "scvae", "autoencoder", "gan", "stackgan", "ddgan", "srresnet", "srgan",
        "coupling", "tarflow", "autoregressive",
    )  # fmt: skip
    assert COMPLETE.keys() == {(m, n) for m in families for n in choice_at(m, "network").table}
    alike = [(method, "ddpm") for method in ("flow", "latent", "meanflow", "consistency", "sr3")]
    for method, like in (*alike, ("acgan", "gan")):
        assert methods.options(default(method)).choices["network"] == methods.options(default(like)).choices["network"]


@pytest.mark.parametrize(("method", "name"), COMPLETE)
def test_every_field_of_every_network_is_read(method, name, monkeypatch):
    config = overridden(default(method), f"network={name}", *COMPLETE[method, name])
    assert unread(config, {f"network.{key}" for key in config.network}, monkeypatch) == set()


# What follows is about every choice of every method, also below `pretrained`: of the autoencoder that latent diffusion
# trains first.
CHOICES = [(m, path) for m in methods.METHODS for path in methods.options(default(m)).all_choices]
each_choice = pytest.mark.parametrize(("method", "path"), CHOICES, ids=lambda part: part)

# Parameters that are no user's to set: of the data, of the method, or worked out of other values.
NO_USERS = {
    "image_shape", "out_channels", "num_classes", "num_outputs", "latents", "grid", "dtype", "rate", "peak", "steps",
    "setting", "dimension", "features", "rows", "num_values", "factor",
}  # fmt: skip

# Another value of each parameter that all names of a choice have.
COMMON = {"learning_rate": 0.125, "clip_norm": 3.0, "warmup_steps": 7, "decay.name": "linear", "decay.share": 0.5}

# Who reads what, written down by hand; what is not here is read by one name alone.
TABLES = ("linear", "scaled_linear", "cosine", "sigmoid_beta", "sigmoid_abar")
READ_WITH = {
    "optimizer.b1": ("adam", "adamw", "muon", "sgd"),
    "optimizer.b2": ("adam", "adamw", "muon", "rmsprop"),
    "optimizer.eps": ("adam", "adamw", "muon", "rmsprop"),
    "optimizer.weight_decay": ("adamw",),
    "optimizer.decay.share": ("linear", "cosine"),
    "diffusion.schedule.num_steps": TABLES,
    "diffusion.schedule.zero_terminal_snr": TABLES,
    "diffusion.schedule.sigma_min": ("variance_exploding",),
    "diffusion.schedule.sigma_max": ("variance_exploding",),
    "diffusion.schedule.beta_min": ("variance_preserving",),
    "diffusion.schedule.beta_max": ("variance_preserving",),
    "diffusion.prediction.sigma_data": ("edm",),
    "diffusion.weighting.sigma_data": ("edm",),
    "diffusion.weighting.gamma": ("min_snr", "p2"),
    "diffusion.weighting.k": ("p2",),
    "diffusion.times.mean": ("logit_normal", "log_normal"),
    "diffusion.times.std": ("logit_normal", "log_normal"),
    "diffusion.input_scale.sigma_data": ("unit_variance",),
    "diffusion.variance.weight": ("learned",),
    "eval.likelihood.terms": ("bound",),
    "eval.likelihood.variance": ("bound",),
    "eval.likelihood.num_steps": ("ode",),
    "eval.likelihood.probes": ("ode",),
    "sample.sampler.eta": ("ddim",),
    "sample.sampler.variance": ("ancestral",),
    "sample.sampler.order": ("dpm_solver", "plms"),
    "sample.sampler.stochastic": ("dpm_solver",),
    "sample.sampler.s_churn": ("edm",),
    "sample.sampler.s_min": ("edm",),
    "sample.sampler.s_max": ("edm",),
    "sample.sampler.s_noise": ("edm",),
    "sample.spacing.rho": ("karras",),
    "sample.spacing.sigma_min": ("karras",),
    "sample.spacing.sigma_max": ("karras",),
    "vae.likelihood.sigma": ("gaussian",),
    "vae.prior.num_components": ("mixture", "vamp"),
    "vae.objective.num_samples": ("iwae",),
    "vae.objective.gamma": ("capacity", "factor"),
    "vae.objective.width": ("factor",),
    "vae.objective.depth": ("factor",),
    "vae.objective.learning_rate": ("factor",),
    "vae.objective.nats": ("capacity",),
    "vae.objective.warmup_steps": ("capacity",),
    "vae.objective.information": ("total_correlation",),
    "vae.objective.correlation": ("total_correlation",),
    "vae.objective.dimensions": ("total_correlation",),
    "vae.objective.estimator": ("total_correlation",),
    "scvae.dictionary.num_atoms": ("dct", "learned"),
    "vqvae.quantizer.size": ("vq",),
    "vqvae.quantizer.dimensions": ("vq",),
    "vqvae.quantizer.commitment": ("vq",),
    "vqvae.quantizer.decay": ("vq",),
    "vqvae.quantizer.revive": ("vq",),
    "vqvae.quantizer.levels": ("fsq",),
    "gan.constraint.bound": ("clip",),
    "gan.penalty.weight": ("wgan_gp", "r1", "r2", "r1_r2"),
    "gan.penalty.every": ("wgan_gp", "r1", "r2", "r1_r2"),
    "stackgan.penalty.weight": ("wgan_gp", "r1", "r2", "r1_r2"),
    "stackgan.penalty.every": ("wgan_gp", "r1", "r2", "r1_r2"),
    "gan.augment.strength": ("diff_augment",),
    "gan.augment.target": ("adaptive",),
    "gan.augment.images": ("adaptive",),
    "gan.augment.colour": ("diff_augment", "adaptive"),
    "gan.augment.translation": ("diff_augment", "adaptive"),
    "gan.augment.cutout": ("diff_augment", "adaptive"),
    "gan.burn_in.share": ("cosine",),
    "gan.burn_in.learning_rate": ("cosine",),
    "gan.burn_in.penalty": ("cosine",),
    "gan.burn_in.b2": ("cosine",),
    "data.text.most": ("words",),
    "data.text.reach": ("words",),
    "data.text.size": ("words", "char_cnn_rnn", "sentence"),
    "data.text.num_steps": ("char_cnn_rnn",),
    "data.text.path": ("sentence", "file"),
    "superres.content.channels": ("features",),
    "superres.content.seed": ("features",),
    "superres.content.blocks": ("efficientnet",),
    "tarflow.noise.sigma": ("gaussian",),
    "autoencoder.latents.weight": ("kl",),
    "autoencoder.latents.size": ("vq",),
    "autoencoder.latents.commitment": ("vq",),
    "autoencoder.latents.decay": ("vq",),
    "autoencoder.latents.revive": ("vq",),
    "autoencoder.perceptual.weight": ("random",),
    "autoencoder.perceptual.seed": ("random",),
    "autoencoder.perceptual.channels": ("random",),
    "autoencoder.adversarial.weight": ("patch",),
    "autoencoder.adversarial.start": ("patch",),
    "autoencoder.adversarial.channels": ("patch",),
}


@functools.cache
def choice_at(method, path):
    return methods.options(default(method)).all_choices[path]


def own_parameters(choice, name):
    """{parameter: default} as what is named declares them, but for those that are no user's."""
    parts, found = choice.table[name], {}
    for part in parts if isinstance(parts, tuple) else (parts,):
        found |= {each.name: each.default for each in inspect.signature(part).parameters.values()}
    flax = {"parent", "name"} if isinstance(parts, tuple) else set()
    hidden = NO_USERS | flax | set(choice.given)
    return {key: choice.defaults.get(key, found[key]) for key in found if key not in hidden}


def common_of(path):
    return {f"{path}.{key}": value for key, value in COMMON.items()} if path.endswith("optimizer") else {}


# Other values of parameters that need a certain one, to count or to be accepted.
OWN = {
    "sample.sampler.order": 1, "sample.sampler.stochastic": "midpoint",
    "sample.sampler.s_churn": 0.5, "sample.sampler.s_min": 0.6, "sample.sampler.s_max": 1.5,  # between four levels
    "vae.objective.estimator": "stratified", "vqvae.quantizer.levels": (5, 5),
    "gan.augment.cutout": 0.25,  # another number of pixels
    "gan.augment.target": 0.5,
}  # fmt: skip


def different(key, value):
    """A value of the same type that the parameter `key` may have instead."""
    if (bare := key.removeprefix("pretrained.")) in OWN:
        return OWN[bare]
    if isinstance(value, float):
        return value / 2 + 0.3
    if key.endswith("likelihood.terms"):  # 0 means all, and few are too few
        return 5
    return "large" if key.endswith(("sampler.variance", "likelihood.variance")) else other(value)


def words_of(values):
    return [f"{key}={value}" for key, value in values.items()]


def orders(words):
    """Some orders of the words: the order of the command line does not count."""
    return words, words[::-1], words[1::2] + words[::2]


def test_choices_are_all_that_has_parameters():
    below = {
        "diffusion": ("schedule", "prediction", "weighting", "times", "input_scale", "variance"),
        "vae": ("likelihood", "prior", "objective"),
        "gan": ("penalty", "constraint", "augment", "burn_in"),
    }
    of_all = {"optimizer", "optimizer.decay", "network"}
    diffusion_paths = of_all | {f"diffusion.{name}" for name in below["diffusion"]}
    diffusion_paths |= {"sample.sampler", "sample.spacing", "eval.likelihood"}
    of_one_step = of_all | {"diffusion.times", "sample.sampler", "sample.spacing", "eval.likelihood"}
    vae_paths, gan_paths = (of_all | {f"{family}.{name}" for name in below[family]} for family in ("vae", "gan"))
    expected = dict.fromkeys(("ddpm", "flow"), diffusion_paths) | dict.fromkeys(("gan", "acgan"), gan_paths)
    expected |= {"ddpm": diffusion_paths | {"data.text"}, "stackgan": of_all | {"data.text", "stackgan.penalty"}}
    expected |= {"meanflow": of_one_step | {"diffusion.input_scale"}, "consistency": of_one_step}
    expected |= {"distilled": of_all - {"network"} | {f"pretrained.{path}" for path in diffusion_paths | of_all}}
    expected |= {"coupling": of_all, "tarflow": of_all | {"tarflow.noise"}, "autoregressive": of_all}
    expected |= {"vqvae": of_all | {"vqvae.quantizer"}, "scvae": of_all | {"scvae.dictionary"}}
    its = {f"autoencoder.{name}" for name in ("latents", "perceptual", "adversarial")}
    expected |= {"autoencoder": of_all | its}
    expected |= {"hvae": vae_paths - {"vae.objective"}, "ddgan": of_all | {"gan.penalty"}}
    srresnet_paths = of_all | {"superres.content"}
    expected |= {"srresnet": srresnet_paths}
    expected |= {"sr3": diffusion_paths}
    expected |= {"srgan": srresnet_paths | {f"pretrained.{path}" for path in srresnet_paths}}
    expected |= {"vae": vae_paths, "latent": diffusion_paths | {f"pretrained.{path}" for path in vae_paths}}
    assert {m: {path for method, path in CHOICES if method == m} for m in methods.METHODS} == expected


@pytest.mark.parametrize("key", READ_WITH)
def test_a_parameter_is_there_with_the_names_that_read_it_alone(key):
    path, _, leaf = key.rpartition(".")
    places = [(m, p) for m, p in CHOICES if p.removeprefix("pretrained.") == path]
    assert places
    for method, place in places:
        for name in choice_at(method, place).table:
            assert (f"{place}.{leaf}" in keys_with(method, place, name)) == (name in READ_WITH[key])


@functools.cache
def keys_with(method, place, name):
    return configs.flatten(overridden(default(method), f"{place}={name}")).keys()


def test_every_parameter_but_those_of_networks_is_written_down():
    places = [(method, path) for method, path in CHOICES if not path.endswith("network")]
    found = {
        f"{path.removeprefix('pretrained.')}.{leaf}"
        for method, path in places
        for name in choice_at(method, path).table
        for leaf in own_parameters(choice_at(method, path), name)
    }
    assert found == READ_WITH.keys()


@each_choice
def test_a_name_comes_with_its_parameters_and_leaves_all_else(method, path):
    before, choice = default(method), choice_at(method, path)
    flat, common = configs.flatten(before), common_of(path)
    others = {key: value for key, value in flat.items() if not key.startswith(f"{path}.")}
    for name in choice.table:
        its = {f"{path}.{key}": value for key, value in own_parameters(choice, name).items()}
        expected = others | its | common | {f"{path}.name": name}
        if name == flat[f"{path}.name"]:  # what the config has already stays as it is
            expected = flat | common
        for word in (f"{path}={name}", f"{path}.name={name}"):
            for words in orders([word, *words_of(common)]):
                assert configs.flatten(overridden(before, *words)) == expected
        # There and back again: only what is common has been kept.
        back = overridden(overridden(before, *words_of(common), f"{path}={name}"), f"{path}={flat[f'{path}.name']}")
        assert configs.flatten(back).keys() == (flat | common).keys()
        assert common.items() <= configs.flatten(back).items()


@each_choice
def test_every_parameter_can_be_set_in_any_order_of_words(method, path):
    before, choice = default(method), choice_at(method, path)
    for name in choice.table:
        its = {f"{path}.{key}": value for key, value in own_parameters(choice, name).items()}
        values = {key: different(key, value) for key, value in its.items()}
        found = [overridden(before, *words) for words in orders([f"{path}={name}", *words_of(values)])]
        for config in found:
            assert {key: value for key, value in configs.flatten(config).items() if key in values} == values
            assert config == found[0]
        if isinstance(choice.table[name], tuple):
            reaches_the_modules(choice, name, {key.rpartition(".")[2]: value for key, value in values.items()})


def reaches_the_modules(choice, name, values):
    """Every field that a docstring of the network describes can be set, and arrives in the module that has it."""
    modules = configs.modules_of({"name": name, **values}, choice.table, dict.fromkeys(choice.given))
    documented = {field for part in choice.table[name] for field in re.findall(r"^ {6}(\w+): ", part.__doc__, re.M)}
    assert documented <= values.keys() | set(choice.given)
    for key, value in values.items():
        assert {getattr(module, key) for module in modules if hasattr(module, key)} == {value}


@each_choice
def test_a_parameter_of_another_name_is_refused_with_the_names_that_have_it(method, path):
    before, choice = default(method), choice_at(method, path)
    have = {name: own_parameters(choice, name).keys() for name in choice.table}
    for name, here in have.items():
        for leaf in set().union(*have.values()) - here:
            owners = {each for each in have if leaf in have[each]}
            for words in ((f"{path}={name}", f"{path}.{leaf}=1"), (f"{path}.{leaf}=1", f"{path}={name}")):
                with pytest.raises(UserError) as error:
                    overridden(before, *words)
                said = one_line(error)
                assert said.startswith(f"config.{path}.{leaf} is not a parameter of {path} {name}; it belongs to ")
                assert set(re.findall(r"belongs to (.*): set --config", said)[0].split(" or ")) == owners
                assert said.endswith(f": set --config.{path}.name as well")
        for leaf in here:  # of no name, but near to one that this name has
            with pytest.raises(UserError, match=f"not a parameter of {path} {name}; did you mean {leaf}") as error:
                overridden(before, f"{path}={name}", f"{path}.{leaf}x=1")
            one_line(error)
    with pytest.raises(UserError, match=f"config.{path}.name is 'nothing'.* allowed: {', '.join(have)}$") as error:
        overridden(before, f"{path}=nothing")
    one_line(error)


class OneNumber(nn.Module):
    """A network that traces at once, in the place of a U-Net."""

    out_channels: int = 1
    num_classes: int = 0
    dtype: object = jnp.float32

    @nn.compact
    def __call__(self, x, time, *, label=None, index=None, train=False):
        x = jnp.repeat(x, self.out_channels // x.shape[-1], axis=-1)  # twice with learned variances
        return x * self.param("number", nn.initializers.ones, ()) + 0 * time.reshape(-1, 1, 1, 1)


def programs(config, first="step"):
    """What a method computes, as texts: the compiler is given nothing else."""
    spec, mesh = of_data(config, SPEC), parallel.make_mesh(1)
    method, batch = methods.make(config, spec), spec.abstract_batch(4)
    state = methods.abstract_state(method, spec, None, mesh)
    keys = jax.eval_shape(functools.partial(jax.random.split, num=4), state.key)
    given = {name: of for name, of in condition_of(method, spec, 4).items() if name != "label"}
    calls = {
        "step": (method.step, state, batch),
        "evaluate": (method.evaluate, state, batch, state.key),
        "sample": (method.sample, state, keys, given),
        "init": (lambda key, examples: method.init(key, examples, {}), state.key, batch),
    }
    for name in sorted(calls, key=lambda name: name != first):
        function, *arguments = calls[name]
        yield jax.jit(function).lower(*arguments).as_text()


def optimizer_programs(config):
    """As `programs`: a step of the optimizer alone."""
    made = optimizer.make(config.optimizer, 1000, 0.9)
    params = {"kernel": jnp.zeros((3, 3)), "scale": jnp.zeros(3)}
    state = State(
        step=jnp.int32(0), key=jax.random.key(0), params={"net": params}, variables={},
        opt_state={"net": made.init(params)}, ema={"net": params}, frozen={},
    )  # fmt: skip
    yield jax.jit(made.apply, static_argnums=1).lower(state, "net", params).as_text()


# Encoders of texts compute data: see tests/text. The penalties of stackgan are those of gan.
ELSEWHERE = ("data.text", "stackgan.penalty")
READERS = [(key, name) for key, names in READ_WITH.items() for name in names if not key.startswith(ELSEWHERE)]
READERS += [(f"optimizer.{key}", name) for key in COMMON for name in optimizer.OPTIMIZERS if "decay" not in key]


# Tracing these methods takes longest: left to the slow tests.
COSTLY = ("gan.", "autoencoder.", "superres.", "vqvae.", "vae.objective.")


@pytest.mark.parametrize(
    ("key", "name"), [pytest.param(*r, marks=[pytest.mark.slow] * r[0].startswith(COSTLY)) for r in READERS]
)
def test_no_name_has_a_parameter_that_changes_nothing(key, name, monkeypatch):
    monkeypatch.setitem(diffusion.NETWORKS, "unet", (OneNumber,))
    path = key.rpartition(".")[0]
    family = key.partition(".")[0]
    method = family if family in ("vae", "vqvae", "scvae", "autoencoder", "gan", "tarflow") else "ddpm"
    method = "srresnet" if family == "superres" else method
    words = {
        "ddpm": ["sample.num_steps=4", "sample.clip=false"],
        "gan": ["network=dense", "network.hidden=4", "network.generator_hidden=4"],
        "vae": ["network=dense", "network.hidden=4"],
        "scvae": ["network.channels=4"],
        "vqvae": ["network.channels=4"],
        "autoencoder": ["network.channels=4"],
        "srresnet": ["data.reduce=2", "network.channels=4", "network.blocks=1"],
        "tarflow": ["network.width=8", "network.depth=1", "tarflow.blocks=1"],
    }[method]
    if path == "diffusion.prediction":  # there is data left at the end of this path
        words += ["diffusion.schedule=variance_exploding"]
    if path == "gan.burn_in":  # a penalty whose weight moves
        words += ["gan.penalty=r1"]
    before, texts = texts_before(method, path, *words, f"{path}={name}")
    value = configs.flatten(before)[key]
    after = overridden(before, f"{key}={different(key, value)}")
    assert any(text != changed for text, changed in zip(texts, texts_of(path)(after), strict=True))


def texts_of(path):
    """A config's programs, that in which parameters of this path most likely show first."""
    if path.startswith("optimizer"):
        return optimizer_programs
    first = {"sample": "sample", "eval": "evaluate"}.get(path.partition(".")[0], "step")
    return functools.partial(programs, first=first)


@functools.cache
def shared_texts(method, path, *words):
    config = overridden(default.__wrapped__(method), *words)  # anew: a network is another one
    return config, itertools.tee(texts_of(path)(config), 1)[0]


def texts_before(method, path, *words):
    """A config and its programs, which all parameters of one choice are compared with: each is traced once."""
    config, texts = shared_texts(method, path, *words)
    return config, copy.copy(texts)  # from the first on


def test_the_same_config_computes_the_same(monkeypatch):
    monkeypatch.setitem(diffusion.NETWORKS, "unet", (OneNumber,))
    config = overridden(default.__wrapped__("ddpm"), "sample.num_steps=3")
    assert [*programs(config)] == [*programs(config)]
    assert [*optimizer_programs(config)] == [*optimizer_programs(config)]


# Where versions before 0.2 had a value, and what it was read with and not read with.
OLD = [
    ("ddpm", "optimizer.decay", "linear", "none", "optimizer.decay_share", "optimizer.decay.share", 0.5),
    ("ddpm", "diffusion.schedule", "linear", "straight", "diffusion.num_timesteps", "diffusion.schedule.num_steps", 50),
    ("ddpm", "diffusion.schedule", "linear", "straight", "diffusion.zero_terminal_snr",
     "diffusion.schedule.zero_terminal_snr", False),
    ("ddpm", "sample.sampler", "ddim", "ancestral", "sample.eta", "sample.sampler.eta", 0.5),
    ("ddpm", "sample.sampler", "ancestral", "ddim", "sample.variance", "sample.sampler.variance", "large"),
    ("vae", "vae.likelihood", "gaussian", "bernoulli", "vae.sigma", "vae.likelihood.sigma", 0.5),
    ("gan", "gan.constraint", "clip", "spectral", "gan.clip", "gan.constraint.bound", 0.5),
    ("acgan", "gan.penalty", "r1", "none", "gan.penalty_weight", "gan.penalty.weight", 2.0),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "reads", "ignores", "old", "new", "value"), OLD)
def test_a_key_of_version_0_1_is_understood_where_it_is_read(method, path, reads, ignores, old, new, value):
    before = default(method)
    for words in orders([f"{path}={reads}", f"{old}={value}"]):
        flat = configs.flatten(overridden(before, *words))
        assert (flat[new], type(flat[new])) == (value, type(value))
        assert old not in flat
        assert configs.flatten(overridden(before, f"{path}={reads}", f"{new}={value}")) == flat
    for words in orders([f"{path}={ignores}", f"{old}={value}"]):
        with pytest.raises(UserError, match=rf"config\.{new} is not a parameter of {path} {ignores}") as error:
            overridden(before, *words)
        assert reads in one_line(error).partition("it belongs to ")[2].partition(":")[0].split(" or ")


@pytest.mark.parametrize(("method", "path", "reads", "ignores", "old", "new", "value"), OLD)
def test_a_config_of_version_0_1_is_completed_and_what_it_did_not_read_left_out(
    method, path, reads, ignores, old, new, value
):
    def given(name):
        config = ConfigDict({"method": method})
        for key, each in ((path, name), (old, value)):
            outer, _, leaf = key.partition(".")
            config[outer] = {**config.get(outer, {}), leaf: each}
        return config

    expected = configs.flatten(overridden(default(method), f"{path}={reads}", f"{old}={value}"))
    for older in (False, True):  # a config's file may be as it was
        assert configs.flatten(methods.complete(given(reads), older)) == expected
    unread = configs.flatten(methods.complete(given(ignores), older=True))
    assert unread == configs.flatten(overridden(default(method), f"{path}={ignores}"))
    with pytest.raises(
        UserError, match=rf"config\.{new} is not a parameter of {path} {ignores}; it belongs to .*{reads}"
    ):
        methods.complete(given(ignores))


# Runs that 0.1.0 wrote (tests/old_runs): where their values are now, if it is another place; what they did not read;
# and what they do not state: there was no such key yet, or it was left to the network.
NOW = {
    "optimizer.decay": "optimizer.decay.name",
    "optimizer.decay_share": "optimizer.decay.share",
    "diffusion.schedule": "diffusion.schedule.name",
    "diffusion.num_timesteps": "diffusion.schedule.num_steps",
    "diffusion.zero_terminal_snr": "diffusion.schedule.zero_terminal_snr",
    "diffusion.prediction": "diffusion.prediction.name",
    "diffusion.weighting": "diffusion.weighting.name",
    "sample.sampler": "sample.sampler.name",
    "sample.spacing": "sample.spacing.name",
    "sample.variance": "sample.sampler.variance",
    "vae.likelihood": "vae.likelihood.name",
    "gan.penalty": "gan.penalty.name",
    "gan.constraint": "gan.constraint.name",
}
UNREAD = {
    "ddpm": {"optimizer.weight_decay", "sample.eta"},
    "vae": {"optimizer.weight_decay", "vae.sigma"},
    "gan": {"optimizer.weight_decay", "gan.clip", "gan.penalty_weight"},
}
NEW_IN_ALL = {
    "data.crop": 0, "data.reduce": 0, "data.max_megapixels": 200, "eval.judges": "", "sharding": "replicated",
    "warm_start": "", "eval.best": "frechet_distance", "eval.keep_best": 1, "eval.patience": 0,
    "trackers": "",
}  # fmt: skip
NEW = {
    "ddpm": {
        "network.name": "unet", "network.num_groups": 32, "network.qk_norm": False, "network.remat": False,
        "diffusion.times.name": "uniform",
        "diffusion.input_scale.name": "none", "diffusion.told": "time", "diffusion.label_drop": 0.0,
        "diffusion.mirror": False, "diffusion.variance.name": "fixed", "eval.likelihood.name": "none",
        "sample.guidance": 1.0, "sample.guidance_rescale": 0.0, "sample.guidance_interval": "0,1",
        "sample.dynamic_threshold": 0.0, "data.text.name": "none",
    },
    "vae": {
        "vae.conditional": False, "vae.manifold": False, "vae.prior.name": "standard", "vae.objective.name": "elbo",
    },
    "gan": {
        "gan.augment.name": "none", "gan.burn_in.name": "none", "gan.mirror": False, "sample.truncation": 0.0,
        "network.activation_noise": 0.0, "network.conv_bias": False, "network.dropout": 0.0,
        "network.embedding_dim": 0, "network.end_bias": True, "network.generator_activation": "relu",
        "network.generator_norm_first": True, "network.hidden": (), "network.last_stride": 2,
        "network.minibatch_std": False, "network.norm_first": False, "network.strides": (),
    },
}  # fmt: skip


def old_record(family):
    with tarfile.open(OLD_RUNS / "0.1.0" / f"{family}.tar.xz") as archive:
        return json.load(archive.extractfile(f"{family}/config.json"))


@pytest.mark.parametrize("family", NEW)
def test_a_run_of_version_0_1_0_has_its_values_and_the_defaults_of_what_came_later(family):
    record = old_record(family)
    flat = {key: tuple(v) if isinstance(v, list) else v for key, v in configs.flatten(record["config"]).items()}
    expected = {NOW.get(key, key): value for key, value in flat.items() if key not in UNREAD[family]}
    found = configs.flatten(methods.stored(record))
    assert expected.items() <= found.items()
    assert {key: value for key, value in found.items() if key not in expected} == NEW[family] | NEW_IN_ALL


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_survives_its_file(path):
    config = methods.load(str(path))[2]
    stored = json.loads(json.dumps(config.to_dict()))
    assert configs.from_json(stored).to_dict() == config.to_dict()
    for version in ("0.2.0", "0.1.0", "0.10.0"):  # complete already: nothing is left out, nothing comes
        record = {"config": stored, "versions": {"gen_jax": version}}
        assert methods.stored(record).to_dict() == config.to_dict()
        assert methods.stored(record) == config


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ("ddpm_mnist", "sample.checkpoint", "last"),
        ("ddpm_mnist", "sharding", "replicated"),
        ("ddpm_mnist", "network.remat", False),
        ("ddpm_mnist", "warm_start", ""),
        ("ddpm_mnist", "eval.patience", 0),
        ("ddpm_mnist:guided", "sample.guidance", 1.0),
        ("ddpm_mnist", "optimizer.eps", 1e-8),
        ("ddpm_mnist", "optimizer.decay", {"name": "none"}),
        ("vae_mnist", "optimizer.decay.share", 1.0),
        ("wgan_gp_mnist", "gan.penalty.weight", 10.0),
        ("flow_mnist:logit_normal", "diffusion.times.std", 1.0),
        ("flow_mnist:logit_normal", "diffusion.times", {"name": "uniform"}),
        ("latent_mnist", "pretrained.vae.beta", 1.0),
        ("latent_mnist", "pretrained.optimizer.decay.share", 1.0),
    ],
)
def test_a_key_that_is_newer_than_a_run_has_its_default(path, key, value):
    config = methods.load(path)[2]
    stored = json.loads(json.dumps(config.to_dict()))
    *outer, leaf = key.split(".")
    del functools.reduce(dict.__getitem__, outer, stored)[leaf]
    found = methods.stored({"config": stored, "versions": {"gen_jax": "0.2.0"}}).to_dict()
    expected = config.to_dict()
    functools.reduce(dict.__getitem__, outer, expected)[leaf] = value
    assert found == expected


def test_a_parameter_that_nothing_reads_is_refused_but_in_a_run_of_before():
    record = old_record("vae")
    for versions in ({"gen_jax": "0.1.0"}, {"gen_jax": "0.1.7"}, {}):
        assert "sigma" not in methods.stored(record | {"versions": versions}).vae.likelihood
    for version in ("0.2.0", "0.10.0", "1.0"):
        with pytest.raises(
            UserError, match=r"config\.optimizer\.weight_decay is not a parameter of optimizer adam"
        ) as error:
            methods.stored(record | {"versions": {"gen_jax": version}})
        one_line(error)


@pytest.mark.parametrize(
    ("word", "reason", "remedy"),
    [
        (
            "gan.instance_noise_steps=5",
            "gan.instance_noise=0.0: set --config.gan.instance_noise",
            "gan.instance_noise=1",
        ),
        ("data.workers=2", "data.stream=false: set --config.data.stream as well", "data.stream=true"),
    ],
)
def test_a_value_that_counts_for_nothing_beside_another_is_refused(word, reason, remedy):
    config = methods.load("dcgan_mnist:tiny")[2]
    with pytest.raises(UserError, match=rf"config\.{word}.* has no effect with {reason}"):
        overridden(config, word)
    for words in orders([word, remedy]):
        overridden(config, *words)


def test_a_run_at_hand_takes_the_place_of_a_first_stage_as_a_whole():
    config = methods.load("latent_mnist:tiny")[2]
    found = configs.flatten(overridden(config, "pretrained=runs/vae", "seed=3"))
    own = {key: value for key, value in configs.flatten(config).items() if not key.startswith("pretrained.")}
    assert found == own | {"pretrained": "runs/vae", "seed": 3}
    for word in ("pretrained.vae.beta=2", "pretrained.network=dense", "pretrained.optimizer.name=sgd"):
        for words in orders(["pretrained=runs/vae", word]):
            with pytest.raises(
                UserError, match="has no effect with pretrained='runs/vae', an existing run: leave it out$"
            ) as error:
                overridden(config, *words)
            one_line(error)


def test_what_both_stages_share_is_set_once():
    config = methods.load("latent_mnist:tiny")[2]
    assert not {*methods.SHARED, "data.name"} & {*config.pretrained}
    for key in ("seed", "data.name", "executor"):
        with pytest.raises(UserError, match=rf"no config value 'pretrained\.{key}'") as error:
            overridden(config, f"pretrained.{key}=1")
        one_line(error)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with a config of its own, where one stands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/good.py").write_text(
        "from gen_jax.config import with_variant\nfrom gen_jax.diffusion.defaults import diffusion_config\n"
        "def get_config(variant=''):\n"
        "    return with_variant(diffusion_config('ddpm'), variant, {'tiny': {'seed': 3}})\n"
    )
    return tmp_path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_is_found_by_its_path_and_by_its_name_from_anywhere(path, elsewhere):
    (elsewhere / path.stem).mkdir()  # as a run of that name may be
    expected = methods.load(f"{path}:tiny")
    assert expected[:2] == (path.stem, "tiny")
    for spelled in (path.stem, path.name, f"configs/{path.name}"):
        assert methods.load(f"{spelled}:tiny") == expected
        assert methods.load(spelled) == methods.load(str(path))


def test_a_config_of_the_folder_where_one_stands_comes_first(elsewhere):
    for spelled in ("good:tiny", "good.py:tiny", "configs/good.py:tiny", str(elsewhere / "configs/good.py:tiny")):
        assert methods.load(spelled)[2].seed == 3
    assert methods.load("vae_mnist")[2].method == "vae"
    (elsewhere / "configs/good.py").rename(elsewhere / "configs/vae_mnist.py")
    for spelled in ("vae_mnist:tiny", "configs/vae_mnist.py:tiny"):
        assert methods.load(spelled)[2].method == "ddpm"


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("configs/goood.py", "no config configs/goood.py; did you mean good?"),
        ("goood:tiny", "did you mean good?"),
        ("ddpm_mnits", "did you mean ddpm_mnist?"),
        ("zzz", "the configs are: .*ddpm_mnist.*good"),
        ("other/ddpm_mnist.py", "no config other/ddpm_mnist.py; did you mean ddpm_mnist?"),
        ("configs/good.py:tny", "no variant 'tny'.*`:tiny`"),
        ("good:", ""),
        ("notes.txt", "notes.txt is not a Python file"),
        ("empty.py", r"empty.py has no get_config\(variant=''\)"),
        ("base.py", "config.method is ''"),
        ("unread.py", "config.optimizer.weight_decay is not a parameter of optimizer adam; it belongs to adamw"),
    ],
)
def test_an_unknown_config_or_variant_is_one_line(path, hint, elsewhere):
    (elsewhere / "notes.txt").write_text("")
    (elsewhere / "empty.py").write_text("")
    (elsewhere / "base.py").write_text(
        "from gen_jax.config import base_config\ndef get_config(v): return base_config()"
    )
    (elsewhere / "unread.py").write_text(
        "from gen_jax.vae.defaults import vae_config\n"
        "def get_config(v):\n    c = vae_config()\n    c.optimizer.weight_decay = 0.1\n    return c"
    )
    if not hint:
        assert methods.load(path)[1] == ""
        return
    with pytest.raises(UserError, match=hint) as error:
        methods.load(path)
    one_line(error)


def write_config(path, *lines, head="def get_config(variant=''):"):
    """A copy of a config with lines of a user's in it."""
    path.parent.mkdir(exist_ok=True, parents=True)
    rooms = ("gen_jax import config as configs", "gen_jax.diffusion.latent import latent_config",
             "gen_jax.diffusion.defaults import diffusion_config")  # fmt: skip
    start = [*(f"from {room}" for room in rooms), head, "    config = diffusion_config('ddpm')"]
    path.write_text("\n".join([*start, *(f"    {line}" for line in (*lines, "return config"))]))
    return path


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("config.batchsize = 16", "no config value 'batchsize'; did you mean batch_size?"),
        ("config.optimizer.lr = 1e-3", "config.optimizer.lr is not a parameter of optimizer adam; .*learning_rate"),
        ("config.optimizer = {'name': 'sgd', 'lr': 1e-3}", "config.optimizer.lr is not a parameter of optimizer sgd"),
        ("config.learning_rate = 1e-3", "no config value 'learning_rate'; did you mean optimizer.learning_rate?"),
        ("config.sample.nun = 5", "did you mean sample.num?"),
        ("config.sampel = {'num': 5}", "no config value 'sampel.num'; did you mean sample.num?"),
        ("config = configs.with_variant(config, variant, {'': {}}); config.update({'sede': 1})", "did you mean seed?"),
        ("config = configs.with_variant(config, 'a', {'a': {'sample.nun': 1}})", "did you mean sample.num?"),
        ("config['data'] = None; config.data = 'mnist'", "config value 'data' is a group; set one of data.background"),
        ("config.seed = {'of': 1}", "config.py"),
        ("config.pretrained = 'runs/vae'", "no config value 'pretrained'"),
        ("config = latent_config(); config.pretrained.batchsize = 1", "config.pretrained: no config value 'batchsize'"),
        (
            "config = latent_config(); config.pretrained = {'method': 'vae', 'vae': {'bta': 1.}}",
            "did you mean vae.beta",
        ),
        ("del config['seed']; config.seed = '16'", "config.seed must be a whole number such as 0, not '16'"),
        ("del config['ema']; config.ema = None", "config.ema must be a number such as 0.999, not None"),
        ("del config['executor']; config.executor = 1", "config.executor must be a string such as jit, not 1"),
        ("config.batch_size = '16'", "config.py, line 6, fails: batch_size must be of type int, not '16'"),
        ("config.diffusion.prediction = 'x'", "prediction has parameters of its own: set it to {'name': 'x'}"),
        ("config.optimiser.lr = 3", "fails: AttributeError: 'optimiser' Did you mean .optimizer."),
        ("config.batch_size = batch", "config.py, line 6, fails: NameError: name 'batch' is not defined"),
        ("config.batch_size = = 3", "config.py, line 6, fails: SyntaxError"),
        ("config = None", "get_config of .*config.py returns NoneType; it must return a ConfigDict"),
    ],
)
def test_a_slip_in_a_config_file_is_one_line_that_helps(line, hint, tmp_path):
    path = write_config(tmp_path / "config.py", line)
    with pytest.raises(UserError, match=hint) as error:
        methods.load(str(path))
    assert str(path) in one_line(error)


def test_values_of_a_config_file_take_the_type_of_their_default(tmp_path):
    lines = ("for key in ('ema', 'num_steps'): del config[key]", "config.ema = 0", "config.num_steps = 2e3",
             "config.network.multipliers = [1, 2]")  # fmt: skip
    config = methods.load(str(write_config(tmp_path / "config.py", *lines)))[2]
    assert (config.ema, config.num_steps, config.network.multipliers) == (0.0, 2000, (1, 2))
    assert (type(config.ema), type(config.num_steps)) == (float, int)


def test_a_config_file_may_name_a_run_at_hand_as_its_first_stage(tmp_path):
    lines = ("config = latent_config()", "del config['pretrained']", "config.pretrained = 'runs/vae'")
    path = write_config(tmp_path / "config.py", *lines)
    assert methods.load(str(path))[2].pretrained == "runs/vae"


@pytest.mark.parametrize("head", ["def get_config():", "def get_config(*, seed=7):", "def get_config(variant='x'):"])
def test_get_config_is_called_as_it_is_made(tmp_path, head):
    path = write_config(tmp_path / "config.py", "config.seed = 7", head=head)
    assert methods.load(str(path))[:2] == ("config", "")
    assert methods.load(f"{path}:")[2].seed == 7
    if "variant" in head:
        assert methods.load(f"{path}:tiny")[1] == "tiny"
        return
    with pytest.raises(UserError, match="no variant 'tiny': get_config of .* takes none") as error:
        methods.load(f"{path}:tiny")
    one_line(error)


def test_get_config_that_asks_for_more_than_a_variant_is_one_line(tmp_path):
    path = write_config(tmp_path / "config.py", head="def get_config(variant, seed):")
    for spelled in (str(path), f"{path}:tiny"):
        with pytest.raises(UserError, match=r"takes \(variant, seed\); it is called with only a variant") as error:
            methods.load(spelled)
        one_line(error)


def test_the_variant_stands_behind_the_last_colon(tmp_path, monkeypatch):
    lines = ("config = configs.with_variant(config, variant, {'tiny': {'seed': 3}})",)
    path = write_config(tmp_path / "run_2024-01-01T10:20:30/exp.py", *lines)
    assert methods.load(str(path))[:2] == ("exp", "")
    assert methods.load(f"{path}:tiny")[:2] == ("exp", "tiny")
    assert methods.load(f"{path}:tiny")[2].seed == 3
    assert methods.load(str(write_config(tmp_path / "a:b.py", *lines)) + ":tiny")[1] == "tiny"
    monkeypatch.setenv("HOME", str(path.parent))
    assert methods.load("~/exp.py:tiny")[2].seed == 3
    with pytest.raises(UserError, match=r"no config .*/a:1/exp\.py"):
        methods.load(str(tmp_path / "a:1/exp.py"))

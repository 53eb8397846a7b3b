import ast
import collections.abc
import dataclasses
import fnmatch
import functools
import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from gen_jax import config as configs
from gen_jax import methods, optimizer, parallel, train
from gen_jax.data import dataset
from gen_jax.diffusion import sampler
from gen_jax.method import DataSpec, UserError, labelled
from gen_jax.run import Run
from gen_jax.vae import likelihood

PACKAGE = pathlib.Path(configs.__file__).parent
FILES = sorted(PACKAGE.parent.glob("configs/*.py"))
SPEC = DataSpec("made_up", (8, 8, 1), 64, labelled("0123456789"), fingerprint="f" * 64)


def refused(*words):
    with pytest.raises(UserError) as error:
        methods.check(methods.override(configs.base_config(), words))
    message = str(error.value)
    assert "\n" not in message
    return message


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
        ("--config.data.workers=-1", "changes nothing with data.stream=false"),
        ("--config.accumulate=3", "does not divide"),
        ("--config.steps_per_call=7", "multiple of steps_per_call"),
        ("--config.executor=jitt", "did you mean jit?"),
        ("--config.optimizer.name=adma", "did you mean adam?"),
        ("--config.optimizer.decay=exponential", "allowed: none, linear, cosine"),
        ("--config.optimizer.learning_rate=nan", "a number"),
        ("--config.optimizer.learning_rate=1e999", "finite"),
        ("--config.optimizer.learning_rate=-1", "not be negative"),
        ("--config.optimizer.eps=-1", "not be negative"),
        ("--config.optimizer.b2=1", "[0, 1)"),
        ("--config.optimizer.decay_share=0.5", "it is read with linear or cosine"),
        ("--config.compute_dtype=float16", "bfloat16"),
    ],
)
def test_a_mistake_is_one_line_that_helps(word, hint):
    assert hint in refused(word)


@pytest.mark.parametrize(
    ("file", "word", "hint"),
    [
        ("ddpm_mnist", "--config.method=vae", "allowed: ddpm"),
        ("ddpm_mnist", "--config.method=dpm", "did you mean ddpm?"),
        ("ddpm_mnist", "--config.network.multipliers=two", "such as [1, 2]"),
        ("ddpm_mnist", "--config.network.multipliers=(1, 2.5)", "a list of numbers"),
        ("ddpm_mnist", "--config.network.attention_sizes=('a',)", "a list of numbers"),
        ("ddpm_mnist", "--config.network.multipliers=()", "at least one level"),
        ("ddpm_mnist", "--config.network.multipliers=(1,1,1,1)", "smaller than the network's stride of 16 pixels"),
        ("ddpm_mnist", "--config.network.channels=-8", "at least 0"),
        ("ddpm_mnist", "--config.network.channels=0", "no network for images of 8x8x1"),
        ("ddpm_mnist", "--config.network.patch=0", "no network for images of 8x8x1"),
        ("ddpm_mnist", "--config.network.num_heads=3", "16 channels do not divide into 3 heads"),
        ("ddpm_mnist", "--config.network.norm=group", "8 channels do not divide into 32 groups"),
        ("ddpm_mnist", "--config.network.dropout=1", "[0, 1)"),
        ("ddpm_mnist", "--config.diffusion.num_timesteps=-1", "at least 0"),
        ("ddpm_mnist", "--config.diffusion.num_timesteps=0", "2 or more"),
        ("ddpm_mnist", "--config.diffusion.num_timesteps=2e9", "at most 1000000"),
        ("ddpm_mnist", "--config.diffusion.weighting=snr", "min_snr"),
        ("vae_mnist", "--config.network.name=dence", "did you mean dense?"),
        ("vae_mnist", "--config.network.name=residual", "no field of network residual"),
        ("vae_mnist", "--config.network.decoder_channels=(4,4,4,4)", "smaller than the network's stride of 16 pixels"),
        ("vae_mnist", "--config.network.kernels=3", "not one a value of channels"),
        ("vae_mnist", "--config.network.last_stride=0", "no network for images of 8x8x1"),
        ("vae_mnist", "--config.vae.latents=0", "at least 1"),
        ("vae_mnist", "--config.vae.likelihood=normal", "allowed: bernoulli"),
    ],
)
def test_a_method_or_network_that_cannot_be_is_one_line(file, word, hint):
    def build():
        config = methods.override(methods.load(f"{PACKAGE.parent}/configs/{file}.py:tiny")[2], [word])
        methods.check(config)
        train.abstract_state(methods.make(config, SPEC), SPEC, parallel.make_mesh())

    with pytest.raises(UserError) as error:
        build()
    assert hint in str(error.value)
    assert "\n" not in str(error.value)


def test_values_take_the_type_of_their_default():
    words = ["--config.ema=0", "--config.seed=7", "--config.data.name=cifar10", "--config.num_steps=1_000"]
    config = methods.override(configs.base_config(), words)
    assert (config.ema, config.seed, config.data.name, config.num_steps) == (0.0, 7, "cifar10", 1000)
    assert isinstance(config.ema, float)


def test_overriding_leaves_the_given_config_alone():
    config = configs.base_config()
    methods.override(config, ["--config.seed=5"])
    assert config.seed == 0


def test_a_config_survives_its_file():
    config = configs.base_config()
    config.sizes = (1, 2)
    stored = configs.json.loads(config.to_json())
    assert configs.from_dict(stored).to_dict() == config.to_dict()
    del stored["sample"]["checkpoint"]  # as in a run of before there was this key
    assert configs.from_dict(stored).to_dict() == config.to_dict()


def test_a_resumed_run_refuses_what_changes_training_and_names_it():
    old, new = configs.base_config(), configs.base_config()
    new.num_steps, new.sample.num, new.log_every = 5, 6, 7
    assert configs.changes(old.to_dict(), new.to_dict()) == []
    new.optimizer.learning_rate, new.seed = 1.0, 3
    assert configs.changes(old.to_dict(), new.to_dict()) == ["optimizer.learning_rate: 0.0002 -> 1.0", "seed: 0 -> 3"]


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
        shown = [configs._shown(v) for v in (value, other(value))]
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
    run.write_config({"config": config.to_dict(), "data": stored.to_dict()})
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

    def __getattr__(self, key):
        return self[key]

    def __iter__(self):
        return iter(self._config)

    def __len__(self):
        return len(self._config)


def keys_read_by_the_method(config, monkeypatch):
    """Keys that make a method, or that its networks ask for when it is traced: init, step, evaluate, sample, pictures.

    A network is given all its fields at once; of those, what counts is what the module itself asks for in our code.
    """
    read, fields = set(), set()
    spec = dataclasses.replace(SPEC, image_shape=(16, 16, 1))  # large enough for the strides of every config
    method = methods.make(Recorded(config, read), spec)
    get = object.__getattribute__

    def noting(module, name):
        if name in config.network and sys._getframe(1).f_code.co_filename.startswith(str(PACKAGE)):
            scope = get(module, "scope")
            if scope is not None and scope.path == ():
                fields.add(f"network.{name}")
        return get(module, name)

    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "__getattribute__", noting, raising=False)
        state = parallel.abstract_state(method.init, parallel.make_mesh(1))
        index = jax.ShapeDtypeStruct((16,), jnp.int32)
        batch = {"image": jax.ShapeDtypeStruct((16, *spec.image_shape), jnp.uint8), "label": index, "index": index}
        keys = jax.eval_shape(functools.partial(jax.random.split, num=16), state.key)
        lead = (method.batches_per_step,) if method.batches_per_step > 1 else ()
        several = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype), batch)
        jax.eval_shape(method.step, state, several)
        jax.eval_shape(method.evaluate, state, batch, state.key)
        jax.eval_shape(method.sample, state, keys, index if method.conditional else None)
        jax.eval_shape(method.pictures, state, state.key, batch)
    return {key for key in read if not key.startswith("network.") or key == "network.name"} | fields


def keys_read_by_the_rest():
    """Keys whose names stand in the code around the methods: `config.<key>`, which in data/ is `config.data`."""
    found = set()
    for path in [*PACKAGE.glob("*.py"), *PACKAGE.glob("data/*.py")]:
        prefix = "data." if path.parent.name == "data" else ""
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("config."):
                found.add(prefix + ast.unparse(node).removeprefix("config."))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_of_every_config_is_read(path, monkeypatch):
    config = methods.load(f"{path}:tiny")[2]
    known = keys_read_by_the_method(config, monkeypatch) | keys_read_by_the_rest()
    unread = configs.flatten(config).keys() - known
    assert unread <= configs.READ_WITH.keys()


# decay_share is asked for in every case; that it counts for nothing without a decay is optax.constant_schedule's. A
# game hands its values to every constraint and penalty.
ASKED_FOR = [key for key in configs.READ_WITH if key != "optimizer.decay_share" and not key.startswith("gan.")]


@pytest.mark.parametrize("key", ASKED_FOR)
def test_a_value_that_a_choice_does_not_read_is_refused_with_it(key):
    other_key, choices = configs.READ_WITH[key]
    leaf = other_key.rpartition(".")[2]
    tables = {"name": optimizer.OPTIMIZERS, "sampler": sampler.SAMPLERS, "likelihood": likelihood.LIKELIHOODS}
    files = (PACKAGE.parent / "configs" / f"{name}.py" for name in ("ddpm_mnist", "vae_mnist"))
    loaded = [methods.load(f"{path}:tiny")[2] for path in files]
    config = next(config for config in loaded if key in configs.flatten(config))
    if "vae" in config:
        config.vae.binarisation = "none"
    assert {*choices} < {*tables[leaf]}
    for choice in tables[leaf]:
        words, read = [f"--config.{other_key}={choice}"], set()
        methods.make(Recorded(methods.override(config, words), read), SPEC)
        assert (key in read) == (choice in choices)
        words.append(f"--config.{key}={other(configs.flatten(config)[key])}")
        if choice not in choices:
            with pytest.raises(UserError, match=rf"config\.{key}=.* changes nothing with {other_key}={choice}: it is"):
                methods.override(config, words)


@pytest.mark.parametrize(
    ("word", "reason", "remedy"),
    [
        ("gan.clip=0.5", "gan.constraint=none: it is read with clip", "gan.constraint=clip"),
        ("gan.penalty_weight=2", "gan.penalty=none: it is read with wgan_gp or r1 or r2", "gan.penalty=r1"),
        (
            "gan.instance_noise_steps=5",
            "gan.instance_noise=0.0: set --config.gan.instance_noise",
            "gan.instance_noise=1",
        ),
        ("data.workers=2", "data.stream=false: set --config.data.stream as well", "data.stream=true"),
    ],
)
def test_a_value_that_counts_for_nothing_in_a_game_is_refused(word, reason, remedy):
    config = methods.load(f"{PACKAGE.parent / 'configs/dcgan_mnist.py'}:tiny")[2]
    with pytest.raises(UserError, match=rf"config\.{word}.* changes nothing with {reason}"):
        methods.override(config, [f"--config.{word}"])
    methods.override(config, [f"--config.{word}", f"--config.{remedy}"])


def test_an_unknown_config_or_variant_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/good.py").write_text(
        "from gen_jax.config import base_config, with_variant\n"
        "def get_config(variant=''):\n    return with_variant(base_config(), variant, {'tiny': {'seed': 3}})\n"
    )
    assert methods.load("configs/good.py:tiny")[2].seed == 3
    with pytest.raises(UserError, match="did you mean configs/good.py"):
        methods.load("configs/goood.py")
    with pytest.raises(UserError, match="no variant 'tny'.*`:tiny`"):
        methods.load("configs/good.py:tny")

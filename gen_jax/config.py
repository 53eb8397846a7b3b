"""Configs: what every config has, values from the command line, and which keys may change on resume.

A config is an `ml_collections.ConfigDict` that a short `get_config(variant="")` in a file of configs/
returns. Defaults stand in `base_config` and in that file; nothing is configured twice.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import fnmatch
import importlib.util
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import ml_collections

from gen_jax import optimizer, parallel
from gen_jax.method import UserError, did_you_mean

Config: TypeAlias = Any  # an ml_collections.ConfigDict, whose values no type checker knows

# What a resumed run may set anew: none of these changes a bit of what is trained at a step, but for
# num_steps (the learning rate's decay spans the run) and placement (equal to rounding).
MAY_CHANGE = (
    "num_steps", "log_every", "eval_every", "checkpoint_every", "sample.*", "eval.*", "data.data_dir", "data.cache_dir",
    "data.stream", "data.workers", "executor", "num_devices", "steps_per_call", "accumulate", "fast_compile_options",
)  # fmt: skip

# What a trained model may be sampled with, and judged with: the rest is as it was trained.
SAMPLING = ("sample.*", "num_devices", "fast_compile_options")
JUDGING = (*SAMPLING, "eval.*", "data.data_dir", "data.cache_dir", "data.stream", "data.workers")

COUNTS = ("batch_size", "num_steps", "log_every", "eval_every", "checkpoint_every", "steps_per_call", "accumulate",
          "sample.num", "sample.batch_size", "eval.num_samples", "eval.num_examples",
          "eval.num_codes", "eval.classifier_steps")  # fmt: skip

SHARES = ("optimizer.b1", "optimizer.b2", "network.dropout")  # in [0, 1); not every config has the last

# What only some choices of another key read: with the others, setting it would change nothing.
READ_WITH = {
    "optimizer.b1": ("optimizer.name", ("adam", "adamw", "muon", "sgd")),
    "optimizer.b2": ("optimizer.name", ("adam", "adamw", "muon", "rmsprop")),
    "optimizer.eps": ("optimizer.name", ("adam", "adamw", "muon", "rmsprop")),
    "optimizer.weight_decay": ("optimizer.name", ("adamw",)),
    "optimizer.decay_share": ("optimizer.decay", ("linear", "cosine")),
    "sample.eta": ("sample.sampler", ("ddim",)),
    "sample.variance": ("sample.sampler", ("ancestral",)),
    "vae.sigma": ("vae.likelihood", ("gaussian",)),
    "gan.clip": ("gan.constraint", ("clip",)),
    "gan.penalty_weight": ("gan.penalty", ("wgan_gp", "r1", "r2")),
}

# What counts for nothing where another key is false or 0.
READ_WHERE_ON = {"gan.instance_noise_steps": "gan.instance_noise", "data.workers": "data.stream"}

CHOICES = {
    "executor": parallel.EXECUTORS,
    "compute_dtype": ("float32", "bfloat16"),
    "sample.checkpoint": ("last", "best"),
    "optimizer.name": optimizer.OPTIMIZERS,
    "optimizer.decay": optimizer.DECAYS,
}


def base_config() -> Config:
    """Returns what every config has, with the defaults that suit a small model."""
    return ml_collections.ConfigDict(
        {
            "method": "",
            "seed": 0,
            "batch_size": 64,  # global: over all devices and processes
            "num_steps": 1000,
            "log_every": 50,  # steps
            "eval_every": 500,  # steps; also draws a sheet of samples
            "checkpoint_every": 500,  # steps
            "ema": 0.999,
            "compute_dtype": "float32",  # or bfloat16; parameters stay float32
            "executor": "jit",  # or pmap
            "num_devices": 0,  # 0: all
            "steps_per_call": 1,  # where a call costs as much as a step
            "accumulate": 1,  # pieces that a batch is computed in
            "fast_compile_options": True,  # parallel.compiler_options
            "data": {
                "name": "",
                "data_dir": "",  # "": TFDS_DATA_DIR, or ~/tensorflow_datasets
                "cache_dir": "",  # "": gen_jax in the user's cache directory
                "train_split": "train",
                "test_split": "test",
                "offline_substitute": "",  # drawn instead where the set is neither prepared nor to be downloaded
                "image_size": 0,  # 0: as stored; else a centre crop of this height and width, antialiased
                "channels": 0,  # 0: as stored; 1: grey; 3: colour
                "background": 255,  # grey value that shows through transparent pixels
                "on_error": "stop",  # at a damaged file; or skip
                "stream": False,  # read anew in every epoch what is too large for the cache and memory
                "workers": 0,  # processes that read a streamed set ahead; 0: threads of this one
            },
            "optimizer": {
                "name": "adam",
                "learning_rate": 2e-4,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "clip_norm": 1.0,  # 0: none
                "warmup_steps": 0,
                "decay": "none",  # or linear, cosine: to zero at num_steps
                "decay_share": 1.0,  # of the run, at its end
            },
            "sample": {
                "num": 1000,
                "batch_size": 250,
                "seed": 0,
                "checkpoint": "last",  # or best: that of the smallest Frechet distance, where eval.track keeps it
            },
            "eval": {
                "track": 0,  # samples whose Frechet distance is taken every eval_every steps; 0: none
                "num_samples": 10_000,  # samples that --mode=eval judges
                "num_examples": 2_048,  # test examples whose loss is evaluated
                "num_codes": 10_000,  # images whose codes are judged, where the factors of the data are known
                "classifier_steps": 1_400,  # of training the classifier that judges; part of its key in the cache
            },
        }
    )


def with_variant(config: Config, variant: str, variants: Mapping[str, Mapping[str, Any]]) -> Config:
    """Returns the config with the few values that a variant changes.

    Args:
      config: the config itself; the variant "" of it.
      variant: a key of `variants`, or "".
      variants: by name, {dotted key: value}.

    Raises:
      UserError: there is no such variant.

    Example:
      >>> config = with_variant(base_config(), "tiny", {"tiny": {"num_steps": 20, "sample.num": 4}})
      >>> config.num_steps, config.sample.num
      (20, 4)
    """
    if variant and variant not in variants:
        raise UserError(f"no variant '{variant}': this config has {', '.join(f'`:{v}`' for v in variants) or 'none'}")
    config.update_from_flattened_dict(dict(variants[variant]) if variant else {})
    return config


def load(path: str) -> tuple[str, str, Config]:
    """Returns (name, variant, config) of `configs/<name>.py[:<variant>]`.

    Raises:
      UserError: no such file or variant, or a file without get_config.
    """
    file, _, variant = path.partition(":")
    target = pathlib.Path(file)
    if not target.is_file():
        known = [str(p) for p in sorted(pathlib.Path("configs").glob("*.py"))]
        hint = did_you_mean(file, known) or (f"there are: {', '.join(known)}" if known else "")
        raise UserError(f"no config file {file}; {hint}".rstrip("; "))
    spec = importlib.util.spec_from_file_location(f"config_{target.stem}", target)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is not a Python file; a config is one, with get_config(variant='')")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"{file} has no get_config(variant='')")
    return target.stem, variant, module.get_config(variant)


def from_dict(values: Mapping[str, Any]) -> Config:
    """Returns the config that a run's config.json holds (lists are tuples); keys newer than the run have their default.

    Example:
      >>> from_dict({"seed": 3, "network": {"multipliers": [1, 2]}}).network.multipliers
      (1, 2)
    """

    def restore(value, default):
        if isinstance(value, Mapping):
            older = default if isinstance(default, Mapping) else {}
            return {**older, **{k: restore(v, older.get(k)) for k, v in value.items()}}
        return tuple(restore(v, None) for v in value) if isinstance(value, list) else value

    return ml_collections.ConfigDict(restore(values, base_config().to_dict()))


def flatten(config: Mapping[str, Any] | Config, prefix: str = "") -> dict[str, Any]:
    """Returns {dotted key: value} of a nested config.

    Example:
      >>> flatten({"seed": 0, "sample": {"num": 5}})
      {'seed': 0, 'sample.num': 5}
    """
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def override(config: Config, words: Iterable[str]) -> Config:
    """Returns the config with the values of `--config.<key>=<value>` words.

    Raises:
      UserError: a word of another form, an unknown key (with the nearest right name), a value of another type,
        a value that changes nothing beside the others, another method than the one that the config has the values of.

    Example:
      >>> override(base_config(), ["--config.sample.num=16"]).sample.num
      16
    """
    config, method = config.copy_and_resolve_references(), config.method
    flat = flatten(config)
    for word in words:
        name, equals, text = word.partition("=")
        if not name.startswith("--config."):
            raise UserError(f"unknown word on the command line: {word!r}; {_nearest_word(name, flat)}")
        key = name.removeprefix("--config.")
        if key not in flat:
            raise UserError(f"no config value {key!r}{_nearest_key(key, flat)}")
        if not equals:
            raise UserError(f"--config.{key} needs a value: --config.{key}={_shown(flat[key])}")
        value = parse_value(key, text, flat[key])
        config.update_from_flattened_dict({key: value})
    _refuse_unread(flat, flatten(config))
    if method:
        require_choice("method", config.method, [method])
    return config


def _refuse_unread(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    for key, (other, choices) in READ_WITH.items():
        if before.get(key) != after.get(key) and after[other] not in choices:
            raise UserError(
                f"config.{key}={_shown(after[key])} changes nothing with {other}={after[other]}: "
                f"it is read with {' or '.join(choices)}"
            )
    for key, switch in READ_WHERE_ON.items():
        if before.get(key) != after.get(key) and not after[switch]:
            raise UserError(
                f"config.{key}={_shown(after[key])} changes nothing with {switch}={_shown(after[switch])}: "
                f"set --config.{switch} as well"
            )


FLAGS = ("--config", "--workdir", "--mode", "--coordinator", "--num_processes", "--process_id", "--help")


def parse_value(key: str, text: str, default: Any) -> Any:
    """Returns `text` as a value of the type of `default`.

    Raises:
      UserError: the text is no such value.

    Example:
      >>> parse_value("ema", "1e-1", 0.5), parse_value("data.name", "mnist", ""), parse_value("m", "1,2", (1,))
      (0.1, 'mnist', (1, 2))
    """
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise UserError(f"config.{key} is true or false, not {text!r}")
    try:
        value = ast.literal_eval(text)
        if isinstance(default, float) and type(value) is int:
            value = float(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError):
        value = text
    if isinstance(default, int) and isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(default, tuple) and isinstance(value, list | int | float):
        value = tuple(value) if isinstance(value, list) else (value,)
    if isinstance(default, tuple):  # an empty one says nothing of its numbers: those of our lists are whole
        fits = isinstance(value, tuple) and {*map(type, value)} <= {*map(type, default or (0,))}
    else:
        fits = type(value) is type(default)
    if not fits:
        kind = {"int": "a whole number", "float": "a number", "tuple": "a list of numbers"}[type(default).__name__]
        raise UserError(f"config.{key} is {kind} such as {_shown(default)}, not {text!r}")
    return value


def check(config: Config) -> None:
    """Refuses values that no run can have, before any work.

    Raises:
      UserError: names the key, the value and what is allowed.
    """
    flat = flatten(config)
    for key, value in flat.items():
        _check_numbers(key, value)
    for key, allowed in CHOICES.items():
        require_choice(key, flat[key], allowed)
    if flat["batch_size"] % flat["accumulate"]:
        raise UserError(f"config.batch_size {flat['batch_size']} does not divide into accumulate={flat['accumulate']}")
    for key in ("num_steps", "log_every", "eval_every", "checkpoint_every"):
        if flat[key] % flat["steps_per_call"]:
            raise UserError(f"config.{key} {flat[key]} is not a multiple of steps_per_call={flat['steps_per_call']}")
    for key in ("optimizer.learning_rate", "optimizer.clip_norm", "optimizer.weight_decay", "optimizer.eps"):
        if flat[key] < 0:
            raise UserError(f"config.{key} is {flat[key]}; it must not be negative")
    for key in SHARES:
        if not 0 <= flat.get(key, 0) < 1:
            raise UserError(f"config.{key} is {flat[key]}; it must lie in [0, 1)")
    optimizer.make(config.optimizer, config.num_steps, config.ema)  # refuses what it cannot use


def _check_numbers(key: str, value: Any) -> None:
    """Refuses what no number of a config can be: not finite, negative (a count, a size), beyond 32 bits."""
    low, high = int(key in COUNTS), 2**32 - 1 if key.rpartition(".")[2] == "seed" else 2**31 - 1
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise UserError(f"config.{key} is {value}; it must be finite")
        if type(number) is int and not low <= number <= high:
            bound = f"at least {low}" if number < low else f"at most {high}"
            raise UserError(f"config.{key} is {value}; it must be {bound}")


def require_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """Raises a UserError with the nearest right name where `value` is not among `allowed`."""
    if value not in allowed:
        raise UserError(f"config.{key} is {value!r}; {did_you_mean(value, allowed)}allowed: {', '.join(allowed)}")


def network_fields(
    network: Mapping[str, Any], networks: Mapping[str, tuple[type, ...]], given: Iterable[str]
) -> list[tuple[type, dict[str, Any]]]:
    """Returns the modules of `config.network`, each with those of its fields that the config holds.

    Args:
      network: `name`, a key of `networks`, and fields of its modules.
      networks: from a name to modules that work together.
      given: fields that are no user's to set.

    Raises:
      UserError: there is no such network, or a field that none of its modules has.
    """
    values = {key: value for key, value in network.items() if key != "name"}
    require_choice("network.name", network["name"], networks)
    modules, hidden = networks[network["name"]], {*given, "parent", "name"}
    known = [{field.name for field in dataclasses.fields(module)} - hidden for module in modules]
    if unknown := values.keys() - set().union(*known):
        raise UserError(
            f"config.network.{min(unknown)} is no field of network {network['name']}; "
            f"it has {', '.join(sorted(set().union(*known)))}"
        )
    return [
        (module, {key: value for key, value in values.items() if key in its})
        for module, its in zip(modules, known, strict=True)
    ]


def changes(old: Mapping[str, Any], new: Mapping[str, Any], free: Iterable[str] = MAY_CHANGE) -> list[str]:
    """Returns one line a key that differs and is not `free`, by default to a resumed run: "key: old -> new"."""
    before, after = (json.loads(json.dumps(flatten(c))) for c in (old, new))
    return [
        f"{key}: {_shown(before.get(key))} -> {_shown(after.get(key))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not any(fnmatch.fnmatch(key, each) for each in free)
    ]


def _nearest_word(name: str, flat: Mapping[str, Any]) -> str:
    """A flag, or a value of the config, whose --config. may have been forgotten."""
    values = {f"--config.{key}": f"--config.{key}" for key in flat}
    outermost_last = sorted(flat, key=lambda key: -key.count("."))
    values |= {f"--{key.rpartition('.')[2]}": f"--config.{key}" for key in outermost_last}
    near = difflib.get_close_matches(name, [*FLAGS, *values], 1, 0.5)
    return f"did you mean {values.get(near[0], near[0])}?" if near else f"there are: {', '.join(FLAGS)}"


def _nearest_key(key: str, flat: Mapping[str, Any]) -> str:
    if any(k.startswith(key + ".") for k in flat):
        return f" of its own; it holds {', '.join(k for k in flat if k.startswith(key + '.'))}"
    leaf = key.rpartition(".")[2]
    same_leaf = [k for k in flat if k.rpartition(".")[2] == leaf]
    return f"; {did_you_mean(key, same_leaf or flat, 0.0).strip()}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

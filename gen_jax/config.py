"""Configs: the keys that every config has, values from the command line, and which keys may change on resume.

A config is an `ml_collections.ConfigDict`, returned by a short `get_config(variant="")` in a file of configs/. It
starts from the `Options.defaults` of its method; keys that the file does not set keep their defaults.

A value with parameters of its own (a network, a sampler, an optimizer) is a `Choice`: a sub-dict of `name` and the
parameters of the factory of that name, read from its signature. It is replaced as a whole, so that no config holds a
value that nothing reads.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import fnmatch
import importlib.util
import inspect
import json
import math
import os
import pathlib
import re
import traceback
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import ml_collections

from gen_jax import optimizer, parallel
from gen_jax.method import UserError, did_you_mean

Config: TypeAlias = Any  # an ml_collections.ConfigDict, whose values no type checker knows

# Keys that a resumed run may change: none affects the result of a step, except num_steps (the learning rate's decay
# spans the run) and placement (equal up to rounding).
MAY_CHANGE = (
    "num_steps", "log_every", "eval_every", "checkpoint_every", "sample.*", "eval.*", "data.data_dir", "data.cache_dir",
    "data.max_megapixels", "data.stream", "data.workers", "executor", "num_devices", "sharding", "steps_per_call",
    "accumulate", "fast_compile_options", "trackers",
)  # fmt: skip

# Keys that change no result at all, not even by rounding: runs that differ in them alone are compared as equal.
WITHOUT_EFFECT = ("log_every", "trackers", "data.data_dir", "data.cache_dir", "data.workers")

DISTANCE = "frechet_distance"  # of samples, among what ranks checkpoints: measured if `eval.track` is set

FOLDER = "image_folder:"  # begins the name of a data set that is a folder of pictures

# Keys that may change when a trained model is sampled or evaluated: the others stay as it was trained.
SAMPLING = ("sample.*", "num_devices", "sharding", "fast_compile_options")
JUDGING = (
    *SAMPLING, "eval.*", "data.data_dir", "data.cache_dir", "data.max_megapixels", "data.stream", "data.workers",
)  # fmt: skip

COUNTS = ("batch_size", "num_steps", "log_every", "eval_every", "checkpoint_every", "steps_per_call", "accumulate",
          "sample.num", "sample.batch_size", "eval.num_samples", "eval.num_examples",
          "eval.num_codes", "eval.classifier_steps", "eval.keep_best")  # fmt: skip


class Choice(NamedTuple):
    """A config value with parameters of its own: a sub-dict of `name` and these.

    Attributes:
      table: maps a name to what takes the parameters: a function, or Flax modules that work together. The config's
        defaults are theirs.
      given: parameters that users cannot set.
      common: parameters that all names share, with their defaults; they keep their values when the name changes.
      defaults: config defaults that differ from those of the signature.

    Example:
      >>> def ring(radius=1.0): ...
      >>> Choice({"ring": ring, "none": lambda: None}).start("ring")
      {'name': 'ring', 'radius': 1.0}
    """

    table: Mapping[str, Any]
    given: tuple[str, ...] = ()
    common: Mapping[str, Any] = {}
    defaults: Mapping[str, Any] = {}

    def start(self, name: str) -> dict[str, Any]:
        """Returns the sub-dict of one name, with every parameter at its default."""
        return {"name": name, **self.common, **self.parameters(name)}

    def parameters(self, name: str) -> dict[str, Any]:
        """Returns the parameters of one name and their defaults, without the common ones."""
        found: dict[str, Any] = {}
        parts = self.table[name]
        for part in parts if isinstance(parts, tuple) else (parts,):
            found |= _module_fields(part) if dataclasses.is_dataclass(part) else _keywords(part)
        found = {key: self.defaults.get(key, value) for key, value in found.items()}
        return {key: value for key, value in found.items() if key not in self.given}


def _module_fields(module: Any) -> dict[str, Any]:
    fields = [field for field in dataclasses.fields(module) if field.name not in ("parent", "name")]
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


def _keywords(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def chosen(choice: Choice, values: Mapping[str, Any], **given: Any) -> Any:
    """Returns the result of the chosen factory for the values of a complete sub-dict, and those in `given`.

    Example:
      >>> chosen(Choice({"power": lambda x, exponent=2: x**exponent}), {"name": "power", "exponent": 3}, x=2)
      8
    """
    parameters = choice.parameters(values["name"])
    return choice.table[values["name"]](**{key: values[key] for key in parameters}, **given)


class Measure(NamedTuple):
    """A quantity that a method evaluates, as the report shows it.

    Attributes:
      words: its name in the report.
      unit: or "".
      is_bound: whether it can compare models of different recipes, lower being better; a loss cannot, since its
        weights depend on the recipe.
      chart: title of the chart that it shares with others on the page; "": it has its own.
      better: "higher" or "lower", if it can compare models and is no bound; else "".
    """

    words: str
    unit: str = ""
    is_bound: bool = False
    chart: str = ""
    better: str = ""


class Options(NamedTuple):
    """The config keys of a method, in addition to those of `base_config`. Each method's module has one, `OPTIONS`.

    Attributes:
      defaults: returns a complete config of the method, to start from.
      title: the method in a sentence.
      choices: by dotted key, in the order in which they are read, without `optimizer`, which every method has.
      moved: maps keys of older versions to their new places; the old ones still work on the command line and in old
        runs.
      read_where: maps a key to the key that must not be false or 0 for it to have an effect.
      shares: keys of numbers in [0, 1).
      measures: what `evaluate` returns, by name, in the order of the report.
      same_images: whether a first stage must have been trained on the same images, not on the same set in another size.
    """

    defaults: Any
    title: str = ""
    choices: Mapping[str, Choice] = {}
    moved: Mapping[str, str] = {}
    read_where: Mapping[str, str] = {}
    shares: tuple[str, ...] = ()
    measures: Mapping[str, Measure] = {}
    same_images: bool = True

    @property
    def ranking(self) -> dict[str, str]:
        """The measures by which checkpoints can be ranked, and which is better, "lower" or "higher"."""
        better = {name: "lower" if each.is_bound else each.better for name, each in self.measures.items()}
        return {DISTANCE: "lower", "loss": "lower"} | {name: which for name, which in better.items() if which}

    @property
    def all_choices(self) -> dict[str, Choice]:
        """`choices` and those of every config, the outer ones first."""
        return OPTIMIZER | dict(self.choices)

    def place(self, key: str) -> str:
        """Returns the current place of a dotted key of any version; the key of a choice means its name."""
        key = self.moved.get(key, MOVED.get(key, key))
        return f"{key}.name" if key in self.all_choices else key


OPTIMIZER = {
    "optimizer": Choice(optimizer.OPTIMIZERS, ("rate",), optimizer.COMMON),
    "optimizer.decay": Choice(optimizer.DECAYS, ("peak", "steps")),
}
MOVED = {"optimizer.decay_share": "optimizer.decay.share"}
READ_WHERE = {"data.workers": "data.stream"}
SHARES = ("optimizer.b1", "optimizer.b2")  # in [0, 1)

CHOICES = {
    "executor": parallel.EXECUTORS,
    "sharding": parallel.SHARDINGS,
    "compute_dtype": ("float32", "bfloat16"),
    "sample.checkpoint": ("last", "best"),
}


def base_config() -> Config:
    """Returns the keys that every config has, with defaults that suit a small model."""
    return ml_collections.ConfigDict(
        {
            "method": "",
            "warm_start": "",  # a run whose weights training starts from; "": none
            "seed": 0,
            "batch_size": 64,  # global: over all devices and processes
            "num_steps": 1000,
            "log_every": 50,  # steps
            "eval_every": 500,  # steps; also draws a grid of samples
            "checkpoint_every": 500,  # steps
            "ema": 0.999,
            "compute_dtype": "float32",  # or bfloat16; parameters stay float32
            "executor": "jit",  # or pmap
            "num_devices": 0,  # 0: all
            "sharding": "replicated",  # or fsdp: parameters, moments and averages in parts, one a device
            "steps_per_call": 1,  # raise it if a call costs as much as a step
            "accumulate": 1,  # pieces in which a batch is computed
            "fast_compile_options": True,  # parallel.compiler_options
            "trackers": "",  # programs that get copies of scalars, pictures and the page, with commas: wandb,mlflow
            "data": {
                "name": "",
                "data_dir": "",  # "": TFDS_DATA_DIR, or ~/tensorflow_datasets
                "cache_dir": "",  # "": gen_jax in the user's cache directory
                "train_split": "train",
                "test_split": "test",
                "offline_substitute": "",  # generated instead if the set is neither prepared nor downloadable
                "image_size": 0,  # 0: as stored; else a centre crop of this height and width, antialiased
                "crop": 0,  # of a folder of pictures of any size: side of random crops; 0: none
                "reduce": 0,  # 2 or 4: each picture also as a copy smaller by this factor, for super-resolution; 0: not
                "channels": 0,  # 0: as stored; 1: grey; 3: colour
                "background": 255,  # grey value that shows through transparent pixels
                "on_error": "stop",  # on a damaged or oversized file, or one smaller than a crop; or skip
                "max_megapixels": 200,  # of a picture in a user's folder: protects memory; 0: no limit
                "stream": False,  # read the data anew in every epoch: for sets too large for cache and memory
                "workers": 0,  # processes that prefetch a streamed set; 0: threads of this process
            },
            "optimizer": OPTIMIZER["optimizer"].start("adam"),
            "sample": {
                "num": 1000,
                "batch_size": 250,
                "seed": 0,
                "checkpoint": "last",  # or best: see eval.best; or the step of one that is kept
            },
            "eval": {
                "track": 0,  # samples whose Frechet distance is measured every eval_every steps; 0: none
                "best": DISTANCE,  # ranks checkpoints: the tracked distance, or a measure such as loss
                "keep_best": 1,  # checkpoints kept in best/
                "patience": 0,  # evaluations without a better value after which training stops early; 0: never
                "num_samples": 10_000,  # samples that --mode=eval evaluates
                "num_examples": 2_048,  # test examples whose loss is evaluated
                "num_codes": 10_000,  # images whose codes are evaluated, if the factors of the data are known
                "classifier_steps": 1_400,  # training steps of the classifier behind the metrics; part of its cache key
                "judges": "",  # more networks whose features judge the samples, with commas: efficientnet_lite0,pixels
            },
        }
    )


def with_variant(config: Config, variant: str, variants: Mapping[str, Mapping[str, Any]]) -> Config:
    """Returns the config with the values that a variant changes.

    Args:
      config: the config itself, which is the variant "".
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


def folders() -> list[pathlib.Path]:
    """Returns the folders searched for configs by name: first the one in the working directory, then the project's."""
    package = pathlib.Path(__file__).parent
    # configs/ is beside the package in a checkout, and inside it in an installed wheel.
    return [pathlib.Path("configs"), package.parent / "configs", package / "configs"]


def load(path: str) -> tuple[str, str, Config]:
    """Returns (name, variant, config) for the path of a config's file, or its name: `<config>[:<variant>]`.

    The file's `get_config` receives the variant, if one is requested; it need not accept any.

    Raises:
      UserError: no such config or variant, a file without get_config, or one that fails.
    """
    file, variant = _split_path(path)
    target = file_of(path)
    spec = importlib.util.spec_from_file_location(f"config_{target.stem}", target)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is not a Python file; a config is a Python file with get_config(variant='')")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = _get_config(module, file, variant)
    except UserError:
        raise
    except Exception as error:  # a mistake in the file: the message says where
        raise UserError(f"{file}{_line_of(error, target)} fails: {_reason(error)}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"get_config of {file} returns {type(config).__name__}; it must return a ConfigDict")
    return target.stem, variant, config


def _split_path(path: str) -> tuple[str, str]:
    """Returns the file and the variant, which follows the last colon: a path may contain colons, too."""
    file, _, variant = path.rpartition(":")
    if not file or os.sep in variant or variant.endswith(".py") or (path.endswith(".py") and os.path.isfile(path)):
        return path, ""
    return file, variant


def _get_config(module: Any, file: str, variant: str) -> Any:
    make = getattr(module, "get_config", None)
    if not callable(make):
        raise UserError(f"{file} has no get_config(variant='')")
    signature = inspect.signature(make)
    if not variant and _takes(signature):
        return make()
    if _takes(signature, variant):
        return make(variant)
    if _takes(signature):
        raise UserError(f"no variant {variant!r}: get_config of {file} takes none")
    raise UserError(f"get_config of {file} takes {signature}; it is called with only a variant: get_config('')")


def _takes(signature: inspect.Signature, *values: Any) -> bool:
    try:
        signature.bind(*values)
    except TypeError:
        return False
    return True


def _reason(error: Exception) -> str:
    """One line about a mistake in a config file; ml_collections speaks of types in Python's terms."""
    content: Any = error
    while isinstance(content, Exception):  # an AttributeError of theirs contains a KeyError
        content = content.args[0] if content.args else ""
    text = " ".join(str(content).split())
    wrong = re.match(r"Could not override field '(\w+)'.*?\. (.*) is of original type .* to type <class '(.*)'>", text)
    if wrong is None:
        return f"{type(error).__name__}: {text}"
    field, value, type_name = wrong.groups()
    if type_name.endswith("ConfigDict"):
        return f"{field} has parameters of its own: set it to {{'name': {value!r}}} instead of {value!r}"
    return f"{field} must be of type {type_name}, not {value!r}"


def _line_of(error: Exception, file: pathlib.Path) -> str:
    """The line of a file that an error comes from, or ""."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f", line {error.lineno},"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f", line {lines[-1]}," if lines else ""


def by_name() -> dict[str, pathlib.Path]:
    """Returns the files of the configs that can be given by name, from `folders`; the first of a name counts."""
    found: dict[str, pathlib.Path] = {}
    for folder in reversed(folders()):
        found |= {each.stem: each for each in sorted(folder.glob("*.py")) if each.stem != "__init__"}
    return found


def file_of(path: str) -> pathlib.Path:
    """Returns the file of `<config>[:<variant>]`: at the path itself, else the one of that name.

    Raises:
      UserError: there is none.
    """
    file, _ = _split_path(path)
    target = pathlib.Path(os.path.expanduser(file))
    if os.path.isfile(target):  # unlike `Path.is_file`, it accepts any text, even one too long for a name
        return target
    names = by_name()
    # From any folder, configs/ddpm_mnist.py means the project's own config.
    if target.suffix in ("", ".py") and str(target.parent) in (".", "configs") and target.stem in names:
        return names[target.stem]
    hint = did_you_mean(target.stem, names) or (f"the configs are: {', '.join(names)}" if names else "")
    raise UserError(f"no config {file}; {hint}".rstrip("; "))


def complete(config: Config, options: Options, older: bool = False, strict: bool = False) -> Config:
    """Returns a method's config in full: missing keys get their defaults.

    Args:
      config: its keys may be those of older versions, and a choice may be only a name.
      options: of its method.
      older: whether a version before 0.2 wrote it. Those stored the parameters of every name of a choice; the ones
        that the chosen name does not have are dropped. Otherwise they are refused.
      strict: whether to refuse unknown keys and values of the wrong type.

    Raises:
      UserError: an unknown choice, or a parameter that it does not have; see `strict`.

    Example:
      >>> config = complete(ml_collections.ConfigDict({"optimizer": {"name": "sgd", "b1": 0.5}}), Options(base_config))
      >>> config.optimizer.b1, "b2" in config.optimizer, config.optimizer.clip_norm, config.seed
      (0.5, False, 1.0, 0)
    """
    choices = options.all_choices
    given = {options.place(key): value for key, value in flatten(config).items()}
    whole = flatten(options.defaults())
    for path, choice in choices.items():
        name = given.get(f"{path}.name")
        if name is not None and name != whole.get(f"{path}.name"):
            whole = _replaced(whole, path, choice, of_type(f"{path}.name", name, "") if strict else name)
    if unknown := [key for key in given if key not in whole and _choice_of(key, choices)]:
        if not older:
            raise UserError(_no_parameter(unknown[0], whole, choices))
        given = {key: value for key, value in given.items() if key not in unknown}
    if strict:
        given = {key: _known(key, value, whole) for key, value in given.items()}
    whole = {key: value for key, value in whole.items() if not any(key.startswith(f"{other}.") for other in given)}
    return _nested(whole | given)


def _known(key: str, value: Any, whole: Mapping[str, Any]) -> Any:
    """Returns a value in the type that its key has in a complete config."""
    if key == "pretrained" and stage_keys(whole):  # an existing run instead of a config
        return of_type(key, value, "")
    if key not in whole:
        raise UserError(_no_value(key, whole))
    return of_type(key, value, whole[key])


def _replaced(flat: Mapping[str, Any], path: str, choice: Choice, name: str) -> dict[str, Any]:
    """A flat config with another name for a choice; its parameters get their defaults, except the common ones."""
    require_choice(f"{path}.name", name, choice.table)
    start = flatten(choice.start(name), f"{path}.")
    common = tuple(f"{path}.{key}" for key in choice.common)
    kept = {key: value for key, value in flat.items() if key.startswith(common)} if common else {}
    return {key: value for key, value in flat.items() if not key.startswith(f"{path}.")} | start | kept


def _choice_of(key: str, choices: Mapping[str, Choice]) -> str | None:
    """The innermost choice that a dotted key is a parameter of."""
    return max((path for path in choices if key.startswith(f"{path}.")), key=len, default=None)


def _no_parameter(key: str, flat: Mapping[str, Any], choices: Mapping[str, Choice]) -> str:
    path = _choice_of(key, choices) or ""
    leaf, name = key.removeprefix(f"{path}."), flat[f"{path}.name"]
    has = [each for each in choices[path].start(name) if each != "name"]
    others = [other for other in choices[path].table if leaf in choices[path].parameters(other)]
    way_out = f"it belongs to {' or '.join(others)}: set --config.{path}.name as well" if others else ""
    hint = way_out or f"{did_you_mean(leaf, has)}its parameters: {', '.join(has) or 'none'}"
    return f"config.{key} is not a parameter of {path} {name}; {hint}"


def _nested(flat: Mapping[str, Any]) -> Config:
    config: dict[str, Any] = {}
    for key, value in flat.items():
        *outer, leaf = key.split(".")
        inner = config
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[leaf] = value
    return ml_collections.ConfigDict(config)


def from_json(values: Mapping[str, Any]) -> Config:
    """Returns the config in a run's config.json; its lists become tuples.

    Example:
      >>> from_json({"seed": 3, "network": {"multipliers": [1, 2]}}).network.multipliers
      (1, 2)
    """
    return _nested({key: tuple(v) if isinstance(v, list) else v for key, v in flatten(values).items()})


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


def override(config: Config, words: Iterable[str], options: Options) -> Config:
    """Returns the config with the values of `--config.<key>=<value>` words.

    A choice is set by its own key or its `name`. Its parameters then get their defaults, and further words set them,
    in any order.

    Raises:
      UserError: a malformed word, an unknown key (with the closest valid one), a value of the wrong type, a value that
        has no effect with the others, or a change of the config's method.

    Example:
      >>> words = ["--config.optimizer.b1=0.5", "--config.optimizer=sgd", "--config.sample.num=16"]
      >>> config = override(base_config(), words, Options(base_config))
      >>> config.optimizer.name, config.optimizer.b1, config.sample.num
      ('sgd', 0.5, 16)
    """
    choices, before = options.all_choices, flatten(config)
    flat, names, values = dict(before), {}, {}
    for word in words:
        key, text = _split_word(word, flat)
        key = options.place(key)
        (names if key.removesuffix(".name") in choices and key.endswith(".name") else values)[key] = text
    beside = stage_keys(names | values) if "pretrained" in values else []
    if beside:  # in any order: an existing run stays as it is
        raise UserError(
            f"config.{beside[0]} has no effect with pretrained={values['pretrained']!r}, an existing run: leave it out"
        )
    for path, choice in choices.items():
        name = names.get(f"{path}.name")
        if name is not None and name != flat.get(f"{path}.name"):
            flat = _replaced(flat, path, choice, name)
    for key, text in values.items():
        if key == "pretrained" and stage_keys(flat):  # an existing run instead of a config
            flat = {other: value for other, value in flat.items() if other not in stage_keys(flat)} | {key: ""}
        if key not in flat:
            path = _choice_of(key, choices)
            raise UserError(_no_parameter(key, flat, choices) if path else _no_value(key, flat))
        flat[key] = parse_value(key, text, flat[key])
    _refuse_unread(before, flat, READ_WHERE | dict(options.read_where))
    for key in ("method", "pretrained.method"):
        if before.get(key):
            require_choice(key, flat.get(key, before[key]), [before[key]])
    return _nested(flat)


def stage_keys(flat: Mapping[str, Any]) -> list[str]:
    """Returns the keys of a flat config that belong to its first stage."""
    return [key for key in flat if key.startswith("pretrained.")]


def _split_word(word: str, flat: Mapping[str, Any]) -> tuple[str, str]:
    name, equals, text = word.partition("=")
    if not name.startswith("--config."):
        raise UserError(f"unknown argument {word!r}; {_nearest_word(name, flat)}")
    key = name.removeprefix("--config.")
    if not key.isprintable():  # not one of our keys, and the lines below would print it raw
        raise UserError(_no_value(key, flat))
    if not equals:
        shown = as_text(flat[key]) if key in flat else "<value>"
        raise UserError(f"--config.{key} needs a value: --config.{key}={shown}")
    return key, text


def _refuse_unread(before: Mapping[str, Any], after: Mapping[str, Any], read_where: Mapping[str, str]) -> None:
    for key, switch in read_where.items():
        if before.get(key) != after.get(key) and not after[switch]:
            raise UserError(
                f"config.{key}={as_text(after[key])} has no effect with {switch}={as_text(after[switch])}: "
                f"set --config.{switch} as well"
            )


FLAGS = (
    "--config", "--workdir", "--mode", "--coordinator", "--num_processes", "--process_id", "--help", "--pictures",
    "--mask", "--strength", "--between", "--labels", "--each", "--resample",
    "--out", "--compare", "--format",
)  # fmt: skip


def parse_value(key: str, text: str, default: Any) -> Any:
    """Returns `text` as a value of the type of `default`.

    Raises:
      UserError: the text is not such a value.

    Example:
      >>> parse_value("ema", "1e-1", 0.5), parse_value("data.name", "mnist", ""), parse_value("m", "1,2", (1,))
      (0.1, 'mnist', (1, 2))
    """
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        return of_type(key, {"true": True, "false": False}.get(text.lower(), text), default)
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError):
        value = text
    return of_type(key, value, default, text)


def of_type(key: str, value: Any, default: Any, shown: Any = None) -> Any:
    """Returns `value` in the type of `default`, or raises a UserError that shows it (as `shown`, if given).

    Example:
      >>> of_type("ema", 1, 0.5), of_type("num_steps", 2e3, 100), of_type("multipliers", [1, 2], (1,))
      (1.0, 2000, (1, 2))
    """
    given = value
    if isinstance(default, float) and type(value) is int:
        with contextlib.suppress(OverflowError):
            value = float(value)
    if type(default) is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(default, tuple) and isinstance(value, list | int | float):
        value = tuple(value) if isinstance(value, list) else (value,)
    if isinstance(default, tuple):  # an empty one does not show its type: our lists hold whole numbers
        fits = isinstance(value, tuple) and {*map(type, value)} <= {*map(type, default or (0,))}
    else:
        fits = type(value) is type(default)
    if not fits:
        kinds = {"int": "a whole number", "float": "a number", "tuple": "a list of numbers", "str": "a string"}
        kind = kinds.get(type(default).__name__, "")
        example = f" such as {as_text(default)}" if default != "" else ""
        allowed = "true or false" if isinstance(default, bool) else f"{kind}{example}"
        raise UserError(f"config.{key} must be {allowed}, not {given if shown is None else shown!r}")
    return value


def check(config: Config, options: Options) -> None:
    """Refuses invalid values before any work is done.

    Raises:
      UserError: names the key, the value and what is allowed.
    """
    flat = flatten(config)
    for key, value in flat.items():
        _check_numbers(key, value)
    for key, allowed in {**CHOICES, "eval.best": options.ranking}.items():
        if not (key == "sample.checkpoint" and flat[key].isdecimal()):  # a step
            require_choice(key, flat[key], allowed)
    if flat["sharding"] != "replicated" and flat["executor"] != "jit":
        raise UserError(
            f"config.sharding is {flat['sharding']}, but with executor {flat['executor']} every device holds the whole "
            "state: use --config.executor=jit"
        )
    if flat["batch_size"] % flat["accumulate"]:
        raise UserError(f"config.batch_size {flat['batch_size']} is not a multiple of accumulate={flat['accumulate']}")
    for key in ("num_steps", "log_every", "eval_every", "checkpoint_every"):
        if flat[key] % flat["steps_per_call"]:
            raise UserError(f"config.{key} {flat[key]} is not a multiple of steps_per_call={flat['steps_per_call']}")
    for key in ("optimizer.learning_rate", "optimizer.clip_norm", "optimizer.weight_decay", "optimizer.eps"):
        if flat.get(key, 0) < 0:
            raise UserError(f"config.{key} is {flat[key]}; it must not be negative")
    for key in (*SHARES, *options.shares):
        if not 0 <= flat.get(key, 0) < 1:
            raise UserError(f"config.{key} is {flat[key]}; it must be in [0, 1)")
    optimizer.make(config.optimizer, config.num_steps, config.ema)  # refuses what it cannot use


def _check_numbers(key: str, value: Any) -> None:
    """Refuses numbers that are not finite, negative (a count, a size), or beyond 32 bits."""
    low, high = int(key in COUNTS), 2**32 - 1 if key.rpartition(".")[2] == "seed" else 2**31 - 1
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise UserError(f"config.{key} is {value}; it must be finite")
        if type(number) is int and not low <= number <= high:
            bound = f"at least {low}" if number < low else f"at most {high}"
            raise UserError(f"config.{key} is {value}; it must be {bound}")


def require_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """Raises a UserError with the closest valid name if `value` is not among `allowed`."""
    if value not in allowed:
        raise UserError(f"config.{key} is {value!r}; {did_you_mean(value, allowed)}allowed: {', '.join(allowed)}")


def modules_of(
    network: Mapping[str, Any], networks: Mapping[str, tuple[type, ...]], given: Mapping[str, Any]
) -> list[Any]:
    """Returns the modules of `config.network`, each made with the values that are its fields.

    Args:
      network: `name`, a key of `networks`, and fields of its modules; missing fields get the module's defaults.
      networks: maps a name to modules that work together.
      given: further fields, which users cannot set.

    Raises:
      UserError: an unknown network, or a field that none of its modules has.
    """
    require_choice("network.name", network["name"], networks)
    modules = networks[network["name"]]
    known = [{field.name for field in dataclasses.fields(module)} for module in modules]
    values = {key: value for key, value in network.items() if key != "name"}
    if unknown := values.keys() - set().union(*known):
        raise UserError(f"config.network.{min(unknown)} is not a field of network {network['name']}")
    return [
        module(**{key: value for key, value in (values | dict(given)).items() if key in its})
        for module, its in zip(modules, known, strict=True)
    ]


def changes(old: Mapping[str, Any], new: Mapping[str, Any], free: Iterable[str] = MAY_CHANGE) -> list[str]:
    """Returns a line "key: old -> new" for each key that differs and is not `free` (by default: free on resume).

    Where the place of the data is free, so is the path of a folder of pictures: `dataset.refuse_other` compares what
    the folders contain.
    """
    before, after = (json.loads(json.dumps(flatten(c))) for c in (old, new))
    if "data.data_dir" in free and all(str(c.get("data.name")).startswith(FOLDER) for c in (before, after)):
        free = (*free, "data.name")
    return [
        f"{key}: {as_text(before.get(key))} -> {as_text(after.get(key))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not any(fnmatch.fnmatch(key, each) for each in free)
    ]


def _nearest_word(name: str, flat: Mapping[str, Any]) -> str:
    """A flag, or a config key whose --config. may have been forgotten."""
    values = {f"--config.{key}": f"--config.{key}" for key in flat}
    outermost_last = sorted(flat, key=lambda key: -key.count("."))
    values |= {f"--{key.rpartition('.')[2]}": f"--config.{key}" for key in outermost_last}
    near = difflib.get_close_matches(name, [*FLAGS, *values], 1, 0.5)
    return f"did you mean {values.get(near[0], near[0])}?" if near else f"the flags are: {', '.join(FLAGS)}"


def _no_value(key: str, flat: Mapping[str, Any]) -> str:
    if any(k.startswith(key + ".") for k in flat):
        return f"config value {key!r} is a group; set one of {', '.join(k for k in flat if k.startswith(key + '.'))}"
    leaf = key.rpartition(".")[2]
    same_leaf = [k for k in flat if k.rpartition(".")[2] == leaf]
    groups = [k.rpartition(".")[0] for k in flat if "." in k]
    return f"no config value {key!r}; {did_you_mean(key, same_leaf or [*flat, *groups], 0.0).strip()}"


def as_text(value: Any) -> str:
    """Returns a value as it is written on the command line."""
    return value if isinstance(value, str) else json.dumps(value)

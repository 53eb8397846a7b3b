"""METHODS: the one table from name to module, and configs as their method knows them.

A module holds `make(config, spec, stage=None) -> Method` and `OPTIONS`, a `config.Options`. A family is imported when
one of its methods is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_collections

from gen_jax import config as configs
from gen_jax import parallel
from gen_jax.config import Config, Options
from gen_jax.method import NUM_EXAMPLES, DataSpec, Method, Stage, State, UserError

METHODS = {
    "ddpm": "gen_jax.diffusion.ddpm",
    "flow": "gen_jax.diffusion.flow",
    "latent": "gen_jax.diffusion.latent",
    "vae": "gen_jax.vae.vae",
    "gan": "gen_jax.gan.gan",
    "acgan": "gen_jax.gan.acgan",
}

# What a first stage has from the run that it is trained for: its config does not state them.
SHARED = ("seed", "data", "executor", "num_devices", "fast_compile_options")


def _module(method: str) -> Any:
    configs.require_choice("method", method, METHODS)
    return importlib.import_module(METHODS[method])


def options(config: Config) -> Options:
    """Returns what a config of its method may hold, and one of its first stage where it holds that one's config.

    Raises:
      UserError: no such method.
    """
    own: Options = _module(config.method).OPTIONS
    stage = stage_of(config)
    if stage is None:
        return own
    inner = options(stage)

    def below(key: str) -> str:
        return f"pretrained.{key}"

    return own._replace(
        choices={**own.choices, **{below(key): choice for key, choice in inner.all_choices.items()}},
        read_where={**own.read_where, **{below(key): below(other) for key, other in inner.read_where.items()}},
    )


def complete(config: Config, older: bool = False, strict: bool = False) -> Config:
    """Returns a config with every key that one of its method has; see `config.complete`. So for its first stage's.

    Raises:
      UserError: no such method; a choice, or a parameter of one, that does not exist; see `strict` there.
    """
    config = config.copy_and_resolve_references()
    stage = stage_of(config)
    if stage is not None:  # of another method: none of these defaults are its
        del config["pretrained"]
    config = configs.complete(config, _module(config.get("method", "")).OPTIONS, older, strict)
    stage = stage_of(config) if stage is None else stage
    if stage is not None:
        with _of_the_first_stage():
            whole = complete(stage, older, strict)
        config.pretrained = ml_collections.ConfigDict({k: v for k, v in whole.items() if k not in SHARED})
    return config


def stage_of(config: Config) -> Config | None:
    """Returns the config of the first stage that is to be trained, or None: there is none, or it is a run at hand."""
    stage = config.get("pretrained")
    return stage if isinstance(stage, ml_collections.ConfigDict) else None


def whole_stage(config: Config) -> Config | None:
    """Returns `stage_of` a config with what it has from the run, as it is trained."""
    stage = stage_of(config)
    if stage is None:
        return None
    return complete(ml_collections.ConfigDict({**stage, **{key: config[key] for key in SHARED}}))


def load(path: str) -> tuple[str, str, Config]:
    """Returns (name, variant, config) of a config by its path or name: see `config.load`. It is `complete`.

    Raises:
      UserError: a key in the file that no config of its method has, or a value of another type; what the two raise.
    """
    name, variant, config = configs.load(path)
    try:
        return name, variant, complete(config, strict=True)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def stored(record: Mapping[str, Any]) -> Config:
    """Returns the config in what a run's config.json holds, of any version: keys newer than the run have defaults."""
    version = str(record.get("versions", {}).get("gen_jax", "0.1.0"))
    return complete(configs.from_json(record["config"]), older=version.startswith("0.1."))


def override(config: Config, words: Iterable[str]) -> Config:
    """Returns a complete config with the values of `--config.<key>=<value>` words: see `config.override`."""
    return configs.override(config, words, options(config))


def check(config: Config) -> None:
    """Refuses values that no run can have: see `config.check`. So for the first stage's.

    Raises:
      UserError: names the key, the value and what is allowed.
    """
    configs.check(config, options(config))
    stage = whole_stage(config)
    if stage is not None:
        with _of_the_first_stage():
            check(stage)


@contextlib.contextmanager
def _of_the_first_stage() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"of the first stage, config.pretrained: {error}") from error


def make(config: Config, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns the method that `config.method` names, for data like `spec`.

    Args:
      config: what it does not state has its default.
      spec: of the data.
      stage: the run that `config.pretrained` names, for methods that work on one.

    Raises:
      UserError: no such method, or values in the config that the method cannot have.
    """
    return _module(config.method).make(complete(config), spec, stage)


def make_stage(config: Config, spec: DataSpec) -> Stage:
    """Returns a first stage, with the shapes of its parameters alone: a run's own State holds them.

    Args:
      config: of the first stage, complete.
      spec: of the data that it was, or will be, trained on.
    """
    method = make(config, spec)
    return Stage(method, config, spec, abstract_state(method, spec, None, parallel.make_mesh()).ema)


def stored_stage(record: Mapping[str, Any]) -> Stage | None:
    """Returns the first stage in what a run's config.json holds, or None."""
    stage = record.get("pretrained")
    if stage is None:
        return None
    return make_stage(stored({**record, **stage}), DataSpec.from_dict(stage["data"]))


def abstract_state(method: Method, spec: DataSpec, stage: Stage | None, mesh: Any) -> State:
    """Returns `parallel.abstract_state` of a method: the first time that its networks are built, so that what they
    cannot be is told here.

    Raises:
      UserError: the network cannot be built for the data.
    """
    examples = spec.abstract_batch(min(NUM_EXAMPLES, spec.num_examples))
    try:
        return parallel.abstract_state(method.init, mesh, examples, {} if stage is None else stage.params)
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:  # of layers, Flax and JAX, at a wrong size
        shape = "x".join(map(str, spec.image_shape))
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"config.network makes no network for images of {shape}: {reason}") from error

"""METHODS: the one table from a method's name to its module, and functions on configs that need the method's options.

A module holds `make(config, spec, stage=None) -> Method` and `OPTIONS`, a `config.Options`. A family is imported when
one of its methods is requested.
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
from gen_jax.method import NUM_EXAMPLES, Batch, DataSpec, Edits, Method, Scalars, Stage, State, UserError

METHODS = {
    "ddpm": "gen_jax.diffusion.ddpm",
    "flow": "gen_jax.diffusion.flow",
    "latent": "gen_jax.diffusion.latent",
    "meanflow": "gen_jax.diffusion.meanflow",
    "consistency": "gen_jax.diffusion.consistency",
    "distilled": "gen_jax.diffusion.distilled",
    "vae": "gen_jax.vae.vae",
    "scvae": "gen_jax.vae.scvae",
    "hvae": "gen_jax.vae.hvae",
    "vqvae": "gen_jax.vae.vqvae",
    "autoencoder": "gen_jax.autoencoder.model",
    "gan": "gen_jax.gan.gan",
    "acgan": "gen_jax.gan.acgan",
    "stackgan": "gen_jax.gan.stackgan",
    "ddgan": "gen_jax.ddgan.model",
    "srresnet": "gen_jax.superres.srresnet",
    "srgan": "gen_jax.superres.srgan",
    "sr3": "gen_jax.superres.sr3",
    "coupling": "gen_jax.nflow.coupling",
    "tarflow": "gen_jax.nflow.tarflow",
    "autoregressive": "gen_jax.autoregressive.model",
}

# Keys that a first stage takes from the run that it is trained for; its own config does not have them.
SHARED = ("seed", "data", "executor", "num_devices", "sharding", "fast_compile_options")


def _module(method: str) -> Any:
    configs.require_choice("method", method, METHODS)
    return importlib.import_module(METHODS[method])


def options(config: Config) -> Options:
    """Returns the options of a config's method, and those of its first stage if it contains that stage's config.

    Raises:
      UserError: an unknown method.
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
    """Returns a config with all keys of its method; see `config.complete`. Also completes its first stage's config.

    Raises:
      UserError: an unknown method, choice or parameter of a choice; see `strict` there.
    """
    config = config.copy_and_resolve_references()
    stage = stage_of(config)
    if stage is not None:  # of another method: these defaults are not for it
        del config["pretrained"]
    config = configs.complete(config, _module(config.get("method", "")).OPTIONS, older, strict)
    stage = stage_of(config) if stage is None else stage
    if stage is not None:
        with _of_the_first_stage():
            whole = complete(stage, older, strict)
        del config["pretrained"]  # which may be "", the default of a method that needs no first stage
        config.pretrained = ml_collections.ConfigDict({k: v for k, v in whole.items() if k not in SHARED})
    return config


def stage_of(config: Config) -> Config | None:
    """Returns the config of the first stage if the run trains one, or None: it has none, or uses an existing run."""
    stage = config.get("pretrained")
    return stage if isinstance(stage, ml_collections.ConfigDict) else None


def whole_stage(config: Config) -> Config | None:
    """Returns `stage_of` a config together with the keys that it shares with the run: what it is trained with."""
    stage = stage_of(config)
    if stage is None:
        return None
    return complete(ml_collections.ConfigDict({**stage, **{key: config[key] for key in SHARED}}))


def load(path: str) -> tuple[str, str, Config]:
    """Returns (name, variant, config) for a config's path or name: see `config.load`. The config is `complete`.

    Raises:
      UserError: an unknown key in the file, or a value of the wrong type; and the errors of the two functions.
    """
    name, variant, config = configs.load(path)
    try:
        return name, variant, complete(config, strict=True)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def stored(record: Mapping[str, Any]) -> Config:
    """Returns the config in a run's config.json, of any version: keys newer than the run get their defaults."""
    version = str(record.get("versions", {}).get("gen_jax", "0.1.0"))
    return complete(configs.from_json(record["config"]), older=version.startswith("0.1."))


def override(config: Config, words: Iterable[str]) -> Config:
    """Returns a complete config with the values of `--config.<key>=<value>` words: see `config.override`."""
    return configs.override(config, words, options(config))


def check(config: Config) -> None:
    """Refuses invalid values: see `config.check`. Also checks the first stage's config.

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
        raise UserError(f"in the first stage, config.pretrained: {error}") from error


def make(config: Config, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns the method that `config.method` names, for data like `spec`.

    Args:
      config: missing keys get their defaults.
      spec: of the data.
      stage: the first stage that `config.pretrained` names, for methods that use one.

    Raises:
      UserError: an unknown method, or config values that the method does not accept.
    """
    return _module(config.method).make(complete(config), spec, stage)


def spread(method: Method, mesh: Any, sharding: str) -> Method:
    """Returns a method for a State whose arrays are spread over the devices of a mesh: see `parallel.SHARDINGS`.

    Each of its functions gathers the weights that it reads. What a step only updates (moments, the moving average)
    stays in parts, and so does what it returns.
    """
    if sharding == "replicated":
        return method

    def reading(function: Any) -> Any:
        return function and (lambda state, *rest: function(parallel.gathered(state, mesh), *rest))

    def step(state: State, batch: Batch) -> tuple[State, Scalars]:
        read = {name: getattr(state, name) for name in ("params", "variables", "frozen")}
        with parallel.step_in_parts(mesh):
            after, scalars = method.step(state.replace(**parallel.gathered(read, mesh)), batch)
        return after.replace(frozen=state.frozen), scalars  # in parts, as it was

    code, edits, upscale = method.code, method.edits, method.upscale
    return method._replace(
        step=step,
        **{name: reading(getattr(method, name)) for name in ("sample", "evaluate", "pictures", "snapshots", "gauges")},
        code=code and code._replace(encode=reading(code.encode), decode=reading(code.decode)),
        edits=edits and Edits(*map(reading, edits)),
        upscale=upscale and upscale._replace(apply=reading(upscale.apply)),
    )


def make_stage(config: Config, spec: DataSpec) -> Stage:
    """Returns a first stage with only the shapes of its parameters: the run's own State holds the values.

    Args:
      config: of the first stage, complete.
      spec: of the data that it was, or will be, trained on.
    """
    method = make(config, spec)
    return Stage(method, config, spec, abstract_state(method, spec, None, parallel.make_mesh()).ema)


def stored_stage(record: Mapping[str, Any]) -> Stage | None:
    """Returns the first stage recorded in a run's config.json, or None."""
    stage = record.get("pretrained")
    if stage is None:
        return None
    return make_stage(stored({**record, **stage}), DataSpec.from_dict(stage["data"]))


def abstract_state(
    method: Method, spec: DataSpec, stage: Stage | None, mesh: Any, sharding: str = "replicated"
) -> State:
    """Returns `parallel.abstract_state` of a method. This builds its networks for the first time, so that invalid
    sizes are reported here.

    Raises:
      UserError: the network cannot be built for the data.
    """
    examples = spec.abstract_batch(min(NUM_EXAMPLES, spec.num_examples))
    try:
        return parallel.abstract_state(method.init, mesh, examples, {} if stage is None else stage.params, sharding)
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:  # from layers, Flax and JAX, for wrong sizes
        shape = "x".join(map(str, spec.image_shape))
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"config.network cannot be built for images of {shape}: {reason}") from error

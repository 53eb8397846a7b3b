"""A diffusion model: a network trained on a process and evaluated by a sampler, in pixel space or latent space.

All differences between DDPM, flow matching and EDM are config values (`process.CHOICES`). A `Domain` is the space of
the model: pixels or an autoencoder's codes. An `Objective` is what the network is trained for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import optimizer
from gen_jax.config import Choice, chosen, modules_of
from gen_jax.diffusion import edit, few_steps, pictures, solvers
from gen_jax.diffusion import guidance as guidances
from gen_jax.diffusion import likelihood as likelihoods
from gen_jax.diffusion import objective as objectives
from gen_jax.diffusion import process as processes
from gen_jax.diffusion import sampler as samplers
from gen_jax.diffusion import spacing as spacings
from gen_jax.diffusion.dit import DiT
from gen_jax.diffusion.schedule import Path, Schedule
from gen_jax.diffusion.unet import UNet
from gen_jax.method import (
    Array,
    Batch,
    Condition,
    DataSpec,
    Edits,
    Key,
    Method,
    Picture,
    PyTree,
    Scalars,
    Scatter,
    State,
    UserError,
    broadcast_to_images,
    counted,
    draw,
    keys_of,
    mirrored,
    stream,
    to_data,
    to_model,
)

NUM_SHOWN = 9  # images whose reverse process the report shows
NUM_CLASSES_SHOWN = 10  # in the picture of guidance
SCALES_SHOWN = (0.0, 1.0, 2.0, 4.0)

NETWORKS = {"unet": (UNet,), "dit": (DiT,)}
GIVEN = ("out_channels", "num_classes", "dtype")
CHOICES = {
    "network": Choice(NETWORKS, GIVEN),
    **processes.CHOICES,
    "sample.sampler": Choice(solvers.SAMPLERS),
    "sample.spacing": Choice(spacings.SPACINGS),
    "eval.likelihood": Choice(likelihoods.LIKELIHOODS),
}
SAMPLERS = Choice(solvers.SAMPLERS | few_steps.SAMPLERS)  # of which a method has those that fit it


class Beside(NamedTuple):
    """A picture on which a model is conditional: the network sees it beside x_t, as additional channels.

    Attributes:
      feature: its name in a batch.
      shape: of the picture, (h, w, C).
      channels: (pictures [B, h, w, C]) -> f32 [B, H, W, C'], with the height and width of the domain.
    """

    feature: str
    shape: tuple[int, ...]
    channels: Callable[[Array], Array]


class Domain(NamedTuple):
    """The space in which a model works.

    Attributes:
      shape: of its elements, (H, W, C).
      init: (training examples, frozen) -> State.variables.
      enter: (state, batch, key) -> x0 f32 [B, *shape], with about the range [-1, 1].
      leave: (state, x [N, *shape]) -> images f32 [N, H, W, C] in [-1, 1].
      grey: whether its elements are pictures of 256 grey values per channel, which have a likelihood.
      measures: (state, batch, key) -> values f32 [B] by name, which `evaluate` returns beside the loss.
      beside: the picture that every element belongs to, if there is one.
    """

    shape: tuple[int, int, int]
    init: Callable[[Batch, PyTree], dict[str, PyTree]]
    enter: Callable[[State, Batch, Key], Array]
    leave: Callable[[State, Array], Array]
    grey: bool = False
    measures: Callable[[State, Batch, Key], Scalars] = lambda state, batch, key: {}
    beside: Beside | None = None


def pixels(spec: DataSpec) -> Domain:
    """Returns the domain of the images themselves."""
    return Domain(
        spec.image_shape,
        lambda examples, frozen: {},
        lambda state, batch, key: to_model(batch["image"], spec.value_range),
        lambda state, x: x,
        grey=spec.value_range == (0, 255),
    )


class _Model(NamedTuple):
    """Everything that the functions of the method need."""

    config: Any
    domain: Domain
    objective: objectives.Objective
    network: Any
    sampler: samplers.Sampler
    steps: np.ndarray
    optimize: optimizer.Optimizer
    likelihood: likelihoods.Likelihood | None
    classes: tuple[str, ...]  # class names of a model that is conditional on the class, or ()
    told: str  # the feature that it is conditional on, "label", "text" or a picture's, or ""
    nothing: Any  # what tells it nothing, for one example

    @property
    def process(self) -> processes.Process:
        return self.objective.process

    @property
    def guided(self) -> bool:
        """Whether there can be guidance while sampling."""
        return self.objective.denoises and not self.sampler.jumps


def make(config: Any, spec: DataSpec, domain: Domain, objective: objectives.Objective | None = None) -> Method:
    """Returns the model as a method.

    Args:
      config: complete; see `configs/ddpm_mnist.py`.
      spec: of the data.
      domain: the space in which the model works.
      objective: what the network is trained for; None for `objective.denoising`.

    Raises:
      UserError: an unknown name; a prediction that does not determine the data at the end of the path; a conditional
        model on a data set without labels; guidance of a model trained without label dropout; a learned variance of a
        model without one; a likelihood that the model does not have.
    """
    model = _assemble(config, spec, domain, objective or objectives.denoising(config.diffusion))
    method = Method(
        functools.partial(_init, model),
        functools.partial(_step, model),
        functools.partial(_sample, model),
        functools.partial(_evaluate, model),
        functools.partial(_show, model),
        condition=(model.told,) if model.told else (),
        edits=_edits(model, spec) if model.guided and not domain.beside else None,
        describe=_describe(config.sample, model.sampler),
    )
    if spec.kind != "points":
        return method
    show = functools.partial(_show_points, model, spec)
    return method._replace(pictures=show, num_pictured=pictures.NUM_POINTS, edits=None)


def _assemble(config: Any, spec: DataSpec, domain: Domain, objective: objectives.Objective) -> _Model:
    process = objective.process
    sampler = chosen(SAMPLERS, config.sample.sampler)
    if config.sample.guidance != 1 and (sampler.jumps or not objective.denoises):
        raise UserError(
            f"config.sample.guidance is {config.sample.guidance:g}, but a {config.method} model sampled by "
            f"{config.sample.sampler.name} cannot be guided while it samples: use 1"
        )
    told = domain.beside.feature if domain.beside else _feature(config)
    _check(config, spec, told)
    classes = (spec.class_names or ()) if told == "label" else ()
    size = spec.features["text"].given[-1] if told == "text" else len(classes)
    nothing = np.zeros(size, np.float32) if told == "text" else np.int32(guidances.NO_LABEL)
    (network,) = modules_of(
        config.network,
        NETWORKS,
        {
            "out_channels": process.variance.outputs * domain.shape[-1],
            "num_classes": size,
            "dtype": jnp.dtype(config.compute_dtype),
        },
    )
    if sampler.estimates and process.variance.outputs == 1:
        raise UserError(
            "config.sample.sampler.variance is 'learned', but this model was trained with fixed variances: use small "
            "or large, or train one with --config.diffusion.variance=learned"
        )
    if domain.beside:
        network, nothing = _Beside(network, domain.beside), np.zeros(domain.beside.shape, np.uint8)
    return _Model(
        config,
        domain,
        objective,
        network,
        sampler,
        chosen(CHOICES["sample.spacing"], config.sample.spacing)(process.path, config.sample.num_steps),
        optimizer.make(config.optimizer, config.num_steps, config.ema, objective.drift),
        _likelihood(config, domain, process),
        classes,
        told,
        nothing,
    )


class _Beside(NamedTuple):
    """A network whose `label` is a picture that it sees beside x_t."""

    network: Any
    beside: Beside

    def init(self, key: Key, x_t: Array, *times: Array, label: Array) -> PyTree:
        return self.network.init(key, self._joined(x_t, label), *times)

    def apply(self, params: PyTree, x_t: Array, *times: Array, label: Array, **more: Any) -> Any:
        return self.network.apply(params, self._joined(x_t, label), *times, **more)

    def _joined(self, x_t: Array, picture: Array) -> Array:
        return jnp.concatenate([x_t, self.beside.channels(picture)], axis=-1)


def _feature(config: Any) -> str:
    """The feature that a model is conditional on, or ""."""
    if not config.diffusion.conditional:
        return ""
    return "label" if config.data.get("text", {"name": "none"})["name"] == "none" else "text"


def _check_texts(config: Any, spec: DataSpec) -> None:
    encoder = config.data.get("text", {"name": "none"})["name"]
    if encoder != "none" and not config.diffusion.conditional:
        raise UserError(
            f"config.data.text is {encoder}, but the model is not conditional: set "
            "--config.diffusion.conditional=true, or use none"
        )
    if encoder != "none" and "text" not in spec.features:
        raise UserError(f"config.data.text is {encoder}, and data set {spec.name} comes without texts")


def _likelihood(config: Any, domain: Domain, process: processes.Process) -> likelihoods.Likelihood | None:
    """The likelihood that `evaluate` computes, if the config asks for one."""
    likelihood = chosen(CHOICES["eval.likelihood"], config.eval.likelihood)
    if likelihood is None:
        return None
    if not domain.grey:
        raise UserError(
            f"config.eval.likelihood is {config.eval.likelihood.name!r}, a likelihood of 256 grey values, and this "
            "model is of codes or of other values: use none"
        )
    likelihood.check(process.path, process.variance.outputs == 2)
    return likelihood


def _init(model: _Model, key: Key, examples: Batch, frozen: PyTree) -> State:
    x = jnp.zeros((1, *model.domain.shape))
    label = jnp.asarray(model.nothing)[None] if model.told else None
    times = (jnp.zeros(1),) * (1 + model.process.spans)
    params = model.network.init(stream(key, "init"), x, *times, label=label)["params"]
    return optimizer.first_state(model.optimize, "denoiser", key, params, frozen, model.domain.init(examples, frozen))


def _losses(
    model: _Model, state: State, params: PyTree, batch: Batch, t: Array, key_noise: Key, key_dropout: Key | None
) -> objectives.Losses:
    training = key_dropout is not None
    if training and model.config.diffusion.mirror:
        turned = ["image", *([model.told] if model.domain.beside else [])]
        key = jax.random.fold_in(key_dropout, 2)
        batch = {**batch, **{name: mirrored(batch[name], key, batch["index"]) for name in turned}}
    x0 = model.domain.enter(state, batch, jax.random.fold_in(key_noise, 1))  # independent of eps
    eps = draw(key_noise, batch["index"], lambda k: jax.random.normal(k, model.domain.shape))

    def uniform(purpose: int) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(key_noise, 2), purpose)
        return draw(key, batch["index"], jax.random.uniform)

    def networks(params: PyTree, label: Array | None, still: bool = False) -> processes.Network:
        train = training and not still
        rngs = {"dropout": key_dropout} if train else None
        return functools.partial(
            model.network.apply, {"params": params}, label=label, index=batch["index"], train=train, rngs=rngs
        )

    label = _label_in_training(model, batch, key_dropout)
    return model.objective.loss(networks, params, objectives.Drawn(x0, eps, t, uniform, label, state))


def _label_in_training(model: _Model, batch: Batch, key: Key | None) -> Array | None:
    """The labels, or one text of each, for the network; in training a share of them is dropped."""
    if not model.told:
        return None
    share, given = model.config.diffusion.label_drop, batch[model.told]
    if model.told == "text":
        given = _one_text(given, batch["index"], None if key is None else jax.random.fold_in(key, 3))
    if not share or key is None:
        return given
    dropped = draw(jax.random.fold_in(key, 1), batch["index"], jax.random.uniform) < share
    return jnp.where(broadcast_to_images(dropped, given), guidances.no_label(given), given)


def _one_text(texts: Array, index: Array, key: Key | None) -> Array:
    """One of the K texts of each example, f32 [B, D]; without a key the first."""
    if key is None:
        return texts[:, 0]
    number = draw(key, index, lambda k: jax.random.randint(k, (), 0, texts.shape[1]))
    return jnp.take_along_axis(texts, number[:, None, None], axis=1)[:, 0]


def _step(model: _Model, state: State, batch: Batch) -> tuple[State, Scalars]:
    key = jax.random.fold_in(stream(state.key, "step"), state.step)
    key_noise, key_time, key_dropout = jax.random.split(key, 3)

    def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, Scalars]:
        t = model.process.draw_times(key_time, batch["index"], model.config.batch_size)
        losses = _losses(model, state, params, batch, t, key_noise, key_dropout)
        return jnp.mean(losses.trained), {"loss": jnp.mean(losses.shown)}

    params, pieces = state.params["denoiser"], model.config.accumulate
    scalars, grads = optimizer.value_and_grad(loss_fn, params, batch, pieces)
    state, norms = model.optimize.apply(state, "denoiser", grads)
    return state.replace(step=state.step + 1), scalars | norms


def _evaluate(model: _Model, state: State, batch: Batch, key: Key) -> Scalars:
    key_noise, key_time = jax.random.split(key)
    process = model.process
    t = process.times(draw(key_time, batch["index"], jax.random.uniform))
    values = {"loss": _losses(model, state, state.ema["denoiser"], batch, t, key_noise, None).shown}
    values |= model.domain.measures(state, batch, key)
    likelihood = model.likelihood
    if likelihood is None:
        return values
    label = _label_in_training(model, batch, None)
    condition = {} if label is None else {model.told: label}
    denoise = _denoiser(model, state, condition, 1.0, likelihood.estimates, likelihood.clips)
    x0 = model.domain.enter(state, batch, key)
    found = likelihood.measure(denoise, process.path, x0, keys_of(jax.random.fold_in(key, 2), batch["index"]))
    given = f"_given_{model.told}" if model.told else ""
    c = model.config.sample
    limit = f"_threshold_{c.dynamic_threshold:g}" if c.dynamic_threshold else "_clipped"
    clipped = limit if likelihood.clips and c.clip else ""
    return values | {f"{name}{clipped}{given}": value for name, value in found.items()}


def _denoiser(
    model: _Model,
    state: State,
    condition: Condition,
    scale: float,
    estimates: bool | None = None,
    clips: bool = True,
) -> samplers.Denoiser:
    """x0_hat of the averaged weights, with guidance, kept in [-1, 1] if `clips` and the config say so.

    With `estimates` (by default if the sampler needs it) it comes in an `Estimate`; guidance and limits do not change
    the variance.
    """
    label = condition.get(model.told)
    with_variance = model.sampler.estimates if estimates is None else estimates

    wrap: Any = model.process.estimator if with_variance else model.process.denoiser

    def told(label: Array | None) -> samplers.Denoiser:
        return wrap(functools.partial(model.network.apply, {"params": state.ema["denoiser"]}, label=label))

    c = model.config.sample
    interval = guidances.interval_of(c.guidance_interval)
    denoise = told(label) if label is None else guidances.guided(told, label, scale, c.guidance_rescale, interval)
    return guidances.kept_in_range(denoise, c) if clips else denoise


def _sampling_denoiser(model: _Model, state: State, condition: Condition) -> samplers.Denoiser:
    """As the sampler needs it, with the guidance of the config."""
    c = model.config.sample
    if not model.sampler.jumps:
        return _denoiser(model, state, condition, c.guidance)
    return few_steps.in_range_at_the_end(_denoiser(model, state, condition, 1.0, clips=False), c)


def _sample(model: _Model, state: State, keys: Array, condition: Condition) -> Array:
    denoise = _sampling_denoiser(model, state, condition)
    x0 = samplers.sample(denoise, model.process.path, model.sampler, model.steps, keys, model.domain.shape)
    return model.domain.leave(state, x0)


def _edits(model: _Model, spec: DataSpec) -> Edits:
    path, steps = model.process.path, model.steps
    grey = jnp.asarray(sum(spec.value_range) / 2, spec.dtype)

    def entered(state: State, rows: Batch) -> Array:
        return model.domain.enter(state, rows, state.key)

    def denoiser(state: State, keys: Array, condition: Condition, estimates: bool | None = None) -> samplers.Denoiser:
        if model.told and model.told not in condition:
            if not model.config.diffusion.label_drop:
                give = "give the labels of the pictures, or " if model.classes else ""
                raise UserError(
                    f"this model was trained with a {model.told} for every picture: {give}train one with "
                    "--config.diffusion.label_drop=0.1"
                )
            nothing = jnp.broadcast_to(model.nothing, (len(keys), *np.shape(model.nothing)))
            return _denoiser(model, state, {model.told: nothing}, 1.0, estimates)
        return _denoiser(model, state, condition, model.config.sample.guidance, estimates)

    def inpaint(state: State, keys: Array, rows: Batch, condition: Condition, resample: int) -> Array:
        # An encoder sees grey where pixels are to be filled, and these also fill the codes that they are part of.
        image = jnp.where(rows["mask"][..., None], grey, rows["image"])
        x0, mask = entered(state, {**rows, "image": image}), edit.coarse(rows["mask"], model.domain.shape[:2])
        denoise = denoiser(state, keys, condition)
        filled = edit.inpaint(denoise, path, model.sampler, steps, keys, x0, mask, resample)
        return model.domain.leave(state, filled)

    def vary(state: State, keys: Array, rows: Batch, condition: Condition, strength: float) -> Array:
        denoise = denoiser(state, keys, condition)
        varied = edit.vary(denoise, path, model.sampler, steps, keys, entered(state, rows), strength)
        return model.domain.leave(state, varied)

    def invert(state: State, keys: Array, rows: Batch, condition: Condition) -> Array:
        denoise = denoiser(state, keys, condition, estimates=False)  # DDIM has no use for a variance
        return edit.invert(denoise, path, steps, entered(state, rows))

    def render(state: State, keys: Array, rows: Batch, condition: Condition) -> Array:
        denoise = denoiser(state, keys, condition, estimates=False)
        return model.domain.leave(state, edit.render(denoise, path, steps, rows["noise"]))

    return Edits(inpaint, vary, invert, render)


def _show(model: _Model, state: State, key: Key, batch: Batch) -> dict[str, Picture]:
    keys = keys_of(key, jnp.arange(NUM_SHOWN))
    condition = _shown_conditions(model, batch)
    leave = functools.partial(model.domain.leave, state)
    x0 = model.domain.enter(state, {name: value[:1] for name, value in batch.items()}, key)[0]
    eps = jax.random.normal(key, model.domain.shape)
    shown = {
        "forward": pictures.forward(x0, eps, model.process.path, _describe_path(model.process.path), leave),
        **pictures.reverse(
            _sampling_denoiser(model, state, condition), model.process.path, model.sampler, model.steps, keys,
            model.domain.shape, _in_words(model), leave,
        ),
    }  # fmt: skip
    if not model.guided:
        del shown["x0_hat"]  # it says what a denoiser's estimates look like
        return shown
    if not (model.classes and model.config.diffusion.label_drop):
        return shown
    label = jnp.arange(min(len(model.classes), NUM_CLASSES_SHOWN))

    def image_of(scale: float) -> Array:
        denoise, path = _denoiser(model, state, {"label": label}, scale), model.process.path
        same = jnp.broadcast_to(keys[0], label.shape)
        return leave(samplers.sample(denoise, path, model.sampler, model.steps, same, model.domain.shape))

    return {"guidance": pictures.guidance(image_of, SCALES_SHOWN, model.classes[: len(label)])} | shown


def _shown_conditions(model: _Model, batch: Batch) -> Condition:
    """The classes in turn, or the texts or the pictures beside given ones in turn."""
    number = jnp.arange(NUM_SHOWN)
    if model.domain.beside:
        return {model.told: batch[model.told][number % len(batch[model.told])]}
    if model.told == "text":
        return {"text": batch["text"][number % len(batch["text"]), 0]}
    return {"label": number % len(model.classes)} if model.told else {}


def _show_points(model: _Model, spec: DataSpec, state: State, key: Key, batch: Batch) -> dict[str, Scatter]:
    keys = keys_of(key, jnp.arange(pictures.NUM_POINTS))
    denoise = _sampling_denoiser(model, state, {})
    way = samplers.trajectory(denoise, model.process.path, model.sampler, model.steps, keys, model.domain.shape)
    x = to_data(jnp.concatenate([way.x_t, way.x0[None]]), spec)
    return {"reverse_animation": pictures.reverse_of_points(x, batch["image"], model.steps, _in_words(model))}


def _in_words(model: _Model) -> str:
    c, num_steps = model.config.sample, len(model.steps)
    steps = f"{counted(num_steps, f'{c.sampler.name} step')}{_calls(num_steps, model.sampler)}"
    return f"{steps} with {c.spacing.name} spacing"


def _describe(c: Any, sampler: samplers.Sampler) -> dict[str, str]:
    words = {"sampler": f"{_named(c.sampler)}, {counted(c.num_steps, 'step')}{_calls(c.num_steps, sampler)}"}
    words["spacing"] = _named({key: value for key, value in c.spacing.items() if value}, " spacing")  # 0: the path's
    return words | guidances.describe(c)


def _named(choice: Mapping[str, Any], what: str = "") -> str:
    """A choice of something and its parameters, in words."""
    parameters = ", ".join(f"{key} {value}" for key, value in choice.items() if key != "name")
    return f"{choice['name']}{what}" + (f" ({parameters})" if parameters else "")


def _calls(num_steps: int, sampler: samplers.Sampler) -> str:
    """The number of network calls, where it is not the number of steps."""
    calls = sampler.calls(num_steps)
    return f" ({calls} network calls)" if calls != num_steps else ""


def _describe_path(path: Path) -> str:
    name = path.name.replace("_", " ")
    if not isinstance(path, Schedule):
        return f"{name} path"
    ends = " with zero terminal SNR" if path.alpha[-1] == 0 else ""
    return f"{name} schedule of {path.num_steps} steps{ends}"


def _check(config: Any, spec: DataSpec, told: str) -> None:
    c, guidance = config.diffusion, config.sample.guidance
    if told == "label" and spec.num_classes is None:
        raise UserError(f"config.diffusion.conditional needs labels, and data set {spec.name} has none")
    _check_texts(config, spec)
    if c.label_drop and not c.conditional:
        raise UserError(f"config.diffusion.label_drop is {c.label_drop}, but the model is not conditional: use 0")
    if c.mirror and spec.image_shape[1] == 1:
        raise UserError("config.diffusion.mirror has no effect on images that are one pixel wide: use false")
    if guidance != 1 and not c.label_drop:
        reason = "was trained without label dropout" if c.conditional else "is not conditional"
        more = "" if c.conditional else " --config.diffusion.conditional=true"
        raise UserError(
            f"config.sample.guidance is {guidance:g}, but this model {reason}: train one with "
            f"--config.diffusion.label_drop=0.1{more}, or use 1"
        )
    guidances.check(config.sample)

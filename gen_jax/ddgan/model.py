"""The denoising diffusion GAN (Xiao et al. 2022): diffusion in four large steps, each of them drawn by a GAN.

With so few steps, q(x_s | x_t) is no normal distribution. A generator draws x0 given x_t and a latent z, and x_s
follows from the posterior q(x_s | x_t, x0); a discriminator sees x_s beside x_t and the time.

    discriminator: softplus(-D(x_s, x_t, t)) + softplus(D(x_s', x_t, t)) + a penalty on its gradient in x_s
    generator:     softplus(-D(x_s', x_t, t))

Where this differs from the released code:
- x0 is tanh(alpha_t x_t + F(x_t, z, t)): at the start, F = 0, the generator returns what is left of the data in x_t,
  instead of grey.
- A lazy penalty counts `every` times as much in the steps that compute it; there it counts once. The weight 0.02 of
  CIFAR-10, every 15 steps, is `every=15` with a weight of 0.02 / 15 here.
- The generated x_s has the noise of the real one (denoising.py): both have the distribution that they should, and the
  discriminator need not average the noise away to see how they differ.
- The networks are the small U-Net of this project and a convolutional discriminator (denoisers.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_jax import optimizer
from gen_jax.config import Choice, Config, Options, base_config, chosen, modules_of, require_choice
from gen_jax.ddgan import denoisers, denoising
from gen_jax.diffusion import pictures as processes
from gen_jax.diffusion import sampler as samplers
from gen_jax.diffusion import solvers
from gen_jax.diffusion.schedule import Level, Schedule
from gen_jax.figures.classes import NUM_OF_A_CLASS, by_class
from gen_jax.gan import defaults, game, losses
from gen_jax.gan.penalties import PENALTIES
from gen_jax.method import (
    Array,
    Batch,
    Condition,
    DataSpec,
    Key,
    Method,
    Picture,
    PyTree,
    Scalars,
    Stage,
    State,
    UserError,
    broadcast_to_images,
    counted,
    draw,
    keys_of,
    mirrored,
    stream,
    to_model,
)

NUM_SHOWN = 9  # images whose steps the report shows
CHOICES = {
    "network": Choice(denoisers.NETWORKS, denoisers.GIVEN),
    "gan.penalty": Choice(PENALTIES),
}


def ddgan_config() -> Config:
    """Returns `base_config` with the additional values of a denoising diffusion GAN, and the paper's for CIFAR-10.

    Example:
      >>> config = ddgan_config()
      >>> config.gan.denoising_steps, config.gan.penalty.name, config.discriminator_optimizer.learning_rate
      (4, 'r1', 0.000125)
    """
    config = base_config()
    config.method = "ddgan"
    config.eval.track = 1000  # GANs may get worse late in training: keep the best checkpoint
    config.optimizer.update(learning_rate=1.6e-4, b1=0.5, b2=0.9, clip_norm=0.0)
    config.optimizer.decay = ConfigDict({"name": "cosine", "share": 1.0})
    config.discriminator_optimizer = ConfigDict({"learning_rate": 1.25e-4})  # the rest as in optimizer
    config.network = ConfigDict(CHOICES["network"].start("unet"))
    config.gan = ConfigDict(
        {
            "latents": 100,
            "denoising_steps": 4,  # network calls per sample
            "beta_min": 0.1,  # rate at which noise is added at the start of the path
            "beta_max": 20.0,  # that at its end
            "loss": "non_saturating",  # or another of gan/losses.py
            "penalty": CHOICES["gan.penalty"].start("r1") | {"weight": 0.02},  # in x_s
            "conditional": False,  # on the class label
            "mirror": False,  # left-right, half of the training images; not for letters and digits
        }
    )
    return config


OPTIONS = Options(ddgan_config, "Denoising diffusion GAN", CHOICES, measures=defaults.MEASURES)


class _Model(NamedTuple):
    """Everything that the functions of the method need."""

    config: Any
    spec: DataSpec
    generator: Any
    discriminator: Any
    schedule: Schedule
    chain: denoising.Chain
    loss: losses.Loss
    penalty: Callable[..., tuple[Array, Scalars]]
    optimize_generator: optimizer.Optimizer
    optimize_discriminator: optimizer.Optimizer
    classes: tuple[str, ...]  # names, or ()

    def at(self, t: Array) -> Level:
        """The levels of times t i32 [B]."""
        return self.schedule.level(t)


class _Drawn(NamedTuple):
    """The random numbers of each example [B, ...] of an update."""

    t: Array
    z: Array
    eps_s: Array
    eps_t: Array


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns the denoising diffusion GAN as a method; see `configs/ddgan_mnist.py` for its config values.

    Raises:
      UserError: data that are not pictures, an unknown name, an invalid value, or labels that the data has not.
    """
    model = _assemble(config, spec)
    calls = config.gan.denoising_steps
    return Method(
        functools.partial(_init, model),
        functools.partial(_step, model),
        functools.partial(_sample, model),
        functools.partial(_evaluate, model),
        functools.partial(_show, model),
        condition=("label",) if model.classes else (),
        describe={"sampler": f"{counted(calls, 'step')} of the generator ({counted(calls, 'network call')})"},
    )


def _assemble(config: Any, spec: DataSpec) -> _Model:
    c = config.gan
    if spec.kind != "image":
        raise UserError(f"ddgan needs pictures; data set {spec.name} holds {spec.kind}")
    if c.latents < 1:
        raise UserError(f"config.gan.latents is {c.latents}; it must be at least 1")
    if c.mirror and spec.image_shape[1] == 1:
        raise UserError("config.gan.mirror has no effect on images that are one pixel wide: use false")
    require_choice("gan.loss", c.loss, losses.LOSSES)
    schedule = denoising.denoising_schedule(c.denoising_steps, c.beta_min, c.beta_max)
    num_classes = game.classes_of(spec, "config.gan.conditional") if c.conditional else 0
    given = {
        "out_channels": spec.image_shape[-1],
        "num_classes": num_classes,
        "num_times": c.denoising_steps,
        "dtype": jnp.dtype(config.compute_dtype),
    }
    generator, discriminator = modules_of(config.network, denoisers.NETWORKS, given)
    return _Model(
        config,
        spec,
        generator,
        discriminator,
        schedule,
        denoising.chain_of(schedule),
        losses.make(c.loss),
        chosen(CHOICES["gan.penalty"], c.penalty),
        optimizer.make(config.optimizer, config.num_steps, config.ema),
        optimizer.make(game.discriminator_optimizer(config), config.num_steps, 0.0),
        (spec.class_names or ()) if num_classes else (),
    )


def _init(model: _Model, key: Key, examples: Batch, frozen: PyTree) -> State:
    key_generator, key_discriminator = jax.random.split(stream(key, "init"))
    x, z, t = jnp.zeros((1, *model.spec.image_shape)), jnp.zeros((1, model.config.gan.latents)), jnp.zeros(1, jnp.int32)
    label = t if model.classes else None
    params = {
        "generator": model.generator.init(key_generator, x, z, model.at(t).time, label)["params"],
        "discriminator": model.discriminator.init(key_discriminator, x, x, t, label)["params"],
    }
    return State(
        step=jnp.zeros((), jnp.int32),
        key=key,
        params=params,
        variables={},
        opt_state={
            "generator": model.optimize_generator.init(params["generator"]),
            "discriminator": model.optimize_discriminator.init(params["discriminator"]),
        },
        ema={"generator": jax.tree.map(jnp.copy, params["generator"])},
        frozen=frozen,
    )


def _x0(model: _Model, params: PyTree, x_t: Array, z: Array, t: Array, label: Array | None) -> Array:
    """The generator's x0 of x_t [B, H, W, C] and z [B, Z]: f32 in [-1, 1]."""
    level = model.at(t)
    output = model.generator.apply({"params": params}, x_t, z, level.time, label)
    return jnp.tanh(broadcast_to_images(level.alpha, x_t) * x_t + output)


def _judged(model: _Model, params: PyTree, x_s: Array, x_t: Array, t: Array, label: Array | None) -> Array:
    """The discriminator's logits, f32 [B]."""
    return model.discriminator.apply({"params": params}, x_s, x_t, t, label)


def _drawn(model: _Model, key: Key, index: Array) -> _Drawn:
    shape, c = model.spec.image_shape, model.config.gan

    def one(key: Key) -> Any:
        key_t, key_z, *keys = jax.random.split(key, 4)
        eps = (jax.random.normal(each, shape) for each in keys)
        return _Drawn(jax.random.randint(key_t, (), 0, c.denoising_steps), jax.random.normal(key_z, (c.latents,)), *eps)

    found: Any = draw(key, index, one)
    return found


def _pairs(model: _Model, generator: PyTree, batch: Batch, drawn: _Drawn) -> tuple[Array, Array, Array]:
    """x_s of the data, x_s of the generator, and their common x_t."""
    x0 = to_model(batch["image"], model.spec.value_range)
    x_s, x_t = model.chain.pair(x0, drawn.t, drawn.eps_s, drawn.eps_t)
    x0_hat = _x0(model, generator, x_t, drawn.z, drawn.t, _label(model, batch))
    return x_s, model.chain.instead(x_s, x0, x0_hat, drawn.t), x_t


def _label(model: _Model, batch: Batch) -> Array | None:
    return batch["label"] if model.classes else None


def _step(model: _Model, state: State, batch: Batch) -> tuple[State, Scalars]:
    key = jax.random.fold_in(stream(state.key, "step"), state.step)
    key_discriminator, key_generator = jax.random.split(key)
    state, scalars = _train_discriminator(model, state, batch, key_discriminator)
    state, more = _train_generator(model, state, batch, key_generator)
    return state.replace(step=state.step + 1), scalars | more


def _in_training(model: _Model, batch: Batch, key: Key) -> tuple[Batch, _Drawn, Key]:
    """A batch, mirrored if the config says so, its random numbers, and a key for others."""
    key_drawn, key_mirror, key = jax.random.split(key, 3)
    if model.config.gan.mirror:
        batch = {**batch, "image": mirrored(batch["image"], key_mirror, batch["index"])}
    return batch, _drawn(model, key_drawn, batch["index"]), key


def _train_discriminator(model: _Model, state: State, batch: Batch, key: Key) -> tuple[State, Scalars]:
    def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, Scalars]:
        batch, drawn, key_between = _in_training(model, batch, key)
        real, fake, x_t = _pairs(model, state.params["generator"], batch, drawn)

        def logits(x_s: Array) -> Array:
            return _judged(model, params, x_s, x_t, drawn.t, _label(model, batch))

        real_logits, fake_logits = logits(real), logits(fake)
        loss = jnp.mean(model.loss.discriminator(real_logits, fake_logits))
        u = draw(key_between, batch["index"], jax.random.uniform)
        penalty, more = model.penalty(logits, real, fake, u, state.step)
        scores = {"real_score": real_logits, "fake_score": fake_logits}
        scores = {name: jnp.mean(model.loss.score(values)) for name, values in scores.items()}
        return loss + penalty, {"loss": loss + penalty, "discriminator_loss": loss} | more | scores

    params = state.params["discriminator"]
    scalars, grads = optimizer.value_and_grad(loss_fn, params, batch, model.config.accumulate)
    state, norms = model.optimize_discriminator.apply(state, "discriminator", grads)
    return state, scalars | {"discriminator_grad_norm": norms["grad_norm"]}


def _train_generator(model: _Model, state: State, batch: Batch, key: Key) -> tuple[State, Scalars]:
    """With times and noise of its own, as in the released code."""

    def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, Scalars]:
        batch, drawn, _ = _in_training(model, batch, key)
        real, fake, x_t = _pairs(model, params, batch, drawn)
        judged = functools.partial(_judged, model, state.params["discriminator"], x_t=x_t, t=drawn.t)
        logits = [judged(x_s=x_s, label=_label(model, batch)) for x_s in (real, fake)]  # most losses need one of them
        loss = jnp.mean(model.loss.generator(*logits))
        return loss, {"generator_loss": loss}

    scalars, grads = optimizer.value_and_grad(loss_fn, state.params["generator"], batch, model.config.accumulate)
    state, norms = model.optimize_generator.apply(state, "generator", grads)
    return state, scalars | norms


def _evaluate(model: _Model, state: State, batch: Batch, key: Key) -> Scalars:
    drawn, label = _drawn(model, key, batch["index"]), _label(model, batch)
    real, fake, x_t = _pairs(model, state.ema["generator"], batch, drawn)
    judged = functools.partial(_judged, model, state.params["discriminator"], x_t=x_t, t=drawn.t, label=label)
    real_logits, fake_logits = judged(x_s=real), judged(x_s=fake)
    return {
        "loss": model.loss.discriminator(real_logits, fake_logits),
        "real_score": model.loss.score(real_logits),
        "fake_score": model.loss.score(fake_logits),
    }


def _denoiser(model: _Model, state: State, keys: Array, label: Array | None) -> samplers.Denoiser:
    """x0 drawn by the averaged generator; z of each time belongs to the image's key."""
    num_steps, latents = model.schedule.num_steps, model.config.gan.latents

    def denoise(x_t: Array, level: Level) -> Array:
        t = jnp.round(level.time * num_steps / 1000).astype(jnp.int32)
        # The sampler itself folds 0 to num_steps into the keys.
        own = jax.vmap(jax.random.fold_in)(keys, num_steps + 1 + t)
        z = jax.vmap(lambda key: jax.random.normal(key, (latents,)))(own)
        return _x0(model, state.ema["generator"], x_t, z, t, label)

    return denoise


def _sample(model: _Model, state: State, keys: Array, condition: Condition) -> Array:
    denoise = _denoiser(model, state, keys, condition.get("label"))
    return sampled(denoise, model.schedule, keys, model.spec.image_shape)


def sampled(denoise: samplers.Denoiser, schedule: Schedule, keys: Array, shape: tuple[int, ...]) -> Array:
    """Returns images f32 [N, *shape], each step drawn from q(x_s | x_t, x0) with the generator's x0.

    Args:
      denoise: (x_t [N, *shape], level with leaves [N]) -> x0 drawn given x_t.
      schedule: of which every level is visited once.
      keys: one per image, [N].
      shape: of one image.
    """
    return samplers.sample(
        denoise, schedule, solvers.ancestral("small"), schedule.steps(schedule.num_steps), keys, shape
    )


def _show(model: _Model, state: State, key: Key, batch: Batch) -> dict[str, Picture]:
    schedule, shape, names = model.schedule, model.spec.image_shape, model.classes
    num_steps = schedule.num_steps
    keys, label = keys_of(key, jnp.arange(NUM_SHOWN)), jnp.arange(NUM_SHOWN) % len(names) if names else None
    x0 = to_model(batch["image"][:1], model.spec.value_range)[0]
    told = f"{counted(num_steps, 'step')}, each of which the generator draws"
    shown = {
        "forward": processes.forward(
            x0, jax.random.normal(key, shape), schedule, f"path of {counted(num_steps, 'step')}", lambda x: x
        ),
        **processes.reverse(
            _denoiser(model, state, keys, label), schedule, solvers.ancestral("small"), schedule.steps(num_steps), keys,
            shape, told, lambda x: x,
        ),
    }  # fmt: skip
    drawn = "The clean images that the generator draws along the way, each given the noisy image and a new latent."
    shown["x0_hat"] = shown["x0_hat"].replace(title="Clean images on the way", caption=drawn)
    if not names:
        return shown
    some = jax.random.key_data(keys_of(key, jnp.arange(NUM_OF_A_CLASS)))

    def image_of(data: Array, label: Array) -> Array:
        return _sample(model, state, jax.random.wrap_key_data(data, impl="threefry2x32"), {"label": label})

    classes = by_class(image_of, some, names)
    which = ", ".join(names[: len(classes.images) // NUM_OF_A_CLASS])
    return {
        "classes": classes.replace(caption=f"One row per class ({which}), the same noise and latents in each column.")
    } | shown

"""The two-player game of `gan` and `acgan`: discriminator updates, then one generator update per step.

Four choices on which sources differ:
- The generator update uses the z and labels of the last discriminator update. Its images are those that the
  discriminator has just seen, evaluated again after its update; XLA merges the two forward passes of the generator.
- Real and generated images pass through the discriminator separately, so batch normalisation uses separate statistics.
  The discriminator keeps the running averages of the real images, the generator those of its own update.
- An augmentation changes what the discriminator sees: real and generated images in the updates of both players. A
  gradient penalty is taken at the images that it sees. Evaluation has neither augmentation nor mirroring.
- Sampling and evaluation use the moving averages of the generator's weights and of its running averages.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_jax import optimizer, parallel
from gen_jax.config import chosen
from gen_jax.gan import augment, burn_in, constraints, losses, networks, pictures
from gen_jax.gan.defaults import CHOICES
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
    State,
    UserError,
    draw,
    mirrored,
    stream,
    to_model,
)

Terms = Callable[[Array, Array, Array | None], tuple[Array, Scalars]]
"""(output for real images, output for generated ones, label i32 [B] or None) -> (f32 [B], more values f32 [B])."""


class Objective(NamedTuple):
    """The losses of the two networks, as functions of the discriminator's outputs.

    Attributes:
      discriminator: its loss; the additional values are reported in training and evaluation.
      generator: its loss, likewise.
      logits: output -> f32 [B], the logits of being real, for gradient penalties.
      num_outputs: discriminator outputs per image.
      generator_classes: number of classes that condition the generator; 0: none.
      discriminator_classes: number of classes that condition the discriminator; 0: none.
    """

    discriminator: Terms
    generator: Terms
    logits: Callable[[Array], Array] = lambda output: output
    num_outputs: int = 1
    generator_classes: int = 0
    discriminator_classes: int = 0


def make(config: Any, spec: DataSpec, objective: Objective) -> Method:
    """Returns the game as a method.

    Args:
      config: see `configs/cgan_mnist.py`; `config.optimizer` belongs to the generator, and
        `config.discriminator_optimizer` holds the values that differ for the discriminator.
      spec: of the data; bytes, or floats that are scaled from `value_range` to [-1, 1].
      objective: see `Objective`.

    Raises:
      UserError: an unknown name, an invalid value, or incompatible values.
    """
    c = config.gan
    game, bound = _assemble(config, spec, objective), config.sample.truncation
    truncated_noise = game.noise if bound == 0 else functools.partial(_truncated, bound, c.latents)

    def step(state: State, batch: Batch) -> tuple[State, Scalars]:
        key = jax.random.fold_in(stream(state.key, "step"), state.step)
        batches = batch if c.critic_steps > 1 else jax.tree.map(lambda x: x[None], batch)  # [k, B, ...]
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(c.critic_steps))
        train_discriminator = functools.partial(_train_discriminator, game)
        state, scalars = parallel.loop(lambda state, xs: train_discriminator(state, *xs), state, (batches, keys))
        last = jax.tree.map(lambda x: x[-1], (batches, keys, scalars))
        state, more = _train_generator(game, state, *last[:2])
        return state.replace(step=state.step + 1), last[2] | more

    def sample(state: State, keys: Array, condition: Condition) -> Array:
        return _sampled(game, state, jax.vmap(truncated_noise)(keys), condition.get("label"))

    def show(state: State, key: Key, batch: Batch) -> dict[str, Picture]:
        image_of = functools.partial(_sampled, game, state)
        return pictures.show(image_of, key, c.latents, spec, objective.generator_classes)

    return Method(
        functools.partial(_init, game),
        step,
        sample,
        functools.partial(_evaluate, game),
        show,
        batches_per_step=c.critic_steps,
        gauges=functools.partial(_gauges, game),
        condition=("label",) if objective.generator_classes else (),
        describe={"truncation": f"latents within +-{bound:g}"} if bound else {},
    )


class _Game(NamedTuple):
    """Everything that both players need."""

    config: Any
    image_shape: tuple[int, int, int]
    generator: Any
    discriminator: Any
    objective: Objective
    constraint: constraints.Constraint
    penalty: Callable[..., tuple[Array, Scalars]]
    augment: augment.Augment
    burn_in: burn_in.BurnIn
    optimize_generator: optimizer.Optimizer
    optimize_discriminator: optimizer.Optimizer
    to_range: Callable[[Array], Array]  # of images in a batch to [-1, 1]
    add_noise: Callable[[Array, Array, Array, Key], Array]
    noise: Callable[[Key], Array]  # one z [Z]


def _assemble(config: Any, spec: DataSpec, objective: Objective) -> _Game:
    c = config.gan
    _check_numbers(c, config.sample.truncation)
    _refuse_what_nothing_reads(config, spec)
    _refuse_signs_that_tell_nothing(c)
    moving = chosen(CHOICES["gan.burn_in"], c.burn_in, steps=config.num_steps)
    generator, discriminator = networks.make(
        config.network, spec.image_shape, objective.generator_classes, objective.discriminator_classes,
        objective.num_outputs, jnp.dtype(config.compute_dtype),
    )  # fmt: skip
    _refuse_what_batch_norm_cannot(config, generator, discriminator)
    return _Game(
        config,
        spec.image_shape,
        generator,
        discriminator,
        objective,
        chosen(CHOICES["gan.constraint"], c.constraint),
        chosen(CHOICES["gan.penalty"], c.penalty),
        chosen(CHOICES["gan.augment"], c.augment),
        moving,
        optimizer.make(config.optimizer, config.num_steps, config.ema, moving.drift),
        optimizer.make(
            discriminator_optimizer(config, c.critic_steps), config.num_steps * c.critic_steps, 0.0, moving.drift
        ),
        functools.partial(to_model, value_range=spec.value_range),
        _instance_noise(c.instance_noise, c.instance_noise_steps),
        lambda key: jax.random.normal(key, (c.latents,)),
    )


def _init(game: _Game, key: Key, examples: Batch, frozen: PyTree) -> State:
    key_generator, key_discriminator, key_vectors = jax.random.split(stream(key, "init"), 3)
    x, label = jnp.zeros((2, *game.image_shape)), jnp.zeros(2, jnp.int32)
    made = game.generator.init(key_generator, jnp.zeros((2, game.config.gan.latents)), label)
    judge = game.discriminator.init(key_discriminator, x, label)
    params = {"generator": made.pop("params"), "discriminator": judge.pop("params")}
    vectors = game.constraint.init(key_vectors, params["discriminator"])
    variables = {"generator": made, "discriminator": judge, "vectors": vectors} | _kept(game.augment.init())
    return State(
        step=jnp.zeros((), jnp.int32),
        key=key,
        params=params,
        variables=variables,
        opt_state={
            "generator": game.optimize_generator.init(params["generator"]),
            "discriminator": game.optimize_discriminator.init(params["discriminator"]),
        },
        ema=jax.tree.map(jnp.copy, {"generator": params["generator"], "generator_variables": made}),
        frozen=frozen,
    )


def _generate(game: _Game, params: PyTree, variables: PyTree, z: Array, label: Array | None) -> tuple[Array, PyTree]:
    """Images in training, and the updated running averages."""
    return game.generator.apply({"params": params, **variables}, z, label, train=True, mutable=["batch_stats"])


def _discriminate(game: _Game, weights: PyTree, state: State, x: Array, batch: Batch, key: Key) -> tuple[Array, PyTree]:
    """The discriminator's output in training, and its updated running averages."""
    key_noise, key_dropout, key_activations = jax.random.split(key, 3)
    return game.discriminator.apply(
        {"params": weights, **state.variables["discriminator"]},
        game.add_noise(x, state.step, batch["index"], key_noise),
        batch.get("label"),
        batch["index"],
        train=True,
        rngs={"dropout": key_dropout, "noise": key_activations},
        mutable=["batch_stats"],
    )


def _pair(game: _Game, state: State, batch: Batch, fake: Array, key: Key, judging: bool) -> tuple[Array, Array]:
    """Real images and the generated ones as the discriminator sees them; `key` is that of the step.

    The real ones are the same in both updates, the generated ones are changed anew in the generator's.
    """
    index = batch["index"]
    image = mirrored(batch["image"], jax.random.fold_in(key, 6), index) if game.config.gan.mirror else batch["image"]
    keys = (jax.random.fold_in(key, 7), jax.random.fold_in(key, 8 if judging else 9))
    change, strength = game.augment.change, _strength(game, state)
    real, fake = (change(x, strength, index, k) for x, k in zip((game.to_range(image), fake), keys, strict=True))
    return real, fake


def _kept(of_augment: PyTree) -> dict[str, PyTree]:
    """What an augmentation keeps, as a part of the variables; of a constant strength nothing, as in older runs."""
    return {"augment": of_augment} if of_augment else {}


def _strength(game: _Game, state: State) -> Array:
    """The probability of a change by the augmentation: f32 []."""
    return jnp.float32(game.augment.strength(state.variables.get("augment", {})) * game.burn_in.done(state.step))


def _train_discriminator(game: _Game, state: State, batch: Batch, key: Key) -> tuple[State, Scalars]:
    key_z, key_real, key_fake, key_between, key_penalty, _ = jax.random.split(key, 6)
    vectors = game.constraint.advance(state.params["discriminator"], state.variables["vectors"])

    def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, PyTree]:
        z = draw(key_z, batch["index"], game.noise)
        fake, _ = _generate(game, state.params["generator"], state.variables["generator"], z, batch.get("label"))
        real, fake = _pair(game, state, batch, fake, key, judging=True)
        weights = game.constraint.weights(params, vectors)
        real_output, variables = _discriminate(game, weights, state, real, batch, key_real)
        fake_output, _ = _discriminate(game, weights, state, fake, batch, key_fake)
        losses, values = game.objective.discriminator(real_output, fake_output, batch.get("label"))

        def logits(x: Array) -> Array:
            return game.objective.logits(_discriminate(game, weights, state, x, batch, key_penalty)[0])

        u = draw(key_between, batch["index"], jax.random.uniform)
        steep, more = game.penalty(logits, real, fake, u, state.step)
        loss = jnp.mean(losses) + game.burn_in.penalty(state.step) * steep
        scalars = {"loss": loss, "discriminator_loss": jnp.mean(losses)} | more
        sign = jnp.mean(jnp.sign(game.objective.logits(real_output)))
        return loss, (scalars | jax.tree.map(jnp.mean, values), variables, sign)

    params = state.params["discriminator"]
    (scalars, variables, sign), grads = optimizer.value_and_grad(loss_fn, params, batch, game.config.accumulate)
    state, norms = game.optimize_discriminator.apply(state, "discriminator", grads)
    bounded = game.constraint.project(state.params["discriminator"])
    sign = parallel.mean_over_devices(sign)
    kept = game.augment.advance(state.variables.get("augment", {}), sign, game.config.batch_size)
    state = state.replace(
        params=state.params | {"discriminator": bounded},
        variables=state.variables | {"discriminator": variables, "vectors": vectors} | _kept(kept),
    )
    adapted = {"real_sign": sign} if kept else {}
    return state, scalars | {"discriminator_grad_norm": norms["grad_norm"]} | adapted


def _train_generator(game: _Game, state: State, batch: Batch, key: Key) -> tuple[State, Scalars]:
    key_z, key_real, *_, key_judge = jax.random.split(key, 6)
    weights = game.constraint.weights(state.params["discriminator"], state.variables["vectors"])

    def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, PyTree]:
        z = draw(key_z, batch["index"], game.noise)
        fake, variables = _generate(game, params, state.variables["generator"], z, batch.get("label"))
        real, fake = _pair(game, state, batch, fake, key, judging=False)
        fake_output, _ = _discriminate(game, weights, state, fake, batch, key_judge)
        # If a loss does not use real images, XLA removes this pass.
        real_output, _ = _discriminate(game, weights, state, real, batch, key_real)
        losses, values = game.objective.generator(real_output, fake_output, batch.get("label"))
        loss = jnp.mean(losses)
        return loss, ({"generator_loss": loss} | jax.tree.map(jnp.mean, values), variables)

    params, ema = state.params["generator"], game.burn_in.drift.ema(game.config.ema, state.step)
    (scalars, variables), grads = optimizer.value_and_grad(loss_fn, params, batch, game.config.accumulate)
    state, norms = game.optimize_generator.apply(state, "generator", grads)
    average = optimizer.moving_average(state.ema["generator_variables"], variables, state.step, ema)
    state = state.replace(
        variables=state.variables | {"generator": variables}, ema=state.ema | {"generator_variables": average}
    )
    return state, scalars | norms


def _sampled(game: _Game, state: State, z: Array, label: Array | None) -> Array:
    """Images of the moving average: f32 [N, H, W, C]."""
    return game.generator.apply({"params": state.ema["generator"], **state.ema["generator_variables"]}, z, label)


def _truncated(bound: float, latents: int, key: Key) -> Array:
    """z [Z] from a normal distribution without what is beyond +-bound (Brock et al. 2019)."""
    return jax.random.truncated_normal(key, -bound, bound, (latents,))


def _evaluate(game: _Game, state: State, batch: Batch, key: Key) -> Scalars:
    label = batch.get("label")
    fake = _sampled(game, state, draw(key, batch["index"], game.noise), label)
    weights = game.constraint.weights(state.params["discriminator"], state.variables["vectors"])

    def judged(x: Array) -> Array:
        return game.discriminator.apply({"params": weights, **state.variables["discriminator"]}, x, label)

    losses, values = game.objective.discriminator(judged(game.to_range(batch["image"])), judged(fake), label)
    return {"loss": losses} | values


def _gauges(game: _Game, state: State) -> Scalars:
    """The strength of an augmentation, and the spectral norms of both players' kernels in use."""
    weights = {
        "generator": state.params["generator"],
        "discriminator": game.constraint.weights(state.params["discriminator"], state.variables["vectors"]),
    }
    augmented = {} if game.config.gan.augment.name == "none" else {"augment_strength": _strength(game, state)}
    return augmented | {
        f"{player}_spectral_norm/{name.removesuffix('/kernel')}": norm
        for player, params in weights.items()
        for name, norm in constraints.spectral_norms(params).items()
    }


def classes_of(spec: DataSpec, asker: str) -> int:
    """Returns the number of classes of the data.

    Args:
      spec: of the data.
      asker: the name of what needs labels, for the error message.

    Raises:
      UserError: the data has no labels, or only one class.

    Example:
      >>> from gen_jax.method import labelled
      >>> classes_of(DataSpec("made_up", (8, 8, 1), 64, labelled(["cat", "dog"])), "acgan")
      2
    """
    if spec.num_classes is None:
        raise UserError(f"{asker} needs labels, and data set {spec.name} has none")
    if spec.num_classes < 2:
        raise UserError(f"{asker} needs at least two classes, and data set {spec.name} has {spec.num_classes}")
    return spec.num_classes


def _check_numbers(c: Any, truncation: float) -> None:
    if truncation < 0:
        raise UserError(f"config.sample.truncation is {truncation}; use a bound above 0, or 0 for none")
    for name in ("latents", "critic_steps"):
        if c[name] < 1:
            raise UserError(f"config.gan.{name} is {c[name]}; it must be at least 1")
    for name in ("instance_noise", "instance_noise_steps"):
        if c[name] < 0:
            raise UserError(f"config.gan.{name} is {c[name]}; it must not be negative")


def _refuse_what_nothing_reads(config: Any, spec: DataSpec) -> None:
    c = config.gan
    if spec.kind != "image" and (c.mirror or c.augment.name != "none"):
        which = "config.gan.mirror is true" if c.mirror else f"config.gan.augment is {c.augment.name}"
        raise UserError(f"{which}, but data set {spec.name} has no pictures: leave it out")
    if c.mirror and spec.image_shape[1] == 1:
        raise UserError("config.gan.mirror has no effect on images that are one pixel wide: use false")
    if c.burn_in.name == "none":
        return
    if "b2" not in config.optimizer:
        raise UserError(
            f"config.gan.burn_in is {c.burn_in.name}, which moves b2, but optimizer {config.optimizer.name} has none: "
            "use adam, adamw, muon or rmsprop"
        )
    if c.penalty.name == "none" and c.burn_in.penalty != 1:
        raise UserError(
            f"config.gan.burn_in.penalty is {c.burn_in.penalty}, but there is no penalty to weaken: set "
            "config.gan.penalty, or use config.gan.burn_in.penalty=1"
        )


def _refuse_signs_that_tell_nothing(c: Any) -> None:
    if c.augment.name == "adaptive" and c.loss not in losses.CENTRED:
        raise UserError(
            f"config.gan.augment is adaptive, which goes by the signs of logits, but with the {c.loss} loss these do "
            "not tell real from generated: use diff_augment, which a burn-in can raise from 0, or one of the losses "
            f"{', '.join(losses.CENTRED)}"
        )


def _refuse_what_batch_norm_cannot(config: Any, generator: Any, discriminator: Any) -> None:
    normed = getattr(discriminator, "norm", "none") == "batch"
    compared = getattr(discriminator, "minibatch_std", False)
    if compared and (config.gan.penalty.name != "none" or config.accumulate > 1):
        other = (
            f"config.accumulate is {config.accumulate}"
            if config.accumulate > 1
            else (f"config.gan.penalty is {config.gan.penalty.name}")
        )
        raise UserError(
            f"config.network.minibatch_std is true, so that a logit depends on the whole batch, but {other}: use "
            "minibatch_std=false, or neither penalty nor accumulation"
        )
    if normed and config.gan.penalty.name != "none":
        raise UserError(
            f"config.gan.penalty is {config.gan.penalty.name}, which penalises the gradient of one image's logit; with "
            "batch normalisation a logit depends on the whole batch: use config.network.norm=none, or rms"
        )
    if config.accumulate > 1 and (normed or getattr(generator, "generator_norm", "none") == "batch"):
        raise UserError(
            f"config.accumulate is {config.accumulate}; batch normalisation would see minibatches, not the batch: "
            "use config.accumulate=1, or another norm and generator_norm in config.network"
        )
    if config.accumulate > 1 and config.gan.critic_steps > 1:
        raise UserError(
            f"config.accumulate is {config.accumulate}; gradient accumulation does not work with "
            "config.gan.critic_steps above 1: use config.accumulate=1"
        )


def _instance_noise(std: float, fade_steps: int) -> Callable[[Array, Array, Array, Key], Array]:
    """Noise on the discriminator's inputs (Sonderby et al. 2017): (x, step, index, key) -> x.

    Its standard deviation decays linearly from `std` to 0 in `fade_steps` steps, or is constant if `fade_steps` is 0.
    """
    if not std:
        return lambda x, step, index, key: x

    def add(x: Array, step: Array, index: Array, key: Key) -> Array:
        share = jnp.maximum(0.0, 1 - step / fade_steps) if fade_steps else 1.0
        return x + std * share * draw(key, index, lambda k: jax.random.normal(k, x.shape[1:]))

    return add


def discriminator_optimizer(config: Any, updates: int = 1) -> Any:
    """Returns `config.optimizer` with the changes in `config.discriminator_optimizer`.

    Args:
      config: of the run.
      updates: of the discriminator per step.

    Raises:
      UserError: its learning rate is negative.
    """
    values = {**config.optimizer, **config.discriminator_optimizer}
    if values["learning_rate"] < 0:
        raise UserError(f"config.discriminator_optimizer.learning_rate is {values['learning_rate']}; use 0 or more")
    values["warmup_steps"] *= updates
    return ConfigDict(values)

"""SRGAN (Ledig et al. 2017): the generator of a trained SRResNet, trained further against a discriminator.

Its loss is a content loss plus a small weight times the adversarial one. The generator starts from the first stage,
whose weights stay in State.frozen: the page shows both side by side. Each step updates the discriminator, then the
generator, with the same pictures. As in `gan.game`, true and made pictures pass through the discriminator separately,
and it keeps the running averages of the true ones.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_jax import optimizer
from gen_jax.config import Choice, Config, Measure, Options, require_choice
from gen_jax.gan import losses, networks
from gen_jax.gan.convolutional import ConvDiscriminator
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
    Upscale,
    UserError,
    stream,
)
from gen_jax.superres import content, upscaling
from gen_jax.superres.srresnet import srresnet_config
from gen_jax.superres.upscaling import Parts

DISCRIMINATORS = {"conv": (ConvDiscriminator,)}
_PUBLISHED = {  # Ledig et al. 2017, figure 4
    "channels": (64, 64, 128, 128, 256, 256, 512, 512),
    "strides": (1, 2, 1, 2, 1, 2, 1, 2),
    "kernel": 3,
    "hidden": (1024,),
    "conv_bias": True,
}
_NOT_HERE = ("num_classes", "num_outputs", "condition", "embedding_dim", "minibatch_std", "activation_noise", "dropout",
             "dtype")  # fmt: skip
CHOICES = {
    "network": Choice(DISCRIMINATORS, _NOT_HERE, defaults=_PUBLISHED),
    "superres.content": content.CHOICE,
}


def srgan_config() -> Config:
    """Returns the defaults: SRResNet first, then the game of the paper on the features of a random network.

    Example:
      >>> config = srgan_config()
      >>> config.superres.adversarial, config.superres.content.name, config.pretrained.method
      (0.001, 'features', 'srresnet')
    """
    config = upscaling.superres_config("srgan")
    config.network = ConfigDict(CHOICES["network"].start("conv"))  # of the discriminator
    config.discriminator_optimizer = ConfigDict({"learning_rate": 1e-4})  # the rest as in optimizer
    config.superres.content = ConfigDict(content.CHOICE.start("features"))
    config.superres.adversarial = 1e-3  # weight of the adversarial loss beside the content loss
    config.superres.loss = "non_saturating"  # or another of LOSSES
    config.pretrained = srresnet_config()
    return config


OPTIONS = Options(
    srgan_config,
    "SRGAN",
    CHOICES,
    measures={
        "real_score": Measure("score of true pictures", chart="scores of true pictures and of those made"),
        "fake_score": Measure("score of pictures made", chart="scores of true pictures and of those made"),
        "grad_norm": Measure("gradient norm of the generator", chart="gradient norms of both players"),
        "discriminator_grad_norm": Measure(
            "gradient norm of the discriminator", chart="gradient norms of both players"
        ),
    }
    | upscaling.MEASURES,
)


class _Game(NamedTuple):
    """Everything that both players need."""

    parts: Parts
    discriminator: ConvDiscriminator
    loss: losses.Loss
    weight: float  # of the adversarial loss
    optimize: optimizer.Optimizer  # of the discriminator


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns SRGAN as a method; see `configs/srgan_t91.py` for its config values.

    Raises:
      UserError: no first stage, or another than SRResNet; an invalid value; data without smaller copies of pictures.
    """
    game = _assemble(config, spec, stage)
    parts = game.parts

    def made(state: State, small: Array) -> Array:
        return upscaling.sampled(parts, state.ema, small)

    def sample(state: State, keys: Array, condition: Condition) -> Array:
        return made(state, condition["small"])

    def pictures(state: State, key: Key, batch: Batch) -> dict[str, Picture]:
        before = upscaling.sampled(parts, state.frozen, batch["small"])
        return upscaling.figure(
            parts.spec, parts.factor, batch, {"SRResNet": before, "SRGAN": made(state, batch["small"])}
        )

    return Method(
        functools.partial(_init, game),
        functools.partial(_step, game),
        sample,
        functools.partial(_evaluate, game),
        pictures,
        condition=("small",),
        num_pictured=upscaling.NUM_PICTURED,
        upscale=Upscale(parts.factor, parts.generator.reach, made),
        describe={"content": f"trained on {parts.content.words}, adversarial weight {game.weight:g}"},
    )


def _assemble(config: Any, spec: DataSpec, stage: Stage | None) -> _Game:
    if stage is None:
        raise UserError("config.pretrained is empty: srgan needs an SRResNet, as a run's directory or a config")
    if stage.config.method != "srresnet":
        raise UserError(
            f"config.pretrained names a {stage.config.method}; srgan needs an srresnet, whose training it continues"
        )
    parts = upscaling.assemble(config, spec, stage.config.network)
    c = config.superres
    if c.adversarial <= 0:
        raise UserError(f"config.superres.adversarial is {c.adversarial}; it must be above 0: srresnet trains without")
    require_choice("superres.loss", c.loss, losses.LOSSES)
    networks.check(config.network)
    discriminator = ConvDiscriminator(
        **{key: value for key, value in config.network.items() if key != "name"}, dtype=jnp.dtype(config.compute_dtype)
    )
    upscaling.refuse_batch_norm_in_pieces(config, discriminator.norm)
    values: Any = {**config.optimizer, **config.discriminator_optimizer}
    if values["learning_rate"] < 0:
        raise UserError(f"config.discriminator_optimizer.learning_rate is {values['learning_rate']}; use 0 or more")
    optimize = optimizer.make(ConfigDict(values), config.num_steps, 0.0)
    return _Game(parts, discriminator, losses.make(c.loss), c.adversarial, optimize)


def _init(game: _Game, key: Key, examples: Batch, frozen: PyTree) -> State:
    parts = game.parts
    _, variables = upscaling.init(parts, key, examples)
    judge = game.discriminator.init(jax.random.fold_in(stream(key, "init"), 1), jnp.zeros((2, *parts.spec.image_shape)))
    params = {"generator": frozen["generator"], "discriminator": judge.pop("params")}
    return State(
        step=jnp.zeros((), jnp.int32),
        key=key,
        params=jax.tree.map(jnp.copy, params),
        variables={
            "generator": jax.tree.map(jnp.copy, frozen["generator_variables"]),
            "discriminator": judge,
            "content": variables["content"],
        },
        opt_state={
            "generator": parts.optimize.init(params["generator"]),
            "discriminator": game.optimize.init(params["discriminator"]),
        },
        ema=jax.tree.map(jnp.copy, frozen),
        frozen=frozen,
    )


def _judged(game: _Game, params: PyTree, variables: PyTree, x: Array) -> tuple[Array, PyTree]:
    """The discriminator's logits in training, f32 [B], and its updated running averages."""
    return game.discriminator.apply({"params": params, **variables}, x, train=True, mutable=["batch_stats"])


def _step(game: _Game, state: State, batch: Batch) -> tuple[State, Scalars]:
    state, judged = _train_discriminator(game, state, batch)
    state, made = _train_generator(game, state, batch)
    return state.replace(step=state.step + 1), judged | made


def _train_discriminator(game: _Game, state: State, batch: Batch) -> tuple[State, Scalars]:
    parts = game.parts

    def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, PyTree]:
        fake, _ = upscaling.generate(parts, state.params["generator"], state.variables["generator"], batch["small"])
        before = state.variables["discriminator"]
        real_logits, variables = _judged(game, params, before, upscaling.truth_of(parts, batch))
        fake_logits, _ = _judged(game, params, before, fake)
        loss = jnp.mean(game.loss.discriminator(real_logits, fake_logits))
        scores = {"real_score": game.loss.score(real_logits), "fake_score": game.loss.score(fake_logits)}
        return loss, ({"discriminator_loss": loss} | jax.tree.map(jnp.mean, scores), variables)

    params = state.params["discriminator"]
    (scalars, variables), grads = optimizer.value_and_grad(loss_fn, params, batch, parts.config.accumulate)
    state, norms = game.optimize.apply(state, "discriminator", grads)
    state = state.replace(variables=state.variables | {"discriminator": variables})
    return state, scalars | {"discriminator_grad_norm": norms["grad_norm"]}


def _train_generator(game: _Game, state: State, batch: Batch) -> tuple[State, Scalars]:
    parts = game.parts

    def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, PyTree]:
        made, variables = upscaling.generate(parts, params, state.variables["generator"], batch["small"])
        x, judge = upscaling.truth_of(parts, batch), (state.params["discriminator"], state.variables["discriminator"])
        likeness = jnp.mean(parts.content.loss(state.variables["content"], x, made))
        fake_logits, _ = _judged(game, *judge, made)
        real_logits, _ = _judged(game, *judge, x)  # if the loss does not use it, XLA removes this pass
        adversarial = jnp.mean(game.loss.generator(real_logits, fake_logits))
        loss = likeness + game.weight * adversarial
        return loss, ({"loss": loss, "content": likeness, "generator_loss": adversarial}, variables)

    params = state.params["generator"]
    (scalars, variables), grads = optimizer.value_and_grad(loss_fn, params, batch, parts.config.accumulate)
    state, norms = upscaling.update(parts, state, grads, variables)
    return state, scalars | norms


def _evaluate(game: _Game, state: State, batch: Batch, key: Key) -> Scalars:
    parts = game.parts
    made = upscaling.sampled(parts, state.ema, batch["small"])

    def judged(x: Array) -> Array:
        variables = state.variables["discriminator"]
        return game.discriminator.apply({"params": state.params["discriminator"], **variables}, x)  # pyright: ignore[reportReturnType]

    real_logits, fake_logits = judged(upscaling.truth_of(parts, batch)), judged(made)
    found = upscaling.evaluate(parts, state, batch, made)
    loss = found["content"] + game.weight * game.loss.generator(real_logits, fake_logits)
    scores = {"real_score": game.loss.score(real_logits), "fake_score": game.loss.score(fake_logits)}
    return {"loss": loss} | found | scores

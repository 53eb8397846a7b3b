"""StackGAN (Zhang et al. 2017): pictures from texts in two stages, with discriminators that also see wrong texts.

The first stage makes small pictures of noise and a text, the second, on the frozen first one, larger pictures of these
and the text. A discriminator sees real pictures with their texts, real pictures with wrong texts, and generated ones.
The wrong text is that of the example before in the batch; where that is the same text, the generated picture counts in
its place.

With `stackgan.reading_weight` above 0, the discriminator also learns to read from a real picture what its captions say
together, as an embedding, and the generator, to make pictures of which the right one is read: the auxiliary task of
AC-GAN (Odena et al. 2017), with embeddings in place of classes. A wrong text is almost always wrong about the easiest
thing, such as a place, so telling it from the right one takes no more than that; reading takes everything.

Departures from the released code: conditioning augmentation is linear (see `Augment`); a frozen first stage uses its
averaged weights and running statistics; the mean over the captions of a picture is not taken, one is drawn. With
`network.residual` the second stage adds to the enlarged small picture instead of making a new one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_jax import optimizer, parallel
from gen_jax.config import Choice, Config, Measure, Options, base_config, chosen, modules_of, require_choice
from gen_jax.gan import pictures
from gen_jax.gan.defaults import MEASURES
from gen_jax.gan.game import discriminator_optimizer
from gen_jax.gan.layers import NORMS
from gen_jax.gan.losses import softplus
from gen_jax.gan.penalties import PENALTIES
from gen_jax.gan.text_networks import NETWORKS, Verdict, scaled
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
    draw,
    keys_of,
    stream,
    to_model,
    to_pixels,
)
from gen_jax.nn.gaussian import Gaussian, kl_to_standard_normal
from gen_jax.nn.upsampling import UPSAMPLINGS
from gen_jax.text.texts import FEATURE, TEXT

NUM_SHOWN, NUM_TRIES = 6, 6
CHOICES = {
    "network": Choice(NETWORKS, ("image_shape", "dtype", "reads")),
    "data.text": TEXT,
    "stackgan.penalty": Choice(PENALTIES),
}


def stackgan_config() -> Config:
    """Returns `base_config` with the additional values of StackGAN, and its optimizer.

    Example:
      >>> stackgan_config().stackgan.kl_weight
      2.0
    """
    config = base_config()
    config.method = "stackgan"
    config.pretrained = ""  # the directory of the run that is the first stage; "": this is the first
    config.network = ConfigDict(CHOICES["network"].start("first"))
    config.data.text = ConfigDict(TEXT.start("char_cnn_rnn"))
    config.optimizer.b1 = 0.5
    config.optimizer.clip_norm = 0.0
    config.discriminator_optimizer = ConfigDict({"learning_rate": 2e-4})  # the rest as in optimizer
    config.stackgan = ConfigDict(
        {
            "latents": 100,
            "kl_weight": 2.0,  # of KL(conditions || standard normal), a mean over their dimensions
            "penalty": {"name": "none"},  # on the discriminator's gradient; or wgan_gp, r1, r2, r1_r2 with their weight
            "reading_weight": 0.0,  # of the error of the embeddings that the discriminator reads; 0: as published
        }
    )
    config.sample.text_noise = 1.0  # standard deviations of conditioning noise; 0: one text always gives one condition
    return config


OPTIONS = Options(
    stackgan_config,
    "StackGAN",
    CHOICES,
    measures={
        **{name: MEASURES[name] for name in ("real_score", "fake_score", "grad_norm", "discriminator_grad_norm")},
        "wrong_score": Measure("score of real images with wrong texts", chart=MEASURES["real_score"].chart),
        "kl": Measure("KL of the conditions, per dimension", "nats"),
        **{
            f"{whose}_reading_error": Measure(f"error of texts read from {whose} images", chart="Error of texts read")
            for whose in ("real", "fake")
        },
    },
    same_images=False,
)


class _Model(NamedTuple):
    """Everything that the functions of the method need."""

    config: Any
    spec: DataSpec
    generator: Any
    discriminator: Any
    stage: Stage | None
    optimize_generator: optimizer.Optimizer
    optimize_discriminator: optimizer.Optimizer
    penalty: Callable[..., tuple[Array, Scalars]]


class _Noise(NamedTuple):
    """Of each example."""

    z: Array  # f32 [B, Z]
    eps: Array  # f32 [B, D'], of the condition
    small: Array  # keys [B], of the first stage


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns one stage as a method; see `configs/stackgan_shapes.py` for its config values.

    Raises:
      UserError: data without texts, a second stage without a first one or the other way round, a first stage that is
        none for these data, gradient accumulation with batch normalisation, a value out of its range.
    """
    _check(config, spec, stage)
    generator, discriminator = modules_of(
        config.network, NETWORKS,
        {
            "image_shape": spec.image_shape, "dtype": jnp.dtype(config.compute_dtype),
            "reads": spec.features[FEATURE].given[-1] if config.stackgan.reading_weight else 0,
        },
    )  # fmt: skip
    model = _Model(
        config, spec, generator, discriminator, stage,
        optimizer.make(config.optimizer, config.num_steps, config.ema),
        optimizer.make(discriminator_optimizer(config), config.num_steps, 0.0),
        chosen(CHOICES["stackgan.penalty"], config.stackgan.penalty),
    )  # fmt: skip
    amount = config.sample.text_noise
    return Method(
        functools.partial(_init, model),
        functools.partial(_step, model),
        functools.partial(_sample, model),
        functools.partial(_evaluate, model),
        functools.partial(_show, model),
        condition=(FEATURE,),
        describe={"text noise": f"conditioning noise times {amount:g}" if amount else "no conditioning noise"},
    )


def _init(model: _Model, key: Key, examples: Batch, frozen: PyTree) -> State:
    key_generator, key_discriminator = jax.random.split(stream(key, "init"))
    text, c = jnp.zeros((2, model.spec.features[FEATURE].given[-1])), jnp.zeros((2, model.config.network.condition_dim))
    small = None if model.stage is None else jnp.zeros((2, *model.stage.spec.image_shape))
    made = model.generator.init(key_generator, jnp.zeros((2, model.config.stackgan.latents)), text, c, small)
    judge = model.discriminator.init(key_discriminator, jnp.zeros((2, *model.spec.image_shape)), c)
    params = {"generator": made.pop("params"), "discriminator": judge.pop("params")}
    return State(
        step=jnp.zeros((), jnp.int32),
        key=key,
        params=params,
        variables={"generator": made, "discriminator": judge},
        opt_state={
            "generator": model.optimize_generator.init(params["generator"]),
            "discriminator": model.optimize_discriminator.init(params["discriminator"]),
        },
        ema=jax.tree.map(jnp.copy, {"generator": params["generator"], "generator_variables": made}),
        frozen=frozen,
    )


def _noise(model: _Model, keys: Array) -> _Noise:
    """The noise of each example, from one key for each."""
    c = model.config

    def of(key: Key) -> tuple[Array, Array, Key]:
        key_z, key_eps, key_small = jax.random.split(key, 3)
        normal = jax.random.normal
        return normal(key_z, (c.stackgan.latents,)), normal(key_eps, (c.network.condition_dim,)), key_small

    return _Noise(*jax.vmap(of)(keys))


def _small(model: _Model, state: State, noise: _Noise, text: Array) -> Array | None:
    """The pictures of the frozen first stage, f32 [B, h, w, C]."""
    if model.stage is None:
        return None
    made = model.stage.method.sample(Stage.state(state.frozen), noise.small, {FEATURE: text})
    return jax.lax.stop_gradient(made)


def _generate(
    model: _Model, params: PyTree, state: State, batch: Batch, noise: _Noise
) -> tuple[tuple[Array, Array, Array], PyTree]:
    """Pictures in training, with mean and log variance of their conditions; and the updated running averages."""
    small = _small(model, state, noise, batch[FEATURE])
    return model.generator.apply(
        {"params": params, **state.variables["generator"]}, noise.z, batch[FEATURE], noise.eps, small, train=True,
        mutable=["batch_stats"],
    )  # fmt: skip


def _condition_of(params: PyTree, text: Array) -> Array:
    """The mean of the condition of a text, which the discriminator is told; its gradient trains no generator."""
    dense = jax.tree.map(jax.lax.stop_gradient, params["augment"]["dense"])
    return jnp.split(scaled(text) @ dense["kernel"] + dense["bias"], 2, axis=-1)[0]


def _judge(model: _Model, params: PyTree, state: State, x: Array, c: Array) -> tuple[Verdict, PyTree]:
    """What the discriminator says in training, and its updated running averages."""
    variables = {"params": params, **state.variables["discriminator"]}
    return model.discriminator.apply(variables, x, c, train=True, mutable=["batch_stats"])


def discriminator_loss(real: Array, wrong: Array, fake: Array) -> Array:
    """Returns the loss of a discriminator that tells matching real pictures from all others: f32 [B], nats.

    Args:
      real: logits of real pictures with their texts, [B].
      wrong: logits of real pictures with wrong texts, [B].
      fake: logits of generated pictures with their texts, [B].

    Example:
      >>> round(float(discriminator_loss(0.8, 0.2, -0.4)), 4)  # softplus(-0.8) + (softplus(0.2) + softplus(-0.4)) / 2
      1.0267
    """
    return softplus(-real) + (softplus(wrong) + softplus(fake)) / 2


def divergence(mean: Array, log_var: Array) -> Array:
    """Returns KL(N(mean, e^log_var) || N(0, 1)), averaged over dimensions: f32 [B], nats.

    Example:
      >>> float(divergence(jnp.array([[1.0, 2.0]]), jnp.zeros((1, 2)))[0])  # (1 / 2 + 4 / 2) / 2
      1.25
    """
    return jnp.mean(kl_to_standard_normal(Gaussian(mean, log_var)), axis=-1)


def together(every: Array) -> Array:
    """Returns what all captions of a picture say together, f32 [..., D], of their embeddings [..., K, D].

    Example:
      >>> together(jnp.array([[2.0, 0.0], [0.0, 5.0]])).round(4).tolist()
      [1.0, 1.0]
    """
    return scaled(jnp.mean(scaled(every), axis=-2))


def _reading_errors(right: Array, **verdicts: Verdict) -> dict[str, Array]:
    """The mean squared errors of the embeddings that were read, f32 [B] by their names, if the discriminator reads.

    Args:
      right: what should be read, f32 [B, D].
      **verdicts: by whose pictures they are of.
    """
    return {
        f"{whose}_reading_error": jnp.mean(jnp.square(verdict.reading - right), axis=-1)
        for whose, verdict in verdicts.items()
        if verdict.reading is not None
    }


def _told(model: _Model, batch: Batch, key: Key) -> Batch:
    """A batch with one caption of each picture, as `text` f32 [B, D], a wrong one, `wrong`, and all, `together`."""
    lead = int(model.config.accumulate > 1)
    index, every = batch["index"], batch[FEATURE]  # [B, K, D], or with another axis in front
    number = draw(key, index.ravel(), lambda k: jax.random.randint(k, (), 0, every.shape[-2])).reshape(index.shape)
    text = jnp.take_along_axis(every, number[..., None, None], axis=-2)[..., 0, :]
    return {**batch, FEATURE: text, "wrong": parallel.previous_rows(text, lead), "together": together(every)}


def _step(model: _Model, state: State, batch: Batch) -> tuple[State, Scalars]:
    key = jax.random.fold_in(stream(state.key, "step"), state.step)
    key_text, key_noise = jax.random.split(key)
    key_between = jax.random.fold_in(key, 1)  # a third key of the split would change the others
    batch = _told(model, batch, key_text)

    def real_of(batch: Batch) -> Array:
        return to_model(batch["image"], model.spec.value_range)

    def of_discriminator(params: PyTree, batch: Batch) -> tuple[Array, PyTree]:
        made = state.params["generator"]
        (fake, _, _), _ = _generate(model, made, state, batch, _noise(model, keys_of(key_noise, batch["index"])))
        told, other = _condition_of(made, batch[FEATURE]), _condition_of(made, batch["wrong"])
        # The features of real pictures are computed once: XLA merges the two passes.
        real, variables = _judge(model, params, state, real_of(batch), told)
        wrong, _ = _judge(model, params, state, real_of(batch), other)
        fakes, _ = _judge(model, params, state, fake, told)
        not_right = jnp.where(jnp.any(batch["wrong"] != batch[FEATURE], axis=-1), wrong.logits, fakes.logits)
        loss = jnp.mean(discriminator_loss(real.logits, not_right, fakes.logits))
        scores = {"real_score": real.logits, "wrong_score": not_right, "fake_score": fakes.logits}
        scores = {name: jnp.mean(jax.nn.sigmoid(logits)) for name, logits in scores.items()}
        errors = jax.tree.map(jnp.mean, _reading_errors(batch["together"], real=real))
        u = draw(key_between, batch["index"], jax.random.uniform)
        steep, more = model.penalty(
            lambda x: _judge(model, params, state, x, told)[0].logits, real_of(batch), fake, u, state.step
        )
        whole = loss + weight * sum(errors.values()) + steep
        return whole, ({"loss": loss, "discriminator_loss": loss} | scores | errors | more, variables)

    pieces, weight = model.config.accumulate, model.config.stackgan.reading_weight
    params = state.params["discriminator"]
    (scalars, variables), grads = optimizer.value_and_grad(of_discriminator, params, batch, pieces)
    state, norms = model.optimize_discriminator.apply(state, "discriminator", grads)
    state = state.replace(variables=state.variables | {"discriminator": variables})

    def of_generator(params: PyTree, batch: Batch) -> tuple[Array, PyTree]:
        noise = _noise(model, keys_of(key_noise, batch["index"]))
        (fake, mean, log_var), variables = _generate(model, params, state, batch, noise)
        told = _condition_of(params, batch[FEATURE])
        fakes, _ = _judge(model, state.params["discriminator"], state, fake, told)
        loss, kl = jnp.mean(softplus(-fakes.logits)), jnp.mean(divergence(mean, log_var))
        errors = jax.tree.map(jnp.mean, _reading_errors(batch["together"], fake=fakes))
        whole = loss + model.config.stackgan.kl_weight * kl + weight * sum(errors.values())
        return whole, ({"generator_loss": loss, "kl": kl} | errors, variables)

    (more, variables), grads = optimizer.value_and_grad(of_generator, state.params["generator"], batch, pieces)
    scalars = scalars | more | {"discriminator_grad_norm": norms["grad_norm"]}
    step, ema = state.step, model.config.ema
    state, norms = model.optimize_generator.apply(state, "generator", grads)
    average = optimizer.moving_average(state.ema["generator_variables"], variables, step, ema)
    state = state.replace(
        step=step + 1,
        variables=state.variables | {"generator": variables},
        ema=state.ema | {"generator_variables": average},
    )
    return state, scalars | norms


def _drawn(model: _Model, state: State, noise: _Noise, text: Array) -> tuple[Array, Array, Array]:
    """Pictures of the averaged weights, with mean and log variance of their conditions."""
    variables = {"params": state.ema["generator"], **state.ema["generator_variables"]}
    return model.generator.apply(variables, noise.z, text, noise.eps, _small(model, state, noise, text))


def _sample(model: _Model, state: State, keys: Array, condition: Condition) -> Array:
    noise = _noise(model, keys)
    noise = noise._replace(eps=model.config.sample.text_noise * noise.eps)
    return _drawn(model, state, noise, condition[FEATURE])[0]


def _evaluate(model: _Model, state: State, batch: Batch, key: Key) -> Scalars:
    text, real = batch[FEATURE][:, 0], to_model(batch["image"], model.spec.value_range)
    fake, mean, log_var = _drawn(model, state, _noise(model, keys_of(key, batch["index"])), text)
    variables = {"params": state.params["discriminator"], **state.variables["discriminator"]}
    told = _condition_of(state.ema["generator"], text)
    reals, fakes = (model.discriminator.apply(variables, x, told) for x in (real, fake))
    return {
        "loss": discriminator_loss(reals.logits, fakes.logits, fakes.logits),  # an example alone has no wrong text
        "real_score": jax.nn.sigmoid(reals.logits),
        "fake_score": jax.nn.sigmoid(fakes.logits),
        "kl": divergence(mean, log_var),
        **_reading_errors(together(batch[FEATURE]), real=reals, fake=fakes),
    }


def _show(model: _Model, state: State, key: Key, batch: Batch) -> dict[str, Picture]:
    text, real = batch[FEATURE][:NUM_SHOWN, 0], batch["image"][:NUM_SHOWN]
    keys = keys_of(key, jnp.arange(NUM_TRIES))

    def made(keys: Array, text: Array) -> Array:
        return _sample(model, state, keys, {FEATURE: text})

    tries = jax.vmap(lambda one: made(keys, jnp.broadcast_to(one, (NUM_TRIES, *one.shape))))(text)  # [N, T, H, W, C]
    rows = jnp.concatenate([real[:, None], to_pixels(tries)], axis=1)
    shown = {
        "tries": Picture(
            rows.reshape(-1, *model.spec.image_shape),
            title="One text, several samples",
            caption="Left: a real picture that was held out. Next to it: samples of its first caption, which differ in "
            "their noise; the noise of a column is the same in every row.",
            columns=1 + NUM_TRIES,
        ),
        "between": _between(made, keys, text, pictures.NUM_BETWEEN),
    }
    if model.stage is None:
        return shown
    same = jnp.broadcast_to(keys[0], len(text))
    small = _small(model, state, _noise(model, same), text)
    large = made(same, text)
    grown = jax.image.resize(small, large.shape, "nearest")
    pair = jnp.stack([to_pixels(grown), to_pixels(large), real], axis=1)
    both = Picture(
        pair.reshape(-1, *model.spec.image_shape),
        title="Both stages",
        caption="Left: the picture of the first stage. Middle: what the second stage makes of it and the text. Right: "
        "the real picture of that text.",
        columns=3,
    )
    return {"stages": both} | shown


def _between(made: Any, keys: Array, text: Array, num: int) -> Picture:
    share = jnp.linspace(0.0, 1.0, num)[None, :, None]
    others = jnp.roll(text, -1, axis=0)
    mixed = (1 - share) * text[:, None] + share * others[:, None]  # [N, M, D]
    images = jax.vmap(lambda row: made(jnp.broadcast_to(keys[0], num), row))(mixed)
    return Picture(
        to_pixels(images).reshape(-1, *images.shape[2:]),
        title="From one text to another",
        caption="Each row goes from one caption to the next on a straight line between their embeddings, with the same "
        "noise. Texts between two captions were never seen in training.",
        columns=num,
    )


def _check(config: Any, spec: DataSpec, stage: Stage | None) -> None:
    c, second = config.stackgan, config.network.name == "second"
    if FEATURE not in spec.features:
        raise UserError(
            f"stackgan needs texts, and data set {spec.name} comes without: set config.data.text to an encoder, and "
            "config.data.name to a set with captions"
        )
    if spec.kind != "image":
        raise UserError(f"stackgan needs pictures; data set {spec.name} holds {spec.kind}")
    if second != (stage is not None):
        way_out = "give the directory of a first stage" if second else 'use config.network=second, or pretrained=""'
        raise UserError(
            f"config.network is {config.network.name} and config.pretrained is {config.pretrained!r}: {way_out}"
        )
    for key, table in (("upsampling", UPSAMPLINGS), ("norm", NORMS), ("generator_norm", NORMS)):
        require_choice(f"network.{key}", config.network[key], table)
    if c.latents < 1 or min(c.kl_weight, c.reading_weight, config.sample.text_noise) < 0:
        raise UserError(
            f"config.stackgan.latents is {c.latents}, kl_weight {c.kl_weight:g}, reading_weight {c.reading_weight:g} "
            f"and config.sample.text_noise {config.sample.text_noise:g}: the first must be at least 1, the others not "
            "negative"
        )
    if config.network.norm == "batch" and c.penalty.name != "none":
        raise UserError(
            f"config.stackgan.penalty is {c.penalty.name}, which penalises the gradient of one picture's logit; with "
            "batch normalisation a logit depends on the whole batch: use config.network.norm=bias, or rms"
        )
    if config.accumulate > 1 and "batch" in (config.network.norm, config.network.generator_norm):
        raise UserError(
            f"config.accumulate is {config.accumulate}; batch normalisation would see minibatches, not the batch: use "
            "config.accumulate=1, or another norm and generator_norm in config.network"
        )
    if stage is not None:
        _check_stage(spec, stage)


def _check_stage(spec: DataSpec, stage: Stage) -> None:
    size, small = spec.image_shape, stage.spec.image_shape
    if stage.config.method != "stackgan" or stage.config.network.name != "first":
        raise UserError(f"config.pretrained names a {stage.config.method}: it must be the first stage of a stackgan")
    if stage.spec.name != spec.name or stage.spec.features[FEATURE].given != spec.features[FEATURE].given:
        raise UserError(
            f"config.pretrained was trained on {stage.spec.name} with embeddings of "
            f"{stage.spec.features[FEATURE].given[-1]} numbers, and this run uses {spec.name} with "
            f"{spec.features[FEATURE].given[-1]}: use the same set, and config.data.text=first_stage"
        )
    if size[0] <= small[0]:
        raise UserError(
            f"config.pretrained makes pictures of {small[1]}x{small[0]}, and this run of {size[1]}x{size[0]}: the "
            "second stage must be larger; set config.data.image_size"
        )

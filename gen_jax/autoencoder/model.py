"""The autoencoder of latent diffusion (Rombach et al. 2022): small pictures of real numbers, from which images return.

    |x - x_hat| + perceptual distance + term of the latents + w lambda (-D(x_hat))     encoder and decoder
    relu(1 - D(x)) + relu(1 + D(x_hat))                                              discriminator of patches

All terms are means: over the values of an image, over patches. From a stated step on, the discriminator learns, and
lambda = |grad of the first two| / |grad of the last|, both in the kernel of the decoder's last layer, so that neither
drowns the other (Esser et al. 2021, equation 7). These gradients are of the whole batch on any number of devices; they
cost a second backward pass.

Latents are plain numbers, a posterior with a small KL divergence, or vectors of a codebook (bottleneck.py). Perceptual
features are random (perceptual.py). There is no prior: samples decode independent normal numbers with the mean and the
width that codes have in each channel, and look like nothing. Fine-tuning the decoder alone, as for published models, is
left out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_jax import optimizer, parallel
from gen_jax.autoencoder.bottleneck import BOTTLENECKS, KEY, Bottleneck, Passed, Setting
from gen_jax.autoencoder.patch import PatchDiscriminator
from gen_jax.autoencoder.perceptual import PERCEPTUAL, Perceptual
from gen_jax.config import Choice, Config, Measure, Options, base_config, chosen
from gen_jax.gan import game, losses
from gen_jax.method import (
    Array,
    Batch,
    Code,
    Condition,
    DataSpec,
    Figure,
    Key,
    Method,
    Picture,
    PyTree,
    Scalars,
    Stage,
    State,
    UserError,
    draw,
    mirrored,
    stream,
    to_model,
    to_pixels,
)
from gen_jax.metrics.psnr import psnr
from gen_jax.vae import code_pictures, grids, quantizers
from gen_jax.vae.pictures import in_turns
from gen_jax.vae.sparse_pictures import enlarged

ENCODED_AT_ONCE = 100  # images, outside of training
SMALLEST_NORM, LARGEST_FACTOR = 1e-4, 1e4  # of the adaptive weight: the released code of Esser et al. 2021
MOST_CHANNELS_SHOWN = 4
OWN, RIVAL, JUDGE = "autoencoder", "rival", "discriminator"


class Adversary(NamedTuple):
    """The adversarial term.

    Attributes:
      weight: beside lambda.
      start: 0-based step from which it counts and the discriminator learns.
      network: images -> logits of patches; None without the term.
    """

    weight: float
    start: int
    network: nn.Module | None


def no_adversary(dtype: Any) -> Adversary:
    """Returns no adversarial term."""
    del dtype
    return Adversary(0.0, 0, None)


def patch(dtype: Any, weight: float = 0.5, start: int = 1000, channels: tuple[int, ...] = (32, 64)) -> Adversary:
    """Returns the hinge game with a discriminator of patches.

    Args:
      dtype: of the computation.
      weight: w.
      start: step; reconstructions should be good before, or the discriminator has won already.
      channels: of the discriminator's levels, each of which halves the size.

    Raises:
      UserError: a weight that is negative, or no levels.
    """
    if weight < 0:
        raise UserError(f"config.autoencoder.adversarial.weight is {weight}; it must not be negative")
    if not channels or min(channels) < 1:
        raise UserError(
            f"config.autoencoder.adversarial.channels is {channels}; it needs at least one number of 1 or more"
        )
    return Adversary(weight, start, PatchDiscriminator(channels, dtype))


CHOICES = {
    "network": Choice(grids.NETWORKS, grids.GIVEN),
    "autoencoder.latents": Choice(BOTTLENECKS, ("setting",)),
    "autoencoder.perceptual": Choice(PERCEPTUAL),
    "autoencoder.adversarial": Choice({"none": no_adversary, "patch": patch}, ("dtype",)),
}


def autoencoder_config() -> Config:
    """Returns `base_config` with the additional values of a first stage.

    Example:
      >>> config = autoencoder_config()
      >>> config.autoencoder.latents.name, config.autoencoder.latents.weight, config.autoencoder.channels
      ('kl', 1e-06, 4)
    """
    config = base_config()
    config.method = "autoencoder"
    config.optimizer.learning_rate = 1e-3
    config.discriminator_optimizer = ConfigDict({"learning_rate": 2e-4})  # the rest as in optimizer
    config.network = ConfigDict(CHOICES["network"].start("spatial"))
    config.autoencoder = ConfigDict(
        {
            "channels": 4,  # numbers at each position of a code
            "latents": CHOICES["autoencoder.latents"].start("kl"),  # or plain, vq
            "perceptual": CHOICES["autoencoder.perceptual"].start("random"),  # or none
            "adversarial": CHOICES["autoencoder.adversarial"].start("patch"),  # or none
            "mirror": False,  # left-right, half of the training images; not for letters and digits
        }
    )
    return config


OPTIONS = Options(
    autoencoder_config,
    "Autoencoder for latent diffusion",
    CHOICES,
    measures={
        "psnr": Measure("peak signal-to-noise ratio of images that are encoded and decoded", "dB"),
        "reconstruction": Measure("mean absolute error of the reconstruction, of pixels in [-1, 1]"),
        "perceptual": Measure("distance of the reconstruction in random features, of variance 1"),
        "kl": Measure("KL divergence of the latents", "nats per image"),
        "quantization": Measure("mean squared distance of the encoder's vectors from those of their codes"),
        "adaptive_weight": Measure("lambda, the weight that balances the adversarial term"),
        "real_score": Measure("logit of real patches", chart="logits of real and reconstructed patches"),
        "fake_score": Measure("logit of reconstructed patches", chart="logits of real and reconstructed patches"),
    },
)


class _Model(NamedTuple):
    """Everything that the functions of the method need."""

    config: Any
    spec: DataSpec
    encoder: nn.Module
    decoder: nn.Module
    shape: tuple[int, int, int]  # of a code
    bottleneck: Bottleneck
    perceptual: Perceptual
    adversary: Adversary
    optimize: optimizer.Optimizer
    optimize_discriminator: optimizer.Optimizer

    @property
    def judge(self) -> nn.Module:
        """The discriminator, of a model that has one."""
        assert self.adversary.network is not None
        return self.adversary.network


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns the autoencoder as a method; see `configs/autoencoder_mnist.py` for its config values.

    Raises:
      UserError: data that are not pictures, an unknown name, an invalid value, images that are smaller than one code
        stands for, or a codebook with more codes than there are vectors to start from.
    """
    c, dtype = config.autoencoder, jnp.dtype(config.compute_dtype)
    if spec.kind != "image":
        raise UserError(f"autoencoder needs pictures; data set {spec.name} holds {spec.kind}")
    if c.channels < 1:
        raise UserError(f"config.autoencoder.channels is {c.channels}; it must be at least 1")
    if c.mirror and spec.image_shape[1] == 1:
        raise UserError("config.autoencoder.mirror has no effect on images that are one pixel wide: use false")
    rows, columns = grids.size(config.network, spec.image_shape)
    setting = Setting(config.batch_size * rows * columns, c.channels, math.prod(spec.image_shape))
    bottleneck: Bottleneck = chosen(CHOICES["autoencoder.latents"], c.latents, setting=setting)
    if bottleneck.quantizer is not None:
        quantizers.refuse_large(KEY, bottleneck.quantizer, rows * columns, spec.num_examples)
    encoder, decoder = grids.make(config.network, spec.image_shape, c.channels, dtype)
    model = _Model(
        config,
        spec,
        encoder.clone(features=bottleneck.outputs * c.channels),
        decoder,
        (rows, columns, c.channels),
        bottleneck,
        chosen(CHOICES["autoencoder.perceptual"], c.perceptual),
        chosen(CHOICES["autoencoder.adversarial"], c.adversarial, dtype=dtype),
        optimizer.make(config.optimizer, config.num_steps, config.ema),
        optimizer.make(game.discriminator_optimizer(config), config.num_steps, 0.0),
    )
    kind = "means" if bottleneck.outputs == 2 else "vectors"  # of a posterior, or without one
    return Method(
        functools.partial(_init, model),
        functools.partial(_step, model),
        functools.partial(_sample, model),
        functools.partial(_evaluate, model),
        functools.partial(_show, model),
        code=Code(kind, model.shape, functools.partial(_code, model), functools.partial(_image, model)),
        describe={"codes": f"{bottleneck.words}, drawn as independent normal numbers (there is no prior)"},
    )


def _encoded(model: _Model, params: PyTree, x: Array) -> Array:
    """The encoder's output for images in [-1, 1]: f32 [B, h, w, outputs D]."""
    output: Array = model.encoder.apply({"params": params["encoder"]}, x)  # pyright: ignore[reportAssignmentType]
    return output.astype(jnp.float32)


def _decoded(model: _Model, params: PyTree, z: Array) -> Array:
    """Images f32 [B, H, W, C] of [B, h, w, D]: about in [-1, 1]."""
    flat = z.reshape(len(z), -1)
    x_hat: Array = model.decoder.apply({"params": params["decoder"]}, flat)  # pyright: ignore[reportAssignmentType]
    return x_hat.astype(jnp.float32)


def _init(model: _Model, key: Key, examples: Batch, frozen: PyTree) -> State:
    key_encoder, key_decoder, key_book, key_judge = jax.random.split(stream(key, "init"), 4)
    x = to_model(examples["image"], model.spec.value_range)
    params = {
        "encoder": model.encoder.init(key_encoder, x[:1])["params"],
        "decoder": model.decoder.init(key_decoder, jnp.zeros((1, math.prod(model.shape))))["params"],
    }
    outputs = jax.lax.map(lambda one: _encoded(model, params, one[None])[0], x, batch_size=ENCODED_AT_ONCE)
    codes = model.bottleneck.code(outputs)
    start = model.bottleneck.init(key_book, lambda: codes.reshape(-1, model.shape[-1]))
    trained = {OWN: params, **start.params}
    opt_state = {network: model.optimize.init(values) for network, values in trained.items()}
    if model.adversary.network is not None:
        trained[JUDGE] = model.judge.init(key_judge, x[:1])["params"]
        opt_state[JUDGE] = model.optimize_discriminator.init(trained[JUDGE])
    return State(
        step=jnp.zeros((), jnp.int32),
        key=key,
        params=trained,
        variables={"codes": _moments(codes), "perceptual": model.perceptual.init(x), **start.variables},
        opt_state=opt_state,
        ema={OWN: jax.tree.map(jnp.copy, params), **start.ema},
        frozen=frozen,
    )


def _moments(codes: Array) -> Scalars:
    """Mean and mean square of each channel, f32 [D]."""
    return {"mean": jnp.mean(codes, axis=(0, 1, 2)), "square": jnp.mean(codes**2, axis=(0, 1, 2))}


class _Rebuilt(NamedTuple):
    """What becomes of images x."""

    output: Array  # of the encoder
    passed: Passed
    x_hat: Array


def _rebuilt(model: _Model, params: PyTree, book: PyTree, x: Array, eps: Array) -> _Rebuilt:
    output = _encoded(model, params, x)
    passed = model.bottleneck.passed(book, output, eps)
    return _Rebuilt(output, passed, _decoded(model, params, passed.z))


def _terms(model: _Model, state: State, x: Array, x_hat: Array, passed: Passed) -> Scalars:
    """The loss without the adversarial term, and its parts: f32 [B]."""
    reconstruction = jnp.mean(jnp.abs(x - x_hat), axis=(1, 2, 3))
    loss, named = reconstruction + passed.loss, {}
    if model.perceptual.name:
        distance = model.perceptual.distance(state.variables["perceptual"], x, x_hat)
        loss += model.perceptual.weight * distance
        named[f"perceptual/{model.perceptual.name}"] = distance
    return {"loss": loss, "reconstruction": reconstruction} | named | passed.terms


def _step(model: _Model, state: State, batch: Batch) -> tuple[State, Scalars]:
    key_z, key_book, key_mirror = jax.random.split(jax.random.fold_in(stream(state.key, "step"), state.step), 3)
    bottleneck, judged = model.bottleneck, model.adversary.network is not None

    def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, tuple[Scalars, PyTree]]:
        index, image = batch["index"], batch["image"]
        if model.config.autoencoder.mirror:
            image = mirrored(image, key_mirror, index)
        x = to_model(image, model.spec.value_range)
        eps = draw(key_z, index, lambda key: jax.random.normal(key, model.shape))
        book = bottleneck.current(params, state.variables)
        rebuilt = _rebuilt(model, params[OWN], book, x, eps)
        scalars = jax.tree.map(jnp.mean, _terms(model, state, x, rebuilt.x_hat, rebuilt.passed))
        codes = jax.lax.stop_gradient(bottleneck.code(rebuilt.output))
        seen = {"codes": _moments(codes), "book": bottleneck.observe(codes, rebuilt.passed.codes, index, key_book)}
        if not judged:
            return scalars["loss"], (scalars, seen)
        # The gradient of a sum, in which each of the three is a constant for the others: XLA rebuilds the images once.
        rival = _rebuilt(model, params[RIVAL], jax.lax.stop_gradient(book), x, eps).x_hat
        more = _game(model, params[JUDGE], x, rebuilt.x_hat, rival)
        return scalars["loss"] + more["generator_loss"] + more["discriminator_loss"], (scalars | more, seen)

    params = state.params | ({RIVAL: state.params[OWN]} if judged else {})
    (scalars, seen), grads = optimizer.value_and_grad(loss_fn, params, batch, model.config.accumulate)
    grads, seen = parallel.mean_over_devices((grads, seen))
    if judged:
        grads, weight = _balanced(model, state.step, grads)
        scalars |= weight
    state, norms = _updated(model, state, grads)
    state = bottleneck.advance(state, seen["book"], model.config.ema)
    codes = optimizer.moving_average(state.variables["codes"], seen["codes"], state.step, model.config.ema)
    return state.replace(step=state.step + 1, variables=state.variables | {"codes": codes}), scalars | norms


def _game(model: _Model, judge: PyTree, x: Array, x_hat: Array, rival: Array) -> Scalars:
    """The hinge losses of both players, and the discriminator's mean logits.

    Args:
      model: with a discriminator.
      judge: its parameters.
      x: images.
      x_hat: what was made of them, a constant here.
      rival: the same, whose gradient is that of the generator's loss alone.
    """
    hinge, still = losses.hinge(), jax.lax.stop_gradient

    def logits(params: PyTree, images: Array) -> Any:
        return model.judge.apply({"params": params}, images)

    real, fake = logits(judge, x), logits(judge, still(x_hat))
    fooled = logits(still(judge), rival)
    return {
        "generator_loss": jnp.mean(hinge.generator(real, fooled)),
        "discriminator_loss": jnp.mean(hinge.discriminator(real, fake)),
        "real_score": jnp.mean(real),
        "fake_score": jnp.mean(fake),
    }


def adaptive_weight(of_reconstruction: Array, of_game: Array) -> Array:
    """Returns lambda, the ratio of the norms of two gradients of the same kernel: f32 [], at most 10,000.

    Example:
      >>> round(float(adaptive_weight(jnp.array([3.0, 4.0]), jnp.array([0.0, 0.5]))), 2)
      10.0
    """
    ratio = jnp.linalg.norm(of_reconstruction.ravel()) / (jnp.linalg.norm(of_game.ravel()) + SMALLEST_NORM)
    return jnp.minimum(ratio, LARGEST_FACTOR)


def _balanced(model: _Model, step: Array, grads: Mapping[str, PyTree]) -> tuple[dict[str, PyTree], Scalars]:
    """Gradients in which those of the rival are added to the autoencoder's own; before the start none are."""
    grads = dict(grads)
    rival, on = grads.pop(RIVAL), (step >= model.adversary.start).astype(jnp.float32)
    weight = adaptive_weight(*(each["decoder"]["out"]["kernel"] for each in (grads[OWN], rival)))
    factor = on * model.adversary.weight * weight
    grads[OWN] = jax.tree.map(lambda own, its: own + factor * its, grads[OWN], rival)
    grads[JUDGE] = jax.tree.map(lambda g: on * g, grads[JUDGE])
    return grads, {"adaptive_weight": weight}


def _updated(model: _Model, state: State, grads: Mapping[str, PyTree]) -> tuple[State, Scalars]:
    """The state after the update of every network, and the norms of their gradients."""
    state, norms = model.optimize.apply(state, OWN, grads[OWN])
    for network in sorted(grads.keys() - {OWN}):
        optimize = model.optimize_discriminator if network == JUDGE else model.optimize
        state, its = optimize.apply(state, network, grads[network])
        norms[f"{network}_grad_norm"] = its["grad_norm"]
    return state, norms


def _evaluate(model: _Model, state: State, batch: Batch, key: Key) -> Scalars:
    """With the mean of a posterior, as a second model sees it."""
    x = to_model(batch["image"], model.spec.value_range)
    book = model.bottleneck.averaged(state.ema)
    rebuilt = _rebuilt(model, state.ema[OWN], book, x, jnp.zeros((len(x), *model.shape)))
    values = _terms(model, state, x, rebuilt.x_hat, rebuilt.passed)
    return values | {"psnr": psnr(x, jnp.clip(rebuilt.x_hat, -1, 1))}


def _code(model: _Model, state: State, batch: Batch, key: Key) -> Array:
    x = to_model(batch["image"], model.spec.value_range)
    return model.bottleneck.code(_encoded(model, state.ema[OWN], x))


def _image(model: _Model, state: State, codes: Array) -> Array:
    """Of codes f32 [N, h, w, D]: f32 [N, H, W, C] in [-1, 1]."""
    z = model.bottleneck.embed(model.bottleneck.averaged(state.ema), codes)
    return jnp.clip(_decoded(model, state.ema[OWN], z), -1, 1)


def _width(moments: Scalars) -> Array:
    return jnp.sqrt(jnp.maximum(moments["square"] - moments["mean"] ** 2, 0.0))


def _sample(model: _Model, state: State, keys: Array, condition: Condition) -> Array:
    moments = state.variables["codes"]
    noise = jax.vmap(lambda key: jax.random.normal(key, model.shape))(keys)
    return _image(model, state, moments["mean"] + _width(moments) * noise)


def _show(model: _Model, state: State, key: Key, batch: Batch) -> dict[str, Figure]:
    x, moments = to_model(batch["image"], model.spec.value_range), state.variables["codes"]
    codes = _code(model, state, batch, key)
    grey = (codes - moments["mean"]) / (3 * _width(moments) + 1e-6)
    side, num = 2 ** len(model.config.network.channels), min(model.shape[-1], MOST_CHANNELS_SHOWN)
    channels = [enlarged(grey[..., number], side, model.spec.image_shape) for number in range(num)]
    images, columns = in_turns(x, *channels)
    height, width, total = model.shape
    return {
        "reconstructions": code_pictures.reconstructions(x, _image(model, state, codes)),
        "codes": Picture(
            to_pixels(images),
            title="Codes",
            caption=f"Rows in turns: images, and below each the first {num} of its {total} maps of {height} x {width} "
            "numbers. Grey is the mean of a map's numbers, black and white are three standard deviations away.",
            columns=columns,
        ),
    }

"""The VQ-VAE (van den Oord et al. 2017): an autoencoder whose codes are whole numbers, one for each position of a grid.

It is a first stage: there is no prior over codes yet, so a sample decodes codes that are drawn uniformly. All terms of
the loss are means over elements; pixels are in [-1, 1].
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from gen_jax import optimizer, parallel
from gen_jax.config import Choice, Config, Measure, Options, base_config, chosen
from gen_jax.method import (
    Array,
    Batch,
    Code,
    Condition,
    DataSpec,
    Figure,
    Key,
    Method,
    PyTree,
    Scalars,
    Stage,
    State,
    UserError,
    stream,
    to_model,
)
from gen_jax.metrics.psnr import psnr
from gen_jax.vae import code_pictures, grids, pictures, quantizers
from gen_jax.vae.quantizers import QUANTIZERS, Quantized, Quantizer, perplexity

ENCODED_AT_ONCE = 100  # images, outside of training

CHOICES = {
    "network": Choice(grids.NETWORKS, grids.GIVEN),
    "vqvae.quantizer": Choice(QUANTIZERS, ("rows",)),
}


def vqvae_config() -> Config:
    """Returns `base_config` with the additional values of a VQ-VAE.

    Example:
      >>> vqvae_config().vqvae.quantizer.decay
      0.99
    """
    config = base_config()
    config.method = "vqvae"
    config.optimizer.learning_rate = 1e-3
    config.network = ConfigDict(CHOICES["network"].start("spatial"))
    config.vqvae = ConfigDict({"quantizer": CHOICES["vqvae.quantizer"].start("vq")})  # or fsq: QUANTIZERS
    return config


OPTIONS = Options(
    vqvae_config,
    "VQ-VAE",
    CHOICES,
    measures={
        "reconstruction": Measure("mean squared error of the reconstruction, of pixels in [-1, 1]", is_bound=True),
        "psnr": Measure("peak signal-to-noise ratio of the reconstruction", "dB"),
        "quantization": Measure("mean squared distance of the encoder's vectors from those of their codes"),
        "perplexity": Measure("perplexity of the codes of a batch"),
        "share_used": Measure("share of the codes that occur in a batch"),
    },
)


class _VqVae(NamedTuple):
    """Everything that the functions of the method need."""

    config: Any
    spec: DataSpec
    encoder: nn.Module
    decoder: nn.Module
    quantizer: Quantizer
    grid: tuple[int, int]
    optimize: optimizer.Optimizer


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns the VQ-VAE as a method; see `configs/vqvae_mnist.py` for its config values.

    Raises:
      UserError: an unknown name, an invalid value, images that are smaller than one code stands for, or a codebook with
        more codes than there are vectors to start from.
    """
    if spec.kind != "image":
        raise UserError(f"{config.method} needs pictures; data set {spec.name} holds {spec.kind}")
    height, width = grids.size(config.network, spec.image_shape)
    quantizer: Quantizer = chosen(
        CHOICES["vqvae.quantizer"], config.vqvae.quantizer, rows=config.batch_size * height * width
    )
    quantizers.refuse_large("config.vqvae.quantizer", quantizer, height * width, spec.num_examples)
    model = _VqVae(
        config,
        spec,
        *grids.make(config.network, spec.image_shape, quantizer.dimensions, jnp.dtype(config.compute_dtype)),
        quantizer,
        (height, width),
        optimizer.make(config.optimizer, config.num_steps, config.ema),
    )
    return Method(
        functools.partial(_init, model),
        functools.partial(_step, model),
        functools.partial(_sample, model),
        functools.partial(_evaluate, model),
        functools.partial(_show, model),
        code=Code(
            "integers",
            (height, width),
            functools.partial(_codes, model),
            functools.partial(_images, model),
            quantizer.size,
        ),
        num_pictured=code_pictures.NUM_COUNTED,
        describe={"codes": f"codes drawn uniformly from all {quantizer.size:,} (there is no prior)"},
    )


def _encode(model: _VqVae, params: PyTree, image: Array) -> Array:
    """Vectors f32 [B, h, w, D] of a batch's images."""
    x = to_model(image, model.spec.value_range)
    vectors: Array = model.encoder.apply({"params": params["encoder"]}, x)  # pyright: ignore[reportAssignmentType]
    return vectors.astype(jnp.float32)


def _decode(model: _VqVae, params: PyTree, z: Array) -> Array:
    """Images f32 [B, H, W, C] of vectors [B, h, w, D]: about in [-1, 1]."""
    flat = z.reshape(len(z), -1)
    x_hat: Array = model.decoder.apply({"params": params["decoder"]}, flat)  # pyright: ignore[reportAssignmentType]
    return x_hat.astype(jnp.float32)


def _init(model: _VqVae, key: Key, examples: Batch, frozen: PyTree) -> State:
    key_encoder, key_decoder, key_codebook = jax.random.split(stream(key, "init"), 3)
    latents = model.grid[0] * model.grid[1] * model.quantizer.dimensions
    params = {
        "encoder": model.encoder.init(key_encoder, jnp.zeros((1, *model.spec.image_shape)))["params"],
        "decoder": model.decoder.init(key_decoder, jnp.zeros((1, latents)))["params"],
    }

    def vectors() -> Array:
        found = jax.lax.map(
            lambda one: _encode(model, params, one[None])[0], examples["image"], batch_size=ENCODED_AT_ONCE
        )
        return found.reshape(-1, model.quantizer.dimensions)

    start = model.quantizer.init(key_codebook, vectors)
    trained = {"vqvae": params, **start.params}
    return State(
        step=jnp.zeros((), jnp.int32),
        key=key,
        params=trained,
        variables=start.variables,
        opt_state={network: model.optimize.init(values) for network, values in trained.items()},
        ema={"vqvae": jax.tree.map(jnp.copy, params), **start.ema},
        frozen=frozen,
    )


def _step(model: _VqVae, state: State, batch: Batch) -> tuple[State, Scalars]:
    key, quantizer = jax.random.fold_in(stream(state.key, "step"), state.step), model.quantizer

    def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, tuple[Scalars, PyTree]]:
        z = _encode(model, params["vqvae"], batch["image"])
        found = quantizer.quantize(quantizer.current(params, state.variables), z)
        terms = _terms(model, batch["image"], _decode(model, params["vqvae"], found.z), found)
        scalars = jax.tree.map(jnp.mean, terms)
        seen = quantizer.observe(jax.lax.stop_gradient(z), found.codes, batch["index"], key)
        return scalars["loss"], (scalars, seen)

    (scalars, seen), grads = optimizer.value_and_grad(loss_fn, state.params, batch, model.config.accumulate)
    state, norms = model.optimize.apply(state, "vqvae", grads["vqvae"])
    if "codebook" in grads:
        state, its = model.optimize.apply(state, "codebook", grads["codebook"])
        norms["codebook_grad_norm"] = its["grad_norm"]
    seen = parallel.mean_over_devices(seen)
    state = quantizer.advance(state, seen, model.config.ema)
    use = {"perplexity": perplexity(seen["share"]), "share_used": jnp.mean(seen["share"] > 0)}
    return state.replace(step=state.step + 1), scalars | use | norms


def _terms(model: _VqVae, image: Array, x_hat: Array, found: Quantized) -> Scalars:
    """The loss and its parts, f32 [B]: means over the elements of each example."""

    def of_each(values: Array) -> Array:
        return jnp.mean(values, axis=tuple(range(1, values.ndim)))

    reconstruction = of_each((x_hat - to_model(image, model.spec.value_range)) ** 2)
    return {
        "loss": reconstruction + of_each(found.loss),
        "reconstruction": reconstruction,
        "quantization": of_each(found.error),
    }


def _evaluate(model: _VqVae, state: State, batch: Batch, key: Key) -> Scalars:
    found = _quantized(model, state, batch["image"])
    x_hat = _decode(model, state.ema["vqvae"], found.z)
    x = to_model(batch["image"], model.spec.value_range)
    return _terms(model, batch["image"], x_hat, found) | {"psnr": psnr(x, jnp.clip(x_hat, -1, 1))}


def _quantized(model: _VqVae, state: State, image: Array) -> Quantized:
    z = _encode(model, state.ema["vqvae"], image)
    return model.quantizer.quantize(model.quantizer.averaged(state.ema), z)


def _codes(model: _VqVae, state: State, batch: Batch, key: Key) -> Array:
    return _quantized(model, state, batch["image"]).codes


def _images(model: _VqVae, state: State, codes: Array) -> Array:
    """Of codes i32 [N, h, w]: f32 [N, H, W, C] in [-1, 1]."""
    z = model.quantizer.embed(model.quantizer.averaged(state.ema), codes)
    return jnp.clip(_decode(model, state.ema["vqvae"], z), -1, 1)


def _sample(model: _VqVae, state: State, keys: Array, condition: Condition) -> Array:
    draw_codes = functools.partial(jax.random.randint, shape=model.grid, minval=0, maxval=model.quantizer.size)
    return _images(model, state, jax.vmap(draw_codes)(keys))


def _show(model: _VqVae, state: State, key: Key, batch: Batch) -> dict[str, Figure]:
    some = batch["image"][: pictures.NUM_SHOWN]
    # In pieces: the activations of all images would take gigabytes.
    codes = jax.lax.map(
        lambda one: _quantized(model, state, one[None]).codes[0], batch["image"], batch_size=ENCODED_AT_ONCE
    )
    x, image_of = to_model(some, model.spec.value_range), functools.partial(_images, model, state)
    return code_pictures.show(x, codes, image_of, model.quantizer.size)

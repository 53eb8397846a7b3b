"""The sparse-coding autoencoder (SC-VAE; Xiao et al. 2023): each vector of the encoder becomes a sum of few atoms.

The encoder turns an image into a grid of vectors v. A fixed number of learned ISTA steps finds a sparse code z of each
(gen_jax/vae/sparse.py), and the decoder sees D z. The loss is the squared error of pixels plus that of D z as an
estimate of v, plus, by default, lam |z|_1: then the term of the vectors is the objective that ISTA minimises. The paper
adds a perceptual loss (LPIPS), a discriminator and an attention that weighs the vectors; this model has none of them.

Two things keep codes sparse that the paper does not have. In training noise is added to D z, which sets the scale of
the vectors: otherwise the encoder shrinks them, the decoder undoes it, and ISTA's own answer becomes zero. And
lam |z|_1 is part of the loss: without it (`penalised=False`) nothing asks the learned steps for few atoms. The
threshold lam / L is not trained.

There is no posterior and no prior. `sample` draws codes whose atoms are independent of each other and of their
neighbours, used as often as in training: it shows what the code leaves to a second model. That model gets D z, a small
picture of real numbers: z has many more numbers, most of them exactly zero, which no diffusion of Gaussian noise fits.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
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
    draw,
    stream,
    to_model,
)
from gen_jax.metrics.psnr import psnr
from gen_jax.vae import grids, sparse, sparse_pictures
from gen_jax.vae.sparse import Dictionary

CHOICES = {
    "network": Choice(grids.NETWORKS, grids.GIVEN),
    "scvae.dictionary": Choice(sparse.DICTIONARIES, ("dimension",)),
}
NUM_COUNTED = 64  # training images that the usage of atoms starts from


def scvae_config() -> Config:
    """Returns `base_config` with the additional values of an SC-VAE.

    Example:
      >>> scvae_config().scvae.dictionary.num_atoms
      64
    """
    config = base_config()
    config.method = "scvae"
    config.optimizer.learning_rate = 1e-3
    config.network = ConfigDict(CHOICES["network"].start("spatial"))
    config.scvae = ConfigDict(
        {
            "channels": 16,  # numbers of a vector; for a DCT the square of a whole number
            "dictionary": CHOICES["scvae.dictionary"].start("dct"),  # or learned, orthonormal
            "lam": 0.5,  # weight of |z|_1
            "noise": 0.25,  # standard deviation of what is added to the numbers of D z in training
            "steps": 10,  # of ISTA, learned and shared by all
            "penalised": True,  # lam |z|_1 is part of the loss, as of ISTA's objective; the released code leaves it out
            "latent_weight": 0.05,  # of the vectors' term, beside the pixels'
        }
    )
    return config


OPTIONS = Options(
    scvae_config,
    "Sparse-coding autoencoder",
    CHOICES,
    measures={
        "psnr": Measure("PSNR of reconstructions", "dB"),
        "pixels": Measure("squared error of a pixel, of values in [-1, 1]"),
        "latents": Measure("squared error of a number of the encoder's vectors"),
        "objective": Measure("sparse coding objective of a vector"),
        "nonzeros": Measure("share of atoms that are on"),
    },
)


def make(config: Any, spec: DataSpec, stage: Stage | None = None) -> Method:
    """Returns the SC-VAE as a method; see `configs/scvae_mnist.py` for its config values.

    Raises:
      UserError: data that are not pictures, an unknown name, an invalid value, or a dictionary that does not fit.
    """
    _check(config, spec)
    c = config.scvae
    dictionary: Dictionary = chosen(CHOICES["scvae.dictionary"], c.dictionary, dimension=c.channels)
    rows, columns = grids.size(config.network, spec.image_shape)
    encoder, decoder = grids.make(config.network, spec.image_shape, c.channels, jnp.dtype(config.compute_dtype))
    largest = float(np.linalg.norm(np.asarray(dictionary.atoms, np.float64), 2) ** 2)
    optimize = optimizer.make(config.optimizer, config.num_steps, config.ema)
    model = _Model(config, spec, encoder, decoder, dictionary, largest, (rows, columns, c.channels), optimize)
    return Method(
        functools.partial(_init, model),
        functools.partial(_step, model),
        functools.partial(_sample, model),
        functools.partial(_evaluate, model),
        functools.partial(_show, model),
        code=Code("vectors", model.shape, functools.partial(_vectors, model), functools.partial(_decode, model)),
        num_pictured=sparse_pictures.NUM_IMAGES,
        describe={"prior": "independent sparse codes, with the usage of atoms in training"},
    )


class _Model(NamedTuple):
    """Everything that the functions of the method need."""

    config: Any
    spec: DataSpec
    encoder: nn.Module
    decoder: nn.Module
    dictionary: Dictionary
    largest: float  # eigenvalue of D'D, at the start
    shape: tuple[int, int, int]  # of the vectors of an image: h, w, d
    optimize: optimizer.Optimizer


class _Coded(NamedTuple):
    """What becomes of images f32 [B, H, W, C] in [-1, 1]."""

    v: Array  # f32 [B, h, w, d]
    path: Array  # f32 [n, B, h, w, K], the codes after each step
    estimate: Array  # D z of the last, f32 [B, h, w, d]
    image: Array  # f32 [B, H, W, C], not clipped

    @property
    def z(self) -> Array:
        return self.path[-1]


def _init(model: _Model, key: Key, examples: Batch, frozen: PyTree) -> State:
    key_encoder, key_decoder = jax.random.split(stream(key, "init"))
    step = sparse.start(model.dictionary.atoms, model.largest, model.config.scvae.steps)
    own = {
        "encoder": model.encoder.init(key_encoder, jnp.zeros((1, *model.spec.image_shape)))["params"],
        "decoder": model.decoder.init(key_decoder, jnp.zeros((1, math.prod(model.shape))))["params"],
        "steps": {name: value for name, value in step._asdict().items() if value is not None},
    }
    if model.dictionary.learned:
        own["atoms"] = jnp.asarray(model.dictionary.atoms)
    some = to_model(examples["image"][:NUM_COUNTED], model.spec.value_range)
    usage = sparse.usage_of(_code(model, own, _encode(model, own, some))[-1])
    return optimizer.first_state(model.optimize, "scvae", key, own, frozen, {"usage": usage})


def _step(model: _Model, state: State, batch: Batch) -> tuple[State, Scalars]:
    key = jax.random.fold_in(stream(state.key, "step"), state.step)

    def loss_fn(params: PyTree, batch: Batch) -> tuple[Array, tuple[Scalars, sparse.Usage]]:
        x = to_model(batch["image"], model.spec.value_range)
        noise = draw(key, batch["index"], lambda key: jax.random.normal(key, model.shape))
        coded = _coded(model, params, x, model.config.scvae.noise * noise)
        values = jax.tree.map(jnp.mean, _losses(model, params, x, coded))
        return values["loss"], (values, sparse.usage_of(coded.z))

    (scalars, usage), grads = optimizer.value_and_grad(loss_fn, state.params["scvae"], batch, model.config.accumulate)
    usage = optimizer.moving_average(
        state.variables["usage"], parallel.mean_over_devices(usage), state.step, model.config.ema
    )
    state, norms = model.optimize.apply(state, "scvae", grads)
    return state.replace(step=state.step + 1, variables={"usage": usage}), scalars | norms


def _evaluate(model: _Model, state: State, batch: Batch, key: Key) -> Scalars:
    x = to_model(batch["image"], model.spec.value_range)
    coded = _coded(model, state.ema["scvae"], x)
    return _losses(model, state.ema["scvae"], x, coded) | {"psnr": psnr(x, jnp.clip(coded.image, -1, 1))}


def _sample(model: _Model, state: State, keys: Array, condition: Condition) -> Array:
    z = jax.vmap(functools.partial(sparse.draw_code, state.variables["usage"]))(keys)
    return _decode(model, state, z @ _atoms(model, state.ema["scvae"]).T)


def _vectors(model: _Model, state: State, batch: Batch, key: Key) -> Array:
    """D z of each image: f32 [B, h, w, d]."""
    params = state.ema["scvae"]
    v = _encode(model, params, to_model(batch["image"], model.spec.value_range))
    return _code(model, params, v)[-1] @ _atoms(model, params).T


def _decode(model: _Model, state: State, vectors: Array) -> Array:
    """The images of vectors [N, h, w, d]: f32 [N, H, W, C] in [-1, 1]."""
    return jnp.clip(_image(model, state.ema["scvae"], vectors), -1, 1)


def _show(model: _Model, state: State, key: Key, batch: Batch) -> dict[str, Figure]:
    params, c = state.ema["scvae"], model.config.scvae
    x, atoms = to_model(batch["image"], model.spec.value_range), _atoms(model, params)
    coded, usage = _coded(model, params, x), state.variables["usage"]
    side = 2 ** len(model.config.network.channels)  # pixels of a position
    image_of = functools.partial(_decode, model, state)

    def mean_objective(path: Array) -> Array:
        return jnp.mean(sparse.objective(coded.v, path, atoms, c.lam), axis=(1, 2, 3))

    paths = coded.path, sparse.ista(coded.v, atoms, c.lam, c.steps)
    at_zero = jnp.mean(jnp.sum(coded.v**2, axis=-1)) / 2
    return {
        "reconstructions": sparse_pictures.reconstructions(x, jnp.clip(coded.image, -1, 1), coded.z, side),
        "atoms": sparse_pictures.atoms(image_of, atoms, usage, model.shape),
        "sparse_code": sparse_pictures.code_map(x[0], coded.z[0], side),
        "usage": sparse_pictures.usage_curve(usage["on"]),
        "objective": sparse_pictures.objective_by_step(at_zero, *map(mean_objective, paths)),
    }


def _encode(model: _Model, params: PyTree, x: Array) -> Array:
    """The vectors v of images in [-1, 1]: f32 [B, h, w, d]."""
    output: Array = model.encoder.apply({"params": params["encoder"]}, x)  # pyright: ignore[reportAssignmentType]
    return output.astype(jnp.float32)


def _code(model: _Model, params: PyTree, v: Array) -> Array:
    """The codes of vectors [..., d] after each step: f32 [n, ..., K]."""
    step, c = params["steps"], model.config.scvae
    return sparse.unrolled(v, sparse.Step(step["w"], step.get("s")), c.lam / model.largest, c.steps)


def _atoms(model: _Model, params: PyTree) -> Array:
    """D f32 [d, K]. Columns of a learned one are scaled to length one: long atoms would make the penalty of z vain."""
    if not model.dictionary.learned:
        return jnp.asarray(model.dictionary.atoms)
    return params["atoms"] / jnp.linalg.norm(params["atoms"], axis=0)


def _image(model: _Model, params: PyTree, vectors: Array) -> Array:
    """The decoder's images of vectors [N, h, w, d], not clipped."""
    flat = vectors.reshape(len(vectors), -1)
    output: Array = model.decoder.apply({"params": params["decoder"]}, flat)  # pyright: ignore[reportAssignmentType]
    return output.astype(jnp.float32)


def _coded(model: _Model, params: PyTree, x: Array, noise: Array | float = 0.0) -> _Coded:
    """Returns what becomes of images [B, H, W, C]; the decoder sees D z + noise."""
    v = _encode(model, params, x)
    path = _code(model, params, v)
    estimate = path[-1] @ _atoms(model, params).T
    return _Coded(v, path, estimate, _image(model, params, estimate + noise))


def _losses(model: _Model, params: PyTree, x: Array, coded: _Coded) -> Scalars:
    """Values of each image [B]. The term of the vectors, 2 / d of the objective, is a mean over numbers, too."""
    c = model.config.scvae
    pixels = jnp.mean((coded.image - x) ** 2, axis=(1, 2, 3))
    latents = jnp.mean((coded.estimate - coded.v) ** 2, axis=(1, 2, 3))
    objective = jnp.mean(sparse.objective(coded.v, coded.z, _atoms(model, params), c.lam), axis=(1, 2))
    term = 2 * objective / c.channels if c.penalised else latents
    return {
        "loss": pixels + c.latent_weight * term,
        "pixels": pixels,
        "latents": latents,
        "objective": objective,
        "nonzeros": jnp.mean((coded.z != 0).astype(jnp.float32), axis=(1, 2, 3)),
    }


def _check(config: Any, spec: DataSpec) -> None:
    if spec.kind != "image":
        raise UserError(f"scvae needs pictures; data set {spec.name} holds {spec.kind}")
    c = config.scvae
    for name in ("channels", "steps"):
        if c[name] < 1:
            raise UserError(f"config.scvae.{name} is {c[name]}; it must be at least 1")
    for name in ("lam", "noise", "latent_weight"):
        if not 0 <= c[name] < float("inf"):
            raise UserError(f"config.scvae.{name} is {c[name]}; it must be finite and not negative")

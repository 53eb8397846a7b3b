"""The Inception network behind FID, whose weights the user provides as a file.

It is the TensorFlow graph of 2015-12-05 (Szegedy et al. 2016, figures 5 to 7 and table 1), on whose 2,048 pooled
features Heusel et al. (2017) defined FID. It differs from torchvision's inception_v3: 1,008 classes, mean pools that
count no padding, a maximum in the pooled branch of the last block, and other weights. A Frechet distance on its
features is FID only with the published weights and the graph's own resize, `resize_tf1`; both are part of this file.

The names of the parameters are those of the port to PyTorch, so that its file, pt_inception-2015-12-05-6726825d.pth
(M. Seitzer, pytorch-fid), can be given as it is.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import parallel
from gen_jax.method import Array, PyTree, UserError
from gen_jax.nn.conv import conv

SIDE = 299  # pixels
NUM_FEATURES, NUM_CLASSES = 2_048, 1_008
PUBLISHED = "pt_inception-2015-12-05-6726825d.pth"  # torch-fidelity's copy, weights-inception-..., has the same bytes
PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

_EPSILON = 1e-3  # of the batch norms
_BATCH_SIZE = 32  # pictures: the first layers then take about 0.4 GB


class Conv(NamedTuple):
    """A convolution without bias, its batch norm and a ReLU.

    Attributes:
      name: of its parameters, after that of its block.
      features: channels of the output.
      size: height and width of the kernel.
      stride: along both axes.
      padding: as in `gen_jax.nn.conv`.
    """

    name: str
    features: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"


class Pool(NamedTuple):
    """A mean or maximum over windows of 3 x 3; padding never counts.

    Attributes:
      mean: whether it is a mean.
      stride: along both axes.
      padding: SAME or VALID.
    """

    mean: bool
    stride: int = 1
    padding: str = "SAME"


class Block(NamedTuple):
    """Branches with one input, whose outputs are concatenated along the channels.

    Attributes:
      name: in front of the names inside, with a dot at its end; "" for a fork within a branch.
      branches: each a sequence of layers.
    """

    name: str
    branches: tuple[tuple[Layer, ...], ...]


Layer = Conv | Pool | Block

_SHRINK = Pool(mean=False, stride=2, padding="VALID")


def _block_a(name: str, pooled: int) -> Block:
    return Block(f"{name}.", (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3))),
        (Pool(mean=True), Conv("branch_pool", pooled)),
    ))  # fmt: skip


def _block_b(name: str) -> Block:
    return Block(f"{name}.", (
        (Conv("branch3x3", 384, (3, 3), 2, "VALID"),),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)),
         Conv("branch3x3dbl_3", 96, (3, 3), 2, "VALID")),
        (_SHRINK,),
    ))  # fmt: skip


def _block_c(name: str, inner: int) -> Block:
    return Block(f"{name}.", (
        (Conv("branch1x1", 192),),
        (Conv("branch7x7_1", inner), Conv("branch7x7_2", inner, (1, 7)), Conv("branch7x7_3", 192, (7, 1))),
        (Conv("branch7x7dbl_1", inner), Conv("branch7x7dbl_2", inner, (7, 1)), Conv("branch7x7dbl_3", inner, (1, 7)),
         Conv("branch7x7dbl_4", inner, (7, 1)), Conv("branch7x7dbl_5", 192, (1, 7))),
        (Pool(mean=True), Conv("branch_pool", 192)),
    ))  # fmt: skip


def _block_d(name: str) -> Block:
    return Block(f"{name}.", (
        (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2, "VALID")),
        (Conv("branch7x7x3_1", 192), Conv("branch7x7x3_2", 192, (1, 7)), Conv("branch7x7x3_3", 192, (7, 1)),
         Conv("branch7x7x3_4", 192, (3, 3), 2, "VALID")),
        (_SHRINK,),
    ))  # fmt: skip


def _block_e(name: str, pool: Pool) -> Block:
    def fork(first: str, second: str) -> Block:
        return Block("", ((Conv(first, 384, (1, 3)),), (Conv(second, 384, (3, 1)),)))

    return Block(f"{name}.", (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), fork("branch3x3_2a", "branch3x3_2b")),
        (Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, (3, 3)), fork("branch3x3dbl_3a", "branch3x3dbl_3b")),
        (pool, Conv("branch_pool", 192)),
    ))  # fmt: skip


LAYERS: tuple[Layer, ...] = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), 2, "VALID"),  # side 149
    Conv("Conv2d_2a_3x3", 32, (3, 3), 1, "VALID"),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),  # side 147
    _SHRINK,
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), 1, "VALID"),  # side 71
    _SHRINK,
    _block_a("Mixed_5b", 32),  # side 35
    _block_a("Mixed_5c", 64),
    _block_a("Mixed_5d", 64),
    _block_b("Mixed_6a"),  # side 17
    _block_c("Mixed_6b", 128),
    _block_c("Mixed_6c", 160),
    _block_c("Mixed_6d", 160),
    _block_c("Mixed_6e", 192),
    _block_d("Mixed_7a"),  # side 8
    _block_e("Mixed_7b", Pool(mean=True)),
    # Elsewhere this block has a mean too; in the graph of 2015 it is a maximum, with which FID was defined.
    _block_e("Mixed_7c", Pool(mean=False)),
)
"""The network, from the image to the features before the mean over all positions."""


def shapes() -> dict[str, tuple[int, ...]]:
    """Returns the name and shape of each array of a weights file, in PyTorch's layout: kernels [F, C, h, w].

    Example:
      >>> found = shapes()
      >>> len(found), found["Mixed_6b.branch7x7_2.conv.weight"], found["fc.weight"]
      (472, (128, 128, 1, 7), (1008, 2048))
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, kernel in _kernels(LAYERS, 3):
        found[f"{name}.conv.weight"] = kernel
        for statistic in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.bn.{statistic}"] = kernel[:1]
    return found | {"fc.weight": (NUM_CLASSES, NUM_FEATURES), "fc.bias": (NUM_CLASSES,)}


def _kernels(layers: tuple[Layer, ...], channels: int, prefix: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the name and the shape [F, C, h, w] of each convolution's kernel, for an input of C `channels`."""
    for layer in layers:
        if isinstance(layer, Conv):
            yield prefix + layer.name, (layer.features, channels, *layer.size)
        elif isinstance(layer, Block):
            for branch in layer.branches:
                yield from _kernels(branch, channels, prefix + layer.name)
        channels = _width((layer,), channels)


def _width(layers: tuple[Layer, ...], channels: int) -> int:
    """The channels after a sequence of layers, of an input with `channels`."""
    for layer in layers:
        if isinstance(layer, Conv):
            channels = layer.features
        elif isinstance(layer, Block):
            channels = sum(_width(branch, channels) for branch in layer.branches)
    return channels


def fold(weights: Mapping[str, np.ndarray]) -> PyTree:
    """Returns the parameters for `apply`: each batch norm folded into the kernel before it, in float64.

    Args:
      weights: named and shaped as in `shapes`.

    Returns:
      {name: {"kernel" f32 [h, w, C, F], "bias" f32 [F]}} of each convolution, and "fc" with a kernel f32 [2048, 1008].
    """
    kernel, bias = (weights[f"fc.{each}"].astype(np.float32) for each in ("weight", "bias"))
    params = {"fc": {"kernel": kernel.T, "bias": bias}}
    for name, _ in _kernels(LAYERS, 3):
        gain, bias, mean, var = (
            weights[f"{name}.bn.{statistic}"].astype(np.float64)
            for statistic in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gain / np.sqrt(var + _EPSILON)
        kernel = weights[f"{name}.conv.weight"].transpose(2, 3, 1, 0) * gain
        params[name] = {"kernel": kernel.astype(np.float32), "bias": (bias - mean * gain).astype(np.float32)}
    return params


def resize_tf1(images: Array | np.ndarray, height: int, width: int) -> Array:
    """Returns images resized as by TensorFlow 1's resize_bilinear with align_corners=False, the resize of FID.

    Pixel i of the output is at i * H / height of the input, without a shift by half a pixel, and is interpolated
    between its two neighbours, however much the image shrinks: there is no antialiasing. The last pixel is repeated.

    Args:
      images: [N, H, W, C] of any type and scale.
      height: of the output, in pixels.
      width: of the output, in pixels.

    Returns:
      f32 [N, height, width, C], on the scale of `images`.

    Example:
      >>> resize_tf1(np.array([0, 8]).reshape(1, 1, 2, 1), 1, 4).ravel().tolist()
      [0.0, 4.0, 8.0, 8.0]
    """
    x = jnp.asarray(images, jnp.float32)
    for axis, size in ((2, width), (1, height)):  # in this order, as there
        # In float32, as there: the rounding decides which pixel is the lower one.
        at = np.arange(size, dtype=np.float32) * (np.float32(x.shape[axis]) / np.float32(size))
        low = np.floor(at).astype(np.int32)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        share = (at - low.astype(np.float32)).reshape(-1, *[1] * (3 - axis))
        below = jnp.take(x, low, axis=axis)
        x = below + (jnp.take(x, high, axis=axis) - below) * share
    return x


def apply(params: PyTree, images: Array | np.ndarray) -> tuple[Array, Array]:
    """Returns the features f32 [N, 2048] and the logits f32 [N, 1008] of images uint8 [N, H, W, C].

    Grey images (C = 1) are repeated. The Inception score of Salimans et al. (2016) leaves out the bias of the logits:
    subtract `params["fc"]["bias"]`.

    Args:
      params: as `fold` returns them.
      images: of any size, on the scale of 0 to 255.

    Example:
      >>> params = fold({name: np.zeros(shape, np.float32) for name, shape in shapes().items()})
      >>> [x.shape for x in jax.eval_shape(apply, params, np.zeros((2, 32, 32, 1), np.uint8))]
      [(2, 2048), (2, 1008)]
    """
    return _forward(params, _prepare(images))


def _prepare(images: Array | np.ndarray) -> Array:
    """The input of the first layer: f32 [N, 299, 299, 3], about in [-1, 1]."""
    x = (resize_tf1(images, SIDE, SIDE) - 128) / 128
    return jnp.broadcast_to(x, (*x.shape[:3], 3))


def _forward(params: PyTree, x: Array) -> tuple[Array, Array]:
    # By default an accelerator multiplies with fewer digits than float32 has, which would be another metric.
    with jax.default_matmul_precision("highest"):
        features = _run(LAYERS, params, x).mean(axis=(1, 2))
        return features, features @ params["fc"]["kernel"] + params["fc"]["bias"]


def _run(layers: tuple[Layer, ...], params: PyTree, x: Array, prefix: str = "") -> Array:
    for layer in layers:
        if isinstance(layer, Conv):
            each = params[prefix + layer.name]
            x = jax.nn.relu(conv(x, each["kernel"], (layer.stride,) * 2, layer.padding) + each["bias"])
        elif isinstance(layer, Block):
            x = jnp.concatenate([_run(branch, params, x, prefix + layer.name) for branch in layer.branches], axis=-1)
        else:
            x = _pool(x, layer)
    return x


def _pool(x: Array, layer: Pool) -> Array:
    window, strides = (1, 3, 3, 1), (1, layer.stride, layer.stride, 1)
    if not layer.mean:
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, layer.padding)
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, layer.padding)
    ones = np.ones((1, *x.shape[1:3], 1), np.float32)
    return total / jax.lax.reduce_window(ones, np.float32(0), jax.lax.add, window, strides, layer.padding)


@dataclasses.dataclass(frozen=True)
class Inception:
    """The network with the weights of one file.

    Attributes:
      params: as `fold` returns them.
      sha256: of the file, 64 hex digits.
    """

    params: PyTree
    sha256: str

    @property
    def digest(self) -> str:
        """The first eight digits of `sha256`: metrics of two files are not comparable."""
        return self.sha256[:8]

    @property
    def published(self) -> bool:
        """Whether the file is the published one, so that a Frechet distance on its features may be named FID."""
        return self.sha256 == PUBLISHED_SHA256

    def features(self, images: np.ndarray) -> np.ndarray:
        """Returns the features f32 [N, 2048] of images uint8 [N, H, W, C]."""
        return self.outputs(images)[0]

    def outputs(self, images: np.ndarray, batch_size: int = _BATCH_SIZE) -> tuple[np.ndarray, np.ndarray]:
        """Returns the features f32 [N, 2048] and the logits f32 [N, 1008] of images uint8 [N, H, W, C].

        Args:
          images: any number, any size, grey or RGB.
          batch_size: images per call.

        Raises:
          UserError: C is neither 1 nor 3.
          ValueError: the images are not uint8.
        """
        none = np.empty((0, NUM_FEATURES), np.float32), np.empty((0, NUM_CLASSES), np.float32)
        features, logits = zip(none, *self.batches(np.asarray(images), batch_size), strict=True)
        return np.concatenate(features), np.concatenate(logits)

    def batches(self, images: Any, batch_size: int = _BATCH_SIZE) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields `outputs` of a batch at a time; `images`: anything whose slices are arrays.

        The last batch is padded, so that one compilation suffices for any number of images of any size.
        """
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(f"images are uint8 [N, H, W, C], not {images.dtype} {list(images.shape)}")
        if images.shape[3] not in (1, 3):
            raise UserError(
                f"the Inception network needs pictures with 1 channel (grey) or 3 (RGB), not {images.shape[3]}: "
                "use the project's own classifier for this set"
            )
        prepare, forward = _compiled()
        for start in range(0, len(images), batch_size):
            chunk = images[start : start + batch_size]
            padded = np.zeros((batch_size, *images.shape[1:]), np.uint8)
            padded[: len(chunk)] = chunk
            features, logits = jax.device_get(forward(self.params, prepare(padded)))
            yield features[: len(chunk)], logits[: len(chunk)]


@functools.cache
def _compiled() -> tuple[Any, Any]:
    """The two parts of `apply`: only the first, which compiles at once, depends on the size of the images."""
    options = parallel.compiler_options()
    return jax.jit(_prepare), jax.jit(_forward, compiler_options=options)


def load(path: str | os.PathLike[str]) -> Inception:
    """Returns the network with the weights of a file, on the default device.

    Args:
      path: of a .npz with the names and shapes of `shapes`, or of PyTorch's file `PUBLISHED`.

    Raises:
      UserError: the file cannot be read, or is not one of this network.
    """
    file = pathlib.Path(path).expanduser()
    try:
        with file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"cannot read the Inception weights {file} ({error.strerror}): give {PUBLISHED}, or its arrays as .npz"
        ) from error
    what = f"{file} (SHA-256 {sha256[:8]})"
    if file.suffix == ".npz":
        weights = _read_npz(file, what)
    else:
        from gen_jax.metrics import torch_file  # only this format needs it

        weights = torch_file.read(file)
    _check(weights, what)
    return Inception(jax.device_put(fold(weights)), sha256)


def _read_npz(file: pathlib.Path, what: str) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(file):  # np.load would take a .npy, too
            pass
        with np.load(file, allow_pickle=False) as opened:
            return {name: np.asarray(opened[name]) for name in opened.files}
    except Exception as error:  # a damaged file raises almost anything, from zlib.error to SyntaxError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{what} is not a whole .npz: {reason}; copy or write it again") from error


def _check(weights: Mapping[str, np.ndarray], what: str) -> None:
    """Raises a UserError, which names the first difference, if the weights are not of this network."""
    difference = _difference(weights)
    if difference:
        torchvision = np.shape(weights.get("fc.weight", ())) == (1_000, NUM_FEATURES)
        hint = "torchvision's inception_v3 has 1,000 classes and is another network: " if torchvision else ""
        raise UserError(
            f"{what} is not the Inception network of FID: {difference}; {hint}give {PUBLISHED}, or its arrays as .npz"
        )


def _difference(weights: Mapping[str, np.ndarray]) -> str:
    """The first difference from an array that `shapes` describes, in words; "" if there is none."""
    expected = shapes()
    for name, shape in expected.items():
        if name not in weights:
            return f"it has no {name}, expected with the shape {list(shape)}"
        array = weights[name]
        if array.shape != shape:
            return f"{name} has the shape {list(array.shape)}, expected is {list(shape)}"
        if not np.issubdtype(array.dtype, np.floating):
            return f"{name} has the type {array.dtype}, expected are floats"
        if not np.isfinite(array).all():
            return f"{name} has values that are not finite"
        if name.endswith(".running_var") and array.min() < 0:
            return f"{name}, a variance, has negative values"
    for name in weights:
        # PyTorch counts the batches of training as well; older versions did not.
        if name not in expected and not name.endswith(".bn.num_batches_tracked"):
            return f"it has {name} with the shape {list(weights[name].shape)}, which that network has not"
    return ""

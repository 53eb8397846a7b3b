"""Convolutions of images; parameters have the names and layouts of flax.linen, so that checkpoints are exchangeable.

Four convolutions have special implementations on CPUs, where XLA is slow:
- The weight gradient of a dilated (so also of a transposed) convolution is about 50 times slower than the gradients of
  the equivalent plain convolutions. (Its input gradient is fast and remains XLA's.)
- The input gradient of a strided convolution, which is dilated too, is slower than plain convolutions for large images.
- A convolution to an image, with one to three channels, is several times slower than a matrix product with all taps
  followed by the sum of the shifted products.
- The weight gradient of a grouped convolution is 40 to 80 times slower than those of one convolution per group (batches
  of 32, 14x14 to 28x28 pixels, 64 to 128 channels in 8 or 16 groups).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.custom_derivatives import SymbolicZero

from gen_jax import parallel
from gen_jax.method import Array
from gen_jax.nn.rows import spread

_MOST_FEATURES = 3  # of an image: grey or RGB

Padding = str | Sequence[tuple[int, int]]
"""SAME, VALID, or (before, after) for height and width."""


def conv(x: Array, kernel: Array, strides: Sequence[int] = (1, 1), padding: Padding = "SAME", groups: int = 1) -> Array:
    """Returns the correlation of images with a kernel (flax.linen.Conv without its bias).

    Args:
      x: [B, H, W, C].
      kernel: [h, w, C / groups, F].
      strides: of height and width.
      padding: as in lax.conv_general_dilated.
      groups: each of as many channels and features in a row, without connections between them; on a CPU, the time to
        compile grows with their number.

    Returns:
      [B, H', W', F].

    Example:
      >>> conv(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
      [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    if groups > 1 and parallel.on_cpu():
        parts = zip(jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True)
        return jnp.concatenate([conv(*part, strides, padding) for part in parts], axis=-1)
    if groups > 1:
        return _conv(x, kernel, strides, padding, groups)
    by_tap = _ends_in_an_image(kernel, strides)
    if not by_tap and max(strides) == 1:
        return _conv(x, kernel, strides, padding)
    pads = padding
    if isinstance(pads, str):
        pads = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, pads)
    if not parallel.on_cpu():
        return _conv(x, kernel, strides, pads)
    return (_conv_by_tap if by_tap else _conv_strided_on_cpu)(x, kernel, tuple(strides), tuple(pads))


def _conv(x: Array, kernel: Array, strides: Sequence[int], padding: Padding, groups: int = 1) -> Array:
    if not isinstance(padding, str):
        x, padding = _pad_beyond_kernel(x, kernel, padding)
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def _ends_in_an_image(kernel: Array, strides: Sequence[int] = (1, 1)) -> bool:
    height, width, _, features = kernel.shape
    return features <= _MOST_FEATURES and height * width > 1 and tuple(strides) == (1, 1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _conv_strided_on_cpu(x: Array, kernel: Array, strides: tuple[int, ...], pads: tuple[tuple[int, int], ...]) -> Array:
    return _conv(x, kernel, strides, pads)


@functools.partial(_conv_strided_on_cpu.defjvp, symbolic_zeros=True)
def _conv_strided_jvp(strides: Any, pads: Any, primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> Any:
    """The tangent along x, written as the transpose of the transposed convolution by phase."""
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _conv_strided_on_cpu(x, kernel, strides, pads)
    around = [
        (k - 1 - before, size - stride * (length - 1) + before - 1)
        for size, length, k, stride, (before, _) in zip(
            x.shape[1:3], y.shape[1:3], kernel.shape, strides, pads, strict=False
        )
    ]
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    parts = []
    if not isinstance(dx, SymbolicZero):
        to_images = jax.linear_transpose(lambda dy: _conv_transpose_by_phase(dy, turned, strides, around), y)
        parts += to_images(dx)
    if not isinstance(dkernel, SymbolicZero):
        parts.append(_conv(x, dkernel, strides, pads))
    return y, sum(parts)


def _conv_by_tap(x: Array, kernel: Array, strides: tuple[int, ...], pads: tuple[tuple[int, int], ...]) -> Array:
    del strides  # they are 1
    taps = _products(x, kernel)
    size = x.shape[1] + sum(pads[0]) - len(taps) + 1, x.shape[2] + sum(pads[1]) - len(taps[0]) + 1
    return _sum_of_moved(taps, (pads[0][0], pads[1][0]), size).astype(x.dtype)


def _products(x: Array, kernel: Array) -> list[list[Array]]:
    """The product of each tap, by row and column, with all of `x`: f32 [F, B, H, W]."""
    rows, columns, channels, features = kernel.shape
    # Taps come first, so that each is a contiguous block of memory, in the gradient too.
    taps = kernel.transpose(0, 1, 3, 2).reshape(-1, channels)
    made = jax.lax.dot_general(
        taps, x.reshape(-1, channels), (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
    made = made.reshape(rows * columns, features, *x.shape[:-1])
    each = [one[0] for one in jax.lax.split(made, [1] * len(made))]
    return [each[row * columns : (row + 1) * columns] for row in range(rows)]


def _sum_of_moved(taps: list[list[Array]], padding: tuple[int, int], size: tuple[int, int]) -> Array:
    """The sum of products, each shifted to the position of its tap, f32 [B, *size, F].

    Args:
      taps: f32 [F, B, H, W] by row and column.
      padding: before height and width; values shifted beyond an edge are cropped.
      size: of the outputs.
    """
    y = jnp.zeros(())
    for row, line in enumerate(taps):
        for column, one in enumerate(line):
            up, left = padding[0] - row, padding[1] - column
            edges = [(up, size[0] - one.shape[2] - up, 0), (left, size[1] - one.shape[3] - left, 0)]
            y += jax.lax.pad(one, jnp.zeros(()), [(0, 0, 0), (0, 0, 0), *edges])
    return jnp.moveaxis(y, 0, -1)


def _pad_beyond_kernel(
    x: Array, kernel: Array, padding: Sequence[tuple[int, int]]
) -> tuple[Array, Sequence[tuple[int, int]]]:
    """Returns `x` padded, or cropped, by the part of `padding` outside 0..kernel-1, and the remaining padding.

    A convolution with a negative padding before an axis and a positive one after it reads memory out of bounds on a CPU
    (jaxlib 0.10.2), and padding beyond the kernel becomes negative in the gradient.
    """
    inside = [(min(max(p, 0), k - 1), min(max(q, 0), k - 1)) for k, (p, q) in zip(kernel.shape, padding, strict=False)]
    beyond = [(p - in_p, q - in_q, 0) for (p, q), (in_p, in_q) in zip(padding, inside, strict=True)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *beyond, (0, 0, 0)]), inside


def conv_transpose(x: Array, kernel: Array, strides: Sequence[int] = (1, 1), padding: Padding = "SAME") -> Array:
    """Returns the transposed convolution of images (flax.linen.ConvTranspose without its bias).

    The kernel is not flipped: a torch kernel must be flipped along both spatial axes. On a CPU this is one convolution
    per output phase, elsewhere XLA's own.

    Args:
      x: [B, H, W, C].
      kernel: [h, w, C, F].
      strides: of height and width, the upsampling factors.
      padding: of the input with strides - 1 zeros between its pixels; SAME gives strides * (H, W).

    Returns:
      [B, H', W', F].

    Example:
      >>> conv_transpose(jnp.array([[[[1.0], [2.0]]]]), jnp.ones((1, 2, 1, 1)), strides=(1, 2)).ravel().tolist()
      [1.0, 1.0, 2.0, 2.0]
    """
    names = (padding, padding) if isinstance(padding, str) else padding
    pads = [_transposed_padding(k, s, p) for k, s, p in zip(kernel.shape, strides, names, strict=False)]
    form = _conv_transpose_on_cpu if parallel.on_cpu() else _conv_transpose_dilated
    return form(x, kernel, tuple(strides), tuple(pads))


def _transposed_padding(size: int, stride: int, padding: str | tuple[int, int]) -> tuple[int, int]:
    """Zeros before and after the dilated input, as in lax.conv_transpose."""
    if not isinstance(padding, str):
        return padding
    if padding == "VALID":
        return size - 1, stride - 1 + max(size - stride, 0)
    if padding == "SAME":
        total = size + stride - 2
        before = size - 1 if stride >= size else (total + 1) // 2
        return before, total - before
    raise ValueError(f"padding is SAME, VALID or pairs of numbers, not {padding!r}")


def _conv_transpose_dilated(x: Array, kernel: Array, strides: Sequence[int], pads: Sequence[tuple[int, int]]) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), pads, lhs_dilation=strides, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _conv_transpose_on_cpu(
    x: Array, kernel: Array, strides: tuple[int, ...], pads: tuple[tuple[int, int], ...]
) -> Array:
    return _conv_transpose_by_phase(x, kernel, strides, pads)


@functools.partial(_conv_transpose_on_cpu.defjvp, symbolic_zeros=True)
def _conv_transpose_jvp(strides: Any, pads: Any, primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> Any:
    """The tangent along x, as a dilated convolution: its transpose is one strided convolution, not one per phase."""
    (x, kernel), (dx, dkernel) = primals, tangents
    # In the transpose, padding beyond the kernel is negative: see _pad_beyond_kernel.
    inside = all(0 <= p < size for size, pair in zip(kernel.shape, pads, strict=False) for p in pair)
    along_x = _conv_transpose_dilated if inside else _conv_transpose_by_phase
    parts = []
    if not isinstance(dx, SymbolicZero):
        parts.append(along_x(dx, kernel, strides, pads))
    if not isinstance(dkernel, SymbolicZero):
        parts.append(_conv_transpose_by_phase(x, dkernel, strides, pads))
    return _conv_transpose_on_cpu(x, kernel, strides, pads), sum(parts)


def _conv_transpose_by_phase(x: Array, kernel: Array, strides: Sequence[int], pads: Sequence[tuple[int, int]]) -> Array:
    """One convolution for the outputs of each remainder modulo `strides`, interleaved."""
    batch, features = x.shape[0], kernel.shape[-1]
    height, rows = _phases(x.shape[1], kernel.shape[0], strides[0], pads[0])
    width, columns = _phases(x.shape[2], kernel.shape[1], strides[1], pads[1])
    shape = (batch, -(-height // strides[0]), -(-width // strides[1]), features)
    products = _products(x, kernel) if _ends_in_an_image(kernel) else None

    def phase(row: _Phase, column: _Phase) -> Array:
        taps = kernel[row.taps, column.taps]
        if taps.size == 0:  # the kernel is shorter than the stride
            return jnp.zeros(shape, x.dtype)
        if products is None:
            return _conv(x, taps, (1, 1), (row.padding, column.padding))
        made = [line[column.taps] for line in products[row.taps]]
        return _sum_of_moved(made, (row.padding[0], column.padding[0]), shape[1:3]).astype(x.dtype)

    # One axis after the other, which avoids a transpose.
    wide = [jnp.stack([phase(row, column) for column in columns], axis=3) for row in rows]
    y = jnp.stack([part.reshape(*shape[:2], -1, features) for part in wide], axis=2)
    return y.reshape(batch, -1, *y.shape[3:])[:, :height, :width]


class _Phase(NamedTuple):
    """Along one axis: the taps and padding for the outputs of one remainder modulo the stride."""

    taps: slice  # of the kernel
    padding: tuple[int, int]  # of the input


def _phases(size: int, taps: int, stride: int, padding: tuple[int, int]) -> tuple[int, list[_Phase]]:
    """Returns the length of the output and its phases, each of ceil(length / stride) outputs.

    For output stride * m + p, the dilated input is zero at all taps except first, first + stride, ... with
    first = (before - p) mod stride; the i-th of these is at input m + i - start.
    """
    before, after = padding
    length = stride * (size - 1) + 1 + before + after - taps + 1
    count = -(-length // stride)
    phases = []
    for p in range(stride):
        first = (before - p) % stride
        start = (before - p - first) // stride
        end = count - size - start + len(range(first, taps, stride)) - 1
        phases.append(_Phase(slice(first, None, stride), (start, end)))
    return length, phases


class Conv(nn.Module):
    """Convolution of images [B, H, W, C], like flax.linen.Conv.

    Attributes:
      features: channels of the output.
      kernel_size: height and width.
      strides: of height and width.
      padding: SAME, VALID, or (before, after) for height and width.
      groups: number of groups without connections between them (not in a transposed convolution).
      use_bias: whether a learned value per feature is added.
      dtype: of the computation; None: the promoted dtype of input and parameters.
      param_dtype: of the parameters.
      kernel_init: of `kernel` [h, w, C / groups, F].
      bias_init: of `bias` [F].

    Example:
      >>> x = jnp.ones((1, 4, 4, 2))
      >>> jax.eval_shape(Conv(3, (3, 3), strides=(2, 2)).init_with_output, jax.random.key(0), x)[0].shape
      (1, 2, 2, 3)
    """

    features: int
    kernel_size: Sequence[int]
    strides: Sequence[int] = (1, 1)
    padding: Padding = "SAME"
    groups: int = 1
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B, H', W', features]."""
        shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = self.operation(x, kernel)
        return y if bias is None else y + spread(bias, y.shape)

    def operation(self, x: Array, kernel: Array) -> Array:
        """Returns the convolution without its bias."""
        return conv(x, kernel, self.strides, self.padding, self.groups)


class ConvTranspose(Conv):
    """Transposed convolution of images [B, H, W, C], like flax.linen.ConvTranspose; see `conv_transpose`.

    Attributes:
      features: channels of the output; other attributes as in `Conv`.

    Example:
      >>> x = jnp.ones((1, 4, 4, 2))
      >>> jax.eval_shape(ConvTranspose(3, (4, 4), strides=(2, 2)).init_with_output, jax.random.key(0), x)[0].shape
      (1, 8, 8, 3)
    """

    def operation(self, x: Array, kernel: Array) -> Array:
        """Returns the transposed convolution without its bias."""
        return conv_transpose(x, kernel, self.strides, self.padding)

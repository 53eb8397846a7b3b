"""The U-Net of gen_jax.diffusion.unet in idiomatic PyTorch: the peer of benchmarks.ddpm.

Images are NCHW. Modules have the same names, so that `copy_parameters` can match them by name. Labels and
dropout are omitted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor, nn


class RMSNorm(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        norm = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)
        gain = self.scale[None] if scale is None else self.scale * (1 + scale)
        return _affine(norm, gain, shift)


class GroupNorm(nn.Module):
    def __init__(self, channels: int, num_groups: int):
        super().__init__()
        self.num_groups = num_groups
        self.scale = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        norm = F.group_norm(x, self.num_groups, self.scale, self.bias, eps=1e-6)
        return norm if scale is None else _affine(norm, 1 + scale, shift)


def _affine(x: Tensor, gain: Tensor, shift: Tensor | None) -> Tensor:
    gain = gain[:, :, None, None]
    return x * gain if shift is None else torch.addcmul(shift[:, :, None, None], x, gain)


NORMS: dict[str, Callable[[int], Callable[[int], nn.Module]]] = {
    "rms": lambda num_groups: RMSNorm,
    "group": lambda num_groups: functools.partial(GroupNorm, num_groups=num_groups),
}


class ResidualBlock(nn.Module):
    def __init__(
        self,
        channels: int,
        features: int,
        condition_dim: int,
        norm: Callable[[int], nn.Module],
        film: bool,
        use_bias: bool,
    ):
        super().__init__()
        self.film = film
        self.norm_0 = norm(channels)
        self.conv_0 = nn.Conv2d(channels, features, 3, padding=1, bias=use_bias)
        self.condition = nn.Linear(condition_dim, features * (2 if film else 1))
        self.norm_1 = norm(features)
        self.conv_1 = nn.Conv2d(features, features, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, features, 1) if channels != features else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv_0(F.silu(self.norm_0(x)))
        condition = self.condition(F.silu(condition))
        h = self.norm_1(h, *condition.chunk(2, dim=1)) if self.film else self.norm_1(h + condition[:, :, None, None])
        return self.shortcut(x) + self.conv_1(F.silu(h))


class SelfAttention(nn.Module):
    def __init__(self, channels: int, num_heads: int, qkv_bias: bool):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        tokens = x.flatten(2).mT  # [B, N, C]
        qkv = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [3, B, heads, N, width]
        mixed = F.scaled_dot_product_attention(*qkv.unbind())
        return self.out(mixed.transpose(1, 2).flatten(2)).mT.reshape(batch, channels, height, width)


class AttentionBlock(nn.Module):
    def __init__(self, channels: int, num_heads: int, norm: Callable[[int], nn.Module], use_bias: bool):
        super().__init__()
        self.norm = norm(channels)
        self.attention = SelfAttention(channels, num_heads, use_bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.norm(x))


class Down(nn.Module):
    """Halves the size, by moving pixels into channels or by the paper's strided convolution."""

    def __init__(self, channels: int, features: int, shuffle: bool):
        super().__init__()
        self.shuffle = shuffle
        self.layer = nn.Conv2d(4 * channels, features, 1) if shuffle else nn.Conv2d(channels, features, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.pixel_unshuffle(x, 2) if self.shuffle else F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    """Doubles the size, by moving channels into pixels or by the paper's resize and convolution."""

    def __init__(self, channels: int, features: int, shuffle: bool):
        super().__init__()
        self.shuffle = shuffle
        self.layer = nn.Conv2d(channels, 4 * features, 1) if shuffle else nn.Conv2d(channels, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.layer(x), 2) if self.shuffle else self.layer(F.interpolate(x, scale_factor=2))


class UNet(nn.Module):
    """Takes the fields of gen_jax.diffusion.unet.UNet, and the size of the images."""

    def __init__(
        self,
        size: int,
        in_channels: int,
        out_channels: int,
        channels: int,
        multipliers: tuple[int, ...],
        num_blocks: int,
        attention_sizes: tuple[int, ...],
        num_heads: int = 1,
        patch: int = 1,
        norm: str = "group",
        num_groups: int = 32,
        film: bool = False,
        shuffle: bool = False,
        use_bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        if dropout:
            raise ValueError("this peer has no dropout")
        self.channels, self.num_blocks, self.patch = channels, num_blocks, patch
        self.padding = -size % (patch * 2 ** (len(multipliers) - 1))
        make_norm = NORMS[norm](num_groups)
        widths = [channels * m for m in multipliers]

        def block(width: int, features: int) -> ResidualBlock:
            return ResidualBlock(width, features, 4 * channels, make_norm, film, use_bias)

        def attention(width: int) -> AttentionBlock:
            return AttentionBlock(width, num_heads, make_norm, use_bias)

        self.time_0 = nn.Linear(channels, 4 * channels)
        self.time_1 = nn.Linear(4 * channels, 4 * channels)
        self.in_ = nn.Conv2d(in_channels * patch**2, channels, 3, padding=1)  # "in" is a keyword
        side, width, skips = (size + self.padding) // patch, channels, [channels]
        self.way_down: list[str] = []
        self.way_up: list[str] = []
        for i, features in enumerate(widths):
            for j in range(num_blocks):
                self._append(self.way_down, f"down_{i}_{j}", block(width, features))
                if side in attention_sizes:
                    self.add_module(f"down_{i}_{j}_attention", attention(features))
                width = features
                skips.append(width)
            if i + 1 < len(widths):
                self._append(self.way_down, f"down_{i}", Down(width, features, shuffle))
                side //= 2
                skips.append(width)
        self.middle_0, self.middle_1 = block(width, width), block(width, width)
        self.middle_attention = attention(width)
        for i, features in reversed(list(enumerate(widths))):
            for j in range(num_blocks + 1):
                self._append(self.way_up, f"up_{i}_{j}", block(width + skips.pop(), features))
                if side in attention_sizes:
                    self.add_module(f"up_{i}_{j}_attention", attention(features))
                width = features
            if i > 0:
                self._append(self.way_up, f"up_{i}", Up(width, features, shuffle))
                side *= 2
        self.out_norm = make_norm(width)
        self.out = nn.Conv2d(width, out_channels * patch**2, 3, padding=1)

    def _append(self, way: list[str], name: str, module: nn.Module) -> None:
        self.add_module(name, module)
        way.append(name)

    def _apply_block(self, name: str, h: Tensor, condition: Tensor) -> Tensor:
        h = self.get_submodule(name)(h, condition)
        return self.get_submodule(f"{name}_attention")(h) if hasattr(self, f"{name}_attention") else h

    def forward(self, x_t: Tensor, time: Tensor) -> Tensor:
        """Returns the prediction [B, C, H, W] for `x_t` [B, C, H, W] and `time` [B] in steps."""
        condition = self.time_1(F.silu(self.time_0(sinusoidal(time, self.channels))))
        before, after = self.padding // 2, self.padding - self.padding // 2
        x = F.pad(x_t, (before, after, before, after))
        h = self.in_(F.pixel_unshuffle(x, self.patch))
        skips = [h]
        for name in self.way_down:
            module = self.get_submodule(name)
            h = module(h) if isinstance(module, Down) else self._apply_block(name, h, condition)
            skips.append(h)
        h = self.middle_1(self.middle_attention(self.middle_0(h, condition)), condition)
        for name in self.way_up:
            module = self.get_submodule(name)
            if isinstance(module, Up):
                h = module(h)
            else:
                h = self._apply_block(name, torch.cat([h, skips.pop()], dim=1), condition)
        out = F.pixel_shuffle(self.out(F.silu(self.out_norm(h))), self.patch)
        return out[:, :, before : before + x_t.shape[2], before : before + x_t.shape[3]]


def sinusoidal(values: Tensor, dim: int) -> Tensor:
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000.0) / (half - 1) * torch.arange(half, device=values.device))
    angles = values[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@torch.no_grad()
def copy_parameters(params: Mapping[str, Any], network: UNet) -> None:
    """Sets every parameter of `network` to the one with the same name in Flax's `params`.

    Raises:
      KeyError, RuntimeError: a parameter has no counterpart, or another shape.
    """
    ours = {".".join(path): np.asarray(leaf) for path, leaf in leaves(params)}
    for name, parameter in network.named_parameters():
        module, field = name.replace(".layer.", ".").replace("in_.", "in.").rsplit(".", 1)
        if f"{module}.scale" in ours:
            value = ours.pop(f"{module}.{field}")
        elif field == "bias":
            value = ours.pop(f"{module}.bias")
            value = pixel_major(value, 0, _out_shuffle(network, module))
        else:
            value = ours.pop(f"{module}.kernel")
            value = pixel_major(value, value.ndim - 1, _out_shuffle(network, module))
            value = pixel_major(value, value.ndim - 2, _in_shuffle(network, module))
            value = np.moveaxis(value, (-1, -2), (0, 1))  # [h, w, in, out] -> [out, in, h, w]
            value = value.reshape(value.shape + (1,) * (parameter.ndim - value.ndim))  # a Dense as a 1x1 convolution
        parameter.copy_(torch.from_numpy(value.copy()))
    if ours:
        raise KeyError(f"parameters without a counterpart: {', '.join(ours)}")


def leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()):
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _in_shuffle(network: UNet, module: str) -> int:
    layer = network._modules.get(module)
    return network.patch if module == "in" else 2 if isinstance(layer, Down) and layer.shuffle else 1


def _out_shuffle(network: UNet, module: str) -> int:
    layer = network._modules.get(module)
    return network.patch if module == "out" else 2 if isinstance(layer, Up) and layer.shuffle else 1


def pixel_major(value: np.ndarray, axis: int, factor: int) -> np.ndarray:
    """Reorders channels from (pixel, channel), ours, to (channel, pixel), as in torch's pixel_shuffle."""
    order = np.arange(value.shape[axis]).reshape(factor**2, -1).T.ravel()
    return np.take(value, order, axis)

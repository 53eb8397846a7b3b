"""The DiT of gen_jax.diffusion.dit in idiomatic PyTorch: a peer of benchmarks.ddpm.

Images are NCHW. Modules have the same names, so that `copy_parameters` can match them by name. Labels are omitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor, nn

from benchmarks.torch_unet import leaves, pixel_major, sinusoidal


class RMSNorm(nn.Module):
    """Over the last axis; torch.nn.RMSNorm with our name for its gain."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.scale.shape, self.scale, eps=1e-6)


class Attention(nn.Module):
    def __init__(self, width: int, num_heads: int, qk_norm: bool, qkv_bias: bool):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.query_norm = RMSNorm(width // num_heads) if qk_norm else nn.Identity()
        self.key_norm = RMSNorm(width // num_heads) if qk_norm else nn.Identity()
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, N, width]
        mixed = F.scaled_dot_product_attention(self.query_norm(q), self.key_norm(k), v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, num_heads: int, mlp_ratio: int, qk_norm: bool, qkv_bias: bool):
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = Attention(width, num_heads, qk_norm, qkv_bias)
        self.mlp_0 = nn.Linear(width, mlp_ratio * width)
        self.mlp_1 = nn.Linear(mlp_ratio * width, width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift_0, scale_0, gate_0, shift_1, scale_1, gate_1 = self.modulation(condition)[:, None].chunk(6, dim=2)
        x = x + gate_0 * self.attention(_modulated(x, scale_0, shift_0))
        h = F.gelu(self.mlp_0(_modulated(x, scale_1, shift_1)), approximate="tanh")
        return x + gate_1 * self.mlp_1(h)


class DiT(nn.Module):
    """Takes the fields of gen_jax.diffusion.dit.DiT, and the size of the images, a multiple of the patch."""

    def __init__(
        self,
        size: int,
        in_channels: int,
        out_channels: int,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: int = 4,
        qk_norm: bool = True,
        qkv_bias: bool = False,
    ):
        super().__init__()
        if size % patch:
            raise ValueError("this peer does not pad images")
        self.patch, side = patch, size // patch
        self.time_0 = nn.Linear(256, width)
        self.time_1 = nn.Linear(width, width)
        self.in_ = nn.Conv2d(in_channels, width, patch, stride=patch)  # "in" is a keyword
        self.blocks = [f"block_{i}" for i in range(depth)]
        for name in self.blocks:
            self.add_module(name, Block(width, num_heads, mlp_ratio, qk_norm, qkv_bias))
        self.out_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, out_channels * patch**2)
        angles = torch.arange(side)[:, None] * 10_000.0 ** (-torch.arange(width // 4) / (width // 4))
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, width / 2]
        rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
        self.register_buffer("positions", torch.cat([rows, columns], dim=2).flatten(0, 1))

    def forward(self, x_t: Tensor, time: Tensor) -> Tensor:
        """Returns the prediction [B, C, H, W] for `x_t` [B, C, H, W] and `time` [B] in steps."""
        condition = F.silu(self.time_1(F.silu(self.time_0(sinusoidal(time, 256)))))
        grid = self.in_(x_t)
        h = grid.flatten(2).mT + self.positions
        for name in self.blocks:
            h = self.get_submodule(name)(h, condition)
        shift, scale = self.out_modulation(condition)[:, None].chunk(2, dim=2)
        h = self.out(_modulated(h, scale, shift))
        return F.pixel_shuffle(h.mT.unflatten(2, grid.shape[2:]), self.patch)


def _modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


@torch.no_grad()
def copy_parameters(params: Mapping[str, Any], network: DiT) -> None:
    """Sets every parameter of `network` to the one with the same name in Flax's `params`.

    Raises:
      KeyError, RuntimeError: a parameter has no counterpart, or another shape.
    """
    ours = {".".join(path): np.asarray(leaf) for path, leaf in leaves(params)}
    for name, parameter in network.named_parameters():
        path = name.replace("in_.", "in.")
        value = ours.pop(path if path in ours else path.replace("weight", "kernel"))
        if name.startswith("out."):
            value = pixel_major(value, value.ndim - 1, network.patch)
        if name == "in_.weight":  # [patch * patch * channels, width] -> [width, channels, patch, patch]
            value = value.reshape(network.patch, network.patch, -1, value.shape[-1]).transpose(3, 2, 0, 1)
        elif name.endswith("weight"):
            value = value.T
        parameter.copy_(torch.from_numpy(value.copy()))
    if ours:
        raise KeyError(f"parameters without a counterpart: {', '.join(ours)}")

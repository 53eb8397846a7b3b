"""Two networks of gen_jax.vae.networks, dense and convolutional, in PyTorch: the peers of benchmarks.vae.

They are idiomatic PyTorch. Modules have the same names, with "_" for "/".

Images are NCHW and rotated by 180 degrees. If a stride needs an odd number of zeros, XLA's SAME has one more after
a picture, and PyTorch's `padding` one more before it: with rotated pictures and kernels, both are the same network,
and PyTorch does not have to copy each picture into a padded one. Sizes must halve evenly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from flax.traverse_util import flatten_dict
from torch import Tensor, nn

from benchmarks.peer import fields_of
from gen_jax.nn.gaussian import LOG_VAR_LIMIT
from gen_jax.vae.autoencoder import CHOICES

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


class Picture(NamedTuple):
    """The picture that a dense layer reads or writes instead of a row of numbers, in its memory order."""

    height: int
    width: int
    channels: int
    layout: str

    def flatten(self, x: Tensor) -> Tensor:
        return (x if self.layout == "NCHW" else x.permute(0, 2, 3, 1)).flatten(1)

    def unflatten(self, x: Tensor) -> Tensor:
        height, width, channels, layout = self
        if layout == "NCHW":
            return x.unflatten(1, (channels, height, width))
        return x.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)

    def order(self) -> np.ndarray:
        """The position of each of its numbers in a flattened [H, W, C] that is not rotated."""
        places = np.arange(math.prod(self[:3])).reshape(self[:3])[::-1, ::-1]
        return (places.transpose(2, 0, 1) if self.layout == "NCHW" else places).ravel()


class Linear(nn.Linear):
    def __init__(self, inputs: int | Picture, outputs: int | Picture, bias: bool = True):
        rows, columns = (math.prod(side[:3]) if isinstance(side, Picture) else side for side in (inputs, outputs))
        super().__init__(rows, columns, bias)
        self.inputs, self.outputs = inputs, outputs

    def forward(self, input: Tensor) -> Tensor:
        x = super().forward(self.inputs.flatten(input) if isinstance(self.inputs, Picture) else input)
        return self.outputs.unflatten(x) if isinstance(self.outputs, Picture) else x


class VAE(nn.Module):
    def __init__(self, encoder: Mapping[str, nn.Module], decoder: Mapping[str, nn.Module]):
        super().__init__()
        self.encoder, self.decoder = nn.Sequential(), nn.Sequential()
        for network, layers in ((self.encoder, encoder), (self.decoder, decoder)):
            for name, layer in layers.items():
                network.add_module(name, layer)

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits [B, C, H, W], and mean and log variance [B, Z], for `x` [B, C, H, W] and noise [B, Z]."""
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        log_var = LOG_VAR_LIMIT * torch.tanh(log_var / LOG_VAR_LIMIT)
        return self.decoder(mean + torch.exp(0.5 * log_var) * eps), mean, log_var


def negative_elbo(network: Callable[..., Any], x: Tensor, eps: Tensor, kl_weight: float, free_bits: float) -> Tensor:
    """Returns the loss of gen_jax.vae.vae with the Bernoulli likelihood, for `x` in [0, 1] and noise [B, Z].

    `network` is a VAE, or a VAE compiled.
    """
    logits, mean, log_var = network(x, eps)
    kl = 0.5 * (mean.square() + torch.expm1(log_var) - log_var)
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return (reconstruction + kl_weight * kl.clamp(min=free_bits).sum()) / len(x)


ACTIVATIONS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "relu": (1, nn.ReLU),
    "tanh": (1, nn.Tanh),
    "gated": (2, lambda: nn.GLU(dim=1)),
}


def _hidden(widths: Sequence[int | Picture], activation: str) -> Iterator[tuple[str, nn.Module]]:
    inputs, function = ACTIVATIONS[activation]
    for number, (before, after) in enumerate(itertools.pairwise(widths)):
        yield f"hidden_dense_{number}", Linear(before, after if isinstance(after, Picture) else inputs * after)
        yield f"hidden_{activation}_{number}", function()


def dense(image: Picture, latents: int, hidden: Sequence[int], activation: str = "gated") -> VAE:
    """Returns DenseEncoder and DenseDecoder."""
    encoder = dict(_hidden([image, *hidden], activation))
    decoder = dict(_hidden([latents, *hidden[::-1]], activation))
    last = (hidden[-1], hidden[0]) if hidden else (image, latents)
    return VAE(encoder | {"posterior": Linear(last[0], 2 * latents)}, decoder | {"out": Linear(last[1], image)})


def conv(
    image: Picture,
    latents: int,
    channels: Sequence[int],
    kernels: Sequence[int],
    hidden: Sequence[int],
    decoder_hidden: Sequence[int],
    decoder_channels: Sequence[int],
    decoder_kernel: int,
    last_stride: int,
) -> VAE:
    """Returns ConvEncoder and ConvDecoder."""

    def shrunk(factor: int) -> Picture:
        return Picture(image.height // factor, image.width // factor, channels[-1], image.layout)

    encoder: dict[str, nn.Module] = {}
    widths = itertools.pairwise([image.channels, *channels])
    for number, ((before, after), size) in enumerate(zip(widths, kernels, strict=True)):
        encoder[f"conv_{number}"] = nn.Conv2d(before, after, size, stride=2, padding=(size - 1) // 2)
        encoder[f"relu_{number}"] = nn.ReLU()
    codes = [shrunk(2 ** len(channels)), *hidden]
    encoder |= dict(_hidden(codes, "relu"))
    encoder["posterior"] = Linear(codes[-1], 2 * latents)

    def enlarge(before: int, after: int, stride: int) -> nn.Module:
        size = decoder_kernel
        return nn.ConvTranspose2d(
            before, after, size, stride, padding=(size - 1) // 2, output_padding=(size - stride) % 2
        )

    start = shrunk(2 ** len(decoder_channels) * last_stride)
    decoder = dict(_hidden([latents, *decoder_hidden, start], "relu"))
    for number, (before, after) in enumerate(itertools.pairwise([channels[-1], *decoder_channels])):
        decoder[f"conv_{number}"] = enlarge(before, after, 2)
        decoder[f"relu_{number}"] = nn.ReLU()
    decoder["out"] = enlarge([channels[-1], *decoder_channels][-1], image.channels, last_stride)
    return VAE(encoder, decoder)


NETWORKS: dict[str, Callable[..., VAE]] = {"dense": dense, "conv": conv}


def make(config: Mapping[str, Any], image_shape: tuple[int, int, int], latents: int, layout: str) -> VAE:
    """Returns the networks of `config.network` for images (H, W, C), in one of LAYOUTS."""
    peer = NETWORKS[config["name"]]
    network = peer(Picture(*image_shape, layout), latents, **fields_of(config, CHOICES["network"], peer))
    return network.to(memory_format=LAYOUTS[layout])  # pyright: ignore[reportCallIssue]  missing in torch's stubs


def to_peer(images: np.ndarray, layout: str) -> Tensor:
    """Returns images [B, H, W, C] in the form that these networks take."""
    turned = torch.from_numpy(images[:, ::-1, ::-1].copy())
    return turned.permute(0, 3, 1, 2).contiguous(memory_format=LAYOUTS[layout])


def from_peer(images: Tensor) -> np.ndarray:
    """Returns the images that `to_peer` converted."""
    return images.detach().permute(0, 2, 3, 1).numpy()[:, ::-1, ::-1]


@torch.no_grad()
def copy_parameters(params: Mapping[str, Any], network: nn.Module) -> None:
    """Sets the parameters of `network` to those with the same names in Flax's `params`.

    Raises:
      KeyError, RuntimeError: a parameter has no counterpart, or another shape.
    """
    ours = {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="_").items()}
    for name, layer in network.named_modules():
        if not isinstance(layer, Linear | nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            continue
        prefix = name.replace(".", "_")
        weight = ours.pop(f"{prefix}_scale" if isinstance(layer, nn.BatchNorm2d) else f"{prefix}_kernel")
        bias = None if layer.bias is None else ours.pop(f"{prefix}_bias")
        if isinstance(layer, Linear):
            if isinstance(layer.inputs, Picture):
                weight = weight[layer.inputs.order()]
            if isinstance(layer.outputs, Picture):
                order = layer.outputs.order()
                weight, bias = weight[:, order], None if bias is None else bias[order]
            weight = weight.T
        elif isinstance(layer, nn.ConvTranspose2d):
            weight = weight.transpose(2, 3, 0, 1)  # [in, out, h, w]; PyTorch itself rotates it
        elif isinstance(layer, nn.Conv2d):
            weight = weight[::-1, ::-1].transpose(3, 2, 0, 1)  # [out, in, h, w]
        layer.weight.copy_(torch.from_numpy(weight.copy()))
        if layer.bias is not None and bias is not None:
            layer.bias.copy_(torch.from_numpy(bias.copy()))
    if ours:
        raise KeyError(f"parameters without a counterpart: {', '.join(ours)}")

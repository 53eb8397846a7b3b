"""The pair of gen_jax.gan.r3gan and its game in PyTorch: a peer of benchmarks.gan.

It is idiomatic PyTorch. Modules have the same names; images are rotated as in benchmarks.torch_vae. Labels,
augmentation and burn-in are omitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from flax.traverse_util import flatten_dict
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from benchmarks.peer import fields_of
from benchmarks.torch_gan import make_optimizers
from benchmarks.torch_vae import LAYOUTS
from gen_jax.gan.defaults import CHOICES

RESAMPLE = torch.tensor([1.0, 3.0, 3.0, 1.0])


class Block(nn.Module):
    def __init__(self, width: int, expansion: int, cardinality: int):
        super().__init__()
        inner = expansion * width
        self.add_module("in", nn.Conv2d(width, inner, 1))
        self.add_module("grouped", nn.Conv2d(inner, inner, 3, padding=1, groups=cardinality))
        self.add_module("out", nn.Conv2d(inner, width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.get_submodule("in")(x), 0.2)
        return x + self.get_submodule("out")(F.leaky_relu(self.get_submodule("grouped")(h), 0.2))


class Doubled(nn.Module):
    """Twice the size: pixels repeated, then blurred by [1, 2, 1] / 4 along both axes."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("filter", (torch.outer(RESAMPLE, RESAMPLE) / 16).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.get_buffer("filter")
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=len(kernel))


class Halved(Doubled):
    """Half the size: blurred by [1, 2, 1] / 4, then means of 2x2 pixels."""

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.get_buffer("filter") / 4
        return F.conv2d(x, kernel, stride=2, padding=1, groups=len(kernel))


def _stages(widths: Sequence[int], blocks: int, cardinality: int, expansion: int, grows: bool) -> nn.Sequential:
    layers, before = nn.Sequential(), widths[0]
    for stage, width in enumerate(widths):
        widen = nn.Conv2d(before, width, 1, bias=False) if width != before else None
        if stage and not grows:
            layers.add_module(f"halved_{stage}", Halved(before))
        if widen is not None:
            layers.add_module(f"widen_{stage}", widen)
        if stage and grows:
            layers.add_module(f"doubled_{stage}", Doubled(width))
        for number in range(blocks):
            layers.add_module(f"block_{stage}_{number}", Block(width, expansion, cardinality))
        before = width
    return layers


class Generator(nn.Module):
    """z [B, Z] to images [B, C, H, W]."""

    def __init__(self, image_shape: tuple[int, int, int], latents: int, stages: nn.Sequential, widths: Sequence[int]):
        super().__init__()
        height, width, channels = image_shape
        factor = 2 ** (len(widths) - 1)
        self.basis = nn.Parameter(torch.randn(widths[0], height // factor, width // factor))
        self.add_module("in", nn.Linear(latents, widths[0], bias=False))
        self.stages = stages
        self.out = nn.Conv2d(widths[-1], channels, 1, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        return self.out(self.stages(self.basis * self.get_submodule("in")(z)[:, :, None, None]))


class Discriminator(nn.Module):
    """Images [B, C, H, W] to logits [B, 1]."""

    def __init__(self, image_shape: tuple[int, int, int], stages: nn.Sequential, widths: Sequence[int]):
        super().__init__()
        height, width, channels = image_shape
        factor = 2 ** (len(widths) - 1)
        self.add_module("in", nn.Conv2d(channels, widths[0], 1, bias=False))
        self.stages = stages
        self.basis = nn.Parameter(torch.randn(widths[-1], height // factor, width // factor))
        self.out = nn.Linear(widths[-1], 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.stages(self.get_submodule("in")(x)) * self.basis).sum(dim=(2, 3)))


class GAN(nn.Module):
    def __init__(self, generator: Generator, discriminator: Discriminator):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator


def r3gan(
    image_shape: tuple[int, int, int],
    latents: int,
    widths: Sequence[int],
    blocks: int,
    cardinality: int,
    expansion: int,
) -> GAN:
    """Returns GroupedGenerator and GroupedDiscriminator, without labels."""
    up, down = (
        _stages(each, blocks, cardinality, expansion, grows) for each, grows in ((widths, True), (widths[::-1], False))
    )
    return GAN(Generator(image_shape, latents, up, widths), Discriminator(image_shape, down, widths[::-1]))


def make(config: Mapping[str, Any], image_shape: tuple[int, int, int], latents: int, layout: str) -> GAN:
    """Returns the networks of `config.network` for images (H, W, C), in one of LAYOUTS."""
    network = r3gan(image_shape, latents, **fields_of(config, CHOICES["network"], r3gan))
    return network.to(memory_format=LAYOUTS[layout])  # pyright: ignore[reportCallIssue]  missing in torch's stubs


@torch.no_grad()
def copy_parameters(params: Mapping[str, Any], network: GAN) -> None:
    """Sets the parameters of `network` to those with the same names in Flax's `params`.

    Raises:
      KeyError, RuntimeError: a parameter has no counterpart, or another shape.
    """
    ours = {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep=".").items()}
    for name, parameter in network.named_parameters():
        value = ours.pop(name.replace(".stages", "").replace(".weight", ".kernel"))
        if name.endswith("basis"):
            value = value[::-1, ::-1].transpose(2, 0, 1)  # rotated, as the images are
        elif value.ndim == 4:
            value = value[::-1, ::-1].transpose(3, 2, 0, 1)  # [out, in / groups, h, w]
        elif value.ndim == 2:
            value = value.T
        parameter.copy_(torch.from_numpy(value.copy()).reshape(parameter.shape))
    if ours:
        raise KeyError(f"parameters without a counterpart: {', '.join(ours)}")


def make_step(config: Any, network: GAN, average: AveragedModel) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Returns (real [B, C, H, W] in [-1, 1], z [B, Z]) -> losses of discriminator and generator; a call trains both.

    One forward pass of the discriminator for real and one for generated images serves the loss and the penalty.
    """
    generator, discriminator = network.generator, network.discriminator
    weight = config.gan.penalty.weight

    optimize_generator, optimize_discriminator = make_optimizers(config, network)

    def judged(images: Tensor) -> tuple[Tensor, Tensor]:
        images = images.detach().requires_grad_()
        logits = discriminator(images)[:, 0]
        (slopes,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return logits, slopes.square().sum(dim=(1, 2, 3)) / 2

    def train_discriminator(real: Tensor, fake: Tensor) -> Tensor:
        (real_logits, r1), (fake_logits, r2) = judged(real), judged(fake)
        loss = F.softplus(fake_logits - real_logits).mean()
        optimize_discriminator.zero_grad()
        (loss + weight * (r1 + r2).mean()).backward()
        optimize_discriminator.step()
        return loss

    def train_generator(real: Tensor, fake: Tensor) -> Tensor:
        discriminator.requires_grad_(False)  # do not compute gradients of its weights
        with torch.no_grad():
            real_logits = discriminator(real)
        loss = F.softplus(real_logits - discriminator(fake)).mean()
        optimize_generator.zero_grad()
        loss.backward()
        optimize_generator.step()
        discriminator.requires_grad_(True)
        average.update_parameters(generator)
        return loss

    def step(real: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        fake = generator(z)
        return train_discriminator(real, fake).detach(), train_generator(real, fake).detach()

    return step

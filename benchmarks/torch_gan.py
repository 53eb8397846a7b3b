"""The convolutional pair of gen_jax.gan.convolutional and the step of gen_jax.gan.game in PyTorch: the peer of
benchmarks.gan.

It is idiomatic PyTorch. Modules have the same names, with "_" for "/"; images are rotated, and parameters copied, as in
benchmarks.torch_vae. Sizes must halve evenly. Labels, penalties, constraints, noise and dropout are omitted.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn

from benchmarks.peer import fields_of
from benchmarks.torch_vae import LAYOUTS, Linear, Picture
from gen_jax.gan.defaults import CHOICES

Player = Callable[[Tensor], Tensor]
NORMS = {"none": False, "batch": True}  # whether there is a norm


class GAN(nn.Module):
    """`generator`: z [B, Z] to images [B, C, H, W] in [-1, 1]; `discriminator`: images to logits [B, 1]."""

    def __init__(self, generator: Mapping[str, nn.Module], discriminator: Mapping[str, nn.Module]):
        super().__init__()
        self.generator, self.discriminator = nn.Sequential(), nn.Sequential()
        for network, layers in ((self.generator, generator), (self.discriminator, discriminator)):
            for name, layer in layers.items():
                network.add_module(name, layer)


def conv(
    image: Picture,
    latents: int,
    generator_channels: Sequence[int],
    generator_kernel: int,
    generator_norm: str,
    last_stride: int,
    upsampling: str,
    channels: Sequence[int],
    kernel: int,
    norm: str,
    norm_first: bool,
    end_bias: bool,
) -> GAN:
    """Returns ConvGenerator and ConvDiscriminator."""
    if upsampling != "transposed":
        raise ValueError(f"this peer supports only upsampling by transposed convolutions, not by {upsampling}")
    generator = _generator(
        image, latents, generator_channels, generator_kernel, NORMS[generator_norm], last_stride, end_bias
    )
    return GAN(generator, _discriminator(image, channels, kernel, NORMS[norm], norm_first, end_bias))


def _generator(
    image: Picture, latents: int, channels: Sequence[int], kernel: int, normed: bool, last_stride: int, end_bias: bool
) -> dict[str, nn.Module]:
    factor = 2 ** (len(channels) - 1) * last_stride
    start = Picture(image.height // factor, image.width // factor, channels[0], image.layout)

    def grow(before: int, after: int, size: int, stride: int, bias: bool) -> nn.Module:
        padding, beyond = (size - stride + 1) // 2, (size - stride) % 2
        return nn.ConvTranspose2d(before, after, size, stride, padding, beyond, bias=bias)

    layers: dict[str, nn.Module] = {"in": Linear(latents, start, end_bias)}
    if normed:
        layers["norm_in"] = nn.BatchNorm2d(channels[0])
    layers["relu_in"] = nn.ReLU(inplace=True)
    for number, (before, after) in enumerate(itertools.pairwise(channels)):
        layers[f"up_{number}_conv"] = grow(before, after, kernel, 2, bias=not normed)
        if normed:
            layers[f"norm_{number}"] = nn.BatchNorm2d(after)
        layers[f"relu_{number}"] = nn.ReLU(inplace=True)
    layers["out_conv"] = grow(channels[-1], image.channels, kernel * last_stride // 2, last_stride, end_bias)
    layers["tanh"] = nn.Tanh()
    return layers


def _discriminator(
    image: Picture, channels: Sequence[int], kernel: int, normed: bool, norm_first: bool, end_bias: bool
) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {}
    for number, (before, after) in enumerate(itertools.pairwise([image.channels, *channels])):
        this_normed = normed and (number > 0 or norm_first)
        layers[f"conv_{number}"] = nn.Conv2d(before, after, kernel, 2, (kernel - 1) // 2, bias=not this_normed)
        if this_normed:
            layers[f"norm_{number}"] = nn.BatchNorm2d(after)
        layers[f"leaky_relu_{number}"] = nn.LeakyReLU(0.2, inplace=True)
    factor = 2 ** len(channels)
    end = Picture(image.height // factor, image.width // factor, channels[-1], image.layout)
    layers["out"] = Linear(end, 1, end_bias)
    return layers


NETWORKS: dict[str, Callable[..., GAN]] = {"conv": conv}


def make(config: Mapping[str, Any], image_shape: tuple[int, int, int], latents: int, layout: str) -> GAN:
    """Returns the networks of `config.network` for images (H, W, C), in one of LAYOUTS."""
    peer = NETWORKS[config["name"]]
    network = peer(Picture(*image_shape, layout), latents, **fields_of(config, CHOICES["network"], peer))
    return network.to(memory_format=LAYOUTS[layout])  # pyright: ignore[reportCallIssue]  missing in torch's stubs


def make_average(config: Any, network: GAN) -> AveragedModel:
    """Returns the moving average of the generator's weights and running averages."""

    def renew(average: PARAM_LIST, new: PARAM_LIST, num_averaged: Tensor | int) -> None:
        step = int(num_averaged)
        decay = min(config.ema, step / (step + 10))  # gen_jax.optimizer.ema_decay
        get_ema_multi_avg_fn(decay)(average, new, num_averaged)

    return AveragedModel(network.generator, multi_avg_fn=renew, use_buffers=True)


def make_optimizers(config: Any, network: Any) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Returns Adam for the generator and for the discriminator of a pair."""
    c = config.optimizer
    rates = (c.learning_rate, config.discriminator_optimizer.learning_rate)
    first, second = (
        torch.optim.Adam(player.parameters(), rate, (c.b1, c.b2), c.eps, fused=True)
        for player, rate in zip((network.generator, network.discriminator), rates, strict=True)
    )
    return first, second


def make_step(
    config: Any, network: GAN, average: AveragedModel, forward: tuple[Player, Player] | None = None
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Returns (real [B, C, H, W] in [-1, 1], z [B, Z]) -> losses of discriminator and generator; a call trains both.

    `forward` is the generator and the discriminator as they are called, if they are compiled.

    As in gen_jax.gan.game: one forward pass of the generator, whose images the discriminator evaluates separately from
    the real ones, and once more after its own update; running averages are those of real images.
    """
    generator, discriminator = network.generator, network.discriminator
    generate, judge = forward or (generator, discriminator)

    optimize_generator, optimize_discriminator = make_optimizers(config, network)

    def train_discriminator(real: Tensor, fake: Tensor) -> Tensor:
        real_logits = judge(real)
        with _running_averages_kept(discriminator):
            fake_logits = judge(fake)
        loss = _cross_entropy(real_logits, config.gan.real_target) + _cross_entropy(fake_logits, 0.0)
        optimize_discriminator.zero_grad()
        loss.backward()
        optimize_discriminator.step()
        return loss

    def train_generator(fake: Tensor) -> Tensor:
        discriminator.requires_grad_(False)  # do not compute gradients of its weights
        with _running_averages_kept(discriminator):
            loss = _cross_entropy(judge(fake), 1.0)
        optimize_generator.zero_grad()
        loss.backward()
        optimize_generator.step()
        discriminator.requires_grad_(True)
        average.update_parameters(generator)
        return loss

    def step(real: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        fake = generate(z)
        return train_discriminator(real, fake.detach()).detach(), train_generator(fake).detach()

    return step


def _cross_entropy(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


@contextlib.contextmanager
def _running_averages_kept(network: nn.Module) -> Iterator[None]:
    """Training passes use the statistics of the batch, but do not update the running averages."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    yield
    for norm in norms:
        norm.track_running_stats = True

"""A train step of our main network beside U-Nets of other projects with about as many parameters, on MNIST's size.

    python -m benchmarks.others [--rounds=6]

It needs the extra `others`. Their networks work on 28x28, 14x14 and 7x7 positions, ours on 14x14 and 7x7 with the
pixels moved to channels: unlike `python -m benchmarks`, this compares networks, not frameworks. Each of theirs runs in
its own project's code, eager, in both of PyTorch's layouts, with the same loss, Adam, clipping and moving average.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
from clu.parameter_overview import count_parameters
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import ddpm, timing
from benchmarks.torch_vae import LAYOUTS
from gen_jax import parallel


def denoising_diffusion_pytorch() -> torch.nn.Module:
    """The U-Net of denoising-diffusion-pytorch with three levels; attention at all, linear but for the last."""
    from denoising_diffusion_pytorch import Unet

    return Unet(dim=16, dim_mults=(1, 2, 4), channels=1)


def diffusers() -> torch.nn.Module:
    """The `UNet2DModel` of diffusers with three levels of one block; attention at 7x7."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )


OTHERS: dict[str, Callable[[], torch.nn.Module]] = {
    "denoising-diffusion-pytorch": denoising_diffusion_pytorch,
    "diffusers": diffusers,
}


class Contender(NamedTuple):
    """A network and its train step, in every layout that it is measured in."""

    parameters: int
    flops: float
    steps: list[Callable[[], object]]


def ours(job: ddpm.Job) -> Contender:
    """Returns our U-Net."""
    step, _ = ddpm.jax_calls(job.config, job.state, job.images, parallel.compiler_options())
    return Contender(count_parameters(job.state.params), ddpm.flops_of_step(job), [step])


def theirs(job: ddpm.Job, make: Callable[[], torch.nn.Module]) -> Contender:
    """Returns another project's network."""
    networks = [make() for _ in LAYOUTS]

    def forward_of(network: torch.nn.Module) -> Callable[..., torch.Tensor]:
        def forward(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            output = network(x, time)
            return getattr(output, "sample", output)  # diffusers wraps the tensor

        return forward

    steps = [
        ddpm.torch_calls(job.config, job.schedule, network, job.images, layout, forward=forward_of(network))[0]
        for network, layout in zip(networks, LAYOUTS.values(), strict=True)
    ]
    with FlopCounterMode(display=False) as counter:
        steps[0]()
    parameters = sum(p.numel() for p in networks[0].parameters())
    return Contender(parameters, counter.get_total_flops(), steps)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.others", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=6, help="turns per contender")
    flags = parser.parse_args()
    print(timing.machine("torch", *OTHERS))
    torch.manual_seed(0)
    job = ddpm.make_job([])
    contenders = {"gen_jax": ours(job), **{name: theirs(job, make) for name, make in OTHERS.items()}}
    calls = {(name, i): step for name, each in contenders.items() for i, step in enumerate(each.steps)}
    seconds = timing.alternate(calls, flags.rounds)
    best = {name: min(seconds[name, i] for i in range(len(each.steps))) for name, each in contenders.items()}
    rows = [
        [
            name,
            f"{each.parameters:,}",
            f"{each.flops / 1e9:.1f}",
            f"{1000 * best[name]:.0f}",
            f"{len(job.images) / best[name]:.0f}",
            f"{best[name] / best['gen_jax']:.1f}",
        ]
        for name, each in contenders.items()
    ]
    header = ["U-Net of", "parameters", "GFLOP a step", "train step, ms", "images/s", "ours takes 1"]
    print(timing.table(header, rows))


if __name__ == "__main__":
    main()

"""Train step and sampler of configs/ddpm_mnist.py, with its U-Net or another network, and the same one in PyTorch.

A train step is complete: bytes to the model's range, noise, loss, gradients, clipping, Adam, moving average. A check
ensures that both networks have the same number of parameters and the same output.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it

from benchmarks import peer, timing, torch_dit, torch_unet, torch_vae
from benchmarks.case import OURS, Case, compiled, flops
from gen_jax import methods, parallel
from gen_jax.config import modules_of
from gen_jax.diffusion import process
from gen_jax.diffusion.model import CHOICES, NETWORKS
from gen_jax.diffusion.schedule import Schedule
from gen_jax.method import DataSpec, State, labelled

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "ddpm_mnist.py"
MNIST, CIFAR = (28, 28, 1), (32, 32, 3)
SAMPLER_STEPS = 10
# The values that the peer supports; the network is the config's.
WORDS = [
    "--config.optimizer.name=adam",
    "--config.diffusion.prediction=v",
    "--config.diffusion.weighting=v",
    "--config.diffusion.conditional=false",
    "--config.accumulate=1",
    "--config.sample.sampler=ddim",
    "--config.sample.sampler.eta=0.0",
    f"--config.sample.num_steps={SAMPLER_STEPS}",
]
# A transformer of 49 tokens.
DIT = ["--config.network=dit", "--config.network.patch=4", "--config.network.width=192", "--config.network.depth=6"]
# That of Ho et al. 2020 for CIFAR-10: 35,746,307 parameters.
CIFAR_UNET = [f"--config.network.{word}" for word in (
    "channels=128", "multipliers=(1,2,2,2)", "num_blocks=2", "attention_sizes=(16,)", "patch=1", "norm=group",
    "film=false", "shuffle=false", "use_bias=true",
)]  # fmt: skip
Calls = tuple[Callable[[], object], Callable[[], object]]  # train step, sampler
Peer = torch_unet.UNet | torch_dit.DiT


def spec_of(images: np.ndarray) -> DataSpec:
    """Returns the spec of a set with images of this shape."""
    return DataSpec("noise", images.shape[1:], 60_000, labelled("0123456789"))


def jax_calls(config: Any, state: State, images: np.ndarray, options: dict[str, Any]) -> Calls:
    """Returns our two calls, compiled with `options`."""
    method = methods.make(config, spec_of(images))
    batch = {"image": jnp.asarray(images), "index": jnp.arange(len(images))}
    keys = jax.random.split(jax.random.key(1), len(images))
    update = jax.jit(method.step, donate_argnums=0, compiler_options=options)
    draw = jax.jit(lambda state, keys: method.sample(state, keys, {}), compiler_options=options)
    held = [jax.tree.map(jnp.copy, state)]  # the step donates its old state

    def step() -> object:
        held[0], scalars = update(held[0], batch)
        return jax.block_until_ready((held[0], scalars))

    return step, lambda: jax.block_until_ready(draw(state, keys))


def torch_calls(
    config: Any,
    schedule: Schedule,
    network: torch.nn.Module,
    images: np.ndarray,
    layout: torch.memory_format,
    device: str = "cpu",
    forward: Callable[..., torch.Tensor] | None = None,
) -> Calls:
    """Returns the peer's two calls; `forward` is the network as it is called, if it is compiled or cast."""
    network = network.to(device, memory_format=layout)  # pyright: ignore[reportCallIssue]  missing in torch's stubs
    forward = network if forward is None else forward
    image = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    update = peer.make_update(config, network)
    time, alpha, sigma = (
        torch.from_numpy(table).float().to(device) for table in (schedule.time, schedule.alpha, schedule.sigma)
    )
    steps = [int(t) for t in schedule.steps(SAMPLER_STEPS, config.sample.spacing.name)]

    def step() -> object:
        x0 = image.float() / 127.5 - 1
        t = torch.randint(schedule.num_steps, (len(x0),), device=device)
        eps = torch.randn_like(x0)
        alpha_t, sigma_t = alpha[t][:, None, None, None], sigma[t][:, None, None, None]
        v = alpha_t * eps - sigma_t * x0
        return update(F.mse_loss(forward(alpha_t * x0 + sigma_t * eps, time[t]).float(), v))

    @torch.inference_mode()
    def draw() -> object:
        x = torch.randn(image.shape, device=device).contiguous(memory_format=layout)
        for t, s in zip(steps, [*steps[1:], None], strict=True):
            v = forward(x, time[t].expand(len(x))).float()
            x0_hat = (alpha[t] * x - sigma[t] * v).clamp(-1, 1)
            if s is None:
                return x0_hat
            eps_hat = (x - alpha[t] * x0_hat) / sigma[t]
            x = alpha[s] * x0_hat + sigma[s] * eps_hat
        return x

    return step, draw


def check_equal(config: Any, params: Any, network: Peer, images: np.ndarray) -> str:
    """Returns a sentence that both networks are equal, or raises an AssertionError."""
    x = (images / 127.5 - 1).astype(np.float32)
    time = np.linspace(0, 999, len(x), dtype=np.float32)
    given = {"out_channels": images.shape[-1], "num_classes": 0, "dtype": jnp.float32}
    (module,) = modules_of(config.network, NETWORKS, given)
    ours = jax.jit(module.apply)({"params": params}, x, time)
    with torch.inference_mode():
        theirs = network(torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(time)).permute(0, 2, 3, 1).numpy()
    return peer.check_equal(params, network, np.asarray(ours), theirs)


class Job(NamedTuple):
    """What all contenders train on, and our start.

    Attributes:
      config: of the run.
      schedule: of the diffusion.
      images: uint8 [B, H, W, C].
      state: our random start; the last layers are not zero, so that outputs can be compared.
    """

    config: Any
    schedule: Schedule
    images: np.ndarray
    state: State


def make_job(words: Sequence[str], shape: tuple[int, int, int] = MNIST) -> Job:
    """Returns the main job without labels, with the network that the words of a command line choose."""
    config = methods.override(methods.load(str(CONFIG))[2], [*WORDS, *words])
    methods.check(config)
    schedule = process.make(config.diffusion).path
    assert isinstance(schedule, Schedule)
    images = np.random.default_rng(0).integers(0, 256, (config.batch_size, *shape), np.uint8)
    state = parallel.init_state(methods.make(config, spec_of(images)).init, 0, parallel.make_mesh(1), {}, {})
    noisy = jax.tree.map(lambda p: p + 0.02 * np.random.default_rng(p.size).normal(size=p.shape), state.params)
    state = state.replace(params=jax.tree.map(jnp.float32, noisy), ema=jax.tree.map(jnp.float32, noisy))
    return Job(config, schedule, images, state)


def flops_of_step(job: Job) -> float:
    """Returns the FLOPs of our train step, before optimisation."""
    batch = {"image": jnp.asarray(job.images), "index": jnp.arange(len(job.images))}
    return flops(methods.make(job.config, spec_of(job.images)).step, job.state, batch)


def make(
    words: Sequence[str],
    make_peer: Callable[..., Peer],
    copy: Callable[..., None],
    shape: tuple[int, int, int] = MNIST,
    calls_a_turn: int = timing.CALLS_A_TURN,
) -> Case:
    """Returns the contenders for a network of the main job.

    Args:
      words: values that differ from the config's, of the network for example.
      make_peer: the class of the same network in PyTorch.
      copy: sets the peer's parameters to ours.
      shape: of the images.
      calls_a_turn: before the next contender's turn.
    """
    torch.manual_seed(0)
    job = make_job(words, shape)
    config, schedule, images, state = job

    def peer_network() -> Peer:
        fields = peer.fields_of(config.network, CHOICES["network"], make_peer)
        network = make_peer(shape[0], shape[2], shape[2], **fields)
        copy(state.params["denoiser"], network)
        return network

    same = check_equal(config, state.params["denoiser"], peer_network(), images)
    calls = {
        ours: jax_calls(config, state, images, parallel.compiler_options(fast == "true")) for ours, fast in OURS.items()
    }
    for name, layout in torch_vae.LAYOUTS.items():
        calls[f"PyTorch, {name}"] = torch_calls(config, schedule, peer_network(), images, layout)
    network = peer_network()
    forward = compiled(network, torch.zeros(len(images), shape[2], *shape[:2]), torch.zeros(len(images)))
    if forward is not None:
        calls["PyTorch, compiled"] = torch_calls(
            config, schedule, network, images, torch.contiguous_format, forward=forward
        )
    return Case(
        [same],
        len(images),
        flops_of_step(job),
        {name: step for name, (step, _) in calls.items()},
        {name: draw for name, (_, draw) in calls.items()},
        calls_a_turn,
    )

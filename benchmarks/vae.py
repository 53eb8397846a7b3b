"""Train steps of configs/vae_mnist_dense.py and vae_mnist.py, and the same networks in PyTorch.

A train step is complete: bytes to [0, 1], binarisation if configured, z drawn from the posterior, both terms of the
loss, gradients, clipping, Adam, moving average. Both sides do all of this, PyTorch with its fused and foreach forms.
Only ours includes the learning rate decay and returns each term and the norm of the gradient; PyTorch draws its random
numbers from one generator, ours draws them per example. The convolutional network runs in both of PyTorch's layouts; a
dense one has no layout. Under torch.compile, the network is compiled, and the loss and the update are not. A check
ensures that both networks have the same number of parameters and the same output.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

from benchmarks import loop, peer, torch_vae
from benchmarks.case import OURS, Case, compiled
from gen_jax import methods, parallel
from gen_jax.data.dataset import Dataset
from gen_jax.vae import autoencoder

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
CONFIGS = {"vae_mnist_dense": ("NCHW",), "vae_mnist": tuple(torch_vae.LAYOUTS)}  # with the peer's layouts
# The values that the peer supports; the rest is the config's.
WORDS = ["--config.optimizer.name=adam", "--config.vae.likelihood=bernoulli", "--config.accumulate=1"]
BINARISE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda x: x,
    "dynamic": lambda x: (torch.rand_like(x) < x).float(),
}


def torch_step(
    config: Any, network: torch_vae.VAE, image: torch.Tensor, forward: Callable[..., Any] | None = None
) -> Callable[[], float]:
    """Returns the peer's train step on bytes `image`; `forward` is the network as it is called, if it is compiled."""
    update = peer.make_update(config, network)
    forward = network if forward is None else forward
    binarise, c = BINARISE[config.vae.binarisation], config.vae
    num_steps = 0

    def step() -> float:
        nonlocal num_steps
        x = binarise(image.float() / 255)
        weight = c.beta * min(1.0, (num_steps + 1) / max(1, c.kl_warmup_steps))
        num_steps += 1
        return update(torch_vae.negative_elbo(forward, x, torch.randn(len(x), c.latents), weight, c.free_bits))

    return step


def check_equal(config: Any, data: Dataset, params: Any, network: torch_vae.VAE, layout: str) -> str:
    """Returns a sentence that both networks are equal, or raises an AssertionError."""
    model = autoencoder.make(config, data.spec)
    x = (data.train["image"][:16] / 255).astype(np.float32)
    ours = jax.jit(lambda params, x: model.decode(params, model.encode(params, x).mean))(params, x)
    with torch.inference_mode():
        logits, _, _ = network(torch_vae.to_peer(x, layout), torch.zeros(len(x), config.vae.latents))
    return peer.check_equal(params, network, np.asarray(ours), torch_vae.from_peer(logits))


def make(name: str) -> Case:
    """Returns the contenders for a config, in the layouts that `CONFIGS` names."""
    torch.manual_seed(0)
    config = methods.override(methods.load(str(FOLDER / f"{name}.py"))[2], WORDS)
    methods.check(config)
    data = loop.made_up(10 * config.batch_size, (28, 28, 1))
    params = jax.jit(autoencoder.make(config, data.spec).init)(parallel.make_key(0))
    steps = loop.make_steps(config, data, OURS)
    same = ""

    def peer_network(layout: str) -> tuple[torch_vae.VAE, torch.Tensor]:
        network = torch_vae.make(config.network, data.spec.image_shape, config.vae.latents, layout)
        torch_vae.copy_parameters(params, network)
        return network, torch_vae.to_peer(data.train["image"][: config.batch_size], layout)

    for layout in CONFIGS[name]:
        network, image = peer_network(layout)
        same = check_equal(config, data, params, network, layout)
        steps[f"PyTorch, {layout}"] = torch_step(config, network, image)
    network, image = peer_network("NCHW")
    forward = compiled(network, image.float() / 255, torch.zeros(len(image), config.vae.latents))
    if forward is not None:
        steps["PyTorch, compiled"] = torch_step(config, network, image, forward)
    return Case([same], config.batch_size, loop.flops_of_step(config, data), steps)

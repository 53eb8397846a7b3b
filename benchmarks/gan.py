"""Train steps of configs/dcgan_cats.py, cgan_mnist.py and r3gan_mnist.py, and the same networks and game in PyTorch.

A train step is complete: bytes to [-1, 1], random z, one forward pass of the generator, the discriminator's passes over
real and over generated images, its loss, gradients and Adam; then its pass over the same generated images with its new
weights, the generator's loss, gradients and Adam, and the moving average of weights and running averages. Both sides do
all of this, PyTorch with its fused and foreach forms. Only ours returns the norms of both gradients and the mean
scores; PyTorch draws z from one generator, ours draws it per example; PyTorch's running variances are the unbiased
ones, which training does not use. Labels, spectral normalisation of cgan_mnist, and the burn-in of r3gan_mnist are
omitted on both sides. R3GAN's penalties are part of the step, and in PyTorch they share the passes that give the
logits. Under torch.compile, both networks are compiled, and the game is not; R3GAN's are not, for it has no second
derivatives. A check ensures that both networks have the same numbers of parameters and the same outputs in training.
The machine must be idle: under load, PyTorch's threads wait for each other in every layer, which distorts the ratio.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import loop, peer, timing, torch_gan, torch_r3gan
from benchmarks.case import OURS, Case, compiled
from benchmarks.torch_vae import LAYOUTS, copy_parameters, from_peer, to_peer
from gen_jax import methods, parallel
from gen_jax.gan import networks
from gen_jax.method import State

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
SHAPES = {"dcgan_cats": (64, 64, 3), "cgan_mnist": (28, 28, 1), "r3gan_mnist": (28, 28, 1)}  # by config
# The values that the peer supports; the rest is the config's.
WORDS = [
    "--config.optimizer.name=adam",
    "--config.optimizer.clip_norm=0.0",
    "--config.optimizer.warmup_steps=0",
    "--config.optimizer.decay=none",
    "--config.gan.constraint=none",
    "--config.gan.critic_steps=1",
    "--config.gan.instance_noise=0.0",
    "--config.gan.conditional=false",
    "--config.accumulate=1",
]
GAMES = {
    "conv": ["--config.gan.loss=non_saturating", "--config.gan.penalty=none"],
    "r3gan": ["--config.gan.loss=relativistic", "--config.gan.penalty=r1_r2", "--config.gan.burn_in=none"],
}
COPIES = {"conv": copy_parameters, "r3gan": torch_r3gan.copy_parameters}  # all by the name of the networks
PEERS: dict[str, Any] = {"conv": torch_gan, "r3gan": torch_r3gan}


def torch_step(config: Any, network: Any, image: torch.Tensor, *forward: Any) -> Callable[[], object]:
    """Returns the peer's train step on bytes `image`; `forward` as in `torch_gan.make_step`."""
    step = PEERS[config.network.name].make_step(config, network, torch_gan.make_average(config, network), *forward)
    return lambda: step(image.float() / 127.5 - 1, torch.randn(len(image), config.gan.latents))


def check_equal(config: Any, shape: tuple[int, int, int], state: State, network: Any, layout: str) -> list[str]:
    """Returns one sentence per network that both are equal, or raises an AssertionError."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(16, config.gan.latents)).astype(np.float32)
    image = rng.uniform(-1, 1, (16, *shape)).astype(np.float32)
    generator, discriminator = networks.make(config.network, shape, 0, 0, 1, jnp.dtype(config.compute_dtype))
    with torch.no_grad():
        theirs = {
            "generator": from_peer(network.generator(torch.from_numpy(z))),
            "discriminator": network.discriminator(to_peer(image, layout))[:, 0].numpy(),
        }
    lines = []
    for name, module, x in (("generator", generator, z), ("discriminator", discriminator, image)):

        def apply(params: Any, variables: Any, x: np.ndarray, module: Any = module) -> Any:
            return module.apply({"params": params, **variables}, x, train=True, mutable=["batch_stats"])[0]

        ours = jax.jit(apply)(state.params[name], state.variables[name], x)
        same = peer.check_equal(state.params[name], getattr(network, name), np.asarray(ours), theirs[name])
        lines.append(f"{name}: {same}")
    return lines


def load(name: str, *words: str) -> Any:
    """Returns a config of `SHAPES` with the values that the peer supports, and those of `words`."""
    config = methods.load(str(FOLDER / f"{name}.py"))[2]
    config = methods.override(config, [*WORDS, *GAMES[config.network.name], *words])
    methods.check(config)
    return config


def make(name: str) -> Case:
    """Returns the contenders for a config."""
    torch.manual_seed(0)
    config, shape = load(name), SHAPES[name]
    data = loop.made_up(10 * config.batch_size, shape)
    steps = loop.make_steps(config, data, OURS)
    state = parallel.init_state(methods.make(config, data.spec).init, config.seed, parallel.make_mesh(1), {}, {})
    about = []

    def peer_network(layout: str) -> tuple[Any, torch.Tensor]:
        network = PEERS[config.network.name].make(config.network, shape, config.gan.latents, layout)
        COPIES[config.network.name](state.params, network)
        return network, to_peer(data.train["image"][: config.batch_size], layout)

    for layout in LAYOUTS:
        network, image = peer_network(layout)
        about = check_equal(config, shape, state, network, layout)
        steps[f"PyTorch, {layout}"] = torch_step(config, network, image)
    network, image = peer_network("channels_last")
    z, real = torch.randn(len(image), config.gan.latents), image.float() / 127.5 - 1
    compilable = config.gan.penalty.name == "none"
    forward = (compiled(network.generator, z), compiled(network.discriminator, real)) if compilable else (None,)
    if None not in forward:
        steps["PyTorch, compiled"] = torch_step(config, network, image, forward)
    # A call for cats takes long enough that after-effects of the previous one do not matter.
    calls = 1 if name == "dcgan_cats" else timing.CALLS_A_TURN
    return Case(about, config.batch_size, loop.flops_of_step(config, data), steps, calls_a_turn=calls)

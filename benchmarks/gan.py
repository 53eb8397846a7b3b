"""Train step of configs/dcgan_cats.py compared with the same networks and game in eager PyTorch, in both its layouts.

    python -m benchmarks.gan [--rounds=20]

A train step is complete: bytes to [-1, 1], random z, one forward pass of the generator, the discriminator's passes over
real and over generated images, its loss, gradients and Adam; then its pass over the same generated images with its new
weights, the generator's loss, gradients and Adam, and the moving average of weights and running averages. Both sides do
all of this, PyTorch with its fused and foreach forms. Only ours returns the norms of both gradients and the mean
scores; PyTorch draws z from one generator, ours draws it per example; PyTorch's running variances are the unbiased
ones, which training does not use. Before the timing, a check ensures that both networks have the same numbers of
parameters and the same outputs in training. Contenders alternate within one run, because only ratios from one machine
at one time are meaningful. The machine must be idle: under load, PyTorch's threads wait for each other in every layer,
which distorts the ratio.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import loop, peer, timing, torch_gan
from benchmarks.torch_vae import LAYOUTS, copy_parameters, from_peer, to_peer
from gen_jax import methods, parallel, xla
from gen_jax.data.dataset import Dataset
from gen_jax.gan import networks
from gen_jax.method import State

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "dcgan_cats.py"
SHAPE = (64, 64, 3)
OURS = {"gen_jax": "true"}
if not xla.is_set():  # otherwise the whole process has the option already
    OURS["gen_jax, no compiler options"] = "false"
CALLS_A_TURN = 1  # a call takes long enough that after-effects of the previous one do not matter
# The values that the peer supports; the rest is the config's.
WORDS = [
    "--config.optimizer.name=adam",
    "--config.optimizer.clip_norm=0.0",
    "--config.optimizer.warmup_steps=0",
    "--config.optimizer.decay=none",
    "--config.gan.loss=non_saturating",
    "--config.gan.penalty=none",
    "--config.gan.constraint=none",
    "--config.gan.critic_steps=1",
    "--config.gan.instance_noise=0.0",
    "--config.gan.conditional=false",
    "--config.accumulate=1",
]


def torch_step(config: Any, network: torch_gan.GAN, image: torch.Tensor) -> Callable[[], object]:
    """Returns the peer's train step on bytes `image`."""
    step = torch_gan.make_step(config, network, torch_gan.make_average(config, network))
    return lambda: step(image.float() / 127.5 - 1, torch.randn(len(image), config.gan.latents))


def check_equal(config: Any, state: State, network: torch_gan.GAN, layout: str) -> list[str]:
    """Returns one sentence per network that both are equal, or raises an AssertionError."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(16, config.gan.latents)).astype(np.float32)
    image = rng.uniform(-1, 1, (16, *SHAPE)).astype(np.float32)
    generator, discriminator = networks.make(config.network, SHAPE, 0, 0, 1, jnp.dtype(config.compute_dtype))
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


def measure(config: Any, data: Dataset, rounds: int) -> tuple[list[str], dict[str, float]]:
    """Returns lines about the comparison, and the median seconds of each contender's step."""
    contenders: dict[str, Callable[[], object]] = {
        ours: loop.make_step(methods.override(config, [f"--config.fast_compile_options={fast}"]), data)
        for ours, fast in OURS.items()
    }
    state = parallel.init_state(methods.make(config, data.spec).init, config.seed, parallel.make_mesh(1), {}, {})
    lines = []
    for layout in LAYOUTS:
        network = torch_gan.make(config.network, SHAPE, config.gan.latents, layout)
        copy_parameters(state.params, network)
        lines = check_equal(config, state, network, layout)
        image = to_peer(data.train["image"][: config.batch_size], layout)
        contenders[f"PyTorch, {layout}"] = torch_step(config, network, image)
    return lines, timing.alternate(contenders, rounds, CALLS_A_TURN)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gan", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help=f"turns per contender, {CALLS_A_TURN} call(s) each")
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    config = methods.override(methods.load(str(CONFIG))[2], WORDS)
    methods.check(config)
    lines, seconds = measure(config, loop.made_up(10 * config.batch_size, SHAPE), rounds)
    rows = [[name, f"{1000 * value:.1f}"] for name, value in seconds.items()]
    ratio = seconds["gen_jax"] / min(v for k, v in seconds.items() if "PyTorch" in k)
    rows.append(["gen_jax / faster PyTorch", f"{ratio:.2f}"])
    print(f"{timing.machine('torch')}; batch {config.batch_size}; medians of {rounds * CALLS_A_TURN} calls")
    print(*lines, sep="\n")
    print(timing.table(["", f"{CONFIG.stem}, ms per step"], rows))


if __name__ == "__main__":
    main()

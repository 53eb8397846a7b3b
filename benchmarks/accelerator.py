"""Measures a GPU in a few minutes, without a network: train steps and samplers, beside torch.compile.

    python -m benchmarks.accelerator --out=results

Writes `accelerator.json` and `accelerator.md` after every part, the most important parts first, so that little is lost
if the machine is. A part that fails is reported, and the next one goes on. Contenders alternate within one process:
complete train steps on the same batch, ours as `--mode=train` compiles it, PyTorch's with its network compiled,
channels_last, bf16 autocast, fused Adam. `--small` tries the script on a CPU. FLOPs are those of the program before
optimisation; MFU is relative to the matmul rate that the first part measures. Needs the bench extra. The main job reads
MNIST from TFDS_DATA_DIR; without it, it trains on drawn digits.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import ddpm, gan, loop, peer, timing, torch_dit, torch_gan, torch_unet
from benchmarks.torch_vae import to_peer
from gen_jax import methods, parallel
from gen_jax.diffusion import process
from gen_jax.diffusion.dit import SIZES
from gen_jax.diffusion.model import CHOICES
from gen_jax.diffusion.schedule import Schedule
from gen_jax.run import Run
from gen_jax.writers import read_metrics

ROOT = pathlib.Path(__file__).parents[1]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IN_A_ROW, IN_A_ROW_SMALL = 10, 2  # steps without waiting, as in training
SMALL_UNET = [f"--config.network.{word}" for word in ("channels=32", "multipliers=(1,2)", "num_blocks=1")]
Rows = list[dict[str, Any]]  # of a table; all have the same keys


class Step(NamedTuple):
    """A compiled train step of ours.

    Attributes:
      call: runs one step, and returns its scalars without waiting for them.
      flops: of one step.
      seconds: of its preparation: initialisation, tracing and compilation.
      lowered, compiled: text of the program before and after optimisation.
    """

    call: Callable[[], Any]
    flops: float
    seconds: float
    lowered: str
    compiled: str


def make_step(config: Any, shape: tuple[int, int, int]) -> Step:
    """Returns the train step of a config on images of noise, on all devices."""
    data = loop.made_up(config.batch_size, shape)
    began = time.perf_counter()
    update, state, batch = loop.compile_step(config, data)
    seconds = time.perf_counter() - began
    lowered = jax.jit(methods.make(config, data.spec).step).lower(state, batch)
    cost: Any = lowered.cost_analysis()
    held = [state]

    def call() -> Any:
        held[0], scalars = update(held[0], batch)
        return scalars

    return Step(call, float(cost.get("flops", 0.0)), seconds, lowered.as_text(), update.as_text())


def wait(value: Any) -> None:
    """Waits for the devices, whichever library runs on them."""
    jax.block_until_ready(value)
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def milliseconds(calls: dict[str, Callable[[], Any]], rounds: int, in_a_row: int = IN_A_ROW) -> dict[str, float]:
    """Returns the median time of one call each, of `in_a_row` calls without waiting between them; turns alternate."""

    def together(call: Callable[[], Any]) -> Callable[[], None]:
        def several() -> None:
            value = None
            for _ in range(in_a_row):
                value = call()
            wait(value)

        return several

    seconds = timing.alternate({name: together(call) for name, call in calls.items()}, rounds, calls_a_turn=1)
    return {name: 1000 * value / in_a_row for name, value in seconds.items()}


class Measure:
    """The parts, in the order in which they run; each returns the rows of its table."""

    def __init__(self, small: bool, rounds: int):
        self.small, self.rounds, self.in_a_row = small, rounds, IN_A_ROW_SMALL if small else IN_A_ROW
        self.peak = float("nan")  # TFLOP/s of a bf16 matmul

    def parts(self) -> Iterator[tuple[str, Callable[[], Rows]]]:
        yield "Machine", self.machine
        yield "Main job: ddpm_mnist, whole", self.main_job
        for size in (2,) if self.small else (128, 512, 2048):
            yield f"U-Net of CIFAR-10 (35.7M), bf16, batch {size}", lambda size=size: self.unet(size)
        for size in (2,) if self.small else (128, 512):
            yield f"DiT-B/2 (130M), bf16, 256 tokens, batch {size}", lambda size=size: self.dit(size)
        yield "Resume, bit by bit", self.resume
        yield "ddpm_mnist's network, f32 and bf16", self.mnist
        yield "dcgan_cats, f32", self.cats
        yield "The compiled step of the U-Net", self.program
        yield "wgan_gp_mnist: rolled critic steps", self.critic_steps

    def machine(self) -> Rows:
        """Card, versions and the rates of large matmuls."""
        n = 512 if self.small else 8192
        rows: Rows = [{"what": "machine", "value": timing.machine("torch")}]
        for name, dtype in (("bf16", jnp.bfloat16), ("tf32", jnp.float32)):
            a = jax.random.normal(jax.random.key(0), (n, n), dtype)
            ours = jax.jit(lambda a: jnp.matmul(a, a, precision="tensorfloat32" if a.dtype == jnp.float32 else None))
            x = torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16 if name == "bf16" else torch.float32)
            calls = {"JAX": lambda a=a, ours=ours: ours(a), "PyTorch": lambda x=x: x @ x}
            for library, ms in milliseconds(calls, self.rounds, self.in_a_row).items():
                rate = 2 * n**3 / ms / 1e9
                rows.append({"what": f"matmul of {n}, {name}, {library}, TFLOP/s", "value": f"{rate:.4g}"})
                if (name, library) == ("bf16", "JAX"):
                    self.peak = rate
        return rows

    def main_job(self) -> Rows:
        """The command that a newcomer types: its time and quality."""
        with tempfile.TemporaryDirectory() as folder:
            config = f"--config={ROOT / 'configs/ddpm_mnist.py'}{':tiny' if self.small else ''}"
            seconds = _command(config, f"--workdir={folder}/run")
            report, records = Run(f"{folder}/run").read_report(), read_metrics(f"{folder}/run")
        speeds = [record["speed/images_per_second"] for record in records if "speed/images_per_second" in record]
        rows: Rows = [{"what": "the whole command, s", "value": round(seconds, 1)},
                      {"what": "training, images/s", "value": round(float(np.median(speeds)))}]  # fmt: skip
        return rows + [{"what": row["name"], "value": round(row["value"], 4)} for row in report["metrics"]]

    def unet(self, size: int) -> Rows:
        """The paper's network; its memory limits the batch, so a size that does not fit is reported as failed."""
        words = [*ddpm.CIFAR_UNET, *SMALL_UNET * self.small, "--config.compute_dtype=bfloat16"]
        return self._diffusion(words, ddpm.CIFAR, size)

    def dit(self, size: int) -> Rows:
        """A transformer on images of the size of ImageNet's latents."""
        fields = {"width": 32, "depth": 2, "num_heads": 2} if self.small else SIZES["B"]
        words = ["--config.network=dit", *(f"--config.network.{key}={value}" for key, value in fields.items())]
        return self._diffusion([*words, "--config.compute_dtype=bfloat16"], (32, 32, 4), size, torch_dit.DiT)

    def mnist(self) -> Rows:
        """The network of the main job, at its own batch and at a larger one."""
        rows = []
        for size in (8,) if self.small else (32, 512):
            for dtype in ("float32", "bfloat16"):
                rows += self._diffusion([f"--config.compute_dtype={dtype}"], (28, 28, 1), size)
        return rows

    def _diffusion(
        self, words: list[str], shape: tuple[int, int, int], size: int, make_peer: Callable[..., Any] = torch_unet.UNet
    ) -> Rows:
        words = [*ddpm.WORDS, *words, f"--config.batch_size={size}"]
        config = methods.override(methods.load(str(ddpm.CONFIG))[2], words)
        step = make_step(config, shape)
        fields = peer.fields_of(config.network, CHOICES["network"], make_peer)
        network = make_peer(shape[0], shape[2], shape[2], **fields).to(DEVICE)
        forward = network if self.small else torch.compile(network)

        def cast(*inputs: torch.Tensor) -> torch.Tensor:
            with torch.autocast(DEVICE, torch.bfloat16, enabled=config.compute_dtype == "bfloat16"):
                return forward(*inputs)

        schedule = process.make(config.diffusion).path
        assert isinstance(schedule, Schedule)
        images = np.random.default_rng(0).integers(0, 256, (size, *shape), np.uint8)
        theirs, draw = ddpm.torch_calls(config, schedule, network, images, torch.channels_last, DEVICE, cast)
        method = methods.make(config, loop.made_up(size, shape).spec)
        state = parallel.init_state(method.init, 0, parallel.make_mesh(1), {}, {})
        ours, keys = jax.jit(method.sample), jax.random.split(jax.random.key(1), size)
        draws = milliseconds(
            {"gen_jax": lambda: ours(state, keys, {}), "torch.compile": draw}, self.rounds, self.in_a_row
        )
        return [self._row(config, step, theirs) | {
            f"{ddpm.SAMPLER_STEPS} sampler steps, images/s": round(1000 * size / draws["gen_jax"]),
            "ratio of samplers": round(draws["gen_jax"] / draws["torch.compile"], 3),
        }]  # fmt: skip

    def cats(self) -> Rows:
        """Both networks of a GAN, in one step; PyTorch's are not compiled, for their running averages are switched."""
        rows, shape = [], gan.SHAPES["dcgan_cats"]
        for size in (8,) if self.small else (128, 1024):
            config = gan.load("dcgan_cats", f"--config.batch_size={size}")
            network = torch_gan.make(config.network, shape, config.gan.latents, "channels_last")
            network.generator.to(DEVICE)
            network.discriminator.to(DEVICE)
            theirs = torch_gan.make_step(config, network, torch_gan.make_average(config, network))
            image = to_peer(loop.made_up(size, shape).train["image"], "channels_last").to(DEVICE)
            z = torch.randn(size, config.gan.latents, device=DEVICE)
            rows.append(self._row(config, make_step(config, shape),
                                  lambda t=theirs, i=image, z=z: t(i.float() / 127.5 - 1, z)))  # fmt: skip
        return rows

    def _row(self, config: Any, step: Step, theirs: Callable[[], Any]) -> dict[str, Any]:
        ms = milliseconds({"gen_jax": step.call, "PyTorch": theirs}, self.rounds, self.in_a_row)
        rate = step.flops / ms["gen_jax"] / 1e9
        return {
            "batch": config.batch_size,
            "dtype": config.compute_dtype,
            "step, ms": round(ms["gen_jax"], 3),
            "images/s": round(1000 * config.batch_size / ms["gen_jax"]),
            "TFLOP/s": f"{rate:.4g}",
            "MFU": f"{rate / self.peak:.1%}",
            "PyTorch, ms": round(ms["PyTorch"], 3),
            "ratio": round(ms["gen_jax"] / ms["PyTorch"], 3),
            "preparation, s": round(step.seconds, 1),
        }

    def resume(self) -> Rows:
        """A run of 40 steps beside one of 20 that goes on to 40, with XLA's defaults and with deterministic kernels."""
        rows = []
        for flags in ("", "--xla_gpu_deterministic_ops=true") if DEVICE == "cuda" else ("",):
            with tempfile.TemporaryDirectory() as folder:
                words = [f"--config={ROOT / 'configs/ddpm_mnist.py'}:tiny", "--config.checkpoint_every=20",
                         "--config.optimizer.decay=none"]  # fmt: skip
                env = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"}
                for name, steps in (("straight", 40), ("resumed", 20), ("resumed", 40)):
                    _command(*words, f"--config.num_steps={steps}", f"--workdir={folder}/{name}", **env)
                one, two = (_losses(pathlib.Path(folder, name)) for name in ("straight", "resumed"))
                a, b = (
                    np.load(f"{folder}/{name}/samples.npz", allow_pickle=False)["arr_0"]
                    for name in ("straight", "resumed")
                )
            rows.append({
                "XLA_FLAGS": flags or "defaults",
                "losses equal": one == two,
                "samples equal": bool(np.array_equal(a, b)),
            })  # fmt: skip
        return rows

    def program(self) -> Rows:
        """Nothing leaves the device between logged steps; matmuls of a bf16 step are in bf16."""
        words = [*ddpm.WORDS, *ddpm.CIFAR_UNET, *SMALL_UNET * self.small, "--config.compute_dtype=bfloat16",
                 "--config.batch_size=8"]  # fmt: skip
        step = make_step(methods.override(methods.load(str(ddpm.CONFIG))[2], words), ddpm.CIFAR)
        wait(step.call())
        with jax.transfer_guard("disallow"):
            for _ in range(IN_A_ROW):
                scalars = step.call()
        wait(scalars)
        products = re.findall(r"stablehlo\.(?:dot_general|convolution).*", step.lowered)
        return [
            {"what": "transfers in ten steps", "value": 0},  # the guard raises otherwise
            {"what": "matmuls and convolutions of the program", "value": len(products)},
            {"what": "of these with f32 inputs", "value": sum(_has_f32_input(line) for line in products)},
            {"what": "transposes in the compiled program", "value": len(re.findall(r"\btranspose\(", step.compiled))},
        ]

    def critic_steps(self) -> Rows:
        """The step of WGAN-GP, whose five critic steps are a rolled loop on accelerators."""
        config = methods.load(f"{ROOT / 'configs/wgan_gp_mnist.py'}{':tiny' if self.small else ''}")[2]
        step = make_step(config, (28, 28, 1))
        ms = milliseconds({"gen_jax": step.call}, self.rounds, self.in_a_row)["gen_jax"]
        return [{
            "batch": config.batch_size,
            "critic steps": config.gan.critic_steps,
            "step, ms": round(ms, 3),
            "preparation, s": round(step.seconds, 1),
        }]  # fmt: skip


def _has_f32_input(line: str) -> bool:
    """Example:
    >>> _has_f32_input("stablehlo.dot_general %1, %2 : (tensor<8x4xbf16>, tensor<4x2xbf16>) -> tensor<8x2xf32>")
    False
    """
    return "xf32>" in line.rpartition(": (")[2].partition(") ->")[0]


def _command(*words: str, **env: str) -> float:
    """Returns the seconds that `python -m gen_jax.main` took, which allocates memory as it does by default."""
    began = time.perf_counter()
    command, env = [sys.executable, "-m", "gen_jax.main", *words], os.environ | env
    env.pop("XLA_PYTHON_CLIENT_PREALLOCATE", None)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-300:]}")
    return time.perf_counter() - began


def _losses(run: pathlib.Path) -> dict[int, float]:
    return {record["step"]: record["train/loss"] for record in read_metrics(run) if "train/loss" in record}


def markdown(found: dict[str, Any]) -> str:
    """Returns the tables of all parts.

    Example:
      >>> print(markdown({"Machine": {"rows": [{"what": "x", "value": 1}], "seconds": 2.0}}))
      ### Machine
      <BLANKLINE>
      | what | value |
      | --- | ---: |
      | x | 1 |
    """
    texts = []
    for name, part in found.items():
        rows = part.get("rows", [])
        body = timing.table([*rows[0]], [[str(value) for value in row.values()] for row in rows]) if rows else ""
        texts.append(f"### {name}\n\n{body or part.get('failed', 'not started: out of time')}")
    return "\n\n".join(texts)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", default=".", help="folder for accelerator.json and accelerator.md")
    parser.add_argument("--seconds", type=float, default=400, help="no part starts later than this")
    parser.add_argument("--rounds", type=int, default=6, help=f"turns per contender, {IN_A_ROW} steps each")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script itself on a CPU")
    flags = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two libraries share the memory
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    out = pathlib.Path(flags.out)
    out.mkdir(parents=True, exist_ok=True)
    start, found = time.perf_counter(), {}
    for name, part in Measure(flags.small, flags.rounds).parts():
        found[name] = {}
        if time.perf_counter() - start < flags.seconds:
            began = time.perf_counter()
            try:
                found[name]["rows"] = part()
            except Exception as error:  # the next part must go on
                found[name]["failed"] = f"failed: {type(error).__name__}: {str(error)[:300]}"
                traceback.print_exc()
            found[name]["seconds"] = round(time.perf_counter() - began, 1)
        (out / "accelerator.json").write_text(json.dumps(found, indent=1))
        (out / "accelerator.md").write_text(markdown(found) + "\n")
        print(markdown({name: found[name]}), f"({found[name].get('seconds', 0)} s)\n", flush=True)


if __name__ == "__main__":
    main()

"""The measures of an accelerator, as far as a CPU can check them."""

import jax
import pytest

pytest.importorskip("torch", reason="PyTorch is in the extra bench")

from benchmarks import accelerator, ddpm
from gen_jax import methods

SMALL = [*ddpm.WORDS, "--config.batch_size=8", "--config.network.channels=8", "--config.network.multipliers=(1,)",
         "--config.network.attention_sizes=()"]  # fmt: skip


def test_the_step_counts_its_flops_and_moves_nothing_between_host_and_device():
    flops = []
    for size in (8, 16):
        config = methods.override(methods.load("ddpm_mnist:tiny")[2], [*SMALL, f"--config.batch_size={size}"])
        step = accelerator.make_step(config, (8, 8, 1))
        flops.append(step.flops)
        jax.block_until_ready(step.call())
        with jax.transfer_guard("disallow"):
            scalars = step.call()
        assert float(scalars["loss"]) > 0
    # Twice the images, twice the work, but for the optimizer's.
    assert 1.8 < flops[1] / flops[0] <= 2


def test_matmuls_in_single_precision_are_seen():
    line = "stablehlo.convolution(%0, %1) : (tensor<1x8x8x4x{a}>, tensor<3x3x4x8x{b}>) -> tensor<1x8x8x8xf32>"
    found = [accelerator._has_f32_input(line.format(a=a, b=b)) for a, b in (("bf16", "bf16"), ("f32", "bf16"))]
    assert found == [False, True]


def test_a_part_that_failed_or_did_not_start_has_its_place_in_the_report():
    found = {"One": {"failed": "failed: ValueError: x", "seconds": 1.0}, "Two": {}}
    assert accelerator.markdown(found) == "### One\n\nfailed: ValueError: x\n\n### Two\n\nnot started: out of time"

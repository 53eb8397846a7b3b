"""The PyTorch peer of the benchmark is the same network, number by number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is in the extra bench")

from clu.parameter_overview import count_parameters  # noqa: E402

from benchmarks import torch_unet  # noqa: E402  after the skip
from gen_jax.diffusion.unet import UNet  # noqa: E402

FAST = {"patch": 2, "norm": "rms", "film": True, "shuffle": True, "use_bias": False, "attention_sizes": (4,)}
PAPER = {"patch": 1, "norm": "group", "num_groups": 4, "num_heads": 2, "attention_sizes": (8,)}


@pytest.mark.parametrize("fields", [FAST, PAPER], ids=["fast", "paper"])
@pytest.mark.parametrize("layout", ["contiguous_format", "channels_last"])
def test_same_parameters_give_the_same_output(fields, layout):
    fields = fields | {"channels": 8, "multipliers": (1, 2), "num_blocks": 1}
    rng = np.random.default_rng(0)
    x, time = rng.normal(size=(2, 14, 14, 3)).astype(np.float32), np.array([3.0, 700.0], np.float32)
    ours = UNet(out_channels=3, **fields)
    params = jax.jit(ours.init)(jax.random.key(0), x, time)["params"]
    noisy = [leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in jax.tree.leaves(params)]
    params = jax.tree.unflatten(jax.tree.structure(params), noisy)  # no layer starts as zero: all are seen

    theirs = torch_unet.UNet(14, 3, 3, **fields)
    torch_unet.copy_parameters(params, theirs)
    theirs = theirs.to(memory_format=getattr(torch, layout))
    assert sum(p.numel() for p in theirs.parameters()) == count_parameters(params)
    with torch.no_grad():
        output = theirs(torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(time))
    expected = jax.jit(ours.apply)({"params": params}, x, jnp.asarray(time))
    np.testing.assert_allclose(output.permute(0, 2, 3, 1).numpy(), expected, rtol=1e-4, atol=1e-4)

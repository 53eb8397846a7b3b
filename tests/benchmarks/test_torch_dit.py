"""The PyTorch peer of the benchmark is the same transformer, number by number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is in the extra bench")

from clu.parameter_overview import count_parameters  # noqa: E402

from benchmarks import torch_dit  # noqa: E402  after the skip
from gen_jax.diffusion.dit import DiT  # noqa: E402


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "paper"])
def test_same_parameters_give_the_same_output(ours):
    fields = {"patch": 2, "width": 16, "depth": 2, "num_heads": 2, "qk_norm": ours, "qkv_bias": not ours}
    rng = np.random.default_rng(0)
    x, time = rng.normal(size=(2, 14, 14, 3)).astype(np.float32), np.array([3.0, 700.0], np.float32)
    network = DiT(out_channels=3, **fields)
    params = jax.jit(network.init)(jax.random.key(0), x, time)["params"]
    noisy = [leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in jax.tree.leaves(params)]
    params = jax.tree.unflatten(jax.tree.structure(params), noisy)  # no layer starts as zero: all are seen

    theirs = torch_dit.DiT(14, 3, 3, **fields)
    torch_dit.copy_parameters(params, theirs)
    assert sum(p.numel() for p in theirs.parameters()) == count_parameters(params)
    with torch.no_grad():
        output = theirs(torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(time))
    expected = jax.jit(network.apply)({"params": params}, x, jnp.asarray(time))
    np.testing.assert_allclose(output.permute(0, 2, 3, 1).numpy(), expected, rtol=1e-4, atol=1e-4)

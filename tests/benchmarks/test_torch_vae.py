"""The PyTorch peer of the VAE's benchmark is the same network with the same loss and gradient, number by number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is in the extra bench")

from clu.parameter_overview import count_parameters  # noqa: E402

from benchmarks import torch_vae  # noqa: E402  after the skip
from gen_jax.nn.gaussian import LOG_VAR_LIMIT, Gaussian, kl_to_standard_normal, reparameterise, soft_bound  # noqa: E402
from gen_jax.vae import elbo, likelihood, networks  # noqa: E402

SHAPE, LATENTS, KL_WEIGHT, FREE_BITS = (8, 12, 3), 2, 0.3, 0.2
GATED = {"name": "dense", "hidden": (6, 5), "activation": "gated"}
MNIST = {"name": "conv", "channels": (4, 6), "kernels": (3, 3), "hidden": (5,), "decoder_hidden": (),
         "decoder_channels": (5, 4), "decoder_kernel": 3, "last_stride": 1}  # fmt: skip
BURGESS = MNIST | {"kernels": (4, 4), "decoder_hidden": (7,), "decoder_channels": (5,), "decoder_kernel": 4,
                   "last_stride": 2}  # fmt: skip


@pytest.mark.parametrize("fields", [GATED, MNIST, BURGESS], ids=["gated", "mnist", "burgess"])
def test_same_parameters_give_the_same_output_loss_and_gradient(fields):
    rng = np.random.default_rng(0)
    x, eps = rng.uniform(size=(3, *SHAPE)).astype(np.float32), rng.normal(size=(3, LATENTS)).astype(np.float32)
    encoder, decoder = networks.make(fields, SHAPE, LATENTS, 1, jnp.float32)
    init = jax.jit(lambda key: {"encoder": encoder.init(key, x)["params"], "decoder": decoder.init(key, eps)["params"]})
    # Biases start as zero: all are moved, so that all are seen.
    params = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), init(jax.random.key(0)))

    def loss_fn(params):
        mean, log_var = jnp.split(encoder.apply({"params": params["encoder"]}, x), 2, axis=-1)
        q = Gaussian(mean, soft_bound(log_var, LOG_VAR_LIMIT))
        logits = decoder.apply({"params": params["decoder"]}, reparameterise(q, eps))
        reconstruction = -elbo.sum_over_dimensions(likelihood.bernoulli().log_prob(x, logits))
        kl = elbo.free_bits(kl_to_standard_normal(q), FREE_BITS)
        return jnp.mean(reconstruction + KL_WEIGHT * kl), logits

    (loss, logits), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params)

    for layout in torch_vae.LAYOUTS:
        peer, expected = (torch_vae.make(fields, SHAPE, LATENTS, layout) for _ in range(2))
        torch_vae.copy_parameters(params, peer)
        torch_vae.copy_parameters(grads, expected)
        assert sum(p.numel() for p in peer.parameters()) == count_parameters(params)
        image, noise = torch_vae.to_peer(x, layout), torch.from_numpy(eps)
        np.testing.assert_allclose(torch_vae.from_peer(peer(image, noise)[0]), logits, rtol=1e-5, atol=1e-5)
        value = torch_vae.negative_elbo(peer, image, noise, KL_WEIGHT, FREE_BITS)
        value.backward()
        np.testing.assert_allclose(value.item(), loss, rtol=1e-5)
        for (name, parameter), gradient in zip(peer.named_parameters(), expected.parameters(), strict=True):
            np.testing.assert_allclose(parameter.grad, gradient.detach(), rtol=1e-4, atol=1e-4, err_msg=name)

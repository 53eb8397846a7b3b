"""The PyTorch peers of the GANs' benchmarks are the same networks, trained by the same steps, number by number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

torch = pytest.importorskip("torch", reason="PyTorch is in the extra bench")

from clu.parameter_overview import count_parameters  # noqa: E402

from benchmarks import torch_gan, torch_r3gan  # noqa: E402  after the skip
from benchmarks.torch_vae import LAYOUTS, copy_parameters, from_peer, to_peer  # noqa: E402
from gen_jax import methods  # noqa: E402
from gen_jax.gan import networks  # noqa: E402
from gen_jax.gan.defaults import gan_config  # noqa: E402
from gen_jax.method import DataSpec, draw, stream, to_model  # noqa: E402

SHAPE, LATENTS = (16, 24, 3), 5
SPEC = DataSpec("made_up", SHAPE, 64)
CATS = {"name": "conv", "generator_channels": (6, 4), "generator_kernel": 4, "generator_norm": "batch",
        "last_stride": 2, "upsampling": "transposed", "channels": (4, 6), "kernel": 4, "norm": "batch",
        "norm_first": True, "end_bias": False}  # fmt: skip
FIELDS = {
    "cats": CATS,
    "ablation": CATS | {"last_stride": 4},
    "radford": CATS | {"generator_kernel": 5, "kernel": 5, "norm_first": False, "end_bias": True},
    "plain": CATS | {"generator_norm": "none", "norm": "none"},
}
R3GAN = {"name": "r3gan", "widths": (8, 8, 4), "blocks": 2, "cardinality": 2, "expansion": 2, "embedding_dim": 64}


def moved(params, rng):
    """Scales start as one and biases as zero: all are moved, so that all are seen."""
    return jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), params)


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_same_parameters_give_the_same_outputs_in_training(fields):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4, LATENTS)).astype(np.float32)
    image = rng.uniform(-1, 1, (4, *SHAPE)).astype(np.float32)
    inputs, params, outputs = {"generator": z, "discriminator": image}, {}, {}
    for name, network in zip(inputs, networks.make(fields, SHAPE, 0, 0, 1, jnp.float32), strict=True):
        variables = jax.jit(network.init)(jax.random.key(0), inputs[name])
        params[name] = moved(variables.pop("params"), rng)
        apply = jax.jit(functools.partial(network.apply, train=True, mutable=["batch_stats"]))
        outputs[name] = apply({"params": params[name], **variables}, inputs[name])[0]

    for layout in LAYOUTS:
        peer = torch_gan.make(fields, SHAPE, LATENTS, layout)
        copy_parameters(params, peer)
        for name in inputs:
            assert sum(p.numel() for p in getattr(peer, name).parameters()) == count_parameters(params[name])
        with torch.no_grad():
            made, judged = peer.generator(torch.from_numpy(z)), peer.discriminator(to_peer(image, layout))
        np.testing.assert_allclose(from_peer(made), outputs["generator"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(judged[:, 0].numpy(), outputs["discriminator"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_from_the_same_noise_and_images_give_the_same_networks(layout):
    config = gan_config(learning_rate=0.02, discriminator_rate=0.01)
    config.network, config.gan.latents, config.gan.real_target = ConfigDict(CATS), LATENTS, 0.9
    config.optimizer.eps = 0.01  # Adam's own eps lets a gradient's rounding decide the sign of an early step
    rng = np.random.default_rng(1)
    method = methods.make(config, SPEC)
    state = jax.jit(method.init)(jax.random.key(0), {}, {})
    params = moved(state.params, rng)
    state = state.replace(params=params)
    peer = torch_gan.make(config.network, SHAPE, LATENTS, layout)
    copy_parameters(params, peer)
    average = torch_gan.make_average(config, peer)
    step, train = jax.jit(method.step), torch_gan.make_step(config, peer, average)

    for _ in range(3):  # in the first the moving average is a copy, and Adam's moments are zero
        batch = {"image": rng.integers(0, 256, (4, *SHAPE)).astype(np.uint8), "index": np.arange(4, dtype=np.int32)}
        z = noise_of(state, batch["index"])
        real = np.asarray(to_model(batch["image"], SPEC.value_range))
        losses = train(to_peer(real, layout), torch.from_numpy(z))
        state, scalars = step(state, batch)
        ours = [float(scalars["discriminator_loss"]), float(scalars["generator_loss"])]
        np.testing.assert_allclose(losses, ours, rtol=1e-4)

    expected = torch_gan.make(config.network, SHAPE, LATENTS, layout)
    copy_parameters(params, expected)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(peer.parameters(), expected.parameters(), strict=True))
    copy_parameters(state.params, expected)
    assert_same(peer, expected)
    copy_parameters({"generator": state.ema["generator"]}, torch.nn.ModuleDict({"generator": expected.generator}))
    assert_same(average.module, expected.generator)
    for network, variables in (
        (peer.generator, state.variables["generator"]),
        (peer.discriminator, state.variables["discriminator"]),
        (average.module, state.ema["generator_variables"]),
    ):
        for name, kept in variables["batch_stats"].items():  # PyTorch's variances are the unbiased ones
            mean = network.get_submodule(name).running_mean.numpy()
            np.testing.assert_allclose(mean, kept["mean"], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_r3gan_of_the_same_parameters_gives_the_same_outputs(layout):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4, LATENTS)).astype(np.float32)
    image = rng.uniform(-1, 1, (4, *SHAPE)).astype(np.float32)
    inputs, params, outputs = {"generator": z, "discriminator": image}, {}, {}
    for name, network in zip(inputs, networks.make(R3GAN, SHAPE, 0, 0, 1, jnp.float32), strict=True):
        params[name] = moved(jax.jit(network.init)(jax.random.key(0), inputs[name])["params"], rng)
        apply = jax.jit(functools.partial(network.apply, train=True))
        outputs[name] = apply({"params": params[name]}, inputs[name])
    peer = torch_r3gan.make(R3GAN, SHAPE, LATENTS, layout)
    torch_r3gan.copy_parameters(params, peer)
    with torch.no_grad():
        made, judged = peer.generator(torch.from_numpy(z)), peer.discriminator(to_peer(image, layout))
    np.testing.assert_allclose(from_peer(made), outputs["generator"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(judged[:, 0].numpy(), outputs["discriminator"], rtol=1e-4, atol=1e-5)


def test_r3gan_trained_from_the_same_noise_and_images_is_the_same():
    config = gan_config(learning_rate=0.02, discriminator_rate=0.01)
    config.network, config.gan.latents, config.gan.loss = ConfigDict(R3GAN), LATENTS, "relativistic"
    config.gan.penalty = ConfigDict({"name": "r1_r2", "weight": 0.5, "every": 1})
    config.optimizer.eps = 0.01  # Adam's own eps lets a gradient's rounding decide the sign of an early step
    rng = np.random.default_rng(1)
    method = methods.make(config, SPEC)
    state = jax.jit(method.init)(jax.random.key(0), {}, {})
    state = state.replace(params=moved(state.params, rng))
    peer = torch_r3gan.make(config.network, SHAPE, LATENTS, "channels_last")
    torch_r3gan.copy_parameters(state.params, peer)
    average = torch_gan.make_average(config, peer)
    step, train = jax.jit(method.step), torch_r3gan.make_step(config, peer, average)

    for _ in range(3):
        batch = {"image": rng.integers(0, 256, (4, *SHAPE)).astype(np.uint8), "index": np.arange(4, dtype=np.int32)}
        z = noise_of(state, batch["index"])
        real = np.asarray(to_model(batch["image"], SPEC.value_range))
        losses = train(to_peer(real, "channels_last"), torch.from_numpy(z))
        state, scalars = step(state, batch)
        ours = [float(scalars["discriminator_loss"]), float(scalars["generator_loss"])]
        np.testing.assert_allclose(losses, ours, rtol=1e-4)

    expected = torch_r3gan.make(config.network, SHAPE, LATENTS, "channels_last")
    torch_r3gan.copy_parameters(state.params, expected)
    assert_same(peer, expected)
    torch_r3gan.copy_parameters(
        {"generator": state.ema["generator"]}, torch.nn.ModuleDict({"generator": expected.generator})
    )
    assert_same(average.module, expected.generator)


def noise_of(state, index):
    """z [B, Z] that gen_jax.gan.game draws in the step after `state`."""
    key = jax.random.fold_in(jax.random.fold_in(stream(state.key, "step"), state.step), 0)
    return np.array(draw(jax.random.split(key, 6)[0], index, lambda key: jax.random.normal(key, (LATENTS,))))


def assert_same(peer, expected):
    for (name, parameter), other in zip(peer.named_parameters(), expected.parameters(), strict=True):
        np.testing.assert_allclose(parameter.detach(), other.detach(), rtol=1e-4, atol=1e-4, err_msg=name)

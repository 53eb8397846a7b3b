"""Flows for the tests of this folder, with parameters at which nothing is trivial."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.nflow import layers
from gen_jax.nflow.bijection import chain, fixed, logit, multiscale, squeeze
from gen_jax.nflow.transformer import CausalTransformer, autoregressive, patches, turn


def examples(shape, num=3, seed=0):
    """Pictures in the open interval (-1, 1)."""
    return jnp.asarray(np.random.default_rng(seed).uniform(-0.99, 0.99, (num, *shape)), jnp.float32)


def noise(shape, num=3, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(num, *shape)), jnp.float32)


def shaken(params, scale=0.15, seed=2):
    """Parameters with random numbers added to all: layers that start at zero do something, too."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype), params)


def conv_net(channels, classes=0):
    return layers.ConvNet(out_channels=2 * (channels // 2), width=5, num_classes=classes)


def glow(shape, factors, steps=1, classes=0):
    """A small flow of couplings, of images in (-1, 1)."""
    height, width, channels = shape
    levels, shapes = [], []
    for number, factor in enumerate(factors):
        height, width, channels = height // factor, width // factor, channels * factor**2
        parts = {"squeeze": squeeze(factor)}
        for i in range(steps):
            parts |= {
                f"norm_{i}": layers.act_norm(),
                f"mix_{i}": layers.mix(channels, number * steps + i),
                f"couple_{i}": layers.couple(conv_net(channels, classes)),
            }
        levels.append(chain(parts))
        shapes.append((height, width, channels))
        channels -= channels // 2
    return chain({"logit": logit(-1.0, 1.0), "levels": multiscale(levels, shapes)})


def transformer(values, grid, classes=0, depth=2):
    return CausalTransformer(
        out_channels=2 * values, grid=grid, width=8, depth=depth, num_heads=2, mlp_ratio=2, num_classes=classes
    )


def tar(shape, patch, blocks=2, classes=0):
    """A small TarFlow."""
    height, width, channels = shape
    network = transformer(patch * patch * channels, (height // patch, width // patch), classes, depth=1)
    parts = {"patches": patches(patch, shape)}
    for i in range(blocks):
        parts |= {f"block_{i}": autoregressive(network), f"turn_{i}": turn()}
    return chain(parts)


TURN = fixed(lambda x: x[:, ::-1], lambda z: z[:, ::-1])

# By name: (bijection, shape of x, whether it takes labels).
BIJECTIONS = {
    "turn": (TURN, (5, 2), False),
    "squeeze": (squeeze(2), (4, 6, 3), False),
    "logit": (logit(-1.0, 1.0), (2, 2, 3), False),
    "histogram": (layers.histogram(-1.0, 1.0, 4), (2, 2, 3), False),
    "act_norm": (layers.act_norm(), (2, 3, 4), False),
    "mix": (layers.mix(5, 3), (2, 2, 5), False),
    "couple": (layers.couple(conv_net(3)), (2, 2, 3), False),
    "levels": (glow((3, 6, 1), (3, 1), classes=3), (3, 6, 1), True),
    "patches": (patches(2, (4, 6, 1)), (4, 6, 1), False),
    "tarflow": (tar((4, 2, 2), 2, classes=3), (4, 2, 2), True),
}


@functools.cache
def found(name):
    """What a bijection of BIJECTIONS makes of examples x and noise z, and its Jacobian; compiled once."""
    bijection, shape, labelled = BIJECTIONS[name]
    x = examples(shape)
    label = jnp.array([0, 2, 1]) if labelled else None

    def flat(params, x, one):
        return bijection.forward(params, x[None], one[None] if labelled else None)[0].ravel()

    @jax.jit
    def facts(key, x, drawn):
        params = shaken(bijection.init(key, x, label))
        z, log_det = bijection.forward(params, x, label)
        again = bijection.forward(params, bijection.inverse(params, drawn.reshape(z.shape), label), label)[0]
        jacobian = jax.vmap(jax.jacobian(flat, 1), (None, 0, 0))(
            params, x, jnp.zeros(len(x)) if label is None else label
        )
        others = None if label is None else bijection.forward(params, x, (label + 1) % 3)[1]
        return {
            "x": bijection.inverse(params, z, label), "z": again.reshape(drawn.shape), "log_det": log_det,
            "jacobian": jacobian.reshape(len(x), x[0].size, x[0].size), "of other labels": others,
        }  # fmt: skip

    # Half of the prior's width: beyond the range of the data float32 has no digits left for the logit.
    drawn = noise(shape) / 2
    return x, drawn, facts(jax.random.key(0), x, drawn)

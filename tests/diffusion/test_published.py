"""Published layouts: every name and number finds its place, checked by a forward pass written from the papers' code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_files import named_shapes, random_tensors

from gen_jax.diffusion import published
from gen_jax.diffusion.unet import UNet
from gen_jax.method import UserError

SMALL = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1}
UNET = UNet(out_channels=1, attention_sizes=(4,), num_groups=4, **SMALL)


def shapes_of(network=UNET, size=8, colours=1):
    x = jnp.zeros((1, size, size, colours))
    return jax.eval_shape(network.init, jax.random.key(0), x, jnp.zeros(1))["params"]


def original_network(weights, x, t, channels, multipliers, num_blocks, attention, groups):
    """The forward pass of the original code on its own names, with images [B, C, H, W]."""

    def at(name):
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    def conv(name, h, stride=1, padding=((1, 1), (1, 1))):
        kernel, bias = at(name)
        padding = padding if kernel.shape[-1] == 3 else "VALID"
        numbers = ("NCHW", "OIHW", "NCHW")
        y = jax.lax.conv_general_dilated(h, kernel, (stride, stride), padding, dimension_numbers=numbers)
        return y + bias[:, None, None]

    def dense(name, v):
        kernel, bias = at(name)
        return v @ kernel.T + bias

    def norm(name, h):
        gain, bias = at(name)
        parts = h.reshape(h.shape[0], groups, -1)
        parts = (parts - parts.mean(-1, keepdims=True)) / jnp.sqrt(parts.var(-1, keepdims=True) + 1e-6)
        return parts.reshape(h.shape) * gain[:, None, None] + bias[:, None, None]

    def swish(v):
        return v / (1 + jnp.exp(-v))

    def residual(name, h):
        y = conv(f"{name}.conv1", swish(norm(f"{name}.norm1", h)))
        y += dense(f"{name}.temb_proj", swish(told))[:, :, None, None]
        y = conv(f"{name}.conv2", swish(norm(f"{name}.norm2", y)))
        return y + (conv(f"{name}.nin_shortcut", h) if f"{name}.nin_shortcut.weight" in weights else h)

    def attend(name, h):
        normed = norm(f"{name}.norm", h)
        q, k, v = (conv(f"{name}.{each}", normed).reshape(*h.shape[:2], -1) for each in "qkv")
        share = jax.nn.softmax(jnp.einsum("bci,bcj->bij", q, k) / np.sqrt(h.shape[1]), axis=2)
        return h + conv(f"{name}.proj_out", jnp.einsum("bij,bcj->bci", share, v).reshape(h.shape))

    def block(name, level, number, h):
        h = residual(f"{name}.{level}.block.{number}", h)
        return attend(f"{name}.{level}.attn.{number}", h) if level in attention else h

    frequencies = np.exp(-np.log(10_000) * np.arange(channels // 2) / (channels // 2 - 1))
    angles = t[:, None] * frequencies.astype(np.float32)
    told = dense("temb.dense.0", jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], 1))
    told = dense("temb.dense.1", swish(told))
    hs, levels = [conv("conv_in", x)], range(len(multipliers))
    for level in levels:
        for number in range(num_blocks):
            hs.append(block("down", level, number, hs[-1]))
        if level < levels[-1]:
            hs.append(conv(f"down.{level}.downsample.conv", hs[-1], 2, ((0, 1), (0, 1))))
    h = residual("mid.block_2", attend("mid.attn_1", residual("mid.block_1", hs[-1])))
    for level in levels[::-1]:
        for number in range(num_blocks + 1):
            h = block("up", level, number, jnp.concatenate([h, hs.pop()], 1))
        if level:
            h = conv(f"up.{level}.upsample.conv", h.repeat(2, 2).repeat(2, 3))
    return conv("conv_out", swish(norm("norm_out", h)))


def test_the_network_of_a_file_computes_what_the_original_code_does():
    tensors = random_tensors("original")
    params, layout = published.params_of(tensors, shapes_of(), "a file")
    assert layout == "original"
    rng = np.random.default_rng(1)
    x, t = rng.normal(size=(3, 8, 8, 1)).astype(np.float32), np.array([0, 371, 999], np.float32)
    expected = jax.jit(original_network, static_argnums=range(3, 8))(
        tensors, x.transpose(0, 3, 1, 2), t, 8, (1, 2), 1, (1,), 4
    )
    found = jax.jit(UNET.apply)({"params": params}, x, t)
    assert float(jnp.std(expected)) > 0.1
    np.testing.assert_allclose(found, np.transpose(expected, (0, 2, 3, 1)), atol=1e-5)


@pytest.mark.parametrize("layout", ["diffusers", "diffusers, older"])
def test_the_same_numbers_under_the_names_of_diffusers_are_the_same_network(layout):
    # Both lists of names are in the order of the layers, which the two programs share.
    original = random_tensors("original")
    renamed = dict(zip(named_shapes(layout), original.values(), strict=True))
    renamed = {name: renamed[name].reshape(shape) for name, shape in named_shapes(layout).items()}
    expected = published.params_of(original, shapes_of(), "a file")[0]
    found, name = published.params_of(renamed, shapes_of(), "a file")
    assert name == layout
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_kernel_is_turned_and_the_three_matrices_of_an_attention_stand_side_by_side():
    tensors = random_tensors("original")
    params = published.params_of(tensors, shapes_of(), "a file")[0]
    assert params["in"]["kernel"][2, 1, 0, 5] == tensors["conv_in.weight"][5, 0, 2, 1]
    assert params["up_1_0"]["shortcut"]["kernel"][30, 5] == tensors["up.1.block.0.nin_shortcut.weight"][5, 30, 0, 0]
    qkv = params["middle_attention"]["attention"]["qkv"]
    assert qkv["kernel"][3, 16 + 9] == tensors["mid.attn_1.k.weight"][9, 3, 0, 0]
    assert qkv["bias"][32 + 9] == tensors["mid.attn_1.v.bias"][9]


@pytest.mark.parametrize("layout", published.LAYOUTS)
def test_every_name_of_the_published_network_is_used_once(layout):
    sizes = {"channels": 128, "multipliers": (1, 2, 2, 2), "num_blocks": 2, "attention": (1,), "colours": 3}
    theirs = named_shapes(layout, **sizes)
    assert sum(np.prod(shape) for shape in theirs.values()) == 35_746_307
    leaves = jax.tree_util.tree_leaves_with_path(shapes_of(UNet(), 32, 3))
    paths = [tuple(key.key for key in path) for path, _ in leaves]
    names = published.names_of(published.LAYOUTS[layout], paths)
    assert sorted(name for each in names.values() for name in each) == sorted(theirs)


def test_half_precision_is_read_and_so_are_names_that_data_parallel_wrote():
    tensors = random_tensors("original")
    half = {f"module.{name}": tensor.astype(np.float16) for name, tensor in tensors.items()}
    params = published.params_of(half, shapes_of(), "a file")[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    np.testing.assert_array_equal(params["out"]["bias"], half["module.conv_out.bias"].astype(np.float32))


def test_the_file_stays_as_it_is():
    tensors = random_tensors("original")
    before = {name: tensor.copy() for name, tensor in tensors.items()}
    published.params_of(tensors, shapes_of(), "a file")
    assert tensors.keys() == before.keys()
    assert all(np.array_equal(tensors[name], before[name]) for name in before)


def without(*names):
    return {name: tensor for name, tensor in random_tensors("diffusers").items() if name not in names}


NAN = np.full((1,), np.nan, np.float32)


@pytest.mark.parametrize(
    ("tensors", "parts"),
    [
        ({}, ["holds 0 tensors, with the names of no layout", "docs/published.md"]),
        ({"conv1.weight": NAN}, ["holds 1 tensor, the first 'conv1.weight', with the names of no layout"]),
        (without("conv_out.bias"), ["it lacks 1 tensor of this one, the first conv_out.bias"]),
        (without("conv_in.weight", "conv_out.bias"), ["it lacks 2 tensors of this one, the first conv_in.weight"]),
        (without() | {"extra\n": NAN}, ["it has 1 tensor more, the first 'extra\\n'"]),
        (random_tensors("diffusers", num_blocks=2), ["it has", "down_blocks.0.resnets.1.", "set --config.network"]),
        (
            random_tensors("diffusers", attention=()),
            ["it lacks 30 tensors of this one, the first down_blocks.1.attentions.0."],
        ),
        (random_tensors("original", colours=3), ["conv_in.weight is of shape [8, 3, 3, 3]", "needs [8, 1, 3, 3]"]),
        (random_tensors("original", channels=16), ["conv.bias is of shape [16], where this one needs [8]"]),
        (without() | {"conv_out.bias": NAN}, ["holds values in conv_out.bias that are not finite"]),
    ],
)
def test_another_network_is_refused_in_one_line_with_its_first_difference(tensors, parts):
    with pytest.raises(UserError) as error:
        published.params_of(tensors, shapes_of(), "weights.bin")
    text = str(error.value)
    assert text.startswith("weights.bin ")
    assert text.isprintable()
    for part in parts:
        assert part in text

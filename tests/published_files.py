"""Names and shapes of published U-Nets, and files of them, without PyTorch.

They are written down in the order in which the published modules make their layers, and not as gen_jax.diffusion maps
them: the two agree only if both are right.
"""

import json
import struct

import numpy as np


def named_shapes(layout, channels=8, multipliers=(1, 2), num_blocks=1, attention=(1,), colours=1):
    """{name: shape} of a network with attention at the levels `attention`, in a layout of `published.LAYOUTS`."""
    found, old = {}, layout == "diffusers, older"
    original, top = layout == "original", len(multipliers) - 1

    def layer(name, out, *rest):
        found[f"{name}.weight"], found[f"{name}.bias"] = (out, *rest), (out,)

    def residual(name, width, out):
        layer(f"{name}.norm1", width)
        layer(f"{name}.conv1", out, width, 3, 3)
        layer(f"{name}.{'temb_proj' if original else 'time_emb_proj'}", out, 4 * channels)
        layer(f"{name}.norm2", out)
        layer(f"{name}.conv2", out, out, 3, 3)
        if width != out:
            layer(f"{name}.{'nin_shortcut' if original else 'conv_shortcut'}", out, width, 1, 1)

    def attend(name, width):
        layer(f"{name}.{'norm' if original else 'group_norm'}", width)
        theirs = ("query", "key", "value", "proj_attn") if old else ("to_q", "to_k", "to_v", "to_out.0")
        for each in ("q", "k", "v", "proj_out") if original else theirs:
            layer(f"{name}.{each}", width, width, *((1, 1) if original else ()))

    def block(way, level, number, width, out):
        place = level if way == "down" or original else top - level
        start = f"{way}.{place}" if original else f"{way}_blocks.{place}"
        residual(f"{start}.{'block' if original else 'resnets'}.{number}", width, out)
        if level in attention:
            attend(f"{start}.{'attn' if original else 'attentions'}.{number}", out)

    for number in (0, 1):
        name = f"temb.dense.{number}" if original else f"time_embedding.linear_{number + 1}"
        layer(name, 4 * channels, channels * (4 if number else 1))
    layer("conv_in", channels, colours, 3, 3)
    width, skips = channels, [channels]
    for level, times in enumerate(multipliers):
        for number in range(num_blocks):
            block("down", level, number, width, channels * times)
            width = channels * times
            skips.append(width)
        if level < top:
            layer(
                f"down.{level}.downsample.conv" if original else f"down_blocks.{level}.downsamplers.0.conv",
                width, width, 3, 3,
            )  # fmt: skip
            skips.append(width)
    residual("mid.block_1" if original else "mid_block.resnets.0", width, width)
    attend("mid.attn_1" if original else "mid_block.attentions.0", width)
    residual("mid.block_2" if original else "mid_block.resnets.1", width, width)
    for level in range(top, -1, -1):
        for number in range(num_blocks + 1):
            block("up", level, number, width + skips.pop(), channels * multipliers[level])
            width = channels * multipliers[level]
        if level:
            layer(
                f"up.{level}.upsample.conv" if original else f"up_blocks.{top - level}.upsamplers.0.conv",
                width, width, 3, 3,
            )  # fmt: skip
    layer("norm_out" if original else "conv_norm_out", width)
    layer("conv_out", colours, width, 3, 3)
    return found


def random_tensors(layout, seed=0, **sizes):
    """Small random tensors of a network, f32; norms are near one."""
    rng = np.random.default_rng(seed)
    return {
        name: (0.1 * rng.normal(size=shape) + ("norm" in name and name.endswith("weight"))).astype(np.float32)
        for name, shape in named_shapes(layout, **sizes).items()
    }


def as_safetensors(tensors):
    """The bytes of a safetensors file of f32 tensors."""
    header, contents = {}, b""
    for name, tensor in tensors.items():
        place = [len(contents), len(contents) + tensor.nbytes]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": place}
        contents += tensor.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + contents

"""The layouts of published PyTorch files of the U-Net of Ho et al. 2020, and how they become our parameters.

The authors published TensorFlow checkpoints; what is commonly found are ports of them to PyTorch, with two sets of
names. The arrays are the same up to the order of their axes: kernels are [out, in, h, w] there and [h, w, in, out]
here, and the three matrices of an attention are one here. No number is changed, other than by a cast to float32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from gen_jax.method import PyTree, UserError, counted

_PARALLEL = "module."  # before every name that DataParallel wrote
_PIXELWISE = "conv_shortcut.weight"  # of diffusers: a matrix here, a convolution by a single pixel there


class Layout(NamedTuple):
    """The names of a layout.

    Attributes:
      modules: by our name, in which # stands for a number. `{level}` and `{block}` are ours, `{above}` counts the
        levels from the smallest size up.
      parts: of residual and attention blocks, by our names.
      qkv: of the three matrices of an attention, which are one part here.
    """

    modules: Mapping[str, str]
    parts: Mapping[str, str]
    qkv: tuple[str, str, str]


_RESIDUAL = {"norm_0": "norm1", "conv_0": "conv1", "norm_1": "norm2", "conv_1": "conv2"}
_DIFFUSERS = Layout(
    {
        "time_0": "time_embedding.linear_1",
        "time_1": "time_embedding.linear_2",
        "in": "conv_in",
        "down_#_#": "down_blocks.{level}.resnets.{block}",
        "down_#_#_attention": "down_blocks.{level}.attentions.{block}",
        "down_#": "down_blocks.{level}.downsamplers.0.conv",
        "middle_0": "mid_block.resnets.0",
        "middle_attention": "mid_block.attentions.0",
        "middle_1": "mid_block.resnets.1",
        "up_#_#": "up_blocks.{above}.resnets.{block}",
        "up_#_#_attention": "up_blocks.{above}.attentions.{block}",
        "up_#": "up_blocks.{above}.upsamplers.0.conv",
        "out_norm": "conv_norm_out",
        "out": "conv_out",
    },
    _RESIDUAL
    | {"condition": "time_emb_proj", "shortcut": "conv_shortcut", "norm": "group_norm", "attention/out": "to_out.0"},
    ("to_q", "to_k", "to_v"),
)
LAYOUTS = {
    "diffusers": _DIFFUSERS,
    "diffusers, older": _DIFFUSERS._replace(
        parts={**_DIFFUSERS.parts, "attention/out": "proj_attn"}, qkv=("query", "key", "value")
    ),
    "original": Layout(
        {
            "time_0": "temb.dense.0",
            "time_1": "temb.dense.1",
            "in": "conv_in",
            "down_#_#": "down.{level}.block.{block}",
            "down_#_#_attention": "down.{level}.attn.{block}",
            "down_#": "down.{level}.downsample.conv",
            "middle_0": "mid.block_1",
            "middle_attention": "mid.attn_1",
            "middle_1": "mid.block_2",
            "up_#_#": "up.{level}.block.{block}",
            "up_#_#_attention": "up.{level}.attn.{block}",
            "up_#": "up.{level}.upsample.conv",
            "out_norm": "norm_out",
            "out": "conv_out",
        },
        _RESIDUAL | {"condition": "temb_proj", "shortcut": "nin_shortcut", "norm": "norm", "attention/out": "proj_out"},
        ("q", "k", "v"),
    ),
}
"""By name: diffusers' UNet2DModel (google/ddpm-cifar10-32, also as saved before attention was renamed there), and the
names of the authors' TensorFlow code as ports to PyTorch have them (pesser/pytorch_diffusion)."""


def params_of(tensors: Mapping[str, np.ndarray], shapes: PyTree, source: str) -> tuple[PyTree, str]:
    """Returns the parameters of a U-Net from the tensors of a published file, and the name of their layout.

    Args:
      tensors: by the file's names, of any real type.
      shapes: of our parameters, nested dictionaries with anything that has a `shape` as leaves.
      source: of the tensors, for messages.

    Returns:
      A tree like `shapes` of f32 arrays, and a key of `LAYOUTS`.

    Raises:
      UserError: the file has no layout of `LAYOUTS`, or holds another network: the line names the first tensor that is
        missing, left over, of another shape, or not finite.
    """
    if tensors and all(name.startswith(_PARALLEL) for name in tensors):
        tensors = {name.removeprefix(_PARALLEL): tensor for name, tensor in tensors.items()}
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    wanted = {tuple(key.key for key in path): tuple(leaf.shape) for path, leaf in leaves}
    layout, names = _layout_of(tensors, wanted, source)
    _check_names(tensors, names, f"{source} is of the layout {layout!r}, but of another network")
    found = [_array(tensors, names[path], path, shape, source) for path, shape in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(shapes), found), layout


def tensors_of(params: PyTree) -> dict[str, np.ndarray]:
    """Returns the parameters of a U-Net as tensors with the names and shapes of today's diffusers: `params_of`, undone.

    Args:
      params: nested dictionaries of f32 arrays.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    found = {tuple(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}
    tensors = {}
    for path, names in names_of(_DIFFUSERS, [*found]).items():
        for name, part in zip(names, np.split(found[path], len(names), axis=-1), strict=True):
            tensor = np.moveaxis(part, (-1, -2), (0, 1)) if path[-1] == "kernel" else part
            pixel = name.endswith(_PIXELWISE) and tensor.ndim == 2
            tensors[name] = np.ascontiguousarray(tensor.reshape(*tensor.shape, 1, 1) if pixel else tensor)
    return tensors


def names_of(layout: Layout, paths: list[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Returns the layout's name of each of our parameters; for query, key and value three names of one.

    Args:
      layout: of the file.
      paths: of all parameters of a U-Net, ("down_0_1", "conv_0", "kernel").

    Example:
      >>> paths = [("up_1_0", "conv_0", "kernel"), ("up_0_0_attention", "attention", "qkv", "bias")]
      >>> list(names_of(LAYOUTS["diffusers"], paths).values())[0]
      ('up_blocks.0.resnets.0.conv1.weight',)
      >>> list(names_of(LAYOUTS["original"], paths).values())[1]
      ('up.0.attn.0.q.bias', 'up.0.attn.0.k.bias', 'up.0.attn.0.v.bias')
    """
    top = max((int(match[1]) for path in paths if (match := re.match(r"up_(\d+)_", path[0]))), default=0)
    return {path: _names(layout, path, top) for path in paths}


def _names(layout: Layout, path: tuple[str, ...], top: int) -> tuple[str, ...]:
    module, *inner, field = path
    place = layout.modules.get(module)
    if place is None:
        level, *block = (int(number) for number in re.findall(r"\d+", module))
        kind = re.sub(r"\d+", "#", module)
        place = layout.modules[kind].format(level=level, above=top - level, block=block[0] if block else "")
    part = "/".join(inner)
    parts = layout.qkv if part == "attention/qkv" else (layout.parts[part],) if part else ()
    end = "bias" if field == "bias" else "weight"
    return tuple(f"{place}.{part}.{end}" for part in parts) or (f"{place}.{end}",)


def _layout_of(
    tensors: Mapping[str, np.ndarray], wanted: Mapping[tuple[str, ...], Any], source: str
) -> tuple[str, dict[tuple[str, ...], tuple[str, ...]]]:
    """The layout that shares most names with the file."""
    each = {layout: names_of(LAYOUTS[layout], [*wanted]) for layout in LAYOUTS}
    best = max(each, key=lambda layout: sum(name in tensors for names in each[layout].values() for name in names))
    if not any(name in tensors for names in each[best].values() for name in names):
        first = f", the first {min(tensors)[:100]!a}" if tensors else ""
        raise UserError(
            f"{source} holds {counted(len(tensors), 'tensor')}{first}, with the names of no layout that is known here: "
            "give a file of google/ddpm-cifar10-32 or of a port of the original code (docs/published.md)"
        )
    return best, each[best]


def _check_names(tensors: Mapping[str, np.ndarray], names: Mapping[Any, tuple[str, ...]], source: str) -> None:
    wanted = [name for each in names.values() for name in each]
    missing = [name for name in wanted if name not in tensors]
    left = sorted(tensors.keys() - set(wanted))
    faults = []
    if missing:
        faults.append(f"it lacks {counted(len(missing), 'tensor')} of this one, the first {missing[0]}")
    if left:
        faults.append(f"it has {counted(len(left), 'tensor')} more, the first {left[0][:100]!a}")
    if faults:
        raise UserError(f"{source}: {', and '.join(faults)}; set --config.network to the sizes of that network")


def _array(
    tensors: Mapping[str, np.ndarray],
    names: tuple[str, ...],
    path: tuple[str, ...],
    shape: tuple[int, ...],
    source: str,
) -> np.ndarray:
    """One of our parameters, f32 of `shape`."""
    third = (*shape[:-1], shape[-1] // len(names))
    theirs = (third[-1], third[-2], *third[:-2]) if path[-1] == "kernel" else third
    made = []
    for name in names:
        tensor = tensors[name]
        # A matrix is stored as one, or as a convolution by a single pixel.
        if tensor.shape != theirs and not (len(theirs) == 2 and tensor.shape == (*theirs, 1, 1)):
            raise UserError(
                f"{source} holds another network: {name} is of shape {list(tensor.shape)}, where this one needs "
                f"{list(theirs)}; set --config.network to the sizes of that network"
            )
        value = np.asarray(tensor).astype(np.float32).reshape(theirs)
        if not np.isfinite(value).all():
            raise UserError(f"{source} holds values in {name} that are not finite: it cannot be used")
        if path[-1] == "kernel":
            value = np.moveaxis(value, (0, 1), (-1, -2))
        made.append(value)
    return np.ascontiguousarray(np.concatenate(made, axis=-1))

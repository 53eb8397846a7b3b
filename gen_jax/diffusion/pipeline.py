"""diffusers' folder of a DDPM (a `DDPMPipeline` of a `UNet2DModel` and a `DDPMScheduler`), as files and as a config.

What cannot be said in both is refused. Names of tensors are in published.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gen_jax.config import chosen, flatten
from gen_jax.diffusion import published
from gen_jax.diffusion.process import CHOICES
from gen_jax.diffusion.schedule import Schedule
from gen_jax.method import DataSpec, PyTree, UserError

WEIGHTS = "diffusion_pytorch_model.safetensors"
_VERSION = "0.42.1"  # of diffusers, with which the tests load it

# Fixed values of UNet2DModel: those of google/ddpm-cifar10-32, and nothing else is our network.
_UNET = {
    "act_fn": "silu", "attention_head_dim": None, "center_input_sample": False, "class_embed_type": None,
    "downsample_padding": 0, "downsample_type": "conv", "flip_sin_to_cos": False, "freq_shift": 1,
    "mid_block_scale_factor": 1, "norm_eps": 1e-6, "num_class_embeds": None, "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional", "upsample_type": "conv",
}  # fmt: skip
# What UNet2DModel takes for a value that its config.json lacks, where that is another one.
_MISSING = {
    "attention_head_dim": 8,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_eps": 1e-5,
}
# Our values that such a network has.
_OURS = {
    "method": "ddpm", "network.name": "unet", "diffusion.conditional": False, "network.patch": 1,
    "network.norm": "group", "network.film": False, "network.shuffle": False, "network.use_bias": True,
    "network.num_heads": 1, "network.qk_norm": False, "diffusion.variance.name": "fixed", "diffusion.told": "time",
    "diffusion.input_scale.name": "none", "diffusion.schedule.num_steps": 1000,
}  # fmt: skip
_PREDICTIONS = {"eps": "epsilon", "x": "sample", "v": "v_prediction"}


def files(config: Any, spec: DataSpec, params: PyTree) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the JSON files of the folder by their places in it, and the tensors of unet/WEIGHTS.

    The scheduler takes the steps of `ancestral`, with the variance that the config has, or the small one.

    Args:
      config: of the run, complete.
      spec: of its data.
      params: of its network, averaged.

    Raises:
      UserError: the model is none that diffusers can hold; the line names the value.
    """
    flat = flatten(config)
    for key, value in _OURS.items():
        if flat.get(key) != value:
            raise UserError(
                f"config.{key} is {flat.get(key)!r}, and diffusers' layout is that of an unconditional DDPM with the "
                f"U-Net of its paper ({key}={value!r}); use --format=safetensors or stablehlo"
            )
    height, width, _ = spec.image_shape
    levels = len(config.network.multipliers)
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise UserError(f"images of {height}x{width} do not halve {levels - 1} times, as diffusers' network needs it")
    if config.diffusion.prediction.name not in _PREDICTIONS:
        raise UserError(
            f"config.diffusion.prediction is {config.diffusion.prediction.name}, and diffusers' scheduler knows "
            f"{', '.join(_PREDICTIONS)}: use --format=safetensors or stablehlo"
        )
    model = {"_class_name": "DDPMPipeline", "_diffusers_version": _VERSION} | {
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    told = {
        "model_index.json": model,
        "unet/config.json": _unet(config.network, spec),
        "scheduler/scheduler_config.json": _scheduler(config),
    }
    return told, published.tensors_of(params)


def _unet(network: Any, spec: DataSpec) -> dict[str, Any]:
    height, width, colours = spec.image_shape
    attends = [height // 2**level in network.attention_sizes for level in range(len(network.multipliers))]
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": _VERSION,
        **_UNET,
        "sample_size": height if height == width else [height, width],
        "in_channels": colours,
        "out_channels": colours,
        "block_out_channels": [network.channels * times for times in network.multipliers],
        "layers_per_block": network.num_blocks,
        "down_block_types": ["AttnDownBlock2D" if each else "DownBlock2D" for each in attends],
        "up_block_types": ["AttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attends)],
        "norm_num_groups": network.num_groups,
        "dropout": network.dropout,
    }


def _scheduler(config: Any) -> dict[str, Any]:
    path = chosen(CHOICES["diffusion.schedule"], config.diffusion.schedule)
    variance = config.sample.sampler.get("variance", "small")
    return {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": _VERSION,
        "num_train_timesteps": path.num_steps,
        "trained_betas": _betas(path).tolist(),
        "prediction_type": _PREDICTIONS[config.diffusion.prediction.name],
        "variance_type": "fixed_large" if variance == "large" else "fixed_small",
        "clip_sample": config.sample.clip,
        "timestep_spacing": "trailing",
    }


def _betas(path: Schedule) -> np.ndarray:
    return 1 - path.alpha_bar / np.concatenate([[1.0], path.alpha_bar[:-1]])


def words_of(unet: Mapping[str, Any], scheduler: Mapping[str, Any] | None, source: str) -> list[str]:
    """Returns the values of a config that diffusers' folder tells: --config.network.channels=128, ...

    Args:
      unet: config.json of the UNet2DModel.
      scheduler: scheduler_config.json, or None if the folder has none.
      source: of both, for messages.

    Raises:
      UserError: the network or the scheduler has a value that this project's do not have.
    """
    for key, value in _UNET.items():
        found = unet.get(key, _MISSING.get(key, value))
        if found != value:
            raise UserError(f"{source} holds a network with {key}={found!r}, and the U-Net here has {value!r}")
    try:
        widths, kinds = unet["block_out_channels"], unet["down_block_types"]
        size, groups, blocks = unet["sample_size"], unet.get("norm_num_groups", 32), unet.get("layers_per_block", 2)
        height = size if isinstance(size, int) else size[0]
        if unet.get("up_block_types") != [kind.replace("Down", "Up") for kind in reversed(kinds)]:
            raise ValueError("other levels on the way up than on the way down")
        if {*kinds} - {"DownBlock2D", "AttnDownBlock2D"} or any(width % widths[0] for width in widths):
            raise ValueError("levels of another kind or width")
        attention = [height // 2**level for level, kind in enumerate(kinds) if kind.startswith("Attn")]
        multipliers = [width // widths[0] for width in widths]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{source} holds a network that is no U-Net as here ({error})") from error
    network = {
        "channels": widths[0], "multipliers": tuple(multipliers), "attention_sizes": tuple(attention),
        "num_blocks": blocks, "num_groups": groups, "norm": "group",
    }  # fmt: skip
    words = [f"--config.network.{key}={value}" for key, value in network.items()]
    return words + ([] if scheduler is None else _scheduler_words(scheduler, source))


def _scheduler_words(scheduler: Mapping[str, Any], source: str) -> list[str]:
    predictions = {theirs: ours for ours, theirs in _PREDICTIONS.items()}
    prediction = predictions.get(scheduler.get("prediction_type", "epsilon"))
    variance = {"fixed_small": "small", "fixed_large": "large"}.get(scheduler.get("variance_type", "fixed_small"))
    for key, value in (("prediction_type", prediction), ("variance_type", variance)):
        if value is None:
            raise UserError(f"{source} holds a scheduler with {key}={scheduler.get(key)!r}, which is not known here")
    clip = str(bool(scheduler.get("clip_sample", True))).lower()
    name, zero = _schedule_of(scheduler, source)
    return [
        f"--config.diffusion.schedule={name}", f"--config.diffusion.schedule.zero_terminal_snr={zero}",
        f"--config.diffusion.prediction={prediction}", f"--config.sample.sampler.variance={variance}",
        f"--config.sample.clip={clip}",
    ]  # fmt: skip


def _schedule_of(scheduler: Mapping[str, Any], source: str) -> tuple[str, str]:
    """The name of our schedule with a scheduler's betas, and whether it ends in pure noise."""
    num = scheduler.get("num_train_timesteps", 1000)
    betas = scheduler.get("trained_betas")
    ends = (scheduler.get("beta_start", 1e-4), scheduler.get("beta_end", 0.02))
    if betas is None and scheduler.get("beta_schedule", "linear") == "linear":
        betas = np.linspace(*ends, num)
    elif betas is None and scheduler["beta_schedule"] == "scaled_linear":
        betas = np.linspace(ends[0] ** 0.5, ends[1] ** 0.5, num) ** 2
    if betas is not None and num == 1000 and not scheduler.get("rescale_betas_zero_snr"):
        for name in CHOICES["diffusion.schedule"].table:
            for zero in (False, True):
                values = CHOICES["diffusion.schedule"].start(name)
                if "zero_terminal_snr" not in values:
                    continue
                path = chosen(CHOICES["diffusion.schedule"], values | {"zero_terminal_snr": zero})
                if np.shape(betas) == path.alpha.shape and np.allclose(betas, _betas(path), rtol=1e-5, atol=1e-9):
                    return name, str(zero).lower()
    raise UserError(
        f"{source} holds a scheduler whose betas are those of no schedule here: give the file of its weights instead "
        "of the folder, and set --config.diffusion.schedule to what comes nearest"
    )

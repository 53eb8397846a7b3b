"""SRResNet, 4 times as large (Ledig et al. 2017), on a folder of photographs such as T91.

    python -m gen_jax.main --config=configs/srresnet_t91.py --config.data.name=image_folder:<folder of pictures>

Pictures may have any sizes of at least a crop; every tenth is held out, and judged by its central crop. Network, crop,
batch size and learning rate are those of the paper, which trains for 1,000,000 steps on far more pictures. The
generator has 1,549,462 parameters. Then `--mode=upscale` makes pictures larger (docs/upscaling.md). Variants: `:small`,
for a CPU, has 4 blocks without normalisation, smaller batches and a higher rate; `:tiny` is a short run on drawn digits
that checks that everything works.
"""

from gen_jax.config import Config, with_variant
from gen_jax.superres.srresnet import srresnet_config

SMALL = {
    "network.blocks": 4, "network.norm": "none", "batch_size": 4, "data.crop": 64, "num_steps": 12_000,
    "optimizer.learning_rate": 1e-3, "optimizer.clip_norm": 1.0, "optimizer.decay": {"name": "linear"},
}  # fmt: skip
"""For a CPU. Without normalisation, the rate can be ten times that of the paper."""
TINY = {
    "data.name": "stroke_digits", "data.crop": 0, "num_steps": 40, "log_every": 5, "eval_every": 20,
    "checkpoint_every": 20, "sample.num": 16, "eval.num_examples": 64,
}  # fmt: skip
"""A run that checks that everything works, in under a minute."""


def get_config(variant: str = "") -> Config:
    config = srresnet_config()
    config.data.name = "image_folder:"  # must be set
    config.data.crop = 96
    config.data.on_error = "skip"  # pictures smaller than a crop, with a warning
    config.num_steps = 100_000
    config.log_every = 100
    config.eval_every = 1000
    config.checkpoint_every = 1000
    tiny = TINY | {"network.blocks": 1, "network.channels": 8}
    return with_variant(config, variant, {"small": SMALL, "tiny": tiny})

"""SRGAN, 4 times as large (Ledig et al. 2017), on a folder of photographs such as T91: SRResNet first, in one command.

    python -m gen_jax.main --config=configs/srgan_t91.py --config.data.name=image_folder:<folder of pictures>

SRResNet is a separate run in the folder `pretrained` of this one, that of `srresnet_t91`. Set its values with
--config.pretrained.<key>; --config.pretrained=<directory> uses an existing run instead, on the same crops. Both
networks, crop, batch size, rates and the adversarial weight are those of the paper; the content loss is not: it
compares features of a frozen random network in the place of VGG. The rate falls in a line over the second half of the
run; in the paper it falls to a tenth at once. The discriminator has 23,565,505 parameters. It has not been trained to
the end. Variants: `:small`, for a CPU, has a smaller discriminator and smaller batches, on the SRResNet of
`srresnet_t91:small`; after 21 minutes on one core it has a PSNR of 29.7 dB on Set5, SRResNet after 15 of them 30.4,
bicubic interpolation 28.4 (docs/results.md); `:tiny` is a short run on drawn digits that checks that everything works.
"""

from gen_jax.config import Config, with_variant
from gen_jax.superres.srgan import srgan_config

SMALL = {
    "data.crop": 64, "batch_size": 4, "num_steps": 2000, "eval_every": 500, "superres.content.channels": (32, 64),
    "network.channels": (32, 32, 64, 64, 128, 128), "network.strides": (1, 2) * 3, "network.hidden": (256,),
    "pretrained.network.blocks": 4, "pretrained.network.norm": "none", "pretrained.batch_size": 4,
    "pretrained.num_steps": 12_000, "pretrained.optimizer.learning_rate": 1e-3, "pretrained.optimizer.clip_norm": 1.0,
    "pretrained.optimizer.decay": {"name": "linear"},
}  # fmt: skip
TINY = {
    "num_steps": 40, "log_every": 5, "eval_every": 20, "checkpoint_every": 20, "sample.num": 16,
    "eval.num_examples": 64,
}  # fmt: skip


def get_config(variant: str = "") -> Config:
    config = srgan_config()
    config.data.name = "image_folder:"  # must be set
    config.data.crop = 96
    config.data.on_error = "skip"  # pictures smaller than a crop, with a warning
    config.num_steps = 200_000
    config.optimizer.decay = {"name": "linear", "share": 0.5}
    config.pretrained.num_steps = 100_000
    for stage in (config, config.pretrained):
        stage.log_every = 100
        stage.eval_every = 1000
        stage.checkpoint_every = 1000
    tiny = TINY | {f"pretrained.{key}": value for key, value in TINY.items()}
    tiny |= {"data.name": "stroke_digits", "data.crop": 0, "superres.content.channels": (4, 8)}
    tiny |= {"pretrained.network.blocks": 1, "pretrained.network.channels": 8}
    tiny |= {"network.channels": (4, 8), "network.strides": (2, 2), "network.hidden": (16,)}
    return with_variant(config, variant, {"small": SMALL, "tiny": tiny})

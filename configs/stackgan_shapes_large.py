"""StackGAN on captioned shapes, second stage: 256x256, on a frozen first stage.

    python -m gen_jax.main --config=stackgan_shapes
    python -m gen_jax.main --config=stackgan_shapes_large

The first stage is a run of `stackgan_shapes`, whose text encoder this run uses, and keeps a copy of;
`--config.pretrained` names another run. The networks have an eighth of the published width; what they make is added to
the enlarged picture of the first stage, and rates, reading and penalty are those of that stage. After 3,600 steps, 45
minutes on one core of an Intel Xeon, pictures are far sharper than enlarged ones, and 88.8% of the shapes that captions
of unseen things state are right, where the first stage has 92.1% (docs/results.md, "How far words steer"). Variant:
`:tiny` is a short run that checks that everything works, on a run of `stackgan_shapes:tiny`.
"""

from ml_collections import ConfigDict

from gen_jax.config import Config, with_variant
from gen_jax.gan.defaults import TINY
from gen_jax.gan.stackgan import stackgan_config


def get_config(variant: str = "") -> Config:
    config = stackgan_config()
    config.data.name = "captioned_shapes"
    config.data.image_size = 256
    config.data.text = {"name": "first_stage"}
    config.pretrained = "runs/stackgan_shapes"
    config.batch_size = 8
    config.num_steps = 3_600
    config.log_every = 20
    config.eval_every = 1000
    config.checkpoint_every = 250
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay = {"name": "linear", "share": 0.5}
    config.discriminator_optimizer.learning_rate = 1e-3
    config.stackgan.kl_weight = 0.2
    config.stackgan.penalty = ConfigDict({"name": "r1_r2", "weight": 0.1, "every": 1})
    config.stackgan.reading_weight = 2.0
    config.network = ConfigDict(
        {
            "name": "second", "width": 16, "num_blocks": 2, "discriminator_width": 8, "discriminator_levels": 6,
            "norm": "bias", "residual": True,
        }
    )  # fmt: skip
    config.sample.text_noise = 0.0
    config.sample.batch_size = 50
    tiny = {key: value for key, value in TINY.items() if key not in ("gan.latents", "eval.track")}
    tiny |= {
        "pretrained": "runs/stackgan_shapes-tiny", "stackgan.latents": 16, "network.width": 4, "network.num_blocks": 1,
        "network.discriminator_width": 4, "network.condition_dim": 16, "batch_size": 4, "eval.num_examples": 32,
    }  # fmt: skip
    return with_variant(config, variant, {"tiny": tiny})

"""StackGAN on captioned shapes, first stage: pictures of 64x64 from sentences such as "a small red star at the top".

    python -m gen_jax.main --config=stackgan_shapes
    python -m gen_jax.main --config=stackgan_shapes_large

The second command trains the second stage, 256x256, on the frozen first one. A text encoder is trained first, on the
captions and pictures of the set; it stays with the run, so `gen_jax.load("runs/stackgan_shapes").sample(texts=["a big
blue circle left of a red star"])` needs nothing else. The networks have a quarter of the published width, for CPUs;
--config.network.width=128 --config.network.discriminator_width=64 is the published one. Variants: `:sentence` takes
the embeddings of a sentence encoder that must be installed (gen_jax/text/sentence.py); `:tiny` is a short run that
checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import Config, with_variant
from gen_jax.gan.defaults import TINY
from gen_jax.gan.stackgan import stackgan_config


def get_config(variant: str = "") -> Config:
    config = stackgan_config()
    config.data.name = "captioned_shapes"
    config.batch_size = 32
    config.num_steps = 10_000
    config.log_every = 50
    config.eval_every = 1000
    config.checkpoint_every = 500
    config.optimizer.decay = {"name": "linear", "share": 0.5}
    config.network = ConfigDict({"name": "first", "width": 32, "discriminator_width": 16})
    tiny = {key: value for key, value in TINY.items() if key not in ("gan.latents", "eval.track")}
    tiny |= {
        "stackgan.latents": 16, "data.text": {"name": "words"}, "network.width": 4, "network.discriminator_width": 4,
        "network.condition_dim": 16,
    }  # fmt: skip
    return with_variant(config, variant, {"tiny": tiny, "sentence": {"data.text": {"name": "sentence"}}})

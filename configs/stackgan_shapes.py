"""StackGAN on captioned shapes, first stage: pictures of 64x64 from sentences such as "a small red star at the top".

    python -m gen_jax.main --config=stackgan_shapes
    python -m gen_jax.main --config=stackgan_shapes_large

The second command trains the second stage, 256x256, on the frozen first one. Texts are read by their words, reduced to
the 128 directions in which the captions of a picture agree; the encoder stays with the run, so `gen_jax.load(
"runs/stackgan_shapes").sample(texts=["a big blue circle left of a red star"])` needs nothing else. The discriminator
also learns to read the text back from a picture and has a gradient penalty in place of normalisation, which the paper
does not have (docs/text.md). The networks have a quarter of the published width, for CPUs: 12,000 steps took 78 minutes
on one core of an Intel Xeon. Of 1,000 captions of things that training does not have, 98.5% of the colours and 92.1% of
the shapes are then right (docs/results.md). --config.network.width=128 --config.network.discriminator_width=64 is the
published width. Variants: `:published` has the paper's encoder, rates and losses; `:sentence` takes the embeddings of a
sentence encoder that must be installed (gen_jax/text/sentence.py); `:tiny` is a short run that checks that everything
works.
"""

from ml_collections import ConfigDict

from gen_jax.config import Config, with_variant
from gen_jax.gan.defaults import TINY
from gen_jax.gan.stackgan import stackgan_config
from gen_jax.text.words import OF_CLAUSES


def get_config(variant: str = "") -> Config:
    config = stackgan_config()
    config.data.name = "captioned_shapes"
    config.data.text = ConfigDict(OF_CLAUSES)
    config.batch_size = 32
    config.num_steps = 12_000
    config.log_every = 50
    config.eval_every = 1000
    config.checkpoint_every = 500
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay = {"name": "linear", "share": 0.5}
    config.discriminator_optimizer.learning_rate = 1e-3
    config.stackgan.kl_weight = 0.2
    config.stackgan.penalty = ConfigDict({"name": "r1_r2", "weight": 0.1, "every": 1})
    config.stackgan.reading_weight = 2.0
    config.network = ConfigDict({"name": "first", "width": 32, "discriminator_width": 16, "norm": "bias"})
    config.sample.text_noise = 0.0  # noise on the words makes more of them wrong; z gives the variety
    tiny = {key: value for key, value in TINY.items() if key not in ("gan.latents", "eval.track")}
    tiny |= {
        "stackgan.latents": 16, "data.text": {"name": "words"}, "network.width": 4, "network.discriminator_width": 4,
        "network.condition_dim": 16,
    }  # fmt: skip
    published = {
        "data.text": {"name": "char_cnn_rnn"}, "optimizer.learning_rate": 2e-4,
        "discriminator_optimizer.learning_rate": 2e-4, "stackgan.kl_weight": 2.0, "stackgan.penalty": {"name": "none"},
        "stackgan.reading_weight": 0.0, "network.norm": "batch", "sample.text_noise": 1.0,
    }  # fmt: skip
    sentence = {"data.text": {"name": "sentence", "size": 128}}
    return with_variant(config, variant, {"tiny": tiny, "published": published, "sentence": sentence})

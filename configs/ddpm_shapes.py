"""DDPM on captioned shapes, 64x64, conditional on texts, with classifier-free guidance.

    python -m gen_jax.main --config=ddpm_shapes

The embeddings are those of `stackgan_shapes`: of words, reduced to the directions in which the captions of a picture
agree. A tenth of the texts is dropped in training. Variants: `:sentence` takes the embeddings of a sentence encoder
that must be installed (gen_jax/text/sentence.py); `:tiny` is a short run that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import Config, with_variant
from gen_jax.diffusion.ddpm import ddpm_config
from gen_jax.diffusion.defaults import TINY, on_digits
from gen_jax.text.words import OF_CLAUSES


def get_config(variant: str = "") -> Config:
    config = on_digits(ddpm_config())
    config.data.name = "captioned_shapes"
    config.data.offline_substitute = ""
    config.data.text = ConfigDict(OF_CLAUSES)
    config.num_steps = 20_000
    config.network.multipliers = (1, 2, 2)
    config.network.patch = 4
    config.diffusion.label_drop = 0.1
    config.sample.guidance = 2.0
    tiny = TINY | {"data.text": {"name": "words"}, "batch_size": 8, "network.multipliers": (1, 1)}
    return with_variant(config, variant, {"tiny": tiny, "sentence": {"data.text": {"name": "sentence", "size": 128}}})

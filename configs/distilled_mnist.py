"""Progressive distillation on MNIST (Salimans & Ho 2022): a flow is trained, then distilled to four network calls.

    python -m gen_jax.main --config=distilled_mnist

The teacher is flow_mnist, a separate run in the folder `pretrained` of this one. Set its values with
--config.pretrained.<key>; --config.pretrained=<directory> uses a trained run of a `ddpm` or `flow` instead. Three
rounds of 1,500 steps halve its 32 steps to 16, 8 and 4; --config.distillation.steps=1 --config.num_steps=7500 goes on
to one, which took 32 minutes after the teacher's 13, on one core beside another training on the other. Of 1,000 samples
in four calls, and in one, 91% are classified with a confidence above 0.9, as of the teacher's; recall is 0.83 and 0.77
(teacher: 0.87; docs/results.md). Variant: `:tiny` checks that everything works, in about a minute.
"""

from ml_collections import ConfigDict

from gen_jax.config import with_variant
from gen_jax.diffusion.defaults import TINY, on_digits
from gen_jax.diffusion.distilled import distilled_config
from gen_jax.diffusion.flow import flow_config


def get_config(variant: str = "") -> ConfigDict:
    config = distilled_config()
    config.pretrained = on_digits(flow_config())
    config.data.name = "mnist"
    config.data.offline_substitute = "stroke_digits"
    config.batch_size = 32
    config.num_steps = 4500
    config.eval_every = 1500
    config.ema = 0.998
    config.optimizer = {"name": "adam", "learning_rate": 3e-4}

    own = {key: value for key, value in TINY.items() if key not in ("network.channels", "sample.num_steps")}
    teacher = {f"pretrained.{key}": value for key, value in TINY.items()}
    return with_variant(config, variant, {"tiny": own | teacher | {"num_steps": 42, "log_every": 6}})

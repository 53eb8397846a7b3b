"""A beta-VAE on dSprites (Higgins et al. 2017), rendered without a download: codes for shape, size, angle and position.

    python -m gen_jax.main --config=configs/beta_vae_dsprites.py --config.vae.beta=8
    python -m gen_jax.main --config=configs/beta_vae_dsprites.py --mode=eval

The first command ends with MIG and modularity of 10,000 codes. The second adds the metrics that take minutes: SAP and
DCI (these need `pip install "gen-jax[disentanglement]"`) and the FactorVAE score.

`--config.vae.objective=total_correlation --config.vae.beta=1` trains a beta-TCVAE (Chen et al. 2018) instead,
`--config.vae.objective=factor --config.vae.beta=1` a FactorVAE (Kim & Mnih 2018) with a discriminator of 5,018,002
parameters, and `--config.vae.objective=capacity --config.vae.beta=1` the annealed capacity of Burgess et al. 2018.

The network is from Burgess et al. 2018, with 502,005 parameters. At beta 4, 20,000 steps took 51 minutes in parallel
with another run on two shared cores of an AMD EPYC, and reach MIG 0.177 (docs/results.md). Variants: `:full` has the
network (690,517 parameters), learning rate and 300,000 steps of Locatello et al. 2019, who use beta 1 to 16; `:dense`
has dense layers, like Higgins et al. on this set but 256 wide, whose steps take a CPU a fraction of the time (`python
-m experiments.beta`); `:tiny` is a short run that checks that everything works.
"""

from ml_collections import ConfigDict

from gen_jax.config import with_variant
from gen_jax.vae.defaults import TINY, vae_config


def get_config(variant: str = "") -> ConfigDict:
    config = vae_config()
    config.data.name = "dsprites"  # or tfds:dsprites, the original set, once TFDS has prepared it

    config.batch_size = 64
    config.num_steps = 20_000
    config.log_every = 100
    config.eval_every = 2000
    config.checkpoint_every = 2000
    config.optimizer.learning_rate = 5e-4

    config.network = ConfigDict(
        {
            "name": "conv",
            "channels": (32, 32, 32, 32),  # of the encoder's convolutions, each of stride 2
            "kernels": (4, 4, 4, 4),
            "hidden": (256, 256),
            "decoder_hidden": (256, 256),
            "decoder_channels": (32, 32, 32),  # of the transposed convolutions of stride 2
            "decoder_kernel": 4,
            "last_stride": 2,
        }
    )
    config.vae.latents = 10
    config.vae.beta = 4.0
    if variant == "dense":
        config.network = ConfigDict({"name": "dense", "hidden": (256, 256), "activation": "relu"})
        config.optimizer.decay = {"name": "linear", "share": 0.5}

    return with_variant(
        config,
        variant,
        {
            "tiny": TINY | {
                "network.channels": (4, 4, 8, 8), "network.hidden": (32,), "network.decoder_hidden": (32,),
                "network.decoder_channels": (8, 4, 4), "eval.num_codes": 400,
            },
            "dense": {"num_steps": 8000, "optimizer.learning_rate": 1e-3, "sample.num": 100},
            "full": {
                "num_steps": 300_000, "log_every": 500, "eval_every": 10_000, "checkpoint_every": 10_000,
                "optimizer.learning_rate": 1e-4, "optimizer.clip_norm": 0.0,
                "network.channels": (32, 32, 64, 64), "network.kernels": (4, 4, 2, 2), "network.hidden": (256,),
                "network.decoder_hidden": (256,), "network.decoder_channels": (64, 32, 32),
            },
        },
    )  # fmt: skip

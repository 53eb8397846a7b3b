"""DDPM on CIFAR-10 as published: the network and the recipe of Ho et al. 2020.

    python -m gen_jax.main --config=configs/ddpm_cifar10.py

The U-Net has 35,746,307 parameters. 800,000 steps need an accelerator: on two CPU cores only ten steps were run, with
batches of 16. The paper reports an FID of 3.17. Published weights can be sampled and judged instead: docs/published.md.

As in the paper, and unlike other configs of this project, the schedule does not end in pure noise
(`zero_terminal_snr=false`): a prediction of the noise says nothing about the image where there is no image left, and
the published weights were trained so. Samples start from pure noise, although in training 0.6% of the image was left.

What differs from the paper: the times of a batch are spread evenly instead of independent (`Process.draw_times`); the
moving average takes its full decay only after some 100,000 steps (`optimizer.ema_decay`).
Variant: `:tiny` is a short run of a small network that checks that everything works.
"""

from gen_jax.config import Config, with_variant
from gen_jax.diffusion.defaults import TINY, diffusion_config


def get_config(variant: str = "") -> Config:
    config = diffusion_config("ddpm")
    config.data.name = "cifar10"
    config.batch_size = 128
    config.num_steps = 800_000
    config.fast_compile_options = False  # on a CPU they slow this network down: docs/results.md#speed
    config.log_every = 100
    config.eval_every = 20_000  # draws samples with 1000 steps each
    config.checkpoint_every = 5_000
    config.ema = 0.9999
    config.optimizer.update({"learning_rate": 2e-4, "clip_norm": 1.0, "warmup_steps": 5_000})
    config.network.update({"multipliers": (1, 2, 2, 2), "attention_sizes": (16,), "dropout": 0.1})
    config.diffusion.schedule = {"name": "linear", "zero_terminal_snr": False}
    config.diffusion.prediction = {"name": "eps"}
    config.diffusion.weighting = {"name": "eps"}
    config.diffusion.mirror = True
    config.sample.num_steps = 1000
    config.sample.sampler = {"name": "ancestral", "variance": "large"}
    config.eval.num_samples = 50_000
    tiny = {
        "network.multipliers": (1, 2), "network.num_blocks": 1, "network.num_groups": 4, "batch_size": 16,
        "optimizer.warmup_steps": 10,
    }  # fmt: skip
    return with_variant(config, variant, {"tiny": TINY | tiny})

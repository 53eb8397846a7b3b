"""Defaults of all GAN configs; the files in configs/ contain only what differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from gen_jax.config import Choice, Config, Measure, Options, base_config, with_variant
from gen_jax.gan.augment import AUGMENTS
from gen_jax.gan.burn_in import BURN_INS
from gen_jax.gan.constraints import CONSTRAINTS
from gen_jax.gan.networks import GIVEN, NETWORKS
from gen_jax.gan.penalties import PENALTIES

TINY = {
    "num_steps": 40, "log_every": 5, "eval_every": 20, "checkpoint_every": 20, "batch_size": 16, "gan.latents": 16,
    "sample.num": 100, "eval.num_examples": 256, "eval.num_samples": 200, "eval.classifier_steps": 200,
    "eval.track": 100,
}  # fmt: skip
"""A run that checks that everything works, in under a minute."""
_LEVELS = {"network.channels": (4, 8), "network.generator_channels": (8, 4)}
TINY_NETWORKS: dict[str, dict[str, Any]] = {
    "conv": _LEVELS,
    "residual": _LEVELS,
    "dense": {},
    "r3gan": {"network.widths": (8, 4), "network.blocks": 1, "network.cardinality": 2, "network.embedding_dim": 8},
}
"""Networks of such a run, with two levels."""


CHOICES = {
    "network": Choice(NETWORKS, GIVEN),
    "gan.penalty": Choice(PENALTIES),
    "gan.constraint": Choice(CONSTRAINTS),
    "gan.augment": Choice(AUGMENTS),
    "gan.burn_in": Choice(BURN_INS, ("steps",)),
}
MEASURES = {
    "real_score": Measure("score of real images", chart="scores of real and generated images"),
    "fake_score": Measure("score of generated images", chart="scores of real and generated images"),
    "grad_norm": Measure("gradient norm of the generator", chart="gradient norms of both players"),
    "discriminator_grad_norm": Measure("gradient norm of the discriminator", chart="gradient norms of both players"),
    "augment_strength": Measure("probability of a change of the images"),
    "real_sign": Measure("mean sign of the logits of real images"),
    "generator_spectral_norm": Measure(
        "spectral norm of a kernel of the generator", chart="spectral norms of the generator's kernels"
    ),
    "discriminator_spectral_norm": Measure(
        "spectral norm of a kernel of the discriminator", chart="spectral norms of the discriminator's kernels"
    ),
}
# Keys of versions before 0.2 and their new names.
MOVED = {"gan.penalty_weight": "gan.penalty.weight", "gan.clip": "gan.constraint.bound"}


def options(method: str, title: str) -> Options:
    """Returns the options of "gan" or "acgan" configs."""
    read_where = {"gan.instance_noise_steps": "gan.instance_noise"}
    return Options(
        lambda: gan_config(method), title, CHOICES, MOVED, read_where, shares=("network.dropout",), measures=MEASURES
    )


def gan_config(method: str = "gan", learning_rate: float = 2e-4, discriminator_rate: float = 2e-4) -> Config:
    """Returns `base_config` with the additional values of a GAN, and DCGAN's optimizer (Radford et al. 2016).

    Args:
      method: "gan" or "acgan".
      learning_rate: of the generator.
      discriminator_rate: of the discriminator.

    Example:
      >>> config = gan_config()
      >>> config.optimizer.b1, config.discriminator_optimizer.learning_rate, config.gan.loss
      (0.5, 0.0002, 'non_saturating')
    """
    config = base_config()
    config.method = method
    config.log_every = 100
    config.eval.track = 1000  # GANs may get worse late in training: keep the best checkpoint
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.optimizer.learning_rate = learning_rate
    config.optimizer.b1 = 0.5
    config.optimizer.clip_norm = 0.0  # published recipes do not clip gradients
    config.network = ConfigDict(CHOICES["network"].start("conv"))
    config.discriminator_optimizer = ConfigDict({"learning_rate": discriminator_rate})  # the rest as in optimizer
    config.gan = ConfigDict(
        {
            "latents": 100,
            "loss": "non_saturating",  # or minimax, least_squares, wasserstein, hinge, relativistic
            "real_target": 1.0,  # below: one-sided label smoothing
            "penalty": {"name": "none"},  # on the discriminator's gradient; or wgan_gp, r1, r2, r1_r2 with their weight
            "constraint": {"name": "none"},  # on the discriminator's weights; or spectral, or clip with its bound
            "augment": {"name": "none"},  # of what the discriminator sees; or diff_augment with its strength, adaptive
            "burn_in": {"name": "none"},  # or cosine: values that move over the first share of training
            "mirror": False,  # left-right, half of the training images; not for letters and digits
            "critic_steps": 1,  # discriminator updates per step, each with new images
            "instance_noise": 0.0,  # standard deviation of noise on the discriminator's inputs
            "instance_noise_steps": 0,  # in which it decays to 0; 0: constant
        }
    )
    config.sample.truncation = 0.0  # latents beyond +-this are drawn anew: likelier, less diverse images; 0: none
    if method == "gan":
        config.gan.conditional = False  # on the class label
    else:
        config.gan.class_weight = 1.0  # of the cross-entropy of classes
    return config


def r3gan_config() -> Config:
    """Returns `gan_config` with R3GAN's game and its burn-in on CIFAR-10 (Huang et al. 2024); no network.

    Example:
      >>> config = r3gan_config()
      >>> config.gan.loss, config.gan.penalty.name, config.optimizer.b2, config.gan.burn_in.b2
      ('relativistic', 'r1_r2', 0.9, 0.99)
    """
    config = gan_config()
    config.optimizer.b1, config.optimizer.b2 = 0.0, 0.9
    config.gan.latents = 64
    config.gan.loss = "relativistic"
    config.gan.penalty = ConfigDict(CHOICES["gan.penalty"].start("r1_r2"))
    config.gan.burn_in = ConfigDict(CHOICES["gan.burn_in"].start("cosine"))
    return config


def with_tiny(
    config: Config, variant: str, tiny: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]] | None = None
) -> Config:
    """Returns the config, or a variant of it.

    Args:
      config: the config itself.
      variant: "", "tiny" or a key of `others`.
      tiny: {dotted key: value} of the variant "tiny", in addition to `TINY` and `TINY_NETWORKS`.
      others: {dotted key: value} of further variants, by name.
    """
    small = TINY | TINY_NETWORKS[config.network.name] | dict(tiny)
    return with_variant(config, variant, {"tiny": small, **(others or {})})

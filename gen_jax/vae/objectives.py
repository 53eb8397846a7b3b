"""What a VAE minimises: the negative ELBO, the importance-weighted bound, and three objectives for disentangled codes.

Everything is in nats, one value per example. `weight` is `elbo.kl_weight`: it multiplies all terms that are about the
codes, in every objective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.config import require_choice
from gen_jax.method import Array, Key, PyTree, Scalars, UserError
from gen_jax.nn.gaussian import Gaussian, log_normal
from gen_jax.optimizer import COMMON
from gen_jax.parallel import gather_over_devices
from gen_jax.vae import discriminator
from gen_jax.vae.elbo import free_bits
from gen_jax.vae.priors import Density


class Draws(NamedTuple):
    """What an objective is computed from.

    Attributes:
      q: q(z | x), [B, Z].
      z: [B, S, Z], drawn from q.
      reconstruction: -log p(x | z) [B, S].
      prior: p(z).
      rows: i32 [B], positions in the global batch.
      second: parameters of the objective's own network, if it has one; they are constants here.
    """

    q: Gaussian
    z: Array
    reconstruction: Array
    prior: Density
    rows: Array
    second: PyTree = None


class Setting(NamedTuple):
    """Values of the rest of a config that an objective needs, or refuses.

    Attributes:
      free_bits: of `config.vae`.
      closed_kl: of the prior.
      prior: its name.
      num_examples: of the training split.
      accumulate: pieces in which a batch is computed.
      batch_size: of the global batch.
      latents: Z.
    """

    free_bits: float = 0.0
    closed_kl: bool = True
    prior: str = "standard"
    num_examples: int = 1
    accumulate: int = 1
    batch_size: int = 2
    latents: int = 1


class Second(NamedTuple):
    """A network that an objective trains in the same step, by a loss of its own.

    Attributes:
      init: key -> parameters.
      loss: (parameters, z [B, Z], rows i32 [B], key) -> (loss [B], further scalars [B] by name); z are the codes that
        the autoencoder is trained with, as constants.
      optimizer: its values, as those of `config.optimizer`.
    """

    init: Callable[[Key], PyTree]
    loss: Callable[[PyTree, Array, Array, Key], tuple[Array, Scalars]]
    optimizer: Mapping[str, Any]


class Objective(NamedTuple):
    """A loss of each example.

    Attributes:
      num_samples: S, draws of z for each example.
      loss: (draws, weight f32 [], step i32 []) -> (loss [B], further scalars [B] by name).
      couples: whether the loss of an example depends on the others of its batch, or on `second`.
      second: a network that is trained beside the autoencoder, or None.
    """

    num_samples: int
    loss: Callable[[Draws, Array | float, Array], tuple[Array, Scalars]]
    couples: bool = False
    second: Second | None = None


def elbo(setting: Setting) -> Objective:
    """Returns the negative ELBO with one z (Kingma & Welling 2014), and free bits if there are any.

    Raises:
      UserError: free bits need a KL of each latent, which this prior has not.
    """
    if setting.free_bits and not setting.closed_kl:
        raise UserError(
            f"config.vae.free_bits is {setting.free_bits:g}, but prior {setting.prior} has no KL of each latent: "
            "use --config.vae.free_bits=0, or --config.vae.prior=standard"
        )

    def loss(d: Draws, weight: Array | float, step: Array) -> tuple[Array, Scalars]:
        kl = d.prior.kl(d.q, d.z)
        # A KL by samples can be below zero, where the floor of free bits would bias it.
        penalty = free_bits(kl, setting.free_bits) if setting.closed_kl else jnp.sum(kl, axis=-1)
        return d.reconstruction[:, 0] + weight * penalty, {}

    return Objective(1, loss)


def iwae(setting: Setting, num_samples: int = 5) -> Objective:
    """Returns the negative bound with k samples, -log 1/k sum_s p(x, z_s) / q(z_s | x) (Burda et al. 2016, equation 8).

    With k = 1 it is the ELBO, whose KL is in closed form where the prior has one. A `weight` other than 1 is the power
    of p(z) / q(z | x), as for the ELBO; the loss then bounds no likelihood.

    Raises:
      UserError: num_samples is below 1, or there are free bits, which are of the ELBO.
    """
    if num_samples < 1:
        raise UserError(f"config.vae.objective.num_samples is {num_samples}; it must be at least 1")
    if num_samples == 1:
        return elbo(setting)
    _refuse_free_bits(setting, "iwae")

    def loss(d: Draws, weight: Array | float, step: Array) -> tuple[Array, Scalars]:
        log_ratio = d.prior.log_ratio(jax.tree.map(lambda x: x[:, None], d.q), d.z)
        log_w = weight * log_ratio - d.reconstruction
        return jnp.log(num_samples) - jax.nn.logsumexp(log_w, axis=1), {}

    return Objective(num_samples, loss)


def capacity(setting: Setting, gamma: float = 1000.0, nats: float = 25.0, warmup_steps: int = 100_000) -> Objective:
    """Returns -log p(x | z) + gamma |KL - C| (Burgess et al. 2018, equation 8); C rises linearly from 0 to `nats`.

    The distance is that of each example, as in the paper's equation; its mean does not depend on how a batch is split.

    Raises:
      UserError: a negative value, free bits, or a prior whose KL is not in closed form: the distance of an estimate is
        no estimate of the distance.
    """
    for name, value in (("gamma", gamma), ("nats", nats)):
        if value < 0:
            raise UserError(f"config.vae.objective.{name} is {value:g}; it must not be negative")
    _refuse_free_bits(setting, "capacity")
    _refuse_open_kl(setting, "capacity")

    def loss(d: Draws, weight: Array | float, step: Array) -> tuple[Array, Scalars]:
        allowed = nats * jnp.minimum(1.0, (jnp.asarray(step, jnp.float32) + 1) / max(1, warmup_steps))
        distance = jnp.abs(jnp.sum(d.prior.kl(d.q, d.z), axis=-1) - allowed)
        return d.reconstruction[:, 0] + weight * gamma * distance, {"capacity": jnp.full(len(distance), allowed)}

    return Objective(1, loss)


def total_correlation(
    setting: Setting,
    information: float = 1.0,
    correlation: float = 6.0,
    dimensions: float = 1.0,
    estimator: str = "weighted",
) -> Objective:
    """Returns the beta-TCVAE (Chen et al. 2018, equation 4): the KL in three terms, each with a weight of its own.

    The mutual information of x and z, the total correlation of z, and the KL of each latent from the prior. q(z) is
    estimated from the codes of a batch: `ESTIMATORS` weigh them.

    Raises:
      UserError: a batch in pieces, free bits, an unknown estimator, or a prior that is not the standard normal: the
        split needs one that is a product over latents.
    """
    require_choice("vae.objective.estimator", estimator, ESTIMATORS)
    _refuse_free_bits(setting, "total_correlation")
    _refuse_open_kl(setting, "total_correlation")
    _refuse_pieces(setting, "total_correlation")

    def loss(d: Draws, weight: Array | float, step: Array) -> tuple[Array, Scalars]:
        terms = decompose(d, setting.num_examples, estimator)
        total = information * terms.information + correlation * terms.correlation + dimensions * terms.dimensions
        shown = {
            "mutual_information": terms.information,
            "total_correlation": terms.correlation,
            "dimension_kl": terms.dimensions,
        }
        return d.reconstruction[:, 0] + weight * total, shown

    return Objective(1, loss, couples=True)


def factor(
    setting: Setting, gamma: float = 10.0, width: int = 1000, depth: int = 6, learning_rate: float = 1e-4
) -> Objective:
    """Returns FactorVAE (Kim & Mnih 2018): the negative ELBO plus gamma times the total correlation of z.

    A discriminator estimates it, `discriminator.log_ratio`: it learns in the same step, from the codes of one half of
    the batch, and those of the other half with each latent permuted. (The paper draws a second batch, and updates the
    autoencoder in between.) The paper tunes gamma for each set; on dSprites Locatello et al. 2019 try 10, 20, 30, 40,
    50 and 100. The discriminator's defaults are the paper's: 6 layers of 1000, and Adam with rate 1e-4, b1 0.5, b2 0.9.

    Raises:
      UserError: an invalid number, a batch in pieces or of an odd size, or free bits.
    """
    for name, value, low in (("gamma", gamma, 0), ("width", width, 1), ("depth", depth, 0)):
        if value < low:
            raise UserError(f"config.vae.objective.{name} is {value:g}; it must be at least {low}")
    if learning_rate < 0:
        raise UserError(f"config.vae.objective.learning_rate is {learning_rate:g}; it must not be negative")
    _refuse_free_bits(setting, "factor")
    _refuse_pieces(setting, "factor")
    if setting.batch_size % 2:
        raise UserError(
            f"config.batch_size is {setting.batch_size}, but objective factor compares one half of a batch with the "
            "other: use an even number"
        )
    network = discriminator.Discriminator(width, depth)

    def logits(params: PyTree, z: Array) -> Array:
        return network.apply({"params": params}, z)  # pyright: ignore[reportReturnType]

    def init(key: Key) -> PyTree:
        return network.init(key, jnp.zeros((1, setting.latents)))["params"]

    def loss(d: Draws, weight: Array | float, step: Array) -> tuple[Array, Scalars]:
        correlation = discriminator.log_ratio(logits(d.second, d.z[:, 0]))
        penalty = jnp.sum(d.prior.kl(d.q, d.z), axis=-1) + gamma * correlation
        return d.reconstruction[:, 0] + weight * penalty, {"total_correlation": correlation}

    def own_loss(params: PyTree, z: Array, rows: Array, key: Key) -> tuple[Array, Scalars]:
        codes, kind = discriminator.halves(key, gather_over_devices(z))
        found = logits(params, codes[rows])
        right = (jnp.argmax(found, axis=-1) == kind[rows]).astype(jnp.float32)
        return discriminator.cross_entropy(found, kind[rows]), {"discriminator_accuracy": right}

    adam = {"name": "adam", "b1": 0.5, "b2": 0.9, "eps": 1e-8}
    own = COMMON | adam | {"learning_rate": learning_rate, "clip_norm": 0.0}
    return Objective(1, loss, couples=True, second=Second(init, own_loss, own))


class Terms(NamedTuple):
    """The parts of log q(z | x) - log p(z) in nats [B]; their means are the three terms of the KL.

    Attributes:
      information: log q(z | x) - log q(z).
      correlation: log q(z) - sum_j log q(z_j).
      dimensions: sum_j log q(z_j) - log p(z).
    """

    information: Array
    correlation: Array
    dimensions: Array


def decompose(d: Draws, num_examples: int, estimator: str) -> Terms:
    """Returns the parts of the KL at the first z of each example (Chen et al. 2018, equation 2).

    Args:
      d: under pmap the rows of this device; the codes of all devices are gathered.
      num_examples: N, of the training split.
      estimator: a key of ESTIMATORS.
    """
    z, (everyone, columns) = d.z[:, 0], gather_over_devices((d.q, d.rows))
    log_each = log_normal(z[:, None], everyone.mean, everyone.log_var)  # [B, M, Z]
    log_share = ESTIMATORS[estimator](d.rows[:, None] == columns, num_examples)  # [B, M]
    log_q_x = jnp.sum(log_normal(z, d.q.mean, d.q.log_var), axis=-1)
    log_q = jax.nn.logsumexp(log_share + jnp.sum(log_each, axis=-1), axis=1)
    log_product = jnp.sum(jax.nn.logsumexp(log_share[..., None] + log_each, axis=1), axis=-1)
    return Terms(log_q_x - log_q, log_q - log_product, log_product - d.prior.log_prob(z))


def weighted_shares(own: Array, num_examples: int) -> Array:
    """Returns log(1 / (N M)) for each of M codes: minibatch-weighted sampling (Chen et al. 2018, equation 5).

    The shares sum to 1 / N. The estimate of log q(z) is near log q(z) - log N where other codes explain z, and near
    log q(z) where only its own does: its values are no nats to report, but it is what the paper trains with.

    Args:
      own: bool [B, M], which code is that of the row.
      num_examples: N.

    Example:
      >>> [round(float(value), 4) for value in jnp.exp(weighted_shares(jnp.eye(2, dtype=bool), 5))[0]]
      [0.1, 0.1]
    """
    return jnp.full(own.shape, -jnp.log(num_examples * own.shape[1]))


def stratified_shares(own: Array, num_examples: int) -> Array:
    """Returns log(1 / N) for the row's own code, and equal shares for the others that add up to log(1 - 1 / N).

    Its q(z) has the true q(z) as its mean over batches. Chen et al. 2018 (appendix C.2) give one of the other codes
    the weight of all that are not in the batch; equal shares have the same mean and less variance.

    Args:
      own: bool [B, M], which code is that of the row.
      num_examples: N.

    Example:
      >>> [round(float(share), 4) for share in jnp.exp(stratified_shares(jnp.eye(3, dtype=bool), 5))[0]]
      [0.2, 0.4, 0.4]
    """
    others = (num_examples - 1) / (num_examples * max(1, own.shape[1] - 1))
    return jnp.where(own, -jnp.log(num_examples), jnp.log(others))


def _refuse_free_bits(setting: Setting, name: str) -> None:
    if setting.free_bits:
        raise UserError(
            f"config.vae.free_bits={setting.free_bits:g} has no effect with objective {name}: use "
            "--config.vae.free_bits=0, or --config.vae.objective=elbo"
        )


def _refuse_pieces(setting: Setting, name: str) -> None:
    if setting.accumulate > 1:
        raise UserError(
            f"config.accumulate is {setting.accumulate}, but objective {name} compares the codes of the whole batch: "
            "use config.accumulate=1"
        )


def _refuse_open_kl(setting: Setting, name: str) -> None:
    if not setting.closed_kl:
        raise UserError(
            f"config.vae.objective {name} needs a KL in closed form, which prior {setting.prior} has not: use "
            "--config.vae.prior=standard, or --config.vae.objective=elbo"
        )


ESTIMATORS: dict[str, Callable[[Array, int], Array]] = {"weighted": weighted_shares, "stratified": stratified_shares}
"""From a name to (own [B, M], num_examples) -> the log share of each code in the estimate of q(z) [B, M]."""

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "elbo": elbo,
    "iwae": iwae,
    "capacity": capacity,
    "total_correlation": total_correlation,
    "factor": factor,
}
"""From a name to (setting, parameters) -> Objective."""

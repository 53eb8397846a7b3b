"""Likelihoods that the evaluation of a diffusion model can add to its report: `config.eval.likelihood`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from gen_jax.config import Measure
from gen_jax.diffusion import bound as bounds
from gen_jax.diffusion import ode_likelihood, sampler
from gen_jax.diffusion.schedule import Level, Path, Schedule
from gen_jax.method import Array, Scalars, UserError, counted
from gen_jax.metrics.likelihood import dequantised

MEASURES = {
    "bound": Measure("variational bound", "bits per dimension", is_bound=True),
    "bound_prior": Measure("variational bound, prior", "bits per dimension"),
    "bound_diffusion": Measure("variational bound, diffusion", "bits per dimension"),
    "bound_reconstruction": Measure("variational bound, reconstruction", "bits per dimension"),
    "nll": Measure("negative log density", "nats per image", is_bound=True),
    "bits_per_dim": Measure("bits per dimension", is_bound=True),
}


class Likelihood(NamedTuple):
    """A likelihood of pictures under a diffusion model.

    Attributes:
      check: raises a UserError if a model with this path cannot have it; also told whether its variances are learned.
      measure: (denoiser, path, x0 f32 [B, H, W, C], keys [B]) -> values [B] by name, with the protocol in the name.
      estimates: whether the denoiser returns an `Estimate`.
      clips: whether x0_hat is clipped as in sampling.
    """

    check: Callable[[Path, bool], None]
    measure: Callable[[Callable[[Array, Level], Any], Path, Array, Array], Scalars]
    estimates: bool = False
    clips: bool = False


def none() -> None:
    """Returns no likelihood."""


def bound(terms: int = 0, variance: str = "small") -> Likelihood:
    """Returns the variational bound, as its sum and three parts.

    Args:
      terms: number of network calls per image, of the T of the schedule; 0 for all of them.
      variance: of the reverse steps: "small", "large", or "learned" for a model trained so.

    Raises:
      UserError: there is no such variance.
    """
    if variance not in bounds.FRACTIONS:
        raise UserError(f"config.eval.likelihood.variance is {variance!r}; there are {', '.join(bounds.FRACTIONS)}")

    def check(path: Path, learned: bool) -> None:
        if not isinstance(path, Schedule):
            raise UserError(
                f"config.eval.likelihood is 'bound', which belongs to the steps of a table, and the {path.name} path "
                "has none: use ode"
            )
        bounds.coefficients(path)
        bounds.strata(path.num_steps, terms or path.num_steps)
        if variance == "learned" and not learned:
            raise UserError(
                "config.eval.likelihood.variance is 'learned', but this model was trained with fixed variances: use "
                "small or large, or train one with --config.diffusion.variance=learned"
            )

    def measure(denoise: Callable[[Array, Level], Any], path: Path, x0: Array, keys: Array) -> Scalars:
        assert isinstance(path, Schedule)
        num = terms or path.num_steps
        parts = bounds.estimate(denoise, path, x0, keys, num, variance)
        protocol = f"{num}_of_{path.num_steps}_terms_{variance}_variance"
        named = {f"bound_{name}/{protocol}": value for name, value in parts._asdict().items()}
        return {f"bound/{protocol}": sum(parts[1:], parts[0])} | named

    return Likelihood(check, measure, estimates=variance == "learned", clips=True)


def ode(num_steps: int = 200, probes: int = 1) -> Likelihood:
    """Returns the likelihood of the probability-flow ODE, of images with uniform noise in place of rounding.

    Args:
      num_steps: of Heun's method, two network calls and their derivatives each. Too few give too low a figure.
      probes: random directions for the divergence, per image; 0 for the exact one, a derivative per dimension.

    Raises:
      UserError: probes is negative.
    """
    if probes < 0:
        raise UserError(f"config.eval.likelihood.probes is {probes}; use 0 for the exact divergence, or 1 or more")

    def check(path: Path, learned: bool) -> None:
        ode_likelihood.times(path, num_steps)

    def measure(denoise: sampler.Denoiser, path: Path, x0: Array, keys: Array) -> Scalars:
        directions = ode_likelihood.hutchinson(probes) if probes else ode_likelihood.exact(x0[0].size)
        for_pixels, for_signs = (jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys) for i in range(2))
        x = dequantised(x0, for_pixels)
        visited = ode_likelihood.times(path, num_steps)
        nats = ode_likelihood.log_density_of_data(denoise, path, visited, x, directions, for_signs)
        divergence = counted(probes, "probe").replace(" ", "_") if probes else "exact_divergence"
        first = path.path(visited)
        protocol = (
            f"uniform_dequantisation_of_256_levels_ode_{num_steps}_heun_steps_by_log_snr_{divergence}"
            f"_noise_{first.sigma[-2] / first.alpha[-2]:.2g}"
        )
        return {f"nll/{protocol}": -nats, f"bits_per_dim/{protocol}": ode_likelihood.bits_per_dim(nats, x0[0].size)}

    return Likelihood(check, measure)


LIKELIHOODS: dict[str, Callable[..., Likelihood | None]] = {"none": none, "bound": bound, "ode": ode}

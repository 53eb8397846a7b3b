"""The prior of a VAE: standard normal, a mixture of Gaussians, and the VampPrior (Tomczak & Welling 2018).

    python -m experiments.priors    # three seeds of three runs of 12,000 steps

All train the same encoder and decoder on statically binarised MNIST; a mixture has as many components as the VampPrior
has pseudo-inputs. The negative log-likelihood is estimated by 5,000 importance samples for each of 1,000 test images.
Runs are in runs/priors; what is finished is not repeated.
"""

from __future__ import annotations

from experiments import ablation
from experiments.ablation import DIVERSITY, QUALITY, Found, Row, means
from gen_jax import command

COMPONENTS = 500
RUNS = {
    "standard": ("--config.vae.prior=standard",),
    "mixture": ("--config.vae.prior=mixture", f"--config.vae.prior.num_components={COMPONENTS}"),
    "vamp": ("--config.vae.prior=vamp", f"--config.vae.prior.num_components={COMPONENTS}"),
}
JUDGED = ("--config.eval.importance_samples=5000", "--config.eval.num_examples=1000")


def verdict(found: Found) -> str:
    """Returns one line: each prior's likelihood beside that of the standard prior, seed by seed.

    Example:
      >>> verdict({("standard", 0): {"nll": 90.0}, ("vamp", 0): {"nll": 88.5}})
      'Negative log-likelihood 90.0 nats with the standard prior; vamp: 88.5 nats, lower in 1 of 1 seeds.'
    """
    values = means(found, "nll")
    seeds = sorted({seed for _, seed in found})
    told = [f"Negative log-likelihood {values['standard']:.1f} nats with the standard prior"]
    for name in values:
        if name != "standard":
            lower = sum(found[name, seed]["nll"] < found["standard", seed]["nll"] for seed in seeds)
            told.append(f"{name}: {values[name]:.1f} nats, lower in {lower} of {len(seeds)} seeds")
    return "; ".join(told) + "."


ABLATION = ablation.Ablation(
    name="priors",
    about=(__doc__ or "").split("\n")[0],
    config="vamp_mnist.py",
    words=("--config.num_steps=12000",),
    runs=RUNS,
    rows={name: Row(name, JUDGED) for name in RUNS},
    measures=("nll", "negative_elbo", "kl", "frechet_distance", "confident_share", "recall"),
    of_run=lambda workdir, model, data: ablation.losses(model, data),
    verdict=verdict,
    figure=ablation.panels(("nll", "Likelihood", "-log p(x) in nats, left is better"), QUALITY, DIVERSITY),
    folder="priors",
)

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

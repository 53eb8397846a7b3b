"""The sweep of AC-GAN's paper on CIFAR-10: three learning rates of both networks, three levels of activation noise.

    python -m experiments.acgan_sweep    # one seed of nine runs

The paper (Odena et al. 2017, appendix A) sweeps 1e-4, 2e-4, 3e-4 and 0, 0.1, 0.2 over runs of 50,000 steps; these take
2,000 steps of networks of half the widths. One of the nine is a run of `acgan`. Runs are in runs/acgan; what is
finished is not repeated.
"""

from __future__ import annotations

import itertools

from experiments import ablation, acgan
from experiments.ablation import AGREEMENT, QUALITY, Row
from gen_jax import command

RATES, NOISES = (1e-4, 2e-4, 3e-4), (0.0, 0.1, 0.2)
GRID = list(itertools.product(RATES, NOISES))

ABLATION = acgan.ABLATION._replace(
    name="acgan_sweep",
    about=(__doc__ or "").split("\n")[0],
    runs={acgan.run_of(*each): acgan.words(*each) for each in GRID},
    rows={f"rate {rate:g}, noise {noise:g}": Row(acgan.run_of(rate, noise)) for rate, noise in GRID},
    figure=ablation.panels(QUALITY, AGREEMENT, (acgan.SIMILARITY, "Diversity", "similarity, best at the line")),
    seeds=1,
)

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

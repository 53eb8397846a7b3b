"""Quality against network calls for each sampler, on one trained model.

    python -m experiments.steps    # three seeds of a run of 6,000 steps; 1,000 samples a row

The model is ddpm_mnist with a tenth of the labels dropped and a third more steps; `guidance` uses the same runs. Every
sampler gets at most 10, 25 and 50 network calls: those of Heun and EDM take two a step, but one in the last.
Runs are in runs/guided; what is finished is not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from experiments import ablation
from experiments.ablation import Found, Row, Values, means
from gen_jax import command
from gen_jax.diffusion import solvers
from gen_jax.figures import svg
from gen_jax.figures.curve import Axis, Series

CALLS = (10, 25, 50)
WORDS = ("--config.diffusion.label_drop=0.1", "--config.num_steps=6000")
SAMPLERS: dict[str, tuple[str, ...]] = {
    "ancestral": ("--config.sample.sampler=ancestral",),
    "DDIM": ("--config.sample.sampler=ddim", "--config.sample.sampler.eta=0"),
    "Heun": ("--config.sample.sampler=heun",),
    "EDM, churn 10": ("--config.sample.sampler=edm", "--config.sample.sampler.s_churn=10"),
    "DPM-Solver++ 2M": ("--config.sample.sampler=dpm_solver",),
    "DPM-Solver++ 2M, SDE": ("--config.sample.sampler=dpm_solver", "--config.sample.sampler.stochastic=midpoint"),
}


def rows() -> dict[str, Row]:
    """Returns a row for every sampler and number of calls.

    Example:
      >>> rows()["Heun, 25 calls"].words
      ('--config.sample.sampler=heun', '--config.sample.num_steps=13')
    """
    found = {}
    for name, words in SAMPLERS.items():
        made = solvers.SAMPLERS[words[0].partition("=")[2]]()
        for calls in CALLS:
            steps = max(n for n in range(1, calls + 1) if made.calls(n) <= calls)
            found[f"{name}, {calls} calls"] = Row("guided", (*words, f"--config.sample.num_steps={steps}"))
    return found


def verdict(found: Found) -> str:
    """Returns one line: the sampler with the lowest Frechet distance at each number of calls.

    Example:
      >>> verdict({("DDIM, 10 calls", 0): {"frechet_distance": 5.0}, ("Heun, 10 calls", 0): {"frechet_distance": 4.0}})
      'Lowest Frechet distance: Heun with 10 calls (4).'
    """
    values = means(found, "frechet_distance")
    told = []
    for calls in CALLS:
        here = {name: value for name, value in values.items() if name.endswith(f", {calls} calls")}
        if here:
            best = min(here, key=here.__getitem__)
            told.append(f"{best.removesuffix(f', {calls} calls')} with {calls} calls ({here[best]:.3g})")
    return f"Lowest Frechet distance: {', '.join(told)}."


def figure(found: Found, real: Values, shown: Mapping[str, np.ndarray]) -> str:
    """Returns the Frechet distance over network calls, a line per sampler, means over the seeds, as SVG."""
    values = means(found, "frechet_distance")
    lines = []
    for name in SAMPLERS:
        here = [(calls, values[key]) for calls in CALLS if (key := f"{name}, {calls} calls") in values]
        if here:
            lines.append(Series(name, *np.array(here, float).T))
    top = max(values.values())
    return svg.plot(
        lines,
        "network calls",
        "Frechet distance",
        Axis(CALLS[0] / 1.2, CALLS[-1] * 1.2, log=True),
        Axis(0.0, 1.05 * top),
    )


ABLATION = ablation.Ablation(
    name="steps",
    about=(__doc__ or "").split("\n")[0],
    words=WORDS,
    runs={"guided": ()},
    rows=rows(),
    verdict=verdict,
    figure=figure,
    folder="guided",
    num=1_000,
)

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

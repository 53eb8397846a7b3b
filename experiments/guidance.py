"""Classifier-free guidance: scale, rescaled, thresholded and within an interval of times, on one trained model.

    python -m experiments.guidance    # uses the runs of experiments.steps; 1,000 samples a row

All rows take 25 steps of DPM-Solver++ 2M, and those with guidance a doubled network call in each. Runs are in
runs/guided; what is finished is not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from experiments import ablation
from experiments.ablation import Found, Row, Values, means
from experiments.steps import WORDS
from gen_jax import command
from gen_jax.figures import svg
from gen_jax.figures.curve import Axis, Series

SAMPLER = ("--config.sample.sampler=dpm_solver", "--config.sample.num_steps=25")
WAYS: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "plain": ((), (1.25, 1.5)),
    "in the middle": (("--config.sample.guidance_interval=0.2,0.8",), (1.25, 1.5)),
    "rescaled": (("--config.sample.guidance_rescale=0.7",), (1.5,)),
    "thresholded": (("--config.sample.dynamic_threshold=0.995",), (1.5,)),
}
MEASURES = ("frechet_distance", "class_agreement", "confident_share", "precision", "recall", "coverage")


def _name(way: str, scale: float) -> str:
    return f"{scale:g}" if way == "plain" else f"{scale:g}, {way}"


def rows() -> dict[str, Row]:
    """Returns a row for every way and scale, after one without guidance.

    Example:
      >>> list(rows())[:3], rows()["1.5, rescaled"].words[2:]
      (['1', '1.25', '1.5'], ('--config.sample.guidance=1.5', '--config.sample.guidance_rescale=0.7'))
    """
    found = {"1": Row("guided", (*SAMPLER, "--config.sample.guidance=1"))}
    for way, (words, scales) in WAYS.items():
        for scale in scales:
            found[_name(way, scale)] = Row("guided", (*SAMPLER, f"--config.sample.guidance={scale:g}", *words))
    return found


def verdict(found: Found) -> str:
    """Returns one line: what guidance buys without a worse Frechet distance and with 0.9 of the recall.

    Example:
      >>> one = {"frechet_distance": 3.0, "class_agreement": 0.95, "recall": 0.8}
      >>> verdict({("1", 0): one, ("2", 0): one | {"class_agreement": 0.99, "recall": 0.5}})
      'Class agreement 0.95 without guidance. No guidance keeps the Frechet distance and nine tenths of the recall.'
    """
    agreement, frechet, recall = (means(found, m) for m in ("class_agreement", "frechet_distance", "recall"))
    told = f"Class agreement {agreement['1']:.3g} without guidance."
    kept = [name for name in agreement if frechet[name] <= frechet["1"] and recall[name] >= 0.9 * recall["1"]]
    best = max(kept, key=agreement.__getitem__)
    if best == "1":
        return f"{told} No guidance keeps the Frechet distance and nine tenths of the recall."
    return (
        f"{told} With a Frechet distance no worse and nine tenths of the recall, at most {agreement[best]:.3g} "
        f"(scale {best})."
    )


def figure(found: Found, real: Values, shown: Mapping[str, np.ndarray]) -> str:
    """Returns recall over class agreement, a line per way from scale 1 to the largest, means over seeds, as SVG."""
    agreement, recall = means(found, "class_agreement"), means(found, "recall")
    lines = []
    for way, (_, scales) in WAYS.items():
        names = ["1", *(_name(way, scale) for scale in scales)]
        names = [name for name in names if name in agreement]
        lines.append(Series(way, np.array([agreement[n] for n in names]), np.array([recall[n] for n in names])))
    low = min(agreement.values())
    return svg.plot(lines, "class agreement", "recall", Axis(np.floor(100 * low) / 100, 1.0), Axis(0.0, 1.0))


ABLATION = ablation.Ablation(
    name="guidance",
    about=(__doc__ or "").split("\n")[0],
    words=WORDS,
    runs={"guided": ()},
    rows=rows(),
    measures=MEASURES,
    verdict=verdict,
    figure=figure,
    folder="guided",
    num=1_000,
)

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

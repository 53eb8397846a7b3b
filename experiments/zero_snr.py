"""The four repairs of noise schedules of Lin et al. 2023, on pictures whose mean brightness spans the whole range.

    python -m experiments.zero_snr    # three seeds of three runs of 2,000 steps, at about 50 ms each on two cores

A schedule whose last level still carries signal, here that of latent diffusion, is trained on noise that tells the mean
brightness, and sampled from noise that does not. The repairs: a schedule that ends in pure noise (zero terminal SNR),
with the v prediction that it needs; sampling steps that start at the last time (trailing instead of leading); and
guidance whose standard deviation is scaled back. Runs are in runs/zero_snr; what is finished is not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import ablation
from experiments.ablation import Found, Row, Values, means
from gen_jax import command, judges
from gen_jax.data import dataset
from gen_jax.figures import svg
from gen_jax.figures.curve import Axis, Series

NUM_STEPS = 2_000
SAMPLER_STEPS = 10
GUIDANCE = 4
RESCALE = 0.7

SCHEDULE = "--config.diffusion.schedule=scaled_linear"
EPS = ("--config.diffusion.prediction=eps", "--config.diffusion.weighting=eps")
AS_IT_WAS = (SCHEDULE, "--config.diffusion.schedule.zero_terminal_snr=false")
RUNS = {"eps": (*AS_IT_WAS, *EPS), "v": AS_IT_WAS, "zero-snr-v": (SCHEDULE,)}
LEADING, TRAILING = "--config.sample.spacing=leading", "--config.sample.spacing=trailing"
GUIDED = f"--config.sample.guidance={GUIDANCE}"
RESCALED = f"--config.sample.guidance_rescale={RESCALE}"
ROWS = {
    "no repair": Row("eps", (LEADING,)),
    "trailing": Row("eps", (TRAILING,)),
    "v": Row("v", (LEADING,)),
    "v, trailing": Row("v", (TRAILING,)),
    "zero SNR, v": Row("zero-snr-v", (LEADING,)),
    "zero SNR, v, trailing": Row("zero-snr-v", (TRAILING,)),
    "guided, no repair": Row("eps", (LEADING, GUIDED)),
    "guided, rescaled": Row("eps", (LEADING, GUIDED, RESCALED)),
    "guided, zero SNR, v, trailing": Row("zero-snr-v", (TRAILING, GUIDED)),
    "guided, all four": Row("zero-snr-v", (TRAILING, GUIDED, RESCALED)),
}
DRAWN = ("no repair", "zero SNR, v", "zero SNR, v, trailing", "guided, all four")  # in the figure
FRACTIONS = np.linspace(0.01, 0.99, 99)


def brightness(images: np.ndarray) -> np.ndarray:
    """Returns the mean brightness of pictures uint8 [N, H, W, C], between 0 and 1, in ascending order: f64 [N]."""
    return np.sort(images.astype(np.float64).mean((1, 2, 3)) / 255)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the Wasserstein-1 distance of two equally large sets of numbers, both in ascending order.

    Example:
      >>> distance(np.array([0.0, 1.0]), np.array([0.5, 0.75]))
      0.375
    """
    return float(np.abs(a - b).mean())


def measure(samples: judges.Samples, data: dataset.Dataset, config: Any) -> tuple[Values, Values]:
    """Returns the classifier's metrics, and the distance of the brightness from that of as many training pictures."""
    num = len(samples.images)
    train = data.train["image"][dataset.spread(data.spec.num_examples, num)]
    values, real = ablation.by_classifier(samples, data, config)
    mine = brightness(samples.images)
    added = {"brightness_distance": distance(mine, brightness(train))}
    added |= {
        f"quantile_{q:.2f}": float(value) for q, value in zip(FRACTIONS, np.quantile(mine, FRACTIONS), strict=True)
    }
    if data.test is not None and len(data.test["image"]) >= num:
        test = data.test["image"][dataset.spread(len(data.test["image"]), num)]
        real = {**real, "brightness_distance": distance(brightness(test), brightness(train))}
    return {**values, **added}, real


def verdict(found: Found) -> str:
    """Returns one line on the brightness of the samples with and without the repairs.

    Example:
      >>> verdict({("no repair", 0): {"brightness_distance": 0.2}, ("v", 0): {"brightness_distance": 0.1}})
      'Distance of the brightness from the data: 0.2 without a repair, 0.1 at best (v).'
    """
    values = means(found, "brightness_distance")
    best = min(values, key=values.__getitem__)
    first = next(iter(values))
    return (
        f"Distance of the brightness from the data: {values[first]:.3g} without a repair, {values[best]:.3g} at best "
        f"({best})."
    )


def figure(found: Found, real: Values, shown: Mapping[str, np.ndarray]) -> str:
    """Returns the quantiles of the samples' brightness over those of the data, which are uniform, as SVG."""
    names = [name for name in dict.fromkeys(name for name, _ in found) if name in DRAWN]
    lines = [Series("data", FRACTIONS, FRACTIONS)]
    for name in names:
        seeds = [v for (each, _), v in found.items() if each == name]
        lines.append(Series(name, FRACTIONS, np.mean([[v[f"quantile_{q:.2f}"] for q in FRACTIONS] for v in seeds], 0)))
    return svg.plot(lines, "share of the pictures", "are at most this bright", Axis(0.0, 1.0), Axis(0.0, 1.0))


ABLATION = ablation.Ablation(
    name="zero_snr",
    about=(__doc__ or "").split("\n")[0],
    words=(
        "--config.data.name=shades", "--config.network.channels=16", f"--config.num_steps={NUM_STEPS}",
        "--config.diffusion.label_drop=0.1", "--config.eval.classifier_steps=500",
        "--config.sample.sampler=ddim", f"--config.sample.num_steps={SAMPLER_STEPS}",
    ),
    runs=RUNS,
    rows=ROWS,
    measures=("brightness_distance", "frechet_distance", "class_agreement", "recall"),
    measure=measure,
    verdict=verdict,
    figure=figure,
    folder="zero_snr",
)  # fmt: skip

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

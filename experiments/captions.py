"""What words do to pictures: StackGAN's first stage with three ways to grow, and a DDPM of the same texts.

    python -m experiments.captions    # three seeds of four runs, one of the fifth; 1,000 samples a row

All are trained on captioned shapes of 64x64, and all but one with the same encoder of captions: "as published" has the
encoder, losses and rates of the StackGAN paper. Samples are of captions of test pictures, no thing of which, as shape,
colour, size and place together, occurs in training; what they show is read back without a network (docs/text.md). The
Frechet distance uses a classifier of rotations, since the pictures have no classes. How many of the statements are true
by chance, the page of each run says. Runs are in runs/captions; what is finished is not repeated.
"""

from __future__ import annotations

from typing import Any

from experiments import ablation
from experiments.ablation import QUALITY, Found, Row, Values, means
from gen_jax import command, judges
from gen_jax.data import dataset

GAN_STEPS, DDPM_STEPS = 3_000, 3_000
GROWING = {"nearest": "nearest", "PixelShuffle": "shuffle", "transposed": "transposed"}
GAN_RUNS = {
    name: (f"--config.network.upsampling={value}", f"--config.num_steps={GAN_STEPS}") for name, value in GROWING.items()
}
ATTRIBUTES = ("colour", "shape", "size", "place", "relation", "number")


def measure(samples: judges.Samples, data: dataset.Dataset, config: Any) -> tuple[Values, Values]:
    """Returns which share of the captions is true of the samples, by attribute, and what the classifier says; and both
    of real images.
    """
    rows = judges.judge_by_captions(data, samples) + judges.judge_by_classifier(config, data, samples).rows
    return ablation.plain(rows, len(samples.images))


def verdict(found: Found) -> str:
    """Returns one line: colours and shapes that are right, by row.

    Example:
      >>> verdict({("DDPM", 0): {"colour_agreement": 0.95, "shape_agreement": 0.9}})
      'Colour and shape as the caption says: DDPM 95.0% and 90.0%.'
    """
    colour, shape = means(found, "colour_agreement"), means(found, "shape_agreement")
    told = "; ".join(f"{name} {colour[name]:.1%} and {shape[name]:.1%}" for name in colour)
    return f"Colour and shape as the caption says: {told}."


ABLATION = ablation.Ablation(
    name="captions",
    about=(__doc__ or "").split("\n")[0],
    words=("--config.eval_every=1000", "--config.checkpoint_every=500"),
    config="stackgan_shapes.py",
    configs={"ddpm": "ddpm_shapes.py", "published": "stackgan_shapes.py:published"},
    runs=GAN_RUNS | {"ddpm": (f"--config.num_steps={DDPM_STEPS}",), "published": (f"--config.num_steps={GAN_STEPS}",)},
    rows={f"StackGAN, {name}": Row(name) for name in GROWING}
    | {"DDPM": Row("ddpm"), "StackGAN, as published": Row("published", seeds=1)},
    measures=(*(f"{name}_agreement" for name in ATTRIBUTES), "frechet_distance", "images_per_second"),
    measure=measure,
    verdict=verdict,
    figure=ablation.panels(
        ("colour_agreement", "Colour", "as said, right is better"),
        ("shape_agreement", "Shape", "as said, right is better"),
        ("place_agreement", "Place", "as said, right is better"),
        QUALITY,
    ),
    folder="captions",
    num=1_000,
)

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

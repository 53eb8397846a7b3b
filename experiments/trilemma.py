"""Quality, speed and diversity of a VAE, a GAN, a flow and diffusion models on the same digits.

    python -m experiments.trilemma    # hours on two cores, mostly the 1,000 steps of ancestral sampling

Generative models are said to have only two of the three (Xiao et al. 2022). Each family is trained with a config of
this project, with a number of steps chosen to take about five minutes on two fast cores, or nine with one core to
itself (`--parallel 2`); the table has the actual time. Speed is that of the compiled sampler on the available device.
Runs are in runs/trilemma; what is finished is not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from experiments import ablation
from experiments.ablation import Found, Row, Values, means
from gen_jax import command
from gen_jax.figures import svg
from gen_jax.figures.markup import number

QUALITY, SPEED, DIVERSITY = "frechet_distance", "images_per_second", "recall"
CONFIGS = {
    "vae": "vae_mnist_dense.py",
    "gan": "cgan_mnist.py",
    "flow": "coupling_mnist.py",
    "ddgan": "ddgan_mnist.py",
    "latent": "latent_mnist.py",
    "ddpm": "ddpm_mnist.py",
    "meanflow": "meanflow_mnist.py",
    "consistency": "consistency_mnist.py",
    "distilled": "distilled_mnist.py",
}
NUM_STEPS = {
    "vae": 30_000, "gan": 4_000, "flow": 3_000, "ddgan": 1_500, "latent": 2_000, "ddpm": 3_000,
    "meanflow": 2_250, "consistency": 2_250, "distilled": 900,
}  # fmt: skip
TEACHER = ("--config.pretrained.num_steps=1500", "--config.eval_every=300")
COUNTS = {1: "1 step", 2: "2 steps", 4: "4 steps"}
DDIM = ("--config.sample.sampler=ddim", "--config.sample.sampler.eta=0")


def verdict(found: Found) -> str:
    """Returns one line: the best way to sample in each of the three categories, by means over the seeds.

    Example:
      >>> one = {"frechet_distance": 2.0, "images_per_second": 10.0, "recall": 0.8}
      >>> verdict({("GAN", 0): one, ("VAE", 0): one | {"recall": 0.9}})
      'Quality: GAN (Frechet distance 2). Speed: GAN (10 images/s). Diversity: VAE (recall 0.9). No row leads in all.'
    """
    quality, speed, diversity = (means(found, measure) for measure in (QUALITY, SPEED, DIVERSITY))
    best, fast, wide = min(quality, key=quality.__getitem__), *(max(m, key=m.__getitem__) for m in (speed, diversity))
    told = (
        f"Quality: {best} (Frechet distance {number(quality[best], 3)}). "
        f"Speed: {fast} ({number(speed[fast], 3)} images/s). "
        f"Diversity: {wide} (recall {number(diversity[wide], 3)})."
    )
    return told + (" One row leads in all three." if best == fast == wide else " No row leads in all.")


def figure(found: Found, real: Values, shown: Mapping[str, np.ndarray]) -> str:
    """Returns samples and the three metrics side by side, one dot per seed, as SVG; dashed lines mark real data."""
    panels = [
        ablation.panel(found, real, QUALITY, "Quality", "Frechet distance, left is better", log=True),
        ablation.panel(found, real, SPEED, "Speed", "images/s, right is better", log=True),
        ablation.panel(found, real, DIVERSITY, "Diversity", "recall, right is better"),
    ]
    return svg.beside(panels, shown, "the first, of seed 0", "real test images")


ABLATION = ablation.Ablation(
    name="trilemma",
    about=(__doc__ or "").split("\n")[0],
    words=(),
    configs=CONFIGS,
    runs={
        name: (f"--config.num_steps={steps}", *(TEACHER if name == "distilled" else ()))
        for name, steps in NUM_STEPS.items()
    },
    rows={
        "VAE": Row("vae"),
        "GAN": Row("gan"),
        "Flow": Row("flow"),
        "Denoising diffusion GAN, 4 steps": Row("ddgan", seeds=2),
        "Latent diffusion, 25 steps": Row("latent", seeds=2),
        **{f"MeanFlow, {told}": Row("meanflow", (f"--config.sample.num_steps={n}",), 2) for n, told in COUNTS.items()},
        **{f"Consistency, {COUNTS[n]}": Row("consistency", (f"--config.sample.num_steps={n}",), 2) for n in (1, 2)},
        "Distilled, 4 steps": Row("distilled", seeds=2),
        "DDPM, ancestral, 1,000 steps": Row(
            "ddpm", ("--config.sample.sampler=ancestral", "--config.sample.num_steps=1000"), seeds=1
        ),  # twenty minutes of sampling
        "DDPM, DDIM, 50 steps": Row("ddpm", (*DDIM, "--config.sample.num_steps=50")),
        "DDPM, DDIM, 10 steps": Row("ddpm", (*DDIM, "--config.sample.num_steps=10")),
    },
    measures=(QUALITY, "precision", SPEED, DIVERSITY, "coverage"),
    verdict=verdict,
    figure=figure,
    folder="trilemma",
)

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

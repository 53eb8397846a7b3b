"""Photographs of 64x64: diffusion of pixels, and of an autoencoder's latents.

    python -m experiments.photographs --config.data.name=image_folder:<folder of pictures>

Pixels in patches of 4 and the latents have 16x16 places and the same U-Net; in patches of 2 pixels have 32x32 places,
four times as many. A patch of 4 has 48 values and the U-Net 32 channels, too few to tell the noise in it, which v
prediction asks for; the picture in it has less to tell, so one row predicts that. The lengths were chosen so that all
rows take equally long, the autoencoder's minutes included, about 30 with one core to itself (`--parallel 2`); the table
has the actual minutes. Samples are judged by a classifier that tells rotations apart, because the folder has no labels.
Runs are in runs/photographs; what is finished is not repeated.
"""

from __future__ import annotations

from experiments import ablation, latents
from experiments.ablation import DIVERSITY, QUALITY, Row
from gen_jax import command

ABLATION = ablation.Ablation(
    name="photographs",
    about=(__doc__ or "").split("\n")[0],
    words=(),
    config="ddpm_cats.py",
    configs={"latents": "latent_cats.py"},
    runs={
        "coarse": ("--config.num_steps=7200", "--config.network.patch=4"),
        "coarse_x": ("--config.num_steps=7200", "--config.network.patch=4", "--config.diffusion.prediction=x"),
        "fine": ("--config.num_steps=2000",),
        "latents": (
            "--config.num_steps=4000", "--config.pretrained.num_steps=2000",
            "--config.pretrained.autoencoder.adversarial.start=1000",
        ),
    },
    rows={
        "pixels, patches of 4": Row("coarse"),
        "pixels, patches of 4, predicting x": Row("coarse_x"),
        "pixels, patches of 2": Row("fine"),
        "latents of 16x16x4": Row("latents"),
    },
    measures=("frechet_distance", "precision", "recall", "coverage", "psnr", "images_per_second"),
    of_run=latents.of_run,
    verdict=latents.verdict,
    figure=ablation.panels(QUALITY, ("images_per_second", "Speed", "images/s, right is better"), DIVERSITY),
    folder="photographs",
    seeds=1,
    num=1_000,
)  # fmt: skip

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")

"""DCGAN on cat faces with and without the last convolution of both networks, at equal minutes of training.

    python -m experiments.removed_convolution --config.data.name=image_folder:<folder of pictures>

Three seeds of two runs, a quarter of an hour each on one core. At full width the networks have 3,806,080 (generator)
and 2,765,696 parameters, without the last convolution 3,696,384 and 675,712; here every width is a quarter of that, so
that the runs are long enough to tell them apart. Without it a step is cheaper, so that run takes more steps. Runs are
in runs/removed_convolution; what is finished is not repeated.
"""

from __future__ import annotations

from experiments import ablation
from experiments.ablation import DIVERSITY, QUALITY
from gen_jax import command

SHRINK = 4  # of every width
WIDTHS = (512, 256, 128, 64)  # of the generator, from 4x4 up; the discriminator has them in reverse
NUM_STEPS = {"with": 4_200, "without": 5_700}  # of 187 and 138 ms on one core: equal minutes


def widths(kept: int, shrink: int = SHRINK) -> tuple[str, str]:
    """Returns the words for the first `kept` widths of the generator, and as many of the discriminator.

    Example:
      >>> widths(3, shrink=1)
      ('--config.network.generator_channels=(512,256,128)', '--config.network.channels=(64,128,256)')
    """
    generator = [width // shrink for width in WIDTHS[:kept]]
    discriminator = [width // shrink for width in WIDTHS[::-1][:kept]]
    told = [",".join(map(str, each)) for each in (generator, discriminator)]
    return f"--config.network.generator_channels=({told[0]})", f"--config.network.channels=({told[1]})"


ABLATION = ablation.Ablation(
    name="removed_convolution",
    about=(__doc__ or "").split("\n")[0],
    words=(),
    config="dcgan_cats.py",
    configs={"without": "dcgan_cats.py:ablation"},
    runs={
        name: (*widths(kept), f"--config.num_steps={NUM_STEPS[name]}")
        for name, kept in {"with": len(WIDTHS), "without": len(WIDTHS) - 1}.items()
    },
    rows=ablation.last_and_best({"with": "with", "without": "without"}),
    measures=("frechet_distance", "precision", "recall", "density", "coverage"),
    figure=ablation.panels(QUALITY, ("precision", "Fidelity", "precision, right is better"), DIVERSITY),
    folder="removed_convolution",
)

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")
